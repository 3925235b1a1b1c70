//! The server of the drill, the control beside it, and the hand that breaks the server.

use std::path::PathBuf;
use std::sync::Arc;

use super::sabotage::{Forgetful, Sabotage};
use super::{DrillError, Options};
use crate::app::{App, Layers, StartError};
use crate::bench::yardstick;
use crate::config::Config;
use crate::fs::{RealFs, SlowFs, SyncGate};
use crate::serve::Listeners;
use crate::store::Store;
use crate::store::faulty::{Fault, Faults, FaultyStore};

/// The file that the control's writes go to, in the server's directory: on the same disk.
const CONTROL_LOG: &str = "control-of-the-drill.log";
/// About what a profile of the drill has.
const CONTROL_PROFILE: usize = 100;

/// A running server whose store and journal can be broken.
pub struct World {
    app: Option<App>,
    control: String,
    faults: Faults,
    /// Holds the journal's syncs.
    pub journal: SyncGate,
    config: Config,
    /// To be removed afterwards.
    own: Option<PathBuf>,
}

impl World {
    /// Starts the server, and the control, on free ports of the loopback address.
    pub fn start(options: &Options) -> Result<Self, DrillError> {
        let io = |what| move |error| DrillError::Io { what, error };
        let (dir, own) = if let Some(dir) = &options.dir {
            (dir.clone(), None)
        } else {
            let name = format!("steadfast-drill-{}-{}", std::process::id(), options.scenario.name());
            let dir = std::env::temp_dir().join(name);
            (dir.clone(), Some(dir))
        };
        std::fs::create_dir_all(&dir).map_err(io("a directory for the data"))?;
        let log = dir.join(CONTROL_LOG);
        let mut world = Self {
            app: None,
            control: String::new(),
            faults: Faults::default(),
            journal: SyncGate::default(),
            config: Config::ephemeral(dir),
            own,
        };
        let kind = yardstick::Kind::Log(log.clone());
        let control = yardstick::start(&kind, ([127, 0, 0, 1], 0).into(), 1, CONTROL_PROFILE)?;
        world.control = control.addr.to_string();
        // It is written through the open file.
        std::fs::remove_file(&log).map_err(io("the control's log"))?;
        world.launch(options, None)?;
        Ok(world)
    }

    fn launch(&mut self, options: &Options, sabotage: Option<Sabotage>) -> Result<(), StartError> {
        let (calls, faults) = (options.scenario.strikes_calls(), self.faults.clone());
        let layers = Layers {
            wrap: Arc::new(move |store| -> Arc<dyn Store> {
                let number = store.generation();
                let store: Arc<dyn Store> = store;
                if sabotage == Some(Sabotage::ForgetfulStore) {
                    return Arc::new(Forgetful(store));
                }
                if calls {
                    return Arc::new(FaultyStore::new(store, faults.clone()).of_generation(number));
                }
                store
            }),
            hook: Some(Arc::new(self.faults.clone())),
            journal_fs: Arc::new(SlowFs::new(Arc::new(RealFs), self.journal.clone())),
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
        self.launch(options, options.sabotage)
    }

    /// Where services call.
    pub fn data(&self) -> String {
        self.app.as_ref().map(|app| app.data_address.to_string()).unwrap_or_default()
    }

    /// Where operators call.
    pub fn operations(&self) -> String {
        self.app.as_ref().map(|app| app.operations_address.to_string()).unwrap_or_default()
    }

    /// Where the control listens.
    pub fn control(&self) -> &str {
        &self.control
    }

    /// These faults, and no others. They belong to the store of the moment: one that is built in its place is sound.
    pub fn strike(&self, faults: &[Fault]) {
        self.faults.clear();
        let Some(app) = &self.app else { return };
        let generation = app.core().generations.generation();
        for fault in faults {
            self.faults.add(fault.clone().of_generation(generation));
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
