//! The ledger: over an interval of the journal, what was accepted and what became of it. It is what an
//! incident's proof stands on: accepted = applied + unchanged + duplicate + refused + pending.
//!
//! The two sides are counted apart: acceptance when entries become durable, ends when the applier has dealt
//! with them, and what waits is looked up in the lanes. An interval begins, for each site that it covers, at a
//! position; only entries from there on count, on both sides. Both threads count inside the book, shared;
//! beginning, ending and reading an interval have it to themselves. So a sum that is read is never in the
//! middle of something. While no interval is open, all this costs one uncontended lock a batch.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use crate::model::Site;

/// Intervals at once. A further one is refused: its incident has no sums.
pub const MAX_INTERVALS: usize = 32;

/// How an entry ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It made a new version.
    Applied,
    /// There was nothing to change.
    Unchanged,
    /// It repeated an earlier one.
    Duplicate,
    /// It could not be applied; it is on the list of refused entries.
    Refused,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Sums {
    /// Entries made durable.
    pub accepted: u64,
    /// Of them: a new version.
    pub applied: u64,
    /// Of them: nothing to change.
    pub unchanged: u64,
    /// Of them: repeats.
    pub duplicate: u64,
    /// Of them: refused when their turn came.
    pub refused: u64,
    /// Of them: still waiting.
    pub pending: u64,
    /// Writes answered as deferred.
    pub deferred: u64,
    /// Writes that were not accepted, for no fault of the caller.
    pub writes_rejected: u64,
    /// Reads that were refused, for no fault of the caller.
    pub reads_rejected: u64,
    /// The first position that was accepted; 0: none.
    pub first: u64,
    /// The last one; 0: none.
    pub last: u64,
}

impl Sums {
    /// Entries that have ended.
    pub fn ended(&self) -> u64 {
        self.applied + self.unchanged + self.duplicate + self.refused
    }

    /// Whether nothing is missing and nothing is there twice.
    pub fn is_balanced(&self) -> bool {
        self.accepted == self.ended() + self.pending
    }

    fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.applied += other.applied;
        self.unchanged += other.unchanged;
        self.duplicate += other.duplicate;
        self.refused += other.refused;
        self.pending += other.pending;
        self.deferred += other.deferred;
        self.writes_rejected += other.writes_rejected;
        self.reads_rejected += other.reads_rejected;
        self.first = [self.first, other.first].into_iter().filter(|at| *at > 0).min().unwrap_or(0);
        self.last = self.last.max(other.last);
    }
}

/// From which position on sites count.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Coverage {
    /// Single sites.
    pub sites: HashMap<Site, u64>,
    /// All others.
    pub all: Option<u64>,
}

impl Coverage {
    /// The first position that counts for `site`.
    pub fn from(&self, site: &Site) -> Option<u64> {
        match (self.sites.get(site).copied(), self.all) {
            (Some(one), Some(all)) => Some(one.min(all)),
            (one, all) => one.or(all),
        }
    }

    fn merge(&mut self, other: Self) {
        for (site, from) in other.sites {
            let known = self.sites.entry(site).or_insert(from);
            *known = from.min(*known);
        }
        self.all = [self.all, other.all].into_iter().flatten().min();
    }
}

#[derive(Debug, Default)]
struct Interval {
    covers: Coverage,
    /// Set once it is over: later positions do not count.
    until: Option<u64>,
    /// What an earlier process counted.
    carried: Sums,
    by_site: Mutex<HashMap<Site, Sums>>,
}

impl Interval {
    fn counts(&self, site: &Site, position: u64) -> bool {
        self.covers.from(site).is_some_and(|from| from <= position)
            && self.until.is_none_or(|until| position <= until)
    }

    fn note(&self, site: &Site, note: impl FnOnce(&mut Sums)) {
        let mut by_site = self.by_site.lock();
        match by_site.get_mut(site) {
            Some(sums) => note(sums),
            None => note(by_site.entry(site.clone()).or_default()),
        }
    }

    /// The counts of both, each entry once: of a site that both cover, the one that began earlier has all.
    fn merge(&mut self, other: Self) {
        let (mine, theirs) = (self.by_site.get_mut(), other.by_site.into_inner());
        for (site, sums) in theirs {
            let earlier = match (self.covers.from(&site), other.covers.from(&site)) {
                (Some(mine), Some(theirs)) => theirs < mine,
                (mine, _) => mine.is_none(),
            };
            if earlier {
                mine.insert(site, sums);
            } else {
                mine.entry(site).or_default();
            }
        }
        // Sites that only the other covers from earlier on, without a count of their own, keep ours: then both
        // counted the same nothing before.
        self.covers.merge(other.covers);
        self.carried.add(&other.carried);
        self.until = None;
    }
}

