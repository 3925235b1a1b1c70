//! The data side: journal, lanes, applier and store, opened in the order that trust demands and closed in
//! the reverse one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::watch;

use super::StartError;
use super::checkpoint::Checkpoints;
use super::guarding::{Guarding, guard_options};
use super::holds::Holds;
use super::operate::Weak;
use super::orders::Orders;
use super::snapshots::{self, Snapshotter};
use super::start::{
    journal_options, report, sled_options, start_applier, start_journal, take_up_snapshot, take_up_store,
};
use crate::accept::{Accept, AcceptOptions, BatchStamp, HotMemory, Pending, Requests, Shared, Usage};
use crate::applier::replay::{Replay, Replayed};
use crate::applier::{Applier, Gate, Permits, Progress, RefusedList};
use crate::clock::Clock;
use crate::command::TaskSlot;
use crate::config::Config;
use crate::fs::{Fs, RealFs, SlowFs};
use crate::guard::{Guard, GuardedStore};
use crate::incident::{Answers, BreakerEvents, IncidentOptions, IncidentThread, Incidents};
use crate::journal::Journal;
use crate::kill_switch::Switched;
use crate::ledger::Ledger;
use crate::model::LowWater;
use crate::model::evaluate::SEMANTICS;
use crate::read::{EntrySource, ProfileCache, Read, ReadShared};
use crate::rebuild::{Parts, Rebuilder, Rebuilds, Wrap};
use crate::sites::{SiteState, Sites};
use crate::snapshot::Snapshots;
use crate::store::faulty::FaultyStore;
use crate::store::generations::{self, GenerationOptions, Generations};
use crate::store::metered::{Metered, StoreMeters};
use crate::store::sled::SledStore;
use crate::store::switch::{InUse, StoreSwitch};
use crate::store::{Flushed, Store, WorkerHook};

/// Memory for the content of waiting entries; what does not fit is read back from the journal.
const HOT_BYTES: u64 = 64 << 20;

/// The data side of a running node.
pub struct Core {
    /// What acceptance works on.
    pub shared: Arc<Shared>,
    /// What reads work on.
    pub read: Arc<ReadShared>,
    /// The refused entries.
    pub refused: Arc<RefusedList>,
    /// The store of the moment: what everybody calls.
    pub switch: Arc<StoreSwitch>,
    /// What the start found.
    pub replayed: Replayed,
    /// Builds the store anew.
    pub rebuilds: Rebuilds,
    /// Takes snapshots.
    pub snapshots: Snapshots,
    pub(super) snapshotter: Snapshotter,
    /// The place of long tasks.
    pub tasks: TaskSlot,
    /// The generations of the store on disk.
    pub generations: Arc<Generations>,
    /// What the store's calls are like.
    pub meters: StoreMeters,
    /// The incidents.
    pub incidents: Incidents,
    ledger: Arc<Ledger>,
    pub(super) recording: Option<IncidentThread>,
    /// Where operators may break it, if the server was started for that.
    pub(super) weak: Option<Weak>,
    /// The breakers around the store.
    pub guard: Arc<Guard>,
    /// Takes operators' orders about them.
    pub orders: Arc<Orders>,
    /// How far the applier has come.
    pub progress: Progress,
    /// Lanes with work go here.
    pub ready: UnboundedSender<Arc<SiteState>>,
    pub(super) guarding: Option<Guarding>,
    pub(super) rebuilder: Rebuilder,
    /// The kill switch.
    pub(super) holds: Holds,
    pub(super) stop: watch::Sender<bool>,
    pub(super) threads: Vec<JoinHandle<()>>,
}

/// The line of lanes with work.
pub(super) type Ready = (UnboundedSender<Arc<SiteState>>, UnboundedReceiver<Arc<SiteState>>);

/// What goes around and into each generation of the store.
pub struct Layers {
    /// All loads, commits and scans go through what this makes of a generation.
    pub wrap: Wrap,
    /// Asked before each call on the thread that runs it.
    pub hook: Option<Arc<dyn WorkerHook>>,
    /// Access to the journal's files.
    pub journal_fs: Arc<dyn Fs>,
}

