//! `steadfast.v1.OperatorService`: each method decodes, asks a handle, encodes. The handles answer from memory,
//! so that operators are answered whatever the store does. One file a group of methods.

mod attributes;
mod breakers;
mod failures;
mod faults;
pub mod fields;
mod holds;
mod incidents;
mod process;
mod quota;
mod refused;
mod status;
mod tasks;

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::decode::Decoder;
use super::service::take;
use super::status::Failure;
use crate::command::breakers::Breakers;
use crate::command::faults::FaultDesk;
use crate::command::operate::{
    AttributeStates, HandOvers, HoldDesk, Quotas, RebuildTasks, RefusedDesk, SnapshotTasks, StatusSource,
};
use crate::incident::Incidents;
use crate::proto::{self, operator_service_server};

/// What the service works on: one handle for each group. Without a handle its methods are UNIMPLEMENTED.
#[derive(Clone, Default)]
pub struct Handles {
    /// `GetStatus`, `WatchStatus`.
    pub status: Option<Arc<dyn StatusSource>>,
    /// `HandOver`.
    pub hand_over: Option<Arc<dyn HandOvers>>,
    /// `SetQuota`.
    pub quotas: Option<Arc<dyn Quotas>>,
    /// `TakeSnapshot`.
    pub snapshots: Option<Arc<dyn SnapshotTasks>>,
    /// `RebuildStore`.
    pub rebuilds: Option<Arc<dyn RebuildTasks>>,
    /// `SetAttributeState`.
    pub attributes: Option<Arc<dyn AttributeStates>>,
    /// `OverrideBreaker`, `SetReplayPace`.
    pub breakers: Option<Arc<dyn Breakers>>,
    /// `InjectFault`, `ClearFaults`.
    pub faults: Option<Arc<dyn FaultDesk>>,
    /// `PlaceHold`, `ExtendHold`, `ReleaseHold`, `ListHolds`, `ListHoldEvents`, and the holds of a status.
    pub holds: Option<Arc<dyn HoldDesk>>,
    /// `ListRefused`, `ResolveRefused`.
    pub refused: Option<Arc<dyn RefusedDesk>>,
    /// `ListIncidents`, `GetIncident`.
    pub incidents: Option<Incidents>,
}

/// `steadfast.v1.OperatorService`.
#[derive(Clone)]
pub struct Operators {
    handles: Handles,
    /// Checks names.
    decoder: Decoder,
}

impl std::fmt::Debug for Operators {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operators").finish_non_exhaustive()
    }
}

impl Operators {
    /// The service.
    pub fn new(handles: Handles, decoder: Decoder) -> Self {
        Self { handles, decoder }
    }
}

type Answer<T> = Result<Response<T>, Status>;

/// A handle, or why there is none.
fn given<'a, T>(handle: Option<&'a T>, method: &str) -> Result<&'a T, Failure> {
    handle.ok_or_else(|| Failure::not_supported(method))
}

#[tonic::async_trait]
impl operator_service_server::OperatorService for Operators {
    type WatchStatusStream = status::Watch;

    async fn place_hold(
        &self,
        request: Request<proto::PlaceHoldRequest>,
    ) -> Answer<proto::PlaceHoldResponse> {
        let caller = fields::Caller::of(&request);
        Ok(Response::new(self.new_hold(take(request).0, &caller).await?))
    }

    async fn extend_hold(
        &self,
        request: Request<proto::ExtendHoldRequest>,
    ) -> Answer<proto::ExtendHoldResponse> {
        let caller = fields::Caller::of(&request);
        Ok(Response::new(self.longer_hold(take(request).0, &caller).await?))
    }

    async fn release_hold(
        &self,
        request: Request<proto::ReleaseHoldRequest>,
    ) -> Answer<proto::ReleaseHoldResponse> {
        let caller = fields::Caller::of(&request);
        Ok(Response::new(self.end_hold(take(request).0, &caller).await?))
    }

    async fn list_holds(
        &self,
        request: Request<proto::ListHoldsRequest>,
    ) -> Answer<proto::ListHoldsResponse> {
        Ok(Response::new(self.list_all_holds(take(request).0)?))
    }

    async fn list_hold_events(
        &self,
        request: Request<proto::ListHoldEventsRequest>,
    ) -> Answer<proto::ListHoldEventsResponse> {
        Ok(Response::new(self.list_events(&take(request).0)?))
    }

