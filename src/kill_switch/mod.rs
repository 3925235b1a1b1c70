//! The kill switch: holds that operators place, and what they do to requests and entries.
//!
//! - [`KillSwitch`] is asked at admission, by the tower service [`Switched`] around the stacks, and by the
//!   applier through a [`View`]. It reads one immutable value and takes no lock.
//! - Placing brings a hold in force and then persists it; a release is persisted and then takes effect. The
//!   [`Scribe`] writes, on a thread of its own, so that a disk that hangs delays nothing but durability.
//! - The [audit log](audit) is the only file; what is in force after a start is its fold.

pub mod audit;
mod control;
mod epoch;
pub mod hold;
mod layer;
mod operators;
mod rules;
mod scope;
mod scribe;
mod service;
mod switch;
mod sync;

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::model::EventTime;

pub use hold::{Hold, HoldId, Invalid, Lasting, Mode, NewHold, NotAHoldId};
pub use layer::SwitchLayer;
pub use operators::Who;
pub use rules::{Deferral, View};
pub use scope::{Operation, Operations, Scope, UserShare};
pub use scribe::Scribe;
pub use service::{Held, Subject, Switched, SwitchedFuture};
pub use switch::{Admission, Changed, KillSwitch, Resumed, Ticket};

/// Both clocks at one moment. Holds end by the one that nobody sets; the other is for people, and for what
/// must outlive the process.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The clock that nobody sets.
    pub instant: Instant,
    /// The wall clock.
    pub wall: EventTime,
}

/// Why a hold is not placed, changed or released.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HoldError {
    /// A field is not as it must be.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// There are as many as there may be.
    #[error("there are {limit} already, as many as there may be")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// It is not in force.
    #[error("there is no {id} in force")]
    NotFound {
        /// Its name.
        id: HoldId,
    },
    /// It has changed.
    #[error("{id} has version {current}")]
    VersionMismatch {
        /// Its name.
        id: HoldId,
        /// Its version.
        current: u64,
    },
    /// The audit log cannot be read, so that nothing can be released before it is set aside.
    #[error("the audit log cannot be read; release holds-unreadable with `recover` first")]
    Unreadable,
}

/// A hold and what it has done.
#[derive(Clone, Debug, PartialEq)]
pub struct HoldStatus {
    /// The hold.
    pub hold: Hold,
    /// Whether it is on disk, and so survives a restart.
    pub durable: bool,
    /// Time until it ends by itself; none: never.
    pub time_left: Option<Duration>,
    /// Requests of its scope admitted before it that are still under way; those of other sites may be
    /// counted in.
    pub in_flight: u64,
    /// When the last of them ended.
    pub drained_at: Option<EventTime>,
    /// Requests that it would have stopped, since the process started.
    pub observed: u64,
    /// Writes that it deferred.
    pub deferred: u64,
    /// Requests that it refused.
    pub rejected: u64,
}

/// What a hold of some scope would touch, as far as the switch knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Impact {
    /// Requests per second, over the last minute.
    pub requests_per_second: f64,
    /// Requests under way.
    pub in_flight: u64,
    /// Holds whose scope overlaps, at most 100.
    pub overlapping: Vec<HoldId>,
}

/// Hears when something is on disk.
#[derive(Debug)]
pub struct Persisting(oneshot::Receiver<Persisted>);

/// What became of something that was to be persisted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Persisted {
    /// Whether it is on disk.
    pub durable: bool,
    /// Entries that a release has let go.
    pub released: u64,
}

impl Persisting {
    /// What is known already.
    fn done(persisted: Persisted) -> Self {
        let (done, heard) = oneshot::channel();
        // The other end is right here.
        let _ = done.send(persisted);
        Self(heard)
    }

    /// Waits at most `limit`; then it is not known to be on disk.
    pub async fn within(self, limit: Duration) -> Persisted {
        match tokio::time::timeout(limit, self.0).await {
            Ok(Ok(persisted)) => persisted,
            // Whoever was to write it has gone, or hangs.
            Ok(Err(_)) | Err(_) => Persisted::default(),
        }
    }

    /// What is known by now.
    pub fn now(mut self) -> Option<Persisted> {
        self.0.try_recv().ok()
    }
}
