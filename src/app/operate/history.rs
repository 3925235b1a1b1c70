//! The recent past in a bounded number of samples: how fast the journal fills, how fast entries are applied,
//! how old the oldest one that waits is. No clock: `now` is passed in.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::model::{EventTime, Site};

/// Samples a second apart, for a minute; and ten seconds apart, for ten minutes.
const FINE: usize = 61;
const COARSE: usize = 61;
const COARSE_EVERY: Duration = Duration::from_secs(10);

/// Sites whose use of the journal is followed: those that use most of it.
pub const FOLLOWED: usize = 100;

/// What is noted each second.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// The wall time.
    pub wall: EventTime,
    /// The journal's last durable position.
    pub end: u64,
    /// Entries that wait.
    pub pending: u64,
    /// Bytes of the journal in use.
    pub used: u64,
    /// Bytes of entries that wait.
    pub pending_bytes: u64,
    /// Bytes of entries that wait, of the sites that have most.
    pub sites: HashMap<Site, u64>,
}

/// The samples.
#[derive(Debug)]
pub struct History {
    fine: VecDeque<(Instant, Sample)>,
    coarse: VecDeque<(Instant, Sample)>,
}

impl History {
    /// Begins with `first`.
    pub fn new(now: Instant, first: Sample) -> Self {
        Self { fine: VecDeque::from([(now, first.clone())]), coarse: VecDeque::from([(now, first)]) }
    }

    /// One more, about a second after the last.
    pub fn add(&mut self, now: Instant, sample: Sample) {
        let due = |(at, _): &(Instant, Sample)| now.saturating_duration_since(*at) >= COARSE_EVERY;
        if self.coarse.back().is_none_or(due) {
            self.coarse.push_back((now, sample.clone()));
        }
        self.fine.push_back((now, sample));
        for (samples, limit) in [(&mut self.fine, FINE), (&mut self.coarse, COARSE)] {
            while samples.len() > limit {
                samples.pop_front();
            }
        }
    }

    /// The newest sample that is at least `age` old; otherwise the oldest.
    fn before(&self, now: Instant, age: Duration) -> Option<&(Instant, Sample)> {
        let old_enough = |(at, _): &&(Instant, Sample)| now.saturating_duration_since(*at) >= age;
        let found = self.fine.iter().rev().find(old_enough);
        found.or_else(|| self.coarse.iter().rev().find(old_enough)).or_else(|| self.coarse.front())
    }

    /// How fast a figure has been rising over the last `age`, per second; below 0 if it fell.
    pub fn rate(
        &self,
        now: Instant,
        age: Duration,
        current: u64,
        figure: impl Fn(&Sample) -> Option<u64>,
    ) -> f64 {
        let Some((at, then)) = self.before(now, age) else { return 0.0 };
        let seconds = now.saturating_duration_since(*at).as_secs_f64();
        match figure(then) {
            Some(then) if seconds >= 0.5 => (current as f64 - then as f64) / seconds,
            _ => 0.0,
        }
    }

    /// Entries made durable in the last ten minutes, or since the start if that is later.
    pub fn lately(&self, end: u64) -> u64 {
        self.coarse.front().map_or(0, |(_, first)| end.saturating_sub(first.end))
    }

    /// When the entry at `position` was accepted, at the latest: the first sample that knows it.
    pub fn accepted_by(&self, position: u64) -> Option<EventTime> {
        let knows = |(_, sample): &&(Instant, Sample)| sample.end >= position;
        // The coarse samples reach further back, the fine ones tell it better.
        let fine_enough = self.fine.front().is_some_and(|(_, first)| first.end < position);
        let samples = if fine_enough { &self.fine } else { &self.coarse };
        samples.iter().find(knows).map(|(_, sample)| sample.wall)
    }
}

/// Time until something with `room` left is full: at the faster of what the last half minute and the last five
/// minutes were like, so that a hold shows at once and a pause does not hide what goes on.
pub fn time_to_full(
    history: &History,
    now: Instant,
    room: u64,
    current: u64,
    figure: impl Fn(&Sample) -> Option<u64>,
) -> Option<Duration> {
    /// Slower than this is not filling.
    const LEAST: f64 = 16.0;
    let rate = [30, 300]
        .into_iter()
        .map(|seconds| history.rate(now, Duration::from_secs(seconds), current, &figure))
        .fold(0.0, f64::max);
    // Ten years: beyond what is foreseeable, and within what a Duration holds.
    (rate > LEAST).then(|| Duration::from_secs_f64((room as f64 / rate).min(3.2e8)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(second: u64, used: u64) -> Sample {
        Sample { wall: EventTime(second), end: second * 10, used, ..Sample::default() }
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn the_past_is_bounded_and_rates_are_those_of_their_time() {
        let start = Instant::now();
        let mut history = History::new(start, sample(0, 0));
        for second in 1..2_000 {
            history.add(after(start, second), sample(second, 1_000 * second));
        }
        assert!(history.fine.len() == FINE && history.coarse.len() == COARSE);
        let now = after(start, 2_000);
        for age in [1, 10, 30, 300, 10_000] {
            let rate = history.rate(now, Duration::from_secs(age), 2_000_000, |sample| Some(sample.used));
            assert!((rate - 1_000.0).abs() < 1.0, "{age}: {rate}");
        }
        assert_eq!(time_to_full(&history, now, 60_000, 2_000_000, |s| Some(s.used)).unwrap().as_secs(), 60);
        assert_eq!(time_to_full(&history, now, 60_000, 2_000_000, |_| Some(2_000_000)), None);
    }

    #[test]
    fn a_new_hold_shows_within_seconds() {
        let start = Instant::now();
        let mut history = History::new(start, sample(0, 0));
        for second in 1..600 {
            history.add(after(start, second), sample(second, 500));
        }
        for second in 600..610 {
            history.add(after(start, second), sample(second, 500 + (second - 600) * 3_000));
        }
        let left = time_to_full(&history, after(start, 610), 300_000, 30_500, |s| Some(s.used)).unwrap();
        assert!((250..350).contains(&left.as_secs()), "{left:?}");
    }

    #[test]
    fn the_age_of_an_entry_is_known_to_a_second_and_later_to_ten() {
        let start = Instant::now();
        let mut history = History::new(start, sample(0, 0));
        for second in 1..100 {
            history.add(after(start, second), sample(second, 0));
        }
        assert_eq!(history.accepted_by(955), Some(EventTime(96)));
        assert_eq!(history.accepted_by(95), Some(EventTime(10)));
        assert_eq!(history.accepted_by(2_000), None);
        assert_eq!(history.lately(1_000), 1_000);
    }
}
