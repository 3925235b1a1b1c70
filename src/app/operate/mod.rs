//! What operators reach of a running node, put together: the handles behind the operators' service, and the
//! thread that samples what the status tells of the recent past.

mod history;
mod store_view;
mod watch;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch as channel;

use super::{Core, StartError};
use crate::api::operator::Handles;

pub use watch::Around;

/// How often is sampled.
const EVERY: Duration = Duration::from_secs(1);

/// The operators' side of a running node.
pub struct Operate {
    stop: channel::Sender<bool>,
    sampler: Option<JoinHandle<()>>,
}

impl Operate {
    /// Starts it; the handles are for the operators' service.
    pub fn start(core: &Core, around: Around) -> Result<(Self, Handles), StartError> {
        let (snapshots, rebuilds) = (around.snapshots.clone(), around.rebuilds.clone());
        let watch = Arc::new(watch::Watch::new(core, around, Instant::now()));
        let handles = Handles {
            status: Some(Arc::<watch::Watch>::clone(&watch)),
            snapshots,
            rebuilds,
            incidents: Some(core.incidents.clone()),
            ..Handles::default()
        };
        let (stop, stopping) = channel::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(StartError::Thread)?;
        let sampler = std::thread::Builder::new()
            .name("sf-status".to_owned())
            .spawn(move || runtime.block_on(sample(watch, stopping)))
            .map_err(StartError::Thread)?;
        Ok((Self { stop, sampler: Some(sampler) }, handles))
    }

    /// Ends the sampling.
    pub fn stop(&mut self) {
        self.stop.send_replace(true);
        if let Some(sampler) = self.sampler.take()
            && sampler.join().is_err()
        {
            tracing::error!("the status thread panicked");
        }
    }
}

async fn sample(watch: Arc<watch::Watch>, mut stopping: channel::Receiver<bool>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _ = stopping.wait_for(|stop| *stop) => return,
            _ = ticks.tick() => watch.sample(Instant::now()),
        }
    }
}
