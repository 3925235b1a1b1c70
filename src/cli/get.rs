//! `steadfast get`: show one profile.

use clap::Args;

use super::client::Common;
use super::exit::{Exit, after_help};
use super::failure::CliError;
use super::output::{self, Style};
use crate::proto::GetProfileRequest;

/// The command line of `steadfast get`.
#[derive(Args, Debug)]
#[command(after_help = after_help!(
"Examples:
  steadfast get acme u1
  steadfast get acme u1 --times
  steadfast get acme u1 --json | jq .attributes.plan"))]
pub struct GetArgs {
    /// The site
    pub site: String,
    /// The user
    pub user: String,
    /// Show when each attribute was set
    #[arg(long)]
    pub times: bool,
    /// What all commands take.
    #[command(flatten)]
    pub common: Common,
}

/// Runs the command.
pub async fn run(args: &GetArgs) -> Result<Exit, CliError> {
    let mut client = args.common.server.connect().await?;
    let request = GetProfileRequest {
        site: args.site.clone(),
        user: args.user.clone(),
        include_occurred_at: args.times,
    };
    let answer = client.get_profile(args.common.server.request(request)).await;
    let answer = answer.map_err(|status| CliError::read(&status))?.into_inner();
    let profile = answer.profile.ok_or_else(|| CliError::Answer("no profile".to_owned()))?;
    if args.common.json {
        output::line(&output::profile_json(&profile)?.to_string())?;
    } else {
        output::line(&output::profile_text(&profile, Style::stdout())?)?;
    }
    Ok(Exit::Ok)
}
