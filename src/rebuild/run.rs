//! One rebuild, from the closing of the gate to its opening.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::replay::Replayer;
use super::{Rebuilds, load};
use crate::applier::Closed;
use crate::command::TaskState;
use crate::metrics as names;
use crate::snapshot::SnapshotError;
use crate::store::generations::{self, Candidate, OpenError, Retired};
use crate::store::note::Wanted;
use crate::store::sled::SledStore;
use crate::store::switch::InUse;
use crate::store::{Store as _, StoreError};

/// A call of the new generation that takes longer has hung.
const CALL_LIMIT: Duration = Duration::from_mins(1);
/// What the new generation has to show: so many bytes taken and written out in this time, in one of so many
/// tries.
const PROOF_BYTES: usize = 8 << 20;
const PROOF_WITHIN: Duration = Duration::from_secs(2);
const PROOF_TRIES: u32 = 3;
/// How long a disk may take to say how much room there is.
const ROOM_WITHIN: Duration = Duration::from_secs(2);
/// What a new store takes beyond the size of the old one.
const MARGIN: u64 = 32 << 20;
/// How long the old generation gets to let go of its files before they are removed all the same.
const LET_GO: Duration = Duration::from_secs(10);

/// Why a rebuild failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The new generation.
    #[error("the new store: {0}")]
    Store(#[from] StoreError),
    /// It could not be begun.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The journal.
    #[error("the journal could not be read: {0}")]
    Journal(#[from] crate::journal::ReadError),
    /// The snapshot.
    #[error("the snapshot could not be read: {0}")]
    Snapshot(#[from] SnapshotError),
    /// An entry that was applied once does not evaluate any more.
    #[error("journal entry {position}: {problem}")]
    Entry {
        /// Its number.
        position: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// The notes.
    #[error("the note could not be written: {0}")]
    Note(std::io::Error),
    /// It does not take writes in time.
    #[error("the new store did not take {} MiB within {} s", PROOF_BYTES >> 20, PROOF_WITHIN.as_secs())]
    Unproved,
    /// A call did not end.
    #[error("the new store has not answered for {} s", CALL_LIMIT.as_secs())]
    Hangs,
    /// No room.
    #[error("there is no room for a new store in {dir}: it takes about {need} bytes, {free} are free")]
    NoRoom {
        /// Where.
        dir: String,
        /// What it takes, about.
        need: u64,
        /// What there is.
        free: u64,
    },
    /// The process stops.
    #[error("stopped")]
    Stopped,
}

/// Whether a generation can serve reads while another one is built.
pub fn serves(store: &SledStore) -> bool {
    !store.is_damaged()
}

/// One rebuild.
pub struct Run<'a> {
    pub rebuilds: &'a Rebuilds,
    runtime: &'a Runtime,
    stop: watch::Receiver<bool>,
    /// Keeps the gate closed beyond a failure, while there is no generation in use.
    closed: &'a mut Option<Closed>,
    counted: u64,
}

impl<'a> Run<'a> {
    pub fn new(
        rebuilds: &'a Rebuilds,
        runtime: &'a Runtime,
        stop: watch::Receiver<bool>,
        closed: &'a mut Option<Closed>,
    ) -> Self {
        Self { rebuilds, runtime, stop, closed, counted: 0 }
    }

    /// Rebuilds the store.
    pub fn run(mut self, wanted: &Wanted) -> Result<(), Failure> {
        let parts = &self.rebuilds.0.parts;
        let began = Instant::now();
        tracing::info!(reason = wanted.reason, owner = wanted.owner, "rebuilding the store");
        parts.generations.want(Some(wanted.clone())).map_err(Failure::Note)?;
        if self.closed.is_none() {
            *self.closed = Some(self.runtime.block_on(parts.gate.close()));
        }
        self.set_stalled(true);
        let built = self.build(wanted);
        if parts.switch.current().is_some() {
            // Commits that were abandoned may have got through, or not.
            parts.cache.clear();
            self.set_stalled(false);
            *self.closed = None;
        }
        if built.is_ok() {
            tracing::info!(records = self.counted, took = ?began.elapsed(), "the store has been rebuilt");
            metrics::histogram!(names::REBUILD_SECONDS).record(began.elapsed());
        }
        built
    }

    fn build(&mut self, wanted: &Wanted) -> Result<(), Failure> {
        let parts = &self.rebuilds.0.parts;
        if parts.switch.current().is_some_and(|store| !serves(&store)) {
            self.give_up_old()?;
        }
        self.make_room(wanted.dir.as_deref())?;
        let mut candidate = parts.generations.begin(wanted.dir.as_deref())?;
        self.rebuilds.change(|progress| {
            progress.generation = candidate.number;
            progress.dir.clone_from(&candidate.dir);
        });
        let built = self.fill(&mut candidate);
        if built.is_err() && !parts.generations.abandon(&candidate) {
            self.rebuilds.0.state.lock().retired.push(Arc::clone(&candidate.store));
        }
        built
    }

    /// Fills the new generation, proves it and puts it in the place of the old one.
    fn fill(&mut self, candidate: &mut Candidate) -> Result<(), Failure> {
        let parts = &self.rebuilds.0.parts;
        let store = Arc::clone(&candidate.store);
        // What lies before it has been dealt with or waits in a lane; what comes later waits.
        let low_water = parts.progress.low_water();
        let end = low_water.applied_to;
        let mut replayer = Replayer::new(parts);
        let waiting = load::snapshot(self, &store, &mut replayer, end)?;
        replayer.journal(self, &store, end, waiting.as_ref())?;
        self.await_call(store.flush())?;
        self.prove(&store)?;
        let flushed = self.await_call(store.flush())?;
        let retired = parts.generations.adopt(candidate, flushed, low_water).map_err(Failure::Note)?;
        // From here on nothing can fail.
        let calls = (parts.wrap)(Arc::clone(&store));
        let old = parts.switch.swap(Some(InUse { number: candidate.number, store, calls }));
        parts.cache.clear();
        replayer.hand_over(parts);
        self.retire(old, retired);
        Ok(())
    }

    fn prove(&mut self, store: &SledStore) -> Result<(), Failure> {
        for _ in 0..PROOF_TRIES {
            let began = Instant::now();
            self.await_call(store.prove(PROOF_BYTES))?;
            if began.elapsed() <= PROOF_WITHIN {
                return Ok(());
            }
        }
        Err(Failure::Unproved)
    }

    /// Waits for a call of the new generation, as long as one may take and the process goes on.
    pub fn await_call<T>(&mut self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, Failure> {
        let stop = &mut self.stop;
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => Err(Failure::Stopped),
                answer = call => Ok(answer?),
                () = tokio::time::sleep(CALL_LIMIT) => Err(Failure::Hangs),
            }
        })
    }

    /// Counts `more` records or entries; how many there are is known by now to be `total`.
    pub fn count(&mut self, more: u64, total: u64) {
        self.counted += more;
        let (done, total) = (self.counted, total.max(self.counted));
        self.rebuilds.change(|progress| (progress.done, progress.total) = (done, total));
        self.rebuilds.0.parts.switch.set_progress(done, total);
        metrics::gauge!(names::REBUILD_DONE).set(done as f64);
        metrics::gauge!(names::REBUILD_TOTAL).set(total as f64);
    }

    /// What has been counted so far.
    pub fn counted(&self) -> u64 {
        self.counted
    }

    /// Nothing is applied for now: quotas and conditions have to know.
    fn set_stalled(&self, stalled: bool) {
        let parts = &self.rebuilds.0.parts;
        for site in parts.sites.all() {
            let mut lane = site.lane.lock();
            if lane.set_stalled(stalled) {
                let usage = &parts.usage.stalled;
                if stalled {
                    usage.fetch_add(lane.bytes(), Ordering::Relaxed);
                } else {
                    usage.fetch_sub(lane.bytes(), Ordering::Relaxed);
                }
            }
        }
    }

    /// Sees to it that there is room for the new generation; if need be in the place of the old one.
    fn make_room(&mut self, dir: Option<&Path>) -> Result<(), Failure> {
        let parts = &self.rebuilds.0.parts;
        let base = parts.generations.base(dir);
        let old = parts.generations.dir_in_use();
        let beside = old.as_ref().is_some_and(|old| old.parent() == Some(&*base));
        let (tell, told) = crossbeam_channel::bounded(1);
        let asked = base.clone();
        let ask = move || {
            let old_bytes = old.and_then(|old| generations::size_of(&old).ok());
            // Nobody waits for it any more: then it was too late.
            let _ = tell.send((old_bytes, free_bytes(&asked)));
        };
        // A disk that hangs must not take this thread.
        std::thread::Builder::new().name("sf-room".to_owned()).spawn(ask).map_err(Failure::Note)?;
        // What cannot be told is found out by trying.
        let Ok((Some(old_bytes), Some(free))) = told.recv_timeout(ROOM_WITHIN) else { return Ok(()) };
        let need = old_bytes + MARGIN;
        if free >= need {
            return Ok(());
        }
        if beside && free + old_bytes >= need {
            tracing::warn!(need, free, "there is no room for two stores: the old one goes first");
            return self.give_up_old();
        }
        Err(Failure::NoRoom { dir: base.display().to_string(), need, free })
    }

    /// The old generation goes before the new one is there.
    fn give_up_old(&mut self) -> Result<(), Failure> {
        let parts = &self.rebuilds.0.parts;
        let retired = parts.generations.give_up().map_err(Failure::Note)?;
        let old = parts.switch.swap(None);
        self.rebuilds.change(|progress| progress.reads_served = false);
        if let Some(ended) = self.retire(old, retired) {
            // Its room is needed.
            let _ = ended.recv_timeout(LET_GO * 2);
        }
        Ok(())
    }

    /// Closes a generation that is out of use and removes its files, on a thread of its own: it may hang. The
    /// answer disconnects when that is done.
    fn retire(&self, old: Option<Arc<InUse>>, retired: Retired) -> Option<crossbeam_channel::Receiver<()>> {
        let old = old.map(|old| Arc::clone(&old.store));
        if let Some(store) = &old {
            self.rebuilds.0.state.lock().retired.push(Arc::clone(store));
        }
        let (life, ended) = crossbeam_channel::bounded::<()>(0);
        let work = move || {
            let _life = life;
            if let Some(store) = old
                && !store.retire(LET_GO)
            {
                tracing::warn!(dir = %store.dir().display(), "threads hang in a store that is out of use");
            }
            if let Some(dir) = &retired.dir {
                generations::remove_dir(dir);
            }
        };
        match std::thread::Builder::new().name("sf-retire".to_owned()).spawn(work) {
            Ok(_) => Some(ended),
            Err(error) => {
                tracing::warn!(%error, "the old store is left where it is; the next start removes it");
                None
            }
        }
    }
}

impl Rebuilds {
    /// Notes how a rebuild has ended.
    pub(super) fn ended(&self, error: Option<String>) {
        let now = self.0.parts.clock.now();
        self.change(|progress| {
            progress.state = if error.is_some() { TaskState::Failed } else { TaskState::Done };
            progress.finished_at = Some(now);
            progress.error = error.unwrap_or_default();
        });
    }
}

/// Bytes that are free where `dir` is, or will be.
fn free_bytes(dir: &Path) -> Option<u64> {
    let there = dir.ancestors().find(|dir| dir.exists())?;
    let stat = rustix::fs::statvfs(there).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}
