//! The applier: moves durable entries from the lanes into the store.
//!
//! One thread with a runtime of its own. Lanes with work stand in line; each gets a turn of a bounded
//! number of entries, has at most one turn under way, and stands in line again if there is more: a site
//! with a million entries delays no other. A turn fetches its entries, loads their records, evaluates
//! them in order (those of one user together) and commits once.

pub(crate) mod batch;

mod progress;
pub mod refused;
pub mod replay;
mod trouble;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tower::Service;

use crate::accept::{End, RequestKey, Requests, Usage, Verdict};
use crate::clock::Clock;
use crate::ledger::{Ending, Ledger};
use crate::model::{Command, ProfileKey, Record, User, hash};
use crate::read::{EntrySource, ProfileCache, Stamped};
use crate::sites::{EntryRef, SiteState, Sites};
use crate::store::service::Load;
use crate::store::{Committed, Purpose, SiteCommit, StoreError};

pub use progress::Progress;
pub use refused::RefusedList;
use trouble::Trouble;

/// A commit that takes longer counts as one that is not getting through, for quotas and conditions.
const SLOW_COMMIT: Duration = Duration::from_secs(1);

/// How often refused entries that have served are looked for, and how many go at once.
const FORGET_EVERY: Duration = Duration::from_secs(10);
const FORGOTTEN_AT_ONCE: usize = 10_000;

/// What the applier works on.
pub struct Applier<S> {
    /// The sites and their lanes.
    pub sites: Arc<Sites>,
    /// Where entries are read back from.
    pub entries: EntrySource,
    /// The profile cache, which learns what is committed.
    pub cache: Arc<ProfileCache>,
    /// The request table, which learns what became of ids.
    pub requests: Arc<Requests>,
    /// The refused entries.
    pub refused: Arc<RefusedList>,
    /// Waiting bytes.
    pub usage: Arc<Usage>,
    /// Counts what becomes of entries.
    pub ledger: Arc<Ledger>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Turns under way at once, over all lanes.
    pub turns: usize,
    /// Entries that a lane may take in one turn.
    pub turn_entries: usize,
    /// Loads and commits, through whatever layers there are.
    pub store: S,
    /// How long turns under way may still take when it is to stop. What they do not finish waits for the
    /// next start.
    pub last_turns: Duration,
}

struct Running<S> {
    applier: Applier<S>,
    troubles: RefCell<HashMap<u64, Trouble>>,
    /// Turns that were committed, over all lanes.
    successes: std::cell::Cell<u64>,
    counters: Counters,
}

/// Looked up once: entries are many.
struct Counters {
    applied: metrics::Counter,
    unchanged: metrics::Counter,
    duplicate: metrics::Counter,
    refused: metrics::Counter,
}

impl Counters {
    fn new() -> Self {
        let counter = |end: &'static str| metrics::counter!(crate::metrics::ENTRIES_APPLIED, "end" => end);
        Self {
            applied: counter("applied"),
            unchanged: counter("unchanged"),
            duplicate: counter("duplicate"),
            refused: counter("refused"),
        }
    }

    fn count(&self, end: &End) {
        match end {
            End::Applied { .. } => &self.applied,
            End::Unchanged { .. } => &self.unchanged,
            End::Duplicate { .. } => &self.duplicate,
            End::Refused(_) => &self.refused,
        }
        .increment(1);
    }
}

impl<S> Applier<S>
where
    S: Service<Load, Response = Vec<Option<Arc<Record>>>, Error = StoreError>
        + Service<SiteCommit, Response = Committed, Error = StoreError>
        + Clone
        + 'static,
{
    /// Gives lanes from `ready` their turns until `stop` says so; then lets the turns that are under way
    /// end. To be run on a single-threaded runtime inside a [`tokio::task::LocalSet`].
    pub async fn run(
        self,
        mut ready: UnboundedReceiver<Arc<SiteState>>,
        again: tokio::sync::mpsc::UnboundedSender<Arc<SiteState>>,
        mut stop: watch::Receiver<bool>,
    ) {
        let running = Rc::new(Running {
            applier: self,
            troubles: RefCell::default(),
            successes: std::cell::Cell::new(0),
            counters: Counters::new(),
        });
        tokio::task::spawn_local(Rc::clone(&running).forget_outlived(stop.clone()));
        let limit = running.applier.turns;
        let turns = Arc::new(Semaphore::new(limit));
        loop {
            let site = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                site = ready.recv() => site,
            };
            // All permits may be with turns that hang.
            let permit = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                permit = Arc::clone(&turns).acquire_owned() => permit,
            };
            let (Some(site), Ok(permit)) = (site, permit) else { break };
            let (running, again, stop) = (Rc::clone(&running), again.clone(), stop.clone());
            tokio::task::spawn_local(async move {
                let pause = running.turn(&site).await;
                drop(permit);
                match pause {
                    Pause::Idle => {}
                    Pause::None => drop(again.send(site)),
                    Pause::For(pause) => {
                        tokio::select! {
                            () = tokio::time::sleep(pause) => {}
                            () = stopped(stop) => return,
                        }
                        site.lane.lock().look_again();
                        drop(again.send(site));
                    }
                    Pause::IdleUntil(pause) => {
                        tokio::select! {
                            () = tokio::time::sleep(pause) => {}
                            () = stopped(stop) => return,
                        }
                        running.timer_done(&site);
                        let mut lane = site.lane.lock();
                        lane.look_again();
                        if lane.claim() {
                            drop(again.send(Arc::clone(&site)));
                        }
                    }
                }
            });
        }
        // All turns have ended when all permits are back. A store that hangs must not keep us for ever.
        let all = turns.acquire_many(limit as u32);
        if tokio::time::timeout(running.applier.last_turns, all).await.is_err() {
            tracing::warn!(
                "the store did not answer in time; what it has in hand is applied after the next start"
            );
        }
    }
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop too.
    drop(stop.wait_for(|stop| *stop).await);
}