/// Counts entries by interval; shared by everybody who deals with entries.
#[derive(Debug, Default)]
pub struct Ledger {
    book: RwLock<HashMap<u64, Interval>>,
    /// The last position that became durable.
    durable: AtomicU64,
}

/// The book, opened for counting. Must be taken before a lane's lock, and be held until the lane knows the same.
#[derive(Debug)]
pub struct Book<'a> {
    book: RwLockReadGuard<'a, HashMap<u64, Interval>>,
    durable: &'a AtomicU64,
}

impl Book<'_> {
    /// Whether anybody wants to know.
    pub fn is_open(&self) -> bool {
        !self.book.is_empty()
    }

    /// An entry became durable; in order of position.
    pub fn accepted(&self, site: &Site, position: u64) {
        self.durable.store(position, Ordering::Release);
        for interval in self.book.values().filter(|interval| interval.counts(site, position)) {
            interval.note(site, |sums| {
                sums.accepted += 1;
                sums.first = if sums.first == 0 { position } else { sums.first.min(position) };
                sums.last = sums.last.max(position);
            });
        }
    }

    /// An entry has ended.
    pub fn ended(&self, site: &Site, position: u64, ending: Ending) {
        for interval in self.book.values().filter(|interval| interval.counts(site, position)) {
            interval.note(site, |sums| match ending {
                Ending::Applied => sums.applied += 1,
                Ending::Unchanged => sums.unchanged += 1,
                Ending::Duplicate => sums.duplicate += 1,
                Ending::Refused => sums.refused += 1,
            });
        }
    }
}

/// The interval could not be opened: there are as many as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are {MAX_INTERVALS} intervals already")]
pub struct TooMany;

impl Ledger {
    /// An empty one; `durable` is the journal's last position.
    pub fn new(durable: u64) -> Self {
        Self { book: RwLock::default(), durable: AtomicU64::new(durable) }
    }

