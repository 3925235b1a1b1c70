//! What the clients saw, call by call, and what can be said of many.

use std::time::Duration;

/// What was asked, and of whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `Identify`.
    Write,
    /// `GetProfile`.
    Read,
    /// `Identify` at the control, which only appends to a log and syncs it.
    ControlWrite,
    /// `GetProfile` at the control, which only answers.
    ControlRead,
}

impl Kind {
    /// Whether it went to the control.
    pub fn is_control(self) -> bool {
        matches!(self, Self::ControlWrite | Self::ControlRead)
    }
}

/// What a call was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Applied; read.
    Done,
    /// Kept, and not applied yet.
    Deferred,
    /// Refused, for this reason.
    Refused(&'static str),
    /// Not within the deadline, or only that it passed.
    Unanswered,
}

/// One call.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// When it was due, from the start.
    pub at: Duration,
    /// How long after that it was answered.
    pub took: Duration,
    /// What it was.
    pub kind: Kind,
    /// Whose site.
    pub site: u32,
    /// Which user.
    pub user: u32,
    /// The answer.
    pub answer: Answer,
}

/// What can be said of some calls.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    /// How many.
    pub calls: u64,
    /// Applied, or read.
    pub done: u64,
    /// Kept and not applied yet.
    pub deferred: u64,
    /// Refused.
    pub refused: u64,
    /// Not answered in time.
    pub unanswered: u64,
    /// Median of the time to an answer.
    pub p50: Duration,
    /// 99th percentile.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

/// How long the control took at the worst while something went on: what the machine did to it then.
pub fn machine_took(samples: &[Sample], from: Duration, to: Duration) -> Duration {
    let control = samples.iter().filter(|sample| sample.kind.is_control());
    let during = control.filter(|sample| sample.at <= to && sample.at + sample.took >= from);
    during.map(|sample| sample.took).max().unwrap_or_default()
}

/// Sums up calls.
pub fn summary<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Summary {
    let mut summary = Summary::default();
    let mut times = Vec::new();
    for sample in samples {
        summary.calls += 1;
        match sample.answer {
            Answer::Done => summary.done += 1,
            Answer::Deferred => summary.deferred += 1,
            Answer::Refused(_) => summary.refused += 1,
            Answer::Unanswered => summary.unanswered += 1,
        }
        times.push(sample.took);
    }
    times.sort_unstable();
    (summary.p50, summary.p99) = (quantile(&times, 0.5), quantile(&times, 0.99));
    summary.max = times.last().copied().unwrap_or_default();
    summary
}

/// The smallest time that this share of the sorted `times` does not exceed.
fn quantile(times: &[Duration], share: f64) -> Duration {
    let rank = (times.len() as f64 * share).ceil() as usize;
    times.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_summed_up() {
        let sample = |n: u64| Sample {
            at: Duration::ZERO,
            took: Duration::from_millis(n),
            kind: Kind::Write,
            site: 0,
            user: 0,
            answer: match n % 4 {
                0 => Answer::Done,
                1 => Answer::Deferred,
                2 => Answer::Refused("OVERLOADED"),
                _ => Answer::Unanswered,
            },
        };
        let samples: Vec<_> = (1..=100).map(sample).collect();
        let sum = summary(&samples);
        assert_eq!((sum.calls, sum.done, sum.deferred, sum.refused, sum.unanswered), (100, 25, 25, 25, 25));
        assert_eq!([sum.p50, sum.p99, sum.max].map(|t| t.as_millis()), [50, 99, 100]);
        assert_eq!(summary(&[]), Summary::default());
        // Calls of the server say nothing of the machine.
        assert_eq!(machine_took(&samples, Duration::ZERO, Duration::MAX), Duration::ZERO);
        let control: Vec<Sample> =
            samples.iter().map(|sample| Sample { kind: Kind::ControlRead, ..*sample }).collect();
        assert_eq!(machine_took(&control, Duration::from_millis(50), Duration::MAX).as_millis(), 100);
        assert_eq!(machine_took(&control, Duration::from_millis(101), Duration::MAX), Duration::ZERO);
    }
}
