//! The attribute service of the yardsticks: what the comparison needs, and no more.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use prost::Message as _;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::log::{Log, NotLogged};
use crate::bench::{MAX_UNANSWERED_PER_STREAM, Population};
use crate::proto::attribute_service_server::AttributeService;
use crate::proto::*;

/// Answers reads with a constant profile and writes with a constant receipt, after logging them if it has a log.
#[derive(Clone, Debug)]
pub struct Yardstick {
    profile: Arc<Profile>,
    receipt: Receipt,
    log: Option<Log>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Yardstick {
    /// With a profile of `population`.
    pub fn new(population: &Population, log: Option<Log>) -> Self {
        let profile = Profile {
            site: population.site(0),
            user: Population::user(0),
            attributes: population.attributes(0),
            version: 7,
            created_at: Some(prost_types::Timestamp { seconds: 1_586_500_000, nanos: 123_456_789 }),
            updated_at: Some(prost_types::Timestamp { seconds: 1_586_600_000, nanos: 123_456_789 }),
            ..Profile::default()
        };
        // What the real server says to a repeat, and to a write that is only journaled.
        let receipt = match log {
            None => Receipt { outcome: Outcome::Unchanged.into(), version: Some(7), ..Receipt::default() },
            Some(_) => Receipt {
                outcome: Outcome::Deferred.into(),
                position: Some(Position { node: "0123456789abcdef".to_owned(), number: 1_234_567 }),
                ..Receipt::default()
            },
        };
        Self { profile: Arc::new(profile), receipt, log }
    }

    async fn log(&self, entry: impl FnOnce() -> Vec<u8>) -> Result<(), Status> {
        let Some(log) = &self.log else { return Ok(()) };
        log.append(entry()).await.map_err(|error| match error {
            NotLogged::Full => Status::resource_exhausted("too many entries wait for the log"),
            NotLogged::Failed => Status::internal("the log failed"),
        })
    }

    fn result(&self) -> WriteResult {
        WriteResult { result: Some(write_result::Result::Receipt(self.receipt.clone())) }
    }

    async fn stream_item(
        self,
        request: Result<IdentifyStreamRequest, Status>,
    ) -> Result<IdentifyStreamResponse, Status> {
        let IdentifyStreamRequest { sequence, request } = request?;
        self.log(|| request.unwrap_or_default().encode_to_vec()).await?;
        Ok(IdentifyStreamResponse { sequence, result: Some(self.result()) })
    }
}

fn no<T>() -> Result<T, Status> {
    Err(Status::unimplemented("a yardstick has only what is compared"))
}

#[async_trait]
impl AttributeService for Yardstick {
    async fn identify(
        &self,
        request: Request<IdentifyRequest>,
    ) -> Result<Response<IdentifyResponse>, Status> {
        self.log(|| request.into_inner().encode_to_vec()).await?;
        Ok(Response::new(IdentifyResponse { receipt: Some(self.receipt.clone()) }))
    }

    async fn identify_many(
        &self,
        request: Request<IdentifyManyRequest>,
    ) -> Result<Response<IdentifyManyResponse>, Status> {
        let request = request.into_inner();
        let items = request.requests.len();
        self.log(|| request.encode_to_vec()).await?;
        let results = std::iter::repeat_with(|| self.result()).take(items).collect();
        Ok(Response::new(IdentifyManyResponse { results, failed: 0 }))
    }

    type IdentifyStreamStream = Answers<IdentifyStreamResponse>;

    async fn identify_stream(
        &self,
        request: Request<Streaming<IdentifyStreamRequest>>,
    ) -> Result<Response<Self::IdentifyStreamStream>, Status> {
        let requests = request.into_inner();
        let this = self.clone();
        if self.log.is_some() {
            let answers = requests.map(move |request| this.clone().stream_item(request));
            return Ok(Response::new(Box::pin(answers.buffered(MAX_UNANSWERED_PER_STREAM))));
        }
        let answers = requests.map(move |request| {
            Ok(IdentifyStreamResponse { sequence: request?.sequence, result: Some(this.result()) })
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn get_profile(
        &self,
        _: Request<GetProfileRequest>,
    ) -> Result<Response<GetProfileResponse>, Status> {
        Ok(Response::new(GetProfileResponse { profile: Some(Profile::clone(&self.profile)) }))
    }

    async fn batch_get_profiles(
        &self,
        _: Request<BatchGetProfilesRequest>,
    ) -> Result<Response<BatchGetProfilesResponse>, Status> {
        no()
    }

    async fn delete_profile(
        &self,
        _: Request<DeleteProfileRequest>,
    ) -> Result<Response<DeleteProfileResponse>, Status> {
        no()
    }

    async fn get_write(&self, _: Request<GetWriteRequest>) -> Result<Response<GetWriteResponse>, Status> {
        no()
    }

    async fn query_profiles(
        &self,
        _: Request<QueryProfilesRequest>,
    ) -> Result<Response<QueryProfilesResponse>, Status> {
        no()
    }

    async fn count_profiles(
        &self,
        _: Request<CountProfilesRequest>,
    ) -> Result<Response<CountProfilesResponse>, Status> {
        no()
    }

    async fn explain_query(
        &self,
        _: Request<ExplainQueryRequest>,
    ) -> Result<Response<ExplainQueryResponse>, Status> {
        no()
    }

    async fn match_profile(
        &self,
        _: Request<MatchProfileRequest>,
    ) -> Result<Response<MatchProfileResponse>, Status> {
        no()
    }

    async fn list_attributes(
        &self,
        _: Request<ListAttributesRequest>,
    ) -> Result<Response<ListAttributesResponse>, Status> {
        no()
    }

    type ExportProfilesStream = Answers<ExportProfilesResponse>;

    async fn export_profiles(
        &self,
        _: Request<ExportProfilesRequest>,
    ) -> Result<Response<Self::ExportProfilesStream>, Status> {
        no()
    }

    type ImportProfilesStream = Answers<ImportProfilesResponse>;

    async fn import_profiles(
        &self,
        _: Request<Streaming<ImportProfilesRequest>>,
    ) -> Result<Response<Self::ImportProfilesStream>, Status> {
        no()
    }
}
