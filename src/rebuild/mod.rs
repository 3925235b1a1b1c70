//! Building the store anew: a new generation out of the newest snapshot and the journal, while writes are
//! accepted and, if the old one can, reads are served.
//!
//! 1. The applier's gate is closed. Turns under way are abandoned and their entries wait again, so that what
//!    waits in the lanes and what has been dealt with are two sets that no longer change into each other.
//! 2. The new generation gets the records of the snapshot, then the journal's entries that do not wait, in
//!    order, whatever holds and breakers say of them.
//! 3. It is proved: it takes a scratch insert and a flush in time.
//! 4. The note names it, which is the moment from which a crash finds it; then callers get it, the caches are
//!    cleared, and the gate opens: the lanes bring what was accepted meanwhile.
//!
//! The old generation is never read for it. It serves until the swap, unless it is damaged, or there is no
//! room for two; then calls are answered that the store is being rebuilt. A rebuild that fails leaves it in
//! place. All of this runs on one thread, which also watches the generation in use for damage.

mod load;
mod replay;
mod run;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch as signal};

use crate::accept::{Requests, Usage};
use crate::applier::{Closed, Gate, Progress, RefusedList};
use crate::clock::Clock;
use crate::command::operate::RebuildTasks;
use crate::command::{RebuildProgress, RebuildRequest, TaskGuard, TaskRefused, TaskSlot, TaskState};
use crate::incident::Incidents;
use crate::journal::JournalReader;
use crate::read::ProfileCache;
use crate::sites::Sites;
use crate::store::Store;
use crate::store::generations::Generations;
use crate::store::note::Wanted;
use crate::store::sled::SledStore;
use crate::store::switch::StoreSwitch;

/// Puts layers around a generation.
pub type Wrap = Arc<dyn Fn(Arc<SledStore>) -> Arc<dyn Store> + Send + Sync>;

/// A call inside sled that is older hangs in the kernel, and sled's threads, which belong to the process, hang
/// with it.
const HANGS_AFTER: Duration = Duration::from_secs(10);

/// What rebuilds work on.
pub struct Parts {
    /// The generations on disk.
    pub generations: Arc<Generations>,
    /// The store that callers call.
    pub switch: Arc<StoreSwitch>,
    /// What goes around each new generation.
    pub wrap: Wrap,
    /// The applier's gate.
    pub gate: Arc<Gate>,
    /// The lanes.
    pub sites: Arc<Sites>,
    /// How far the lanes have come.
    pub progress: Progress,
    /// Waiting bytes.
    pub usage: Arc<Usage>,
    /// The refused entries.
    pub refused: Arc<RefusedList>,
    /// The request table.
    pub requests: Arc<Requests>,
    /// The profile cache.
    pub cache: Arc<ProfileCache>,
    /// The journal.
    pub reader: JournalReader,
    /// Where the journal's snapshots are.
    pub snapshots: PathBuf,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// The place of long tasks.
    pub tasks: TaskSlot,
    /// Where disturbances are recorded.
    pub incidents: Incidents,
}

/// Begins rebuilds and tells how far they are. Cheap to clone.
#[derive(Clone)]
pub struct Rebuilds(Arc<Shared>);

struct Shared {
    parts: Parts,
    state: Mutex<State>,
    jobs: mpsc::Sender<Job>,
}

#[derive(Default)]
struct State {
    progress: Option<RebuildProgress>,
    began: Option<Instant>,
    draining: bool,
    /// Generations out of use of which threads may hang still.
    retired: Vec<Arc<SledStore>>,
}

/// A rebuild that has its place.
struct Job {
    wanted: Wanted,
    automatic: bool,
    guard: TaskGuard,
}

/// The thread, and how to end it.
pub struct Rebuilder {
    stop: signal::Sender<bool>,
    // Disconnects when the thread has ended.
    ended: crossbeam_channel::Receiver<()>,
}

impl Rebuilds {
    /// Starts the thread. `closed` keeps the gate closed because there is no generation in use: then one is built
    /// at once. `wanted` is what the last process did not finish.
    pub fn start(
        parts: Parts,
        closed: Option<Closed>,
        wanted: Option<Wanted>,
    ) -> std::io::Result<(Self, Rebuilder)> {
        let (jobs, asked) = mpsc::channel(1);
        let (stop, stopping) = signal::channel(false);
        let shared = Shared { parts, state: Mutex::default(), jobs };
        let rebuilds = Self(Arc::new(shared));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let (life, ended) = crossbeam_channel::bounded(0);
        let watch = watch::Watch::new(rebuilds.clone(), closed, wanted, stopping);
        std::thread::Builder::new().name("sf-rebuild".to_owned()).spawn(move || {
            let _life: crossbeam_channel::Sender<()> = life;
            watch.run(&runtime, asked);
        })?;
        Ok((rebuilds, Rebuilder { stop, ended }))
    }

