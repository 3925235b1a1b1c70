//! What operators can ask a node to do: one small trait for each group of methods, so that the surface knows
//! nothing of who does it. None of these block.

use std::pin::Pin;
use std::time::{Duration, Instant};

pub use super::holds::HoldDesk;
use super::{
    NodeStatus, QuotaStatus, RebuildProgress, RebuildRequest, Receipt, SnapshotProgress, SnapshotRequest,
    StatusQuery, TaskRefused, WriteError,
};
use crate::model::{Entry, EventTime, NodeId, Position, Refusal, Site, User};
use crate::store::AttributeInfo;

/// What a request of an operator returns in its time.
pub type Decision<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Who asks for something, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// The name of the token, or as given where there is no authentication.
    pub owner: String,
    /// In the operator's words.
    pub reason: String,
}

/// Tells the state of the node.
pub trait StatusSource: Send + Sync + 'static {
    /// The state now, from memory.
    fn status(&self, query: &StatusQuery) -> NodeStatus;
}

/// Takes snapshots and backups.
pub trait SnapshotTasks: Send + Sync + 'static {
    /// Begins one.
    fn take(&self, request: SnapshotRequest) -> Result<SnapshotProgress, TaskRefused>;
    /// How far the one that runs, or the last one, is.
    fn progress(&self) -> SnapshotProgress;
}

/// Builds the store anew.
pub trait RebuildTasks: Send + Sync + 'static {
    /// Begins to.
    fn request(&self, request: RebuildRequest) -> Result<RebuildProgress, TaskRefused>;
    /// How far the one that runs, or the last one, is; none since the process started.
    fn progress(&self) -> Option<RebuildProgress>;
}

/// A request to hand the journal and the listeners over to another process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandOverRequest {
    /// Whose journal.
    pub node: NodeId,
    /// How long requests under way may take.
    pub drain_timeout: Duration,
    /// Who, why.
    pub cause: Cause,
}

/// What was handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandedOver {
    /// The last durable entry; 0: none.
    pub last_position: u64,
    /// Entries that wait to be applied.
    pub pending: u64,
    /// Whether the store was closed cleanly.
    pub store_closed: bool,
    /// Threads that hang inside the store.
    pub hung_threads: u64,
    /// Requests that were cut off.
    pub cut_off: u64,
}

/// Why nothing was handed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandOverRefused {
    /// Another journal's node is meant.
    #[error("this is node {node}, not {asked}")]
    OtherNode {
        /// This one.
        node: NodeId,
        /// The one that was asked for.
        asked: NodeId,
    },
    /// It is going down already.
    #[error("the server is going down already")]
    GoingDown,
    /// The journal could not be closed, so that no other process may have it yet.
    #[error("the journal was not closed: {0}")]
    Journal(String),
}

/// Hands over.
pub trait HandOvers: Send + Sync + 'static {
    /// Answers when the journal and the data listener are free.
    fn hand_over(&self, request: HandOverRequest) -> Decision<Result<HandedOver, HandOverRefused>>;
}

/// Sets how much of the journal may be used.
pub trait Quotas: Send + Sync + 'static {
    /// `limit` for `site`, or all in all; none: as configured. An error names the bound that it breaks.
    fn set_quota(
        &self,
        site: Option<Site>,
        limit: Option<u64>,
        cause: Cause,
    ) -> Result<QuotaStatus, QuotaRefused>;
}

/// Why a quota is not set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuotaRefused {
    /// It is below what the journal needs, or above what there is.
    #[error("{given} bytes; it must be between {least} and {most}")]
    OutOfRange {
        /// What was asked for.
        given: u64,
        /// The least.
        least: u64,
        /// The most.
        most: u64,
    },
    /// There is no such site.
    #[error("nothing was ever written for site {0:?}")]
    UnknownSite(Site),
}

/// A change of an attribute's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttributeStateRequest {
    /// The tenant.
    pub site: Site,
    /// The attribute.
    pub name: Box<str>,
    /// Whether writes of it shall be ignored; none: as it is.
    pub disabled: Option<bool>,
    /// Whether it may be indexed; none: as it is.
    pub indexed: Option<bool>,
    /// Who, why.
    pub cause: Cause,
    /// When to answer.
    pub deadline: Instant,
}

/// Why an attribute's state was not changed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AttributeRefused {
    /// The site does not know it.
    #[error("site {site:?} has no attribute {name:?}")]
    Unknown {
        /// The tenant.
        site: Site,
        /// The attribute.
        name: Box<str>,
    },
    /// The journal did not take it.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// What became of it: the attribute as it is now, and where the change is; no position: nothing to change.
pub type AttributeChanged = Result<(AttributeInfo, Option<Position>), AttributeRefused>;

/// Changes attributes' states, through the journal.
pub trait AttributeStates: Send + Sync + 'static {
    /// Answers when the change is durable; it holds from its acceptance on.
    fn set_state(&self, request: AttributeStateRequest) -> Decision<AttributeChanged>;
}

/// Which refused and parked entries to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedQuery {
    /// Only of this tenant.
    pub site: Option<Site>,
    /// Only of this user, by its hash.
    pub user: Option<u64>,
    /// Those behind this one.
    pub after: Option<(Site, u64)>,
    /// At most so many.
    pub limit: usize,
}

/// An entry that was refused, or behind which its user's entries are parked.
#[derive(Clone, Debug, PartialEq)]
pub struct RefusedEntry {
    /// The tenant.
    pub site: Site,
    /// Where it is.
    pub position: Position,
    /// The user, if that is known without reading a disk.
    pub user: Option<User>,
    /// Why it was refused; none: it is parked.
    pub reason: Option<Refusal>,
    /// Why it is parked; empty: it was refused.
    pub failure: String,
    /// When it was accepted.
    pub accepted_at: EventTime,
    /// When it was refused or parked.
    pub refused_at: EventTime,
    /// Entries of the user that wait behind it.
    pub waiting_behind: u64,
    /// The entry itself, if memory has it.
    pub entry: Option<std::sync::Arc<Entry>>,
}

/// What to do with a refused or parked entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolve {
    /// Try it again.
    Retry,
    /// Be done with it.
    Discard,
}

/// Refused entries to resolve.
#[derive(Clone, Debug)]
pub struct ResolveRequest {
    /// The tenant.
    pub site: Site,
    /// Which.
    pub positions: Vec<Position>,
    /// What to do.
    pub action: Resolve,
    /// Who, why.
    pub cause: Cause,
    /// When to answer.
    pub deadline: Instant,
}

/// Why one entry was not resolved.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ResolveRefused {
    /// It is not on the list.
    #[error("there is no refused or parked entry at this position")]
    Unknown,
    /// Its content is not in memory, and the store did not give it.
    #[error("the entry could not be read: {0}")]
    NotRead(String),
    /// A parked entry has not been decided: it can be tried again, not discarded.
    #[error("the entry is parked, not refused: try it again, or erase the user")]
    Parked,
    /// The journal did not take it, or it was refused again.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// The list of refused entries and of those that are parked.
pub trait RefusedDesk: Send + Sync + 'static {
    /// Some of them, by site and position.
    fn list(&self, query: &RefusedQuery) -> Vec<RefusedEntry>;
    /// Resolves entries, one result each, in their order.
    fn resolve(&self, request: ResolveRequest) -> Decision<Vec<Result<Receipt, ResolveRefused>>>;
}
