//! The server of the drill, and the hand that breaks it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{DrillError, Options};
use crate::app::{App, Layers, StartError};
use crate::config::Config;
use crate::fs::{RealFs, SlowFs, SyncGate};
use crate::serve::Listeners;
use crate::store::Store;
use crate::store::faulty::{Fault, Faults, FaultyStore};

/// A running server whose store and journal can be broken.
pub struct World {
    app: Option<App>,
    faults: Faults,
    /// Holds the journal's syncs.
    pub journal: SyncGate,
    config: Config,
    /// To be removed afterwards.
    own: Option<PathBuf>,
}

impl World {
    /// Starts the server on free ports of the loopback address.
    pub fn start(options: &Options) -> Result<Self, DrillError> {
        let io = |what| move |error| DrillError::Io { what, error };
        let (dir, own) = if let Some(dir) = &options.dir {
            (dir.clone(), None)
        } else {
            let name = format!("steadfast-drill-{}-{}", std::process::id(), options.seed);
            let dir = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&dir).map_err(io("a directory for the data"))?;
            (dir.clone(), Some(dir))
        };
        let (faults, journal) = (Faults::default(), SyncGate::default());
        let mut world = Self { app: None, faults, journal, config: Config::ephemeral(dir), own };
        world.launch(options)?;
        Ok(world)
    }

    fn launch(&mut self, options: &Options) -> Result<(), StartError> {
        // Faults are the first generation's: a rebuilt store is a sound one.
        let (first, faults) = (AtomicBool::new(true), self.faults.clone());
        let calls = options.scenario.strikes_calls(options.no_fix);
        let layers = Layers {
            wrap: Arc::new(move |store| -> Arc<dyn Store> {
                if calls && first.swap(false, Ordering::Relaxed) {
                    return Arc::new(FaultyStore::new(store, faults.clone()));
                }
                store
            }),
            hook: Some(Arc::new(self.faults.clone())),
            journal_fs: Arc::new(SlowFs::new(RealFs, self.journal.clone())),
        };
        let listeners = Listeners::bind(&self.config.server).map_err(StartError::from)?;
        self.app = Some(App::start_with(listeners, &self.config, &layers)?);
        Ok(())
    }

    /// Stops the server and starts it again on what it left.
    pub fn restart(&mut self, options: &Options) -> Result<(), StartError> {
        if let Some(app) = self.app.take() {
            app.drain()?;
        }
        self.launch(options)
    }

    /// Where services call.
    pub fn data(&self) -> String {
        self.app.as_ref().map(|app| app.data_address.to_string()).unwrap_or_default()
    }

    /// Where operators call.
    pub fn operations(&self) -> String {
        self.app.as_ref().map(|app| app.operations_address.to_string()).unwrap_or_default()
    }

    /// These faults, and no others.
    pub fn strike(&self, faults: &[Fault]) {
        self.faults.clear();
        for fault in faults {
            self.faults.add(fault.clone());
        }
    }

    /// No faults; what hangs goes on.
    pub fn fix(&self) {
        self.faults.clear();
        self.journal.open();
    }

    /// Stops the server in order.
    pub fn stop(mut self) -> Result<(), StartError> {
        self.fix();
        self.app.take().map_or(Ok(()), App::drain)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.fix();
        if let Some(app) = self.app.take()
            && let Err(error) = app.drain()
        {
            tracing::warn!(%error, "the drill's server did not stop in order");
        }
        if let Some(dir) = &self.own
            && let Err(error) = std::fs::remove_dir_all(dir)
        {
            let dir = dir.display();
            tracing::warn!(%dir, %error, "the drill's directory could not be removed");
        }
    }
}
