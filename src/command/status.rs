//! All that an operator needs to know of a node, as a value. Put together from memory; nobody asks the store
//! for it.

use std::path::PathBuf;
use std::time::Duration;

use super::breakers::{BreakerStatus, PaceStatus};
use super::{RebuildProgress, SnapshotProgress};
use crate::model::{EventTime, NodeId, Site};

/// Which sites a status should tell of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusQuery {
    /// Only this one, also when it is idle.
    pub site: Option<Site>,
    /// At most so many, those with the longest backlogs.
    pub max_sites: usize,
}

/// What a node does as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServingState {
    /// All is well.
    #[default]
    Serving,
    /// It serves, but something is amiss.
    Impaired,
    /// It cannot accept writes.
    NotAccepting,
    /// It is going down.
    Draining,
}

/// The state of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeStatus {
    /// The journal's node id.
    pub node: NodeId,
    /// When the process started.
    pub started_at: EventTime,
    /// When this was put together.
    pub at: EventTime,
    /// What the node does.
    pub state: ServingState,
    /// Why not more, for people, the most important first.
    pub why: Vec<String>,
    /// Rates and latencies.
    pub operations: Vec<OperationStatus>,
    /// The journal.
    pub journal: JournalStatus,
    /// What waits, over all sites.
    pub backlog: BacklogStatus,
    /// Sites with entries waiting, the longest backlog first.
    pub sites: Vec<SiteStatus>,
    /// How many sites have entries waiting.
    pub sites_with_pending: u64,
    /// How many sites are known.
    pub sites_known: u64,
    /// The store.
    pub store: StoreStatus,
    /// The rebuild that runs, or the last one.
    pub rebuild: Option<RebuildProgress>,
    /// Snapshots.
    pub snapshot: SnapshotProgress,
    /// The breakers of the store, and those of sites that are not closed.
    pub breakers: Vec<BreakerStatus>,
    /// What a restart would mean.
    pub restart: RestartAdvice,
    /// Data connections.
    pub connections: u64,
    /// How many are allowed.
    pub connections_limit: u64,
}

/// What services do, as operators see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationKind {
    /// Writes of attributes, singly or many.
    Identify,
    /// Erasures.
    Delete,
    /// Queries, counts, exports.
    Query,
    /// Reads by key.
    Get,
}

/// One operation over the last 10 s.
#[derive(Clone, Debug, PartialEq)]
pub struct OperationStatus {
    /// Which.
    pub operation: OperationKind,
    /// Requests per second; items of a call with several count each.
    pub requests_per_second: f64,
    /// Those that ended in an error.
    pub errors_per_second: f64,
    /// Writes answered as deferred.
    pub deferred_per_second: f64,
    /// Requests under way.
    pub in_flight: u64,
    /// The median time to the answer.
    pub p50: Option<Duration>,
    /// The 99th percentile.
    pub p99: Option<Duration>,
}

/// Whether the journal takes writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalHealth {
    /// It does.
    Ok,
    /// Its disk has not answered for too long.
    Stalled,
    /// It is full.
    Full,
    /// It failed for good.
    Failed,
}

/// The journal.
#[derive(Clone, Debug, PartialEq)]
pub struct JournalStatus {
    /// Whether it takes writes.
    pub health: JournalHealth,
    /// Bytes in use.
    pub used_bytes: u64,
    /// Bytes allowed.
    pub limit_bytes: u64,
    /// Time until it is full; none: it is not filling.
    pub time_to_full: Option<Duration>,
    /// Segment files.
    pub segments: u64,
    /// The first entry that it has; 0: none.
    pub first_position: u64,
    /// The last durable entry; 0: none.
    pub last_position: u64,
    /// Entries made durable per second.
    pub entries_per_second: f64,
    /// The median of the recent fsyncs.
    pub sync_p50: Option<Duration>,
    /// Their 99th percentile.
    pub sync_p99: Option<Duration>,
    /// The age of the oldest batch that is not durable.
    pub oldest_unsynced: Option<Duration>,
}

