//! The recorder: makes incidents of what happens. Pure: time is passed in, what is to be done about it comes back.
//!
//! Trouble at a scope opens an incident, or joins the one that is open at an equal, wider or narrower scope; if it
//! touches several, they become one, under the lowest number. What is no trouble by itself (a hold, a breaker that
//! closes) joins what it concerns, or is none of ours. An incident is resolved when every cause is over and all that
//! had been accepted by then has been dealt with.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::{Change, Event, Scope, State, Transition, bounded};
use super::record::{Condition, Head, Incident, condition, opens};
use crate::ledger::{Coverage, Sums};
use crate::model::{EventTime, Site};

/// Incidents that are kept.
pub const MAX_INCIDENTS: usize = 1000;
/// Bytes in memory that incidents may take; the oldest resolved ones go first.
pub const MAX_BYTES: usize = 6 << 20;
/// Incidents open at once. Trouble beyond is counted, not recorded.
pub const MAX_OPEN: usize = 100;
/// Numbers of merged incidents that still lead to the one that they became part of.
const MAX_MERGED: usize = 1000;
/// So long after the end the sums are followed, when something still waits: parked entries may do so for ever.
const SETTLE_WITHIN: Duration = Duration::from_mins(1);

/// What has to be written down, so that a restart knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Record {
    /// An incident as it is now, without its timeline.
    Head(Box<Head>),
    /// One more line of an incident's timeline.
    Event(u64, Box<Event>),
    /// One incident became part of another.
    Merged {
        /// The number that is no more.
        from: u64,
        /// The one that it became part of.
        into: u64,
    },
    /// The next incident's number: also when all before it are gone.
    Next(u64),
    /// What the store had said last, of the event before.
    LastError(u64, String),
}

/// What is to be done because of something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Write it down.
    Save(Record),
    /// Count the entries of this site (none: of all) for the incident, from now on.
    Cover(u64, Option<Site>),
    /// Make one count of two.
    Merge {
        /// The count that is no more.
        from: u64,
        /// The one that it became part of.
        into: u64,
    },
    /// Count what is accepted up to now, no more.
    End(u64),
    /// Follow it no further.
    Forget(u64),
    /// Too many incidents are open: it was not recorded.
    NotRecorded,
}

/// What the recorder asks about the node.
pub trait Backlog {
    /// The journal's last durable position.
    fn durable(&self) -> u64;
    /// The oldest position that waits to be applied in these scopes, parked entries apart.
    fn oldest_waiting(&self, scopes: &[Scope]) -> Option<u64>;
    /// How many entries wait in these scopes.
    fn waiting(&self, scopes: &[Scope]) -> u64;
    /// The sums of an incident.
    fn sums(&self, number: u64) -> Option<(Sums, Coverage)>;
}

/// All incidents that are kept.
#[derive(Clone, Debug)]
pub struct Recorder {
    incidents: BTreeMap<u64, Incident>,
    merged: BTreeMap<u64, u64>,
    next: u64,
    /// Time does not go back within a timeline.
    last: EventTime,
}

impl Default for Recorder {
    fn default() -> Self {
        Self { incidents: BTreeMap::new(), merged: BTreeMap::new(), next: 1, last: EventTime(0) }
    }
}

impl Recorder {
    /// The incident of this number, or the one that it became part of.
    pub fn get(&self, number: u64) -> Option<&Incident> {
        let mut number = number;
        while let Some(into) = self.merged.get(&number) {
            number = *into;
        }
        self.incidents.get(&number)
    }

