//! The same rules once more, written to be read: maps, copies, no care for speed. Without the bounds on
//! sizes, which have tests of their own.

use std::collections::BTreeMap;

use super::{Evaluation, Stamp};
use crate::model::limits::{RECENT_KEPT, RECENT_LIFE, TOMBSTONE_LIFE};
use crate::model::{AttributeChange, Change, ChangeKind, EventTime, Record, Refusal, Value, Write};

/// What is known of one user.
#[derive(Clone, Debug, Default)]
pub(super) struct Oracle {
    pub exists: bool,
    pub version: u64,
    pub values: BTreeMap<String, (Value, EventTime)>,
    /// Event time and acceptance.
    unset: BTreeMap<String, (EventTime, EventTime)>,
    /// Event time and acceptance of the delete that counts.
    erased: Option<(EventTime, EventTime)>,
    /// Write, version and acceptance of those with a request id.
    requests: Vec<(Write, u64, EventTime)>,
}

/// An outcome, as far as the oracle tells it.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    Applied { version: u64, stale: Vec<String> },
    Unchanged { version: Option<u64>, stale: Vec<String> },
    Duplicate(u64),
    Refused(Refusal),
    AlreadyApplied,
}

impl From<&Evaluation> for Outcome {
    fn from(evaluation: &Evaluation) -> Self {
        let names = |names: &[Box<str>]| names.iter().map(ToString::to_string).collect();
        match evaluation {
            Evaluation::Applied { record, notes } => {
                Self::Applied { version: record.version(), stale: names(&notes.stale) }
            }
            Evaluation::Unchanged { version, notes } => {
                Self::Unchanged { version: *version, stale: names(&notes.stale) }
            }
            Evaluation::Duplicate { version } => Self::Duplicate(*version),
            Evaluation::Refused(refusal) => Self::Refused(refusal.clone()),
            Evaluation::AlreadyApplied => Self::AlreadyApplied,
        }
    }
}

impl Oracle {
    pub fn write(&mut self, write: &Write, stamp: &Stamp) -> Outcome {
        let now = stamp.accepted_at;
        let over = |(_, accepted_at): &(EventTime, EventTime)| now.since(*accepted_at) >= TOMBSTONE_LIFE;
        self.unset.retain(|_, unset| !over(unset));
        if self.erased.as_ref().is_some_and(over) {
            self.erased = None;
            if !self.exists {
                *self = Self::default();
            }
        }
        self.requests.retain(|(_, _, accepted_at)| now.since(*accepted_at) <= RECENT_LIFE);
        if write.request_id.is_some()
            && let Some((_, version, _)) = self.requests.iter().find(|(other, _, _)| other == write)
        {
            return Outcome::Duplicate(*version);
        }
        let current = if self.exists { self.version } else { 0 };
        if write.if_version.is_some_and(|wanted| wanted != current) {
            return Outcome::Refused(Refusal::VersionMismatch { current });
        }
        let mut next = self.clone();
        let mut stale = Vec::new();
        let mut changed = false;
        match &write.kind {
            ChangeKind::Delete if self.exists => {
                let at = write.occurred_at.map_or(now, |at| at.min(now));
                let at = self.erased.map_or(at, |(before, _)| before.max(at));
                next = Self { erased: Some((at, now)), ..Self::default() };
                (next.version, next.requests) = (self.version, self.requests.clone());
                changed = true;
            }
            ChangeKind::Delete => {}
            ChangeKind::Identify(changes) => {
                for change in changes {
                    let at = change.occurred_at.or(write.occurred_at).map_or(now, |at| at.min(now));
                    match next.change(change, at, stamp) {
                        Err(refusal) => return Outcome::Refused(refusal),
                        Ok(None) => stale.push(change.name.to_string()),
                        Ok(Some(effect)) => changed |= effect,
                    }
                }
                next.exists |= changed;
            }
        }
        if !changed {
            let known = self.exists || self.erased.is_some();
            return Outcome::Unchanged { version: known.then_some(self.version), stale };
        }
        next.version += 1;
        if write.request_id.is_some() {
            next.requests.push((write.clone(), next.version, now));
            while next.requests.len() > RECENT_KEPT {
                next.requests.remove(0);
            }
        }
        *self = next;
        Outcome::Applied { version: self.version, stale }
    }

