//! A server for tests: profiles in a map, and faults on request.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming};

use super::connect::ServerArgs;
use super::failure::tests::status;
use super::values::type_of;
use crate::proto::attribute_change::Change;
use crate::proto::attribute_service_server::{AttributeService, AttributeServiceServer};
use crate::proto::*;

/// What the server keeps, and how it is to fail.
#[derive(Default)]
pub(crate) struct State {
    pub profiles: BTreeMap<(String, String), Profile>,
    pub types: BTreeMap<String, ValueType>,
    pub request_ids: Vec<String>,
    /// Unary writes that fail, after they are kept.
    pub fail_writes: u32,
    /// Streams that break after so many responses, one a stream.
    pub break_after: Vec<usize>,
    /// Users whose records are not kept the next so many times.
    pub busy: BTreeMap<String, u32>,
    /// Records received, again and again included.
    pub received: Vec<ImportRecord>,
}

#[derive(Clone, Default)]
pub(crate) struct TestServer(pub Arc<Mutex<State>>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn error(user: &str, code: Code, reason: &str, field: &str) -> WriteError {
    let metadata = [("kept".to_owned(), "no".to_owned()), ("retry_after_ms".to_owned(), "1".to_owned())];
    let message = format!("not {user}");
    WriteError {
        code: code as i32,
        message,
        reason: reason.into(),
        metadata: metadata.into(),
        field: field.into(),
    }
}

impl TestServer {
    /// Serves on a free port.
    pub async fn start(self) -> ServerArgs {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = format!("http://{}", listener.local_addr().unwrap());
        let serve = tonic::transport::Server::builder()
            .add_service(AttributeServiceServer::new(self))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serve);
        ServerArgs { addr, timeout: Duration::from_secs(10) }
    }

    fn import(&self, site: &str, record: ImportRecord) -> Result<(), WriteError> {
        let mut state = self.0.lock().unwrap();
        state.received.push(record.clone());
        let user = record.user.clone();
        if let Some(times) = state.busy.get_mut(&user).filter(|times| **times > 0) {
            *times -= 1;
            return Err(error(&user, Code::ResourceExhausted, "OVERLOADED", ""));
        }
        for (name, value) in &record.attributes {
            let kind = type_of(value.kind.as_ref().unwrap());
            if *state.types.entry(name.clone()).or_insert(kind) != kind {
                let field = format!("attributes[\"{name}\"]");
                return Err(error(&user, Code::InvalidArgument, "TYPE_MISMATCH", &field));
            }
        }
        let empty = || Profile { site: site.to_owned(), user: user.clone(), ..Profile::default() };
        let profile = state.profiles.entry((site.to_owned(), user.clone())).or_insert_with(empty);
        let occurred_at = record.occurred_at.unwrap();
        let mut changed = false;
        for (name, value) in record.attributes {
            let time = record.attribute_occurred_at.get(&name).copied().unwrap_or(occurred_at);
            let order = |t: &prost_types::Timestamp| (t.seconds, t.nanos);
            if profile.occurred_at.get(&name).is_some_and(|known| order(known) > order(&time)) {
                continue;
            }
            changed |= profile.attributes.insert(name.clone(), value.clone()) != Some(value);
            profile.occurred_at.insert(name, time);
        }
        profile.version += u64::from(changed);
        Ok(())
    }
}

#[tonic::async_trait]
impl AttributeService for TestServer {
    type IdentifyStreamStream = Answers<IdentifyStreamResponse>;
    type ExportProfilesStream = Answers<ExportProfilesResponse>;
    type ImportProfilesStream = Answers<ImportProfilesResponse>;

