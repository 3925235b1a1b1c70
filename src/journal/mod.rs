//! The journal: the synced log of what was accepted, in one order. What is in it is kept.
//!
//! # Files
//! A directory holds
//! - `manifest`: which segments there are; replaced as a whole (written aside, synced, renamed, directory
//!   synced). One line of text (title, format number, CRC-32C of what follows) and a JSON object: the node's id,
//!   its ancestors' ids, the segments in order with number, writing node, first position, length and (all but
//!   the last) how they ended; the first segment number and the first position not used yet; the gaps in the
//!   numbering; how the journal ended if it was closed in order; the current snapshot.
//! - `segment-N`: segments, written front to back and never changed: of one length (64 MiB) where entries came
//!   in, as long as their content where entries that waited at a snapshot were carried over from others.
//! - `carry-N`: segments that entries are being carried to; of no use after an unclean stop.
//! - `spare-N`: segments to be: zero-filled and synced, or released and waiting to be used again.
//! - `cut-N-OFFSET`: torn tails that were cut off after unclean stops, the last 16.
//! - `adopting`: a restore has not written the manifest yet; see [`image`].
//! - `repair-TIME`: what a repair cut; see [`repair`].
//! - `lock`: locked by the process that has the journal.
//!
//! # Segments (all numbers little-endian)
//! A header of 128 bytes: `STDFSEGM`, format u32, digest of the segment before u32, node u64, segment number u64,
//! first position u64, accepted-at high-water mark u64 (ns since 1970), last position before it u64, length u64,
//! zeros, CRC-32C u32. Then batches; then 36 zero bytes (as many as fit) that say where the last batch ends;
//! then anything: zeros, or what was there when the file was another segment.
//!
//! A batch is one group commit:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | `BtCh` |
//! | 4 | bytes of the entries |
//! | 8 | position of the first entry; the others follow by one |
//! | 4 | number of entries |
//! | 1 + 3 | semantics version, zeros |
//! | 8 | `refresh_after` in ns |
//! | 4 | CRC-32C of the above |
//! | | entries: payload length u32, offset from the batch's start u32, accepted-at u64, CRC-32C of position, these and the payload u32, payload |
//! | 4 | CRC-32C of all the above |
//!
//! Within a segment every CRC starts from one of node id and segment number, so that what an earlier life of the
//! file left behind is never valid. A segment's digest is the CRC-32C over its batches' checksums.
//!
//! Another format number is refused with advice, not guessed at.
//!
//! # Snapshots and space
//! A snapshot begins where a segment begins. When it is complete, one replacement of the manifest names it and
//! gives up the segments before it, except for those that are kept because most of them still waits; what else
//! waits has been carried into segments of the same format, whose positions may have holes. A segment whose
//! header does not speak of the segment that the manifest now has before it is `detached` there: its place in
//! the order is checked, the rest of its header's chain is not.
//!
//! # Opening
//! Every segment that the manifest names must be there with its length, be the one that is meant, and follow the
//! one before it. The last one is verified to its end; the others where they are read (a scan also compares the
//! digest, so that nothing in them can be missing quietly) and by [`check`]: to read the whole journal at each
//! start would cost minutes when there is much to keep. Only the tail of the last segment may be torn, and only
//! after an unclean stop; what was recovered of it is written into a new segment, which takes its place by one
//! manifest switch. Numbering then goes on at the next multiple of 2^20.

mod carry;
pub mod check;
mod committer;
pub mod error;
pub mod format;
pub use crate::fs;
mod handle;
pub mod image;
mod log;
mod manifest;
mod monotonic;
mod open;
mod queue;
mod reader;
mod recover;
pub mod repair;
mod rewrite;
mod spare;
mod switch;
mod table;
mod walk;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use carry::{Carried, Carrier};
pub use error::{
    Damage, IoFailure, JournalError, Kept, OpenError, ReadError, RollError, SubmitError, SubmitManyError,
    SubmitReason, SwitchError,
};
pub use format::BatchSettings;
pub use handle::{Journal, JournalState, Usage};
pub use manifest::SnapshotRef;
pub use monotonic::Monotonic;
pub use open::{Opened, node_of};
pub use reader::{JournalReader, Scan, SegmentInfo, StoredEntry};
pub use recover::{CutTail, POSITION_STEP};
pub use switch::Switch;
pub use table::{Pin, Released};

