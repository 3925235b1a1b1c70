//! Long tasks that operators begin and watch: snapshots, backups, rebuilds of the store. One at a time.

use std::path::PathBuf;
use std::time::Duration;

use crate::model::EventTime;

/// How far a long task is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TaskState {
    /// None since the process started.
    #[default]
    Never,
    /// It runs.
    Running,
    /// It is complete.
    Done,
    /// It failed, and left no trace.
    Failed,
}

/// Why a task does not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskRefused {
    /// Another one runs.
    #[error("{task} is going on: one task at a time")]
    Busy {
        /// Which: `a snapshot`, `a backup`, `a rebuild of the store`.
        task: &'static str,
    },
    /// The store is not trusted, is being rebuilt, or fails: what it holds is no truth to be kept.
    #[error("the store is not to be trusted now; a snapshot needs one that is")]
    StoreNotTrusted,
    /// A thread hangs inside the kernel, which a new store in the same process would hang with.
    #[error("a call has been inside the store for {} s: {advice}", age.as_secs())]
    KernelHang {
        /// How long.
        age: Duration,
        /// What to do instead.
        advice: String,
    },
    /// The server is going down.
    #[error("the server is draining")]
    Draining,
    /// A field of the request cannot be used.
    #[error("{field}: {problem}")]
    Invalid {
        /// Its path in the request.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// It could not be begun.
    #[error("{0}")]
    Failed(String),
}

/// What is asked for: a snapshot, or a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRequest {
    /// Make a backup in this directory, an absolute path. None: an ordinary snapshot.
    pub backup: Option<PathBuf>,
    /// Who asked; empty: the server itself.
    pub owner: String,
}

/// Snapshots, as operators see them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SnapshotProgress {
    /// How far the one that runs, or the last one, is.
    pub state: TaskState,
    /// When it began.
    pub started_at: Option<EventTime>,
    /// Records written by it.
    pub done: u64,
    /// How many there are, about.
    pub total: u64,
    /// Why it failed; empty if it did not.
    pub error: String,
    /// When the last complete one was verified, also by an earlier process.
    pub last_completed_at: Option<EventTime>,
    /// The journal position from which replay starts after loading the last complete one; 0: there is none.
    pub last_position: u64,
    /// The size of the last complete one, bytes.
    pub last_bytes: u64,
    /// Whether one is due and none could be taken.
    pub overdue: bool,
    /// The directory of a backup that runs, or of the last one; none: it is an ordinary snapshot.
    pub backup: Option<PathBuf>,
}

/// What is asked for: a new store out of snapshot and journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebuildRequest {
    /// Build it in this directory, an absolute path. None: beside the old one.
    pub dir: Option<PathBuf>,
    /// Why.
    pub reason: String,
    /// Who asked; empty: the server itself.
    pub owner: String,
}

/// A rebuild, as operators see it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RebuildProgress {
    /// How far it is.
    pub state: TaskState,
    /// The generation that it builds.
    pub generation: u64,
    /// Why it was begun.
    pub reason: String,
    /// Who began it; empty: the server itself.
    pub owner: String,
    /// When it began.
    pub started_at: EventTime,
    /// When it ended.
    pub finished_at: Option<EventTime>,
    /// Records loaded from the snapshot and entries replayed from the journal.
    pub done: u64,
    /// How many there are, as far as known; it may rise.
    pub total: u64,
    /// The time left; none: unknown or ended.
    pub time_left: Option<Duration>,
    /// Whether the old generation serves reads meanwhile.
    pub reads_served: bool,
    /// Why it failed; empty if it did not.
    pub error: String,
    /// The directory that it builds in.
    pub dir: PathBuf,
}
