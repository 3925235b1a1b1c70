//! What happens, where, and on what evidence: the lines of an incident's timeline.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{EventTime, Site};

/// The longest message of an event, in bytes.
pub const MAX_MESSAGE: usize = 500;

/// An operation of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Operation {
    /// Commits of the applier, flushes included.
    Apply,
    /// Loads of profiles for reads.
    Load,
    /// Queries, counts and exports.
    Query,
}

impl Operation {
    /// The operation of this name, as breakers and status call it.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            // The applier's loads have a breaker of their own; it is the same side of the store.
            "apply" | "apply_load" => Some(Self::Apply),
            "load" => Some(Self::Load),
            "query" => Some(Self::Query),
            _ => None,
        }
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "apply",
            Self::Load => "load",
            Self::Query => "query",
        }
    }
}

/// Where something happens. Nothing given: the whole node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Scope {
    /// One operation of the store; none: all of them, and the journal.
    pub operation: Option<Operation>,
    /// One site; none: all of them.
    pub site: Option<Site>,
}

impl Scope {
    /// An operation on the whole store.
    pub fn store(operation: Operation) -> Self {
        Self { operation: Some(operation), site: None }
    }

    /// An operation on a site's part of the store.
    pub fn site(operation: Operation, site: Site) -> Self {
        Self { operation: Some(operation), site: Some(site) }
    }

    /// Whether one is the other, or a part of it.
    pub fn overlaps(&self, other: &Self) -> bool {
        fn fits<T: PartialEq>(a: Option<&T>, b: Option<&T>) -> bool {
            a.is_none() || b.is_none() || a == b
        }
        fits(self.operation.as_ref(), other.operation.as_ref())
            && fits(self.site.as_ref(), other.site.as_ref())
    }

    /// Whether its trouble keeps entries from being applied.
    pub fn delays_writes(&self) -> bool {
        self.operation.is_none_or(|operation| operation == Operation::Apply)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.operation, &self.site) {
            (None, None) => f.write_str("node"),
            (None, Some(site)) => write!(f, "site {site}"),
            (Some(operation), None) => f.write_str(operation.as_str()),
            (Some(operation), Some(site)) => write!(f, "{}/{site}", operation.as_str()),
        }
    }
}

/// The state of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Breaker {
    /// Calls pass.
    Closed,
    /// Calls are kept from the store.
    Open,
    /// Single calls pass.
    HalfOpen,
    /// Calls pass at a rising rate.
    Recovering,
}

/// Why a breaker tripped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rule {
    /// Calls in flight, and none finished for the stall time.
    Stall,
    /// Too large a share of calls is slow or fails.
    Share,
    /// A flush is overdue.
    Flush,
    /// Too many of the sites' breakers tripped.
    Children,
    /// A probe failed or did not come back.
    Probe,
    /// The store said that it cannot go on.
    StoreFailed,
    /// An operator forced it.
    Forced,
}

impl Rule {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stall => "stall",
            Self::Share => "share of slow calls",
            Self::Flush => "flush overdue",
            Self::Children => "several sites",
            Self::Probe => "failed probe",
            Self::StoreFailed => "store failed",
            Self::Forced => "forced by an operator",
        }
    }
}

/// What a breaker saw.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Which rule decided; none for changes that are no trip.
    pub rule: Option<Rule>,
    /// The sum of evidence.
    pub score: f64,
    /// Calls judged slow or bad.
    pub slow: u64,
    /// Calls judged.
    pub total: u64,
    /// Calls in flight.
    pub in_flight: u64,
    /// How long before the event the evidence began.
    pub since: Duration,
    /// The age of the oldest call in flight.
    pub oldest: Option<Duration>,
    /// The 99th percentile of the calls' ages.
    pub p99: Option<Duration>,
    /// What the store said last when it failed; empty: nothing. Written down by itself ([`Record::LastError`]), which
    /// keeps the files of before readable.
    ///
    /// [`Record::LastError`]: super::Record::LastError
    #[serde(skip)]
    pub last_error: String,
}

/// How the journal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JournalLevel {
    /// All is well.
    Normal,
    /// It fills up; there is still room.
    Filling,
    /// It takes nothing more.
    Full,
    /// Its disk does not answer.
    Stalled,
    /// It has failed; the process ends.
    Failed,
}

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A breaker's state.
    Breaker(Breaker),
    /// A hold or an override: placed, changed, or ended.
    Hold,
    /// A rebuild of the store began.
    RebuildStarted,
    /// The rebuilt store took over.
    RebuildFinished,
    /// A rebuild failed.
    RebuildFailed,
    /// The journal's level.
    Journal(JournalLevel),
    /// So many users of the site have their entries parked.
    Parked(u64),
    /// The process ended or began while the incident lasted.
    Restart,
    /// The state of the breaker of the applier's loads, which is the same side of the store as that of its commits.
    LoadBreaker(Breaker),
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition {
    /// Where.
    pub scope: Scope,
    /// What.
    pub change: Change,
    /// In words, for people.
    pub message: String,
    /// On what evidence; breakers only.
    pub evidence: Option<Evidence>,
}

/// How far an incident has come, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum State {
    /// Trouble is known.
    Detected,
    /// The sick part is kept from the store; what comes in waits.
    Mitigated,
    /// The store is being tried.
    Probing,
    /// The store answers; what waited is being applied.
    CatchingUp,
    /// All is applied.
    Resolved,
}

impl State {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Detected => "detected",
            Self::Mitigated => "mitigated",
            Self::Probing => "probing",
            Self::CatchingUp => "catching up",
            Self::Resolved => "resolved",
        }
    }
}

/// One line of a timeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub at: EventTime,
    /// What; none: only the incident's state changed.
    pub change: Option<Change>,
    /// The incident's state afterwards.
    pub state: State,
    /// In words.
    pub message: String,
    /// Where.
    pub scope: Scope,
    /// On what evidence.
    pub evidence: Option<Evidence>,
}

/// `text`, cut to [`MAX_MESSAGE`] bytes.
pub fn bounded(mut text: String) -> String {
    if text.len() > MAX_MESSAGE {
        let mut end = MAX_MESSAGE - '…'.len_utf8();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_overlap_when_one_is_part_of_the_other() {
        let acme = Scope::site(Operation::Apply, Site::new("acme"));
        let beta = Scope::site(Operation::Apply, Site::new("beta"));
        let (apply, load, node) =
            (Scope::store(Operation::Apply), Scope::store(Operation::Load), Scope::default());
        for (a, b, overlap) in [
            (&acme, &acme, true),
            (&acme, &beta, false),
            (&acme, &apply, true),
            (&acme, &load, false),
            (&apply, &load, false),
            (&node, &load, true),
            (&node, &beta, true),
        ] {
            assert_eq!((a.overlaps(b), b.overlaps(a)), (overlap, overlap), "{a} {b}");
        }
    }

    #[test]
    fn messages_are_cut_between_characters() {
        assert_eq!(bounded("short".to_owned()), "short");
        let cut = bounded("é".repeat(MAX_MESSAGE));
        assert!(cut.len() <= MAX_MESSAGE && cut.ends_with('…'));
    }
}
