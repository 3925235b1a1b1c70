//! A store that fails on demand, for tests and for the drill: calls hang, are late, fail or panic, by
//! site, user, operation and share.
//!
//! Faults strike at one of two levels. At the **call** they hit single calls and leave all others alone:
//! so a backend behaves that isolates sites. On the **thread** of the backend (it asks its
//! [`WorkerHook`]) a call that hangs holds up all that wait behind it: so an embedded backend behaves.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use super::watch::{BoxedWatch, carrying, take};
use super::{
    Call, Committed, Declaration, Flushed, IndexPage, IndexScan, Operation, Purpose, RecordCursor,
    RecordPage, RefusedRecord, SiteCommit, Store, StoreError, StoreFuture, WorkerHook,
};
use crate::model::{ProfileKey, Record, Site, User};

/// What goes wrong, and for which calls. Of several that fit a call, the first one added strikes.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What happens.
    pub kind: FaultKind,
    /// Where.
    pub level: FaultLevel,
    /// Only these operations; none: all that callers ask for, not the backend's own.
    pub operations: Vec<Operation>,
    /// Only calls about this site.
    pub site: Option<Site>,
    /// Only calls about this user; not known on the thread, where such a fault never strikes.
    pub user: Option<User>,
    /// How many of a thousand calls that fit are struck, spread evenly: the same ones in every run.
    pub per_mille: u16,
    /// Only calls of this generation of the store: one that is built in its place is sound.
    pub generation: Option<u64>,
}

/// What happens to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// It waits until the fault is cleared, then goes on.
    Hang,
    /// It waits that long, or until the fault is cleared.
    Delay(Duration),
    /// It fails.
    Error(StoreError),
    /// It panics.
    Panic,
}

/// Where a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultLevel {
    /// Before the backend hears of the call.
    Call,
    /// After the backend has answered: what it did is done, but the caller does not hear of it.
    Answer,
    /// On the backend's own thread.
    Thread,
}

impl Fault {
    /// A fault of all calls.
    pub fn new(kind: FaultKind, level: FaultLevel) -> Self {
        Self {
            kind,
            level,
            operations: Vec::new(),
            site: None,
            user: None,
            per_mille: 1000,
            generation: None,
        }
    }

    /// Only calls of `operation` (and of those given before).
    #[must_use]
    pub fn on(mut self, operation: Operation) -> Self {
        self.operations.push(operation);
        self
    }

    /// Only calls about `site`.
    #[must_use]
    pub fn of_site(mut self, site: Site) -> Self {
        self.site = Some(site);
        self
    }

    /// Only calls about `user`.
    #[must_use]
    pub fn of_user(mut self, user: User) -> Self {
        self.user = Some(user);
        self
    }

    /// Only calls of generation `number` of the store.
    #[must_use]
    pub fn of_generation(mut self, number: u64) -> Self {
        self.generation = Some(number);
        self
    }

    /// Only `per_mille` of a thousand.
    #[must_use]
    pub fn share(mut self, per_mille: u16) -> Self {
        self.per_mille = per_mille;
        self
    }
}

/// The handle that adds and clears faults. Clones speak of the same ones.
#[derive(Clone, Default)]
pub struct Faults(Arc<Board>);

#[derive(Default)]
struct Board {
    active: Mutex<Vec<Arc<Active>>>,
    last_id: AtomicU64,
    // How many calls wait in a fault right now.
    waiting: watch::Sender<usize>,
}

/// A fault that strikes.
struct Active {
    id: u64,
    fault: Fault,
    fitted: AtomicU64,
    struck: AtomicU64,
    // Opened when the fault is cleared; once for tasks, once for threads.
    gate: watch::Sender<bool>,
    lock: Mutex<bool>,
    opened: Condvar,
}

impl Faults {
    /// Adds a fault; answers its number.
    pub fn add(&self, fault: Fault) -> u64 {
        let id = self.0.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        self.0.active.lock().push(Arc::new(Active {
            id,
            fault,
            fitted: AtomicU64::new(0),
            struck: AtomicU64::new(0),
            gate: watch::Sender::new(false),
            lock: Mutex::new(false),
            opened: Condvar::new(),
        }));
        id
    }

    /// Takes all faults away; calls that wait go on.
    pub fn clear(&self) {
        for active in self.0.active.lock().drain(..) {
            active.end();
        }
    }

    /// Takes one fault away; answers how many calls it had struck.
    pub fn clear_one(&self, id: u64) -> Option<u64> {
        let mut active = self.0.active.lock();
        let at = active.iter().position(|active| active.id == id)?;
        let ended = active.remove(at);
        drop(active);
        ended.end();
        Some(ended.struck.load(Ordering::Relaxed))
    }

