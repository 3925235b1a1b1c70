//! `steadfast hold`, `release`, `holds`: the kill switch.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::connect::parse_timeout;
use super::exit::{Exit, after_help};
use super::failure::CliError;
use super::hold_text;
use super::operations::{CauseArgs, OperatorArgs, owner};
use super::output;
use crate::proto::{
    self, ExtendHoldRequest, HoldScope, HoldStatus, ListHoldEventsRequest, ListHoldsRequest,
    PlaceHoldRequest, ReleaseHoldRequest, extend_hold_request, place_hold_request,
};

/// The command line of `steadfast hold`.
#[derive(Args, Debug)]
#[command(subcommand_negates_reqs = true)]
#[command(after_help = after_help!(
"Examples:
  steadfast hold --mode defer --reason 'the disk is being replaced'
  steadfast hold --site acme --mode defer --reason 'import went wrong' --for 30m --wait-drained 10s
  steadfast hold --site acme --mode reject --op identify --users 50 --reason 'half of them first'
  steadfast hold --mode reject --reason drill --dry-run
  steadfast hold extend hold-17 --for 2h --reason 'not done yet'
  steadfast hold history hold-17
  steadfast hold recover --reason 'nothing was held'"))]
pub struct HoldArgs {
    /// What else can be done with holds.
    #[command(subcommand)]
    pub command: Option<HoldCommand>,
    /// What to stop and how.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// What all commands for operators take.
    #[command(flatten)]
    pub operator: OperatorArgs,
}

/// A hold to place.
#[derive(Args, Debug)]
pub struct PlaceArgs {
    /// Writes of this site [default: of the whole node]
    #[arg(long, value_name = "SITE")]
    pub site: Option<String>,
    /// observe only counts; defer accepts writes and lets them wait; reject refuses
    #[arg(long, required = true)]
    pub mode: Option<ModeArg>,
    /// Which operations [default: writes]
    #[arg(long = "op", value_name = "OPERATION", value_delimiter = ',')]
    pub operations: Vec<OperationArg>,
    /// Only this share of the users, in percent. The same users are in it for every hold: to let them back in step by
    /// step, place a smaller one, then release the larger
    #[arg(long, value_name = "PERCENT")]
    pub users: Option<f64>,
    /// When it ends by itself: 90s, 30m, 12h, 7d [default: 1h]
    #[arg(long = "for", value_name = "TIME", value_parser = parse_span, conflicts_with = "never")]
    pub lasts: Option<Duration>,
    /// It does not end by itself
    #[arg(long)]
    pub never: bool,
    /// A ticket or link
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub ticket: String,
    /// Why; it is logged, and told to everybody who asks
    #[arg(long, value_name = "TEXT", required = true)]
    pub reason: Option<String>,
    /// Who, where the server knows no tokens [default: the login name]
    #[arg(long, env = "STEADFAST_OWNER", value_name = "NAME")]
    pub owner: Option<String>,
    /// Only tell what it would touch
    #[arg(long)]
    pub dry_run: bool,
    /// Wait until the requests admitted before it have ended, at most so long
    #[arg(long, value_name = "TIME", value_parser = parse_timeout)]
    pub wait_drained: Option<Duration>,
}

/// What a hold does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModeArg {
    /// Only count.
    Observe,
    /// Accept, and let wait.
    Defer,
    /// Refuse.
    Reject,
}

/// What services do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OperationArg {
    /// Identify and delete.
    Writes,
    /// Writes of attributes, imports.
    Identify,
    /// Erasures.
    Delete,
    /// Queries, counts, exports.
    Query,
    /// Reads of single users.
    Get,
}

/// What else can be done with holds.
#[derive(Debug, Subcommand)]
pub enum HoldCommand {
    /// Give a hold another expiry, from now on
    Extend(ExtendArgs),
    /// What was done about holds and overrides, by whom and why, newest first
    History(HistoryArgs),
    /// Give up the holds that the server cannot read: `holds-unreadable` ends, the unreadable log is set aside
    Recover(RecoverArgs),
}

/// The command line of `steadfast hold extend`.
#[derive(Args, Debug)]
pub struct ExtendArgs {
    /// The hold
    pub id: String,
    /// When it ends by itself, from now on: 90s, 30m, 12h, 7d
    #[arg(long = "for", value_name = "TIME", value_parser = parse_span, required_unless_present = "never")]
    pub lasts: Option<Duration>,
    /// It does not end by itself
    #[arg(long, conflicts_with = "lasts")]
    pub never: bool,
    /// Who, why.
    #[command(flatten)]
    pub cause: CauseArgs,
    /// What all commands for operators take.
    #[command(flatten)]
    pub operator: OperatorArgs,
}

/// The command line of `steadfast hold history`.
#[derive(Args, Debug)]
pub struct HistoryArgs {
    /// Only of this hold
    pub id: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
    /// What all commands for operators take.
    #[command(flatten)]
    pub operator: OperatorArgs,
}

