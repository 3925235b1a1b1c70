//! One incident: what it is, how far it has come, and its timeline.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::{Breaker, Change, Event, JournalLevel, Operation, Rule, Scope, State, Transition};
use crate::ledger::{Coverage, Sums};
use crate::model::EventTime;

/// Scopes that an incident names.
pub const MAX_SCOPES: usize = 100;
/// Events that are kept of an incident's beginning, and of its end.
pub const KEPT_FIRST: usize = 500;
/// As [`KEPT_FIRST`], of its end.
pub const KEPT_LAST: usize = 500;

/// What an incident waits for: one cause at one scope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Where.
    pub scope: Scope,
    /// What kind of trouble.
    pub cause: Cause,
    /// How far this one has come.
    pub state: State,
}

/// Kinds of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// A breaker is not closed.
    Breaker,
    /// The journal does not take everything.
    Journal,
    /// The store is being rebuilt, or could not be.
    Rebuild,
    /// Entries are parked.
    Parked,
    /// The breaker of the applier's loads is not closed.
    LoadBreaker,
}

/// The record of one disturbance, without its timeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// Its number, from 1.
    pub number: u64,
    /// What it is, for people.
    pub title: String,
    /// How wide the trouble is that gave the title.
    titled: u8,
    /// How far it has come.
    pub state: State,
    /// What it concerns.
    pub scopes: Vec<Scope>,
    /// What it still waits for.
    pub conditions: Vec<Condition>,
    /// When the evidence began.
    pub started_at: EventTime,
    /// When it was detected.
    pub detected_at: EventTime,
    /// When the sick part was kept from the store.
    pub mitigated_at: Option<EventTime>,
    /// When all was applied.
    pub resolved_at: Option<EventTime>,
    /// The journal's last position when the trouble was over: what waits up to it must still be applied.
    pub catch_up_to: Option<u64>,
    /// The most entries that waited at once.
    pub peak_pending: u64,
    /// What was counted; of an incident that could not be counted, nothing.
    pub sums: Option<Sums>,
    /// Whether the sums are final.
    pub settled: bool,
    /// What the sums cover, to count on after a restart.
    pub covers: Coverage,
    /// Events left out of the timeline.
    pub omitted: u64,
}

impl Head {
    /// From the first evidence to detection.
    pub fn time_to_detect(&self) -> Duration {
        self.detected_at.since(self.started_at)
    }

    /// From the first evidence to mitigation.
    pub fn time_to_mitigate(&self) -> Option<Duration> {
        Some(self.mitigated_at?.since(self.started_at))
    }

    /// From the first evidence to resolution.
    pub fn time_to_resolve(&self) -> Option<Duration> {
        Some(self.resolved_at?.since(self.started_at))
    }

    /// Whether it is over.
    pub fn is_resolved(&self) -> bool {
        self.state == State::Resolved
    }

    /// Whether something at `scope` concerns it.
    pub fn concerns(&self, scope: &Scope) -> bool {
        self.scopes.iter().any(|own| own.overlaps(scope))
    }

    pub(super) fn title_and_width(&self) -> (u8, String) {
        (self.titled, self.title.clone())
    }

    /// The title that says most stays.
    pub(super) fn take_title(&mut self, (width, title): (u8, String)) {
        if width > self.titled {
            (self.titled, self.title) = (width, title);
        }
    }

    /// How far it has come, by what it waits for.
    pub(super) fn worst(&self) -> State {
        self.conditions.iter().map(|condition| condition.state).min().unwrap_or(State::CatchingUp)
    }
}

/// An incident with its timeline.
#[derive(Clone, Debug, PartialEq)]
pub struct Incident {
    /// The record.
    pub head: Head,
    /// The first events, and the last ones.
    pub events: VecDeque<Event>,
}

impl Incident {
    pub(super) fn new(number: u64, transition: &Transition, now: EventTime) -> Self {
        let since = transition.evidence.as_ref().map_or(Duration::ZERO, |evidence| evidence.since);
        Self {
            head: Head {
                number,
                title: String::new(),
                titled: 0,
                state: State::Detected,
                scopes: Vec::new(),
                conditions: Vec::new(),
                started_at: now.minus(since),
                detected_at: now,
                mitigated_at: None,
                resolved_at: None,
                catch_up_to: None,
                peak_pending: 0,
                sums: None,
                settled: false,
                covers: Coverage::default(),
                omitted: 0,
            },
            events: VecDeque::new(),
        }
    }

    /// Adds a line, the oldest of the later ones going first when there are too many.
    pub(super) fn push(&mut self, event: Event) {
        if self.events.len() >= KEPT_FIRST + KEPT_LAST {
            self.events.remove(KEPT_FIRST);
            self.head.omitted += 1;
        }
        self.events.push_back(event);
    }

