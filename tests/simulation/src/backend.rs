//! How long calls take.

use crate::random::Random;
use crate::{Healthy, Shape, Sick};

const BURST_EVERY: f64 = 10.0;
const BURST_LASTS: f64 = 0.3;
const BURST_FACTOR: f64 = 20.0;
/// Calls of a burst queue in the backend for up to that long.
const BURST_QUEUE: f64 = 0.1;

/// All in seconds.
pub struct Backend {
    shape: Shape,
    rate: f64,
    bursts: bool,
    stalls: bool,
    trouble: Trouble,
    /// When the first call began that suffers.
    pub first_struck: Option<f64>,
}

enum Trouble {
    From { at: f64, share: f64, extra: f64 },
    Slow { share: f64, slowest: f64 },
}

impl Backend {
    pub fn sick(sick: &Sick, from: f64) -> Self {
        let trouble = Trouble::From { at: from, share: sick.share, extra: sick.extra };
        Self { shape: sick.shape, rate: sick.rate, bursts: false, stalls: false, trouble, first_struck: None }
    }

    pub fn healthy(healthy: &Healthy) -> Self {
        Self {
            shape: healthy.shape,
            rate: healthy.rate,
            bursts: healthy.bursts,
            stalls: healthy.stalls,
            trouble: Trouble::Slow { share: healthy.slow, slowest: healthy.slowest },
            first_struck: None,
        }
    }

    fn in_burst(&self, now: f64) -> bool {
        self.bursts && now % BURST_EVERY < BURST_LASTS
    }

    /// When the next call, or entry, comes.
    pub fn next(&self, random: &mut Random, now: f64) -> f64 {
        let factor = if self.in_burst(now) { BURST_FACTOR } else { 1.0 };
        now + random.exponential(1.0 / (self.rate * factor))
    }

    /// When a call of so many entries ends that begins now.
    pub fn end(&mut self, random: &mut Random, now: f64, entries: usize) -> f64 {
        let usual = match self.shape {
            Shape::Concurrent => random.exponential(0.005),
            Shape::Serial => random.exponential(0.002) + 20e-6 * entries as f64,
        };
        let queued = if self.in_burst(now) { random.between(0.0, BURST_QUEUE) } else { 0.0 };
        let takes = match self.trouble {
            Trouble::From { at, share, extra } if now >= at && random.unit() < share => {
                self.first_struck.get_or_insert(now);
                usual + extra
            }
            Trouble::Slow { share, slowest } if random.unit() < share => random.between(0.25, slowest),
            _ => usual + queued,
        };
        if self.stalls { thawed(now + takes) } else { now + takes }
    }
}

/// What would end while everything stands still ends shortly after. That is so once a minute, for 100 to 300 ms, not
/// always at the same place between two ticks.
fn thawed(end: f64) -> f64 {
    let minute = (end / 60.0).floor();
    let lasts = 0.1 + 0.2 * (minute * 0.618_034).fract();
    let begins = minute * 60.0 + 30.0 + (minute * 0.754_878).fract();
    let into = end - begins;
    if (0.0..lasts).contains(&into) { begins + lasts + into / 100.0 } else { end }
}
