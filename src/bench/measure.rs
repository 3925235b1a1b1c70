//! What was measured: latencies in HDR histograms, throughput, outcomes and errors.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use smallvec::SmallVec;

/// A method's name.
pub type OperationName = &'static str;

/// Shortest and longest latency that histograms tell apart, in nanoseconds; beyond, they saturate.
const LATENCIES: (u64, u64) = (1_000, 600_000_000_000);
/// Kinds of errors that are told apart; the others are counted together.
const MAX_LABELS: usize = 64;

/// What became of a call, or of one item of a batch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Label {
    /// It was done; with the outcome.
    Good(&'static str),
    /// It was not; with the reason.
    Bad(Cow<'static, str>),
}

/// What became of each item of a call. Mostly one.
pub type Outcomes = SmallVec<[(Label, u32); 1]>;

/// When a measurement runs: warm-up from `start` to `begin`, measured to `end`.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// The first call.
    pub start: Instant,
    /// The first measured call.
    pub begin: Instant,
    /// No call starts from here on.
    pub end: Instant,
}

impl Window {
    fn holds(&self, at: Instant) -> bool {
        self.begin <= at && at < self.end
    }
}

/// One call, from when it was meant to start.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// When it should have started. In closed loop this is when it did.
    pub intended: Instant,
    /// When it started.
    pub started: Instant,
    /// When it was answered.
    pub done: Instant,
}

/// The figures of one method.
#[derive(Clone, Debug)]
pub struct Operation {
    /// From the intended start to the answer, in nanoseconds.
    pub latency: Histogram<u64>,
    /// Items by what became of them.
    pub outcomes: BTreeMap<Label, u64>,
}

/// What one thread, or all together, measured.
#[derive(Clone, Debug)]
pub struct Measurement {
    window: Window,
    /// Figures by method.
    pub operations: BTreeMap<OperationName, Operation>,
    /// How late calls started, in nanoseconds: large means that the generator could not keep the rate.
    pub lag: Histogram<u64>,
    /// Calls answered within the window.
    pub calls: u64,
    /// Their items.
    pub items: u64,
    /// The last answer within the window.
    pub last_done: Option<Instant>,
}

