//! `steadfast journal check`: is everything that was kept still there? `steadfast journal repair`: make what is left
//! of it open again.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::options::ConfigOptions;
use super::{failed, misconfigured};
use crate::clock::{Clock as _, SystemClock};
use crate::fs::{Fs, RealFs};
use crate::journal::SnapshotRef;
use crate::journal::check::check;
use crate::journal::repair::{RepairOptions, repair};
use crate::snapshot::SnapshotReader;

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
    /// Make a journal that refuses to open open again, keeping all that is whole
    Repair(RepairArgs),
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

/// Arguments of `steadfast journal repair`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  \
    steadfast journal repair --dry-run\n  \
    steadfast journal repair --dry-run /var/lib/steadfast/journal\n\n\
    The server must be stopped. What is cut is saved to repair-TIME in the journal's directory first. Positions that \
    are lost\nare told, and no longer claimed by the journal. If there is a backup, or another copy of the damaged \
    file, use that instead.\n\
    Exit status: 0 nothing to repair, or repaired; 1 not repaired (--dry-run: there is something to repair); 2 wrong \
    usage.")]
pub struct RepairArgs {
    /// The journal's directory [default: the configured one]
    #[arg(value_name = "DIR")]
    pub path: Option<PathBuf>,
    /// The same, as `journal check` has it
    #[arg(long, value_name = "DIR", conflicts_with = "path")]
    pub dir: Option<PathBuf>,
    /// Say what is damaged and what would be lost; change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Where the snapshots are, of use if the manifest is lost [default: the configured place]
    #[arg(long, value_name = "DIR")]
    pub snapshots: Option<PathBuf>,
    /// Go on although nothing but the store holds what was released from the journal
    #[arg(long)]
    pub without_snapshot: bool,
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
            JournalCommand::Repair(args) => args.run(),
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
        print(&report, self.json, report.is_sound())
    }
}

impl RepairArgs {
    fn run(&self) -> ExitCode {
        let given = self.path.as_ref().or(self.dir.as_ref());
        let (dir, snapshots) = match (given, &self.snapshots, self.options.load()) {
            (Some(dir), Some(snapshots), _) => (dir.clone(), snapshots.clone()),
            (_, _, Ok(effective)) => {
                let dir = given.cloned().unwrap_or(effective.config.journal.dir);
                let snapshots = self.snapshots.clone();
                (dir, snapshots.unwrap_or(effective.config.snapshots.dir))
            }
            (_, _, Err(error)) => return misconfigured(&error),
        };
        let options = RepairOptions {
            save_as: format!("repair-{}", SystemClock.now().0 / 1_000_000_000),
            dry_run: self.dry_run,
            without_snapshot: self.without_snapshot,
            snapshots: match known_snapshots(&snapshots) {
                Ok(known) => known,
                Err(error) => return failed(&error),
            },
            dir,
        };
        let fs: Arc<dyn Fs> = Arc::new(RealFs);
        match repair(&fs, &options) {
            Ok(report) => print(&report, self.json, report.is_sound() || !self.dry_run),
            Err(error) => failed(&error),
        }
    }
}

/// The snapshots in a directory that are whole; those that are not are told.
fn known_snapshots(dir: &Path) -> io::Result<Vec<SnapshotRef>> {
    let names = match RealFs.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut known = Vec::new();
    // A dot begins the rest of the name of one that is being written.
    for name in names.into_iter().filter(|name| name.starts_with("snapshot-") && !name.contains('.')) {
        let opened = SnapshotReader::open_file(&RealFs, &dir.join(&name));
        match opened.and_then(|reader| reader.verify(&mut |_| Ok(())).map(|()| reader)) {
            Ok(reader) => known.push(SnapshotRef {
                name,
                start: reader.header().start,
                bytes: reader.bytes(),
                taken_at: reader.header().created_at,
            }),
            Err(error) => writeln!(io::stderr().lock(), "not a snapshot that can be used: {error}")?,
        }
    }
    Ok(known)
}

fn print<R: Serialize + Display>(report: &R, json: bool, is_good: bool) -> ExitCode {
    let text = if json {
        match serde_json::to_string_pretty(report) {
            Ok(json) => json,
            Err(error) => return failed(&error),
        }
    } else {
        report.to_string()
    };
    match writeln!(io::stdout().lock(), "{}", text.trim_end()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => failed(&error),
        _ if is_good => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
