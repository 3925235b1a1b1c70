//! The one place that reads a wall clock.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::model::EventTime;

/// Where the wall time comes from.
pub trait Clock: Send + Sync + 'static {
    /// The wall time.
    fn now(&self) -> EventTime;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that may")]
    fn now(&self) -> EventTime {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        EventTime(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// A clock moved by hand.
#[derive(Debug)]
pub struct ManualClock(std::sync::atomic::AtomicU64);

impl ManualClock {
    /// A clock that stands at `start`.
    pub fn new(start: EventTime) -> Self {
        Self(std::sync::atomic::AtomicU64::new(start.0))
    }

    /// Moves it on.
    pub fn advance(&self, by: std::time::Duration) {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.0.fetch_add(nanos, std::sync::atomic::Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> EventTime {
        EventTime(self.0.load(std::sync::atomic::Ordering::SeqCst))
    }
}
