//! What a write does to a profile: a pure function of the profile, the write and its stamp.
//!
//! - **Event time wins** among `set` and `unset`: one that is older than the attribute's last set or unset
//!   is noted as stale and changes nothing; of equal times the later arrival wins. An unset leaves a
//!   tombstone, also where there was no value, so that the order of arrival does not matter.
//! - `add`, `append`, `union` and `remove` apply in order of arrival, whatever their time. If they change
//!   the value, the attribute's time becomes the later one of its own (or its tombstone's) and the write's.
//! - `set_once` sets only where there is no value, stores its own time and is never stale. A tombstone with
//!   a later time stays beside the value and goes on keeping older sets out.
//! - A `set` (or `unset`) that repeats what is stored changes nothing, unless its time is more than
//!   `refresh_after` newer.
//! - A **delete** erases the profile whatever its times. Its grave, and the profile made anew after it, keep
//!   every change with an older time out for 30 days. A grave expires by the time of acceptance; what comes
//!   then is as if there had been nothing.

mod arrival;

use std::borrow::Cow;
use std::time::Duration;

use super::hash::{payload_hash, request_hash};
use super::ids::Position;
use super::limits::{PROFILE_BYTES, RECENT_KEPT, RECENT_LIFE, TOMBSTONE_LIFE, UNSET_KEPT};
use super::profile::attributes_size;
use super::profile::{Applied, Attribute, Erasure, Grave, Profile, RecentRequest, Record, Unset};
use super::refusal::Refusal;
use super::time::EventTime;
use super::value::Value;
use super::write::{AttributeChange, Change, ChangeKind, Notes, Write};

/// The version of the rules in this module that new batches are stamped with. A batch with a newer one must
/// not be evaluated here; whoever reads it refuses it.
pub const SEMANTICS: u8 = 1;

/// What the journal adds to a write: its place, its time, and the configuration it was accepted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Where it stands.
    pub position: Position,
    /// When it was accepted.
    pub accepted_at: EventTime,
    /// How much newer a repeated value must be to renew the attribute's time; zero: any newer one does.
    pub refresh_after: Duration,
    /// The rules that hold; see [`SEMANTICS`].
    pub semantics: u8,
}

/// What a write came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evaluation {
    /// The record is a new one.
    Applied {
        /// The new record.
        record: Record,
        /// Attributes that were not changed.
        notes: Notes,
    },
    /// There was nothing to change; the record stays as it is, to the bit.
    Unchanged {
        /// The version of the profile or of its grave; none if there is neither.
        version: Option<u64>,
        /// Attributes that were not changed.
        notes: Notes,
    },
    /// The request id has been applied to this profile.
    Duplicate {
        /// The version that it made.
        version: u64,
    },
    /// It cannot be applied, and nothing of it is.
    Refused(Refusal),
    /// The record has this position already: a replay.
    AlreadyApplied,
}

/// Evaluates `write`, stamped with `stamp`, against what the store holds for its user.
pub fn evaluate(current: Option<&Record>, write: &Write, stamp: &Stamp) -> Evaluation {
    let position = stamp.position;
    if current.is_some_and(|record| position.number <= record.applied().of(position.node)) {
        return Evaluation::AlreadyApplied;
    }
    let applied = current.map(Record::applied);
    let current = current.filter(|record| !has_expired(record, stamp.accepted_at));
    if let Some(version) = duplicate_of(current, write, stamp.accepted_at) {
        return Evaluation::Duplicate { version };
    }
    if let Some(refusal) = version_mismatch(current, write) {
        return Evaluation::Refused(refusal);
    }
    match &write.kind {
        ChangeKind::Delete => delete(current, write, stamp),
        ChangeKind::Identify(changes) => {
            let mut draft = Draft::new(current, stamp);
            let mut notes = Notes::default();
            for change in changes {
                match draft.decide(change, event_time(write, change, stamp)) {
                    Err(refusal) => return Evaluation::Refused(refusal),
                    Ok(Effect::None) => {}
                    Ok(Effect::Stale) => notes.stale.push(change.name.clone()),
                    Ok(Effect::Put(value, at)) => draft.put(&change.name, value.into_owned(), at),
                    Ok(Effect::Unset(at)) => draft.unset(&change.name, at),
                }
            }
            if draft.changed {
                draft.finish(current, applied, write, notes)
            } else {
                Evaluation::Unchanged { version: current.map(Record::version), notes }
            }
        }
    }
}

