//! The only composition root: everything is made, connected, started and stopped here.
//!
//! A request's way: `serve` (connection, deadline, limits) -> `api` (decode, validate) -> `accept` (the
//! write stack) -> `journal` -> `applier` -> `store`; reads go from `api` to `read` (cache, overlay) to
//! `store`.

mod checkpoint;
mod core;
mod guarding;
mod holds;
mod lookup;
mod operate;
mod orders;
mod release;
mod snapshots;
mod start;
#[cfg(test)]
mod tests;
mod upkeep;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics_exporter_prometheus::BuildError;
use tokio::sync::watch;

pub use self::core::{Core, Layers};
use self::holds::HeldLookup;
use self::lookup::NodeLookup;
pub use self::operate::HandOverCall;
use self::operate::{Around, Operate};
pub use self::orders::Orders;
use self::upkeep::Upkeep;
use crate::api::operator::Operators;
use crate::api::{Attributes, Decoder, Measured, Meters};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::model::limits::Limits;
use crate::serve::{self, Listeners, Node, Operations, ServeError, Serving, TokenError};

/// Why the server does not start, or did not stop in order.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A directory could not be made.
    #[error("cannot make the directory {dir}: {error}")]
    Directory {
        /// Which.
        dir: String,
        /// Why.
        error: io::Error,
    },
    /// The listeners.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The token file.
    #[error(transparent)]
    Tokens(#[from] TokenError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] crate::journal::OpenError),
    /// The journal could not be closed in order.
    #[error("the journal was not closed in order: {0}")]
    JournalClose(Arc<crate::journal::JournalError>),
    /// The store.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// The breakers.
    #[error(transparent)]
    Breakers(#[from] crate::breaker::RegistryError),
    /// The store's generations.
    #[error(transparent)]
    Generations(#[from] crate::store::generations::OpenError),
    /// The store was not closed in order; it is sound all the same.
    #[error("the store was not closed in order, so that the next start replays more: {0}")]
    StoreClose(#[from] crate::store::generations::CloseError),
    /// The snapshot, which is needed because there is no store that is trusted.
    #[error(
        "the snapshot that the journal goes on from cannot be read, and there is no store that could take its place: \
         {0}. Bring the file back from a copy, or restore a backup (`steadfast restore --from DIR`)"
    )]
    Snapshot(#[from] crate::snapshot::SnapshotError),
    /// What the journal holds.
    #[error(transparent)]
    Replay(#[from] crate::applier::replay::ReplayError),
    /// The snapshotter.
    #[error(transparent)]
    Snapshotter(#[from] crate::snapshot::SnapshotterError),
    /// A thread or runtime could not be made.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// The directory of holds and incidents.
    #[error("the holds cannot be kept: {0}")]
    Control(#[from] crate::kill_switch::audit::AuditError),
    /// The hold that the start was told to place.
    #[error("everything could not be held: {0}")]
    Held(crate::kill_switch::HoldError),
    /// The metrics recorder.
    #[error("cannot record metrics: {0}")]
    Metrics(#[from] BuildError),
    /// The descriptors that are built in.
    #[error("cannot offer reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// A running node.
pub struct App {
    core: Core,
    serving: Serving,
    upkeep: Upkeep,
    operate: Operate,
    drain_timeout: Duration,
    /// Where services call.
    pub data_address: SocketAddr,
    /// Where operators call.
    pub operations_address: SocketAddr,
}

impl App {
    /// Binds, opens the data side, and serves. Blocks until calls can be made.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        // First, so that a second process fails before it touches anything.
        Self::start_on(Listeners::bind(&config.server)?, config)
    }

    /// As [`start`](Self::start), on listeners that are bound already.
    pub fn start_on(listeners: Listeners, config: &Config) -> Result<Self, StartError> {
        Self::start_with(listeners, config, &Layers::default())
    }

    /// As [`start_on`](Self::start_on), with layers around and inside of each generation of the store.
    pub fn start_with(listeners: Listeners, config: &Config, layers: &Layers) -> Result<Self, StartError> {
        let tokens = serve::tokens(&config.server)?;
        let address = |address: io::Result<SocketAddr>| address.map_err(StartError::Thread);
        let data_address = address(listeners.data_address())?;
        let operations_address = address(listeners.operations_address())?;
        let metrics = crate::metrics::install()?;

        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let core = Core::open_layered(config, Arc::clone(&clock), layers)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(StartError::Thread)?;
        let (health, health_service) = runtime.block_on(serve::health());

        let reads = core.reads();
        let lookup = NodeLookup::new(&core, core.own_reads());
        let lookup = HeldLookup::new(Arc::clone(core.holds.switch()), lookup);
        let decoder = Decoder { limits: limits(config), clock: Arc::clone(&clock) };
        let node = Arc::new(Node::new(&config.server));
        let meters = Meters::new(Instant::now());
        let around = Around {
            connections: Arc::clone(&node),
            health: health.clone(),
            operations: meters.clone(),
            index_limit: config.store.index_capacity.0,
            total_quota: config.journal.total_quota.0,
            segment: config.journal.segment.0,
            snapshots: Some(Arc::new(core.snapshots.clone())),
            rebuilds: Some(Arc::new(core.rebuilds.clone())),
        };
        let (operate, handles) = Operate::start(&core, around)?;
        let operators = Operators::new(handles, decoder.clone());
        let (writes, reads) = (Measured::new(core.writes(), meters.clone()), Measured::new(reads, meters));
        let (writes, reads) = (core.counted(writes), core.counted(reads));
        let attributes = Attributes::new(writes, reads, Arc::new(lookup), decoder);
        let routes = serve::data_routes(attributes, &config.server, health_service.clone())?;
        let operations_routes = serve::operations_routes(operators, health_service)?;
        let operations = Operations { routes: operations_routes, metrics, health: health.clone(), tokens };
        runtime.block_on(health.accept());
        let serving =
            serve::start(listeners, &config.server, config.data_runtimes(), routes, operations, node)?;
        let upkeep = Upkeep::start(&core, health, runtime)?;
        let drain_timeout = config.server.drain_timeout.0;
        Ok(Self { core, serving, upkeep, operate, drain_timeout, data_address, operations_address })
    }

    /// The data side.
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// Says why, once the journal has failed: nothing can be accepted any more, and the process should end.
    pub fn fatal(&self) -> watch::Receiver<Option<String>> {
        self.upkeep.fatal()
    }

    /// Stops in order: accepts nothing new, answers what is in flight, makes everything durable, closes the
    /// store. Blocks.
    pub fn drain(mut self) -> Result<(), StartError> {
        self.upkeep.refuse("draining");
        self.serving.drain();
        self.upkeep.stop();
        self.operate.stop();
        let closed = self.core.close(self.drain_timeout);
        self.serving.stop();
        closed
    }
}

/// What requests are checked against.
fn limits(config: &Config) -> Limits {
    let limits = &config.limits;
    Limits {
        site_chars: limits.site_chars as usize,
        user_bytes: limits.user_bytes as usize,
        attribute_name_chars: limits.name_chars as usize,
        string_chars: limits.string_chars as usize,
        changes_per_write: limits.changes_per_write as usize,
        attributes_per_site: limits.attributes_per_site as usize,
        ..Limits::default()
    }
}
