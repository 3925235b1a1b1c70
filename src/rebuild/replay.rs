//! The journal's entries that do not wait, applied to a new generation in order: by the very rules by which the
//! applier does it, but at once, in large turns and without telling anybody.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::Parts;
use super::run::{Failure, Run};
use crate::accept::{BatchStamp, End, RequestKey, Verdict};
use crate::applier::RefusedList;
use crate::applier::batch::{self, Turn};
use crate::journal::StoredEntry;
use crate::model::evaluate::SEMANTICS;
use crate::model::{
    ChangeKind, Command, Entry, EventTime, Position, ProfileKey, Record, Site, User, codec, hash,
};
use crate::read::{ProfileCache, Stamped};
use crate::sites::{SiteState, Sites};
use crate::snapshot::Waiting;
use crate::store::sled::SledStore;
use crate::store::{Committed, Purpose, SiteCommit, Store as _, StoreFuture};

/// Entries that are applied together, over all sites.
const CHUNK: usize = 4096;
/// Records kept in memory between chunks.
const CACHE_BYTES: u64 = 32 << 20;

/// Applies entries to a new generation.
pub struct Replayer {
    /// Registries as the new generation has them.
    sites: Sites,
    /// Refused entries, likewise.
    refused: RefusedList,
    cache: ProfileCache,
    /// Version mismatches from before this are of no use to anybody any more.
    remember_since: EventTime,
    /// Whether the request table is to hear how entries ended: it does not know, when the store was lost.
    tell: bool,
    /// Commits under way.
    under_way: VecDeque<StoreFuture<Committed>>,
}

impl Replayer {
    /// Nothing is known of the new generation yet.
    pub fn new(parts: &Parts) -> Self {
        Self {
            sites: Sites::new(usize::MAX),
            refused: RefusedList::default(),
            cache: ProfileCache::new(CACHE_BYTES),
            remember_since: parts.clock.now().minus(parts.requests.window()),
            tell: parts.switch.current().is_none(),
            under_way: VecDeque::new(),
        }
    }

    /// Applies what the journal has up to `end` and does not wait; of what lies before the snapshot's start only
    /// what is in its waiting set.
    pub fn journal(
        &mut self,
        run: &mut Run<'_>,
        store: &SledStore,
        end: u64,
        waiting: Option<&Waiting>,
    ) -> Result<(), Failure> {
        let parts = &run.rebuilds.0.parts;
        let start = parts.reader.start();
        let before = run.counted();
        let total = before + (end + 1).saturating_sub(start);
        let mut chunk = Vec::with_capacity(CHUNK);
        for stored in parts.reader.scan(start) {
            let stored = stored?;
            let position = stored.position;
            if position > end {
                break;
            }
            if waiting.is_none_or(|waiting| waiting.counts(position)) {
                chunk.extend(wanted(parts, &stored)?);
            }
            if chunk.len() >= CHUNK || (position - start).is_multiple_of(1 << 16) {
                self.apply(run, store, std::mem::take(&mut chunk))?;
                run.count((before + position + 1 - start).saturating_sub(run.counted()), total);
            }
        }
        self.apply(run, store, chunk)?;
        self.settle(run)?;
        run.count(total.saturating_sub(run.counted()), total);
        Ok(())
    }

    /// Applies some entries, each site's in one commit.
    fn apply(&mut self, run: &mut Run<'_>, store: &SledStore, chunk: Vec<Stamped>) -> Result<(), Failure> {
        let mut by_site: HashMap<Site, Vec<Stamped>> = HashMap::new();
        for stamped in chunk {
            by_site.entry(stamped.entry.site.clone()).or_default().push(stamped);
        }
        // What they read has been written by then.
        self.settle(run)?;
        for (site, entries) in by_site {
            let site = self.sites.restore(&site);
            let records = self.load(run, store, &site, &entries)?;
            declare(&site, &entries);
            let turn = batch::turn(&site, &entries, records, &self.refused);
            self.take_over(run, store, &site, &entries, turn)?;
        }
        Ok(())
    }

    fn load(
        &self,
        run: &mut Run<'_>,
        store: &SledStore,
        site: &SiteState,
        entries: &[Stamped],
    ) -> Result<HashMap<User, Option<Arc<Record>>>, Failure> {
        let (mut records, mut missing) = batch::known(site, entries, &self.cache);
        // On two threads: nothing else is read meanwhile.
        let second = missing.split_off(missing.len() / 2);
        let calls = [missing, second].map(|keys| (store.load(Purpose::Apply, keys.clone()), keys));
        for (call, keys) in calls {
            let loaded = run.await_call(call)?;
            records.extend(keys.into_iter().map(|key| key.user).zip(loaded));
        }
        Ok(records)
    }

    /// Hands a turn to the store, and keeps what the next ones have to know.
    fn take_over(
        &mut self,
        run: &mut Run<'_>,
        store: &SledStore,
        site: &SiteState,
        entries: &[Stamped],
        mut turn: Turn,
    ) -> Result<(), Failure> {
        if let Some(entry) = entries.iter().zip(&turn.ends).find(|(_, end)| end.is_none()).map(|(e, _)| e) {
            let problem = "evaluating it panicked".to_owned();
            return Err(Failure::Entry { position: entry.position.number, problem });
        }
        if self.tell {
            self.tell_requests(run, entries, &turn.ends);
        }
        turn.commit.refused.retain(|record| record.listed || record.accepted_at >= self.remember_since);
        if turn.is_settled() {
            return Ok(());
        }
        for put in &turn.commit.profiles {
            let key = ProfileKey::new(site.site.clone(), put.user.clone());
            self.cache.put(key.hash64(), key, Some(Arc::clone(&put.after)));
        }
        self.put(run, store, turn.commit, usize::MAX)
    }

