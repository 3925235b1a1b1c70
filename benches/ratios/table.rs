//! Medians and the lines of the table.

use std::fmt;

use steadfast::bench::Report;
use steadfast::bench::report::{grouped, readable};

use crate::scenarios::{Against, Goal};

/// The figures of one run.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    items_per_second: f64,
    p99_us: f64,
}

impl Sample {
    pub fn of(report: &Report) -> Self {
        let p99 = report.operations.values().map(|figures| figures.latency.p99_us);
        Self { items_per_second: report.items_per_second, p99_us: p99.fold(0.0, f64::max) }
    }
}

/// Lowest, median and highest.
#[derive(Clone, Copy, Debug)]
struct Spread {
    low: f64,
    median: f64,
    high: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let upper = values.len() / 2;
        let lower = values.len().saturating_sub(1) / 2;
        let median = f64::midpoint(at(lower), at(upper));
        Self { low: at(0), median, high: at(values.len().saturating_sub(1)) }
    }
}

/// One comparison.
#[derive(Clone, Debug)]
pub struct Row {
    name: &'static str,
    goal: Goal,
    own: (Spread, Spread),
    other: (Spread, Spread),
    throughput: Spread,
    p99: Spread,
}

impl Row {
    /// From samples that were taken in turn.
    pub fn new(name: &'static str, own: &[Sample], goal: Goal, others: &[Sample]) -> Self {
        let figures = |samples: &[Sample]| {
            let throughput = Spread::of(samples.iter().map(|sample| sample.items_per_second));
            (throughput, Spread::of(samples.iter().map(|sample| sample.p99_us)))
        };
        let pairs = || own.iter().zip(others);
        Self {
            name,
            goal,
            own: figures(own),
            other: figures(others),
            throughput: Spread::of(pairs().map(|(own, other)| own.items_per_second / other.items_per_second)),
            p99: Spread::of(pairs().map(|(own, other)| own.p99_us / other.p99_us)),
        }
    }

    /// Whether a goal is missed.
    pub fn misses(&self) -> bool {
        let slow = self.goal.throughput.is_some_and(|least| self.throughput.median < least);
        let late = self.goal.p99.is_some_and(|most| self.p99.median > most);
        slow || late
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let other = match self.goal.against {
            Against::Bare => "bare tonic",
            Against::Log => "bare log",
            Against::Etcd => "etcd Put",
            Against::Redis => "Redis HSET",
        };
        let figures = |(throughput, p99): (Spread, Spread)| {
            format!("{:>9}/s p99 {:>8}", grouped(throughput.median), readable(p99.median))
        };
        let ratio = |spread: Spread| format!("{:.2}x ({:.2}..{:.2})", spread.median, spread.low, spread.high);
        write!(f, "{:<38} {}   {:<10} {}", self.name, figures(self.own), other, figures(self.other))?;
        write!(f, "   throughput {}", ratio(self.throughput))?;
        if let Some(least) = self.goal.throughput {
            write!(f, " goal >= {least}")?;
        }
        write!(f, ", p99 {}", ratio(self.p99))?;
        if let Some(most) = self.goal.p99 {
            write!(f, " goal <= {most}")?;
        }
        match (self.goal.throughput, self.goal.p99) {
            (None, None) => Ok(()),
            _ => f.write_str(if self.misses() { "  MISSED" } else { "  met" }),
        }
    }
}