    /// All incidents, oldest first.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = &Incident> {
        self.incidents.values()
    }

    /// How many are not resolved.
    pub fn open(&self) -> usize {
        self.incidents.values().filter(|incident| !incident.head.is_resolved()).count()
    }

    /// How many there ever were.
    pub fn numbered(&self) -> u64 {
        self.next - 1
    }

    /// Something happened.
    pub fn apply(&mut self, now: EventTime, transition: &Transition) -> Vec<Effect> {
        let now = self.advance(now);
        let mut effects = Vec::new();
        if !opens(transition) {
            for number in self.concerned_by(transition) {
                self.add(number, now, transition, &mut effects);
            }
            return effects;
        }
        let mut joined = self.concerned_by(transition).into_iter();
        let number = match joined.next() {
            Some(number) => number,
            None if self.open() >= MAX_OPEN => return vec![Effect::NotRecorded],
            None => {
                let number = self.next;
                self.next += 1;
                self.incidents.insert(number, Incident::new(number, transition, now));
                effects.push(Effect::Save(Record::Next(self.next)));
                number
            }
        };
        for other in joined {
            self.merge(other, number, &mut effects);
        }
        effects.push(Effect::Cover(number, transition.scope.site.clone()));
        self.add(number, now, transition, &mut effects);
        self.prune();
        effects
    }

    /// Open incidents that a transition is about.
    fn concerned_by(&self, transition: &Transition) -> Vec<u64> {
        let opens = opens(transition);
        let concerned = |incident: &&Incident| {
            let head = &incident.head;
            let cause = condition(transition.change).map(|(cause, _)| cause);
            let is_it = |known: &Condition| known.scope == transition.scope && Some(known.cause) == cause;
            let waits_for_it = || head.conditions.iter().any(is_it);
            !head.is_resolved()
                && head.concerns(&transition.scope)
                // A breaker that was no trouble before, such as a child that follows its parent, is none now.
                && (opens
                    || !matches!(transition.change, Change::Breaker(_) | Change::LoadBreaker(_))
                    || waits_for_it())
        };
        self.incidents.values().filter(concerned).map(|incident| incident.head.number).collect()
    }

    fn add(&mut self, number: u64, now: EventTime, transition: &Transition, effects: &mut Vec<Effect>) {
        let Some(incident) = self.incidents.get_mut(&number) else { return };
        incident.note(transition);
        let head = &mut incident.head;
        head.state = head.worst();
        head.catch_up_to = None;
        if head.state >= State::Mitigated {
            head.mitigated_at.get_or_insert(now);
        }
        let event = Event {
            at: now,
            change: Some(transition.change),
            state: head.state,
            message: bounded(transition.message.clone()),
            scope: transition.scope.clone(),
            evidence: transition.evidence.clone(),
        };
        let said = last_error(number, &event);
        incident.push(event.clone());
        effects.push(Effect::Save(Record::Event(number, Box::new(event))));
        effects.extend(said.map(Effect::Save));
        effects.push(Effect::Save(Record::Head(Box::new(incident.head.clone()))));
    }

    fn merge(&mut self, from: u64, into: u64, effects: &mut Vec<Effect>) {
        let Some(other) = self.incidents.remove(&from) else { return };
        let Some(incident) = self.incidents.get_mut(&into) else { return };
        incident.absorb(other);
        self.merged.insert(from, into);
        while self.merged.len() > MAX_MERGED {
            self.merged.pop_first();
        }
        effects.push(Effect::Merge { from, into });
        effects.push(Effect::Save(Record::Merged { from, into }));
    }

    /// Looks at how the open incidents are doing.
    pub fn tick(&mut self, now: EventTime, backlog: &dyn Backlog) -> Vec<Effect> {
        let now = self.advance(now);
        let mut effects = Vec::new();
        for incident in self.incidents.values_mut() {
            if incident.head.is_resolved() {
                if !incident.head.settled {
                    settle(incident, now, backlog, &mut effects);
                }
                continue;
            }
            let head = &mut incident.head;
            let waiting = if delays_writes(head) { backlog.waiting(&head.scopes) } else { 0 };
            head.peak_pending = head.peak_pending.max(waiting);
            if !head.conditions.is_empty() {
                continue;
            }
            let catch_up_to = *head.catch_up_to.get_or_insert_with(|| backlog.durable());
            let oldest = if delays_writes(head) { backlog.oldest_waiting(&head.scopes) } else { None };
            if oldest.is_some_and(|oldest| oldest <= catch_up_to) {
                continue;
            }
            resolve(incident, now, waiting);
            effects.push(Effect::End(incident.head.number));
            if let Some(event) = incident.events.back() {
                let event = Box::new(event.clone());
                effects.push(Effect::Save(Record::Event(incident.head.number, event)));
            }
            effects.push(Effect::Save(Record::Head(Box::new(incident.head.clone()))));
        }
        effects
    }

    /// Brings the sums of the open incidents up to date and has them written down.
    pub fn refresh(&mut self, backlog: &dyn Backlog) -> Vec<Effect> {
        let mut effects = Vec::new();
        for incident in self.incidents.values_mut().filter(|incident| !incident.head.settled) {
            let head = &mut incident.head;
            if let Some((sums, covers)) = backlog.sums(head.number) {
                if head.sums == Some(sums) && head.covers == covers {
                    continue;
                }
                (head.sums, head.covers) = (Some(sums), covers);
                effects.push(Effect::Save(Record::Head(Box::new(head.clone()))));
            }
        }
        effects
    }

    /// Takes up what an earlier process wrote down.
    pub fn restore(&mut self, record: Record) {
        match record {
            Record::Head(head) => {
                self.next = self.next.max(head.number + 1);
                let number = head.number;
                match self.incidents.get_mut(&number) {
                    Some(incident) => incident.head = *head,
                    None => {
                        self.incidents.insert(number, Incident { head: *head, events: VecDeque::new() });
                    }
                }
            }
            Record::Event(number, event) => {
                self.last = self.last.max(event.at);
                self.next = self.next.max(number + 1);
                // Its head follows; until then the event says when it began.
                let incident = self.incidents.entry(number).or_insert_with(|| {
                    let transition = Transition {
                        scope: event.scope.clone(),
                        change: event.change.unwrap_or(Change::Restart),
                        message: String::new(),
                        evidence: event.evidence.clone(),
                    };
                    Incident::new(number, &transition, event.at)
                });
                incident.push(*event);
            }
            Record::Merged { from, into } => drop_merged(self, from, into),
            Record::LastError(number, text) => {
                let event = self.incidents.get_mut(&number).and_then(|incident| incident.events.back_mut());
                if let Some(evidence) = event.and_then(|event| event.evidence.as_mut()) {
                    evidence.last_error = text;
                }
            }
            Record::Next(next) => self.next = self.next.max(next),
        }
        self.prune();
    }

    /// What a restart has to know.
    pub fn records(&self) -> impl Iterator<Item = Record> {
        let incidents = self.incidents.values().flat_map(|incident| {
            let number = incident.head.number;
            let events = incident.events.iter().flat_map(move |event| {
                let said = last_error(number, event);
                [Record::Event(number, Box::new(event.clone()))].into_iter().chain(said)
            });
            events.chain([Record::Head(Box::new(incident.head.clone()))])
        });
        let merged = self.merged.iter().map(|(&from, &into)| Record::Merged { from, into });
        [Record::Next(self.next)].into_iter().chain(incidents).chain(merged)
    }

    /// The process began again: what was open goes on. What its causes were is for the new process to find out;
    /// what waits is being applied.
    pub fn restarted(&mut self, now: EventTime) -> Vec<Effect> {
        let now = self.advance(now);
        let mut effects = Vec::new();
        let open: Vec<u64> = self
            .incidents
            .values()
            .filter(|incident| !incident.head.is_resolved())
            .map(|incident| incident.head.number)
            .collect();
        for number in open {
            if let Some(incident) = self.incidents.get_mut(&number) {
                incident.head.conditions.clear();
            }
            let transition = Transition {
                scope: Scope::default(),
                change: Change::Restart,
                message: "The server was started again; what waited is applied from the journal".to_owned(),
                evidence: None,
            };
            self.add(number, now, &transition, &mut effects);
        }
        effects
    }

    fn advance(&mut self, now: EventTime) -> EventTime {
        self.last = self.last.max(now);
        self.last
    }

    /// Drops the oldest resolved incidents when there are too many, or they are too large together.
    fn prune(&mut self) {
        let mut bytes: usize = self.incidents.values().map(Incident::weight).sum();
        while self.incidents.len() > MAX_INCIDENTS || bytes > MAX_BYTES {
            let resolved = self.incidents.values().find(|incident| incident.head.is_resolved());
            let Some((number, weight)) = resolved.map(|incident| (incident.head.number, incident.weight()))
            else {
                return;
            };
            self.incidents.remove(&number);
            bytes -= weight;
        }
    }
}