/// Answers what [`evaluate`] would if that is `Unchanged`, without building anything: the version and the
/// notes. None for a write that may change something, or that must be evaluated in its place: with a
/// request id or a condition.
pub fn unchanged(
    current: Option<&Record>,
    write: &Write,
    accepted_at: EventTime,
    refresh_after: Duration,
) -> Option<(Option<u64>, Notes)> {
    if write.request_id.is_some() || write.if_version.is_some() {
        return None;
    }
    let current = current.filter(|record| !has_expired(record, accepted_at));
    let mut notes = Notes::default();
    match &write.kind {
        ChangeKind::Delete => {
            if current.is_some_and(|record| record.live().is_some()) {
                return None;
            }
        }
        ChangeKind::Identify(changes) => {
            // The position only matters for what would be built.
            let position = Position { node: super::ids::NodeId(0), number: u64::MAX };
            let stamp = Stamp { position, accepted_at, refresh_after, semantics: SEMANTICS };
            let draft = Draft::new(current, &stamp);
            for change in changes {
                match draft.decide(change, event_time(write, change, &stamp)) {
                    Ok(Effect::None) => {}
                    Ok(Effect::Stale) => notes.stale.push(change.name.clone()),
                    Ok(Effect::Put(..) | Effect::Unset(_)) | Err(_) => return None,
                }
            }
        }
    }
    Some((current.map(Record::version), notes))
}

/// When the change happened; never after it was accepted.
fn event_time(write: &Write, change: &AttributeChange, stamp: &Stamp) -> EventTime {
    change.occurred_at.or(write.occurred_at).unwrap_or(stamp.accepted_at).min(stamp.accepted_at)
}

/// Whether a tombstone still keeps older writes out.
fn counts(accepted_at: EventTime, now: EventTime) -> bool {
    now.since(accepted_at) < TOMBSTONE_LIFE
}

fn has_expired(record: &Record, now: EventTime) -> bool {
    matches!(record, Record::Deleted(grave) if !counts(grave.accepted_at, now))
}

fn duplicate_of(current: Option<&Record>, write: &Write, now: EventTime) -> Option<u64> {
    let id = request_hash(write.request_id.as_deref()?);
    let mut seen = current?.recent().iter().filter(|r| r.id == id && now.since(r.accepted_at) <= RECENT_LIFE);
    seen.clone().next()?;
    // Another payload under the same id was let in by the table of request ids, which knows better.
    let payload = payload_hash(write);
    seen.find(|r| r.payload == payload).map(|r| r.version)
}

fn version_mismatch(current: Option<&Record>, write: &Write) -> Option<Refusal> {
    let wanted = write.if_version?;
    let version = current.and_then(Record::live).map_or(0, |profile| profile.version);
    (wanted != version).then_some(Refusal::VersionMismatch { current: version })
}

fn delete(current: Option<&Record>, write: &Write, stamp: &Stamp) -> Evaluation {
    let notes = Notes::default();
    let Some(Record::Live(profile)) = current else {
        return Evaluation::Unchanged { version: current.map(Record::version), notes };
    };
    let now = stamp.accepted_at;
    let at = write.occurred_at.unwrap_or(now).min(now);
    // What an earlier delete keeps out must not come back through this one.
    let earlier = profile.erased.filter(|e| counts(e.accepted_at, now)).map(|e| e.occurred_at);
    let mut grave = Grave {
        version: profile.version.saturating_add(1),
        occurred_at: earlier.map_or(at, |earlier| earlier.max(at)),
        accepted_at: now,
        applied: profile.applied.clone(),
        recent: profile.recent.clone(),
    };
    grave.applied.advance(stamp.position.node, stamp.position.number);
    remember(&mut grave.recent, write, grave.version, now);
    Evaluation::Applied { record: Record::Deleted(grave), notes }
}

/// Notes the write's request id, and lets go of those whose time is over.
fn remember(recent: &mut Vec<RecentRequest>, write: &Write, version: u64, now: EventTime) {
    recent.retain(|r| now.since(r.accepted_at) <= RECENT_LIFE);
    if let Some(id) = write.request_id.as_deref() {
        let excess = (recent.len() + 1).saturating_sub(RECENT_KEPT);
        recent.drain(..excess);
        let (id, payload) = (request_hash(id), payload_hash(write));
        recent.push(RecentRequest { id, payload, version, accepted_at: now });
    }
}

/// What one change does.
enum Effect<'w> {
    None,
    Stale,
    Put(Cow<'w, Value>, EventTime),
    Unset(EventTime),
}

/// The profile while a write is applied to it. It is copied by the first change that has an effect.
struct Draft<'r> {
    profile: Cow<'r, Profile>,
    /// Before this nothing is let in.
    erased: Option<EventTime>,
    changed: bool,
    stamp: Stamp,
}

impl<'r> Draft<'r> {
    fn new(current: Option<&'r Record>, stamp: &Stamp) -> Self {
        let now = stamp.accepted_at;
        let (profile, erasure) = match current {
            Some(Record::Live(profile)) => (Cow::Borrowed(profile), profile.erased),
            Some(Record::Deleted(grave)) => {
                let Grave { occurred_at, accepted_at, .. } = *grave;
                let erasure = Erasure { occurred_at, accepted_at };
                (Cow::Owned(new_profile(grave.version, Some(erasure), stamp)), Some(erasure))
            }
            None => (Cow::Owned(new_profile(0, None, stamp)), None),
        };
        let erased = erasure.filter(|e| counts(e.accepted_at, now)).map(|e| e.occurred_at);
        Self { profile, erased, changed: false, stamp: *stamp }
    }