/// When a lane wants its next turn.
enum Pause {
    /// When something becomes durable.
    Idle,
    /// At once.
    None,
    /// After a while: something failed.
    For(Duration),
    /// When something becomes durable, and after a while: some users failed and must wait their time.
    IdleUntil(Duration),
}

impl<S> Running<S>
where
    S: Service<Load, Response = Vec<Option<Arc<Record>>>, Error = StoreError>
        + Service<SiteCommit, Response = Committed, Error = StoreError>
        + Clone
        + 'static,
{
    /// Version mismatches are only kept for retries, as long as request ids are; then they go.
    async fn forget_outlived(self: Rc<Self>, stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(FORGET_EVERY) => {}
                () = stopped(stop.clone()) => return,
            }
            let before = self.applier.clock.now().minus(self.applier.requests.window());
            for (site, positions) in self.applier.refused.outlived(before, FORGOTTEN_AT_ONCE) {
                let Some(site) = self.applier.sites.get(&site) else { continue };
                let commit = SiteCommit {
                    site: site.site.clone(),
                    refused: Vec::new(),
                    forget_refused: positions,
                    registry: Vec::new(),
                    profiles: Vec::new(),
                    last_position: 0,
                };
                if let Err(error) = self.commit(&site, &commit).await {
                    // They stay on the disk until the next start finds them again.
                    tracing::warn!(site = %site.site, %error, "old refused entries could not be forgotten");
                }
            }
        }
    }

    async fn turn(&self, site: &Arc<SiteState>) -> Pause {
        let lane_id = lane_id(site);
        let taken = {
            let mut troubles = self.troubles.borrow_mut();
            let mut trouble = troubles.get_mut(&lane_id);
            let now = Instant::now();
            let due = trouble.as_mut().is_some_and(|trouble| trouble.has_become_due(now));
            let trouble = trouble.as_deref();
            let mut lane = site.lane.lock();
            if due {
                lane.look_again();
            }
            lane.take(self.applier.turn_entries, trouble.is_some_and(Trouble::one_user), |user| {
                trouble.is_some_and(|trouble| trouble.holds_back(user, now))
            })
        };
        if taken.is_empty() {
            return self.when_empty(lane_id);
        }
        match self.apply(site, &taken).await {
            Ok(failing) if failing.is_empty() => {
                self.succeeded(site, lane_id, &taken);
                Pause::None
            }
            Ok(failing) => self.failed(site, lane_id, &failing, "evaluate panicked"),
            Err(error) => {
                let mut users: Vec<u64> = taken.iter().map(|entry| entry.user).collect();
                users.sort_unstable();
                users.dedup();
                let mut lane = site.lane.lock();
                lane.put_back(taken.iter().map(|entry| entry.position));
                drop(lane);
                self.failed(site, lane_id, &users, &error)
            }
        }
    }

    /// Nothing to take: either nothing waits, or only what failed lately and must wait its time.
    fn when_empty(&self, lane_id: u64) -> Pause {
        let mut troubles = self.troubles.borrow_mut();
        let Some(trouble) = troubles.get_mut(&lane_id) else { return Pause::Idle };
        match trouble.next_due(Instant::now()) {
            Some(pause) if trouble.set_timer() => Pause::IdleUntil(pause),
            _ => Pause::Idle,
        }
    }

    fn timer_done(&self, site: &Arc<SiteState>) {
        if let Some(trouble) = self.troubles.borrow_mut().get_mut(&lane_id(site)) {
            trouble.timer_done();
        }
    }

    fn succeeded(&self, site: &Arc<SiteState>, lane_id: u64, taken: &[EntryRef]) {
        self.set_stalled(site, false);
        let mut troubles = self.troubles.borrow_mut();
        if let Some(trouble) = troubles.get_mut(&lane_id)
            && trouble.succeeded(taken.iter().map(|entry| entry.user))
        {
            troubles.remove(&lane_id);
        }
    }

    fn failed(&self, site: &Arc<SiteState>, lane_id: u64, users: &[u64], error: &str) -> Pause {
        metrics::counter!(crate::metrics::APPLY_FAILURES).increment(1);
        let mut troubles = self.troubles.borrow_mut();
        let trouble = troubles.entry(lane_id).or_default();
        let (pause, park) = trouble.failed(users, self.successes.get(), Instant::now());
        if trouble.worth_a_line() {
            tracing::warn!(site = %site.site, error, pause = ?pause, "a turn could not be applied; it will be tried again");
        }
        if let Some(user) = park {
            let mut lane = site.lane.lock();
            lane.park(user);
            drop(lane);
            metrics::counter!(crate::metrics::USERS_PARKED).increment(1);
            tracing::error!(
                site = %site.site,
                user = format!("{user:016x}"),
                error,
                "the store fails on one user and on nobody else: the user's entries are parked until the next start"
            );
            trouble.forget(user);
        }
        drop(troubles);
        // With its one sick user out of the way the lane goes on.
        self.set_stalled(site, park.is_none());
        Pause::For(pause)
    }

    fn set_stalled(&self, site: &SiteState, stalled: bool) {
        let mut lane = site.lane.lock();
        if lane.set_stalled(stalled) {
            let usage = &self.applier.usage.stalled;
            if stalled {
                usage.fetch_add(lane.bytes(), Ordering::Relaxed);
            } else {
                usage.fetch_sub(lane.bytes(), Ordering::Relaxed);
            }
        }
    }

    /// Applies what was taken. Answers the users on whom `evaluate` panicked; their entries wait again.
    async fn apply(&self, site: &Arc<SiteState>, taken: &[EntryRef]) -> Result<Vec<u64>, String> {
        let applier = &self.applier;
        let entries = fetch(&applier.entries, taken).await?;
        let records = self.load(site, &entries).await.map_err(|error| error.to_string())?;
        let turn = batch::turn(site, &entries, records, &applier.refused);
        if !turn.is_settled() {
            self.commit(site, &turn.commit).await.map_err(|error| {
                for put in &turn.commit.profiles {
                    let key = ProfileKey::new(site.site.clone(), put.user.clone());
                    applier.cache.forget(key.hash64(), &key);
                }
                error.to_string()
            })?;
            self.successes.set(self.successes.get() + 1);
        }
        self.conclude(site, &entries, taken, turn.ends);
        Ok(turn.failing)
    }

    async fn load(
        &self,
        site: &SiteState,
        entries: &[Stamped],
    ) -> Result<HashMap<User, Option<Arc<Record>>>, StoreError> {
        let mut records = HashMap::with_capacity(entries.len());
        let mut missing = Vec::new();
        for entry in entries {
            let Command::Write(write) = &entry.entry.command else { continue };
            if records.contains_key(&write.user) {
                continue;
            }
            let key = ProfileKey::new(site.site.clone(), write.user.clone());
            let known = self.applier.cache.get(&key);
            if known.is_none() {
                missing.push(key);
            }
            records.insert(write.user.clone(), known.flatten());
        }
        if !missing.is_empty() {
            let call = Load { purpose: Purpose::Apply, keys: missing.clone() };
            let loaded = self.applier.store.clone().call(call).await?;
            for (key, record) in missing.into_iter().zip(loaded) {
                records.insert(key.user, record);
            }
        }
        Ok(records)
    }

    async fn commit(&self, site: &Arc<SiteState>, commit: &SiteCommit) -> Result<(), StoreError> {
        let call = self.applier.store.clone().call(commit.clone());
        tokio::pin!(call);
        tokio::select! {
            biased;
            done = &mut call => done?,
            () = tokio::time::sleep(SLOW_COMMIT) => {
                self.set_stalled(site, true);
                let done = call.await;
                if done.is_ok() {
                    self.set_stalled(site, false);
                }
                done?
            }
        };
        for put in &commit.profiles {
            let key = ProfileKey::new(site.site.clone(), put.user.clone());
            self.applier.cache.put(key.hash64(), key, Some(Arc::clone(&put.after)));
        }
        for record in &commit.refused {
            let grown = self.applier.refused.add(record, self.applier.clock.now());
            site.refused_bytes.fetch_add(grown, Ordering::Relaxed);
        }
        for position in &commit.forget_refused {
            let shrunk = self.applier.refused.remove(&site.site, *position);
            site.refused_bytes.fetch_sub(shrunk, Ordering::Relaxed);
        }
        if !commit.registry.is_empty() {
            let mut lane = site.lane.lock();
            site.change_registry(&mut lane, |registry| {
                for info in &commit.registry {
                    registry.restore(info.clone());
                }
            });
        }
        Ok(())
    }

    /// Tells the request table, the lane and the callers, in this order: a retry that finds nothing
    /// waiting must find the id done.
    fn conclude(
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

fn lane_id(site: &Arc<SiteState>) -> u64 {
    Arc::as_ptr(site) as u64
}

async fn fetch(source: &EntrySource, taken: &[EntryRef]) -> Result<Vec<Stamped>, String> {
    let fetch_all =
        |source: &EntrySource, taken: &[EntryRef]| taken.iter().map(|entry| source.fetch(entry)).collect();
    if taken.iter().all(EntrySource::is_hot) {
        return fetch_all(source, taken);
    }
    let (source, taken) = (source.clone(), taken.to_vec());
    tokio::task::spawn_blocking(move || fetch_all(&source, &taken))
        .await
        .map_err(|error| error.to_string())?
}
