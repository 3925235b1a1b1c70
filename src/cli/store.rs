//! `steadfast store rebuild`: a new store out of snapshot and journal, while the server runs.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::amounts::{count, span_or_dash};
use super::exit::{Exit, after_help};
use super::failure::CliError;
use super::operations::{OperatorArgs, owner};
use super::output;
use super::progress;
use super::status_json::rebuild_json;
use super::values::printable;
use crate::proto::{RebuildStatus, RebuildStoreRequest, TaskState};

/// Commands about a running server's store.
#[derive(Args, Debug)]
pub struct StoreArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: StoreCommand,
}

/// What can be done with a running server's store.
#[derive(Subcommand, Debug)]
pub enum StoreCommand {
    /// Build a new store out of snapshot and journal, while writes are accepted, and put it in the old one's place
    Rebuild(RebuildArgs),
}

/// The command line of `steadfast store rebuild`.
#[derive(Args, Debug)]
#[command(after_help = after_help!(
"Examples:
  steadfast store rebuild --reason 'disk replaced' --wait
  steadfast store rebuild --to /mnt/other/store --reason 'old disk is slow'"))]
pub struct RebuildArgs {
    /// Build it in this directory of the server, on another disk perhaps [default: beside the old one]
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
    /// Why; it is logged
    #[arg(long, default_value = "asked for on the command line", value_name = "TEXT")]
    pub reason: String,
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

impl StoreArgs {
    /// Whether errors are to be JSON.
    pub fn json(&self) -> bool {
        let StoreCommand::Rebuild(args) = &self.command;
        args.operator.json
    }
}

/// Runs the command.
pub async fn run(args: &StoreArgs) -> Result<Exit, CliError> {
    let StoreCommand::Rebuild(args) = &args.command;
    let mut client = args.operator.connect().await?;
    let request = RebuildStoreRequest {
        directory: args.to.as_ref().map(|dir| dir.display().to_string()).unwrap_or_default(),
        reason: args.reason.clone(),
        owner: owner(args.owner.as_ref()),
    };
    let answer = client.rebuild_store(args.operator.request(request)).await;
    let mut rebuild =
        answer.map_err(|status| CliError::read(&status))?.into_inner().rebuild.unwrap_or_default();
    if args.wait {
        rebuild = progress::wait(&args.operator, &mut client, rebuild).await?;
    }
    if args.operator.json {
        output::line(&rebuild_json(&rebuild).to_string())?;
    } else {
        output::line(&text(&rebuild))?;
    }
    Ok(if rebuild.state() == TaskState::Failed { Exit::Refused } else { Exit::Ok })
}

fn text(rebuild: &RebuildStatus) -> String {
    let generation = rebuild.generation;
    match rebuild.state() {
        TaskState::Running => format!(
            "rebuilding: generation {generation} in {}, {} of {} records, {} left; see `steadfast status`",
            printable(&rebuild.directory),
            count(rebuild.done),
            count(rebuild.total),
            span_or_dash(rebuild.time_left.as_ref())
        ),
        TaskState::Done => {
            format!("rebuilt: generation {generation} has taken over, {} records", count(rebuild.done))
        }
        TaskState::Failed => {
            format!("failed, and the old store stays: {}", printable(&rebuild.error))
        }
        TaskState::Unspecified => "no rebuild".to_owned(),
    }
}
