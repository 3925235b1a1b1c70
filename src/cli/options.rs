//! The configuration's flags, shared by the commands that need one.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use crate::config::{ConfigError, Effective, Sources};

/// Flags of the configuration. They are stronger than the environment (`STEADFAST_SECTION_KEY`), which is
/// stronger than the file.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Configuration")]
pub struct ConfigOptions {
    /// A TOML file; see `steadfast config` for what it may say
    #[arg(long, value_name = "FILE", env = "STEADFAST_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where everything is kept [default: ./steadfast-data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where the store is kept, if not under the data directory
    #[arg(long, value_name = "DIR")]
    pub store_dir: Option<PathBuf>,
    /// Where services call [default: 127.0.0.1:50051]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// Where operators and monitoring call [default: 127.0.0.1:50052]
    #[arg(long, value_name = "ADDRESS")]
    pub operations_listen: Option<SocketAddr>,
    /// Let other machines reach the operations listener, without a token
    #[arg(long)]
    pub insecure_operations: bool,
    /// Let operators inject faults into the store, for a game day
    #[arg(long)]
    pub fault_injection: bool,
    /// Start with all writes deferred: they are accepted and wait, until an operator releases them
    #[arg(long)]
    pub start_held: bool,
    /// error, warn, info, debug, trace, or a filter such as `info,steadfast::journal=debug`
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Any other setting, such as `journal.total_quota="16 GiB"`; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = assignment)]
    pub set: Vec<(String, String)>,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err("write it as section.key=value".to_owned()),
    }
}

impl ConfigOptions {
    /// Loads the configuration with this process's environment.
    pub fn load(&self) -> Result<Effective, ConfigError> {
        self.sources().load()
    }

    fn sources(&self) -> Sources {
        let mut flags = Vec::new();
        let mut flag = |name: &str, key: &str, value: Option<String>| {
            if let Some(value) = value {
                flags.push((name.to_owned(), key.to_owned(), value));
            }
        };
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        flag("--data-dir", "data_dir", path(&self.data_dir));
        flag("--store-dir", "store.dir", path(&self.store_dir));
        flag("--listen", "server.listen", self.listen.map(|address| address.to_string()));
        let operations = self.operations_listen.map(|address| address.to_string());
        flag("--operations-listen", "server.operations_listen", operations);
        let insecure = self.insecure_operations.then(|| "true".to_owned());
        flag("--insecure-operations", "server.insecure_operations", insecure);
        let injection = self.fault_injection.then(|| "true".to_owned());
        flag("--fault-injection", "server.fault_injection", injection);
        flag("--start-held", "control.start_held", self.start_held.then(|| "true".to_owned()));
        flag("--log-level", "log.level", self.log_level.clone());
        for (key, value) in &self.set {
            flag("--set", key, Some(value.clone()));
        }
        // A variable that is not Unicode cannot be one of ours.
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Sources { file: self.config.clone(), environment, flags }
    }
}