    /// Hands a commit to the store; [`follow`](Self::follow) has `limit`.
    pub fn put(
        &mut self,
        run: &mut Run<'_>,
        store: &SledStore,
        commit: SiteCommit,
        limit: usize,
    ) -> Result<(), Failure> {
        self.keep(&commit);
        self.follow(run, store.commit(commit), limit)
    }

    /// Follows a commit that is under way; with `limit` of them, waits for the oldest.
    pub fn follow(
        &mut self,
        run: &mut Run<'_>,
        commit: StoreFuture<Committed>,
        limit: usize,
    ) -> Result<(), Failure> {
        self.under_way.push_back(commit);
        while self.under_way.len() > limit {
            let Some(oldest) = self.under_way.pop_front() else { break };
            run.await_call(oldest)?;
        }
        Ok(())
    }

    /// Notes what a commit does beyond profiles.
    fn keep(&self, commit: &SiteCommit) {
        for record in &commit.refused {
            self.refused.add(record, record.accepted_at);
        }
        for position in &commit.forget_refused {
            self.refused.remove(&commit.site, *position);
        }
        if !commit.registry.is_empty() {
            let site = self.sites.restore(&commit.site);
            let mut lane = site.lane.lock();
            site.change_registry(&mut lane, |registry| {
                for info in &commit.registry {
                    registry.restore(info.clone());
                }
            });
        }
    }

    /// The request table knows of these entries that they have been dealt with, and no more.
    fn tell_requests(&self, run: &Run<'_>, entries: &[Stamped], ends: &[Option<End>]) {
        let parts = &run.rebuilds.0.parts;
        for (stamped, end) in entries.iter().zip(ends) {
            if let Command::Write(write) = &stamped.entry.command
                && stamped.accepted_at >= self.remember_since
                && let (Some(id), Some(end)) = (write.request_id.as_deref(), end)
            {
                let verdict = Verdict { position: stamped.position.number, end: end.clone() };
                let key = RequestKey::new(&stamped.entry.site, id);
                // Nobody waits for an entry that was dealt with.
                drop(parts.requests.end(key, hash::payload_hash(write), verdict, parts.clock.now()));
            }
        }
    }

    /// Waits for the commits under way.
    pub fn settle(&mut self, run: &mut Run<'_>) -> Result<(), Failure> {
        for commit in self.under_way.drain(..) {
            run.await_call(commit)?;
        }
        Ok(())
    }

    /// The registry and the refused entries of the new generation are those of the node from now on.
    pub fn hand_over(self, parts: &Parts) {
        for own in self.sites.all() {
            let site = parts.sites.restore(&own.site);
            let mut lane = site.lane.lock();
            site.change_registry(&mut lane, |registry| registry.reconcile(&own.registry.load()));
        }
        let bytes = parts.refused.replace(self.refused);
        for site in bytes.keys() {
            parts.sites.restore(site);
        }
        for site in parts.sites.all() {
            let bytes = bytes.get(&site.site).copied().unwrap_or(0);
            site.refused_bytes.store(bytes, std::sync::atomic::Ordering::Relaxed);
        }
    }
}

/// The entry, if it has been dealt with: otherwise a lane has it.
fn wanted(parts: &Parts, stored: &StoredEntry) -> Result<Option<Stamped>, Failure> {
    let position = stored.position;
    let wrong = |problem: String| Failure::Entry { position, problem };
    if stored.semantics > SEMANTICS {
        return Err(wrong("it was accepted by a newer version: start that version".to_owned()));
    }
    let head = codec::peek_entry(&stored.payload).map_err(|error| wrong(error.to_string()))?;
    let waits =
        parts.sites.get(&Site::new(head.site)).is_some_and(|site| site.lane.lock().is_waiting(position));
    if waits {
        return Ok(None);
    }
    let entry: Entry = codec::decode_entry(&stored.payload).map_err(|error| wrong(error.to_string()))?;
    Ok(Some(Stamped {
        position: Position { node: stored.node, number: position },
        accepted_at: stored.accepted_at,
        batch: BatchStamp { refresh_after: stored.refresh_after, semantics: stored.semantics },
        entry: Arc::new(entry),
    }))
}

/// Makes the registry know the names that `entries` use for the first time.
fn declare(site: &SiteState, entries: &[Stamped]) {
    for stamped in entries {
        let Command::Write(write) = &stamped.entry.command else { continue };
        let ChangeKind::Identify(changes) = &write.kind else { continue };
        let registry = site.registry.load();
        let known = |name: &str| registry.get(name).is_some();
        if changes.iter().any(|change| change.change.value_type().is_some() && !known(&change.name)) {
            let mut lane = site.lane.lock();
            site.change_registry(&mut lane, |registry| registry.declare(changes, stamped.accepted_at));
        }
    }
}