    /// Notes what a transition changes about what the incident waits for.
    pub(super) fn note(&mut self, transition: &Transition) {
        let head = &mut self.head;
        let known = head.scopes.contains(&transition.scope);
        if opens(transition) && !known && head.scopes.len() < MAX_SCOPES {
            head.scopes.push(transition.scope.clone());
        }
        if let Some(title) = title(transition) {
            head.take_title(title);
        }
        let Some((cause, state)) = condition(transition.change) else { return };
        let is = |other: &Condition| other.cause == cause && other.scope == transition.scope;
        match (state, head.conditions.iter_mut().find(|condition| is(condition))) {
            (Some(state), Some(condition)) => condition.state = state,
            // A breaker that lets calls back in gradually without having been open is no trouble.
            (Some(state), None) if opens(transition) || state <= State::Mitigated => {
                let scope = transition.scope.clone();
                head.conditions.push(Condition { scope, cause, state });
            }
            (Some(_), None) => {}
            (None, _) => head.conditions.retain(|condition| !is(condition)),
        }
    }

    /// Bytes in memory, about.
    pub(super) fn weight(&self) -> usize {
        let events: usize = self.events.iter().map(|event| event.message.len() + 200).sum();
        events + self.head.scopes.len() * 100 + self.head.covers.sites.len() * 100 + 500
    }
}

/// Whether this is trouble enough for an incident of its own.
pub(super) fn opens(transition: &Transition) -> bool {
    match transition.change {
        // What an operator forces open is a hold by another name.
        Change::Breaker(Breaker::Open) | Change::LoadBreaker(Breaker::Open) => {
            transition.evidence.as_ref().is_none_or(|evidence| evidence.rule != Some(Rule::Forced))
        }
        Change::RebuildStarted | Change::RebuildFailed => true,
        Change::Journal(level) => {
            matches!(level, JournalLevel::Full | JournalLevel::Stalled | JournalLevel::Failed)
        }
        Change::Parked(users) => users > 0,
        Change::Breaker(_)
        | Change::LoadBreaker(_)
        | Change::Hold
        | Change::RebuildFinished
        | Change::Restart => false,
    }
}

/// What a change means for what an incident waits for; no state: it is over.
pub(super) fn condition(change: Change) -> Option<(Cause, Option<State>)> {
    let breaker = |to: Breaker| match to {
        Breaker::Open => Some(State::Mitigated),
        Breaker::HalfOpen => Some(State::Probing),
        Breaker::Recovering => Some(State::CatchingUp),
        Breaker::Closed => None,
    };
    Some(match change {
        Change::Breaker(to) => (Cause::Breaker, breaker(to)),
        Change::LoadBreaker(to) => (Cause::LoadBreaker, breaker(to)),
        Change::Journal(JournalLevel::Normal | JournalLevel::Filling) => (Cause::Journal, None),
        Change::Journal(_) => (Cause::Journal, Some(State::Detected)),
        Change::RebuildStarted => (Cause::Rebuild, Some(State::Mitigated)),
        // The old store stays: what was the matter with it is for its breaker to say.
        Change::RebuildFinished | Change::RebuildFailed => (Cause::Rebuild, None),
        Change::Parked(0) => (Cause::Parked, None),
        Change::Parked(_) => (Cause::Parked, Some(State::Mitigated)),
        Change::Hold | Change::Restart => return None,
    })
}

/// A title, and how much it says: the title that says most stays.
fn title(transition: &Transition) -> Option<(u8, String)> {
    if !opens(transition) {
        return None;
    }
    let whole = transition.scope.site.is_none();
    let title = match transition.change {
        Change::Breaker(_) | Change::LoadBreaker(_) => {
            let what = match transition.scope.operation {
                Some(Operation::Apply) => "Writes to the store",
                Some(Operation::Load) => "Reads of profiles",
                Some(Operation::Query) => "Queries",
                None => "The store",
            };
            let how = match transition.evidence.as_ref().and_then(|evidence| evidence.rule) {
                Some(Rule::Stall | Rule::Probe) => "stalled",
                Some(Rule::Flush) => "stalled at the disk",
                Some(Rule::Share | Rule::Children | Rule::Forced) | None => "slow or failing",
                Some(Rule::StoreFailed) => "failing",
            };
            match &transition.scope.site {
                Some(site) => format!("{what} {how} for site {site}"),
                None => format!("{what} {how}"),
            }
        }
        Change::Journal(JournalLevel::Stalled) => "The journal's disk does not answer".to_owned(),
        Change::Journal(JournalLevel::Failed) => "The journal has failed".to_owned(),
        Change::Journal(_) => "The journal is full".to_owned(),
        Change::RebuildStarted => "The store is rebuilt".to_owned(),
        Change::RebuildFailed => "A rebuild of the store failed".to_owned(),
        Change::Parked(_) => match &transition.scope.site {
            Some(site) => format!("Entries of a user of site {site} could not be applied"),
            None => "Entries of a user could not be applied".to_owned(),
        },
        Change::Hold | Change::RebuildFinished | Change::Restart => return None,
    };
    let width = match transition.change {
        Change::RebuildStarted => 1,
        Change::Parked(_) => 2,
        Change::Journal(JournalLevel::Failed) => 6,
        Change::Breaker(_) | Change::LoadBreaker(_) if whole => 4,
        Change::Breaker(_) | Change::LoadBreaker(_) => 3,
        _ => 5,
    };
    Some((width, title))
}
