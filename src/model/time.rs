//! Two kinds of time: when something happened, and times that users store as values.

use serde::{Deserialize, Serialize};

/// When something happened or was accepted: nanoseconds since 1970, between the years 2000 and 2500.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EventTime(pub u64);

impl EventTime {
    /// The earliest event time that is accepted: 2000-01-01T00:00:00Z. An unset timestamp is 1970.
    pub const MIN: Self = Self(946_684_800_000_000_000);

    /// This time moved on by `by`, at most to the end of the range.
    #[must_use]
    pub fn plus(self, by: std::time::Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// This time moved back by `by`, at most to 1970.
    #[must_use]
    pub fn minus(self, by: std::time::Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this is; zero if it is before.
    pub fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A time as a value: the whole range of a protobuf timestamp, 0001-01-01 to 9999-12-31, exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Instant {
    /// Seconds since 1970, negative before it.
    pub seconds: i64,
    /// Nanoseconds after `seconds`, 0 to 999,999,999.
    pub nanos: u32,
}

impl Instant {
    /// Whether it lies in the range that a protobuf timestamp allows.
    pub fn is_valid(&self) -> bool {
        (-62_135_596_800..=253_402_300_799).contains(&self.seconds) && self.nanos < 1_000_000_000
    }
}
