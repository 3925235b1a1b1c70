//! `steadfast write`: what became of a write.

use clap::Args;
use serde_json::json;

use super::client::Common;
use super::exit::{Exit, after_help};
use super::failure::CliError;
use super::output;
use super::values::printable;
use crate::proto::{GetWriteRequest, Position, RefusalReason, WriteState};

/// The command line of `steadfast write`.
#[derive(Args, Debug)]
#[command(after_help = after_help!(
"Examples:
  steadfast write acme 00c0ffee00c0ffee/42
  steadfast write acme 00c0ffee00c0ffee/42 --json"))]
pub struct GetWriteArgs {
    /// The site
    pub site: String,
    /// The position, as node/number
    #[arg(value_parser = output::parse_position)]
    pub position: Position,
    /// What all commands take.
    #[command(flatten)]
    pub common: Common,
}

/// Runs the command.
pub async fn run(args: &GetWriteArgs) -> Result<Exit, CliError> {
    let mut client = args.common.server.connect().await?;
    let request = GetWriteRequest { site: args.site.clone(), position: Some(args.position.clone()) };
    let answer = client.get_write(args.common.server.request(request)).await;
    let answer = answer.map_err(|status| CliError::read(&status))?.into_inner();
    let (name, exit) = match answer.state() {
        WriteState::Pending => ("PENDING", Exit::TryAgain),
        WriteState::Applied => ("APPLIED", Exit::Ok),
        WriteState::Refused => ("REFUSED", Exit::Refused),
        WriteState::Unspecified => return Err(CliError::Answer(format!("write state {}", answer.state))),
    };
    let refusal = match answer.refusal() {
        RefusalReason::Unspecified => None,
        reason => Some(reason.as_str_name().trim_start_matches("REFUSAL_REASON_")),
    };
    if args.common.json {
        let json = json!({
            "position": output::position_text(&args.position), "state": name, "refusal": refusal,
            "message": (!answer.message.is_empty()).then_some(&answer.message),
        });
        output::line(&json.to_string())?;
    } else {
        let refusal = refusal.map(|reason| format!("  {reason}: {}", printable(&answer.message)));
        output::line(&format!("{}{}", name.to_lowercase(), refusal.unwrap_or_default()))?;
    }
    Ok(exit)
}
