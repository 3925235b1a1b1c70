//! `steadfast backup verify`: is everything in a backup still there?

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use prost_types::Timestamp;
use serde_json::json;

use super::{failed, output, times};
use crate::model::EventTime;
use crate::snapshot::backup::{Verified, verify};

/// Commands about backups.
#[derive(Args, Clone, Debug)]
pub struct BackupArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: BackupCommand,
}

/// What can be done with a backup.
#[derive(Subcommand, Clone, Debug)]
pub enum BackupCommand {
    /// Read every byte of a backup and verify it; changes nothing and needs no server
    Verify(VerifyArgs),
}

/// Arguments of `steadfast backup verify`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  \
    steadfast backup verify /mnt/backup/steadfast\n  \
    steadfast backup verify /mnt/backup/steadfast --json\n\n\
    Exit status: 0 complete and sound, 1 incomplete, damaged or unreadable, 2 wrong usage.")]
pub struct VerifyArgs {
    /// The backup: what `steadfast snapshot --to` was given
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// As JSON, for programs
    #[arg(long)]
    pub json: bool,
}

impl BackupArgs {
    /// Runs the command.
    pub fn run(&self) -> ExitCode {
        let BackupCommand::Verify(args) = &self.command;
        let text = match verify(&args.dir) {
            Ok(backup) if args.json => json(&backup),
            Ok(backup) => describe(&backup),
            Err(error) => return failed(&error),
        };
        match output::line(&text) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        }
    }
}

fn time(event: EventTime) -> String {
    const SECOND: u64 = 1_000_000_000;
    let time = Timestamp { seconds: (event.0 / SECOND) as i64, nanos: (event.0 % SECOND) as i32 };
    times::format(&time).unwrap_or_default()
}

fn json(backup: &Verified) -> String {
    let Verified { journal, snapshot, counts } = backup;
    json!({
        "sound": true,
        "node": journal.node.to_string(),
        "last_position": journal.positions.1.max(snapshot.start.saturating_sub(1)),
        "journal": {
            "segments": journal.segments, "entries": journal.entries, "bytes": journal.bytes,
            "last_accepted_at": journal.accepted.map(|(_, last)| time(last)),
        },
        "snapshot": {
            "name": snapshot.name, "start": snapshot.start, "bytes": snapshot.bytes,
            "taken_at": time(snapshot.taken_at), "profiles": counts.profiles,
            "deleted": counts.graves, "refused": counts.refused, "attributes": counts.attributes,
            "request_ids": counts.request_ids, "waiting": counts.waiting,
        },
    })
    .to_string()
}

/// A backup in a few lines, for people.
pub fn describe(backup: &Verified) -> String {
    let Verified { journal, snapshot, counts } = backup;
    let last = journal
        .accepted
        .map_or_else(String::new, |(_, last)| format!(", the last one accepted at {}", time(last)));
    let end = journal.positions.1.max(snapshot.start.saturating_sub(1));
    format!(
        "complete and sound: a backup of node {}, with all that it accepted up to entry {end}\n\
         snapshot {}: {} profiles, {} deleted, {} refused, {} waiting; begun at {}\n\
         journal: {} entries in {} segments{last}",
        journal.node,
        snapshot.name,
        counts.profiles,
        counts.graves,
        counts.refused,
        counts.waiting,
        time(snapshot.taken_at),
        journal.entries,
        journal.segments,
    )
}
