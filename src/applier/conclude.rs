//! What follows a commit: the request table, the lane and the callers learn of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Running;
use crate::accept::{End, RequestKey, Verdict};
use crate::ledger::Ending;
use crate::model::{Command, hash};
use crate::read::Stamped;
use crate::sites::{EntryRef, SiteState};

impl<S> Running<S> {
    /// Tells the request table, the lane and the callers, in this order: a retry that finds nothing
    /// waiting must find the id done.
    pub(super) fn conclude(
        &self,
        site: &Arc<SiteState>,
        entries: &[Stamped],
        taken: &[EntryRef],
        ends: Vec<Option<End>>,
    ) {
        let now = self.applier.clock.now();
        let mut dealt_with = Vec::with_capacity(taken.len());
        let mut put_back = Vec::new();
        let mut tell = Vec::with_capacity(taken.len());
        for ((entry, end), reference) in entries.iter().zip(ends).zip(taken) {
            let Some(end) = end else {
                put_back.push(reference.position);
                continue;
            };
            self.counters.count(&end);
            let verdict = Verdict { position: reference.position, end };
            let mut ticket = reference.hot.as_ref().map(|pending| Arc::clone(&pending.ticket));
            if let Command::Write(write) = &entry.entry.command
                && let Some(id) = write.request_id.as_deref()
            {
                let key = RequestKey::new(&site.site, id);
                let payload = hash::payload_hash(write);
                // An entry read back from the journal has no ticket; a retry may wait all the same.
                ticket = self.applier.requests.end(key, payload, verdict.clone(), now).or(ticket);
            }
            dealt_with.push((reference.position, ending(&verdict.end)));
            if let Some(ticket) = ticket {
                tell.push((ticket, verdict));
            }
        }
        let book = self.applier.ledger.enter();
        let mut lane = site.lane.lock();
        if book.is_open() {
            for &(position, ending) in &dealt_with {
                book.ended(&site.site, position, ending);
            }
        }
        let freed = lane.finish(dealt_with.into_iter().map(|(position, _)| position));
        if !put_back.is_empty() {
            lane.put_back(put_back);
        }
        if lane.is_stalled() {
            self.applier.usage.stalled.fetch_sub(freed, Ordering::Relaxed);
        }
        drop(lane);
        drop(book);
        self.applier.usage.pending.fetch_sub(freed, Ordering::Relaxed);
        for (ticket, verdict) in tell {
            ticket.end(verdict);
        }
    }
}

fn ending(end: &End) -> Ending {
    match end {
        End::Applied { .. } => Ending::Applied,
        End::Unchanged { .. } => Ending::Unchanged,
        End::Duplicate { .. } => Ending::Duplicate,
        End::Refused(_) => Ending::Refused,
    }
}
