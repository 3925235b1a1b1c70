//! `steadfast restore`: makes a node's directories out of a backup.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::options::ConfigOptions;
use super::{failed, misconfigured, output};
use crate::snapshot::backup::{Target, restore};

/// The command line of `steadfast restore`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  \
    steadfast restore --from /mnt/backup/steadfast --data-dir /var/lib/steadfast\n\n\
    No server may run on the directories; they must be empty or missing. What is restored is a node of its own, which\n\
    continues the numbering of the old one: positions of old receipts are not known to it. The first start fills the\n\
    store. After an interruption the same command goes on.\n\n\
    Exit status: 0 restored, 1 not (the message says why), 2 wrong usage.")]
pub struct RestoreArgs {
    /// The backup: what `steadfast snapshot --to` was given
    #[arg(long, value_name = "DIR")]
    pub from: PathBuf,
    /// Where to.
    #[command(flatten)]
    pub options: ConfigOptions,
}

impl RestoreArgs {
    /// Runs the command.
    pub fn run(&self) -> ExitCode {
        let config = match self.options.load() {
            Ok(effective) => effective.config,
            Err(error) => return misconfigured(&error),
        };
        let target =
            Target { journal: config.journal.dir, snapshots: config.snapshots.dir, store: config.store.dir };
        match restore(&self.from, &target, &mut |step| eprintln!("steadfast: {step}")) {
            Ok(node) => {
                let text = format!(
                    "restored as node {node} in {}; start it with `steadfast serve`: it serves at once and fills its \
                     store meanwhile",
                    target.journal.display()
                );
                match output::line(&text) {
                    Ok(()) => ExitCode::SUCCESS,
                    Err(error) => failed(&error),
                }
            }
            Err(error) => failed(&error),
        }
    }
}
