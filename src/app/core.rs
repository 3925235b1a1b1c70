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
use crate::accept::{
    Accept, AcceptOptions, BatchStamp, HotMemory, JournalSink, Pending, Requests, Shared, Usage,
};
use crate::applier::replay::{Replay, Replayed};
use crate::applier::{Applier, Progress, RefusedList};
use crate::clock::Clock;
use crate::config::Config;
use crate::incident::{Answers, IncidentOptions, IncidentThread, Incidents};
use crate::journal::fs::RealFs;
use crate::journal::{BatchSettings, Journal, JournalOptions, Opened};
use crate::ledger::Ledger;
use crate::model::EventTime;
use crate::model::evaluate::SEMANTICS;
use crate::read::{EntrySource, ProfileCache, Read, ReadShared, Rebuild};
use crate::sites::{SiteState, Sites};
use crate::store::Store;
use crate::store::generations::{self, GenerationOptions, Generations};
use crate::store::metered::{Metered, StoreMeters};
use crate::store::note::Distrust;
use crate::store::service::StoreService;
use crate::store::sled::{SledOptions, SledStore};

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
    /// The store.
    pub store: Arc<SledStore>,
    /// The same with the layers around it: what everybody calls.
    pub calls: Arc<dyn Store>,
    /// What the start found.
    pub replayed: Replayed,
    /// Whether the store is still being filled.
    pub rebuild: Arc<Rebuild>,
    /// The store's generations.
    pub generations: Arc<Generations>,
    /// What the store's calls are like.
    pub meters: StoreMeters,
    /// The incidents.
    pub incidents: Incidents,
    ledger: Arc<Ledger>,
    recording: Option<IncidentThread>,
    progress: Progress,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

type Ready = (UnboundedSender<Arc<SiteState>>, UnboundedReceiver<Arc<SiteState>>);

impl Core {
    /// Opens everything under the configured directories and takes up where the last process ended. Blocks.
    pub fn open(config: &Config, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        Self::open_with(config, clock, |store| store)
    }

    /// As [`open`](Self::open), with a layer around the store: all loads, commits and scans go through what
    /// `wrap` makes of it.
    pub fn open_with(
        config: &Config,
        clock: Arc<dyn Clock>,
        wrap: impl FnOnce(Arc<SledStore>) -> Arc<dyn Store>,
    ) -> Result<Self, StartError> {
        let stamp = BatchStamp { refresh_after: config.writes.refresh_after.0, semantics: SEMANTICS };
        let opened =
            Journal::<Arc<Pending>>::open(journal_options(config), Arc::new(RealFs), Arc::clone(&clock))?;
        let (generations, found) = Generations::open(GenerationOptions {
            store_dir: config.store.dir.clone(),
            note_dir: config.journal.dir.clone(),
            node: opened.node,
            journal_end: opened.end,
            sled: sled_options(config),
        })?;
        let (store, low_water) = (found.store, found.low_water);
        report(&opened, found.distrust);
        let meters = StoreMeters::new(Instant::now());
        let calls: Arc<dyn Store> = Arc::new(Metered::new(wrap(Arc::clone(&store)), meters.clone()));
        let sites = Arc::new(Sites::new(config.limits.sites as usize));
        let requests = Arc::new(Requests::new(config.requests.capacity as usize, config.requests.window.0));
        let refused = Arc::new(RefusedList::default());
        take_up_store(&store, &sites, &refused, clock.now())?;

        let ready: Ready = mpsc::unbounded_channel();
        let usage = Arc::new(Usage::default());
        let now = clock.now();
        let ids_since = now.minus(config.requests.window.0);
        let replay = Replay {
            sites: &sites,
            requests: &requests,
            refused: &refused,
            low_water: &low_water,
            waiting: None,
            declare_all: false,
            ids_since,
            now,
        };
        let (replayed, lanes) =
            replay.run(&opened.reader, low_water.replay_from().min(opened.reader.first_since(ids_since)))?;
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

        let cache = Arc::new(ProfileCache::new(config.cache.profile_capacity.0));
        let hot = HotMemory::new(HOT_BYTES);
        let settled = Arc::new(AtomicU64::new(opened.end));
        let generations = Arc::new(generations);
        let rebuild =
            Rebuild::new(Arc::clone(&sites), generations.is_complete(), opened.end, replayed.pending);
        let (node, reader) = (opened.node, opened.reader.clone());
        let journal = start_journal(opened, stamp, &ready.0, &hot, &settled, &ledger)?;
        let entries = EntrySource::new(node, reader, stamp);
        let applier = Applier {
            sites: Arc::clone(&sites),
            entries: entries.clone(),
            cache: Arc::clone(&cache),
            requests: Arc::clone(&requests),
            refused: Arc::clone(&refused),
            usage: Arc::clone(&usage),
            ledger: Arc::clone(&ledger),
            clock: Arc::clone(&clock),
            turns: config.applier.outstanding as usize,
            turn_entries: config.applier.commit_entries as usize,
            store: StoreService::new(Arc::clone(&calls)),
            last_turns: config.server.drain_timeout.0,
        };
        let (stop, stopping) = watch::channel(false);
        let applier = start_applier(applier, ready, stopping.clone())?;
        let rebuild = Arc::new(rebuild);
        let read = Arc::new(ReadShared::new(Arc::clone(&sites), Arc::clone(&cache), entries));
        let progress = Progress::new(Arc::clone(&sites), settled);
        let checkpoints = Checkpoints {
            store: Arc::clone(&store),
            generations: Arc::clone(&generations),
            progress: progress.clone(),
            rebuild: Arc::clone(&rebuild),
            every: config.store.checkpoint_every.0,
        };
        let checkpoints = checkpoints.start(stopping)?;
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
                stalled_quota: config.journal.total_quota.0 / 5 * 4,
                stamp,
            },
            without_journal: metrics::counter!(crate::metrics::WRITES_WITHOUT_JOURNAL),
            draining: AtomicBool::new(false),
        });
        Ok(Self {
            shared,
            read,
            refused,
            store,
            calls,
            rebuild,
            replayed,
            incidents,
            ledger,
            recording: Some(recording),
            generations,
            meters,
            progress,
            stop,
            threads: vec![applier, checkpoints],
        })
    }

    /// The write stack.
    pub fn writes(&self) -> Accept<StoreService> {
        Accept::new(Arc::clone(&self.shared), self.store_service())
    }

    /// The read stack.
    pub fn reads(&self) -> Read<StoreService> {
        Read::new(Arc::clone(&self.read), self.store_service())
    }

    /// `stack` with its answers counted: to be put around everything else.
    pub fn counted<S>(&self, stack: S) -> Answers<S> {
        Answers::new(stack, Arc::clone(&self.ledger))
    }

    fn store_service(&self) -> StoreService {
        StoreService::new(Arc::clone(&self.calls))
    }

    /// Accepts nothing more, writes out what was accepted, and closes the store. What waits is applied after
    /// the next start. Blocks for at most about `limit`.
    pub fn close(&mut self, limit: Duration) -> Result<(), StartError> {
        self.shared.draining.store(true, Ordering::Relaxed);
        let journal = self.shared.journal.close();
        self.stop.send_replace(true);
        for thread in self.threads.drain(..) {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if thread.join().is_err() {
                tracing::error!(name, "a thread panicked");
            }
        }
        if let Some(recording) = self.recording.take() {
            recording.stop();
        }
        let low_water = self.progress.low_water();
        if !self.store.is_damaged() && self.rebuild.is_finished() {
            self.generations.set_complete();
        }
        self.generations.close_clean(&self.store, low_water, limit)?;
        journal.map_err(StartError::JournalClose)
    }
}

