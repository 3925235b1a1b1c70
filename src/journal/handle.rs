//! The handle that entries are submitted through.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::carry::Carrier;
use super::committer::{Committer, Settings};
use super::error::{
    At as _, JournalError, OpenError, RollError, SubmitError, SubmitManyError, SubmitReason, SwitchError,
};
use super::log::Log;
use super::queue::{Life, Queue, cost};
use super::reader::JournalReader;
use super::switch::Switch;
use super::table::{Released, Shared};
use super::{JournalOptions, Monotonic, Sink, Submission};
use crate::clock::Clock;
use crate::meter::Meter;
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
    /// Bytes that entries may not use: a snapshot will want them.
    pub reserved: u64,
    /// Bytes that may be used in all.
    pub limit: u64,
    /// Bytes of entries that would be taken at this moment: what is left in segments that the disk has given
    /// room for. Less than `limit - reserved - used` when there is more to come, or when the disk is full.
    pub available: u64,
    /// Whether that is all until something is released or the disk has room again.
    pub is_final: bool,
}

impl Usage {
    /// With less room than this usual entries are refused.
    const LITTLE: u64 = 4096;

    /// Whether next to nothing would be taken at this moment. More may be about to come: see [`Self::is_full`].
    pub fn is_short(&self) -> bool {
        self.available < Self::LITTLE
    }

    /// Whether next to nothing is taken, because of the quota or because the disk is full.
    pub fn is_full(&self) -> bool {
        self.is_final && self.is_short()
    }
}

/// Shared by the handles and the threads.
#[derive(Debug)]
pub(crate) struct Inner<T> {
    pub queue: Mutex<Queue<T>>,
    pub wake: Condvar,
    pub monotonic: Monotonic,
    shared: Arc<Shared>,
    spares: Arc<super::spare::Spares>,
    threads: Mutex<Option<Threads>>,
    /// A close was given up: what a thread is in may never return.
    given_up: AtomicBool,
    not_taken: [metrics::Counter; 4],
    /// Writes with their syncs, of the last seconds.
    pub syncs: Meter,
}

#[derive(Debug)]
struct Threads {
    committer: Thread<Result<(), Arc<JournalError>>>,
    spares: Thread<()>,
}

/// A thread whose end can be waited for with a limit.
#[derive(Debug)]
struct Thread<R> {
    handle: JoinHandle<R>,
    /// Its other end goes with the thread.
    alive: Receiver<Infallible>,
}

impl<R: Send + 'static> Thread<R> {
    fn start(name: &str, run: impl FnOnce() -> R + Send + 'static) -> std::io::Result<Self> {
        let (token, alive) = channel();
        let handle = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _gone_at_the_end = token;
            run()
        })?;
        Ok(Self { handle, alive })
    }

    /// Whether it has ended by `until`; `None` is for ever.
    fn ends_by(&self, until: Option<Instant>) -> bool {
        let Some(until) = until else { return self.alive.recv().is_err() };
        let left = until.saturating_duration_since(Instant::now());
        matches!(self.alive.recv_timeout(left), Err(RecvTimeoutError::Disconnected))
    }
}

/// Takes entries. Cheap to clone; the last clone to go ends the threads (what waits is still written, but only
/// [`Journal::close`] leaves the mark of an orderly end).
#[derive(Debug)]
pub struct Journal<T: Send + 'static> {
    inner: Arc<Inner<T>>,
    /// Counts the handles: the threads hold `inner` too.
    last: Arc<Last<T>>,
}

#[derive(Debug)]
struct Last<T: Send + 'static>(Arc<Inner<T>>);

impl<T: Send + 'static> Drop for Last<T> {
    fn drop(&mut self) {
        if !self.0.given_up.load(Ordering::Relaxed) {
            let _already_told_to_the_sink = self.0.stop(Life::Stopping, None);
        }
    }
}

