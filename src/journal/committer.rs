//! The committer: one thread that takes all that waits, writes it, syncs it, and tells.

use std::sync::Arc;

use super::error::{IoFailure, JournalError, Kept, RollError};
use super::format::BatchSettings;
use super::handle::Inner;
use super::log::{Log, RollRoom};
use super::queue::{Life, Queue, cost};
use super::{Committed, Sink, Submission};
use crate::clock::Clock;
use crate::meter::End;
use crate::metrics as names;

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

/// Asked before each batch.
pub(crate) type Settings = Box<dyn Fn() -> BatchSettings + Send>;

pub(crate) struct Committer<T> {
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
        if queue.life == Life::Open {
            queue.life = Life::Stopping;
        }
        let left = queue.drop_waiting();
        drop(queue);
        // After a panic only: their tickets are dropped unanswered, outside the lock.
        drop(left);
    }
}

impl<T: Send + 'static> Committer<T> {
    pub fn new(
        inner: Arc<Inner<T>>,
        log: Log,
        settings: Settings,
        sink: Box<dyn Sink<T>>,
        clock: Arc<dyn Clock>,
        batch_bytes: u64,
    ) -> Self {
        Self { inner, log, settings, sink, clock, batch_bytes, meters: Meters::new() }
    }

    /// Until the journal is closed or fails.
    pub fn run(mut self) -> Result<(), Arc<JournalError>> {
        let _guard = Guard(Arc::clone(&self.inner));
        let mut items = Vec::new();
        while self.wait(&mut items) {
            self.write(&mut items)
                .and_then(|()| self.roll_if_asked())
                .map_err(|failure| self.fail(failure))?;
        }
        if self.inner.queue.lock().life == Life::Closing {
            let marked = self.log.mark_clean();
            marked.map_err(|cause| self.fail(Failure { cause, unknown: Vec::new(), never: Vec::new() }))?;
        }
        Ok(())
    }

    /// Takes all that waits (nothing if there is but a segment to be begun); false when there is nothing and
    /// never will be.
    fn wait(&mut self, items: &mut Vec<Submission<T>>) -> bool {
        let mut queue = self.inner.queue.lock();
        loop {
            if std::mem::take(&mut queue.recount) {
                self.count_room(&mut queue);
            }
            if !queue.items.is_empty() {
                break;
            }
            if queue.life != Life::Open {
                return false;
            }
            if !queue.rolls.is_empty() && !matches!(self.log.roll_room(), RollRoom::NotYet) {
                break;
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
        queue.room = self.log.room();
        if !queue.rolls.is_empty()
            && let RollRoom::Room(after) = self.log.roll_room()
            && after.bytes < queue.room.bytes
        {
            // What is taken from now on must fit when the rest of this segment is given up.
            queue.room = after;
        }
        queue.used = self.log.used();
        queue.for_entries = self.log.shared().sizes.for_entries();
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

    /// Begins the segment that was asked for, unless what was taken before does not fit then: that is written
    /// first.
    fn roll_if_asked(&mut self) -> Result<(), Failure<T>> {
        let mut queue = self.inner.queue.lock();
        if queue.rolls.is_empty() {
            return Ok(());
        }
        self.count_room(&mut queue);
        let outcome = match self.log.roll_room() {
            RollRoom::NotYet => return Ok(()),
            RollRoom::Room(after) if queue.bytes > after.bytes => return Ok(()),
            RollRoom::Room(after) => {
                queue.room = after;
                drop(queue);
                let rolled = self.log.roll();
                queue = self.inner.queue.lock();
                if let Err(cause) = rolled {
                    drop(queue);
                    return Err(Failure { cause, unknown: Vec::new(), never: Vec::new() });
                }
                Ok(self.log.first_position())
            }
            RollRoom::Empty(first) => Ok(first),
            RollRoom::Full { used, limit } => Err((used, limit)),
            RollRoom::NoSpace(failure) => {
                for waiting in queue.rolls.drain(..) {
                    let _nobody_waits = waiting.try_send(Err(RollError::NoSpace(failure.again())));
                }
                return Ok(());
            }
        };
        for waiting in queue.rolls.drain(..) {
            let _nobody_waits =
                waiting.try_send(outcome.map_err(|(used, limit)| RollError::Full { used, limit }));
        }
        self.count_room(&mut queue);
        Ok(())
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
        self.inner.syncs.record(took, End::Good);
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