    async fn identify(
        &self,
        request: Request<IdentifyRequest>,
    ) -> Result<Response<IdentifyResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.0.lock().unwrap();
        let seen = state.request_ids.contains(&request.request_id);
        state.request_ids.push(request.request_id.clone());
        let key = (request.site.clone(), request.user.clone());
        let profile = state.profiles.entry(key).or_default();
        if !seen {
            profile.site = request.site;
            profile.user = request.user;
            profile.version += 1;
            for change in request.changes {
                if let Some(Change::Set(value)) = change.change {
                    profile.attributes.insert(change.name, value);
                }
            }
        }
        let outcome = if seen { Outcome::Duplicate } else { Outcome::Applied } as i32;
        let receipt = Receipt { outcome, version: Some(profile.version), ..Receipt::default() };
        if state.fail_writes > 0 {
            state.fail_writes -= 1;
            return Err(Status::unavailable("connection closed"));
        }
        Ok(Response::new(IdentifyResponse { receipt: Some(receipt) }))
    }

    async fn get_profile(
        &self,
        request: Request<GetProfileRequest>,
    ) -> Result<Response<GetProfileResponse>, Status> {
        let request = request.into_inner();
        let state = self.0.lock().unwrap();
        match state.profiles.get(&(request.site, request.user)) {
            Some(profile) => Ok(Response::new(GetProfileResponse { profile: Some(profile.clone()) })),
            None => Err(status(Code::NotFound, "PROFILE_NOT_FOUND", "no", None)),
        }
    }

    async fn delete_profile(
        &self,
        request: Request<DeleteProfileRequest>,
    ) -> Result<Response<DeleteProfileResponse>, Status> {
        let request = request.into_inner();
        let gone = self.0.lock().unwrap().profiles.remove(&(request.site, request.user));
        let outcome = if gone.is_some() { Outcome::Applied } else { Outcome::Unchanged } as i32;
        let version = gone.map(|profile| profile.version + 1);
        let receipt = Some(Receipt { outcome, version, ..Receipt::default() });
        Ok(Response::new(DeleteProfileResponse { receipt }))
    }

    async fn list_attributes(
        &self,
        _: Request<ListAttributesRequest>,
    ) -> Result<Response<ListAttributesResponse>, Status> {
        let state = self.0.lock().unwrap();
        let attribute = |(name, kind): (&String, &ValueType)| Attribute {
            name: name.clone(),
            r#type: *kind as i32,
            ..Attribute::default()
        };
        Ok(Response::new(ListAttributesResponse { attributes: state.types.iter().map(attribute).collect() }))
    }

    async fn export_profiles(
        &self,
        request: Request<ExportProfilesRequest>,
    ) -> Result<Response<Self::ExportProfilesStream>, Status> {
        let ExportProfilesRequest { site, resume_token } = request.into_inner();
        let mut state = self.0.lock().unwrap();
        let left = if state.break_after.is_empty() { usize::MAX } else { state.break_after.remove(0) };
        let after = state.profiles.values().filter(|p| p.site == site && p.user > resume_token);
        let mut answers: Vec<_> = after
            .map(|p| Ok(ExportProfilesResponse { profiles: vec![p.clone()], resume_token: p.user.clone() }))
            .collect();
        if left < answers.len() {
            answers.truncate(left);
            answers.push(Err(Status::unavailable("connection closed")));
        }
        Ok(Response::new(tokio_stream::iter(answers).boxed()))
    }

    async fn import_profiles(
        &self,
        request: Request<Streaming<ImportProfilesRequest>>,
    ) -> Result<Response<Self::ImportProfilesStream>, Status> {
        let mut requests = request.into_inner();
        let server = self.clone();
        let mut left = {
            let mut state = self.0.lock().unwrap();
            if state.break_after.is_empty() { usize::MAX } else { state.break_after.remove(0) }
        };
        let (send, receive) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            while let Ok(Some(batch)) = requests.message().await {
                let mut response =
                    ImportProfilesResponse { resume_token: batch.resume_token, ..Default::default() };
                for record in batch.records {
                    let (number, user) = (record.number, record.user.clone());
                    match server.import(&batch.site, record) {
                        Ok(()) => response.kept += 1,
                        Err(error) => response.errors.push(ImportError { number, user, error: Some(error) }),
                    }
                }
                // What is kept and not acknowledged is what a broken stream leaves.
                let answer =
                    if left == 0 { Err(Status::unavailable("connection closed")) } else { Ok(response) };
                left = left.saturating_sub(1);
                let broken = answer.is_err();
                if send.send(answer).await.is_err() || broken {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receive).boxed()))
    }

    async fn identify_many(
        &self,
        _: Request<IdentifyManyRequest>,
    ) -> Result<Response<IdentifyManyResponse>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn identify_stream(
        &self,
        _: Request<Streaming<IdentifyStreamRequest>>,
    ) -> Result<Response<Self::IdentifyStreamStream>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn batch_get_profiles(
        &self,
        _: Request<BatchGetProfilesRequest>,
    ) -> Result<Response<BatchGetProfilesResponse>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn get_write(&self, _: Request<GetWriteRequest>) -> Result<Response<GetWriteResponse>, Status> {
        Ok(Response::new(GetWriteResponse { state: WriteState::Pending as i32, ..Default::default() }))
    }
    async fn query_profiles(
        &self,
        _: Request<QueryProfilesRequest>,
    ) -> Result<Response<QueryProfilesResponse>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn count_profiles(
        &self,
        _: Request<CountProfilesRequest>,
    ) -> Result<Response<CountProfilesResponse>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn explain_query(
        &self,
        _: Request<ExplainQueryRequest>,
    ) -> Result<Response<ExplainQueryResponse>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn match_profile(
        &self,
        _: Request<MatchProfileRequest>,
    ) -> Result<Response<MatchProfileResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}
