//! The end of a process that another one takes over from: everything that the other needs is let go of by name,
//! because a thread that hangs inside the kernel keeps this process, and whatever it still holds, alive.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::operate::HandOverCall;
use super::{App, Core};
use crate::command::operate::{HandOverRefused, HandedOver};

/// How long journal and store may take to close. A store that takes longer is rebuilt by the taker.
const CLOSE: Duration = Duration::from_secs(10);

/// How often is looked whether a thread has ended.
const LOOK: Duration = Duration::from_millis(2);

impl App {
    /// Comes when another process asks for the journal and the listeners; see [`hand_over`](Self::hand_over).
    pub async fn hand_over_asked(&mut self) -> HandOverCall {
        self.operate.hand_over_asked().await
    }

    /// Drains, makes everything durable, lets go of journal, store and listeners, answers, and is done: the process
    /// must end right after, without waiting for any thread. Blocks for at most the drain's time, about 20 s more,
    /// and whatever the journal's disk takes.
    pub fn hand_over(self, call: HandOverCall) -> Result<HandedOver, HandOverRefused> {
        let Self { mut core, mut serving, mut upkeep, mut operate, .. } = self;
        upkeep.refuse("draining: another process takes over");
        let cut_off = serving.drain_within(call.request.drain_timeout);
        upkeep.stop();
        operate.stop();
        let released = core.release().map(|released| HandedOver { cut_off, ..released });
        // What hangs must not be waited for, and what is dropped may wait.
        std::mem::forget(core);
        call.answer(released.clone());
        serving.stop();
        released
    }
}

impl Core {
    fn release(&mut self) -> Result<HandedOver, HandOverRefused> {
        self.shared.draining.store(true, std::sync::atomic::Ordering::Relaxed);
        self.snapshotter.stop(CLOSE);
        let journal = self.shared.journal.close_within(CLOSE);
        journal.map_err(|error| HandOverRefused::Journal(error.to_string()))?;
        self.stop.send_replace(true);
        if let Some(recording) = self.recording.take() {
            recording.stop();
        }
        self.holds.close();
        let until = Instant::now() + CLOSE;
        self.guarding = None;
        self.rebuilder.stop(CLOSE);
        let hung = || self.rebuilds.hung_threads() as u64;
        let ended = |threads: &[JoinHandle<()>]| threads.iter().all(JoinHandle::is_finished);
        while !ended(&self.threads) && hung() == 0 && Instant::now() < until {
            std::thread::sleep(LOOK);
        }
        let store_closed = ended(&self.threads) && hung() == 0 && self.close_store(until);
        self.release_store();
        let pending = self.shared.sites.all().iter().map(|site| site.lane.lock().waiting() as u64).sum();
        Ok(HandedOver {
            last_position: self.shared.journal.reader().end(),
            pending,
            store_closed,
            hung_threads: hung(),
            cut_off: 0,
        })
    }

    /// Closes the store on a thread of its own, because a disk that hangs would keep this one; whether it was closed.
    fn close_store(&self, until: Instant) -> bool {
        // Without one the rebuild goes on at the taker's.
        let Some(store) = self.switch.current() else { return false };
        let generations = Arc::clone(&self.generations);
        let low_water = self.progress.low_water();
        let left = until.saturating_duration_since(Instant::now());
        let (tell, told) = mpsc::channel();
        let close = move || {
            let closed = generations.close_clean(&store, low_water, left);
            if let Err(error) = &closed {
                tracing::warn!(%error, "the store was not closed");
            }
            // Nobody listens any more if it took too long.
            let _ = tell.send(closed.is_ok());
        };
        let started = std::thread::Builder::new().name("sf-close".to_owned()).spawn(close);
        started.is_ok() && told.recv_timeout(left) == Ok(true)
    }

    /// Releases the store's directory, as far as that does not hang.
    fn release_store(&self) {
        let generations = Arc::clone(&self.generations);
        let (tell, told) = mpsc::channel();
        let release = move || {
            generations.release_lock();
            let _ = tell.send(());
        };
        let started = std::thread::Builder::new().name("sf-release".to_owned()).spawn(release);
        if started.is_err() || told.recv_timeout(Duration::from_secs(1)).is_err() {
            tracing::warn!("the store's directory stays locked until this process is gone");
        }
    }
}
