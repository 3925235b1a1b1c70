//! The line in which lanes stand for their turns.
//!
//! The store works on one turn after the other, in the order in which they were begun. So what a lane waits
//! for is what was begun before: lanes with a backlog have few turns under way at once while others have work,
//! and take turns with them.

use std::collections::VecDeque;

/// Turns that all lanes with a backlog may have under way together while others have work: one in the hands of
/// the store, one ready for it.
const BACKLOG_TURNS: usize = 2;

/// What a lane brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What has just been written.
    Fresh,
    /// More than a turn holds.
    Backlog,
}

/// Lanes that wait for a turn, and how many turns are under way.
#[derive(Debug)]
pub struct Line<T> {
    fresh: VecDeque<T>,
    backlog: VecDeque<T>,
    fresh_running: usize,
    backlog_running: usize,
    limit: usize,
    last: Kind,
}

impl<T> Line<T> {
    /// An empty line: at most `limit` turns are under way at once.
    pub fn new(limit: usize) -> Self {
        Self {
            fresh: VecDeque::new(),
            backlog: VecDeque::new(),
            fresh_running: 0,
            backlog_running: 0,
            limit,
            last: Kind::Fresh,
        }
    }

    /// Puts a lane at its end. A lane stands in it once at most.
    pub fn push(&mut self, lane: T, kind: Kind) {
        match kind {
            Kind::Fresh => self.fresh.push_back(lane),
            Kind::Backlog => self.backlog.push_back(lane),
        }
    }

    /// The lane whose turn begins now, if one may.
    pub fn next(&mut self) -> Option<(T, Kind)> {
        if self.running() >= self.limit {
            return None;
        }
        let others = self.fresh_running > 0 || !self.fresh.is_empty();
        let backlog_may = !others || self.backlog_running < BACKLOG_TURNS;
        let prefer_backlog = backlog_may && (self.last == Kind::Fresh || self.fresh.is_empty());
        let lane = match prefer_backlog.then(|| self.backlog.pop_front()).flatten() {
            Some(lane) => (lane, Kind::Backlog),
            None => (self.fresh.pop_front()?, Kind::Fresh),
        };
        self.last = lane.1;
        match lane.1 {
            Kind::Fresh => self.fresh_running += 1,
            Kind::Backlog => self.backlog_running += 1,
        }
        Some(lane)
    }

    /// A turn has ended, or hangs and is not counted any longer.
    pub fn done(&mut self, kind: Kind) {
        match kind {
            Kind::Fresh => self.fresh_running -= 1,
            Kind::Backlog => self.backlog_running -= 1,
        }
    }

    /// Turns under way.
    pub fn running(&self) -> usize {
        self.fresh_running + self.backlog_running
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backlogs_alone_have_all_turns() {
        let mut line = Line::new(4);
        (0..10).for_each(|n| line.push(n, Kind::Backlog));
        let begun: Vec<_> = std::iter::from_fn(|| line.next()).map(|(n, _)| n).collect();
        assert_eq!((begun, line.running()), (vec![0, 1, 2, 3], 4));
        line.done(Kind::Backlog);
        assert_eq!(line.next(), Some((4, Kind::Backlog)));
        assert_eq!(line.next(), None);
    }

    #[test]
    fn beside_others_backlogs_have_two_and_every_other_turn() {
        let mut line = Line::new(64);
        (0..50).for_each(|n| line.push(n, Kind::Backlog));
        (100..103).for_each(|n| line.push(n, Kind::Fresh));
        let begun: Vec<_> = std::iter::from_fn(|| line.next()).map(|(n, _)| n).collect();
        assert_eq!(begun, [0, 100, 1, 101, 102]);
        // Somebody else's turn is under way: no more than two.
        line.done(Kind::Backlog);
        assert_eq!(line.next(), Some((2, Kind::Backlog)));
        assert_eq!(line.next(), None);
        (0..3).for_each(|_| line.done(Kind::Fresh));
        assert_eq!(line.next(), Some((3, Kind::Backlog)));
        assert_eq!(line.next(), Some((4, Kind::Backlog)));
    }

    #[test]
    fn many_others_leave_backlogs_their_turns() {
        let mut line = Line::new(4);
        let (mut begun, mut turns) = (VecDeque::new(), Vec::new());
        for n in 0..1_000 {
            line.push(n, Kind::Fresh);
            line.push(n, Kind::Backlog);
            begun.extend(std::iter::from_fn(|| line.next()).map(|(_, kind)| kind));
            let oldest = begun.pop_front().unwrap();
            line.done(oldest);
            turns.push(oldest);
        }
        let backlog = turns.iter().filter(|kind| **kind == Kind::Backlog).count();
        assert!((300..=550).contains(&backlog), "{backlog} of 1,000");
    }
}