impl Default for Layers {
    fn default() -> Self {
        Self { wrap: Arc::new(|store| store), hook: None, journal_fs: Arc::new(RealFs) }
    }
}

impl Core {
    /// Opens everything under the configured directories and takes up where the last process ended. Blocks.
    pub fn open(config: &Config, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        Self::open_layered(config, clock, &Layers::default())
    }

    /// As [`open`](Self::open), with a layer around each generation of the store: all loads, commits and scans go
    /// through what `wrap` makes of it.
    pub fn open_with(
        config: &Config,
        clock: Arc<dyn Clock>,
        wrap: impl Fn(Arc<SledStore>) -> Arc<dyn Store> + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        Self::open_layered(config, clock, &Layers { wrap: Arc::new(wrap), ..Layers::default() })
    }

    /// As [`open_with`](Self::open_with), with a hook on the store's own threads too.
    pub fn open_layered(config: &Config, clock: Arc<dyn Clock>, layers: &Layers) -> Result<Self, StartError> {
        let weak = config.server.fault_injection.then(Weak::default);
        let injected = weak.as_ref().map(|weak| Arc::new(weak.store.clone()) as Arc<dyn WorkerHook>);
        let mut journal_fs = Arc::clone(&layers.journal_fs);
        if let Some(weak) = &weak {
            journal_fs = Arc::new(SlowFs::new(journal_fs, weak.journal.clone()));
        }
        let hook = layers.hook.clone().or(injected);
        let stamp = BatchStamp { refresh_after: config.writes.refresh_after.0, semantics: SEMANTICS };
        let snapshots_dir = config.snapshots.dir.clone();
        let opened = Journal::<Arc<Pending>>::open(journal_options(config), journal_fs, Arc::clone(&clock))?;
        let holds = Holds::open(config, &clock)?;
        let (generations, mut found) = Generations::open(GenerationOptions {
            store_dir: config.store.dir.clone(),
            note_dir: config.journal.dir.clone(),
            node: opened.node,
            journal_end: opened.end,
            sled: sled_options(config, hook),
        })?;
        report(&opened, found.distrust);
        if found.store.is_none() && opened.end == 0 && opened.reader.snapshot().is_none() {
            found.store = Some(first_store(&generations)?);
        }
        let (generations, low_water) = (Arc::new(generations), found.low_water);
        let sites = Arc::new(Sites::new(config.limits.sites as usize));
        let requests = Arc::new(Requests::new(config.requests.capacity as usize, config.requests.window.0));
        let refused = Arc::new(RefusedList::default());
        let now = clock.now();
        if let Some(store) = &found.store {
            take_up_store(store, &sites, &refused, now)?;
        }
        let (trusted, known) = (found.store.is_some(), (&*sites, &*refused, &*requests));
        let waiting = take_up_snapshot(&opened.reader, &snapshots_dir, known, trusted, now)?;

        let ready: Ready = mpsc::unbounded_channel();
        let wake = ready.0.clone();
        let usage = Arc::new(Usage::default());
        let ids_since = now.minus(config.requests.window.0);
        let replay = Replay {
            sites: &sites,
            requests: &requests,
            refused: &refused,
            low_water: &low_water,
            waiting: waiting.as_ref(),
            declare_all: !trusted,
            ids_since,
            now,
        };
        let from = match found.store {
            Some(_) => low_water.replay_from().min(opened.reader.first_since(ids_since)),
            None => 0,
        };
        let (replayed, lanes) = replay.run(&opened.reader, from)?;
        usage.pending.store(replayed.pending_bytes, Ordering::Relaxed);
        let ledger = Arc::new(Ledger::new(opened.end));
        // Before anything is applied or accepted: what an earlier process left open is counted on.
        let (incidents, recording) = Incidents::start(IncidentOptions {
            dir: config.control.dir.clone(),
            fs: Arc::new(RealFs),
            clock: Arc::clone(&clock),
            ledger: Arc::clone(&ledger),
            sites: Arc::clone(&sites),
        })
        .map_err(StartError::Thread)?;
        for lane in lanes {
            // The receiver is right here.
            drop(ready.0.send(lane));
        }

        let (gate, closed) = Gate::new_closed();
        // Without a store it stays closed.
        let closed = (!trusted).then_some(closed);
        let meters = StoreMeters::new(Instant::now());
        let guard = Guard::new(&guard_options(config), Arc::clone(&clock))?;
        guard.events().attach(BreakerEvents::new(incidents.clone(), guard.errors_at_trips()));
        let orders = Arc::new(Orders::connect(holds.switch(), &guard, &incidents, &clock));
        let wrap: Wrap = {
            let (inner, meters, guard) = (Arc::clone(&layers.wrap), meters.clone(), Arc::clone(&guard));
            let faults = weak.as_ref().map(|weak| weak.store.clone());
            Arc::new(move |store| {
                let number = store.generation();
                let calls = inner(store);
                let calls = match &faults {
                    Some(faults) => Arc::new(FaultyStore::new(calls, faults.clone()).of_generation(number)),
                    None => calls,
                };
                guard.store_replaced(calls.declaration());
                Arc::new(Metered::new(calls, meters.clone()))
            })
        };
        let number = generations.generation();
        let first = found.store.map(|store| {
            let calls = wrap(Arc::clone(&store));
            InUse { number, store, calls }
        });
        let switch = Arc::new(StoreSwitch::new(first));
        let cache = Arc::new(ProfileCache::new(config.cache.profile_capacity.0));
        let hot = HotMemory::new(HOT_BYTES);
        let settled = Arc::new(AtomicU64::new(opened.end));
        let (node, reader) = (opened.node, opened.reader.clone());
        let journal = start_journal(opened, stamp, &ready.0, &hot, &settled, &ledger)?;
        let entries = EntrySource::new(node, reader.clone(), stamp);
        holds.connect(Arc::clone(&sites), Arc::clone(&usage), Arc::clone(&guard), ready.0.clone());
        let applier = Applier {
            sites: Arc::clone(&sites),
            entries: entries.clone(),
            cache: Arc::clone(&cache),
            requests: Arc::clone(&requests),
            refused: Arc::clone(&refused),
            usage: Arc::clone(&usage),
            ledger: Arc::clone(&ledger),
            clock: Arc::clone(&clock),
            gate: Arc::clone(&gate),
            permits: Arc::<Guard>::clone(&guard),
            holds: Arc::clone(holds.switch()),
            turns: config.applier.outstanding as usize,
            turn_entries: config.applier.commit_entries as usize,
            store: GuardedStore::new(Arc::clone(&switch) as Arc<dyn Store>, Arc::clone(&guard)),
            last_turns: config.server.drain_timeout.0,
        };
        let guarding = Guarding::start(&guard, &switch, &sites)?;
        let (stop, stopping) = watch::channel(false);
        let applier = start_applier(applier, ready, stopping.clone())?;
        let read = Arc::new(ReadShared::new(Arc::clone(&sites), Arc::clone(&cache), entries));
        let progress = Progress::new(Arc::clone(&sites), settled);
        let checkpoints = Checkpoints {
            switch: Arc::clone(&switch),
            guard: Arc::clone(&guard),
            gate: Arc::clone(&gate),
            generations: Arc::clone(&generations),
            progress: progress.clone(),
            every: config.store.checkpoint_every.0,
        };
        let checkpoints = checkpoints.start(stopping)?;
        let tasks = TaskSlot::default();
        let parts = Parts {
            generations: Arc::clone(&generations),
            switch: Arc::clone(&switch),
            wrap,
            gate: Arc::clone(&gate),
            sites: Arc::clone(&sites),
            progress: progress.clone(),
            usage: Arc::clone(&usage),
            refused: Arc::clone(&refused),
            requests: Arc::clone(&requests),
            cache: Arc::clone(&cache),
            reader,
            snapshots: snapshots_dir.clone(),
            clock: Arc::clone(&clock),
            tasks: tasks.clone(),
            incidents: incidents.clone(),
        };
        let (rebuilds, rebuilder) =
            Rebuilds::start(parts, closed, found.rebuild).map_err(StartError::Thread)?;
        let shared = Arc::new(Shared {
            node,
            sites,
            cache,
            requests,
            journal,
            clock,
            usage,
            hot,
            options: AcceptOptions {
                reply_after: config.writes.reply_after.0,
                load_within: config.writes.load_within.0,
                attributes_per_site: config.limits.attributes_per_site as usize,
                site_quota: config.journal.site_quota.0,
                stamp,
            },
            left_alone: {
                let guard = Arc::clone(&guard);
                // Nothing is applied while the store is built anew, whatever the site.
                Arc::new(move |site| !gate.is_open() || guard.left_alone(site).is_some())
            },
            without_journal: metrics::counter!(crate::metrics::WRITES_WITHOUT_JOURNAL),
            draining: AtomicBool::new(false),
        });
        let parts = snapshots::Parts {
            shared: &shared,
            switch: &switch,
            generations: &generations,
            progress: &progress,
            tasks: &tasks,
            dir: snapshots_dir,
        };
        let (snapshots, snapshotter) = snapshots::start(config, &parts)?;
        Ok(Self {
            snapshots,
            snapshotter,
            shared,
            read,
            refused,
            switch,
            replayed,
            incidents,
            ledger,
            recording: Some(recording),
            rebuilds,
            tasks,
            generations,
            meters,
            ready: wake,
            weak,
            guard,
            orders,
            progress,
            guarding: Some(guarding),
            rebuilder,
            holds,
            stop,
            threads: vec![applier, checkpoints],
        })
    }