use crate::model::EventTime;

/// How a journal is set up. Fixed while it is open.
#[derive(Clone, Debug)]
pub struct JournalOptions {
    /// Its directory, made if need be.
    pub dir: PathBuf,
    /// Length of new segments in bytes, 4 KiB to 1 GiB.
    pub segment_bytes: u64,
    /// Most bytes of one batch.
    pub batch_bytes: u64,
    /// Most bytes of one entry's payload.
    pub max_entry_bytes: u64,
    /// Most entries that wait for the batch after the one that is being written; at most 2^19.
    pub queue_entries: usize,
    /// Most bytes that so wait.
    pub queue_bytes: u64,
    /// Most bytes of segments in all (spares apart), at least two segments.
    pub total_quota: u64,
    /// The highest position that the store is known to have applied: a journal that ends before it is damaged.
    pub store_applied: u64,
    /// New entries are refused while the oldest one that is not synced is older than this.
    pub stall_after: Duration,
    /// The time that stalls are measured in.
    pub monotonic: Monotonic,
}

impl JournalOptions {
    /// The defaults, in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            segment_bytes: 64 << 20,
            batch_bytes: 8 << 20,
            max_entry_bytes: 4 << 20,
            queue_entries: 65_536,
            queue_bytes: 8 << 20,
            total_quota: 8 << 30,
            store_applied: 0,
            stall_after: Duration::from_secs(1),
            monotonic: Monotonic::default(),
        }
    }

    fn validate(&self) -> Result<(), OpenError> {
        let problem = if !(4 << 10..=1 << 30).contains(&self.segment_bytes) {
            "segment_bytes must be between 4 KiB and 1 GiB"
        } else if self.max_entry_bytes > self.segment_bytes / 4 {
            "max_entry_bytes must be at most a quarter of segment_bytes"
        } else if self.batch_bytes < self.max_entry_bytes + 1024 || self.batch_bytes > self.segment_bytes {
            "batch_bytes must be between max_entry_bytes + 1024 and segment_bytes"
        } else if !(1..=1 << 19).contains(&self.queue_entries) {
            "queue_entries must be between 1 and 524288"
        } else if self.queue_bytes < self.max_entry_bytes + 1024 {
            "queue_bytes must be at least max_entry_bytes + 1024"
        } else if self.total_quota < 2 * self.segment_bytes {
            "total_quota must be at least two segments"
        } else {
            return Ok(());
        };
        Err(OpenError::Options(problem.to_owned()))
    }
}

/// An entry to be kept.
#[derive(Debug)]
pub struct Submission<T> {
    /// Its bytes.
    pub payload: Vec<u8>,
    /// Comes back with the outcome.
    pub ticket: T,
}

/// An entry that is kept.
#[derive(Debug, PartialEq, Eq)]
pub struct Committed<T> {
    /// Its number.
    pub position: u64,
    /// When it was accepted: strictly increasing with the position.
    pub accepted_at: EventTime,
    /// Where it is in its segment: what [`JournalReader::read`] wants.
    pub offset: u32,
    /// Its length in the segment.
    pub bytes: u32,
    /// What was submitted with it.
    pub ticket: T,
}

/// Hears what became of entries, on the committer's thread: what it does there delays the next batch.
pub trait Sink<T>: Send {
    /// These are kept; in order of position.
    fn committed(&mut self, batch: Vec<Committed<T>>);
    /// These are not acknowledged, and nothing will be after them. `kept` says what is known of them.
    fn failed(&mut self, tickets: Vec<T>, kept: Kept, error: Arc<JournalError>);
}
