//! Metrics of the breakers: by operation, never by site.

use std::time::Duration;

use metrics::{counter, gauge};
use parking_lot::Mutex;

use super::pace::Order;
use super::{Guard, Operation};
use crate::breaker::{Phase, ScopeStatus};
use crate::metrics as names;

/// What was measured last, by operation.
#[derive(Debug, Default)]
pub(super) struct Measured(Mutex<[Last; 4]>);

#[derive(Clone, Copy, Debug, Default)]
struct Last {
    fast: u64,
    slow: u64,
    refused: u64,
    disturbed: Duration,
}

#[derive(Default)]
struct Sum {
    phase: Option<Phase>,
    sites: u64,
    fast: u64,
    slow: u64,
    refused: u64,
    hung: u64,
    rate: Option<f64>,
}

impl Sum {
    fn add(&mut self, told: &ScopeStatus) {
        if told.name.site.is_some() {
            self.sites += u64::from(told.phase != Phase::Closed);
        } else {
            self.phase = Some(told.phase);
            self.rate = told.rate;
        }
        self.fast += told.judged.0;
        self.slow += told.judged.1;
        self.refused += told.refused;
        self.hung += told.evidence.hung;
    }
}

fn number(phase: Phase) -> f64 {
    match phase {
        Phase::Closed => 0.0,
        Phase::Recovering => 1.0,
        Phase::HalfOpen => 2.0,
        Phase::Open => 3.0,
    }
}

impl Guard {
    /// Sets the metrics of all breakers, `passed` after the last time.
    pub fn measure(&self, passed: Duration) {
        let status = self.registry.status();
        let mut measured = self.measured.0.lock();
        for (operation, last) in Operation::ALL.into_iter().zip(measured.iter_mut()) {
            let name = operation.as_str();
            let mut sum = Sum::default();
            status.iter().filter(|told| *told.name.operation == *name).for_each(|told| sum.add(told));
            let phase = sum.phase.unwrap_or(Phase::Closed);
            gauge!(names::BREAKER_STATE, "operation" => name).set(number(phase));
            gauge!(names::BREAKER_SITES_DISTURBED, "operation" => name).set(sum.sites as f64);
            gauge!(names::STORE_HUNG_CALLS, "operation" => name).set(sum.hung as f64);
            // Breakers of sites come and go, and their counts with them.
            let grown = |now: u64, before: u64| now.saturating_sub(before);
            counter!(names::BREAKER_VERDICTS, "operation" => name, "verdict" => "fast")
                .increment(grown(sum.fast, last.fast));
            counter!(names::BREAKER_VERDICTS, "operation" => name, "verdict" => "slow")
                .increment(grown(sum.slow, last.slow));
            counter!(names::BREAKER_REFUSED, "operation" => name).increment(grown(sum.refused, last.refused));
            let mut disturbed = last.disturbed;
            if phase != Phase::Closed {
                disturbed += passed;
            }
            counter!(names::BREAKER_DISTURBED_SECONDS, "operation" => name).increment(disturbed.as_secs());
            disturbed = disturbed.saturating_sub(Duration::from_secs(disturbed.as_secs()));
            *last = Last { fast: sum.fast, slow: sum.slow, refused: sum.refused, disturbed };
            if operation == Operation::Apply {
                gauge!(names::REPLAY_PACE).set(self.pace_of_all(sum.rate));
            }
        }
    }

    /// Entries a second that may be applied.
    fn pace_of_all(&self, slow_start: Option<f64>) -> f64 {
        let ordered = match self.paces.get(None).map(|set| set.order) {
            None => f64::INFINITY,
            Some(Order::Paused) => 0.0,
            Some(Order::PerSecond(rate)) => rate as f64,
        };
        let slow_starts = slow_start.into_iter().chain(self.resuming(None));
        slow_starts.fold(ordered, f64::min)
    }
}
