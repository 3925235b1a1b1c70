//! Runs the calls of a connection, and ends those whose client does not read.
//!
//! While a stream's HTTP/2 window is shut, hyper does not ask its body for anything, so that a final status
//! could never be said: it is stored for a client that reads again, and when it does not, the call's future is
//! dropped, which discards what is buffered and resets the stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::api::call::Closing;

/// How long a client that did not read may still come to hear why its call ends.
const LAST_WORD: Duration = Duration::from_secs(5);

/// Whether a streaming answer is being read.
#[derive(Debug)]
pub(super) struct Reading {
    start: Instant,
    /// When something was last handed over for sending, in nanoseconds after `start` and at least 1; 0: the
    /// client has room and it is up to us.
    handed_over: AtomicU64,
    expired: AtomicBool,
    limit: Duration,
}

impl Reading {
    pub(super) fn new(limit: Duration) -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            handed_over: AtomicU64::new(0),
            expired: AtomicBool::new(false),
            limit,
        })
    }

    /// Something was handed over; it is unread until more is asked for.
    pub(super) fn handed_over(&self) {
        let nanos = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1);
        self.handed_over.store(nanos, Ordering::Relaxed);
    }

    /// More was asked for.
    pub(super) fn asked(&self) {
        self.handed_over.store(0, Ordering::Relaxed);
    }

    /// Whether the limit has passed and the call is to end.
    pub(super) fn is_expired(&self) -> bool {
        self.expired.load(Ordering::Relaxed)
    }

    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// When what is unread will have been so for too long.
    fn due(&self) -> Option<Instant> {
        match self.handed_over.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(self.start + Duration::from_nanos(nanos) + self.limit),
        }
    }

    /// Comes when the call is to be dropped.
    async fn given_up(&self) {
        loop {
            let now = Instant::now();
            match self.due() {
                Some(due) if due <= now => break,
                Some(due) => tokio::time::sleep_until(due).await,
                None => tokio::time::sleep_until(now + self.limit).await,
            }
        }
        self.expired.store(true, Ordering::Relaxed);
        metrics::counter!(crate::metrics::CALLS_UNREAD).increment(1);
        tokio::time::sleep(LAST_WORD.min(self.limit)).await;
    }
}

/// Runs calls as tasks. Hyper runs a call right after the service has been asked for it, so that what the
/// service leaves in the slot belongs to the next task.
#[derive(Clone, Debug, Default)]
pub(super) struct Exec(Arc<Mutex<Option<Stream>>>);

/// What is to be watched of a call whose answer is a stream.
#[derive(Debug)]
struct Stream {
    reading: Arc<Reading>,
    /// Ends the call with its connection, if the handler does not do so by itself.
    closing: Option<Closing>,
}

impl Exec {
    /// The next call's answer is a stream. With `closing` it is cut when the connection is to end: watchers of
    /// health would never end by themselves.
    pub(super) fn next_is(&self, reading: Arc<Reading>, closing: Option<Closing>) {
        *self.0.lock() = Some(Stream { reading, closing });
    }
}

impl<F> hyper::rt::Executor<F> for Exec
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, call: F) {
        match self.0.lock().take() {
            None => tokio::spawn(call),
            Some(stream) => tokio::spawn(async move {
                let Stream { reading, closing } = stream;
                let closed = async {
                    match closing {
                        Some(mut closing) => closing.closed().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    () = call => {}
                    () = reading.given_up() => {}
                    () = closed => {}
                }
            }),
        };
    }
}
