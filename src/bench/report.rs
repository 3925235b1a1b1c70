//! A measurement as text for people and as JSON for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::bench::driver::Measured;
use crate::bench::machine::{Machine, Usage};
use crate::bench::measure::Label;
use crate::bench::plan::{Pace, Plan};

/// Calls later than this at the 99th percentile: the generator did not keep the rate.
const LATE: Duration = Duration::from_millis(1);

/// All figures of a measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was called.
    pub workload: String,
    /// `closed` or `open`.
    pub pace: &'static str,
    /// Calls in flight at most.
    pub in_flight: usize,
    /// Connections.
    pub connections: usize,
    /// Threads of the generator.
    pub threads: usize,
    /// Seconds measured.
    pub seconds: f64,
    /// Answered calls a second.
    pub calls_per_second: f64,
    /// Their items a second: more than calls for batches.
    pub items_per_second: f64,
    /// Items that failed.
    pub errors: u64,
    /// Figures by method.
    pub operations: BTreeMap<String, OperationReport>,
    /// Open loop: how late calls started. Part of the latencies.
    pub lag: Option<Latencies>,
    /// What the server used while it was measured.
    pub server: Option<UsageReport>,
    /// What the generator used.
    pub generator: Option<UsageReport>,
    /// The machine of the generator.
    pub machine: Machine,
}

/// The figures of one method.
#[derive(Clone, Debug, Serialize)]
pub struct OperationReport {
    /// From the intended start to the answer.
    pub latency: Latencies,
    /// Items by outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// Failed items by reason.
    pub errors: BTreeMap<String, u64>,
}

/// Latencies, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latencies {
    /// How many.
    pub count: u64,
    /// The mean.
    pub mean_us: f64,
    /// Half are not slower.
    pub p50_us: f64,
    /// 90 % are not slower.
    pub p90_us: f64,
    /// 99 % are not slower.
    pub p99_us: f64,
    /// 99.9 % are not slower.
    pub p999_us: f64,
    /// The slowest.
    pub max_us: f64,
}

/// What a process used.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct UsageReport {
    /// Memory at the end, in bytes.
    pub resident_bytes: u64,
    /// The most memory since the process started, in bytes.
    pub peak_bytes: u64,
    /// Cores kept busy.
    pub cores: f64,
    /// CPU time of one item, in microseconds.
    pub cpu_us_per_item: f64,
}

impl Latencies {
    fn of(nanos: &Histogram<u64>) -> Self {
        let micros = |nanos: u64| nanos as f64 / 1000.0;
        let at = |quantile| micros(nanos.value_at_quantile(quantile));
        Self {
            count: nanos.len(),
            mean_us: nanos.mean() / 1000.0,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: micros(nanos.max()),
        }
    }
}

impl UsageReport {
    fn new(usage: Usage, seconds: f64, items: u64) -> Self {
        let cpu = usage.cpu.as_secs_f64();
        Self {
            resident_bytes: usage.resident,
            peak_bytes: usage.peak,
            cores: cpu / seconds.max(f64::MIN_POSITIVE),
            cpu_us_per_item: cpu * 1e6 / items.max(1) as f64,
        }
    }
}

impl Report {
    /// The report of a measurement that was driven by `plan`.
    pub fn new(workload: String, plan: &Plan, measured: &Measured) -> Self {
        let measurement = &measured.measurement;
        let seconds = measurement.seconds(measured.ran_out);
        let per_second = |count: u64| count as f64 / seconds.max(f64::MIN_POSITIVE);
        let usage = |usage: Usage| UsageReport::new(usage, seconds, measurement.items);
        let operations = measurement.operations.iter().map(|(name, figures)| {
            let (mut outcomes, mut errors) = (BTreeMap::new(), BTreeMap::new());
            for (label, items) in &figures.outcomes {
                match label {
                    Label::Good(outcome) => outcomes.insert((*outcome).to_owned(), *items),
                    Label::Bad(reason) => errors.insert(reason.to_string(), *items),
                };
            }
            let latency = Latencies::of(&figures.latency);
            ((*name).to_owned(), OperationReport { latency, outcomes, errors })
        });
        Self {
            workload,
            pace: if plan.pace == Pace::Closed { "closed" } else { "open" },
            in_flight: plan.in_flight,
            connections: plan.connections,
            threads: plan.threads,
            seconds,
            calls_per_second: per_second(measurement.calls),
            items_per_second: per_second(measurement.items),
            errors: measurement.errors(),
            operations: operations.collect(),
            lag: (plan.pace != Pace::Closed).then(|| Latencies::of(&measurement.lag)),
            server: measured.server.map(usage),
            generator: measured.generator.map(usage),
            machine: Machine::this(),
        }
    }