fn histogram() -> Histogram<u64> {
    let (low, high) = LATENCIES;
    // The bounds are constants that are valid; the fallback resizes itself.
    Histogram::new_with_bounds(low, high, 3).unwrap_or_else(|_| {
        let mut histogram = Histogram::new(3).unwrap_or_else(|_| unreachable!("3 digits are allowed"));
        histogram.auto(true);
        histogram
    })
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Operation {
    fn new() -> Self {
        Self { latency: histogram(), outcomes: BTreeMap::new() }
    }

    fn count(&mut self, label: Label, items: u64) {
        let full = self.outcomes.len() >= MAX_LABELS && !self.outcomes.contains_key(&label);
        let label = if full { Label::Bad("OTHER".into()) } else { label };
        *self.outcomes.entry(label).or_default() += items;
    }
}

impl Measurement {
    /// Nothing measured yet.
    pub fn new(window: Window) -> Self {
        let operations = BTreeMap::new();
        Self { window, operations, lag: histogram(), calls: 0, items: 0, last_done: None }
    }

    /// Takes a call in. Its latency counts if it was *meant* to start in the window, whenever it is answered:
    /// leaving out what outlasts the window would leave out the slowest. Throughput counts answers in it.
    pub fn record(&mut self, operation: OperationName, times: Times, items: u32, outcomes: Outcomes) {
        let Times { intended, started, done } = times;
        if self.window.holds(done) {
            self.calls += 1;
            self.items += u64::from(items);
            self.last_done = self.last_done.max(Some(done));
        }
        if self.window.holds(intended) {
            self.lag.saturating_record(nanos(started.saturating_duration_since(intended)));
            let figures = self.operations.entry(operation).or_insert_with(Operation::new);
            figures.latency.saturating_record(nanos(done.saturating_duration_since(intended)));
            for (label, items) in outcomes {
                figures.count(label, u64::from(items));
            }
        }
    }

    /// Adds what another thread measured in the same window.
    pub fn merge(&mut self, other: Self) {
        for (operation, figures) in other.operations {
            let sum = self.operations.entry(operation).or_insert_with(Operation::new);
            // Both have the same bounds, so nothing can fail to fit.
            let _ = sum.latency.add(&figures.latency);
            for (label, items) in figures.outcomes {
                sum.count(label, items);
            }
        }
        let _ = self.lag.add(&other.lag);
        self.calls += other.calls;
        self.items += other.items;
        self.last_done = self.last_done.max(other.last_done);
    }

    /// Seconds that throughput refers to: to the last answer if the calls ran out, otherwise the whole window.
    pub fn seconds(&self, ran_out: bool) -> f64 {
        let end = if ran_out { self.last_done.unwrap_or(self.window.end) } else { self.window.end };
        end.saturating_duration_since(self.window.begin).as_secs_f64()
    }

    /// Items that failed.
    pub fn errors(&self) -> u64 {
        let outcomes = self.operations.values().flat_map(|figures| &figures.outcomes);
        outcomes.filter(|(label, _)| matches!(label, Label::Bad(_))).map(|(_, items)| items).sum()
    }
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn window() -> Window {
        let start = Instant::now();
        Window { start, begin: start + 100 * MS, end: start + 1100 * MS }
    }

    fn ok() -> Outcomes {
        smallvec![(Label::Good("APPLIED"), 1)]
    }

    #[test]
    fn a_stall_is_charged_to_every_call_that_it_kept_from_starting() {
        let window = window();
        let mut measured = Measurement::new(window);
        // 100 calls are meant to start 1 ms apart; the server hangs, and all are answered at once at the end.
        let done = window.begin + 100 * MS;
        for n in 0..100 {
            measured.record("Get", Times { intended: window.begin + n * MS, started: done, done }, 1, ok());
        }
        let latency = &measured.operations["Get"].latency;
        let about = |millis: u64, value: u64| value.abs_diff(millis * 1_000_000) < millis * 10_000;
        assert!(about(50, latency.value_at_quantile(0.5)) || about(51, latency.value_at_quantile(0.5)));
        assert!(about(100, latency.max()));
        assert!(about(100, measured.lag.max()));
    }

    #[test]
    fn warm_up_does_not_count() {
        let window = window();
        let mut measured = Measurement::new(window);
        let at = window.start + 50 * MS;
        measured.record("Get", Times { intended: at, started: at, done: at + MS }, 1, ok());
        assert!(measured.operations.is_empty());
        assert_eq!(measured.calls, 0);
    }

    #[test]
    fn a_call_that_outlasts_the_window_counts_as_slow_but_not_as_throughput() {
        let window = window();
        let mut measured = Measurement::new(window);
        let at = window.begin + 999 * MS;
        measured.record("Get", Times { intended: at, started: at, done: at + 5000 * MS }, 1, ok());
        assert_eq!((measured.calls, measured.operations["Get"].latency.len()), (0, 1));
    }

    #[test]
    fn threads_add_up() {
        let window = window();
        let (mut sum, mut other) = (Measurement::new(window), Measurement::new(window));
        for (measured, done) in [(&mut sum, 10), (&mut other, 20)] {
            let at = window.begin + MS;
            let bad: Outcomes =
                smallvec![(Label::Good("APPLIED"), 9), (Label::Bad("INVALID_FIELD".into()), 1)];
            measured.record("Many", Times { intended: at, started: at, done: at + done * MS }, 10, bad);
        }
        sum.merge(other);
        assert_eq!((sum.calls, sum.items, sum.errors()), (2, 20, 2));
        assert_eq!(sum.operations["Many"].latency.len(), 2);
        assert!((sum.seconds(false) - 1.0).abs() < 1e-9);
        assert!((sum.seconds(true) - 0.021).abs() < 1e-9);
    }

    #[test]
    fn kinds_of_errors_are_bounded() {
        let window = window();
        let mut measured = Measurement::new(window);
        let at = window.begin;
        for n in 0..1000 {
            let bad: Outcomes = smallvec![(Label::Bad(format!("E{n}").into()), 1)];
            measured.record("Get", Times { intended: at, started: at, done: at }, 1, bad);
        }
        assert_eq!(measured.operations["Get"].outcomes.len(), MAX_LABELS + 1);
        assert_eq!(measured.errors(), 1000);
    }
}
