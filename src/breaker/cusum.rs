//! The test for partial slowness.
//!
//! A one-sided cumulative sum (E. S. Page, "Continuous Inspection Schemes", Biometrika 41, 1954) of the
//! log-likelihood ratio of Wald's sequential probability ratio test (A. Wald, "Sequential Tests of
//! Statistical Hypotheses", 1945) between "5 % of the calls are slow" and "half of them are". Nothing is
//! learned; the constants are fixed. At a share of 21.8 % the two terms cancel out: below, the evidence tends
//! to zero, and only chance can gather it (at 5 % once in 1e9 attempts, at 10 % rarely, at 15 % and 100 calls/s
//! about every few minutes).

use std::time::Duration;

/// `ln(p1 / p0)` with `p0` = 0.05 and `p1` = 0.5: what a slow call adds.
const SLOW: f64 = std::f64::consts::LN_10;
/// `ln((1 - p1) / (1 - p0))`: what a fast call adds.
const FAST: f64 = -0.641_853_886_172_394_7;
/// `ln 1e9`: the evidence needed.
pub const THRESHOLD: f64 = 9.0 * std::f64::consts::LN_10;
/// The most that one tick can add or take away.
const STEP: f64 = THRESHOLD / 3.0;
/// The full evidence takes at least this long to come together (but for the first step): the calls of one
/// short stall are not independent, however many they are.
const PACE: Duration = Duration::from_millis(300);

/// The paced sum.
#[derive(Clone, Debug)]
pub struct Cusum {
    score: f64,
    budget: f64,
    since: Duration,
    slow: u64,
    total: u64,
}

impl Cusum {
    /// No evidence yet.
    pub fn new(now: Duration) -> Self {
        Self { score: 0.0, budget: STEP, since: now, slow: 0, total: 0 }
    }

    /// The evidence so far; trips at [`THRESHOLD`].
    pub fn score(&self) -> f64 {
        self.score
    }

    /// When the score last left zero: Page's estimate of when the change was first judged.
    pub fn since(&self) -> Duration {
        self.since
    }

    /// Slow verdicts, and all verdicts, since then.
    pub fn share(&self) -> (u64, u64) {
        (self.slow, self.total)
    }

    /// Adds the verdicts of a tick that covers `passed`; true when the evidence suffices.
    pub fn update(&mut self, now: Duration, passed: Duration, fast: u64, slow: u64) -> bool {
        let sum = slow as f64 * SLOW + fast as f64 * FAST;
        let gain = sum.clamp(-STEP, self.budget);
        let refill = THRESHOLD * passed.as_secs_f64() / PACE.as_secs_f64();
        self.budget = STEP.min(self.budget - gain.max(0.0) + refill);
        if self.score <= 0.0 {
            self.since = now;
            self.slow = 0;
            self.total = 0;
        }
        self.slow += slow;
        self.total += fast + slow;
        // Not beyond the threshold: a scope that may not trip must not carry old evidence about for long.
        self.score = (self.score + gain).clamp(0.0, THRESHOLD);
        self.score >= THRESHOLD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(25);

    fn run(ticks: u32, mut verdicts: impl FnMut(u32) -> (u64, u64)) -> Option<u32> {
        let mut cusum = Cusum::new(Duration::ZERO);
        (1..=ticks).find(|&n| {
            let (fast, slow) = verdicts(n);
            cusum.update(TICK * n, TICK, fast, slow)
        })
    }

    #[test]
    fn constants_follow_from_the_shares() {
        assert!((FAST - (0.5_f64 / 0.95).ln()).abs() < 1e-12);
        assert!((SLOW - (0.5_f64 / 0.05).ln()).abs() < 1e-12);
        assert!((THRESHOLD - 1e9_f64.ln()).abs() < 1e-9);
    }

    #[test]
    fn any_number_of_slow_calls_needs_nine_ticks() {
        assert_eq!(run(100, |_| (0, 1_000_000)), Some(9));
    }

    #[test]
    fn one_short_stall_never_suffices() {
        // 200 ms of calls, all slow, then a healthy store.
        assert_eq!(run(1_000, |n| if n <= 8 { (0, 10_000) } else { (10, 0) }), None);
    }

    #[test]
    fn a_share_below_the_blind_spot_never_trips() {
        assert_eq!(run(100_000, |_| (79, 21)), None);
    }

    #[test]
    fn nine_slow_calls_alone_suffice() {
        let slow_every_twelfth = |n: u32| (0, u64::from(n.is_multiple_of(12)));
        assert_eq!(run(1_000, slow_every_twelfth), Some(9 * 12));
    }
}
