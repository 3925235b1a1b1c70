//! What services ask for and what they hear: the commands that travel through the tower stacks, with one
//! error family each for writes and reads.

pub mod breakers;
pub mod faults;
mod holds;
pub mod operate;
mod place;
mod status;
mod tasks;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use holds::HoldImpact;
pub use place::{GiveWay, TaskGuard, TaskSlot};
pub use status::*;
pub use tasks::{RebuildProgress, RebuildRequest, SnapshotProgress, SnapshotRequest, TaskRefused, TaskState};

use crate::kill_switch::Held;
use crate::model::{EventTime, Notes, Position, Profile, ProfileKey, Record, Refusal, Site, User, Write};
use crate::store::{AttributeInfo, RecordCursor};

/// A write on its way in. The order in which a stack's `call` is made is the order of arrival: `call`
/// registers the write, the future it returns only waits for the answer.
#[derive(Clone, Debug)]
pub struct WriteRequest {
    /// The tenant.
    pub site: Site,
    /// The write; shape and limits have been checked.
    pub write: Write,
    /// When to answer.
    pub wait: Wait,
    /// The caller's deadline, already shortened by the margin that lets the answer travel.
    pub deadline: Instant,
    /// Whether the answer may wait some milliseconds for one load, to spare the journal a write that
    /// changes nothing (unary calls; a stream must not stand still for it).
    pub may_load: bool,
}

/// When the caller of a write wants its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// When it is applied, or after `reply_after`.
    Applied,
    /// As soon as it is durable.
    Journaled,
}

/// What became of a write. Whatever it says is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Applied; the version is the new one.
    Applied,
    /// There was nothing to change.
    Unchanged,
    /// The request id was seen before.
    Duplicate,
    /// Durable, not yet applied.
    Deferred,
}

/// What the caller of a write gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// What became of it.
    pub outcome: Outcome,
    /// The profile's version; absent while deferred.
    pub version: Option<u64>,
    /// Where it is; absent when the journal was not needed.
    pub position: Option<Position>,
    /// Attributes that were not changed.
    pub notes: Notes,
}

/// Whether a failed write may have been kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It was not kept, and will not be.
    No,
    /// It cannot be told; asking again with the same request id tells.
    Unknown,
}

/// Why a write was not accepted, or is not known to be.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WriteError {
    /// The attribute has another type on this site.
    #[error("attribute {name:?} is a {registered} on this site, not a {given}")]
    TypeMismatch {
        /// The attribute.
        name: Box<str>,
        /// Its type.
        registered: &'static str,
        /// The type in the request.
        given: &'static str,
    },
    /// The site would have more than its limit of attributes.
    #[error("attribute {name:?} would be one more than the {limit} that a site may have")]
    TooManyAttributes {
        /// The attribute.
        name: Box<str>,
        /// The limit.
        limit: usize,
    },
    /// The node has as many sites as it may have.
    #[error("site {site:?} would be one more than the {limit} that this node may have")]
    TooManySites {
        /// The site.
        site: Site,
        /// The limit.
        limit: usize,
    },
    /// The request id was used with another payload.
    #[error("the request id was used for a different write")]
    RequestIdReused,
    /// `if_version` with `wait = JOURNALED`: the answer needs the profile.
    #[error("if_version cannot be combined with WAIT_JOURNALED")]
    ConditionNeedsApplied,
    /// The write cannot be applied to the profile.
    #[error("the write was refused: {reason}")]
    Refused {
        /// Why.
        reason: Refusal,
        /// Where it is; none if it was refused before it was accepted.
        position: Option<Position>,
    },
    /// A conditional write was not decided in time; it will be.
    #[error("the condition has not been decided yet; ask again with the same request id")]
    ConditionPending {
        /// Where it is.
        position: Position,
    },
    /// A conditional write while its scope is not being applied.
    #[error("a conditional write needs the store, which is not being written to for this site now")]
    ConditionNeedsStore {
        /// When to try again.
        retry_after: Duration,
    },
    /// A hold refuses it.
    #[error("{0}")]
    WritesHeld(Box<Held>),
    /// The site's quota, or the whole journal, is used up.
    #[error("the journal is full: {used} of {limit} bytes ({scope})")]
    JournalFull {
        /// `site` or `total`.
        scope: &'static str,
        /// Bytes in use.
        used: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The write is longer than a journal entry can be.
    #[error("the write takes {bytes} bytes in the journal; at most {limit}")]
    TooLarge {
        /// Its length.
        bytes: u64,
        /// The bound.
        limit: u64,
    },
    /// The oldest batch has been waiting for its fsync for more than a second.
    #[error("the journal's disk is not answering")]
    JournalStalled,
    /// The journal failed before this write was handed to it.
    #[error("the journal has failed: {0}")]
    JournalFailed(String),
    /// The journal failed while this write was in its hands.
    #[error("the journal failed while the write was being kept: {0}")]
    JournalFailedInFlight(String),
    /// More writes are waiting for the journal than a queue holds.
    #[error("too many writes are waiting")]
    Overloaded,
    /// The deadline passed before the write was handed to the journal.
    #[error("the deadline passed before the write was accepted")]
    NotAccepted,
    /// The deadline passed while the journal was keeping it.
    #[error("the deadline passed while the write was being kept")]
    AcceptanceUnknown,
    /// The server is going down.
    #[error("the server is draining")]
    Draining,
}

