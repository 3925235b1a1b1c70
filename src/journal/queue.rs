//! The bounded queue before the committer. Its lock is only ever held for a few instructions: nothing here
//! waits for the disk.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use super::error::{JournalError, RollError, SubmitReason};
use super::format::ENTRY_HEADER;
use super::log::Room;
use super::{JournalOptions, Submission};

/// Whether entries are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Open,
    /// No more; what waits is written.
    Stopping,
    /// The same, and then the mark of an orderly end.
    Closing,
}

/// What waits, and what is known of the disk.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    pub items: Vec<Submission<T>>,
    pub bytes: u64,
    /// When the oldest of `items` was taken.
    pub waiting_since: Option<Instant>,
    /// Bytes and age of what the committer is writing.
    pub writing_bytes: u64,
    pub writing_since: Option<Instant>,
    /// Whether the committer has to be woken.
    pub sleeping: bool,
    pub life: Life,
    /// The room has changed by something else than a batch.
    pub recount: bool,
    pub failed: Option<Arc<JournalError>>,
    /// Who waits for a new segment to be begun.
    pub rolls: Vec<SyncSender<Result<u64, RollError>>>,
    /// Bytes that may be in `bytes` and `writing_bytes` together.
    pub room: Room,
    /// Bytes of the quota in use by what is written.
    pub used: u64,
    /// Bytes of the quota that entries may take.
    pub for_entries: u64,
    limits: Limits,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    entries: usize,
    bytes: u64,
    entry: u64,
    stall_after: Duration,
}

/// Bytes that an entry takes in a segment.
pub(crate) fn cost(payload: &[u8]) -> u64 {
    (ENTRY_HEADER + payload.len()) as u64
}

impl<T> Queue<T> {
    pub fn new(options: &JournalOptions, room: Room, used: u64) -> Self {
        Self {
            items: Vec::new(),
            bytes: 0,
            waiting_since: None,
            writing_bytes: 0,
            writing_since: None,
            sleeping: false,
            life: Life::Open,
            recount: false,
            failed: None,
            rolls: Vec::new(),
            room,
            used,
            for_entries: options.total_quota,
            limits: Limits {
                entries: options.queue_entries,
                bytes: options.queue_bytes,
                entry: options.max_entry_bytes,
                stall_after: options.stall_after,
            },
        }
    }

    pub fn oldest(&self, now: Instant) -> Option<Duration> {
        self.writing_since.or(self.waiting_since).map(|since| now.saturating_duration_since(since))
    }

    pub fn stalled(&self, now: Instant) -> Option<Duration> {
        self.oldest(now).filter(|oldest| *oldest > self.limits.stall_after)
    }

    /// Whether entries of these sizes can be taken now.
    pub fn admit(&self, now: Instant, entries: usize, bytes: u64, largest: u64) -> Result<(), SubmitReason> {
        if let Some(error) = &self.failed {
            return Err(SubmitReason::Failed(Arc::clone(error)));
        }
        if self.life != Life::Open {
            return Err(SubmitReason::Closed);
        }
        let limit = self.limits.entry;
        if largest > limit {
            return Err(SubmitReason::TooLarge { bytes: largest, limit });
        }
        if bytes > self.limits.bytes {
            return Err(SubmitReason::TooLarge { bytes, limit: self.limits.bytes });
        }
        if let Some(oldest) = self.stalled(now) {
            return Err(SubmitReason::Stalled { oldest });
        }
        if self.bytes + self.writing_bytes + bytes > self.room.bytes {
            if !self.room.is_final {
                // Whether the disk has room for another segment is about to be known.
                return Err(SubmitReason::Overloaded);
            }
            return Err(SubmitReason::Full { used: self.used_with_waiting(), limit: self.for_entries });
        }
        if self.items.len() + entries > self.limits.entries || self.bytes + bytes > self.limits.bytes {
            return Err(SubmitReason::Overloaded);
        }
        Ok(())
    }

    /// Notes what has been added; whether the committer has to be woken.
    pub fn added(&mut self, now: Instant, bytes: u64) -> bool {
        self.bytes += bytes;
        self.waiting_since.get_or_insert(now);
        std::mem::take(&mut self.sleeping)
    }

    /// Takes out what will not be written.
    pub fn drop_waiting(&mut self) -> Vec<Submission<T>> {
        self.bytes = 0;
        self.writing_bytes = 0;
        self.waiting_since = None;
        self.writing_since = None;
        // Whoever waits for one of these sees why in `failed` and `life`.
        self.rolls.clear();
        std::mem::take(&mut self.items)
    }

    pub fn used_with_waiting(&self) -> u64 {
        self.used + self.bytes + self.writing_bytes
    }
}