/// Whether a backlog shrinks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BacklogState {
    /// Nothing waits longer than usual.
    #[default]
    None,
    /// It shrinks.
    CatchingUp,
    /// It grows, or stays as it is.
    NotCatchingUp,
    /// It is left alone on purpose.
    Waiting,
}

/// Entries that wait to be applied.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BacklogStatus {
    /// Whether they become fewer.
    pub state: BacklogState,
    /// How many.
    pub entries: u64,
    /// How many bytes of the journal.
    pub bytes: u64,
    /// How long ago the oldest was accepted, at least.
    pub oldest_age: Option<Duration>,
    /// Entries applied per second.
    pub applied_per_second: f64,
    /// Entries accepted per second.
    pub accepted_per_second: f64,
    /// Time until none waits, while they become fewer.
    pub time_to_catch_up: Option<Duration>,
    /// Entries parked behind one that failed again and again.
    pub parked: u64,
    /// Entries on the list of refused ones.
    pub refused: u64,
    /// The pace that an operator set; none: automatic.
    pub pace: Option<PaceStatus>,
}

/// One site.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteStatus {
    /// The tenant.
    pub site: Site,
    /// Its entries that wait.
    pub backlog: BacklogStatus,
    /// Its use of the journal.
    pub quota: QuotaStatus,
    /// Why entries wait, for people; empty: nothing keeps them.
    pub waiting_for: String,
}

/// A share of the journal.
#[derive(Clone, Debug, PartialEq)]
pub struct QuotaStatus {
    /// The tenant; none: all in all.
    pub site: Option<Site>,
    /// Bytes in use.
    pub used_bytes: u64,
    /// Bytes allowed.
    pub limit_bytes: u64,
    /// Whether an operator set the limit.
    pub overridden: bool,
    /// Time until it is used up; none: it is not filling.
    pub time_to_full: Option<Duration>,
}

/// Whether the store can be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreHealth {
    /// It serves.
    Serving,
    /// It serves profiles while the attribute index is built.
    IndexBuilding,
    /// There is none: it is being built.
    #[default]
    Rebuilding,
    /// It failed, or is damaged.
    Failed,
}

/// The store.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoreStatus {
    /// Whether it can be used.
    pub health: StoreHealth,
    /// Which generation it is.
    pub generation: u64,
    /// Where it is.
    pub dir: PathBuf,
    /// Profiles in it, about.
    pub profiles: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Commits.
    pub commits: StoreCallStatus,
    /// Loads.
    pub loads: StoreCallStatus,
    /// Scans.
    pub scans: StoreCallStatus,
    /// Threads inside a call for longer than 10 s, of all generations.
    pub hung_threads: u64,
    /// Those of them that belong to the generation in use.
    pub hung_in_use: u64,
    /// Bytes written and not flushed.
    pub unflushed_bytes: u64,
    /// The age of the flush that runs.
    pub flush_age: Option<Duration>,
    /// The share of loads that the profile cache did not answer, 0 to 1, over the last minute.
    pub cache_miss_share: f64,
    /// Memory of the attribute index.
    pub index_bytes: u64,
    /// Memory that it may use.
    pub index_limit_bytes: u64,
    /// Attributes that did not fit.
    pub attributes_not_indexed: u64,
    /// How much of the index is built, 0 to 1; none: all of it.
    pub index_progress: Option<f64>,
    /// The last error; empty if none.
    pub last_error: String,
}

/// Calls of one kind to the store, over the last 10 s.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoreCallStatus {
    /// Calls per second.
    pub calls_per_second: f64,
    /// Calls in flight.
    pub in_flight: u64,
    /// Calls that wait for a thread.
    pub queued: u64,
    /// The age of the oldest call in flight.
    pub oldest_age: Option<Duration>,
    /// The median.
    pub p50: Option<Duration>,
    /// The 99th percentile.
    pub p99: Option<Duration>,
}

/// What a restart now would mean.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RestartAdvice {
    /// Whether the node would soon be as before.
    pub safe: bool,
    /// Entries that would wait afterwards.
    pub pending: u64,
    /// The time until reads are served again, about.
    pub estimated_time: Option<Duration>,
    /// The same for people.
    pub message: String,
}