    async fn get_status(
        &self,
        request: Request<proto::GetStatusRequest>,
    ) -> Answer<proto::GetStatusResponse> {
        let (request, _) = take(request);
        let query = self.status_query(request.site, request.max_sites)?;
        let source = given(self.handles.status.as_ref(), "GetStatus")?;
        let status = Some(self.told(source.as_ref(), &query));
        Ok(Response::new(proto::GetStatusResponse { status }))
    }

    async fn watch_status(
        &self,
        request: Request<proto::WatchStatusRequest>,
    ) -> Answer<Self::WatchStatusStream> {
        let (request, call) = take(request);
        Ok(Response::new(self.watch(request, &call)?))
    }

    async fn override_breaker(
        &self,
        request: Request<proto::OverrideBreakerRequest>,
    ) -> Answer<proto::OverrideBreakerResponse> {
        let caller = fields::Caller::of(&request);
        Ok(Response::new(self.order_breaker(take(request).0, &caller).await?))
    }

    async fn set_replay_pace(
        &self,
        request: Request<proto::SetReplayPaceRequest>,
    ) -> Answer<proto::SetReplayPaceResponse> {
        let caller = fields::Caller::of(&request);
        Ok(Response::new(self.replay_pace(take(request).0, &caller)?))
    }

    async fn set_quota(&self, request: Request<proto::SetQuotaRequest>) -> Answer<proto::SetQuotaResponse> {
        let caller = fields::Caller::of(&request);
        Ok(Response::new(self.quota(take(request).0, &caller)?))
    }

    async fn take_snapshot(
        &self,
        request: Request<proto::TakeSnapshotRequest>,
    ) -> Answer<proto::TakeSnapshotResponse> {
        let caller = fields::Caller::of(&request);
        Ok(Response::new(self.snapshot(take(request).0, &caller)?))
    }

    async fn rebuild_store(
        &self,
        request: Request<proto::RebuildStoreRequest>,
    ) -> Answer<proto::RebuildStoreResponse> {
        let caller = fields::Caller::of(&request);
        Ok(Response::new(self.rebuild(take(request).0, &caller)?))
    }

    async fn hand_over(&self, request: Request<proto::HandOverRequest>) -> Answer<proto::HandOverResponse> {
        let caller = fields::Caller::of(&request);
        Ok(Response::new(self.give_away(take(request).0, &caller).await?))
    }

    async fn set_attribute_state(
        &self,
        request: Request<proto::SetAttributeStateRequest>,
    ) -> Answer<proto::SetAttributeStateResponse> {
        let caller = fields::Caller::of(&request);
        let (request, call) = take(request);
        Ok(Response::new(self.attribute_state(request, &caller, &call).await?))
    }

    async fn list_incidents(
        &self,
        request: Request<proto::ListIncidentsRequest>,
    ) -> Answer<proto::ListIncidentsResponse> {
        Ok(Response::new(self.incidents(&take(request).0)?))
    }

    async fn get_incident(
        &self,
        request: Request<proto::GetIncidentRequest>,
    ) -> Answer<proto::GetIncidentResponse> {
        Ok(Response::new(self.incident(take(request).0)?))
    }

    async fn list_refused(
        &self,
        request: Request<proto::ListRefusedRequest>,
    ) -> Answer<proto::ListRefusedResponse> {
        Ok(Response::new(self.refused_list(take(request).0)?))
    }

    async fn resolve_refused(
        &self,
        request: Request<proto::ResolveRefusedRequest>,
    ) -> Answer<proto::ResolveRefusedResponse> {
        let caller = fields::Caller::of(&request);
        let (request, call) = take(request);
        Ok(Response::new(self.resolve(request, &caller, &call).await?))
    }

    async fn inject_fault(
        &self,
        request: Request<proto::InjectFaultRequest>,
    ) -> Answer<proto::InjectFaultResponse> {
        Ok(Response::new(self.inject(take(request).0)?))
    }

    async fn clear_faults(
        &self,
        request: Request<proto::ClearFaultsRequest>,
    ) -> Answer<proto::ClearFaultsResponse> {
        Ok(Response::new(self.clear(&take(request).0)?))
    }
}
