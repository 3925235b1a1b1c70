//! The data service: each method decodes, asks the stacks, encodes.

use std::sync::Arc;

use tonic::{Request, Response, Status, Streaming};
use tower::Service;

use super::call::Call;
use super::decode::{Answering, Decoder, position};
use super::duplex::Answers;
use super::status::{Failure, Paths};
use super::{encode, transfer, write};
use crate::command::{Kept, Lookup, ProfileView, ReadError, ReadRequest, Receipt, WriteError, WriteRequest};
use crate::model::ProfileKey;
use crate::proto::{self, attribute_service_server::AttributeService};

/// The stack that takes writes. Its `call` registers the write, in order; the future only waits. It is always
/// ready: it refuses in `call`.
pub trait Writes:
    Service<WriteRequest, Response = Receipt, Error = WriteError, Future: Send + 'static>
    + Clone
    + Send
    + Sync
    + 'static
{
}
impl<W> Writes for W where
    W: Service<WriteRequest, Response = Receipt, Error = WriteError, Future: Send + 'static>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// The stack that reads profiles: one view a key, in order.
pub trait Reads:
    Service<ReadRequest, Response = Vec<ProfileView>, Error = ReadError, Future: Send + 'static>
    + Clone
    + Send
    + Sync
    + 'static
{
}
impl<R> Reads for R where
    R: Service<ReadRequest, Response = Vec<ProfileView>, Error = ReadError, Future: Send + 'static>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// `steadfast.v1.AttributeService` over a stack of writes and one of reads.
#[derive(Clone)]
pub struct Attributes<W, R> {
    pub(super) writes: W,
    pub(super) reads: R,
    pub(super) lookup: Arc<dyn Lookup>,
    pub(super) decoder: Decoder,
}

impl<W, R> std::fmt::Debug for Attributes<W, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attributes").field("decoder", &self.decoder).finish_non_exhaustive()
    }
}

impl<W: Writes, R: Reads> Attributes<W, R> {
    /// The service.
    pub fn new(writes: W, reads: R, lookup: Arc<dyn Lookup>, decoder: Decoder) -> Self {
        Self { writes, reads, lookup, decoder }
    }

    /// Reads profiles; as many views as keys.
    pub(super) async fn read(&self, keys: Vec<ProfileKey>, call: &Call) -> Result<Vec<ProfileView>, Failure> {
        let mut reads = self.reads.clone();
        std::future::poll_fn(|cx| reads.poll_ready(cx)).await?;
        Ok(reads.call(ReadRequest { keys, deadline: call.deadline }).await?)
    }

    async fn get(
        &self,
        request: proto::GetProfileRequest,
        call: &Call,
    ) -> Result<proto::GetProfileResponse, Failure> {
        let site = self.decoder.site(request.site)?;
        let user = self.decoder.user(request.user)?;
        let views = self.read(vec![ProfileKey::new(site.clone(), user.clone())], call).await?;
        let profile = views
            .first()
            .and_then(|view| encode::profile(&site, &user, view, request.include_occurred_at))
            .ok_or_else(Failure::profile_not_found)?;
        Ok(proto::GetProfileResponse { profile: Some(profile) })
    }

    async fn identify_one(
        &self,
        request: proto::IdentifyRequest,
        call: &Call,
    ) -> Result<proto::Receipt, Failure> {
        let answering = Answering { deadline: call.deadline, may_load: true };
        let (request, paths) =
            self.decoder.identify(request, answering).map_err(|failure| failure.kept(Kept::No))?;
        let mut writes = self.writes.clone();
        let receipt = write::hand_over(&mut writes, request).await;
        receipt.map(encode::receipt).map_err(|error| Failure::of_write(&error, &paths))
    }

    async fn delete_one(
        &self,
        request: proto::DeleteProfileRequest,
        call: &Call,
    ) -> Result<proto::Receipt, Failure> {
        let answering = Answering { deadline: call.deadline, may_load: true };
        let request = self.decoder.delete(request, answering).map_err(|failure| failure.kept(Kept::No))?;
        let mut writes = self.writes.clone();
        let receipt = write::hand_over(&mut writes, request).await;
        receipt.map(encode::receipt).map_err(|error| Failure::of_write(&error, &Paths::default()))
    }
}

/// The request's message and its call, which is ours from here on.
pub(super) fn take<T>(request: Request<T>) -> (T, Arc<Call>) {
    let call = Call::of(&request);
    call.receive();
    (request.into_inner(), call)
}

#[tonic::async_trait]
impl<W: Writes, R: Reads> AttributeService for Attributes<W, R> {
    type IdentifyStreamStream = Answers<proto::IdentifyStreamResponse>;
    type ExportProfilesStream = Answers<proto::ExportProfilesResponse>;
    type ImportProfilesStream = Answers<proto::ImportProfilesResponse>;