    /// The write stack.
    pub fn writes(&self) -> Switched<Accept<GuardedStore>> {
        self.switched(Accept::new(Arc::clone(&self.shared), self.guarded()))
    }

    /// The read stack.
    pub fn reads(&self) -> Switched<Read<GuardedStore>> {
        self.switched(self.own_reads())
    }

    /// The same for what belongs to another request: no hold stands in its way.
    pub(super) fn own_reads(&self) -> Read<GuardedStore> {
        Read::new(Arc::clone(&self.read), self.guarded())
    }

    fn switched<S>(&self, inner: S) -> Switched<S> {
        Switched::new(Arc::clone(self.holds.switch()), inner)
    }

    /// `stack` with its answers counted: to be put around everything else.
    pub fn counted<S>(&self, stack: S) -> Answers<S> {
        Answers::new(stack, Arc::clone(&self.ledger))
    }

    /// The store behind its breakers.
    pub fn guarded(&self) -> GuardedStore {
        GuardedStore::new(Arc::clone(&self.switch) as Arc<dyn Store>, Arc::clone(&self.guard))
    }

    /// Accepts nothing more, writes out what was accepted, and closes the store. What waits is applied after
    /// the next start, and a rebuild that runs begins again then. Blocks for at most about `limit`.
    pub fn close(&mut self, limit: Duration) -> Result<(), StartError> {
        self.shared.draining.store(true, Ordering::Relaxed);
        self.snapshotter.stop(limit);
        let journal = self.shared.journal.close_within(limit);
        self.stop.send_replace(true);
        self.guarding = None;
        self.rebuilder.stop(limit);
        for thread in self.threads.drain(..) {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if thread.join().is_err() {
                tracing::error!(name, "a thread panicked");
            }
        }
        if let Some(recording) = self.recording.take() {
            recording.stop();
        }
        self.holds.close();
        let closed = match self.switch.current() {
            Some(store) => self.generations.close_clean(&store, self.progress.low_water(), limit),
            None => Ok(()),
        };
        self.generations.release_lock();
        closed?;
        journal.map_err(StartError::JournalClose)
    }
}

/// The store of a node that has never had an entry: there is nothing to build it from.
fn first_store(generations: &Generations) -> Result<Arc<SledStore>, StartError> {
    let mut candidate = generations.begin(None)?;
    let noted = generations.adopt(&mut candidate, Flushed { commit_number: 0 }, LowWater::default());
    let nothing = noted.map_err(|error| generations::OpenError::Io { path: candidate.dir.clone(), error })?;
    drop(nothing);
    Ok(candidate.store)
}
