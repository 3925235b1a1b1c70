//! The snapshotter: a thread that takes snapshots when they are due or asked for, and makes backups.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use metrics::{counter, gauge, histogram};
use parking_lot::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

use super::backup::{self, BackupError};
use super::due::{Figures, due};
use super::pace::Pace;
use super::reader::SnapshotReader;
use super::take::{Host, Source, TakeError, Taken};
use super::{SnapshotError, owner, sweep};
use crate::clock::Clock;
use crate::command::operate::SnapshotTasks;
use crate::command::{
    GiveWay, SnapshotProgress, SnapshotRequest, TaskGuard, TaskRefused, TaskSlot, TaskState,
};
use crate::metrics as names;

/// How often it is looked whether one is due.
const PERIOD: Duration = Duration::from_secs(1);
/// The first pause after a failure; doubled with each, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_mins(5);
/// One that has been due for so long is overdue.
const OVERDUE_AFTER: Duration = Duration::from_mins(5);
/// How often the current one is read back, so that damage is known before it is needed.
const CHECK_EVERY: Duration = Duration::from_hours(24);

/// How snapshots are taken.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotOptions {
    /// One is due at the earliest when the journal has so many bytes since the last one.
    pub journal_bytes: u64,
    /// Percent of the time that it works.
    pub pace: u32,
    /// Length of the journal's segments.
    pub segment_bytes: u64,
}

/// Takes requests for snapshots and says how they go. Cheap to clone; never waits for anything.
#[derive(Clone)]
pub struct Snapshots(Arc<Inner>);

struct Inner {
    progress: Mutex<SnapshotProgress>,
    /// At most one order: whoever sends it holds the place of the one long task.
    orders: UnboundedSender<Order>,
    tasks: TaskSlot,
    host: Arc<dyn Host>,
    clock: Arc<dyn Clock>,
    stop: watch::Receiver<bool>,
}

struct Order {
    backup: Option<PathBuf>,
    owner: String,
    /// Held until it is done.
    guard: TaskGuard,
}

impl Snapshots {
    /// Begins a snapshot, or a backup; answers that it runs.
    pub fn take(&self, request: SnapshotRequest) -> Result<SnapshotProgress, TaskRefused> {
        let inner = &self.0;
        if *inner.stop.borrow() {
            return Err(TaskRefused::Draining);
        }
        if request.backup.as_ref().is_some_and(|dir| !dir.is_absolute()) {
            let problem = "must be an absolute path on the server".to_owned();
            return Err(TaskRefused::Invalid { field: "backup_directory", problem });
        }
        inner.host.may_take()?;
        let task = if request.backup.is_some() { "a backup" } else { "a snapshot" };
        let guard = inner.tasks.begin(task)?;
        inner.begin(request.backup.clone());
        let order = Order { backup: request.backup, owner: request.owner, guard };
        inner.orders.send(order).map_err(|_| TaskRefused::Draining)?;
        Ok(self.progress())
    }

    /// How it goes.
    pub fn progress(&self) -> SnapshotProgress {
        self.0.progress.lock().clone()
    }
}

impl SnapshotTasks for Snapshots {
    fn take(&self, request: SnapshotRequest) -> Result<SnapshotProgress, TaskRefused> {
        self.take(request)
    }

    fn progress(&self) -> SnapshotProgress {
        self.progress()
    }
}

impl Inner {
    fn begin(&self, backup: Option<PathBuf>) {
        let mut progress = self.progress.lock();
        progress.state = TaskState::Running;
        progress.started_at = Some(self.clock.now());
        (progress.done, progress.total) = (0, 0);
        progress.error.clear();
        progress.backup = backup;
    }
}

/// Why the snapshotter could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotterError {
    /// Its directory.
    #[error(transparent)]
    Files(#[from] SnapshotError),
    /// Its thread.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// Starts the thread. Removes what an earlier process left of snapshots that were not finished. It ends when
/// `stop` says so; a store that hangs does not keep it.
pub fn start<T: Send + 'static>(
    source: Source<T>,
    options: SnapshotOptions,
    tasks: TaskSlot,
    stop: watch::Receiver<bool>,
) -> Result<(Snapshots, JoinHandle<()>), SnapshotterError> {
    let reader = source.journal.reader();
    owner::claim(&*source.fs, &source.dir, reader.node())?;
    let current = reader.snapshot();
    sweep(&*source.fs, &source.dir, current.as_ref())?;
    let mut progress = SnapshotProgress::default();
    if let Some(current) = &current {
        progress.last_completed_at = Some(current.taken_at);
        (progress.last_position, progress.last_bytes) = (current.start, current.bytes);
    }
    let (orders, ordered) = unbounded_channel();
    let inner = Arc::new(Inner {
        progress: Mutex::new(progress),
        orders,
        tasks,
        host: Arc::clone(&source.host),
        clock: Arc::clone(&source.clock),
        stop: stop.clone(),
    });
    let handle = Snapshots(Arc::clone(&inner));
    let mut snapshotter = Snapshotter {
        source,
        options,
        inner,
        stop,
        data: 0,
        damaged: false,
        due_since: None,
        failures: 0,
        not_before: None,
        checked: None,
        warned: false,
        way: None,
    };
    // Before anything is accepted: room that entries take now cannot be had back.
    snapshotter.look();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(SnapshotterError::Thread)?;
    let thread = std::thread::Builder::new()
        .name("sf-snapshot".to_owned())
        .spawn(move || runtime.block_on(snapshotter.run(ordered)))
        .map_err(SnapshotterError::Thread)?;
    Ok((handle, thread))
}