    /// How many calls one of the present faults has struck.
    pub fn struck_by(&self, id: u64) -> Option<u64> {
        let active = self.0.active.lock();
        let found = active.iter().find(|active| active.id == id)?;
        Some(found.struck.load(Ordering::Relaxed))
    }

    /// How many calls the present faults have struck.
    pub fn struck(&self) -> u64 {
        self.0.active.lock().iter().map(|active| active.struck.load(Ordering::Relaxed)).sum()
    }

    /// How many calls hang or are being delayed.
    pub fn waiting(&self) -> usize {
        *self.0.waiting.borrow()
    }

    /// Returns as soon as at least `calls` calls hang or are being delayed.
    pub async fn until_waiting(&self, calls: usize) {
        // Cannot fail: the sender lives in `self`.
        let _ = self.0.waiting.subscribe().wait_for(|waiting| *waiting >= calls).await;
    }

    fn pick(
        &self,
        level: FaultLevel,
        operation: Operation,
        generation: u64,
        about: &About<'_>,
    ) -> Option<Struck> {
        let active = self.0.active.lock();
        let struck = active.iter().find(|active| active.strikes(level, operation, generation, about))?;
        Some(Struck { board: Arc::clone(&self.0), active: Arc::clone(struck) })
    }
}

/// What a call is about.
enum About<'a> {
    Site(Option<&'a Site>),
    Keys(&'a [ProfileKey]),
    Commit(&'a SiteCommit),
}

impl About<'_> {
    fn fits(&self, fault: &Fault) -> bool {
        let site = |site: &Site| fault.site.as_ref().is_none_or(|wanted| wanted == site);
        let user = |user: &User| fault.user.as_ref().is_none_or(|wanted| wanted == user);
        match self {
            Self::Site(about) => fault.user.is_none() && about.map_or(fault.site.is_none(), site),
            Self::Keys(keys) => keys.iter().any(|key| site(&key.site) && user(&key.user)),
            Self::Commit(commit) => {
                site(&commit.site)
                    && (fault.user.is_none() || commit.profiles.iter().any(|put| user(&put.user)))
            }
        }
    }
}

impl Active {
    /// Lets go on what waits in it.
    fn end(&self) {
        self.gate.send_replace(true);
        *self.lock.lock() = true;
        self.opened.notify_all();
    }

    fn strikes(&self, level: FaultLevel, operation: Operation, generation: u64, about: &About<'_>) -> bool {
        let fault = &self.fault;
        let wanted = match &*fault.operations {
            [] => !matches!(operation, Operation::BuildIndex | Operation::Upkeep),
            wanted => wanted.contains(&operation),
        };
        let other = fault.generation.is_some_and(|wanted| wanted != generation);
        if fault.level != level || !wanted || other || !about.fits(fault) {
            return false;
        }
        // Strikes whenever the share of all calls so far passes the next whole number.
        let (before, share) = (self.fitted.fetch_add(1, Ordering::Relaxed), u64::from(fault.per_mille));
        let strikes = (before + 1) * share / 1000 > before * share / 1000;
        self.struck.fetch_add(u64::from(strikes), Ordering::Relaxed);
        strikes
    }
}

/// A fault that has struck a call.
struct Struck {
    board: Arc<Board>,
    active: Arc<Active>,
}

/// Counts a call that waits, as long as it lives: a caller may give up.
struct Waiting<'a>(&'a Board);

impl<'a> Waiting<'a> {
    fn new(board: &'a Board) -> Self {
        board.waiting.send_modify(|waiting| *waiting += 1);
        Self(board)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.send_modify(|waiting| *waiting -= 1);
    }
}

impl Struck {
    async fn happen(&self) -> Result<(), StoreError> {
        let mut gate = self.active.gate.subscribe();
        match &self.active.fault.kind {
            FaultKind::Error(error) => return Err(error.clone()),
            FaultKind::Panic => panic!("an injected panic"),
            FaultKind::Hang => {
                let _waiting = Waiting::new(&self.board);
                let _ = gate.wait_for(|open| *open).await;
            }
            FaultKind::Delay(time) => {
                let _waiting = Waiting::new(&self.board);
                // Over is over, whichever came first.
                let _ = tokio::time::timeout(*time, gate.wait_for(|open| *open)).await;
            }
        }
        Ok(())
    }

