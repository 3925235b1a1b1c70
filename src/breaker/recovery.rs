//! Letting the load back in, step by step.

use std::time::Duration;

/// How a scope recovers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// For writes with a backlog: a rate that doubles ([`SlowStart`]).
    SlowStart,
    /// For reads: a share of the calls that grows ([`Ramp`]).
    Ramp,
}

/// What an operator may say about the rate of a slow start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// Doubles, halves, and ends by itself.
    #[default]
    Auto,
    /// So many entries a second (at least 1) until the backlog is empty.
    Fixed(u32),
    /// Nothing passes.
    Paused,
}

/// Entries a second at the beginning.
const START: f64 = 100.0;
/// Halving stops here: below, one could no longer tell sick from idle.
const FLOOR: f64 = 10.0;
/// Above this there is no limit any more.
const UNLIMITED: f64 = 100_000.0;
const DOUBLING: Duration = Duration::from_millis(500);
/// The backlog has been empty for so long: nothing is left to pace.
const EMPTY_FOR: Duration = Duration::from_secs(1);

/// 100 entries a second, doubled every 500 ms while no verdict is slow, halved on a slow one.
#[derive(Clone, Debug)]
pub struct SlowStart {
    rate: f64,
    tokens: f64,
    changed: Duration,
    empty_since: Option<Duration>,
}

impl SlowStart {
    /// Begins at `now`.
    pub fn new(now: Duration) -> Self {
        Self { rate: START, tokens: 1.0, changed: now, empty_since: None }
    }

    /// Entries a second that pass at present.
    pub fn rate(&self, pace: Pace) -> f64 {
        match pace {
            Pace::Auto => self.rate,
            Pace::Fixed(rate) => f64::from(rate.max(1)),
            Pace::Paused => 0.0,
        }
    }

    /// `passed` went by with `slow` slow verdicts; `backlog` entries wait (`None`: unknown). True when the
    /// slow start is over.
    pub fn tick(
        &mut self,
        now: Duration,
        passed: Duration,
        slow: u64,
        backlog: Option<u64>,
        pace: Pace,
    ) -> bool {
        if pace == Pace::Paused {
            // Nothing passes, so that nothing is learned.
            self.changed = now;
        } else if slow > 0 {
            self.rate = (self.rate / 2.0).max(FLOOR);
            self.changed = now;
        } else if now.saturating_sub(self.changed) >= DOUBLING {
            self.rate = (self.rate * 2.0).min(UNLIMITED * 2.0);
            self.changed = now;
        }
        let rate = self.rate(pace);
        // A tenth of a second's worth may be saved up, so that turns of many entries get through.
        self.tokens = (self.tokens + rate * passed.as_secs_f64()).min((rate / 10.0).max(1.0));
        if backlog == Some(0) {
            let since = *self.empty_since.get_or_insert(now);
            if now.saturating_sub(since) >= EMPTY_FOR && pace != Pace::Paused {
                return true;
            }
        } else {
            self.empty_since = None;
        }
        pace == Pace::Auto && self.rate > UNLIMITED
    }

    /// How many entries a turn should have, so that one turn does not use up what many could share.
    pub fn turn(&self, pace: Pace) -> u32 {
        (self.rate(pace) / 10.0).max(1.0) as u32
    }

    /// Takes the turn of `entries`, if it may pass. A large turn passes whole and is paid for afterwards.
    pub fn take(&mut self, entries: u32, pace: Pace) -> Result<(), Duration> {
        if pace != Pace::Paused && self.tokens > 0.0 {
            self.tokens -= f64::from(entries.max(1));
            return Ok(());
        }
        let rate = self.rate(pace).max(1.0);
        Err(Duration::from_secs_f64(((1.0 - self.tokens) / rate).clamp(0.025, 30.0)))
    }
}

const STEPS: [u32; 4] = [10, 25, 50, 100];
const STEP_FOR: Duration = Duration::from_secs(1);

/// 10, 25, 50, then 100 % of the calls pass, for one second each; a slow verdict starts the step again.
#[derive(Clone, Debug)]
pub struct Ramp {
    step: usize,
    since: Duration,
    saved: u32,
}

impl Ramp {
    /// Begins at `now`.
    pub fn new(now: Duration) -> Self {
        Self { step: 0, since: now, saved: 0 }
    }