    /// Begins a rebuild. Does not wait for anything.
    pub fn request(&self, request: RebuildRequest) -> Result<RebuildProgress, TaskRefused> {
        if request.dir.as_ref().is_some_and(|dir| !dir.is_absolute()) {
            let problem = "must be an absolute path".to_owned();
            return Err(TaskRefused::Invalid { field: "directory", problem });
        }
        let wanted = Wanted { dir: request.dir, reason: request.reason, owner: request.owner };
        self.begin(wanted, false)
    }

    fn begin(&self, wanted: Wanted, automatic: bool) -> Result<RebuildProgress, TaskRefused> {
        let parts = &self.0.parts;
        let mut state = self.0.state.lock();
        if state.draining {
            return Err(TaskRefused::Draining);
        }
        self.refuse_hang(&mut state)?;
        let guard = parts.tasks.begin_first("a rebuild of the store")?;
        let progress = RebuildProgress {
            state: TaskState::Running,
            generation: parts.generations.next_number(),
            reason: wanted.reason.clone(),
            owner: wanted.owner.clone(),
            started_at: parts.clock.now(),
            reads_served: parts.switch.current().is_some_and(|store| run::serves(&store)),
            dir: parts.generations.base(wanted.dir.as_deref()),
            ..RebuildProgress::default()
        };
        state.began = Some(Instant::now());
        state.progress = Some(progress.clone());
        let job = Job { wanted, automatic, guard };
        if self.0.jobs.try_send(job).is_err() {
            state.progress = None;
            return Err(TaskRefused::Draining);
        }
        Ok(progress)
    }

    /// The rebuild that runs, or the last one.
    pub fn progress(&self) -> Option<RebuildProgress> {
        let state = self.0.state.lock();
        let mut progress = state.progress.clone()?;
        if progress.state == TaskState::Running
            && let Some(began) = state.began
            && progress.done > 0
        {
            let so_far = Instant::now().saturating_duration_since(began);
            let left = progress.total.saturating_sub(progress.done) as f64 / progress.done as f64;
            progress.time_left = Duration::try_from_secs_f64(so_far.as_secs_f64() * left).ok();
        }
        Some(progress)
    }

    /// Threads of the generation in use whose call is so old that they count as hung.
    pub fn hung_in_use(&self) -> usize {
        let in_use = self.0.parts.switch.current();
        in_use.map_or(0, |store| store.threads_older_than(HANGS_AFTER, Instant::now()))
    }

    /// Threads of all generations that count as hung.
    pub fn hung_threads(&self) -> usize {
        let now = Instant::now();
        let mut state = self.0.state.lock();
        state.retired.retain(|store| !store.has_ended());
        let in_use = self.0.parts.switch.current();
        state.retired.iter().chain(in_use.as_ref()).map(|s| s.threads_older_than(HANGS_AFTER, now)).sum()
    }

    /// A new generation would hang with one that hangs inside sled.
    fn refuse_hang(&self, state: &mut State) -> Result<(), TaskRefused> {
        let now = Instant::now();
        state.retired.retain(|store| !store.has_ended());
        let in_use = self.0.parts.switch.current();
        let oldest = state.retired.iter().chain(in_use.as_ref()).filter_map(|s| s.oldest_inside(now)).max();
        match oldest {
            Some(age) if age > HANGS_AFTER => {
                let advice = "its disk hangs, and a new store in this process would hang with it; start another \
                              process in its place: steadfast serve --take-over [--store-dir DIR]";
                Err(TaskRefused::KernelHang { age, advice: advice.to_owned() })
            }
            _ => Ok(()),
        }
    }

    fn change(&self, change: impl FnOnce(&mut RebuildProgress)) {
        if let Some(progress) = &mut self.0.state.lock().progress {
            change(progress);
        }
    }
}

impl RebuildTasks for Rebuilds {
    fn request(&self, request: RebuildRequest) -> Result<RebuildProgress, TaskRefused> {
        Self::request(self, request)
    }

    fn progress(&self) -> Option<RebuildProgress> {
        Self::progress(self)
    }
}

impl Rebuilder {
    /// Ends the thread, and what it does, within about `limit`. A thread that hangs in the kernel is left behind.
    pub fn stop(&self, limit: Duration) {
        self.stop.send_replace(true);
        // Nothing is ever sent: the channel only disconnects.
        if self.ended.recv_timeout(limit) == Err(crossbeam_channel::RecvTimeoutError::Timeout) {
            tracing::warn!("the rebuild of the store does not end; it is left behind");
        }
    }
}