impl<T: Send + 'static> Clone for Journal<T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), last: Arc::clone(&self.last) }
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
            queue: Mutex::new(Queue::new(options, log.room(), log.used())),
            wake: Condvar::new(),
            monotonic: options.monotonic.clone(),
            shared: Arc::clone(log.shared()),
            spares,
            threads: Mutex::new(None),
            given_up: AtomicBool::new(false),
            not_taken,
            syncs: Meter::new(options.monotonic.now()),
        });
        // If a thread cannot be started, dropping this ends the other.
        let journal = Self { last: Arc::new(Last(Arc::clone(&inner))), inner };
        let (inner, dir) = (Arc::clone(&journal.inner), &options.dir);
        let spare_thread = Thread::start("journal-spares", move || {
            // Wakes the committer so that it counts the room again.
            inner.spares.run(&|| inner.wake_committer());
        })
        .at("start a thread for", dir)?;
        let committer =
            Committer::new(Arc::clone(&journal.inner), log, settings, sink, clock, options.batch_bytes);
        match Thread::start("journal-committer", move || committer.run()).at("start a thread for", dir) {
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
            None if queue.life != Life::Open => JournalState::Closed,
            None => queue.stalled(now).map_or(JournalState::Running, JournalState::Stalled),
        }
    }

    /// What the syncs of the last seconds were like; somebody must sample it.
    pub fn syncs(&self) -> &Meter {
        &self.inner.syncs
    }

    /// How long the oldest entry that is not synced has waited. Does not wait for the disk.
    pub fn oldest_unsynced(&self) -> Option<Duration> {
        let now = self.inner.monotonic.now();
        self.inner.queue.lock().oldest(now)
    }

    /// How much of the quota is used. Does not wait for the disk.
    pub fn usage(&self) -> Usage {
        let sizes = &self.inner.shared.sizes;
        let queue = self.inner.queue.lock();
        let waiting = queue.bytes + queue.writing_bytes;
        Usage {
            used: queue.used_with_waiting(),
            reserved: sizes.reserved.load(Ordering::Relaxed),
            limit: sizes.quota.load(Ordering::Relaxed),
            available: queue.room.bytes.saturating_sub(waiting),
            is_final: queue.room.is_final,
        }
    }

    /// Reads what is durable.
    pub fn reader(&self) -> JournalReader {
        JournalReader::new(Arc::clone(&self.inner.shared))
    }

    /// Begins a new segment unless the last one is empty; its first position. What was submitted before is
    /// before it or in it. May use what is reserved. Blocks until it is durable, for as long as the disk takes.
    pub fn roll(&self) -> Result<u64, RollError> {
        let (answer, told) = sync_channel(1);
        {
            let mut queue = self.inner.queue.lock();
            if let Some(error) = &queue.failed {
                return Err(RollError::Failed(Arc::clone(error)));
            }
            if queue.life != Life::Open {
                return Err(RollError::Closed);
            }
            queue.rolls.push(answer);
            queue.recount = true;
        }
        self.inner.wake.notify_one();
        told.recv().unwrap_or_else(|_| {
            let failed = self.inner.queue.lock().failed.clone();
            Err(failed.map_or(RollError::Closed, RollError::Failed))
        })
    }

    /// Writes entries that still wait, so that the segments they are in can be released. `keep` are the numbers
    /// of those before the snapshot that will not be.
    pub fn carrier(&self, keep: &[u64]) -> Carrier {
        Carrier::new(Arc::clone(&self.inner.shared), keep)
    }

    /// Names a snapshot and gives up what it makes unnecessary, by one replacement of the manifest. When an
    /// error is returned, nothing was released.
    pub fn switch(&self, switch: Switch) -> Result<Released, SwitchError> {
        let done = self.inner.shared.switch(&self.inner.spares, switch);
        self.inner.recount();
        done
    }

    /// Keeps `bytes` of the total quota from entries.
    pub fn set_reserved(&self, bytes: u64) {
        self.inner.shared.sizes.reserved.store(bytes, Ordering::Relaxed);
        self.inner.recount();
    }

    /// Changes how many bytes all segments may have. Less than is used refuses entries until something has been
    /// released.
    pub fn set_total_quota(&self, bytes: u64) {
        self.inner.shared.sizes.quota.store(bytes, Ordering::Relaxed);
        self.inner.recount();
    }

    /// Takes nothing more, writes what waits, and marks the journal as closed in order. Returns when that is
    /// durable, or with what prevented it. A second call finds it closed.
    pub fn close(&self) -> Result<(), Arc<JournalError>> {
        self.inner.stop(Life::Closing, None)
    }

    /// The same, but waits no longer than `limit` for the disk: then [`JournalError::Hung`]. The directory stays
    /// locked in that case, because something may still be written to it; the process has to end.
    pub fn close_within(&self, limit: Duration) -> Result<(), Arc<JournalError>> {
        self.inner.stop(Life::Closing, Some(limit))
    }
}

impl<T: Send + 'static> Inner<T> {
    fn wake_committer(&self) {
        self.queue.lock().recount = true;
        self.wake.notify_one();
    }

    /// What is used or may be used has changed.
    fn recount(&self) {
        let used = self.shared.used();
        {
            let mut queue = self.queue.lock();
            queue.used = used;
            queue.recount = true;
            // Until the committer has counted, "full" would be a guess.
            queue.room.is_final = false;
        }
        self.wake.notify_one();
    }

    fn stop(&self, how: Life, limit: Option<Duration>) -> Result<(), Arc<JournalError>> {
        let until = limit.map(|limit| Instant::now() + limit);
        {
            let mut queue = self.queue.lock();
            if queue.life == Life::Open {
                queue.life = how;
            }
        }
        self.wake.notify_one();
        let threads = self.threads.lock().take_if(|threads| {
            // The sink may drop the last handle: a thread cannot wait for itself.
            threads.committer.handle.thread().id() != std::thread::current().id()
        });
        let Some(threads) = threads else {
            return self.queue.lock().failed.clone().map_or(Ok(()), Err);
        };
        let ended = threads.committer.ends_by(until);
        // Until the committer has ended it may want a spare.
        if ended {
            self.spares.close();
        }
        if !ended || !threads.spares.ends_by(until) {
            self.given_up.store(true, Ordering::Relaxed);
            *self.threads.lock() = Some(threads);
            return Err(Arc::new(JournalError::Hung(limit.unwrap_or_default())));
        }
        let ended = threads.committer.handle.join().unwrap_or_else(|_| Err(Arc::new(JournalError::Died)));
        let spares_ended = threads.spares.handle.join().map_err(|_| Arc::new(JournalError::Died));
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
