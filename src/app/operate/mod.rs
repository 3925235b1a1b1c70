//! What operators reach of a running node, put together: the handles behind the operators' service, and the
//! thread that samples what the status tells of the recent past.

mod attributes;
mod faults;
mod history;
mod process;
mod quotas;
mod refused;
mod store_view;
mod watch;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch as channel};

use self::attributes::AttributeDesk;
use self::quotas::QuotaDesk;
use self::refused::Refusals;
use super::{Core, StartError};
use crate::api::operator::Handles;
use crate::command::faults::FaultDesk;
use crate::store::Store;

pub use faults::Weak;
pub use process::HandOverCall;
pub use watch::Around;

/// How often is sampled.
const EVERY: Duration = Duration::from_secs(1);

/// The operators' side of a running node.
pub struct Operate {
    stop: channel::Sender<bool>,
    sampler: Option<JoinHandle<()>>,
    hand_overs: mpsc::Receiver<HandOverCall>,
}

impl Operate {
    /// Starts it; the handles are for the operators' service.
    pub fn start(core: &Core, around: Around) -> Result<(Self, Handles), StartError> {
        let (snapshots, rebuilds) = (around.snapshots.clone(), around.rebuilds.clone());
        let quotas = (around.total_quota, around.segment);
        let watch = Arc::new(watch::Watch::new(core, around, Instant::now()));
        let (desk, hand_overs) = process::Desk::new(core.shared.node);
        let injected = core.weak.clone().map(|weak| {
            let generations = Arc::clone(&core.generations);
            faults::Desk::new(weak, move || generations.generation())
        });
        let handles = Handles {
            hand_over: Some(Arc::new(desk)),
            faults: injected.clone().map(|desk| Arc::new(desk) as Arc<dyn FaultDesk>),
            status: Some(Arc::<watch::Watch>::clone(&watch)),
            snapshots,
            rebuilds,
            holds: Some(core.hold_desk()),
            incidents: Some(core.incidents.clone()),
            quotas: Some(Arc::new(QuotaDesk {
                shared: Arc::clone(&core.shared),
                total: quotas.0,
                segment: quotas.1,
                incidents: core.incidents.clone(),
            })),
            attributes: Some(Arc::new(AttributeDesk { shared: Arc::clone(&core.shared) })),
            refused: Some(Arc::new(Refusals {
                shared: Arc::clone(&core.shared),
                refused: Arc::clone(&core.refused),
                store: Arc::clone(&core.switch) as Arc<dyn Store>,
                ready: core.ready.clone(),
            })),
            breakers: Some(Arc::<crate::app::Orders>::clone(&core.orders)),
        };
        let (stop, stopping) = channel::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(StartError::Thread)?;
        let sampler = std::thread::Builder::new()
            .name("sf-status".to_owned())
            .spawn(move || runtime.block_on(sample(watch, injected, stopping)))
            .map_err(StartError::Thread)?;
        Ok((Self { stop, sampler: Some(sampler), hand_overs }, handles))
    }

    /// Comes when another process asks for the journal and the listeners.
    pub async fn hand_over_asked(&mut self) -> HandOverCall {
        match self.hand_overs.recv().await {
            Some(call) => call,
            // The operations listener is gone: nobody can ask any more.
            None => std::future::pending().await,
        }
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

async fn sample(watch: Arc<watch::Watch>, desk: Option<faults::Desk>, mut stopping: channel::Receiver<bool>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _ = stopping.wait_for(|stop| *stop) => return,
            _ = ticks.tick() => {
                let now = Instant::now();
                watch.sample(now);
                if let Some(desk) = &desk {
                    desk.expire(now);
                }
            }
        }
    }
}
