//! One turn of a lane: take, fetch, load, evaluate, commit; and what a lane does when that fails.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use tower::Service;

use super::trouble::Trouble;
use super::{Leave, Pause, Running, Wait, batch, lane_id};
use crate::kill_switch::Operation;
use crate::model::{ProfileKey, Record, User};
use crate::read::{EntrySource, Stamped};
use crate::sites::{EntryRef, Lane, SiteState};
use crate::store::service::Load;
use crate::store::watch::{BoxedWatch, carrying};
use crate::store::{Committed, Purpose, SiteCommit, StoreError, StoreFuture};

/// A lane asks again after at most so long what was refused.
const LONGEST_WAIT: Duration = Duration::from_millis(250);

/// A commit that takes longer counts as one that is not getting through, for quotas and conditions.
const SLOW_COMMIT: Duration = Duration::from_secs(1);

impl<S> Running<S>
where
    S: Service<Load, Response = Vec<Option<Arc<Record>>>, Error = StoreError>
        + Service<SiteCommit, Response = Committed, Error = StoreError, Future = StoreFuture<Committed>>
        + Clone
        + 'static,
{
    /// Takes what the lane has for one turn and applies it, unless the gate is closed meanwhile.
    pub(super) async fn turn(&self, site: &Arc<SiteState>) -> Pause {
        let lane_id = lane_id(site);
        let waiting = {
            let mut lane = site.lane.lock();
            // Under the lock: whoever lets go changes the holds first and looks at the lane then.
            if self.applier.holds.view().deferral(&site.site).is_some_and(|deferral| deferral.is_whole()) {
                lane.rest();
                let waits = lane.waiting() > 0;
                self.note_stalled(&mut lane, waits);
                return Pause::Idle;
            }
            lane.waiting()
        };
        let most = self.applier.turn_entries.min(waiting).max(1);
        let leave = match self.applier.permits.ask(&site.site, waiting, most) {
            Ok(leave) => leave,
            Err(wait) => return self.left_alone(site, wait),
        };
        let taken = self.take(site, lane_id, &leave);
        if taken.is_empty() {
            return self.when_empty(lane_id);
        }
        let applied = tokio::select! {
            biased;
            applied = self.apply(site, &taken, leave.watch) => applied,
            () = self.applier.gate.closed() => {
                Self::abandon(site, &taken);
                return Pause::None;
            }
        };
        match applied {
            Ok(failing) if failing.is_empty() => {
                self.succeeded(site, lane_id, &taken);
                Pause::None
            }
            Ok(failing) => self.failed(site, lane_id, &failing, "evaluate panicked"),
            Err(TurnError::Withheld(again)) => {
                site.lane.lock().put_back(taken.iter().map(|entry| entry.position));
                self.left_alone(site, Wait { again, left_alone: true })
            }
            Err(TurnError::Failed(error)) => {
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

    /// What the lane has for a turn.
    fn take(&self, site: &SiteState, lane_id: u64, leave: &Leave) -> Vec<EntryRef> {
        let mut troubles = self.troubles.borrow_mut();
        let mut trouble = troubles.get_mut(&lane_id);
        let now = Instant::now();
        let due = trouble.as_mut().is_some_and(|trouble| trouble.has_become_due(now));
        let trouble = trouble.as_deref();
        let one_user = trouble.is_some_and(Trouble::one_user);
        let mut lane = site.lane.lock();
        let holds = self.applier.holds.view();
        let deferral = holds.deferral(&site.site);
        let held = |user: u64, operation: Option<Operation>| {
            deferral.zip(operation).is_some_and(|(deferral, operation)| deferral.holds(user, operation))
        };
        if due {
            lane.look_again();
        }
        if let Some(trouble) = trouble.filter(|_| leave.probe) {
            // Whether the store is well is not asked of the users on whom it failed, unless there are no others.
            let taken = lane.take(leave.entries, one_user, |user, operation| {
                trouble.is_suspect(user) || held(user, operation)
            });
            lane.look_again();
            if !taken.is_empty() {
                return taken;
            }
        }
        lane.take(leave.entries, one_user, |user, operation| {
            trouble.is_some_and(|trouble| trouble.holds_back(user, now)) || held(user, operation)
        })
    }

    /// The lane gets no turn now.
    fn left_alone(&self, site: &SiteState, wait: Wait) -> Pause {
        if wait.left_alone {
            self.set_stalled(site, true);
        }
        Pause::For(wait.again)
    }

    /// Whatever the store makes of the turn is not known, and nobody will hear of it: its entries wait again.
    fn abandon(site: &SiteState, taken: &[EntryRef]) {
        site.lane.lock().put_back(taken.iter().map(|entry| entry.position));
        metrics::counter!(crate::metrics::TURNS_ABANDONED).increment(1);
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

    pub(super) fn timer_done(&self, site: &Arc<SiteState>) {
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
            lane.park(user, error, self.applier.clock.now());
            drop(lane);
            metrics::counter!(crate::metrics::USERS_PARKED).increment(1);
            tracing::error!(
                site = %site.site,
                user = format!("{user:016x}"),
                error,
                "the store fails on one user and on nobody else: the user's entries are parked until an operator \
                 says otherwise (steadfast refused retry), or the next start"
            );
            trouble.forget(user);
        }
        drop(troubles);
        // With its one sick user out of the way the lane goes on.
        self.set_stalled(site, park.is_none());
        Pause::For(pause)
    }

    pub(super) fn set_stalled(&self, site: &SiteState, stalled: bool) {
        self.note_stalled(&mut site.lane.lock(), stalled);
    }

    fn note_stalled(&self, lane: &mut Lane, stalled: bool) {
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
    async fn apply(
        &self,
        site: &Arc<SiteState>,
        taken: &[EntryRef],
        watch: Option<BoxedWatch>,
    ) -> Result<Vec<u64>, TurnError> {
        let applier = &self.applier;
        let entries = fetch(&applier.entries, taken).await.map_err(TurnError::Failed)?;
        let records = self.load(site, &entries).await?;
        let turn = batch::turn(site, &entries, records, &applier.refused);
        if !turn.is_settled() {
            self.commit(site, &turn.commit, watch).await.inspect_err(|_| {
                for put in &turn.commit.profiles {
                    let key = ProfileKey::new(site.site.clone(), put.user.clone());
                    applier.cache.forget(key.hash64(), &key);
                }
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
        let (mut records, missing) = batch::known(site, entries, &self.applier.cache);
        if !missing.is_empty() {
            let call = Load { purpose: Purpose::Apply, keys: missing.clone() };
            let loaded = self.applier.store.clone().call(call).await?;
            for (key, record) in missing.into_iter().zip(loaded) {
                records.insert(key.user, record);
            }
        }
        Ok(records)
    }

    /// Commits, with the leave that the turn was given.
    pub(super) async fn commit(
        &self,
        site: &Arc<SiteState>,
        commit: &SiteCommit,
        watch: Option<BoxedWatch>,
    ) -> Result<(), StoreError> {
        let call = carrying(watch, || self.applier.store.clone().call(commit.clone()));
        tokio::pin!(call);
        tokio::select! {
            biased;
            done = &mut call => done?,
            () = tokio::time::sleep(SLOW_COMMIT) => {
                self.set_stalled(site, true);
                self.release(site);
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
                    registry.committed(info.clone());
                }
            });
        }
        Ok(())
    }
}

/// Why a turn came to nothing.
enum TurnError {
    /// It was kept from the store; to be tried again after a while.
    Withheld(Duration),
    /// It failed.
    Failed(String),
}

impl From<StoreError> for TurnError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Withheld { retry_after, .. } => Self::Withheld(retry_after.min(LONGEST_WAIT)),
            error => Self::Failed(error.to_string()),
        }
    }
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