    async fn identify(
        &self,
        request: Request<proto::IdentifyRequest>,
    ) -> Result<Response<proto::IdentifyResponse>, Status> {
        let (request, call) = take(request);
        let receipt = Some(self.identify_one(request, &call).await?);
        Ok(Response::new(proto::IdentifyResponse { receipt }))
    }

    async fn identify_many(
        &self,
        request: Request<proto::IdentifyManyRequest>,
    ) -> Result<Response<proto::IdentifyManyResponse>, Status> {
        let (request, call) = take(request);
        Ok(Response::new(write::many(&self.writes, &self.decoder, request, &call).await?))
    }

    async fn identify_stream(
        &self,
        request: Request<Streaming<proto::IdentifyStreamRequest>>,
    ) -> Result<Response<Self::IdentifyStreamStream>, Status> {
        let (requests, call) = take(request);
        Ok(Response::new(write::stream(self.writes.clone(), self.decoder.clone(), requests, &call)))
    }

    async fn get_profile(
        &self,
        request: Request<proto::GetProfileRequest>,
    ) -> Result<Response<proto::GetProfileResponse>, Status> {
        let (request, call) = take(request);
        Ok(Response::new(self.get(request, &call).await?))
    }

    async fn batch_get_profiles(
        &self,
        request: Request<proto::BatchGetProfilesRequest>,
    ) -> Result<Response<proto::BatchGetProfilesResponse>, Status> {
        let (request, call) = take(request);
        Ok(Response::new(self.batch_get(request, &call).await?))
    }

    async fn delete_profile(
        &self,
        request: Request<proto::DeleteProfileRequest>,
    ) -> Result<Response<proto::DeleteProfileResponse>, Status> {
        let (request, call) = take(request);
        let receipt = Some(self.delete_one(request, &call).await?);
        Ok(Response::new(proto::DeleteProfileResponse { receipt }))
    }

    async fn get_write(
        &self,
        request: Request<proto::GetWriteRequest>,
    ) -> Result<Response<proto::GetWriteResponse>, Status> {
        let (request, call) = take(request);
        let site = self.decoder.site(request.site)?;
        let position = position(request.position)?;
        let state = self.lookup.write_state(site, position, call.deadline).await.map_err(Failure::from)?;
        Ok(Response::new(encode::write_state(&state)?))
    }

    async fn query_profiles(
        &self,
        _: Request<proto::QueryProfilesRequest>,
    ) -> Result<Response<proto::QueryProfilesResponse>, Status> {
        Err(Failure::not_supported("QueryProfiles").into())
    }

    async fn count_profiles(
        &self,
        _: Request<proto::CountProfilesRequest>,
    ) -> Result<Response<proto::CountProfilesResponse>, Status> {
        Err(Failure::not_supported("CountProfiles").into())
    }

    async fn explain_query(
        &self,
        _: Request<proto::ExplainQueryRequest>,
    ) -> Result<Response<proto::ExplainQueryResponse>, Status> {
        Err(Failure::not_supported("ExplainQuery").into())
    }

    async fn match_profile(
        &self,
        _: Request<proto::MatchProfileRequest>,
    ) -> Result<Response<proto::MatchProfileResponse>, Status> {
        Err(Failure::not_supported("MatchProfile").into())
    }

    async fn list_attributes(
        &self,
        request: Request<proto::ListAttributesRequest>,
    ) -> Result<Response<proto::ListAttributesResponse>, Status> {
        let (request, call) = take(request);
        let site = self.decoder.site(request.site)?;
        let infos = self.lookup.attributes(site, call.deadline).await.map_err(Failure::from)?;
        let attributes = infos.iter().map(encode::attribute).collect();
        Ok(Response::new(proto::ListAttributesResponse { attributes }))
    }

    async fn export_profiles(
        &self,
        request: Request<proto::ExportProfilesRequest>,
    ) -> Result<Response<Self::ExportProfilesStream>, Status> {
        let (request, call) = take(request);
        let site = self.decoder.site(request.site)?;
        let answers = transfer::export(Arc::clone(&self.lookup), site, &request.resume_token, &call)?;
        Ok(Response::new(answers))
    }

    async fn import_profiles(
        &self,
        request: Request<Streaming<proto::ImportProfilesRequest>>,
    ) -> Result<Response<Self::ImportProfilesStream>, Status> {
        let (requests, call) = take(request);
        Ok(Response::new(transfer::import(self.writes.clone(), self.decoder.clone(), requests, &call)))
    }
}
