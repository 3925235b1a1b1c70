//! Snapshots, put together with the node: what is copied, when it may be, and the thread that does it.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::StartError;
use crate::accept::{Pending, Shared};
use crate::applier::Progress;
use crate::command::{TaskRefused, TaskSlot};
use crate::config::Config;
use crate::fs::RealFs;
use crate::snapshot::{self, Host, InUse, SnapshotOptions, Snapshots, Source};
use crate::store::generations::Generations;
use crate::store::switch::StoreSwitch;
use crate::store::{Store, StoreError, StoreFuture};

/// How often is looked whether the thread has ended.
const LOOK: Duration = Duration::from_millis(5);

/// What snapshots ask of the node.
struct Node {
    switch: Arc<StoreSwitch>,
    generations: Arc<Generations>,
    progress: Progress,
}

impl Host for Node {
    fn may_take(&self) -> Result<InUse, TaskRefused> {
        let in_use = self.switch.in_use().ok_or(TaskRefused::StoreNotTrusted)?;
        if in_use.store.is_damaged() || in_use.store.has_failed() {
            return Err(TaskRefused::StoreNotTrusted);
        }
        let mark = in_use.store.mark();
        let (generation, commit_number) = (in_use.number, mark.commit_number);
        Ok(InUse { generation, commit_number, records: mark.profiles })
    }

    fn checkpoint(&self) -> StoreFuture<()> {
        let in_use = self.switch.in_use();
        let (generations, progress) = (Arc::clone(&self.generations), self.progress.clone());
        Box::pin(async move {
            let in_use = in_use.ok_or(StoreError::Closed)?;
            in_use.store.check_files().await?;
            // Before the flush: it writes out at least what has been committed by now.
            let low_water = progress.low_water();
            let flushed = in_use.calls.flush().await?;
            generations
                .write_note(in_use.number, flushed, low_water)
                .map_err(|error| StoreError::Io(format!("the note could not be written: {error}")))
        })
    }
}

/// What the snapshotter is made of.
pub(super) struct Parts<'a> {
    pub shared: &'a Shared,
    pub switch: &'a Arc<StoreSwitch>,
    pub generations: &'a Arc<Generations>,
    pub progress: &'a Progress,
    pub tasks: &'a TaskSlot,
    pub dir: PathBuf,
}

/// The thread that takes snapshots.
pub(super) struct Snapshotter {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// Starts it.
pub(super) fn start(config: &Config, parts: &Parts<'_>) -> Result<(Snapshots, Snapshotter), StartError> {
    let host = Node {
        switch: Arc::clone(parts.switch),
        generations: Arc::clone(parts.generations),
        progress: parts.progress.clone(),
    };
    let source: Source<Arc<Pending>> = Source {
        fs: Arc::new(RealFs),
        dir: parts.dir.clone(),
        journal: parts.shared.journal.clone(),
        sites: Arc::clone(&parts.shared.sites),
        requests: Arc::clone(&parts.shared.requests),
        store: Arc::clone(parts.switch) as Arc<dyn Store>,
        clock: Arc::clone(&parts.shared.clock),
        host: Arc::new(host),
    };
    let options = SnapshotOptions {
        journal_bytes: config.snapshots.journal_bytes.0,
        pace: config.snapshots.pace,
        segment_bytes: config.journal.segment.0,
    };
    let (stop, stopping) = watch::channel(false);
    let (snapshots, thread) = snapshot::start(source, options, parts.tasks.clone(), stopping)?;
    Ok((snapshots, Snapshotter { stop, thread: Some(thread) }))
}

impl Snapshotter {
    /// Ends it, before the journal is given up: nobody else's manifest must be replaced. One that is being taken is
    /// given up. Waits for the disk for at most `limit`; after that it finds out by itself.
    pub fn stop(&mut self, limit: Duration) {
        self.stop.send_replace(true);
        let Some(thread) = self.thread.take() else { return };
        let began = Instant::now();
        while !thread.is_finished() {
            if began.elapsed() >= limit {
                tracing::warn!("the snapshot that was being taken does not end: the disk does not answer");
                return;
            }
            std::thread::sleep(LOOK);
        }
        if thread.join().is_err() {
            tracing::error!("the snapshot thread panicked");
        }
    }
}