/// What is written down of an event's evidence besides.
fn last_error(number: u64, event: &Event) -> Option<Record> {
    let said = event.evidence.as_ref().map(|evidence| &evidence.last_error)?;
    (!said.is_empty()).then(|| Record::LastError(number, said.clone()))
}

fn delays_writes(head: &Head) -> bool {
    head.scopes.iter().any(Scope::delays_writes)
}

fn resolve(incident: &mut Incident, now: EventTime, waiting: u64) {
    let head = &mut incident.head;
    head.state = State::Resolved;
    head.resolved_at = Some(now);
    let message = match (delays_writes(head), waiting) {
        (false, _) => "Resolved".to_owned(),
        (true, 0) => "Resolved: all that waited has been applied".to_owned(),
        (true, waiting) => {
            format!("Resolved: all that waited has been applied; {waiting} newer entries are on their way")
        }
    };
    let scope = head.scopes.first().cloned().unwrap_or_default();
    incident.push(Event { at: now, change: None, state: State::Resolved, message, scope, evidence: None });
}

/// Follows the sums of a resolved incident until nothing of it waits.
fn settle(incident: &mut Incident, now: EventTime, backlog: &dyn Backlog, effects: &mut Vec<Effect>) {
    let head = &mut incident.head;
    let late = head.resolved_at.is_none_or(|at| now.since(at) >= SETTLE_WITHIN);
    if let Some((sums, covers)) = backlog.sums(head.number) {
        head.settled = sums.pending == 0 || late;
        (head.sums, head.covers) = (Some(sums), covers);
    } else {
        head.settled = true;
    }
    if head.settled {
        head.covers = Coverage::default();
        effects.push(Effect::Forget(head.number));
        effects.push(Effect::Save(Record::Head(Box::new(head.clone()))));
    }
}