    /// None: stale; otherwise whether it has an effect.
    fn change(
        &mut self,
        change: &AttributeChange,
        at: EventTime,
        stamp: &Stamp,
    ) -> Result<Option<bool>, Refusal> {
        let name = change.name.to_string();
        if self.erased.is_some_and(|(erased, _)| at < erased) {
            return Ok(None);
        }
        let old = self.values.get(&name).cloned();
        let unset = self.unset.get(&name).map(|(at, _)| *at);
        let last = old.as_ref().map(|(_, at)| *at).into_iter().chain(unset).max();
        let is_stale = last.is_some_and(|last| at < last);
        let soon = |before: EventTime| at.0.saturating_sub(before.0) <= stamp.refresh_after.as_nanos() as u64;
        let (value, at) = match &change.change {
            Change::Set(_) | Change::Unset if is_stale => return Ok(None),
            Change::Set(value) => match old {
                Some((old, before)) if old == *value && soon(before) => return Ok(Some(false)),
                _ => (value.clone(), at),
            },
            Change::SetOnce(_) if old.is_some() => return Ok(Some(false)),
            Change::SetOnce(value) => (value.clone(), at),
            Change::Unset => {
                if old.is_none() && unset.is_some_and(soon) {
                    return Ok(Some(false));
                }
                self.values.remove(&name);
                self.unset.insert(name, (at, stamp.accepted_at));
                return Ok(Some(true));
            }
            other => {
                let old = old.map(|(value, _)| value);
                let new = combined(old.clone(), other, &change.name)?;
                if new == old {
                    return Ok(Some(false));
                }
                (new.expect("only an unset takes a value away"), last.map_or(at, |last| last.max(at)))
            }
        };
        if unset.is_some_and(|unset| unset <= at) {
            self.unset.remove(&name);
        }
        self.values.insert(name, (value, at));
        Ok(Some(true))
    }

    /// Whether `record` says the same.
    pub fn agrees_with(&self, record: Option<&Record>) -> bool {
        match record {
            None => !self.exists && self.version == 0,
            Some(Record::Deleted(grave)) => !self.exists && self.version == grave.version,
            Some(Record::Live(profile)) => {
                let values = profile.attributes.iter();
                let values = values.map(|a| (a.name.to_string(), (a.value.clone(), a.occurred_at)));
                self.exists && self.version == profile.version && self.values == values.collect()
            }
        }
    }
}

fn combined(old: Option<Value>, change: &Change, name: &str) -> Result<Option<Value>, Refusal> {
    let mismatch = || Refusal::TypeMismatch { name: name.into() };
    if let Change::Add(by) = change {
        let sum = match old {
            None => *by,
            Some(Value::Number(number)) => number + by,
            Some(_) => return Err(mismatch()),
        };
        let finite = sum.is_finite();
        return finite
            .then_some(Some(Value::Number(sum)))
            .ok_or(Refusal::NumberOverflow { name: name.into() });
    }
    let before = match &old {
        None => Vec::new(),
        Some(Value::List(items)) => items.to_vec(),
        Some(_) => return Err(mismatch()),
    };
    let mut items = before.clone();
    match change {
        Change::Append(more) => items.extend(more.to_vec()),
        Change::Union(more) => {
            for item in more {
                if !items.contains(item) {
                    items.push(item.clone());
                }
            }
        }
        Change::Remove(less) => {
            items.retain(|item| !less.contains(item));
            if items == before {
                return Ok(old);
            }
        }
        _ => unreachable!("dealt with by the caller"),
    }
    Ok(Some(Value::List(items.into())))
}