fn journal_options(config: &Config) -> JournalOptions {
    let journal = &config.journal;
    // An entry is about as long as the message it came in; a batch and the queue must hold one.
    let entry = config.server.max_message.0.min(journal.segment.0 / 4);
    JournalOptions {
        segment_bytes: journal.segment.0,
        batch_bytes: journal.batch.0.max(entry + 4096).min(journal.segment.0),
        max_entry_bytes: entry,
        queue_entries: journal.queue_entries as usize,
        queue_bytes: journal.queue.0.max(entry + 4096),
        total_quota: journal.total_quota.0,
        // A journal that ends before what the store has applied has lost something.
        store_applied: generations::last_applied(&config.store.dir, &journal.dir),
        ..JournalOptions::new(&journal.dir)
    }
}

fn sled_options(config: &Config) -> SledOptions {
    let store = &config.store;
    SledOptions {
        cache_capacity: store.cache_capacity.0,
        index_capacity: store.index_capacity.0,
        get_threads: store.get_threads as usize,
        query_threads: store.query_threads as usize,
        apply_threads: store.apply_threads as usize,
        queue: store.pool_queue as usize,
        hook: None,
    }
}

/// Says what the last run left behind.
fn report(opened: &Opened, distrust: Option<Distrust>) {
    if let Some(cut) = &opened.cut {
        let (file, saved) = (cut.file.display(), cut.saved.display());
        tracing::warn!(
            "the journal's last write had not been finished and was not acknowledged ({file} at byte {}: {}); \
             it was cut off and kept in {saved}",
            cut.offset,
            cut.problem
        );
    }
    match distrust {
        None => {}
        Some(Distrust::NoStore) => tracing::info!("a new store"),
        Some(distrust) => {
            tracing::warn!("the store is filled anew from the journal, because {distrust}; nothing is lost");
        }
    }
}

/// The registry and the refused entries, as the store has them.
fn take_up_store(
    store: &SledStore,
    sites: &Sites,
    refused: &RefusedList,
    now: EventTime,
) -> Result<(), StartError> {
    for (site, info) in store.registry()? {
        let site = sites.restore(&site);
        let mut lane = site.lane.lock();
        site.change_registry(&mut lane, |registry| registry.restore(info));
    }
    for record in store.refused()? {
        let bytes = refused.add(&record, now);
        sites.restore(&record.entry.site).refused_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
    Ok(())
}

fn start_journal(
    opened: Opened,
    stamp: BatchStamp,
    ready: &UnboundedSender<Arc<SiteState>>,
    hot: &HotMemory,
    settled: &Arc<AtomicU64>,
    ledger: &Arc<Ledger>,
) -> Result<Journal<Arc<Pending>>, StartError> {
    let sink = JournalSink::new(ready.clone(), hot.clone(), Arc::clone(settled), Arc::clone(ledger));
    let settings = BatchSettings { refresh_after: stamp.refresh_after, semantics: stamp.semantics };
    Ok(opened.start(move || settings, Box::new(sink))?)
}

fn start_applier(
    applier: Applier<StoreService>,
    (again, ready): Ready,
    stop: watch::Receiver<bool>,
) -> Result<JoinHandle<()>, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .max_blocking_threads(2)
        .build()
        .map_err(StartError::Thread)?;
    let run = move || {
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, applier.run(ready, again, stop));
    };
    std::thread::Builder::new().name("sf-applier".to_owned()).spawn(run).map_err(StartError::Thread)
}
