//! `steadfast config`: the effective configuration.

use std::io::{self, Write as _};

use clap::Args;

use super::options::ConfigOptions;
use crate::config::Effective;

/// Arguments of `steadfast config`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  \
    steadfast config > steadfast.toml\n  \
    STEADFAST_SERVER_MAX_CONNECTIONS=100 steadfast config --set writes.reply_after=\"100 ms\"\n  \
    steadfast config --json | jq '.[\"server.listen\"]'")]
pub struct ConfigArgs {
    /// As JSON, for programs
    #[arg(long)]
    pub json: bool,
    /// What to load.
    #[command(flatten)]
    pub options: ConfigOptions,
}

impl ConfigArgs {
    /// Prints a loaded configuration to standard output.
    pub fn print(&self, effective: &Effective) -> io::Result<()> {
        let text = if self.json { format!("{:#}\n", effective.to_json()) } else { effective.to_toml() };
        match io::stdout().lock().write_all(text.as_bytes()) {
            // The reader has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => written,
        }
    }
}
