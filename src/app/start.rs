//! The parts that a start is made of.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use super::StartError;
use crate::accept::{BatchStamp, HotMemory, JournalSink, Pending, Requests};
use crate::applier::{Applier, RefusedList};
use crate::config::Config;
use crate::guard::GuardedStore;
use crate::journal::{BatchSettings, Journal, JournalOptions, JournalReader, Monotonic, Opened};
use crate::ledger::Ledger;
use crate::model::{EventTime, Site};
use crate::sites::{SiteState, Sites};
use crate::snapshot::{SnapshotError, SnapshotReader, Waiting};
use crate::store::note::Distrust;
use crate::store::sled::{SledOptions, SledStore};
use crate::store::{AttributeInfo, RefusedRecord, WorkerHook, generations};

pub(super) fn journal_options(config: &Config) -> JournalOptions {
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
        // The thread that watches health looks at it every 100 ms.
        monotonic: Monotonic::without_pauses(),
        ..JournalOptions::new(&journal.dir)
    }
}

pub(super) fn sled_options(config: &Config, hook: Option<Arc<dyn WorkerHook>>) -> SledOptions {
    let store = &config.store;
    SledOptions {
        cache_capacity: store.cache_capacity.0,
        index_capacity: store.index_capacity.0,
        get_threads: store.get_threads as usize,
        query_threads: store.query_threads as usize,
        apply_threads: store.apply_threads as usize,
        queue: store.pool_queue as usize,
        hook,
        ..SledOptions::default()
    }
}

/// Says what the last run left behind.
pub(super) fn report(opened: &Opened, distrust: Option<Distrust>) {
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
            tracing::warn!(
                "the store is built anew from snapshot and journal, because {distrust}; nothing is lost"
            );
        }
    }
}

/// What the current snapshot adds to a start: the request ids that were done then, and which of the entries before
/// its start still count. Without a store also its registry and its refused entries; what the journal adds to the
/// registry, replay brings.
pub(super) fn take_up_snapshot(
    reader: &JournalReader,
    snapshots: &Path,
    (sites, refused, requests): (&Sites, &RefusedList, &Requests),
    trusted: bool,
    now: EventTime,
) -> Result<Option<Waiting>, StartError> {
    let Some(named) = reader.snapshot() else { return Ok(None) };
    let read = || {
        let snapshot = SnapshotReader::open(snapshots, &named)?;
        Ok::<_, SnapshotError>((snapshot.request_ids()?, snapshot.waiting()?, snapshot))
    };
    let (ids, waiting, snapshot) = match read() {
        Ok(read) => read,
        // The store has everything that is in it, except old request ids.
        Err(error) if trusted => {
            tracing::error!(%error, "the snapshot cannot be read; the store is sound, and another one is taken");
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    requests.import(ids, now);
    if !trusted {
        for (site, info) in snapshot.registry()? {
            take_up_attribute(sites, &site, info);
        }
        for record in snapshot.refused()? {
            take_up_refused(sites, refused, &record, now);
        }
    }
    Ok(Some(waiting))
}

fn take_up_attribute(sites: &Sites, site: &Site, info: AttributeInfo) {
    let site = sites.restore(site);
    let mut lane = site.lane.lock();
    site.change_registry(&mut lane, |registry| registry.restore(info));
}

fn take_up_refused(sites: &Sites, refused: &RefusedList, record: &RefusedRecord, now: EventTime) {
    let bytes = refused.add(record, now);
    sites.restore(&record.entry.site).refused_bytes.fetch_add(bytes, Ordering::Relaxed);
}

/// The registry and the refused entries, as the store has them.
pub(super) fn take_up_store(
    store: &SledStore,
    sites: &Sites,
    refused: &RefusedList,
    now: EventTime,
) -> Result<(), StartError> {
    for (site, info) in store.registry()? {
        take_up_attribute(sites, &site, info);
    }
    for record in store.refused()? {
        take_up_refused(sites, refused, &record, now);
    }
    Ok(())
}

pub(super) fn start_journal(
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

pub(super) fn start_applier(
    applier: Applier<GuardedStore>,
    (again, ready): super::core::Ready,
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
