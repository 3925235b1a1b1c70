//! The time that stalls are measured in.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A monotonic time, moved by hand in tests.
#[derive(Clone)]
pub struct Monotonic(Arc<dyn Fn() -> Instant + Send + Sync>);

impl Monotonic {
    /// Time as `read` tells it.
    pub fn new(read: impl Fn() -> Instant + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// The machine's time without the pauses of this process: for how long a disk has not answered must not count the
    /// time in which nobody could have heard it (a suspended machine, a debugger, no CPU). Somebody has to look at
    /// [`Journal::state`](super::Journal::state) all the time: of a gap between two looks 200 ms count.
    pub fn without_pauses() -> Self {
        let pauses = Mutex::new(Pauses { last: Instant::now(), left_out: Duration::ZERO });
        Self::new(move || {
            let mut pauses = pauses.lock();
            pauses.leave_out(Instant::now())
        })
    }

    pub(super) fn now(&self) -> Instant {
        (self.0)()
    }
}

impl Default for Monotonic {
    fn default() -> Self {
        Self::new(Instant::now)
    }
}

impl fmt::Debug for Monotonic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Monotonic")
    }
}

#[derive(Debug)]
struct Pauses {
    last: Instant,
    left_out: Duration,
}

impl Pauses {
    /// Twice the time between two looks of the thread that watches health.
    const MOST: Duration = Duration::from_millis(200);

    fn leave_out(&mut self, now: Instant) -> Instant {
        let gap = now.saturating_duration_since(self.last);
        self.last = now;
        self.left_out += gap.saturating_sub(Self::MOST);
        now.checked_sub(self.left_out).unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paused_process_makes_no_stall() {
        let start = Instant::now();
        let mut pauses = Pauses { last: start, left_out: Duration::ZERO };
        let mut at = |millis| (pauses.leave_out(start + Duration::from_millis(millis)) - start).as_millis();
        assert_eq!(at(100), 100);
        assert_eq!(at(10_100), 300, "ten seconds without a look");
        // A disk that does not answer while somebody looks all the time has its full age.
        let looks: Vec<_> = (1..=10).map(|look| at(10_100 + 100 * look)).collect();
        assert_eq!(looks.last(), Some(&1300));
    }
}