impl WriteError {
    /// Whether the write may have been kept all the same.
    pub fn kept(&self) -> Kept {
        match self {
            Self::ConditionPending { .. } | Self::JournalFailedInFlight(_) | Self::AcceptanceUnknown => {
                Kept::Unknown
            }
            _ => Kept::No,
        }
    }
}

/// A read of profiles by key.
#[derive(Clone, Debug)]
pub struct ReadRequest {
    /// Which, all of one site.
    pub keys: Vec<ProfileKey>,
    /// The caller's deadline.
    pub deadline: Instant,
}

/// One profile as a reader sees it: what is stored, with the user's pending writes on top.
#[derive(Clone, Debug)]
pub struct ProfileView {
    /// The profile, always `Record::Live`; none if there is none.
    pub profile: Option<Arc<Record>>,
    /// How many entries of the user are accepted and not yet applied.
    pub pending: u64,
    /// Whether `profile` shows them. More than 128 are not laid on top.
    pub overlaid: bool,
}

impl ProfileView {
    /// The profile; none if there is none.
    pub fn live(&self) -> Option<&Profile> {
        self.profile.as_deref().and_then(Record::live)
    }
}

/// Why a read failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ReadError {
    /// The store could not be read.
    #[error("the store could not be read: {0}")]
    Store(String),
    /// More reads are waiting than a queue holds.
    #[error("too many reads are waiting")]
    Overloaded,
    /// The deadline passed.
    #[error("the deadline passed")]
    Deadline,
    /// Writes that were accepted before the question are not applied yet, so that an answer from the store
    /// would leave them out.
    #[error("{waiting} accepted writes of this site are not applied yet")]
    Behind {
        /// How many.
        waiting: u64,
    },
    /// The store is being built anew.
    #[error("the store is being rebuilt: {done} of {total} done")]
    Rebuilding {
        /// Journal bytes or records dealt with.
        done: u64,
        /// How many there are.
        total: u64,
    },
    /// A hold refuses it.
    #[error("{0}")]
    ReadsHeld(Box<Held>),
    /// The server is going down.
    #[error("the server is draining")]
    Draining,
    /// A breaker keeps reads from the store, which is not well.
    #[error("reads are kept from the store, which is not well: its breaker for {operation} is {state}{}", if *.site { " for this site" } else { "" })]
    BreakerOpen {
        /// Which of the store's operations.
        operation: &'static str,
        /// The breaker's state.
        state: &'static str,
        /// Only for this site, or for all.
        site: bool,
        /// When to try again.
        retry_after: Duration,
    },
}

/// What became of a write that was deferred.
#[derive(Clone, Debug, PartialEq)]
pub enum WriteState {
    /// Not yet applied.
    Pending,
    /// Applied, or there was nothing to change.
    Applied,
    /// It could not be applied.
    Refused {
        /// Why.
        reason: Refusal,
        /// When it was accepted.
        accepted_at: EventTime,
    },
    /// No such position was ever issued here, or it is another node's.
    Unknown,
}

/// What a [`Lookup`] returns.
pub type LookupFuture<T> = std::pin::Pin<Box<dyn Future<Output = Result<T, ReadError>> + Send>>;

/// Questions that are neither writes nor reads of profiles by key.
pub trait Lookup: Send + Sync + 'static {
    /// What became of a write of this site.
    fn write_state(&self, site: Site, position: Position, deadline: Instant) -> LookupFuture<WriteState>;

    /// The attributes that a site knows, by name, `indexed` as it is now; empty for an unknown site.
    fn attributes(&self, site: Site, deadline: Instant) -> LookupFuture<Vec<AttributeInfo>>;

    /// Some of a site's profiles in the store's order: at most `limit`, those behind `after`.
    fn export(
        &self,
        site: Site,
        after: Option<RecordCursor>,
        limit: usize,
        deadline: Instant,
    ) -> LookupFuture<ExportPage>;
}

/// A part of a site's profiles.
#[derive(Clone, Debug)]
pub struct ExportPage {
    /// Users and their profiles; may be empty before the end.
    pub profiles: Vec<(User, ProfileView)>,
    /// Where to go on; none at the end.
    pub next: Option<RecordCursor>,
}
