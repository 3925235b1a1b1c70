//! How fast background work goes: it works for a share of the time and rests for the remainder.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::error::SnapshotError;
use crate::command::GiveWay;

/// Longest rest at once: what is slow because the disk is busy must still come to an end.
const LONGEST: Duration = Duration::from_secs(1);

/// Rests after each piece of work, and notices when it is told to stop or has to give way.
#[derive(Debug)]
pub(super) struct Pace {
    /// Percent of the time that is worked.
    share: u32,
    stop: watch::Receiver<bool>,
    way: Option<GiveWay>,
    began: Instant,
}

impl Pace {
    /// Works `share` percent of the time, from now on.
    pub fn new(share: u32, stop: watch::Receiver<bool>) -> Self {
        Self { share: share.clamp(1, 100), stop, way: None, began: Instant::now() }
    }

    /// The same, for a task that has to give way when `way` says so.
    pub fn giving(self, way: Option<GiveWay>) -> Self {
        Self { way, ..self }
    }

    /// A piece of work is done: rests as long as it demands. Blocks.
    pub fn rest(&mut self) -> Result<(), SnapshotError> {
        if *self.stop.borrow() {
            return Err(SnapshotError::Stopped);
        }
        if self.way.as_ref().is_some_and(GiveWay::is_due) {
            return Err(SnapshotError::GaveWay);
        }
        let rest = self.began.elapsed() * (100 - self.share) / self.share;
        if !rest.is_zero() {
            std::thread::sleep(rest.min(LONGEST));
        }
        self.began = Instant::now();
        Ok(())
    }

    /// Waits for `work`, unless it is told to stop, has to give way, or it takes longer than `limit`, which answers `None`.
    pub async fn wait<T>(
        &mut self,
        work: impl Future<Output = T>,
        limit: Duration,
    ) -> Result<Option<T>, SnapshotError> {
        let (mut stop, mut way) = (self.stop.clone(), self.way.clone());
        let give_way = async {
            match &mut way {
                Some(way) => way.due().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => Err(SnapshotError::Stopped),
            () = give_way => Err(SnapshotError::GaveWay),
            done = work => Ok(Some(done)),
            () = tokio::time::sleep(limit) => Ok(None),
        }
    }
}
