//! The committer: one thread that takes all that waits, writes it, syncs it, and tells. And the handle that
//! entries are submitted through.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::error::{
    At as _, IoFailure, JournalError, Kept, OpenError, SubmitError, SubmitManyError, SubmitReason,
};
use super::format::BatchSettings;
use super::log::Log;
use super::manifest::SnapshotRef;
use super::queue::{Queue, cost};
use super::reader::JournalReader;
use super::table::Shared;
use super::{Committed, JournalOptions, Monotonic, Sink, Submission};
use crate::clock::Clock;
use crate::metrics as names;

/// How a journal does.
#[derive(Clone, Debug)]
pub enum JournalState {
    /// Entries are taken.
    Running,
    /// The disk has not answered for too long; entries are refused until it does.
    Stalled(Duration),
    /// Nothing more is kept in this process.
    Failed(Arc<JournalError>),
    /// Closed, or closing.
    Closed,
}

/// How much of the quota is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes used, waiting entries included.
    pub used: u64,
    /// Bytes that may be used.
    pub limit: u64,
    /// Bytes of entries that would still be taken (less than `limit - used` when the disk is full).
    pub available: u64,
}

/// What a release gave back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Segments.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
}

type Settings = Box<dyn Fn() -> BatchSettings + Send>;

#[derive(Debug)]
struct Inner<T> {
    queue: Mutex<Queue<T>>,
    wake: Condvar,
    monotonic: Monotonic,
    shared: Arc<Shared>,
    spares: Arc<super::spare::Spares>,
    threads: Mutex<Option<Threads>>,
    not_taken: [metrics::Counter; 4],
}

#[derive(Debug)]
struct Threads {
    committer: JoinHandle<Result<(), Arc<JournalError>>>,
    spares: JoinHandle<()>,
}

/// Takes entries. Cheap to clone; the last clone to go ends the threads (what waits is still written, but only
/// [`Journal::close`] leaves the mark of an orderly end).
#[derive(Debug)]
pub struct Journal<T: Send + 'static> {
    inner: Arc<Inner<T>>,
    /// Counts the handles: the threads hold `inner` too.
    _last: Arc<Last<T>>,
}

#[derive(Debug)]
struct Last<T: Send + 'static>(Arc<Inner<T>>);

impl<T: Send + 'static> Drop for Last<T> {
    fn drop(&mut self) {
        let _already_told_to_the_sink = self.0.stop();
    }
}

impl<T: Send + 'static> Clone for Journal<T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), _last: Arc::clone(&self._last) }
    }
}

