//! `steadfast status` and `steadfast watch`: the state of a node on one screen.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use clap::Args;

use super::connect::parse_timeout;
use super::exit::{Exit, after_help};
use super::failure::CliError;
use super::operations::OperatorArgs;
use super::output::{self, Style};
use super::status_json::status_json;
use super::status_text::status_text;
use crate::proto::{GetStatusRequest, NodeStatus, WatchStatusRequest};

/// Clears a terminal and goes to its first line.
const CLEAR: &str = "\u{1b}[2J\u{1b}[H";

/// The command line of `steadfast status`.
#[derive(Args, Debug)]
#[command(after_help = after_help!(
"Examples:
  steadfast status
  steadfast status --site acme
  steadfast status --json | jq .restart"))]
pub struct StatusArgs {
    /// Tell only of this site
    #[arg(long, value_name = "SITE")]
    pub site: Option<String>,
    /// At most so many sites, those with the longest backlogs
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub sites: u16,
    /// What all commands for operators take.
    #[command(flatten)]
    pub operator: OperatorArgs,
}

/// The command line of `steadfast watch`.
#[derive(Args, Debug)]
#[command(after_help = after_help!(
"Examples:
  steadfast watch
  steadfast watch --every 200ms --site acme
  steadfast watch --json --count 60"))]
pub struct WatchArgs {
    /// Tell only of this site
    #[arg(long, value_name = "SITE")]
    pub site: Option<String>,
    /// At most so many sites, those with the longest backlogs
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub sites: u16,
    /// Time between two
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = parse_timeout)]
    pub every: Duration,
    /// End after so many
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// What all commands for operators take.
    #[command(flatten)]
    pub operator: OperatorArgs,
}

/// Runs `steadfast status`.
pub async fn run(args: &StatusArgs) -> Result<Exit, CliError> {
    let mut client = args.operator.connect().await?;
    let request =
        GetStatusRequest { site: args.site.clone().unwrap_or_default(), max_sites: i32::from(args.sites) };
    let answer = client.get_status(args.operator.request(request)).await;
    let status = answer.map_err(|status| CliError::read(&status))?.into_inner().status;
    output::line(&show(status, args.operator.json)?)?;
    Ok(Exit::Ok)
}

/// Runs `steadfast watch`: until interrupted, or the server goes.
pub async fn watch(args: &WatchArgs) -> Result<Exit, CliError> {
    let mut client = args.operator.connect().await?;
    let request = WatchStatusRequest {
        site: args.site.clone().unwrap_or_default(),
        max_sites: i32::from(args.sites),
        interval: Some(prost_types::Duration {
            seconds: args.every.as_secs() as i64,
            nanos: args.every.subsec_nanos() as i32,
        }),
    };
    let answer = client.watch_status(request).await;
    let mut statuses = answer.map_err(|status| CliError::read(&status))?.into_inner();
    let live = !args.operator.json && std::io::stdout().is_terminal();
    let mut shown = 0;
    while args.count.is_none_or(|count| shown < count) {
        let next = statuses.message().await.map_err(|status| CliError::read(&status))?;
        let Some(next) = next else { break };
        let text = show(next.status, args.operator.json)?;
        if live {
            let mut out = std::io::stdout().lock();
            write!(out, "{CLEAR}{text}\n\n(ctrl-c ends this; the server is not concerned)\n")?;
            out.flush()?;
        } else {
            output::line(&text)?;
        }
        shown += 1;
    }
    Ok(Exit::Ok)
}

fn show(status: Option<NodeStatus>, json: bool) -> Result<String, CliError> {
    let status = status.ok_or_else(|| CliError::Answer("there is no status in it".to_owned()))?;
    if json { Ok(status_json(&status).to_string()) } else { Ok(status_text(&status, Style::stdout())) }
}
