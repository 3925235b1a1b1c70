//! What the breaker reports.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::overrides::Override;

/// Which breaker: an operation of the backend, or a site's part of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ScopeName {
    /// The operation.
    pub operation: Arc<str>,
    /// The site; `None`: the operation as a whole.
    pub site: Option<Arc<str>>,
}

impl fmt::Display for ScopeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.site {
            Some(site) => write!(f, "{}/{site}", self.operation),
            None => f.write_str(&self.operation),
        }
    }
}

/// The states, in order of how little they let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Calls pass.
    Closed,
    /// Calls are let back in.
    Recovering,
    /// Only probes pass.
    HalfOpen,
    /// Calls are refused.
    Open,
}

impl Phase {
    /// In words, as in metrics and status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::Recovering => "recovering",
        }
    }
}

/// Why the state changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A call in flight for too long, and none ended meanwhile.
    Stall,
    /// Too large a share of the calls is slow or bad.
    PartialSlowness,
    /// The backend said that it cannot go on.
    BackendFailed,
    /// A flush is overdue.
    FlushOverdue {
        /// Its age.
        age: Duration,
    },
    /// Too many children tripped.
    Children {
        /// Tripped.
        tripped: usize,
        /// Of so many active ones.
        active: usize,
    },
    /// The parent tripped; this one follows it.
    ParentTripped,
    /// Time to probe.
    OpenTimeOver,
    /// A probe failed.
    ProbeFailed,
    /// A probe was slow.
    ProbeSlow,
    /// A probe did not end within its lease.
    ProbeExpired,
    /// Enough fast probes.
    ProbesFast,
    /// The whole load passes again.
    FullRate,
    /// Nothing waits any more.
    BacklogEmpty,
    /// An operator said so.
    Operator,
}

impl Rule {
    /// In words, as in metrics and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stall => "stall",
            Self::PartialSlowness => "partial_slowness",
            Self::BackendFailed => "backend_failed",
            Self::FlushOverdue { .. } => "flush_overdue",
            Self::Children { .. } => "children",
            Self::ParentTripped => "parent_tripped",
            Self::OpenTimeOver => "open_time_over",
            Self::ProbeFailed => "probe_failed",
            Self::ProbeSlow => "probe_slow",
            Self::ProbeExpired => "probe_expired",
            Self::ProbesFast => "probes_fast",
            Self::FullRate => "full_rate",
            Self::BacklogEmpty => "backlog_empty",
            Self::Operator => "operator",
        }
    }
}

/// What was known when the state changed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Evidence {
    /// The CUSUM's score; it trips at 20.7.
    pub score: f64,
    /// Slow or bad verdicts since the score last left zero.
    pub slow: u64,
    /// All verdicts since then.
    pub total: u64,
    /// How long before the event the evidence began: when the oldest of the calls that showed it did.
    pub since: Duration,
    /// Age of the oldest call in flight.
    pub oldest: Option<Duration>,
    /// Upper bound of the 99th percentile of the calls' ages over the last seconds; steps of 25 ms.
    pub p99: Duration,
    /// Calls in flight.
    pub in_flight: u64,
    /// Calls of earlier generations that have not come back.
    pub hung: u64,
}

impl Evidence {
    /// The same, when it is the last probe that decided: it is the oldest call of those that count.
    pub(super) fn with_probe(mut self, rule: Rule, age: Duration) -> Self {
        match rule {
            Rule::ProbeSlow | Rule::ProbeExpired => {
                self.oldest = self.oldest.max(Some(age));
                self.since = self.since.max(self.oldest.unwrap_or_default());
            }
            Rule::ProbeFailed => self.since = self.since.max(age),
            _ => {}
        }
        self
    }
}

/// Something happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A state changed.
    Transition {
        /// Whose.
        scope: ScopeName,
        /// Before.
        from: Phase,
        /// After.
        to: Phase,
        /// Why.
        rule: Rule,
        /// When, by the age clock.
        at: Duration,
        /// On what grounds.
        evidence: Evidence,
    },
    /// A scope that only observes would have tripped.
    WouldTrip {
        /// Which.
        scope: ScopeName,
        /// Why.
        rule: Rule,
        /// When, by the age clock.
        at: Duration,
        /// On what grounds.
        evidence: Evidence,
    },
    /// An operator set an override (`AUTO` ends one).
    Overridden {
        /// Where.
        scope: ScopeName,
        /// What, why, who.
        order: Override,
    },
    /// An override's time was up; the breaker decides again.
    OverrideExpired {
        /// Where.
        scope: ScopeName,
        /// What it was.
        order: Override,
    },
}

/// Hears of every event, in order, on the thread that ticks (overrides: on the caller's). Must be quick and
/// must not call the registry.
pub trait Listener: Send + Sync + 'static {
    /// Something happened.
    fn event(&self, event: &Event);
}

/// Listens to nothing.
impl Listener for () {
    fn event(&self, _: &Event) {}
}
