//! `GetStatus` and `WatchStatus`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tonic::Status;

use super::fields::{duration, page_size};
use super::tasks::{rebuild_status, snapshot_status};
use super::{Operators, breakers, given};
use crate::api::call::Call;
use crate::api::encode::{event_time, span};
use crate::api::status::Failure;
use crate::command::operate::StatusSource;
use crate::command::{
    self, BacklogState, JournalHealth, NodeStatus, OperationKind, ServingState, StatusQuery, StoreHealth,
};
use crate::proto;

/// Sites of a status, unless said otherwise.
const SITES: usize = 20;

/// Between two statuses of a stream.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_mins(1);
const USUAL: Duration = Duration::from_secs(1);

/// The answers of `WatchStatus`.
pub type Watch = Pin<Box<dyn Stream<Item = Result<proto::WatchStatusResponse, Status>> + Send>>;

impl Operators {
    pub(super) fn status_query(&self, site: String, max_sites: i32) -> Result<StatusQuery, Failure> {
        Ok(StatusQuery {
            site: self.optional_site(site)?,
            max_sites: page_size("max_sites", max_sites, SITES)?,
        })
    }

    /// A status now and then again and again, until the caller has enough, its deadline passes, or the server goes.
    /// Each is put together when it can be sent, so that a slow reader gets fewer, never old ones.
    pub(super) fn watch(&self, request: proto::WatchStatusRequest, call: &Call) -> Result<Watch, Failure> {
        let query = self.status_query(request.site, request.max_sites)?;
        let every = duration("interval", request.interval, SHORTEST, LONGEST)?.unwrap_or(USUAL);
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let source = Arc::clone(given(self.handles.status.as_ref(), "WatchStatus")?);
        let (closing, until) = (call.closing.clone(), call.given.then_some(call.deadline));
        let state = (ticks, self.clone(), source, query, closing, until);
        Ok(Box::pin(unfold(state, async |(mut ticks, own, source, query, mut closing, until)| {
            let ended = async {
                match until {
                    Some(until) => tokio::time::sleep_until(Instant::from_std(until)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = closing.closed() => return None,
                () = ended => return None,
                _ = ticks.tick() => {}
            }
            let status = Some(own.told(source.as_ref(), &query));
            Some((Ok(proto::WatchStatusResponse { status }), (ticks, own, source, query, closing, until)))
        })))
    }

    /// A status, with what others than its source know.
    pub(super) fn told(&self, source: &dyn StatusSource, query: &StatusQuery) -> proto::NodeStatus {
        let incidents = super::incidents::open(self.handles.incidents.as_ref());
        let holds = self.holds_in_status();
        let faults = super::faults::in_force(self.handles.faults.as_ref());
        proto::NodeStatus { holds, incidents, faults, ..encode(&source.status(query)) }
    }
}

/// A status as it is sent.
fn encode(status: &NodeStatus) -> proto::NodeStatus {
    let state = match status.state {
        ServingState::Serving => proto::ServingState::Serving,
        ServingState::Impaired => proto::ServingState::Impaired,
        ServingState::NotAccepting => proto::ServingState::NotAccepting,
        ServingState::Draining => proto::ServingState::Draining,
    };
    proto::NodeStatus {
        node: status.node.to_string(),
        software_version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: Some(event_time(status.started_at)),
        at: Some(event_time(status.at)),
        state: state.into(),
        why: status.why.clone(),
        operations: status.operations.iter().map(operation).collect(),
        journal: Some(journal(&status.journal)),
        backlog: Some(backlog(&status.backlog)),
        sites: status.sites.iter().map(site).collect(),
        sites_with_pending: status.sites_with_pending,
        sites_known: status.sites_known,
        store: Some(store(&status.store)),
        rebuild: status.rebuild.as_ref().map(rebuild_status),
        snapshot: Some(snapshot_status(&status.snapshot)),
        breakers: status.breakers.iter().map(breakers::breaker_status).collect(),
        holds: Vec::new(),
        incidents: Vec::new(),
        faults: Vec::new(),
        restart: Some(proto::RestartAdvice {
            safe: status.restart.safe,
            pending: status.restart.pending,
            estimated_time: status.restart.estimated_time.map(span),
            message: status.restart.message.clone(),
        }),
        connections: status.connections,
        connections_limit: status.connections_limit,
    }
}

fn operation(told: &command::OperationStatus) -> proto::OperationStatus {
    let operation = match told.operation {
        OperationKind::Identify => proto::Operation::Identify,
        OperationKind::Delete => proto::Operation::Delete,
        OperationKind::Query => proto::Operation::Query,
        OperationKind::Get => proto::Operation::Get,
    };
    proto::OperationStatus {
        operation: operation.into(),
        requests_per_second: told.requests_per_second,
        errors_per_second: told.errors_per_second,
        deferred_per_second: told.deferred_per_second,
        in_flight: told.in_flight,
        p50: told.p50.map(span),
        p99: told.p99.map(span),
    }
}

fn journal(told: &command::JournalStatus) -> proto::JournalStatus {
    let state = match told.health {
        JournalHealth::Ok => proto::JournalState::Ok,
        JournalHealth::Stalled => proto::JournalState::Stalled,
        JournalHealth::Full => proto::JournalState::Full,
        JournalHealth::Failed => proto::JournalState::Failed,
    };
    proto::JournalStatus {
        state: state.into(),
        used_bytes: told.used_bytes,
        limit_bytes: told.limit_bytes,
        time_to_full: told.time_to_full.map(span),
        segments: told.segments,
        first_position: told.first_position,
        last_position: told.last_position,
        entries_per_second: told.entries_per_second,
        sync_p50: told.sync_p50.map(span),
        sync_p99: told.sync_p99.map(span),
        oldest_unsynced_age: told.oldest_unsynced.map(span),
    }
}

pub(super) fn backlog(told: &command::BacklogStatus) -> proto::BacklogStatus {
    let state = match told.state {
        BacklogState::None => proto::BacklogState::None,
        BacklogState::CatchingUp => proto::BacklogState::CatchingUp,
        BacklogState::NotCatchingUp => proto::BacklogState::NotCatchingUp,
        BacklogState::Waiting => proto::BacklogState::Waiting,
    };
    proto::BacklogStatus {
        state: state.into(),
        entries: told.entries,
        bytes: told.bytes,
        oldest_age: told.oldest_age.map(span),
        applied_per_second: told.applied_per_second,
        accepted_per_second: told.accepted_per_second,
        time_to_catch_up: told.time_to_catch_up.map(span),
        pace: told.pace.as_ref().map(breakers::replay_pace),
        parked: told.parked,
        refused: told.refused,
    }
}

fn site(told: &command::SiteStatus) -> proto::SiteStatus {
    proto::SiteStatus {
        site: told.site.as_str().to_owned(),
        backlog: Some(backlog(&told.backlog)),
        quota: Some(quota(&told.quota)),
        waiting_for: told.waiting_for.clone(),
    }
}

pub(super) fn quota(told: &command::QuotaStatus) -> proto::QuotaStatus {
    proto::QuotaStatus {
        site: told.site.as_ref().map(|site| site.as_str().to_owned()).unwrap_or_default(),
        used_bytes: told.used_bytes,
        limit_bytes: told.limit_bytes,
        overridden: told.overridden,
        time_to_full: told.time_to_full.map(span),
    }
}

fn store(told: &command::StoreStatus) -> proto::StoreStatus {
    let state = match told.health {
        StoreHealth::Serving => proto::StoreState::Serving,
        StoreHealth::IndexBuilding => proto::StoreState::IndexBuilding,
        StoreHealth::Rebuilding => proto::StoreState::Rebuilding,
        StoreHealth::Failed => proto::StoreState::Failed,
    };
    proto::StoreStatus {
        backend: "sled".to_owned(),
        state: state.into(),
        generation: told.generation,
        directory: told.dir.display().to_string(),
        profiles: told.profiles,
        disk_bytes: told.disk_bytes,
        commits: Some(calls(&told.commits)),
        loads: Some(calls(&told.loads)),
        scans: Some(calls(&told.scans)),
        hung_threads: told.hung_threads,
        hung_threads_in_use: told.hung_in_use,
        unflushed_bytes: told.unflushed_bytes,
        flush_age: told.flush_age.map(span),
        cache_miss_share: told.cache_miss_share,
        index_bytes: told.index_bytes,
        index_limit_bytes: told.index_limit_bytes,
        attributes_not_indexed: told.attributes_not_indexed,
        index_progress: told.index_progress,
        last_error: told.last_error.clone(),
    }
}

fn calls(told: &command::StoreCallStatus) -> proto::StoreCallStatus {
    proto::StoreCallStatus {
        calls_per_second: told.calls_per_second,
        in_flight: told.in_flight,
        queued: told.queued,
        oldest_age: told.oldest_age.map(span),
        p50: told.p50.map(span),
        p99: told.p99.map(span),
    }
}
