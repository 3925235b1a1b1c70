//! Checkpoints: flush the store, then note how far it has come. A thread of its own, because both wait for
//! disks.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::StartError;
use crate::applier::{Gate, Progress};
use crate::guard::Guard;
use crate::metrics as names;
use crate::model::LowWater;
use crate::store::StoreError;
use crate::store::generations::Generations;
use crate::store::switch::StoreSwitch;
use crate::store::watch::carrying;

/// With so many bytes not flushed there is a flush in any case.
const MUCH: u64 = 32 << 20;

/// What a checkpoint works on.
pub struct Checkpoints {
    /// The store.
    pub switch: Arc<StoreSwitch>,
    /// Judges how long flushes take.
    pub guard: Arc<Guard>,
    /// The applier's gate: while it is closed, how far the applier has come and how far the store has are two
    /// things.
    pub gate: Arc<Gate>,
    /// Keeper of the note.
    pub generations: Arc<Generations>,
    /// How far the applier has come.
    pub progress: Progress,
    /// How often one is taken, while something changes: what a kill makes the next start replay.
    pub every: Duration,
}

impl Checkpoints {
    /// Takes checkpoints until `stop` says so.
    pub fn start(self, mut stop: watch::Receiver<bool>) -> Result<JoinHandle<()>, StartError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(StartError::Thread)?;
        let work = async move {
            let mut noted = (0, LowWater::default());
            loop {
                tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => return,
                    () = tokio::time::sleep(self.every) => {}
                }
                // A flush that hangs must not keep the process from stopping, nor a new store waiting.
                let taken = tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => return,
                    () = self.gate.closed() => continue,
                    taken = self.take(&noted) => taken,
                };
                match taken {
                    Ok(now) => noted = now,
                    Err(error) => {
                        tracing::warn!(%error, "no checkpoint could be taken; it will be tried again");
                    }
                }
            }
        };
        std::thread::Builder::new()
            .name("sf-checkpoint".to_owned())
            .spawn(move || runtime.block_on(work))
            .map_err(StartError::Thread)
    }

    /// Answers which generation has come how far.
    async fn take(&self, noted: &(u64, LowWater)) -> Result<(u64, LowWater), CheckpointError> {
        let Some(in_use) = self.switch.in_use() else { return Ok(noted.clone()) };
        let (number, store) = (in_use.number, &in_use.store);
        // Somebody may have removed or replaced its files; it does not notice by itself.
        store.check_files().await?;
        // Before the flush: it writes out at least what has been committed by now.
        let low_water = self.progress.low_water();
        // What waits longest may not move while much else is applied.
        let much = store.unflushed_bytes() > MUCH;
        if !much && *noted == (number, low_water.clone()) {
            return Ok(noted.clone());
        }
        let began = Instant::now();
        let flushed = carrying(Some(self.guard.flush_watch()), || in_use.calls.flush()).await?;
        metrics::histogram!(names::STORE_FLUSH_SECONDS).record(began.elapsed());
        self.generations.write_note(number, flushed, low_water.clone()).map_err(CheckpointError::Note)?;
        Ok((number, low_water))
    }
}

#[derive(Debug, thiserror::Error)]
enum CheckpointError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the note could not be written: {0}")]
    Note(std::io::Error),
}
