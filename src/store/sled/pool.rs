//! Threads for calls that block: a bounded queue, named threads, and the age of every running call.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, SendTimeoutError, Sender, TrySendError, bounded};
use parking_lot::RwLock;
use tokio::sync::oneshot;

use crate::store::watch;
use crate::store::{Call, StoreError, StoreFuture, WorkerHook};

/// How often a thread that waits for room looks whether the pool has been closed.
const WAIT_STEP: Duration = Duration::from_millis(50);

type Job = Box<dyn FnOnce(&Slot) + Send>;

/// When a thread's running call began, and when its work inside the engine did: nanoseconds since the pool's
/// start plus 1; 0: idle. The two differ while a hook holds the call: a thread that hangs there hangs alone.
#[derive(Default)]
struct Slot {
    call: AtomicU64,
    inside: AtomicU64,
}

/// One or more threads that run store calls, one at a time each.
pub struct Pool {
    name: &'static str,
    // Taken at close, which lets the threads run dry and end.
    queue: RwLock<Option<Sender<Job>>>,
    slots: Arc<[Slot]>,
    epoch: Instant,
    hook: Option<Arc<dyn WorkerHook>>,
    // Disconnects when the last thread has ended.
    alive: Receiver<()>,
}

impl Pool {
    /// Starts `threads` threads called `name`; at most `queue` calls wait.
    pub fn start(
        name: &'static str,
        threads: usize,
        queue: usize,
        hook: Option<Arc<dyn WorkerHook>>,
    ) -> std::io::Result<Self> {
        let threads = threads.max(1);
        let slots: Arc<[Slot]> = (0..threads).map(|_| Slot::default()).collect();
        let (sender, jobs) = bounded::<Job>(queue.max(1));
        let (life, alive) = bounded::<()>(0);
        for index in 0..threads {
            let (jobs, slots, life) = (jobs.clone(), Arc::clone(&slots), life.clone());
            std::thread::Builder::new().name(format!("{name}-{index}")).spawn(move || {
                let _life = life;
                let Some(slot) = slots.get(index) else { return };
                for job in jobs {
                    job(slot);
                }
            })?;
        }
        Ok(Self { name, queue: RwLock::new(Some(sender)), slots, epoch: Instant::now(), hook, alive })
    }

    /// Queues `work` at once; the future is its answer. Dropping the future of a call that only reads
    /// takes it out of the queue; one that changes something runs all the same.
    pub fn run<T: Send + 'static>(
        &self,
        call: Call,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> StoreFuture<T> {
        if self.queue.read().as_ref().is_some_and(Sender::is_full)
            && let Some(mut watch) = watch::take()
        {
            // A job that does not get into the queue takes its watch along into nothing.
            watch.began();
            watch.ended(Some(&StoreError::Busy));
        }
        let (job, answer) = self.job(call, work);
        let sent = match &*self.queue.read() {
            Some(queue) => queue.try_send(job).map_err(|e| match e {
                TrySendError::Full(_) => StoreError::Busy,
                TrySendError::Disconnected(_) => StoreError::Closed,
            }),
            None => Err(StoreError::Closed),
        };
        Box::pin(async move {
            sent?;
            answer.0.await.unwrap_or(Err(StoreError::Closed))
        })
    }

    /// Queues `work`, waiting for room; not to be called from async code.
    pub fn submit_waiting<T: Send + 'static>(
        &self,
        call: Call,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<Answer<T>, StoreError> {
        let (mut job, answer) = self.job(call, work);
        loop {
            // Not kept while waiting: a close has to be able to take the queue away.
            let queue = self.queue.read().clone().ok_or(StoreError::Closed)?;
            match queue.send_timeout(job, WAIT_STEP) {
                Ok(()) => return Ok(answer),
                Err(SendTimeoutError::Timeout(back)) => job = back,
                Err(SendTimeoutError::Disconnected(_)) => return Err(StoreError::Closed),
            }
        }
    }

    fn job<T: Send + 'static>(
        &self,
        call: Call,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> (Job, Answer<T>) {
        let (answer, answered) = oneshot::channel();
        let (hook, epoch) = (self.hook.clone(), self.epoch);
        // It stays with the job, whoever still wants the answer.
        let mut watch = watch::take();
        let job: Job = Box::new(move |slot| {
            if call.operation.only_reads() && answer.is_closed() {
                return;
            }
            let since = || u64::try_from(epoch.elapsed().as_nanos()).unwrap_or(u64::MAX - 1) + 1;
            slot.call.store(since(), Ordering::Release);
            if let Some(watch) = &mut watch {
                watch.began();
            }
            // State touched by a call that panics stays usable: each profile is all or nothing, and
            // the mark is written last.
            let result = catch_unwind(AssertUnwindSafe(|| {
                if let Some(hook) = hook {
                    hook.before(&call)?;
                }
                slot.inside.store(since(), Ordering::Release);
                work()
            }));
            slot.inside.store(0, Ordering::Release);
            slot.call.store(0, Ordering::Release);
            let result = result.unwrap_or_else(|panic| Err(StoreError::panicked(panic.as_ref())));
            if let Some(watch) = &mut watch {
                watch.ended(result.as_ref().err());
            }
            let _ = answer.send(result);
        });
        (job, Answer(answered))
    }

    /// What the pool is doing at `now`.
    pub fn state(&self, now: Instant) -> PoolState {
        let now = u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX);
        let ages = |began: fn(&Slot) -> &AtomicU64| {
            self.slots
                .iter()
                .filter_map(|slot| began(slot).load(Ordering::Acquire).checked_sub(1))
                .map(|began| Duration::from_nanos(now.saturating_sub(began)))
                .collect()
        };
        let queued = self.queue.read().as_ref().map_or(0, Sender::len);
        PoolState {
            name: self.name,
            running: ages(|slot| &slot.call),
            inside: ages(|slot| &slot.inside),
            queued,
        }
    }

    /// Takes no more calls; those that wait still run.
    pub fn close(&self) {
        self.queue.write().take();
    }

    /// Blocks until all threads have ended, at most `limit`; whether they have.
    pub fn wait_closed(&self, limit: Duration) -> bool {
        // Nothing is ever sent: the channel only disconnects.
        matches!(self.alive.recv_timeout(limit), Err(crossbeam_channel::RecvTimeoutError::Disconnected))
    }
}

/// An answer to come.
pub struct Answer<T>(oneshot::Receiver<Result<T, StoreError>>);

impl<T> Answer<T> {
    /// Waits for it; not to be called from async code.
    pub fn blocking(self) -> Result<T, StoreError> {
        self.0.blocking_recv().unwrap_or(Err(StoreError::Closed))
    }
}

/// What a pool is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolState {
    /// Its threads' name.
    pub name: &'static str,
    /// The age of each running call.
    pub running: Vec<Duration>,
    /// How long each of them has been inside the engine: past what a hook does to it.
    pub inside: Vec<Duration>,
    /// Calls that wait for a thread.
    pub queued: usize,
}

impl PoolState {
    /// The age of the oldest running call.
    pub fn oldest(&self) -> Option<Duration> {
        self.running.iter().max().copied()
    }

    /// How many running calls are older than `age`.
    pub fn older_than(&self, age: Duration) -> usize {
        self.running.iter().filter(|a| **a > age).count()
    }
}
