//! What happens when entries have become durable: their lanes learn their positions, their callers are
//! told, the applier is woken. Runs on the committer's thread and does nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use super::Pending;
use crate::command::WriteError;
use crate::journal::{Committed, JournalError, Kept, Sink};
use crate::ledger::Ledger;
use crate::sites::SiteState;

/// The configuration that a batch is accepted under; it travels with the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchStamp {
    /// How much newer a repeated set must be to count as a change.
    pub refresh_after: Duration,
    /// Which version of `evaluate` the entries mean.
    pub semantics: u8,
}

/// Bytes of entries held in memory; counted for as long as the entry lives.
#[derive(Clone, Debug)]
pub struct HotMemory {
    used: Arc<AtomicU64>,
    limit: u64,
}

/// One entry's share of [`HotMemory`].
#[derive(Debug)]
pub struct HotShare {
    used: Arc<AtomicU64>,
    bytes: u64,
}

impl HotMemory {
    /// Room for `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self { used: Arc::default(), limit }
    }

    /// Counts `bytes` in until the share is dropped.
    pub fn share(&self, bytes: u32) -> HotShare {
        let bytes = u64::from(bytes);
        self.used.fetch_add(bytes, Ordering::Relaxed);
        HotShare { used: Arc::clone(&self.used), bytes }
    }

    /// Whether waiting entries may stay in memory.
    pub fn has_room(&self) -> bool {
        self.used.load(Ordering::Relaxed) <= self.limit
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

impl Drop for HotShare {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Hands durable entries on.
#[derive(Debug)]
pub struct JournalSink {
    ready: UnboundedSender<Arc<SiteState>>,
    hot: HotMemory,
    settled: Arc<AtomicU64>,
    ledger: Arc<Ledger>,
}

impl JournalSink {
    /// Lanes with work go to `ready`: each at most once until the applier has found it empty, so that
    /// the channel holds at most one message a site. `settled` follows the last position that the lanes
    /// have learnt of; `ledger` counts them.
    pub fn new(
        ready: UnboundedSender<Arc<SiteState>>,
        hot: HotMemory,
        settled: Arc<AtomicU64>,
        ledger: Arc<Ledger>,
    ) -> Self {
        Self { ready, hot, settled, ledger }
    }
}

impl Sink<Arc<Pending>> for JournalSink {
    fn committed(&mut self, batch: Vec<Committed<Arc<Pending>>>) {
        let keep = self.hot.has_room();
        let last = batch.last().map(|done| done.position);
        let book = self.ledger.enter();
        for done in batch {
            let pending = done.ticket;
            // Set once, here: an entry becomes durable once.
            let _first = pending.accepted_at.set(done.accepted_at);
            // Under the lane's lock: whoever waits for durability hears of it before the applier takes the entry,
            // and a read that follows the answer finds the entry in the lane.
            let mut lane = pending.site.lane.lock();
            let schedule = lane.settle(done.position, done.offset, keep);
            book.accepted(&pending.site.site, done.position);
            pending.ticket.durable(done.position);
            drop(lane);
            if schedule {
                // The applier outlives the journal; without it there is nobody to wake.
                drop(self.ready.send(Arc::clone(&pending.site)));
            }
        }
        if let Some(last) = last {
            self.settled.store(last, Ordering::Release);
        }
    }

    fn failed(&mut self, tickets: Vec<Arc<Pending>>, kept: Kept, error: Arc<JournalError>) {
        for pending in tickets {
            let error = error.to_string();
            pending.ticket.fail(match kept {
                Kept::No => WriteError::JournalFailed(error),
                Kept::Unknown => WriteError::JournalFailedInFlight(error),
            });
        }
    }
}