struct Snapshotter<T: Send + 'static> {
    source: Source<T>,
    options: SnapshotOptions,
    inner: Arc<Inner>,
    stop: watch::Receiver<bool>,
    /// Bytes of all records in the current snapshot.
    data: u64,
    /// The current snapshot cannot be read back.
    damaged: bool,
    due_since: Option<Instant>,
    failures: u32,
    not_before: Option<Instant>,
    checked: Option<Instant>,
    /// That the quota is too small has been said.
    warned: bool,
    /// When what is made now has to give way.
    way: Option<GiveWay>,
}

impl<T: Send + 'static> Snapshotter<T> {
    async fn run(mut self, mut orders: UnboundedReceiver<Order>) {
        let mut stop = self.stop.clone();
        loop {
            let order = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                order = orders.recv() => order,
                () = tokio::time::sleep(PERIOD) => None,
            };
            match order {
                Some(order) => self.carry_out(order).await,
                None => self.tend().await,
            }
        }
    }

    /// Looks after the current snapshot, and takes a new one if it is due.
    async fn tend(&mut self) {
        let now = Instant::now();
        if self.checked.is_none_or(|checked| now - checked >= CHECK_EVERY) {
            self.check();
        }
        let Some(reason) = self.look() else { return };
        if self.not_before.is_some_and(|then| now < then) || self.inner.host.may_take().is_err() {
            return;
        }
        // Something else runs: it is looked at again.
        let Ok(guard) = self.inner.tasks.begin("a snapshot") else { return };
        self.inner.begin(None);
        tracing::info!(reason, "taking a snapshot");
        self.way = Some(guard.give_way());
        let _done = self.snapshot().await;
        drop(guard);
    }

    /// Reads the current snapshot back. One that cannot be read is replaced: the store still has everything.
    fn check(&mut self) {
        let Some(current) = self.source.journal.reader().snapshot() else {
            self.checked = Some(Instant::now());
            return;
        };
        let mut pace = Pace::new(self.options.pace, self.stop.clone());
        let source = &self.source;
        let read = SnapshotReader::open_in(&*source.fs, &source.dir, &current).and_then(|reader| {
            reader.verify(&mut |_| pace.rest())?;
            Ok(reader.counts())
        });
        match read {
            Ok(counts) => {
                self.data = counts.raw_bytes;
                self.damaged = false;
            }
            Err(SnapshotError::Stopped) => return,
            Err(error) => {
                self.damaged = true;
                tracing::error!(
                    %error,
                    "the current snapshot cannot be read back; a new one is taken as soon as the store allows it. \
                     Until then the store's directory must not be lost"
                );
            }
        }
        gauge!(names::SNAPSHOT_DAMAGED).set(if self.damaged { 1.0 } else { 0.0 });
        self.checked = Some(Instant::now());
    }

    /// Says why one is due, if it is; keeps room for it, and the figures that others see.
    fn look(&mut self) -> Option<&'static str> {
        let last_bytes = self.source.journal.reader().snapshot().map_or(0, |last| last.bytes);
        let figures = Figures::take(&self.source, self.data, self.options.segment_bytes);
        if !self.warned && last_bytes > figures.quota / 4 {
            self.warned = true;
            tracing::warn!(
                snapshot = last_bytes,
                quota = figures.quota,
                "journal.total_quota is small for the data: snapshots alone need more than half of it"
            );
        }
        let reason = if self.damaged {
            Some("the current one is damaged")
        } else {
            due(&figures, self.options.journal_bytes)
        };
        match reason {
            None => self.due_since = None,
            Some(_) => _ = self.due_since.get_or_insert_with(Instant::now),
        }
        let overdue =
            self.due_since.is_some_and(|since| self.failures > 0 || since.elapsed() > OVERDUE_AFTER);
        self.inner.progress.lock().overdue = overdue;
        gauge!(names::SNAPSHOT_OVERDUE).set(if overdue { 1.0 } else { 0.0 });
        gauge!(names::SNAPSHOT_BYTES).set(last_bytes as f64);
        gauge!(names::SNAPSHOT_JOURNAL_BYTES).set(figures.since as f64);
        gauge!(names::SNAPSHOT_RESERVED_BYTES).set(figures.reserved as f64);
        reason
    }

    async fn carry_out(&mut self, order: Order) {
        self.way = Some(order.guard.give_way());
        let owner = order.owner.as_str();
        match &order.backup {
            None => {
                tracing::info!(owner, "taking a snapshot, as asked");
                let _told = self.snapshot().await;
            }
            Some(dir) => {
                let dir = dir.clone();
                tracing::info!(owner, dir = %dir.display(), "making a backup");
                let began = Instant::now();
                let made = self.backup(&dir).await;
                self.told(&made.as_ref().map(|_| ()).map_err(ToString::to_string), began);
                match made {
                    Ok(made) => tracing::info!(
                        dir = %dir.display(),
                        last_position = made.last_position,
                        bytes = made.bytes,
                        copied = made.copied,
                        seconds = began.elapsed().as_secs_f64(),
                        "the backup is complete"
                    ),
                    Err(error) => {
                        tracing::error!(
                            dir = %dir.display(),
                            %error,
                            "the backup was not completed; the same command goes on where it ended"
                        );
                    }
                }
            }
        }
    }

    /// Takes one and says how it went.
    async fn snapshot(&mut self) -> Result<Taken, TakeError> {
        let began = Instant::now();
        let taken = self.take().await;
        self.told(&taken.as_ref().map(|_| ()).map_err(ToString::to_string), began);
        match &taken {
            Ok(taken) => {
                tracing::info!(
                    name = taken.snapshot.name,
                    start = taken.snapshot.start,
                    records = taken.counts.items(),
                    bytes = taken.snapshot.bytes,
                    raw_bytes = taken.counts.raw_bytes,
                    waiting = taken.counts.waiting,
                    carried = taken.carried,
                    kept_segments = taken.kept,
                    released_segments = taken.released.segments,
                    released_bytes = taken.released.bytes,
                    seconds = began.elapsed().as_secs_f64(),
                    "the snapshot is complete"
                );
            }
            Err(error) => {
                tracing::error!(
                    %error,
                    failures = self.failures,
                    "no snapshot was taken; it left no trace and will be tried again"
                );
            }
        }
        taken
    }

    /// Takes one, and keeps its figures.
    async fn take(&mut self) -> Result<Taken, TakeError> {
        let mut pace = Pace::new(self.options.pace, self.stop.clone()).giving(self.way.clone());
        let inner = Arc::clone(&self.inner);
        let told = move |done, total| {
            let mut progress = inner.progress.lock();
            (progress.done, progress.total) = (done, total);
        };
        let taken = self.source.take(&mut pace, &told).await;
        if let Ok(taken) = &taken {
            self.data = taken.counts.raw_bytes;
            self.damaged = false;
            self.due_since = None;
            self.failures = 0;
            self.not_before = None;
            self.checked = Some(Instant::now());
            gauge!(names::SNAPSHOT_DAMAGED).set(0.0);
            let mut progress = self.inner.progress.lock();
            progress.last_completed_at = Some(self.source.clock.now());
            progress.last_position = taken.snapshot.start;
            progress.last_bytes = taken.snapshot.bytes;
            progress.overdue = false;
        } else if !matches!(taken, Err(TakeError::Snapshot(SnapshotError::GaveWay))) {
            let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10)).min(LONGEST_PAUSE);
            self.failures = self.failures.saturating_add(1);
            self.not_before = Some(Instant::now() + pause);
        }
        // The room that is kept for the next one follows at once.
        self.look();
        taken
    }

    /// A backup: of the current snapshot if the journal since is short, otherwise of a new one.
    async fn backup(&mut self, dir: &std::path::Path) -> Result<backup::Made, BackupError> {
        backup::check_target(&self.source, dir)?;
        let current = self.source.journal.reader().snapshot();
        if current.is_none() || self.damaged || self.look().is_some() {
            self.take().await?;
        }
        let mut pace = Pace::new(self.options.pace, self.stop.clone()).giving(self.way.clone());
        let inner = Arc::clone(&self.inner);
        backup::make(&self.source, dir, &mut pace, &move |done| {
            let mut progress = inner.progress.lock();
            progress.done = done;
            progress.total = progress.total.max(done);
        })
    }

    fn told(&self, outcome: &Result<(), String>, began: Instant) {
        let kind = if self.inner.progress.lock().backup.is_some() { "backup" } else { "snapshot" };
        let end = if outcome.is_ok() { "done" } else { "failed" };
        counter!(names::SNAPSHOTS, "kind" => kind, "end" => end).increment(1);
        histogram!(names::SNAPSHOT_SECONDS, "kind" => kind).record(began.elapsed());
        let mut progress = self.inner.progress.lock();
        match outcome {
            Ok(()) => progress.state = TaskState::Done,
            Err(error) => {
                progress.state = TaskState::Failed;
                progress.error.clone_from(error);
            }
        }
    }
}
