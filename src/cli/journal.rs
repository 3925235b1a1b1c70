//! `steadfast journal check`: is everything that was kept still there?

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::options::ConfigOptions;
use super::{failed, misconfigured};
use crate::journal::check::check;
use crate::journal::fs::RealFs;

/// Commands about the journal's files.
#[derive(Args, Clone, Debug)]
pub struct JournalArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: JournalCommand,
}

/// What can be done with the journal's files.
#[derive(Subcommand, Clone, Debug)]
pub enum JournalCommand {
    /// Verify every byte; changes nothing
    Check(CheckArgs),
}

/// Arguments of `steadfast journal check`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  \
    steadfast journal check\n  \
    steadfast journal check --dir /var/lib/steadfast/journal --json\n\n\
    Exit status: 0 sound (a torn tail after an unclean stop is), 1 damaged or unreadable, 2 wrong usage.\n\
    Of a running server's journal only what was synced before counts: its end may look torn.")]
pub struct CheckArgs {
    /// The journal's directory [default: the configured one]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// As JSON, for programs
    #[arg(long)]
    pub json: bool,
    /// What to load.
    #[command(flatten)]
    pub options: ConfigOptions,
}

impl JournalArgs {
    /// Runs the command.
    pub fn run(&self) -> ExitCode {
        match &self.command {
            JournalCommand::Check(args) => args.run(),
        }
    }
}

impl CheckArgs {
    fn run(&self) -> ExitCode {
        let dir = match (&self.dir, self.options.load()) {
            (Some(dir), _) => dir.clone(),
            (None, Ok(effective)) => effective.config.journal.dir,
            (None, Err(error)) => return misconfigured(&error),
        };
        let report = match check(&RealFs, &dir) {
            Ok(report) => report,
            Err(error) => return failed(&error),
        };
        let text = if self.json {
            match serde_json::to_string_pretty(&report) {
                Ok(json) => json,
                Err(error) => return failed(&error),
            }
        } else {
            report.to_string()
        };
        match writeln!(io::stdout().lock(), "{}", text.trim_end()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => failed(&error),
            _ if report.is_sound() => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        }
    }
}
