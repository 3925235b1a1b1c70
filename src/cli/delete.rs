//! `steadfast delete`: erase one user.

use clap::Args;

use super::client::Common;
use super::connect;
use super::exit::{Exit, after_help};
use super::failure::CliError;
use super::identify::{WriteArgs, show};
use crate::proto::DeleteProfileRequest;

/// The command line of `steadfast delete`.
#[derive(Args, Debug)]
#[command(after_help = after_help!(
"Examples:
  steadfast delete acme u1
  steadfast delete acme u1 --if-version 7 --json"))]
pub struct DeleteArgs {
    /// The site
    pub site: String,
    /// The user
    pub user: String,
    /// How this write is made.
    #[command(flatten)]
    pub write: WriteArgs,
    /// What all commands take.
    #[command(flatten)]
    pub common: Common,
}

/// Runs the command.
pub async fn run(args: &DeleteArgs) -> Result<Exit, CliError> {
    let request_id = args.write.request_id()?;
    let request = DeleteProfileRequest {
        site: args.site.clone(),
        user: args.user.clone(),
        occurred_at: args.write.occurred_at,
        request_id: request_id.clone(),
        if_version: args.write.if_version,
        wait: args.write.wait(),
    };
    let client = args.common.server.connect().await?;
    let send = || {
        let (mut client, request) = (client.clone(), args.common.server.request(request.clone()));
        async move { client.delete_profile(request).await }
    };
    let answer = connect::write(&request_id, args.write.attempts(), send, tokio::time::sleep).await?;
    show(answer.receipt, &request_id, args.common.json)
}