    /// Opens the book for counting.
    pub fn enter(&self) -> Book<'_> {
        Book { book: self.book.read(), durable: &self.durable }
    }

    /// The last position that became durable.
    pub fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Has the interval `id` (new if need be) cover `site`, or all of them, from the next position on.
    pub fn cover(&self, id: u64, site: Option<&Site>) -> Result<(), TooMany> {
        let mut book = self.book.write();
        if book.len() >= MAX_INTERVALS && !book.contains_key(&id) {
            return Err(TooMany);
        }
        let next = self.durable.load(Ordering::Acquire) + 1;
        let covers = &mut book.entry(id).or_default().covers;
        match site {
            Some(site) => drop(covers.sites.entry(site.clone()).or_insert(next)),
            None => drop(covers.all.get_or_insert(next)),
        }
        Ok(())
    }

    /// Takes up an interval of an earlier process: from now on it counts what is new, and `carried` is what had
    /// been counted.
    pub fn resume(&self, id: u64, covers: Coverage, carried: Sums) -> Result<(), TooMany> {
        let mut book = self.book.write();
        if book.len() >= MAX_INTERVALS {
            return Err(TooMany);
        }
        book.insert(id, Interval { covers, carried, ..Interval::default() });
        Ok(())
    }

    /// Makes one interval of two.
    pub fn merge(&self, from: u64, into: u64) {
        let mut book = self.book.write();
        let Some(other) = book.remove(&from) else { return };
        match book.get_mut(&into) {
            Some(interval) => interval.merge(other),
            None => drop(book.insert(into, other)),
        }
    }

    /// Ends an interval: what becomes durable from now on does not count; what has, is followed to its end.
    pub fn end(&self, id: u64) {
        let mut book = self.book.write();
        let durable = self.durable.load(Ordering::Acquire);
        if let Some(interval) = book.get_mut(&id) {
            interval.until.get_or_insert(durable);
        }
    }

    /// Counts it no further.
    pub fn forget(&self, id: u64) {
        self.book.write().remove(&id);
    }

    /// A write was answered as deferred.
    pub fn deferred(&self, site: &Site) {
        self.answered(site, |sums| sums.deferred += 1);
    }

    /// A write was not accepted, for no fault of the caller.
    pub fn write_rejected(&self, site: &Site) {
        self.answered(site, |sums| sums.writes_rejected += 1);
    }

    /// A read was refused, for no fault of the caller.
    pub fn read_rejected(&self, site: &Site) {
        self.answered(site, |sums| sums.reads_rejected += 1);
    }

    fn answered(&self, site: &Site, note: impl Fn(&mut Sums)) {
        for interval in self.book.read().values() {
            if interval.until.is_none() && interval.covers.from(site).is_some() {
                interval.note(site, &note);
            }
        }
    }

    /// The sums of an interval, and what it covers. `waiting` is asked once, with a function that tells which
    /// positions of a site count, and answers how many of those wait in the lanes; nothing is counted meanwhile.
    pub fn read(
        &self,
        id: u64,
        waiting: impl FnOnce(&dyn Fn(&Site) -> Option<(u64, u64)>) -> u64,
    ) -> Option<(Sums, Coverage)> {
        let mut book = self.book.write();
        let interval = book.get_mut(&id)?;
        let mut sums = interval.carried;
        for site in interval.by_site.get_mut().values() {
            sums.add(site);
        }
        let until = interval.until.unwrap_or(u64::MAX);
        let covers = interval.covers.clone();
        sums.pending = waiting(&|site| covers.from(site).map(|from| (from, until)));
        Some((sums, covers))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn site(n: usize) -> Site {
        Site::new(format!("s{n}"))
    }

    /// A journal with lanes, as simple as can be.
    #[derive(Default)]
    struct Lanes(Vec<(usize, u64)>);

    impl Lanes {
        fn read(&self, ledger: &Ledger, id: u64) -> Option<Sums> {
            let waiting = |range: &dyn Fn(&Site) -> Option<(u64, u64)>| {
                let within =
                    |(n, at): &&(usize, u64)| range(&site(*n)).is_some_and(|(a, b)| a <= *at && *at <= b);
                self.0.iter().filter(within).count() as u64
            };
            ledger.read(id, waiting).map(|(sums, _)| sums)
        }
    }

    #[test]
    fn only_what_is_covered_counts() {
        let ledger = Ledger::new(4);
        ledger.enter().accepted(&site(0), 5);
        ledger.cover(1, Some(&site(0))).unwrap();
        for (n, position) in [(0, 6), (1, 7), (0, 9)] {
            ledger.enter().accepted(&site(n), position);
        }
        ledger.enter().ended(&site(0), 5, Ending::Applied);
        ledger.enter().ended(&site(0), 9, Ending::Refused);
        ledger.deferred(&site(0));
        ledger.deferred(&site(1));
        ledger.write_rejected(&site(0));
        ledger.end(1);
        ledger.enter().accepted(&site(0), 10);
        let sums = Lanes(vec![(0, 6), (1, 7), (0, 10)]).read(&ledger, 1).unwrap();
        assert_eq!((sums.accepted, sums.refused, sums.pending, sums.applied), (2, 1, 1, 0));
        assert_eq!((sums.deferred, sums.writes_rejected, sums.first, sums.last), (1, 1, 6, 9));
        assert!(sums.is_balanced());
        ledger.forget(1);
        assert_eq!(Lanes::default().read(&ledger, 1), None);
    }

    #[test]
    fn intervals_are_bounded() {
        let ledger = Ledger::new(0);
        for id in 0..MAX_INTERVALS as u64 {
            ledger.cover(id, None).unwrap();
        }
        assert_eq!(ledger.cover(1000, None), Err(TooMany));
        assert_eq!(ledger.cover(0, Some(&site(1))), Ok(()));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Accept(usize),
        End(usize),
        Cover(u64, Option<usize>),
        Merge(u64, u64),
        Close(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..4_usize).prop_map(Step::Accept),
            5 => (0..100_usize).prop_map(Step::End),
            2 => (0..4_u64, proptest::option::of(0..4_usize)).prop_map(|(id, n)| Step::Cover(id, n)),
            1 => (0..4_u64, 0..4_u64).prop_map(|(a, b)| Step::Merge(a, b)),
            1 => (0..4_u64).prop_map(Step::Close),
        ]
    }

    proptest! {
        #[test]
        fn the_sum_is_right_at_any_time(steps in proptest::collection::vec(step(), 1..200)) {
            let ledger = Ledger::new(0);
            let mut lanes = Lanes::default();
            let mut position = 0;
            let mut closed = std::collections::HashSet::new();
            for step in steps {
                match step {
                    Step::Accept(n) => {
                        position += 1 + position % 3;
                        lanes.0.push((n, position));
                        ledger.enter().accepted(&site(n), position);
                    }
                    Step::End(at) if !lanes.0.is_empty() => {
                        let (n, position) = lanes.0.remove(at % lanes.0.len());
                        let ending = [Ending::Applied, Ending::Unchanged, Ending::Duplicate, Ending::Refused]
                            [at % 4];
                        ledger.enter().ended(&site(n), position, ending);
                    }
                    Step::Cover(id, n) if !closed.contains(&id) => {
                        ledger.cover(id, n.map(site).as_ref()).unwrap();
                    }
                    Step::Merge(a, b) if a != b && !closed.contains(&a) && !closed.contains(&b) => {
                        ledger.merge(a, b);
                    }
                    Step::Close(id) => {
                        ledger.end(id);
                        closed.insert(id);
                    }
                    _ => {}
                }
                for id in 0..4 {
                    if let Some(sums) = lanes.read(&ledger, id) {
                        prop_assert!(sums.is_balanced(), "{id}: {sums:?}");
                    }
                }
            }
        }
    }
}