/// The command line of `steadfast hold recover`.
#[derive(Args, Debug)]
pub struct RecoverArgs {
    /// Who, why.
    #[command(flatten)]
    pub cause: CauseArgs,
    /// What all commands for operators take.
    #[command(flatten)]
    pub operator: OperatorArgs,
}

/// The command line of `steadfast release`.
#[derive(Args, Debug)]
#[command(after_help = after_help!(
"Examples:
  steadfast release hold-17 --reason 'the disk is replaced'
  steadfast release hold-17 --reason drill --dry-run"))]
pub struct ReleaseArgs {
    /// The hold
    pub id: String,
    /// Only tell what would be released
    #[arg(long)]
    pub dry_run: bool,
    /// Who, why.
    #[command(flatten)]
    pub cause: CauseArgs,
    /// What all commands for operators take.
    #[command(flatten)]
    pub operator: OperatorArgs,
}

/// The command line of `steadfast holds`.
#[derive(Args, Debug)]
#[command(after_help = after_help!(
"Examples:
  steadfast holds
  steadfast holds --site acme --json"))]
pub struct HoldsArgs {
    /// Only those that concern this site
    #[arg(long, value_name = "SITE", default_value = "", hide_default_value = true)]
    pub site: String,
    /// What all commands for operators take.
    #[command(flatten)]
    pub operator: OperatorArgs,
}

