//! Who was admitted before a swap, and is still under way.
//!
//! Every placed hold begins an epoch. A request is counted into the epoch under which it is admitted, and
//! off when it has its answer; what is left in earlier epochs is what a hold has not stopped.

use super::sync::{AtomicU64, Ordering, in_one_order};

/// Operations that are counted apart.
const OPERATIONS: usize = 4;
/// Sites are counted in so many groups, by hash: a site's figure may have others' in it, never too little.
pub const GROUPS: usize = 64;
/// Counters of one epoch.
pub const CELLS: usize = OPERATIONS * GROUPS;

/// The counters of one epoch.
#[derive(Debug)]
pub struct Epoch {
    admitted: Box<[AtomicU64]>,
    ended: Box<[AtomicU64]>,
}

impl Epoch {
    /// One that has seen nothing, with `cells` counters.
    pub fn new(cells: usize) -> Self {
        let zeros = || (0..cells).map(|_| AtomicU64::new(0)).collect();
        Self { admitted: zeros(), ended: zeros() }
    }

    /// Counts a request in.
    pub fn enter(&self, cell: usize) {
        if let Some(admitted) = self.admitted.get(cell) {
            // Before the look at the current version, in the one order that all threads agree on.
            admitted.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Counts a request off.
    pub fn leave(&self, cell: usize) {
        if let Some(ended) = self.ended.get(cell) {
            ended.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Requests that were counted in, since the epoch began.
    pub fn admitted(&self, cell: usize) -> u64 {
        self.admitted.get(cell).map_or(0, |admitted| admitted.load(Ordering::Relaxed))
    }

    /// Requests that are under way in those cells; never fewer than there are.
    pub fn under_way(&self, cells: impl Iterator<Item = usize>) -> u64 {
        let mut sum = 0;
        for cell in cells {
            // In this order: one that ends in between is counted as under way.
            let ended = self.ended.get(cell).map_or(0, |ended| ended.load(Ordering::SeqCst));
            let admitted = self.admitted.get(cell).map_or(0, |admitted| admitted.load(Ordering::SeqCst));
            sum += admitted - ended;
        }
        sum
    }

    /// The same over all cells.
    pub fn all_under_way(&self) -> u64 {
        self.under_way(0..self.admitted.len())
    }
}

/// Which version of the holds is in force.
///
/// A request reads a version, is counted in, and then looks whether a newer one has come in force: then it
/// is counted off and starts again. Whoever brings a version in force reads the counters afterwards. Of
/// these two pairs of steps, at least one sees the other: a request of an older version either is in the
/// figure, or is judged anew.
#[derive(Debug)]
pub struct Turnstile {
    in_force: AtomicU64,
}

impl Turnstile {
    /// Version `version` is in force.
    pub fn new(version: u64) -> Self {
        Self { in_force: AtomicU64::new(version) }
    }

    /// Brings `version` in force; whoever reads the counters afterwards finds all requests of older ones.
    pub fn advance(&self, version: u64) {
        self.in_force.store(version, Ordering::SeqCst);
        in_one_order();
    }

    /// Admits a request under the version that `load` finds.
    pub fn admit<S>(
        &self,
        load: impl Fn() -> S,
        version: impl Fn(&S) -> u64,
        epoch: impl Fn(&S) -> &Epoch,
        cell: usize,
    ) -> S {
        loop {
            let found = load();
            epoch(&found).enter(cell);
            in_one_order();
            if self.in_force.load(Ordering::SeqCst) <= version(&found) {
                return found;
            }
            epoch(&found).leave(cell);
        }
    }
}
