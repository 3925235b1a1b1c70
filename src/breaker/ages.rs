//! How old calls get, in steps of a bucket, from what the detector sees anyway: no clock is read for it.

use std::time::Duration;

use super::detector::BUCKET;

const BINS: usize = 65;
/// Weights halve in this time, so that a figure speaks of the last seconds.
const HALF_LIFE: Duration = Duration::from_secs(1);

/// A fading histogram; the last bin holds everything older.
#[derive(Debug)]
pub struct Ages {
    bins: [f64; BINS],
    since: Duration,
    oldest: Option<Duration>,
}

impl Default for Ages {
    fn default() -> Self {
        Self { bins: [0.0; BINS], since: Duration::ZERO, oldest: None }
    }
}

impl Ages {
    /// Time passes.
    pub fn fade(&mut self, passed: Duration) {
        self.since += passed;
        while self.since >= HALF_LIFE {
            self.since -= HALF_LIFE;
            for weight in &mut self.bins {
                *weight /= 2.0;
            }
        }
    }

    /// `calls` ended when their bucket had this age.
    pub fn record(&mut self, age: Duration, calls: u64) {
        if let Some(weight) = self.bins.get_mut(bin(age)) {
            *weight += calls as f64;
        }
    }

    /// `slow` calls were just judged slow; the oldest in flight has this age.
    pub fn in_flight(&mut self, oldest: Option<Duration>, slow: u64) {
        self.oldest = oldest;
        if let Some(age) = oldest {
            self.record(age, slow);
        }
    }

    /// An upper bound of the 99th percentile; zero without calls.
    pub fn p99(&self) -> Duration {
        let total: f64 = self.bins.iter().sum();
        let mut left = total / 100.0;
        for (index, weight) in self.bins.iter().enumerate().rev() {
            left -= weight;
            if left < 0.0 {
                let bound = BUCKET * (index as u32 + 1);
                return if index + 1 == BINS { bound.max(self.oldest.unwrap_or_default()) } else { bound };
            }
        }
        Duration::ZERO
    }
}

fn bin(age: Duration) -> usize {
    ((age.as_millis() / BUCKET.as_millis()) as usize).min(BINS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p99_is_the_bound_that_99_of_100_keep() {
        let mut ages = Ages::default();
        assert_eq!(ages.p99(), Duration::ZERO);
        ages.record(Duration::ZERO, 995);
        ages.record(Duration::from_millis(300), 5);
        assert_eq!(ages.p99(), BUCKET);
        ages.record(Duration::from_millis(300), 50);
        assert_eq!(ages.p99(), Duration::from_millis(325));
    }

    #[test]
    fn old_ages_fade() {
        let mut ages = Ages::default();
        ages.record(Duration::from_millis(500), 100);
        ages.fade(Duration::from_secs(20));
        ages.record(Duration::ZERO, 100);
        assert_eq!(ages.p99(), BUCKET);
    }
}
