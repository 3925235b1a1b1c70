//! What can go wrong in a journal.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use thiserror::Error;

/// Something in a journal's files is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// What is wrong.
    pub problem: String,
}

impl Damage {
    pub(crate) fn new(file: impl Into<PathBuf>, offset: u64, problem: impl Into<String>) -> Self {
        Self { file: file.into(), offset, problem: problem.into() }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: {}", self.file.display(), self.offset, self.problem)
    }
}

/// Why a journal was not opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{} is in use by another process: stop it, or give this one a directory of its own", .0.display())]
    Locked(PathBuf),
    /// Data that was acknowledged may be missing or altered.
    #[error(
        "the journal is damaged, and opening it could lose what was acknowledged: {damage}. Nothing has been \
         changed. `steadfast journal check --dir {dir}` lists every problem; restore the file, or the whole \
         directory, from a copy or a backup; failing that, `steadfast journal repair --dry-run --dir {dir}` says \
         what can be kept",
        dir = .dir.display()
    )]
    Damaged {
        /// The journal.
        dir: PathBuf,
        /// What was found first.
        damage: Damage,
    },
    /// Written by another version.
    #[error(
        "{} has format {found}; this version reads format {known}: start the version that wrote it, or update \
         this one", .file.display()
    )]
    Version {
        /// The file.
        file: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The last entry was accepted in the future.
    #[error(
        "the machine's clock is {} s behind the last entry of the journal (at most 300 s are waited out): set \
         the clock right, or wait", .behind.as_secs()
    )]
    ClockBehind {
        /// By how much.
        behind: std::time::Duration,
    },
    /// A restore into this directory was begun, but not completed.
    #[error(
        "{} holds a part of a backup: run `steadfast restore` again, it goes on where it was; or empty the \
         directory", .0.display()
    )]
    HalfRestored(PathBuf),
    /// A new journal beside a store that has data.
    #[error(
        "{} has no journal, but the store beside it has applied entries up to number {applied}: point to the \
         right journal directory, restore it from a backup, or remove the store's directory too to start anew",
        .dir.display()
    )]
    StoreWithoutJournal {
        /// The journal.
        dir: PathBuf,
        /// Highest position known to be applied.
        applied: u64,
    },
    /// Options that cannot work.
    #[error("journal options: {0}")]
    Options(String),
    /// A file operation failed.
    #[error(transparent)]
    Io(#[from] IoFailure),
}

/// A file operation that failed.
#[derive(Debug, Error)]
#[error("{operation} {}: {source}", .file.display())]
pub struct IoFailure {
    /// What was done: `write`, `sync`, ...
    pub operation: &'static str,
    /// The file or directory.
    pub file: PathBuf,
    /// The system's error.
    pub source: io::Error,
}

impl IoFailure {
    /// The same failure for somebody else ([`io::Error`] cannot be cloned).
    pub(crate) fn again(&self) -> Self {
        let source = match self.source.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(self.source.kind(), self.source.to_string()),
        };
        Self { operation: self.operation, file: self.file.clone(), source }
    }
}

/// Puts operation and file to an [`io::Error`].
pub(crate) trait At<T> {
    fn at(self, operation: &'static str, file: &Path) -> Result<T, IoFailure>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, operation: &'static str, file: &Path) -> Result<T, IoFailure> {
        self.map_err(|source| IoFailure { operation, file: file.to_owned(), source })
    }
}

/// Why a journal keeps nothing more in this process.
#[derive(Debug, Error)]
pub enum JournalError {
    /// A write or sync failed. Never tried again: after a failed sync the system may have forgotten what it
    /// could not write, and a second one would "succeed".
    #[error("the journal failed and keeps nothing more until a restart: {0}")]
    Io(#[from] IoFailure),
    /// The committer ended by a bug.
    #[error("the journal's committer ended unexpectedly; it keeps nothing more until a restart")]
    Died,
    /// It has been closed.
    #[error("the journal is closed")]
    Closed,
    /// It did not end in time: its disk does not answer. What waits may or may not become durable.
    #[error("the journal's disk has not let it end within {} ms", .0.as_millis())]
    Hung(std::time::Duration),
}

/// Why no new segment was begun. The journal goes on as it was, unless it has failed.
#[derive(Debug, Error)]
pub enum RollError {
    /// The total quota has no room for it.
    #[error("the journal is full: {used} of {limit} bytes, a new segment does not fit")]
    Full {
        /// Bytes used.
        used: u64,
        /// The total quota.
        limit: u64,
    },
    /// The disk has no room for it.
    #[error("no room for a new journal segment: {0}")]
    NoSpace(IoFailure),
    /// The journal has failed.
    #[error("{0}")]
    Failed(std::sync::Arc<JournalError>),
    /// The journal is closed.
    #[error("the journal is closed")]
    Closed,
}

/// Why a switch did not take place. Nothing was released.
#[derive(Debug, Error)]
pub enum SwitchError {
    /// What would go is being read.
    #[error("journal entries from {position} on are being read and cannot be released")]
    Pinned {
        /// The lowest position that is pinned.
        position: u64,
    },
    /// It does not fit the journal.
    #[error("not a possible journal after a snapshot: {0}")]
    Invalid(String),
    /// The manifest was not replaced for certain. Every file that the old or the new one names is there.
    #[error(transparent)]
    Io(#[from] IoFailure),
}

/// What is known of entries that were not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// They never reached a file.
    No,
    /// They may turn up after a restart.
    Unknown,
}

/// Why an entry was not taken. The entry is certainly not kept.
#[derive(Clone, Debug, Error)]
pub enum SubmitReason {
    /// More waits than a batch holds.
    #[error("more entries wait than a batch holds")]
    Overloaded,
    /// The disk has not finished the oldest batch for too long.
    #[error("the journal's disk has not answered for {} ms", .oldest.as_millis())]
    Stalled {
        /// How long the oldest entry has waited.
        oldest: std::time::Duration,
    },
    /// The quota is used up, or the disk is.
    #[error("the journal is full: {used} of {limit} bytes")]
    Full {
        /// Bytes used, waiting entries included.
        used: u64,
        /// Bytes that may be used.
        limit: u64,
    },
    /// One entry is longer than an entry can be.
    #[error("an entry of {bytes} bytes; at most {limit}")]
    TooLarge {
        /// Its length.
        bytes: u64,
        /// The bound.
        limit: u64,
    },
    /// An earlier failure.
    #[error("{0}")]
    Failed(std::sync::Arc<JournalError>),
    /// It is closing.
    #[error("the journal is closed")]
    Closed,
}

/// An entry that was not taken, with its ticket.
#[derive(Debug)]
pub struct SubmitError<T> {
    /// Why.
    pub reason: SubmitReason,
    /// What was to be told of the entry.
    pub ticket: T,
}

/// Entries that were not taken (all or none are), with their tickets in order.
#[derive(Debug)]
pub struct SubmitManyError<T> {
    /// Why.
    pub reason: SubmitReason,
    /// What was to be told of the entries.
    pub tickets: Vec<T>,
}

/// Why an entry could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// No such entry: not issued, not durable yet, or another place.
    #[error("no journal entry {0} is known")]
    Unknown(u64),
    /// It was released after it had become part of a snapshot.
    #[error("journal entry {0} has been released")]
    Released(u64),
    /// Its bytes are not what was written.
    #[error("the journal is damaged: {0}")]
    Damaged(Damage),
    /// A file operation failed.
    #[error(transparent)]
    Io(#[from] IoFailure),
}
