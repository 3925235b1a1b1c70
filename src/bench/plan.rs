//! What a measurement is made of: its plan, what is called, and what comes back.

use std::future::Future;
use std::time::Duration;

use smallvec::smallvec;

use crate::bench::measure::{Label, OperationName, Outcomes};
use crate::bench::schedule::Schedule;
use crate::bench::{BenchError, MAX_CONNECTIONS, MAX_IN_FLIGHT};

/// Closed or open loop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Every slot calls again as soon as it is answered.
    Closed,
    /// So many calls a second are meant to start, whatever is answered.
    Open(Schedule),
}

/// How a measurement is driven.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Connections, spread evenly over the threads.
    pub connections: usize,
    /// Slots, spread evenly over the connections. In open loop: the most calls that may be unanswered.
    pub in_flight: usize,
    /// Threads of the generator, each with a runtime of its own.
    pub threads: usize,
    /// Closed or open loop.
    pub pace: Pace,
    /// Calls that do not count, at first.
    pub warm_up: Duration,
    /// How long is measured.
    pub duration: Duration,
    /// Measured calls after which it ends early.
    pub requests: Option<u64>,
    /// How long calls in flight at the end are waited for; then they are counted as unanswered.
    pub grace: Duration,
}

impl Plan {
    /// Refuses what is out of bounds.
    pub fn check(&self) -> Result<(), BenchError> {
        let within = |what: &str, value: usize, most: usize| {
            if (1..=most).contains(&value) {
                return Ok(());
            }
            Err(BenchError::Setting(format!("{what}: {value} is not within 1 and {most}")))
        };
        within("connections", self.connections, MAX_CONNECTIONS)?;
        within("in flight", self.in_flight, MAX_IN_FLIGHT)?;
        within("threads", self.threads, 64)?;
        if self.in_flight < self.connections {
            return Err(BenchError::Setting(format!(
                "{} calls in flight leave some of {} connections idle",
                self.in_flight, self.connections
            )));
        }
        Ok(())
    }
    /// Calls of the plan in open loop, warm-up included.
    pub fn scheduled(&self, schedule: Schedule) -> u64 {
        // A call that is due exactly at the end does not start, hence the nanosecond.
        let before = |length: Duration| schedule.due(length.saturating_sub(Duration::from_nanos(1)));
        let warm_up = if self.warm_up.is_zero() { 0 } else { before(self.warm_up) };
        let most = self.requests.map_or(u64::MAX, |requests| warm_up.saturating_add(requests));
        before(self.warm_up + self.duration).min(most)
    }
}

/// What became of a call.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Items of the call: 1, or those of a batch.
    pub items: u32,
    /// What became of them.
    pub outcomes: Outcomes,
    /// The connection is gone and could not be made again: the slot ends.
    pub broken: bool,
}

impl Answer {
    /// A call of one item.
    pub fn one(label: Label) -> Self {
        Self { items: 1, outcomes: smallvec![(label, 1)], broken: false }
    }
}

/// What is called: makes connections.
pub trait Target: Send + Sync + 'static {
    /// A connection.
    type Client: Client;

    /// Connects, on the runtime that the calls will run on.
    fn connect(&self) -> impl Future<Output = Result<Self::Client, BenchError>>;
}

/// One connection, shared by its slots.
pub trait Client: 'static {
    /// The name of the `n`-th call's method.
    fn operation(&self, n: u64) -> OperationName;

    /// Makes the `n`-th call.
    fn call(&self, n: u64) -> impl Future<Output = Answer>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_ends_with_the_window() {
        let schedule = Schedule::new(1000.0).unwrap();
        let plan = Plan {
            connections: 1,
            in_flight: 1,
            threads: 1,
            pace: Pace::Open(schedule),
            warm_up: Duration::ZERO,
            duration: Duration::ZERO,
            requests: None,
            grace: Duration::ZERO,
        };
        let second = Duration::from_secs(1);
        let timed = |warm_up, requests| Plan { warm_up, duration: second, requests, ..plan.clone() };
        assert_eq!(timed(Duration::ZERO, None).scheduled(schedule), 1000);
        assert_eq!(timed(second, None).scheduled(schedule), 2000);
        assert_eq!(timed(second, Some(10)).scheduled(schedule), 1010);
        assert_eq!(timed(second, Some(10_000)).scheduled(schedule), 2000);
    }
}
