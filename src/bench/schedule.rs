//! When calls are meant to start in open loop. Pure arithmetic on times that are passed in.

use std::time::Duration;

const PICO: u128 = 1_000_000_000_000;

/// Calls at a fixed rate: call 0 at once, the others evenly after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Calls in 1000 seconds, so that 0.001 calls/s is the lowest rate; not 0.
    per_kilosecond: u64,
}

impl Schedule {
    /// `rate` calls a second; from 0.001 to a billion.
    pub fn new(rate: f64) -> Option<Self> {
        let per_kilosecond = (rate * 1000.0).round();
        (1.0..=1e12).contains(&per_kilosecond).then_some(Self { per_kilosecond: per_kilosecond as u64 })
    }

    /// How long after the start call `n` is meant to start; rounded down to a nanosecond.
    pub fn offset(self, n: u64) -> Duration {
        let nanos = u128::from(n) * PICO / u128::from(self.per_kilosecond);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// How many calls are meant to have started `after` the start: those whose offset is not later.
    pub fn due(self, after: Duration) -> u64 {
        let calls = ((after.as_nanos() + 1) * u128::from(self.per_kilosecond)).div_ceil(PICO);
        u64::try_from(calls).unwrap_or(u64::MAX)
    }
}

/// How many of the calls `0..calls` fall to `thread` when `threads` take turns.
pub fn turns(calls: u64, thread: u64, threads: u64) -> u64 {
    (calls + threads.max(1) - 1).saturating_sub(thread) / threads.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_evenly_spaced_and_do_not_drift() {
        let schedule = Schedule::new(1000.0).unwrap();
        assert_eq!(schedule.offset(0), Duration::ZERO);
        assert_eq!(schedule.offset(1), Duration::from_millis(1));
        assert_eq!(schedule.offset(86_400_000), Duration::from_hours(24));
        let thirds = Schedule::new(3.0).unwrap();
        assert_eq!(thirds.offset(3), Duration::from_secs(1));
        assert_eq!(thirds.offset(3_000_000), Duration::from_secs(1_000_000));
    }

    #[test]
    fn a_call_is_due_at_its_offset_and_not_before() {
        for rate in [0.001, 0.7, 3.0, 1000.0, 33_333.3, 1e6] {
            let schedule = Schedule::new(rate).unwrap();
            for n in [0, 1, 2, 3, 7, 100, 12_345] {
                let offset = schedule.offset(n);
                assert_eq!(schedule.due(offset), n + 1, "rate {rate}, call {n}");
                if let Some(before) = offset.checked_sub(Duration::from_nanos(1)) {
                    assert_eq!(schedule.due(before), n, "rate {rate}, call {n}");
                }
            }
        }
    }

    #[test]
    fn rates_that_make_no_schedule_are_refused() {
        for rate in [0.0, -1.0, 0.0001, f64::NAN, f64::INFINITY, 1e10] {
            assert_eq!(Schedule::new(rate), None, "{rate}");
        }
    }

    #[test]
    fn threads_take_turns() {
        assert_eq!([turns(0, 0, 3), turns(0, 1, 3), turns(0, 2, 3)], [0, 0, 0]);
        assert_eq!([turns(7, 0, 3), turns(7, 1, 3), turns(7, 2, 3)], [3, 2, 2]);
        for calls in 0..50 {
            assert_eq!((0..4).map(|thread| turns(calls, thread, 4)).sum::<u64>(), calls);
        }
    }
}
