//! What may be set.

use std::time::Duration;

use super::detector::{BUCKET, Timing};
use super::recovery::Recovery;

/// How one operation's scopes judge and recover.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A call of this age is slow.
    pub slow_after: Duration,
    /// A call of this age, with none ended meanwhile, trips at once.
    pub stall_after: Duration,
    /// How long it is Open the first time; doubles with each trip in a row.
    pub open_base: Duration,
    /// How long it is Open at most.
    pub open_max: Duration,
    /// Fast probes needed.
    pub probes: u32,
    /// A probe that has not ended by then has failed.
    pub probe_lease: Duration,
    /// How the load is let back in.
    pub recovery: Recovery,
    /// One thread serves the backend: no probe while a call hangs in it.
    pub serial: bool,
    /// So many threads count in stripes of their own, the others together in one (memory: 2 KiB each and scope, 4 KiB
    /// for queries).
    pub stripes: u32,
}

impl Settings {
    /// For commits: slow at 250 ms, stalled at 750 ms, serial, slow start.
    pub fn writes() -> Self {
        let slow_after = Duration::from_millis(250);
        Self {
            slow_after,
            stall_after: 3 * slow_after,
            open_base: Duration::from_secs(1),
            open_max: Duration::from_secs(30),
            probes: 5,
            probe_lease: 4 * slow_after,
            recovery: Recovery::SlowStart,
            serial: true,
            stripes: 0,
        }
    }

    /// For gets: slow at 250 ms, stalled at 750 ms, ramped.
    pub fn reads() -> Self {
        // More than there are processors: those that answer requests, and those of the store.
        Self { recovery: Recovery::Ramp, serial: false, stripes: 16, ..Self::writes() }
    }

    /// For query pages: slow at 1 s, stalled at 3 s, ramped.
    pub fn queries() -> Self {
        let slow_after = Duration::from_secs(1);
        Self { slow_after, stall_after: 3 * slow_after, probe_lease: 4 * slow_after, ..Self::reads() }
    }

    /// The part that the detector needs.
    pub fn timing(&self) -> Timing {
        Timing { slow_after: self.slow_after, stall_after: self.stall_after }
    }

    /// What is wrong with them, if anything: durations are at least a bucket (25 ms) and at most 60 s (open
    /// time: 1 h), a stall is not shorter than slow, and at least one probe is asked for.
    pub fn check(&self) -> Result<(), SettingsError> {
        let longest = Duration::from_mins(1);
        for (name, value, most) in [
            ("slow_after", self.slow_after, longest),
            ("stall_after", self.stall_after, longest),
            ("probe_lease", self.probe_lease, 2 * longest),
            ("open_base", self.open_base, 60 * longest),
            ("open_max", self.open_max, 60 * longest),
        ] {
            if value < BUCKET || value > most {
                return Err(SettingsError::Duration { name, value, most });
            }
        }
        if self.stall_after < self.slow_after {
            return Err(SettingsError::StallBeforeSlow);
        }
        if self.open_max < self.open_base {
            return Err(SettingsError::OpenMaxBelowBase);
        }
        if self.probes == 0 {
            return Err(SettingsError::NoProbes);
        }
        Ok(())
    }
}

/// Settings that make no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Out of bounds.
    #[error("{name} = {value:?} must be from 25 ms to {most:?}")]
    Duration {
        /// Which.
        name: &'static str,
        /// What it was.
        value: Duration,
        /// What it may be at most.
        most: Duration,
    },
    /// A stalled call is older than a slow one.
    #[error("stall_after is shorter than slow_after")]
    StallBeforeSlow,
    /// The open time grows.
    #[error("open_max is shorter than open_base")]
    OpenMaxBelowBase,
    /// Without probes it would never close.
    #[error("probes must be at least 1")]
    NoProbes,
}
