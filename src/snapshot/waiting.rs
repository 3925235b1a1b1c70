//! The waiting set: the positions before a snapshot's start that had not been applied when it was begun.

use super::records;
use crate::store::keys;

/// Runs of one record of the file: about 256 KiB.
const RUNS: usize = 40_000;

/// A set of positions, as runs of neighbours: 16 bytes each, which is half of what a waiting entry takes in
/// its lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    start: u64,
    /// First and last position; in order, apart by at least 2.
    runs: Vec<(u64, u64)>,
    count: u64,
}

impl Waiting {
    /// The set of `positions` (in order, each once) of a snapshot that starts at `start`.
    pub fn new(start: u64, positions: impl IntoIterator<Item = u64>) -> Self {
        let mut set = Self { start, ..Self::default() };
        for position in positions {
            match set.runs.last_mut() {
                Some((_, last)) if *last + 1 == position => *last = position,
                _ => set.runs.push((position, position)),
            }
            set.count += 1;
        }
        set
    }

    /// The snapshot's start: everything from here on counts anyway.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Whether `position` is in the set.
    pub fn contains(&self, position: u64) -> bool {
        let at = self.runs.partition_point(|(first, _)| *first <= position);
        at.checked_sub(1).and_then(|at| self.runs.get(at)).is_some_and(|(_, last)| position <= *last)
    }

    /// Whether the entry at `position` counts when a store is built from the snapshot and the journal: those
    /// before the start only if they waited, all others.
    pub fn counts(&self, position: u64) -> bool {
        position >= self.start || self.contains(position)
    }

    /// How many positions there are.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The lowest position.
    pub fn first(&self) -> Option<u64> {
        self.runs.first().map(|(first, _)| *first)
    }

    /// The records of the file.
    pub(super) fn encode(&self) -> impl Iterator<Item = Vec<u8>> {
        let mut end = 0;
        self.runs.chunks(RUNS).map(move |runs| {
            let apart: Vec<(u64, u64)> = runs
                .iter()
                .map(|(first, last)| {
                    let distance = first - end;
                    end = *last;
                    (distance, last - first)
                })
                .collect();
            keys::encode(&apart)
        })
    }

    /// Adds what the next record of the file says.
    pub(super) fn extend(&mut self, record: &[u8]) -> Result<(), records::Wrong> {
        let problem = || "positions that are not in order, or not before the start".to_owned();
        for (distance, length) in records::decode_runs(record)? {
            let (first, least) = match self.runs.last() {
                Some((_, end)) => (end.checked_add(distance), 2),
                None => (Some(distance), 1),
            };
            let run = first.and_then(|first| Some((first, first.checked_add(length)?)));
            let (first, last) =
                run.filter(|(_, last)| distance >= least && *last < self.start).ok_or_else(problem)?;
            self.runs.push((first, last));
            // No overflow: the runs are apart and below the start.
            self.count += last - first + 1;
        }
        Ok(())
    }

    pub(super) fn before(start: u64) -> Self {
        Self { start, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_counts_and_so_does_all_from_the_start_on() {
        let set = Waiting::new(100, [3, 4, 5, 9, 99]);
        assert_eq!((set.len(), set.first(), set.runs.len()), (5, Some(3), 3));
        for position in 1..100 {
            let waits = [3, 4, 5, 9, 99].contains(&position);
            assert_eq!((set.contains(position), set.counts(position)), (waits, waits), "{position}");
        }
        assert!(set.counts(100) && !set.contains(100));
        assert!(Waiting::new(1, []).is_empty() && Waiting::new(1, []).first().is_none());
    }

    #[test]
    fn it_reads_back_and_lies_are_refused() {
        let set = Waiting::new(1 << 40, (0..100_000).map(|n| n * 3 + 1));
        let mut again = Waiting::before(1 << 40);
        let records: Vec<_> = set.encode().collect();
        assert!(records.len() > 1);
        for record in &records {
            again.extend(record).unwrap();
        }
        assert_eq!(again, set);
        let lies: [&[(u64, u64)]; 5] =
            [&[(0, 0)], &[(5, u64::MAX)], &[(1, 1), (1, 0)], &[(200, 0)], &[(1, 98), (1, 0)]];
        for lie in lies {
            assert!(Waiting::before(100).extend(&keys::encode(&lie)).is_err(), "{lie:?}");
        }
    }
}
