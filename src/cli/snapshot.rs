//! `steadfast snapshot`: a snapshot, or a backup, of a running server.

use std::path::PathBuf;

use clap::Args;

use super::amounts::{bytes, count};
use super::exit::{Exit, after_help};
use super::failure::CliError;
use super::operations::{OperatorArgs, owner};
use super::output;
use super::progress;
use super::status_json::snapshot_json;
use super::values::printable;
use crate::proto::{SnapshotStatus, TakeSnapshotRequest, TaskState};

/// The command line of `steadfast snapshot`.
#[derive(Args, Debug)]
#[command(after_help = after_help!(
"Examples:
  steadfast snapshot --wait
  steadfast snapshot --to /mnt/backup/steadfast --wait
  steadfast backup verify /mnt/backup/steadfast"))]
pub struct SnapshotArgs {
    /// Make a backup in this directory of the server: a snapshot, and the journal from its start [absolute path]
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
    /// Who, where the server knows no tokens [default: the login name]
    #[arg(long, env = "STEADFAST_OWNER", value_name = "NAME")]
    pub owner: Option<String>,
    /// Wait until it is done, and show how far it is
    #[arg(long)]
    pub wait: bool,
    /// What all commands for operators take.
    #[command(flatten)]
    pub operator: OperatorArgs,
}

/// Runs the command.
pub async fn run(args: &SnapshotArgs) -> Result<Exit, CliError> {
    let mut client = args.operator.connect().await?;
    let request = TakeSnapshotRequest {
        backup_directory: args.to.as_ref().map(|dir| dir.display().to_string()).unwrap_or_default(),
        owner: owner(args.owner.as_ref()),
    };
    let answer = client.take_snapshot(args.operator.request(request)).await;
    let mut snapshot =
        answer.map_err(|status| CliError::read(&status))?.into_inner().snapshot.unwrap_or_default();
    if args.wait {
        snapshot = progress::wait(&args.operator, &mut client, snapshot).await?;
    }
    if args.operator.json {
        output::line(&snapshot_json(&snapshot).to_string())?;
    } else {
        output::line(&text(&snapshot))?;
    }
    Ok(if snapshot.state() == TaskState::Failed { Exit::Refused } else { Exit::Ok })
}

fn text(snapshot: &SnapshotStatus) -> String {
    let backup = (!snapshot.backup_directory.is_empty()).then(|| printable(&snapshot.backup_directory));
    let what = backup.as_ref().map_or("snapshot".to_owned(), |dir| format!("backup in {dir}"));
    match snapshot.state() {
        TaskState::Running => format!(
            "{what}: {} of about {} records written; see `steadfast status`",
            count(snapshot.done),
            count(snapshot.total)
        ),
        TaskState::Done => format!(
            "{what}: complete and verified; the snapshot has {} and replay goes on from entry {}",
            bytes(snapshot.last_bytes),
            snapshot.last_position
        ),
        TaskState::Failed => format!("{what}: failed: {}", printable(&snapshot.error)),
        TaskState::Unspecified => "no snapshot".to_owned(),
    }
}
