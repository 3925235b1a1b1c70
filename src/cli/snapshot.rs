//! `steadfast snapshot`: a snapshot, or a backup, of a running server.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::amounts::{bytes, count};
use super::exit::{Exit, after_help};
use super::failure::CliError;
use super::operations::{OperatorArgs, OperatorClient, owner};
use super::output;
use super::status_json::snapshot_json;
use super::values::printable;
use crate::proto::{GetStatusRequest, SnapshotStatus, TakeSnapshotRequest, TaskState};

/// How often is asked how far it is.
const LOOK: Duration = Duration::from_millis(250);

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
        snapshot = wait(args, &mut client, snapshot).await?;
    }
    if args.operator.json {
        output::line(&snapshot_json(&snapshot).to_string())?;
    } else {
        output::line(&text(&snapshot))?;
    }
    Ok(if snapshot.state() == TaskState::Failed { Exit::Refused } else { Exit::Ok })
}

/// Asks again and again until it has ended.
async fn wait(
    args: &SnapshotArgs,
    client: &mut OperatorClient,
    begun: SnapshotStatus,
) -> Result<SnapshotStatus, CliError> {
    let bar = ProgressBar::new(begun.total);
    if args.operator.json {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let template = "{wide_bar} {percent:>3} %  {human_pos}/{human_len} records";
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut last = begun;
    while last.state() == TaskState::Running {
        bar.set_length(last.total);
        bar.set_position(last.done);
        tokio::time::sleep(LOOK).await;
        let request = GetStatusRequest { site: String::new(), max_sites: 1 };
        let answer = client.get_status(args.operator.request(request)).await;
        let status = answer.map_err(|status| CliError::read(&status))?.into_inner().status;
        let snapshot = status.and_then(|status| status.snapshot);
        last = snapshot
            .ok_or_else(|| CliError::Answer("it does not know of the snapshot any more".to_owned()))?;
    }
    bar.finish_and_clear();
    Ok(last)
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
