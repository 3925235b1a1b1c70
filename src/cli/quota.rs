//! `steadfast quota`: how much of the journal a site, or all together, may use.

use clap::Args;

use super::amounts::{bytes, proto_span, span};
use super::exit::{Exit, after_help};
use super::failure::CliError;
use super::operations::{CauseArgs, OperatorArgs, owner};
use super::output;
use super::status_json::quota_json;
use super::values::printable;
use crate::config::ByteSize;
use crate::proto::{QuotaStatus, SetQuotaRequest, set_quota_request::Quota};

/// The command line of `steadfast quota`.
#[derive(Args, Debug)]
#[command(after_help = after_help!(
"Examples:
  steadfast quota --site acme '4 GiB' --reason 'import of the year'
  steadfast quota --total '32 GiB' --reason 'the store is down'
  steadfast quota --site acme configured --reason 'import is over'"))]
#[command(group = clap::ArgGroup::new("scope").required(true))]
pub struct QuotaArgs {
    /// Of this site
    #[arg(long, value_name = "SITE", group = "scope")]
    pub site: Option<String>,
    /// Of all sites together
    #[arg(long, group = "scope")]
    pub total: bool,
    /// So many bytes, such as '4 GiB', at least 64 MiB; or `configured`
    #[arg(value_name = "BYTES", value_parser = parse)]
    pub limit: Limit,
    /// Who, why.
    #[command(flatten)]
    pub cause: CauseArgs,
    /// What all commands for operators take.
    #[command(flatten)]
    pub operator: OperatorArgs,
}

/// A quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// As configured.
    Configured,
    /// So many bytes.
    Bytes(u64),
}

fn parse(text: &str) -> Result<Limit, String> {
    if text == "configured" {
        return Ok(Limit::Configured);
    }
    text.parse::<ByteSize>().map(|size| Limit::Bytes(size.0)).map_err(|error| error.to_string())
}

/// Runs the command.
pub async fn run(args: &QuotaArgs) -> Result<Exit, CliError> {
    let mut client = args.operator.connect().await?;
    let request = SetQuotaRequest {
        site: args.site.clone().unwrap_or_default(),
        quota: Some(match args.limit {
            Limit::Configured => Quota::Configured(()),
            Limit::Bytes(bytes) => Quota::LimitBytes(bytes),
        }),
        reason: args.cause.reason.clone(),
        owner: owner(args.cause.owner.as_ref()),
    };
    let answer = client.set_quota(args.operator.request(request)).await;
    let quota = answer.map_err(|status| CliError::read(&status))?.into_inner().quota.unwrap_or_default();
    let text = if args.operator.json { quota_json(&quota).to_string() } else { text(&quota) };
    output::line(&text)?;
    Ok(Exit::Ok)
}

fn text(quota: &QuotaStatus) -> String {
    let of = if quota.site.is_empty() { "all sites".to_owned() } else { printable(&quota.site) };
    let set = if quota.overridden { "until the server restarts" } else { "as configured" };
    let full = proto_span(quota.time_to_full.as_ref())
        .map_or_else(String::new, |left| format!(", full in {}", span(left)));
    format!("{of}: {} of {} used{full} ({set})", bytes(quota.used_bytes), bytes(quota.limit_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_bytes_or_as_configured() {
        assert_eq!(parse("configured"), Ok(Limit::Configured));
        assert_eq!(parse("4 GiB"), Ok(Limit::Bytes(4 << 30)));
        assert!(parse("much").is_err());
    }
}
