//! The thread that ticks. A thread of the operating system, so that no busy or stuck async worker can keep
//! it from noticing.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use super::detector::BUCKET;
use super::registry::Registry;

/// The clock by which calls age. It advances at most 50 ms a tick: when the whole process was paused (a
/// suspended machine, a debugger, no CPU), the calls in flight did not grow old by it.
#[derive(Clone, Copy, Debug, Default)]
pub struct AgeClock {
    age: Duration,
}

impl AgeClock {
    const MOST: Duration = Duration::from_millis(50);

    /// `real` time went by since the last tick; answers the age clock's time.
    pub fn advance(&mut self, real: Duration) -> Duration {
        self.age += real.min(Self::MOST);
        self.age
    }
}

/// Ticks a registry every 25 ms until it is dropped.
#[derive(Debug)]
pub struct Watchdog {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts the thread. Fails only when the system has no thread to give.
    pub fn start(registry: Arc<Registry>) -> io::Result<Self> {
        let (stop, stopped) = bounded::<()>(0);
        let thread = std::thread::Builder::new().name("breaker-watchdog".into()).spawn(move || {
            let began = Instant::now();
            let mut last = began;
            let mut clock = AgeClock::default();
            while stopped.recv_timeout(BUCKET) == Err(RecvTimeoutError::Timeout) {
                let now = Instant::now();
                let age = clock.advance(now - last);
                last = now;
                // A listener that panics must not blind the breaker.
                let tick = catch_unwind(AssertUnwindSafe(|| registry.tick(age, now - began)));
                if tick.is_err() {
                    tracing::error!("a tick of the breaker's watchdog panicked; it goes on");
                }
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the breaker's watchdog had panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paused_process_ages_nothing() {
        let mut clock = AgeClock::default();
        assert_eq!(clock.advance(Duration::from_millis(26)), Duration::from_millis(26));
        assert_eq!(clock.advance(Duration::from_hours(1)), Duration::from_millis(76));
    }
}