    fn decide<'w>(&self, change: &'w AttributeChange, at: EventTime) -> Result<Effect<'w>, Refusal> {
        if self.erased.is_some_and(|erased| at < erased) {
            return Ok(Effect::Stale);
        }
        let name = &change.name;
        let attribute = self.profile.attribute(name);
        let unset = self.tombstone(name);
        // None is before every time.
        let last = attribute.map(|a| a.occurred_at).max(unset);
        let stale = Some(at) < last;
        let old = attribute.map(|a| &a.value);
        let in_order = |value: Option<Value>| {
            let at = last.map_or(at, |last| last.max(at));
            value.map_or(Effect::None, |value| Effect::Put(Cow::Owned(value), at))
        };
        let repeats = |before: EventTime| at.since(before) <= self.stamp.refresh_after;
        Ok(match &change.change {
            Change::Set(_) | Change::Unset if stale => Effect::Stale,
            Change::Set(value) => match attribute {
                Some(a) if a.value == *value && repeats(a.occurred_at) => Effect::None,
                _ => Effect::Put(Cow::Borrowed(value), at),
            },
            Change::SetOnce(_) if attribute.is_some() => Effect::None,
            Change::SetOnce(value) => Effect::Put(Cow::Borrowed(value), at),
            Change::Unset if attribute.is_none() && unset.is_some_and(repeats) => Effect::None,
            Change::Unset => Effect::Unset(at),
            Change::Add(by) => in_order(arrival::add(name, old, *by)?),
            Change::Append(items) => in_order(arrival::append(name, old, items)?),
            Change::Union(items) => in_order(arrival::union(name, old, items)?),
            Change::Remove(items) => in_order(arrival::remove(name, old, items)?),
        })
    }

    /// When the attribute was unset, if that still counts.
    fn tombstone(&self, name: &str) -> Option<EventTime> {
        let unset = &self.profile.unset;
        let found = unset.binary_search_by(|u| (*u.name).cmp(name)).ok().and_then(|at| unset.get(at));
        found.filter(|u| counts(u.accepted_at, self.stamp.accepted_at)).map(|u| u.occurred_at)
    }

    fn put(&mut self, name: &str, value: Value, occurred_at: EventTime) {
        self.changed = true;
        let Profile { attributes, unset, .. } = self.profile.to_mut();
        let place = attributes.binary_search_by(|a| (*a.name).cmp(name));
        replace(attributes, place, Attribute { name: name.into(), value, occurred_at });
        unset.retain(|u| *u.name != *name || u.occurred_at > occurred_at);
    }

    fn unset(&mut self, name: &str, occurred_at: EventTime) {
        self.changed = true;
        let Profile { attributes, unset, .. } = self.profile.to_mut();
        attributes.retain(|a| *a.name != *name);
        let place = unset.binary_search_by(|u| (*u.name).cmp(name));
        let accepted_at = self.stamp.accepted_at;
        replace(unset, place, Unset { name: name.into(), occurred_at, accepted_at });
    }

    /// `applied` is told apart from `current`, because it also outlives a grave that has expired.
    fn finish(
        self,
        current: Option<&Record>,
        applied: Option<&Applied>,
        write: &Write,
        notes: Notes,
    ) -> Evaluation {
        let Stamp { position, accepted_at: now, .. } = self.stamp;
        let mut profile = self.profile.into_owned();
        let before = current.and_then(Record::live).map_or(0, |old| attributes_size(&old.attributes));
        let size = attributes_size(&profile.attributes);
        // One that is too large already may shrink.
        if size > PROFILE_BYTES && size > before {
            return Evaluation::Refused(Refusal::ProfileTooLarge);
        }
        profile.unset.retain(|u| counts(u.accepted_at, now));
        while profile.unset.len() > UNSET_KEPT {
            let oldest = profile.unset.iter().enumerate().min_by_key(|(_, u)| (u.accepted_at, u.occurred_at));
            let Some((at, _)) = oldest else { break };
            profile.unset.remove(at);
        }
        profile.erased = profile.erased.filter(|e| counts(e.accepted_at, now));
        if let Some(Record::Deleted(grave)) = current {
            profile.recent.clone_from(&grave.recent);
        }
        profile.applied = applied.cloned().unwrap_or_default();
        profile.version = profile.version.saturating_add(1);
        profile.updated_at = now;
        profile.applied.advance(position.node, position.number);
        remember(&mut profile.recent, write, profile.version, now);
        Evaluation::Applied { record: Record::Live(profile), notes }
    }
}

/// Puts `item` where a binary search found its like, or its place.
fn replace<T>(items: &mut Vec<T>, place: Result<usize, usize>, item: T) {
    match place {
        Ok(at) => {
            if let Some(old) = items.get_mut(at) {
                *old = item;
            }
        }
        Err(at) => items.insert(at, item),
    }
}

fn new_profile(version: u64, erased: Option<Erasure>, stamp: &Stamp) -> Profile {
    Profile {
        number: stamp.position.number,
        version,
        created_at: stamp.accepted_at,
        updated_at: stamp.accepted_at,
        attributes: Vec::new(),
        unset: Vec::new(),
        erased,
        applied: Applied::default(),
        recent: Vec::new(),
    }
}

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