    /// The percentage that passes.
    pub fn share(&self) -> u32 {
        STEPS.get(self.step).copied().unwrap_or(100)
    }

    /// True when the ramp is over.
    pub fn tick(&mut self, now: Duration, slow: u64) -> bool {
        if slow > 0 {
            self.since = now;
        } else if now.saturating_sub(self.since) >= STEP_FOR {
            self.since = now;
            self.step += 1;
        }
        self.step >= STEPS.len()
    }

    /// Whether this call passes: evenly spread, not by chance.
    pub fn take(&mut self) -> bool {
        self.saved += self.share();
        let passes = self.saved >= 100;
        if passes {
            self.saved -= 100;
        }
        passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(25);

    #[test]
    fn slow_start_doubles_to_no_limit_in_five_and_a_half_seconds() {
        let mut start = SlowStart::new(Duration::ZERO);
        let over = (1..1_000).find(|&n| start.tick(TICK * n, TICK, 0, None, Pace::Auto)).unwrap();
        assert_eq!(TICK * over, Duration::from_secs(5));
    }

    #[test]
    fn what_passes_follows_the_rate() {
        let mut start = SlowStart::new(Duration::ZERO);
        let mut passed = 0;
        for n in 1..=20 {
            start.tick(TICK * n, TICK, 0, Some(1_000), Pace::Fixed(200));
            while start.take(1, Pace::Fixed(200)).is_ok() {
                passed += 1;
            }
        }
        assert!((100..=102).contains(&passed), "{passed} in half a second at 200/s");
    }

    #[test]
    fn a_large_turn_is_paid_for_afterwards() {
        let mut start = SlowStart::new(Duration::ZERO);
        let mut at = Vec::new();
        for n in 1..=400 {
            start.tick(TICK * n, TICK, 0, Some(1_000), Pace::Fixed(100));
            if start.take(256, Pace::Fixed(100)).is_ok() {
                at.push(TICK * n);
            }
        }
        assert_eq!(at.len(), 4, "256 entries each 2.56 s at 100/s: {at:?}");
    }

    #[test]
    fn a_slow_verdict_halves_down_to_the_floor() {
        let mut start = SlowStart::new(Duration::ZERO);
        for n in 1..=10 {
            assert!(!start.tick(TICK * n, TICK, 1, None, Pace::Auto));
        }
        assert!((start.rate(Pace::Auto) - FLOOR).abs() < f64::EPSILON);
    }

    #[test]
    fn an_empty_backlog_ends_it_after_a_second_unless_paused() {
        for (pace, expected) in [(Pace::Auto, Some(41)), (Pace::Fixed(5), Some(41)), (Pace::Paused, None)] {
            let mut start = SlowStart::new(Duration::ZERO);
            let over = (1..200).find(|&n| start.tick(TICK * n, TICK, 1, Some(0), pace));
            assert_eq!(over, expected, "{pace:?}");
        }
    }

    #[test]
    fn paused_lets_nothing_pass_and_raises_nothing() {
        let mut start = SlowStart::new(Duration::ZERO);
        for n in 1..=1_000 {
            assert!(!start.tick(TICK * n, TICK, 0, None, Pace::Paused));
        }
        assert!(start.take(1, Pace::Paused).is_err());
        assert!((start.rate(Pace::Auto) - START).abs() < f64::EPSILON);
    }

    #[test]
    fn ramp_lets_its_share_through() {
        let mut ramp = Ramp::new(Duration::ZERO);
        for (second, share) in (1..).zip(STEPS) {
            assert_eq!((0..1_000).filter(|_| ramp.take()).count() as u32, share * 10);
            assert_eq!(ramp.tick(Duration::from_secs(second), 0), second == 4);
        }
    }

    #[test]
    fn ramp_waits_at_a_slow_verdict() {
        let mut ramp = Ramp::new(Duration::ZERO);
        ramp.tick(Duration::from_millis(900), 1);
        assert!(!ramp.tick(Duration::from_millis(1_800), 0));
        assert_eq!(ramp.share(), 10);
        ramp.tick(Duration::from_millis(1_900), 0);
        assert_eq!(ramp.share(), 25);
    }
}
