//! A stripe that belongs to one thread: its owner adds with plain loads and stores.

use super::sync::{AtomicU64, Ordering, light_fence};

/// Space behind the tallies of a stripe, so that two never share a cache line (in tallies of 32 bytes).
const STRIPE_GAP: usize = 4;
/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It answered.
    Good,
    /// It failed.
    Bad,
    /// It was given up: it says nothing about the backend.
    Void,
}

/// The counts of one bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls that began in it.
    pub begun: u64,
    /// Of these: ended well.
    pub good: u64,
    /// Ended badly.
    pub bad: u64,
    /// Given up.
    pub void: u64,
}

impl Counts {
    /// Calls still in flight.
    pub fn open(self) -> u64 {
        self.begun.saturating_sub(self.good + self.bad + self.void)
    }

    pub(super) fn add(&mut self, more: Self) {
        self.begun += more.begun;
        self.good += more.good;
        self.bad += more.bad;
        self.void += more.void;
    }
}

/// The counts of one bucket in an owned stripe.
#[derive(Debug)]
struct Tally {
    begun: AtomicU64,
    good: AtomicU64,
    bad: AtomicU64,
    void: AtomicU64,
}

/// The counters of one thread.
#[derive(Debug)]
pub(super) struct Owned {
    /// 1 while its owner counts.
    busy: AtomicU64,
    tallies: Box<[Tally]>,
}

impl Owned {
    pub(super) fn new(slots: u32) -> Self {
        let zero = || AtomicU64::new(0);
        let tally = || Tally { begun: zero(), good: zero(), bad: zero(), void: zero() };
        let tallies = (0..slots as usize + STRIPE_GAP).map(|_| tally()).collect();
        Self { busy: zero(), tallies }
    }

    /// Only its owner calls this. Seen by who rolls the ring, or sees who does in the gate that it reads next.
    #[inline]
    pub(super) fn enter(&self) {
        self.busy.store(1, Ordering::Relaxed);
        light_fence();
    }

    #[inline]
    pub(super) fn leave(&self) {
        self.busy.store(0, Ordering::Release);
    }

    /// Between [`enter`](Self::enter) and [`leave`](Self::leave): counts a call that began; false if there is no such
    /// slot.
    #[inline]
    pub(super) fn begun(&self, slot: usize) -> bool {
        let Some(tally) = self.tallies.get(slot) else { return false };
        add_one(&tally.begun);
        true
    }

    /// The same for a call that ended.
    #[inline]
    pub(super) fn ended(&self, slot: usize, ending: Ending) -> bool {
        let Some(tally) = self.tallies.get(slot) else { return false };
        add_one(match ending {
            Ending::Good => &tally.good,
            Ending::Bad => &tally.bad,
            Ending::Void => &tally.void,
        });
        true
    }

    /// Whether its owner is counting.
    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire) != 0
    }

    /// Takes the counts of a slot; its owner is kept away.
    pub(super) fn take(&self, slot: usize) -> Counts {
        let Some(Tally { begun, good, bad, void }) = self.tallies.get(slot) else {
            return Counts::default();
        };
        let take = |count: &AtomicU64| {
            let counted = count.load(Ordering::Relaxed);
            count.store(0, Ordering::Relaxed);
            counted
        };
        Counts { begun: take(begun), good: take(good), bad: take(bad), void: take(void) }
    }

    pub(super) fn read(&self, slot: usize) -> Counts {
        let Some(Tally { begun, good, bad, void }) = self.tallies.get(slot) else {
            return Counts::default();
        };
        let read = |count: &AtomicU64| count.load(Ordering::Acquire);
        Counts { begun: read(begun), good: read(good), bad: read(bad), void: read(void) }
    }
}

/// Adds one to a counter that nobody else writes.
#[inline]
fn add_one(count: &AtomicU64) {
    count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}