impl<T: Send + 'static> Journal<T> {
    /// Opens the journal in `options.dir`, making it if there is none.
    pub fn open(
        options: JournalOptions,
        fs: Arc<dyn super::fs::Fs>,
        clock: Arc<dyn Clock>,
    ) -> Result<super::Opened, OpenError> {
        super::open::open(options, fs, clock)
    }

    pub(crate) fn start(
        options: &JournalOptions,
        clock: Arc<dyn Clock>,
        log: Log,
        settings: Settings,
        sink: Box<dyn Sink<T>>,
    ) -> Result<Self, OpenError> {
        let spares = Arc::clone(log.spares());
        spares.set_threaded();
        let not_taken = ["overloaded", "stalled", "full", "failed"]
            .map(|reason| metrics::counter!(names::JOURNAL_NOT_TAKEN, "reason" => reason));
        let inner = Arc::new(Inner {
            queue: Mutex::new(Queue::new(options, log.capacity(), log.used())),
            wake: Condvar::new(),
            monotonic: options.monotonic.clone(),
            shared: Arc::clone(log.shared()),
            spares,
            threads: Mutex::new(None),
            not_taken,
        });
        // If a thread cannot be started, dropping this ends the other.
        let journal = Self { _last: Arc::new(Last(Arc::clone(&inner))), inner };
        let (inner, dir) = (Arc::clone(&journal.inner), &options.dir);
        let spare_thread = std::thread::Builder::new()
            .name("journal-spares".to_owned())
            .spawn(move || {
                // Wakes the committer so that it counts the room again.
                inner.spares.run(&|| inner.wake_committer());
            })
            .at("start a thread for", dir)?;
        let committer = Committer {
            inner: Arc::clone(&journal.inner),
            log,
            settings,
            sink,
            clock,
            batch_bytes: options.batch_bytes,
            meters: Meters::new(),
        };
        let started = std::thread::Builder::new()
            .name("journal-committer".to_owned())
            .spawn(move || committer.run())
            .at("start a thread for", dir);
        match started {
            Ok(committer) => {
                *journal.inner.threads.lock() = Some(Threads { committer, spares: spare_thread });
                Ok(journal)
            }
            Err(failure) => {
                journal.inner.spares.close();
                Err(failure.into())
            }
        }
    }

    /// Hands an entry to the committer. Never waits for the disk; entries get their positions in the order of
    /// these calls.
    pub fn submit(&self, submission: Submission<T>) -> Result<(), SubmitError<T>> {
        let bytes = cost(&submission.payload);
        let now = self.inner.monotonic.now();
        let mut queue = self.inner.queue.lock();
        if let Err(reason) = queue.admit(now, 1, bytes, submission.payload.len() as u64) {
            drop(queue);
            self.inner.count_not_taken(&reason);
            return Err(SubmitError { reason, ticket: submission.ticket });
        }
        queue.items.push(submission);
        let wake = queue.added(now, bytes);
        drop(queue);
        if wake {
            self.inner.wake.notify_one();
        }
        Ok(())
    }

    /// Hands several entries to the committer: all of them, with positions one after the other, or none.
    pub fn submit_many(&self, submissions: Vec<Submission<T>>) -> Result<(), SubmitManyError<T>> {
        if submissions.is_empty() {
            return Ok(());
        }
        let bytes = submissions.iter().map(|submission| cost(&submission.payload)).sum();
        let largest = submissions.iter().map(|s| s.payload.len() as u64).max().unwrap_or(0);
        let now = self.inner.monotonic.now();
        let mut queue = self.inner.queue.lock();
        if let Err(reason) = queue.admit(now, submissions.len(), bytes, largest) {
            drop(queue);
            self.inner.count_not_taken(&reason);
            let tickets = submissions.into_iter().map(|submission| submission.ticket).collect();
            return Err(SubmitManyError { reason, tickets });
        }
        queue.items.extend(submissions);
        let wake = queue.added(now, bytes);
        drop(queue);
        if wake {
            self.inner.wake.notify_one();
        }
        Ok(())
    }

    /// How it does. Does not wait for the disk.
    pub fn state(&self) -> JournalState {
        let now = self.inner.monotonic.now();
        let queue = self.inner.queue.lock();
        match &queue.failed {
            Some(error) => JournalState::Failed(Arc::clone(error)),
            None if queue.closing => JournalState::Closed,
            None => queue.stalled(now).map_or(JournalState::Running, JournalState::Stalled),
        }
    }

    /// How long the oldest entry that is not synced has waited. Does not wait for the disk.
    pub fn oldest_unsynced(&self) -> Option<Duration> {
        let now = self.inner.monotonic.now();
        self.inner.queue.lock().oldest(now)
    }

    /// How much of the quota is used. Does not wait for the disk.
    pub fn usage(&self) -> Usage {
        let queue = self.inner.queue.lock();
        let waiting = queue.bytes + queue.writing_bytes;
        Usage {
            used: queue.used_with_waiting(),
            limit: queue.limit(),
            available: queue.capacity.saturating_sub(waiting),
        }
    }

    /// Reads what is durable.
    pub fn reader(&self) -> JournalReader {
        JournalReader::new(Arc::clone(&self.inner.shared))
    }

    /// Names the snapshot that replay starts from, durably.
    pub fn set_snapshot(&self, snapshot: Option<SnapshotRef>) -> Result<(), JournalError> {
        self.inner.shared.change_manifest(|manifest| manifest.snapshot = snapshot)?;
        Ok(())
    }

    /// Gives up whole segments that hold nothing at or after `position` (and nothing that is pinned).
    pub fn release_before(&self, position: u64) -> Result<Released, JournalError> {
        let shared = &self.inner.shared;
        let bound = shared.pins.lock().lowest().map_or(position, |pin| pin.min(position));
        let mut released = Vec::new();
        shared.change_manifest(|manifest| {
            let keep = manifest
                .segments
                .iter()
                .position(|segment| segment.sealed.is_none_or(|sealed| sealed.last_position >= bound))
                .unwrap_or(manifest.segments.len());
            released = manifest.segments.drain(..keep).collect();
        })?;
        let mut gone = Released::default();
        let mut files = Vec::new();
        {
            let mut table = shared.table.write();
            let is_gone = |number| released.iter().any(|segment| segment.number == number);
            table.segments.retain(|segment| {
                let keep = !is_gone(segment.number);
                if !keep {
                    gone.segments += 1;
                    gone.bytes += segment.length;
                    files.push((segment.path.clone(), segment.length));
                }
                keep
            });
        }
        for (path, length) in files {
            self.inner.spares.recycle(&path, length)?;
        }
        self.inner.wake_committer();
        Ok(gone)
    }

    /// Takes nothing more, writes what waits, and marks the journal as closed in order. Returns when that is
    /// durable, or with what prevented it. A second call finds it closed.
    pub fn close(&self) -> Result<(), Arc<JournalError>> {
        self.inner.queue.lock().mark_clean = true;
        self.inner.stop()
    }
}

