//! Checkpoints: flush the store, then note how far it has come. A thread of its own, because both wait for
//! disks.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::StartError;
use crate::applier::Progress;
use crate::metrics as names;
use crate::model::LowWater;
use crate::read::Rebuild;
use crate::store::generations::Generations;
use crate::store::sled::SledStore;
use crate::store::{Store as _, StoreError};

/// What a checkpoint works on.
pub struct Checkpoints {
    /// The store.
    pub store: Arc<SledStore>,
    /// Keeper of the note.
    pub generations: Arc<Generations>,
    /// How far the applier has come.
    pub progress: Progress,
    /// Whether the store is still being filled.
    pub rebuild: Arc<Rebuild>,
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
            let mut noted = LowWater::default();
            loop {
                tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => return,
                    () = tokio::time::sleep(self.every) => {}
                }
                // A flush that hangs must not keep the process from stopping.
                let taken = tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => return,
                    taken = self.take(&noted) => taken,
                };
                match taken {
                    Ok(low_water) => noted = low_water,
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

    async fn take(&self, noted: &LowWater) -> Result<LowWater, CheckpointError> {
        if self.store.is_damaged() && self.generations.condemn().map_err(CheckpointError::Note)? {
            tracing::error!(
                "the store has met damage in its files; the next start fills a new one from the journal, and \
                 nothing is lost: restart when it suits you"
            );
        }
        // Before the flush: it writes out at least what has been committed by now.
        let low_water = self.progress.low_water();
        let finished = self.rebuild.is_finished();
        if low_water == *noted {
            return Ok(low_water);
        }
        let began = Instant::now();
        let flushed = self.store.flush().await?;
        metrics::histogram!(names::STORE_FLUSH_SECONDS).record(began.elapsed());
        if !self.store.is_damaged() && finished && self.rebuild.finish() {
            self.generations.set_complete();
            tracing::info!("the store has been filled from the journal");
        }
        self.generations.write_note(flushed, low_water.clone()).map_err(CheckpointError::Note)?;
        Ok(low_water)
    }
}

#[derive(Debug, thiserror::Error)]
enum CheckpointError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the note could not be written: {0}")]
    Note(std::io::Error),
}
