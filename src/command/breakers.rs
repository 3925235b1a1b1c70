//! The breakers of the store and the pace of its applier, as operators see and steer them.

use std::time::Duration;

use crate::kill_switch::Persisting;
use crate::model::{EventTime, Site};

/// What the store is asked to do, as far as it has breakers of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BreakerOperation {
    /// Commits and loads of the applier, and flushes.
    Apply,
    /// Loads of profiles for reads.
    Load,
    /// Queries, counts and exports.
    Query,
}

impl BreakerOperation {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "apply",
            Self::Load => "load",
            Self::Query => "query",
        }
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Apply, Self::Load, Self::Query].into_iter().find(|operation| operation.as_str() == name)
    }
}

/// What one breaker guards.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BreakerScope {
    /// The operation.
    pub operation: BreakerOperation,
    /// The tenant; none: the operation on the whole store.
    pub site: Option<Site>,
}

/// The state of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Calls pass and are judged.
    Closed,
    /// Calls are kept from the store.
    Open,
    /// Single calls pass as probes.
    HalfOpen,
    /// Calls pass at a rising rate.
    Recovering,
}

/// Why a breaker tripped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TripRule {
    /// Calls in flight, and none finished for the stall time.
    Stall,
    /// Too large a share of calls is slow or fails.
    Share,
    /// A flush took far longer than usual.
    Flush,
    /// Several sites' breakers tripped.
    Children,
    /// A probe failed, or its lease ran out.
    Probe,
    /// The store takes no more writes.
    StoreFailed,
    /// An operator forced it.
    Forced,
}

/// What a breaker saw.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BreakerEvidence {
    /// Which rule decided; none for what it sees now.
    pub rule: Option<TripRule>,
    /// The sum of evidence.
    pub score: f64,
    /// The sum at which it trips.
    pub threshold: f64,
    /// Calls judged slow or bad, since the sum last was zero.
    pub slow: u64,
    /// Calls judged since then.
    pub total: u64,
    /// Calls in flight.
    pub in_flight: u64,
    /// The age of the oldest of them.
    pub oldest: Option<Duration>,
    /// The 99th percentile of the last seconds, in steps of 25 ms.
    pub p99: Option<Duration>,
    /// Calls that hang since before the last change of state.
    pub hung: u64,
    /// What the store said last when it failed, lately; empty: nothing.
    pub last_error: String,
}

/// What an operator wants of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerMode {
    /// It decides.
    Auto,
    /// Open, whatever it sees.
    ForceOpen,
    /// Closed, whatever it sees.
    ForceClosed,
    /// It counts, tells, and never refuses.
    Observe,
}

impl BreakerMode {
    /// In words, as it is written down.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::ForceOpen => "force_open",
            Self::ForceClosed => "force_closed",
            Self::Observe => "observe",
        }
    }

    /// The one that is written so.
    pub fn named(name: &str) -> Option<Self> {
        let all = [Self::Auto, Self::ForceOpen, Self::ForceClosed, Self::Observe];
        all.into_iter().find(|mode| mode.as_str() == name)
    }
}

/// An operator's word on one breaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerOrder {
    /// Which.
    pub scope: BreakerScope,
    /// What.
    pub mode: BreakerMode,
    /// Why.
    pub reason: String,
    /// Who.
    pub owner: String,
    /// A ticket or link; may be empty.
    pub ticket: String,
    /// For how long; none: until somebody ends it.
    pub lasts: Option<Duration>,
}

/// An order that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerOverride {
    /// The order.
    pub order: BreakerOrder,
    /// When it was given.
    pub created_at: EventTime,
    /// When it ends by itself; none: never.
    pub expires_at: Option<EventTime>,
}

/// One breaker.
#[derive(Clone, Debug, PartialEq)]
pub struct BreakerStatus {
    /// What it guards.
    pub scope: BreakerScope,
    /// Its state.
    pub state: BreakerState,
    /// Since when.
    pub since: EventTime,
    /// What it saw when it last tripped.
    pub tripped_by: Option<BreakerEvidence>,
    /// What it sees now.
    pub evidence: BreakerEvidence,
    /// While Open: time until it probes.
    pub next_probe_in: Option<Duration>,
    /// While recovering: entries a second, or percent of the calls, that pass.
    pub admitted: Option<f64>,
    /// How often it tripped since the process started.
    pub trips: u64,
    /// Calls refused since then.
    pub refused: u64,
    /// The order in force.
    pub ordered: Option<BreakerOverride>,
}

/// Why an order about a breaker, or about the pace, is not followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BreakerRefused {
    /// It is malformed.
    #[error("{0}")]
    Invalid(String),
    /// The store cannot keep sites apart, so that they have no breakers of their own.
    #[error("this store does not keep sites apart: their breakers are those of the whole store")]
    NoSites,
    /// There are as many as can be.
    #[error("{0}")]
    TooMany(String),
    /// The log that says what is in force cannot be read, so that nothing can be ended before it is set aside.
    #[error("the audit log cannot be read; release holds-unreadable with `steadfast hold recover` first")]
    Unreadable,
}

/// How fast waiting entries are applied at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As fast as the store allows.
    Automatic,
    /// At most so many entries a second, at least 1.
    PerSecond(u64),
    /// Not at all.
    Paused,
}

/// A pace with who set it and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PaceStatus {
    /// The tenant; none: the whole store.
    pub site: Option<Site>,
    /// The pace.
    pub pace: Pace,
    /// Why; empty if nobody set it.
    pub reason: String,
    /// Who; empty if nobody set it.
    pub owner: String,
}

/// What operators do to the breakers of the store, and to the pace of its applier.
pub trait Breakers: Send + Sync + 'static {
    /// Follows an order. One that asks for something is in force when this returns, whatever the disk does; one
    /// that ends another ([`BreakerMode::Auto`]) takes effect when that is on disk. The answer says when it is.
    fn order(&self, order: BreakerOrder) -> Result<Persisting, BreakerRefused>;

    /// One breaker as it is; a site's that is not there yet is made.
    fn breaker(&self, scope: &BreakerScope) -> BreakerStatus;

    /// Sets the pace of a site, or of all. It lasts until it is changed or the process ends.
    fn set_pace(&self, pace: PaceStatus) -> Result<PaceStatus, BreakerRefused>;
}