impl<T: Send + 'static> Inner<T> {
    fn wake_committer(&self) {
        self.queue.lock().recount = true;
        self.wake.notify_one();
    }

    fn stop(&self) -> Result<(), Arc<JournalError>> {
        self.queue.lock().closing = true;
        self.wake.notify_one();
        let threads = self.threads.lock().take_if(|threads| {
            // The sink may drop the last handle: a thread cannot wait for itself.
            threads.committer.thread().id() != std::thread::current().id()
        });
        let Some(threads) = threads else {
            return self.queue.lock().failed.clone().map_or(Ok(()), Err);
        };
        let ended = threads.committer.join().unwrap_or_else(|_| Err(Arc::new(JournalError::Died)));
        self.spares.close();
        let spares_ended = threads.spares.join().map_err(|_| Arc::new(JournalError::Died));
        drop(self.shared.lock.lock().take());
        ended.and(spares_ended)
    }

    fn count_not_taken(&self, reason: &SubmitReason) {
        let index = match reason {
            SubmitReason::Overloaded => 0,
            SubmitReason::Stalled { .. } => 1,
            SubmitReason::Full { .. } => 2,
            SubmitReason::Failed(_) => 3,
            SubmitReason::TooLarge { .. } | SubmitReason::Closed => return,
        };
        if let Some(counter) = self.not_taken.get(index) {
            counter.increment(1);
        }
    }
}

struct Meters {
    fsync: metrics::Histogram,
    batch: metrics::Histogram,
    bytes: metrics::Counter,
    entries: metrics::Counter,
    segments: metrics::Gauge,
    used: metrics::Gauge,
}

impl Meters {
    fn new() -> Self {
        Self {
            fsync: metrics::histogram!(names::JOURNAL_SYNC_SECONDS),
            batch: metrics::histogram!(names::JOURNAL_BATCH_ENTRIES),
            bytes: metrics::counter!(names::JOURNAL_BYTES),
            entries: metrics::counter!(names::JOURNAL_ENTRIES),
            segments: metrics::gauge!(names::JOURNAL_SEGMENTS),
            used: metrics::gauge!(names::JOURNAL_USED_BYTES),
        }
    }
}

struct Committer<T> {
    inner: Arc<Inner<T>>,
    log: Log,
    settings: Settings,
    sink: Box<dyn Sink<T>>,
    clock: Arc<dyn Clock>,
    batch_bytes: u64,
    meters: Meters,
}

/// Refuses entries if the committer ends without having said why.
struct Guard<T>(Arc<Inner<T>>);

impl<T> Drop for Guard<T> {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        if std::thread::panicking() {
            queue.failed.get_or_insert_with(|| Arc::new(JournalError::Died));
        }
        queue.closing = true;
        let left = queue.drop_waiting();
        drop(queue);
        // After a panic only: their tickets are dropped unanswered, outside the lock.
        drop(left);
    }
}

