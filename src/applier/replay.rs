//! Taking up where the last process ended: what the journal holds and the store has not applied goes back
//! into the lanes, and the request table learns the ids of late.

use std::sync::Arc;

use crate::accept::{End, RequestKey, Requests, Ticket, Verdict};
use crate::applier::RefusedList;
use crate::command::WriteState;
use crate::journal::{JournalReader, StoredEntry};
use crate::kill_switch::Operation;
use crate::model::codec::DecodeError;
use crate::model::evaluate::SEMANTICS;
use crate::model::{ChangeKind, Command, Entry, EventTime, LowWater, Site, codec, hash};
use crate::sites::{SiteState, Sites};
use crate::snapshot::Waiting;

/// Why the journal could not be taken up.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// An entry could not be read back.
    #[error("the journal could not be read: {0}")]
    Read(#[from] crate::journal::ReadError),
    /// An entry does not decode, although its checksum is right.
    #[error("journal entry {position} does not decode: {reason}")]
    Entry {
        /// Its number.
        position: u64,
        /// Why.
        reason: String,
    },
    /// Entries of a newer version.
    #[error(
        "journal entry {position} was accepted by a newer version (rules {found}, this one knows {SEMANTICS}): \
         start that version"
    )]
    Newer {
        /// Its number.
        position: u64,
        /// The version of its rules.
        found: u8,
    },
}

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Entries that were looked at.
    pub scanned: u64,
    /// Entries that wait for the store.
    pub pending: u64,
    /// Their bytes.
    pub pending_bytes: u64,
    /// Request ids that are known again.
    pub request_ids: u64,
}

/// What a replay fills.
#[derive(Debug)]
pub struct Replay<'a> {
    /// Lanes and registries.
    pub sites: &'a Sites,
    /// The request table.
    pub requests: &'a Requests,
    /// Refused entries, as the store has them.
    pub refused: &'a RefusedList,
    /// How far the store has come.
    pub low_water: &'a LowWater,
    /// What waited when the current snapshot was begun: of the entries before its start only these count.
    pub waiting: Option<&'a Waiting>,
    /// Whether the registries are to learn from every entry, because there is no store to take them from.
    pub declare_all: bool,
    /// Ids of entries accepted before this are not wanted any more.
    pub ids_since: EventTime,
    /// The time.
    pub now: EventTime,
}

impl Replay<'_> {
    /// Reads the journal from `from` to its end. Every lane with work is then in the answer.
    pub fn run(
        &self,
        reader: &JournalReader,
        from: u64,
    ) -> Result<(Replayed, Vec<Arc<SiteState>>), ReplayError> {
        let mut replayed = Replayed::default();
        let mut ready = Vec::new();
        for stored in reader.scan(from) {
            let stored = stored?;
            if let Some(site) = self.take(&stored, &mut replayed)? {
                ready.push(site);
            }
        }
        Ok((replayed, ready))
    }

    fn take(
        &self,
        stored: &StoredEntry,
        replayed: &mut Replayed,
    ) -> Result<Option<Arc<SiteState>>, ReplayError> {
        let position = stored.position;
        if stored.semantics > SEMANTICS {
            return Err(ReplayError::Newer { position, found: stored.semantics });
        }
        let malformed = |error: DecodeError| ReplayError::Entry { position, reason: error.to_string() };
        let head = codec::peek_entry(&stored.payload).map_err(malformed)?;
        replayed.scanned += 1;
        // What else is there shares a segment with entries that wait; the snapshot has what became of it.
        if self.waiting.is_some_and(|waiting| !waiting.counts(position)) {
            return Ok(None);
        }
        let waits = self.low_water.may_wait(head.site, position);
        let remembered = waits || stored.accepted_at >= self.ids_since;
        let wanted = waits || self.declare_all || (remembered && head.request_id.is_some());
        if !wanted {
            return Ok(None);
        }
        let entry = codec::decode_entry(&stored.payload).map_err(malformed)?;
        let site = self.sites.restore(&entry.site);
        declare(&site, &entry, stored.accepted_at);
        if waits || self.declare_all {
            set_state(&site, &entry);
        }
        if remembered
            && let Command::Write(write) = &entry.command
            && let Some(id) = write.request_id.as_deref()
        {
            let key = RequestKey::new(&entry.site, id);
            let payload = hash::payload_hash(write);
            if waits {
                self.requests.restore(key, payload, Arc::new(Ticket::durable_at(position)));
                replayed.request_ids += 1;
            } else if !self.requests.knows_end(key, position) {
                let end = self.end_of(&entry.site, position);
                self.requests.end(key, payload, Verdict { position, end }, self.now);
                replayed.request_ids += 1;
            }
        }
        if !waits {
            return Ok(None);
        }
        if let Command::DiscardRefused { position } = &entry.command {
            // It has been resolved: nobody may resolve it a second time.
            self.refused.claim(&entry.site, *position);
        }
        let user = entry.profile_key().map_or(0, |key| key.hash64());
        let bytes = stored.payload.len() as u32 + crate::accept::ENTRY_OVERHEAD;
        replayed.pending += 1;
        replayed.pending_bytes += u64::from(bytes);
        let schedule = site.lane.lock().restore(position, user, stored.offset, bytes, Operation::of(&entry));
        Ok(schedule.then_some(site))
    }

    /// What is known of an entry that was dealt with: the version is not.
    fn end_of(&self, site: &Site, position: u64) -> End {
        match self.refused.state(site, position) {
            Some(WriteState::Refused { reason, .. }) => End::Refused(reason),
            _ => End::Unchanged { version: None, notes: Default::default() },
        }
    }
}

/// What an operator decided about an attribute, which the store does not know, or knew and is gone.
fn set_state(site: &SiteState, entry: &Entry) {
    let Command::SetAttributeState { name, disabled, indexed } = &entry.command else { return };
    let mut lane = site.lane.lock();
    site.change_registry(&mut lane, |registry| registry.set_state(name, *disabled, *indexed));
}

fn declare(site: &SiteState, entry: &Entry, accepted_at: EventTime) {
    let Command::Write(write) = &entry.command else { return };
    let ChangeKind::Identify(changes) = &write.kind else { return };
    let new = changes.iter().any(|change| {
        change.change.value_type().is_some() && site.registry.load().get(&change.name).is_none()
    });
    if new {
        let mut lane = site.lane.lock();
        site.change_registry(&mut lane, |registry| registry.declare(changes, accepted_at));
    }
}
