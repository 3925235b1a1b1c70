//! The flush rule: a backend that buffers in memory hides a frozen disk from its calls, but not from its
//! flush.

use std::collections::VecDeque;
use std::time::Duration;

/// A flush is never overdue before this.
const LEAST: Duration = Duration::from_secs(5);
/// Nor before this many times its own median.
const TIMES_MEDIAN: u32 = 5;
/// Durations remembered for the median.
const REMEMBERED: usize = 32;

/// Watches one flush at a time. Overdue when older than max(5 s, 5 x the median of the last 32).
#[derive(Clone, Debug, Default)]
pub struct FlushRule {
    running: Option<Duration>,
    durations: VecDeque<Duration>,
}

impl FlushRule {
    /// A flush began; one that was running is forgotten.
    pub fn started(&mut self, now: Duration) {
        self.running = Some(now);
    }

    /// The running flush ended.
    pub fn finished(&mut self, now: Duration) {
        if let Some(began) = self.running.take() {
            if self.durations.len() == REMEMBERED {
                self.durations.pop_front();
            }
            self.durations.push_back(now.saturating_sub(began));
        }
    }

    /// How old a flush may get.
    pub fn limit(&self) -> Duration {
        let mut sorted: Vec<_> = self.durations.iter().copied().collect();
        sorted.sort_unstable();
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
        LEAST.max(median * TIMES_MEDIAN)
    }

    /// The running flush's age, when it is overdue.
    pub fn overdue(&self, now: Duration) -> Option<Duration> {
        let age = now.saturating_sub(self.running?);
        // Nothing is sorted while all is well.
        (age > LEAST && age > self.limit()).then_some(age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn overdue_after_five_seconds_when_flushes_are_quick() {
        let mut rule = FlushRule::default();
        for n in 0..100 {
            rule.started(s(n));
            rule.finished(s(n) + Duration::from_millis(20));
        }
        rule.started(s(100));
        assert_eq!(rule.overdue(s(105)), None);
        assert_eq!(rule.overdue(s(106)), Some(s(6)));
        rule.finished(s(107));
        assert_eq!(rule.overdue(s(200)), None);
    }

    #[test]
    fn a_slow_disk_is_measured_against_itself() {
        let mut rule = FlushRule::default();
        for n in 0..10 {
            rule.started(s(10 * n));
            rule.finished(s(10 * n + 3));
        }
        rule.started(s(100));
        assert_eq!(rule.overdue(s(115)), None);
        assert_eq!(rule.overdue(s(116)), Some(s(16)));
    }

    #[test]
    fn one_hang_does_not_move_the_median() {
        let mut rule = FlushRule::default();
        for n in 0..5 {
            rule.started(s(n));
            rule.finished(s(n));
        }
        rule.started(s(10));
        rule.finished(s(600));
        assert_eq!(rule.limit(), LEAST);
    }
}