fn drop_merged(recorder: &mut Recorder, from: u64, into: u64) {
    recorder.next = recorder.next.max(from.max(into) + 1);
    recorder.merged.insert(from, into);
    if let Some(other) = recorder.incidents.remove(&from)
        && let Some(incident) = recorder.incidents.get_mut(&into)
    {
        incident.absorb(other);
    }
}

impl Incident {
    /// Takes over what another one knows.
    fn absorb(&mut self, other: Self) {
        let (head, theirs) = (&mut self.head, other.head);
        head.started_at = head.started_at.min(theirs.started_at);
        head.detected_at = head.detected_at.min(theirs.detected_at);
        head.mitigated_at = [head.mitigated_at, theirs.mitigated_at].into_iter().flatten().min();
        head.peak_pending = head.peak_pending.max(theirs.peak_pending);
        head.omitted += theirs.omitted;
        head.take_title(theirs.title_and_width());
        for scope in theirs.scopes {
            if !head.scopes.contains(&scope) && head.scopes.len() < super::record::MAX_SCOPES {
                head.scopes.push(scope);
            }
        }
        for condition in theirs.conditions {
            let same = |known: &super::record::Condition| {
                known.cause == condition.cause && known.scope == condition.scope
            };
            if !head.conditions.iter().any(same) {
                head.conditions.push(condition);
            }
        }
        let mut events: Vec<Event> = self.events.drain(..).chain(other.events).collect();
        events.sort_by_key(|event| event.at);
        for event in events {
            self.push(event);
        }
    }
}

#[cfg(test)]
mod tests;