    /// Strikes a watched call; one that goes on gets its watch back. A panic is an error of this call, as on
    /// the threads of a backend.
    async fn happen_to(&self, watch: Option<BoxedWatch>) -> Result<Option<BoxedWatch>, StoreError> {
        let happened = AssertUnwindSafe(self.happen()).catch_unwind().await;
        match happened.unwrap_or_else(|panic| Err(StoreError::panicked(panic.as_ref()))) {
            Ok(()) => Ok(watch),
            Err(error) => {
                if let Some(mut watch) = watch {
                    watch.ended(Some(&error));
                }
                Err(error)
            }
        }
    }

    fn happen_blocking(&self) -> Result<(), StoreError> {
        let mut open = self.active.lock.lock();
        match &self.active.fault.kind {
            FaultKind::Error(error) => return Err(error.clone()),
            FaultKind::Panic => panic!("an injected panic"),
            FaultKind::Hang => {
                let _waiting = Waiting::new(&self.board);
                self.active.opened.wait_while(&mut open, |open| !*open);
            }
            FaultKind::Delay(time) => {
                let _waiting = Waiting::new(&self.board);
                self.active.opened.wait_while_for(&mut open, |open| !*open, *time);
            }
        }
        Ok(())
    }
}

impl WorkerHook for Faults {
    fn before(&self, call: &Call) -> Result<(), StoreError> {
        let about = About::Site(call.site.as_ref());
        match self.pick(FaultLevel::Thread, call.operation, call.generation, &about) {
            Some(struck) => struck.happen_blocking(),
            None => Ok(()),
        }
    }
}

/// A store whose calls meet the faults of a [`Faults`]. The backend has to be given the same handle as its
/// [`WorkerHook`] for those on its threads.
pub struct FaultyStore<S: ?Sized> {
    inner: Arc<S>,
    faults: Faults,
    generation: u64,
}

impl<S: Store + ?Sized> FaultyStore<S> {
    /// `inner` with `faults`.
    pub fn new(inner: Arc<S>, faults: Faults) -> Self {
        Self { inner, faults, generation: 0 }
    }

    /// The same, where `inner` is generation `number` of the store.
    #[must_use]
    pub fn of_generation(mut self, number: u64) -> Self {
        self.generation = number;
        self
    }

    fn run<T: Send + 'static>(
        &self,
        operation: Operation,
        about: &About<'_>,
        call: impl FnOnce(&S) -> StoreFuture<T> + Send + 'static,
    ) -> StoreFuture<T> {
        let pick = |level| self.faults.pick(level, operation, self.generation, about);
        let (before, after) = (pick(FaultLevel::Call), pick(FaultLevel::Answer));
        if before.is_none() && after.is_none() {
            return call(&self.inner);
        }
        let inner = Arc::clone(&self.inner);
        let mut watch = take();
        if let Some(watch) = &mut watch {
            watch.reached();
        }
        Box::pin(async move {
            if let Some(struck) = before {
                watch = struck.happen_to(watch).await?;
            }
            let Some(struck) = after else {
                return carrying(watch, || call(&inner)).await;
            };
            // The fault comes after the answer: until then the call has not ended for who watches it.
            let answer = call(&inner).await;
            if let Some(mut watch) = struck.happen_to(watch).await? {
                watch.ended(answer.as_ref().err());
            }
            answer
        })
    }
}

impl<S: Store + ?Sized> Store for FaultyStore<S> {
    fn declaration(&self) -> Declaration {
        Declaration { isolates_sites: true, ..self.inner.declaration() }
    }

    fn load(&self, purpose: Purpose, keys: Vec<ProfileKey>) -> StoreFuture<Vec<Option<Arc<Record>>>> {
        let about = keys.clone();
        self.run(Operation::Load(purpose), &About::Keys(&about), move |s| s.load(purpose, keys))
    }

    fn commit(&self, commit: SiteCommit) -> StoreFuture<Committed> {
        let about = commit.clone();
        self.run(Operation::Commit, &About::Commit(&about), move |s| s.commit(commit))
    }

    fn scan_index(&self, scan: IndexScan) -> StoreFuture<IndexPage> {
        let site = scan.site.clone();
        self.run(Operation::ScanIndex, &About::Site(Some(&site)), move |s| s.scan_index(scan))
    }

    fn scan_records(&self, after: Option<RecordCursor>, limit: usize) -> StoreFuture<RecordPage> {
        self.run(Operation::ScanRecords, &About::Site(None), move |s| s.scan_records(after, limit))
    }

    fn load_refused(&self, site: Site, position: u64) -> StoreFuture<Option<RefusedRecord>> {
        let about = site.clone();
        let about = About::Site(Some(&about));
        self.run(Operation::LoadRefused, &about, move |s| s.load_refused(site, position))
    }

    fn flush(&self) -> StoreFuture<Flushed> {
        self.run(Operation::Flush, &About::Site(None), Store::flush)
    }
}

#[cfg(test)]
mod tests;