impl<T: Send + 'static> Committer<T> {
    fn run(mut self) -> Result<(), Arc<JournalError>> {
        let _guard = Guard(Arc::clone(&self.inner));
        let mut items = Vec::new();
        while self.wait(&mut items) {
            self.write(&mut items).map_err(|failure| self.fail(failure))?;
        }
        if self.inner.queue.lock().mark_clean {
            let marked = self.log.mark_clean();
            marked.map_err(|cause| self.fail(Failure { cause, unknown: Vec::new(), never: Vec::new() }))?;
        }
        Ok(())
    }

    /// Takes all that waits; false when there is nothing and never will be.
    fn wait(&mut self, items: &mut Vec<Submission<T>>) -> bool {
        let mut queue = self.inner.queue.lock();
        loop {
            if std::mem::take(&mut queue.recount) {
                self.count_room(&mut queue);
            }
            if !queue.items.is_empty() {
                break;
            }
            if queue.closing {
                return false;
            }
            queue.sleeping = true;
            self.inner.wake.wait(&mut queue);
            queue.sleeping = false;
        }
        std::mem::swap(&mut queue.items, items);
        queue.writing_bytes = std::mem::take(&mut queue.bytes);
        queue.writing_since = queue.waiting_since.take();
        true
    }

    fn count_room(&self, queue: &mut Queue<T>) {
        queue.capacity = self.log.capacity();
        queue.used = self.log.used();
        self.meters.segments.set(self.log.segments() as f64);
        self.meters.used.set(queue.used as f64);
    }

    /// Writes what was taken: as one batch, unless it is more than a batch or the segment ends.
    fn write(&mut self, items: &mut Vec<Submission<T>>) -> Result<(), Failure<T>> {
        let now = self.clock.now();
        let settings = (self.settings)();
        let mut batch = Vec::with_capacity(items.len());
        let mut waiting = items.drain(..);
        let mut current = waiting.next();
        let outcome = loop {
            let Some(submission) = current.take() else { break self.commit(&mut batch, settings) };
            let bytes = cost(&submission.payload);
            let full = !batch.is_empty() && self.log.batch_bytes() + bytes > self.batch_bytes;
            let placed = if full { None } else { self.log.push(now, &submission.payload) };
            if let Some((placed, accepted_at)) = placed {
                batch.push(Committed {
                    position: placed.position,
                    accepted_at,
                    offset: placed.offset,
                    bytes: placed.bytes,
                    ticket: submission.ticket,
                });
                current = waiting.next();
                continue;
            }
            current = Some(submission);
            let made_room = self.commit(&mut batch, settings).and_then(|()| {
                // After a full batch the same segment goes on.
                if full { Ok(()) } else { self.log.roll() }
            });
            if made_room.is_err() {
                break made_room;
            }
        };
        outcome.map_err(|cause| Failure {
            cause,
            unknown: batch.into_iter().map(|committed| committed.ticket).collect(),
            never: current.into_iter().chain(waiting).map(|submission| submission.ticket).collect(),
        })
    }

    /// Syncs the batch and tells.
    fn commit(&mut self, batch: &mut Vec<Committed<T>>, settings: BatchSettings) -> Result<(), IoFailure> {
        if batch.is_empty() {
            return Ok(());
        }
        let started = self.inner.monotonic.now();
        let written = self.log.batch_bytes();
        self.log.commit(settings)?;
        let took = self.inner.monotonic.now().saturating_duration_since(started);
        self.meters.fsync.record(took);
        self.meters.batch.record(batch.len() as f64);
        self.meters.entries.increment(batch.len() as u64);
        self.meters.bytes.increment(written);
        {
            let mut queue = self.inner.queue.lock();
            let bytes: u64 = batch.iter().map(|committed| u64::from(committed.bytes)).sum();
            queue.writing_bytes = queue.writing_bytes.saturating_sub(bytes);
            if queue.writing_bytes == 0 {
                queue.writing_since = None;
            }
            self.count_room(&mut queue);
        }
        self.sink.committed(std::mem::take(batch));
        Ok(())
    }

    /// Ends the journal for this process.
    fn fail(&mut self, failure: Failure<T>) -> Arc<JournalError> {
        let error = Arc::new(JournalError::Io(failure.cause));
        tracing::error!(%error, "the journal failed");
        let left = {
            let mut queue = self.inner.queue.lock();
            queue.failed = Some(Arc::clone(&error));
            queue.drop_waiting()
        };
        let mut never = failure.never;
        never.extend(left.into_iter().map(|submission| submission.ticket));
        if !failure.unknown.is_empty() {
            self.sink.failed(failure.unknown, Kept::Unknown, Arc::clone(&error));
        }
        if !never.is_empty() {
            self.sink.failed(never, Kept::No, Arc::clone(&error));
        }
        error
    }
}

/// What failed, and whom it concerns.
struct Failure<T> {
    cause: IoFailure,
    /// Tickets of what may have reached the disk.
    unknown: Vec<T>,
    /// Tickets of what was not written.
    never: Vec<T>,
}