    /// The latencies of a method; `None` if it was not called.
    pub fn latency(&self, operation: &str) -> Option<Latencies> {
        self.operations.get(operation).map(|figures| figures.latency)
    }
}

/// Microseconds as people read them.
pub fn readable(micros: f64) -> String {
    match micros {
        us if us < 1_000.0 => format!("{us:.0} us"),
        us if us < 1_000_000.0 => format!("{:.2} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

/// A count with its thousands apart.
pub fn grouped(count: f64) -> String {
    let digits = format!("{count:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

fn counts(counts: &BTreeMap<String, u64>) -> String {
    let each: Vec<_> = counts.iter().map(|(name, n)| format!("{name} {}", grouped(*n as f64))).collect();
    each.join(", ")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.workload)?;
        writeln!(
            f,
            "  {} loop, {} in flight on {} connection(s), {} generator thread(s), {:.1} s",
            self.pace, self.in_flight, self.connections, self.threads, self.seconds
        )?;
        write!(f, "  throughput  {} calls/s", grouped(self.calls_per_second))?;
        if (self.items_per_second - self.calls_per_second).abs() > 0.5 {
            write!(f, ", {} items/s", grouped(self.items_per_second))?;
        }
        writeln!(f)?;
        for (name, figures) in &self.operations {
            writeln!(f, "  {name}")?;
            writeln!(f, "    latency   {}", figures.latency)?;
            if !figures.outcomes.is_empty() {
                writeln!(f, "    outcomes  {}", counts(&figures.outcomes))?;
            }
            if !figures.errors.is_empty() {
                writeln!(f, "    ERRORS    {}", counts(&figures.errors))?;
            }
        }
        if let Some(lag) = &self.lag {
            writeln!(f, "  started late  {lag}")?;
            if lag.p99_us > LATE.as_micros() as f64 {
                writeln!(f, "  NOTE: calls started late; lower --rate, or raise --in-flight or --threads")?;
            }
        }
        for (name, usage) in [("server", &self.server), ("generator", &self.generator)] {
            if let Some(usage) = usage {
                writeln!(f, "  {name:<11} {usage}")?;
            }
        }
        write!(f, "  machine     {}", self.machine.line())
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p90, p99, p999, max] =
            [self.p50_us, self.p90_us, self.p99_us, self.p999_us, self.max_us].map(readable);
        write!(f, "p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p999}, max {max}")
    }
}

impl fmt::Display for UsageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        write!(
            f,
            "{:.0} MiB resident, {:.0} MiB at most, {:.2} cores busy, {:.1} us CPU an item",
            mib(self.resident_bytes),
            mib(self.peak_bytes),
            self.cores,
            self.cpu_us_per_item
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(grouped(1_234_567.0), "1 234 567");
        assert_eq!(grouped(999.0), "999");
        assert_eq!(readable(12.3), "12 us");
        assert_eq!(readable(12_345.0), "12.35 ms");
        assert_eq!(readable(1_500_000.0), "1.50 s");
    }

    #[test]
    fn percentiles_are_in_microseconds() {
        let mut histogram = Histogram::new_with_bounds(1_000, 600_000_000_000, 3).unwrap();
        (1..=1000_u64).for_each(|n| histogram.saturating_record(n * 1_000_000));
        let latencies = Latencies::of(&histogram);
        let close = |value: f64, expected: f64| (value - expected).abs() <= expected / 500.0;
        assert_eq!(latencies.count, 1000);
        assert!(close(latencies.p50_us, 500_000.0), "{latencies:?}");
        assert!(close(latencies.p99_us, 990_000.0), "{latencies:?}");
        assert!(close(latencies.max_us, 1_000_000.0), "{latencies:?}");
    }
}