/// `90s`, `30m`, `12h`, `7d`.
fn parse_span(text: &str) -> Result<Duration, String> {
    let wrong = || "give a number and a unit: 90s, 30m, 12h, 7d".to_owned();
    let (digits, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number = digits.parse::<u64>().ok().filter(|number| *number > 0).ok_or_else(wrong)?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

fn proto_duration(span: Duration) -> prost_types::Duration {
    prost_types::Duration { seconds: span.as_secs() as i64, nanos: span.subsec_nanos() as i32 }
}

/// Runs `steadfast hold`.
pub async fn run(args: &HoldArgs) -> Result<Exit, CliError> {
    match &args.command {
        None => place(&args.place, &args.operator).await,
        Some(_) if args.place.mode.is_some() => {
            Err(CliError::Usage("extend, history and recover come right after hold".to_owned()))
        }
        Some(HoldCommand::Extend(args)) => extend(args).await,
        Some(HoldCommand::History(args)) => history(args).await,
        Some(HoldCommand::Recover(args)) => {
            end("holds-unreadable", true, false, &args.cause, &args.operator).await
        }
    }
}

impl HoldArgs {
    /// What all commands for operators take.
    pub fn operator(&self) -> &OperatorArgs {
        match &self.command {
            None => &self.operator,
            Some(HoldCommand::Extend(args)) => &args.operator,
            Some(HoldCommand::History(args)) => &args.operator,
            Some(HoldCommand::Recover(args)) => &args.operator,
        }
    }
}

async fn place(args: &PlaceArgs, operator: &OperatorArgs) -> Result<Exit, CliError> {
    let mode = match args.mode {
        Some(ModeArg::Observe) => proto::HoldMode::Observe,
        Some(ModeArg::Defer) => proto::HoldMode::Defer,
        Some(ModeArg::Reject) => proto::HoldMode::Reject,
        None => return Err(CliError::Usage("--mode must be given".to_owned())),
    };
    let operations = args.operations.iter().map(|operation| match operation {
        OperationArg::Writes => proto::Operation::Writes,
        OperationArg::Identify => proto::Operation::Identify,
        OperationArg::Delete => proto::Operation::Delete,
        OperationArg::Query => proto::Operation::Query,
        OperationArg::Get => proto::Operation::Get,
    });
    let expiry = match (args.lasts, args.never) {
        (Some(lasts), _) => Some(place_hold_request::Expiry::ExpiresIn(proto_duration(lasts))),
        (None, true) => Some(place_hold_request::Expiry::Never(())),
        (None, false) => None,
    };
    let request = PlaceHoldRequest {
        scope: Some(HoldScope {
            site: args.site.clone().unwrap_or_default(),
            user_percentage: args.users,
            operations: operations.map(Into::into).collect(),
        }),
        mode: mode.into(),
        reason: args.reason.clone().unwrap_or_default(),
        owner: owner(args.owner.as_ref()),
        ticket: args.ticket.clone(),
        expiry,
        dry_run: args.dry_run,
        wait_drained: args.wait_drained.map(proto_duration),
    };
    let mut client = operator.connect().await?;
    let mut call = operator.request(request);
    if let Some(wait) = args.wait_drained {
        call.set_timeout(operator.timeout.saturating_add(wait));
    }
    let answer = client.place_hold(call).await.map_err(|status| CliError::read(&status))?.into_inner();
    let status = answer.hold.unwrap_or_default();
    let impact = answer.impact.unwrap_or_default();
    output::line(&if operator.json {
        hold_text::placed_json(&status, &impact).to_string()
    } else {
        hold_text::placed(&status, &impact, args.dry_run)
    })?;
    Ok(Exit::Ok)
}

async fn extend(args: &ExtendArgs) -> Result<Exit, CliError> {
    let expiry = match args.lasts {
        Some(lasts) => extend_hold_request::Expiry::ExpiresIn(proto_duration(lasts)),
        None => extend_hold_request::Expiry::Never(()),
    };
    let request = ExtendHoldRequest {
        hold_id: args.id.clone(),
        expiry: Some(expiry),
        reason: args.cause.reason.clone(),
        owner: owner(args.cause.owner.as_ref()),
        if_version: None,
    };
    let mut client = args.operator.connect().await?;
    let answer = client.extend_hold(args.operator.request(request)).await;
    let status = answer.map_err(|status| CliError::read(&status))?.into_inner().hold.unwrap_or_default();
    show(&[status], args.operator.json)?;
    Ok(Exit::Ok)
}

/// Runs `steadfast release`.
pub async fn release(args: &ReleaseArgs) -> Result<Exit, CliError> {
    end(&args.id, false, args.dry_run, &args.cause, &args.operator).await
}

async fn end(
    id: &str,
    recover: bool,
    dry_run: bool,
    cause: &CauseArgs,
    operator: &OperatorArgs,
) -> Result<Exit, CliError> {
    let request = ReleaseHoldRequest {
        hold_id: id.to_owned(),
        reason: cause.reason.clone(),
        owner: owner(cause.owner.as_ref()),
        if_version: None,
        dry_run,
        recover,
    };
    let mut client = operator.connect().await?;
    let answer = client.release_hold(operator.request(request)).await;
    let answer = answer.map_err(|status| CliError::read(&status))?.into_inner();
    output::line(&if operator.json {
        hold_text::released_json(&answer).to_string()
    } else {
        hold_text::released(id, &answer, dry_run)
    })?;
    Ok(if answer.durable || dry_run { Exit::Ok } else { Exit::TryAgain })
}

/// Runs `steadfast holds`.
pub async fn list(args: &HoldsArgs) -> Result<Exit, CliError> {
    let mut client = args.operator.connect().await?;
    let request = ListHoldsRequest { site: args.site.clone() };
    let answer = client.list_holds(args.operator.request(request)).await;
    show(&answer.map_err(|status| CliError::read(&status))?.into_inner().holds, args.operator.json)?;
    Ok(Exit::Ok)
}

fn show(holds: &[HoldStatus], json: bool) -> Result<(), CliError> {
    if json {
        holds.iter().try_for_each(|hold| output::line(&hold_text::status_json(hold).to_string()))
    } else {
        output::line(&hold_text::table(holds))
    }
}

async fn history(args: &HistoryArgs) -> Result<Exit, CliError> {
    const PAGE: u32 = 500;
    let mut client = args.operator.connect().await?;
    let mut left = args.limit;
    let mut page_token = String::new();
    loop {
        let request = ListHoldEventsRequest {
            hold_id: args.id.clone().unwrap_or_default(),
            page_size: left.min(PAGE) as i32,
            page_token,
        };
        let answer = client.list_hold_events(args.operator.request(request)).await;
        let answer = answer.map_err(|status| CliError::read(&status))?.into_inner();
        for event in &answer.events {
            output::line(&if args.operator.json {
                hold_text::event_json(event).to_string()
            } else {
                hold_text::event(event)
            })?;
        }
        left = left.saturating_sub(answer.events.len() as u32);
        page_token = answer.next_page_token;
        if left == 0 || page_token.is_empty() {
            return Ok(Exit::Ok);
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Alone {
        #[command(flatten)]
        args: HoldArgs,
    }

    #[test]
    fn a_hold_needs_mode_and_reason_and_the_other_commands_their_own() {
        let parse = |line: &str| Alone::try_parse_from(line.split(' '));
        let placed =
            parse("hold --site acme --mode defer --reason r --for 30m --op identify,delete").unwrap();
        assert_eq!(placed.args.place.lasts, Some(Duration::from_mins(30)));
        assert_eq!(placed.args.place.operations, [OperationArg::Identify, OperationArg::Delete]);
        for wrong in [
            "hold --mode defer",
            "hold --reason r",
            "hold --mode defer --reason r --for 1h --never",
            "hold extend hold-1 --reason r",
            "hold extend --for 1h --reason r",
            "hold recover",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        for right in [
            "hold extend hold-1 --for 1h --reason r",
            "hold extend hold-1 --never --reason r",
            "hold history",
            "hold history hold-1 --json",
            "hold recover --reason r",
        ] {
            let parsed = parse(right).unwrap();
            assert_eq!(parsed.args.operator().json, right.contains("json"), "{right}");
        }
    }

    #[test]
    fn lengths_of_time_have_a_unit() {
        assert_eq!(parse_span("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_span("7d"), Ok(Duration::from_hours(168)));
        for wrong in ["", "1", "0s", "h", "1.5h", "-1h", "99999999999999999999d", "1ü"] {
            assert!(parse_span(wrong).is_err(), "{wrong}");
        }
    }
}
