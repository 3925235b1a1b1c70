//! `steadfast breaker` and `steadfast pace`: an operator's word on the breakers of the store, and on how fast
//! waiting entries are applied.

use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::amounts::{count, rate, span_or_dash};
use super::connect::parse_timeout;
use super::exit::{Exit, after_help};
use super::failure::CliError;
use super::operations::{CauseArgs, OperatorArgs, owner};
use super::output;
use super::values::printable;
use crate::proto::{
    self, BreakerOperation, BreakerOverrideMode, BreakerScope, BreakerState, BreakerStatus,
    OverrideBreakerRequest, SetReplayPaceRequest, override_breaker_request::Expiry,
    set_replay_pace_request::Pace,
};

/// The command line of `steadfast breaker`.
#[derive(Args, Debug)]
#[command(after_help = after_help!(
"Examples:
  steadfast breaker --scope apply force-open --reason 'the disk is being replaced' --for 30m
  steadfast breaker --scope load observe --reason 'it trips too often' --for 24h
  steadfast breaker --scope apply/acme force-closed --reason 'we know that it is slow'
  steadfast breaker --scope apply auto --reason 'done'"))]
pub struct BreakerArgs {
    /// Which: apply, load or query, of the whole store; of a site as apply/SITE, where the store keeps sites apart
    #[arg(long, value_name = "SCOPE")]
    pub scope: Scope,
    /// What it shall do: auto gives it back to itself
    #[arg(value_enum)]
    pub mode: ModeArg,
    /// When it ends by itself, at most 720h: 90s, 30m, 12h [default: 1h]
    #[arg(long = "for", value_name = "TIME", value_parser = parse_span, conflicts_with = "never")]
    pub lasts: Option<Duration>,
    /// It does not end by itself
    #[arg(long)]
    pub never: bool,
    /// A ticket or link
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub ticket: String,
    /// Who, why.
    #[command(flatten)]
    pub cause: CauseArgs,
    /// What all commands for operators take.
    #[command(flatten)]
    pub operator: OperatorArgs,
}

/// The command line of `steadfast pace`.
#[derive(Args, Debug)]
#[command(after_help = after_help!(
"Examples:
  steadfast pace 500 --reason 'the new disk is slow'
  steadfast pace paused --site acme --reason 'looking into it'
  steadfast pace automatic --reason 'done'"))]
pub struct PaceArgs {
    /// Entries a second; or `paused`, or `automatic`
    #[arg(value_name = "PACE", value_parser = parse_pace)]
    pub pace: Pace,
    /// Only of this site; where both are set, the lower pace counts [default: the whole store]
    #[arg(long, value_name = "SITE", default_value = "", hide_default_value = true)]
    pub site: String,
    /// Who, why.
    #[command(flatten)]
    pub cause: CauseArgs,
    /// What all commands for operators take.
    #[command(flatten)]
    pub operator: OperatorArgs,
}

/// Which breaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    operation: BreakerOperation,
    site: String,
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (operation, site) = text.split_once('/').unwrap_or((text, ""));
        let operation = match operation {
            "apply" => BreakerOperation::Apply,
            "load" => BreakerOperation::Load,
            "query" => BreakerOperation::Query,
            _ => return Err("must be apply, load or query, or one of these with /SITE".to_owned()),
        };
        Ok(Self { operation, site: site.to_owned() })
    }
}

/// What a breaker shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModeArg {
    /// Decide by itself
    Auto,
    /// Keep all calls from the store
    ForceOpen,
    /// Let all calls through, whatever it sees
    ForceClosed,
    /// Count and tell, and never refuse
    Observe,
}

/// As for a timeout, but longer too: `720h`.
fn parse_span(text: &str) -> Result<Duration, String> {
    let hours = text.strip_suffix('h').and_then(|hours| hours.parse::<u64>().ok());
    let span = match hours {
        Some(hours) => Duration::from_secs(hours.saturating_mul(3_600)),
        None => parse_timeout(text)?,
    };
    if span.is_zero() || span > Duration::from_hours(720) {
        return Err("must be above 0 and at most 720h".to_owned());
    }
    Ok(span)
}

fn parse_pace(text: &str) -> Result<Pace, String> {
    match text {
        "paused" => Ok(Pace::Paused(())),
        "automatic" => Ok(Pace::Automatic(())),
        _ => match text.parse::<u64>() {
            Ok(rate) if rate > 0 => Ok(Pace::EntriesPerSecond(rate)),
            _ => Err("must be a number of entries a second, paused, or automatic".to_owned()),
        },
    }
}

/// Runs `steadfast breaker`.
pub async fn run(args: &BreakerArgs) -> Result<Exit, CliError> {
    let mut client = args.operator.connect().await?;
    let mode = match args.mode {
        ModeArg::Auto => BreakerOverrideMode::Auto,
        ModeArg::ForceOpen => BreakerOverrideMode::ForceOpen,
        ModeArg::ForceClosed => BreakerOverrideMode::ForceClosed,
        ModeArg::Observe => BreakerOverrideMode::Observe,
    };
    let expiry = match args.lasts {
        _ if args.never => Some(Expiry::Never(())),
        Some(lasts) => Some(Expiry::ExpiresIn(prost_types::Duration {
            seconds: i64::try_from(lasts.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(lasts.subsec_nanos()).unwrap_or_default(),
        })),
        None => None,
    };
    let request = OverrideBreakerRequest {
        scope: Some(BreakerScope { operation: args.scope.operation.into(), site: args.scope.site.clone() }),
        mode: mode.into(),
        reason: args.cause.reason.clone(),
        owner: owner(args.cause.owner.as_ref()),
        ticket: args.ticket.clone(),
        expiry,
    };
    let answer = client.override_breaker(args.operator.request(request)).await;
    let answer = answer.map_err(|status| CliError::read(&status))?.into_inner();
    let breaker = answer.breaker.unwrap_or_default();
    if args.operator.json {
        let mut json = breaker_json(&breaker);
        if let Some(object) = json.as_object_mut() {
            object.insert("durable".to_owned(), answer.durable.into());
        }
        output::line(&json.to_string())?;
    } else {
        output::line(&breaker_text(&breaker))?;
        if !answer.durable {
            output::line(match args.mode {
                ModeArg::Auto => {
                    "the end of the override is not on disk yet: until it is, the override stands"
                }
                _ => "in force, but not on disk yet: it may not survive a restart",
            })?;
        }
    }
    Ok(if answer.durable { Exit::Ok } else { Exit::TryAgain })
}

/// Runs `steadfast pace`.
pub async fn pace(args: &PaceArgs) -> Result<Exit, CliError> {
    let mut client = args.operator.connect().await?;
    let request = SetReplayPaceRequest {
        site: args.site.clone(),
        pace: Some(args.pace),
        reason: args.cause.reason.clone(),
        owner: owner(args.cause.owner.as_ref()),
    };
    let answer = client.set_replay_pace(args.operator.request(request)).await;
    let answer = answer.map_err(|status| CliError::read(&status))?.into_inner();
    let pace = answer.pace.unwrap_or_default();
    let waiting = answer.backlog.map_or(0, |backlog| backlog.entries);
    if args.operator.json {
        let json = json!({
            "site": pace.site, "entries_per_second": pace.entries_per_second, "reason": pace.reason,
            "owner": pace.owner, "waiting": waiting,
        });
        output::line(&json.to_string())?;
    } else {
        output::line(&format!("{}; {} entries wait", pace_text(&pace), count(waiting)))?;
    }
    Ok(Exit::Ok)
}

fn pace_text(pace: &proto::ReplayPace) -> String {
    let of = if pace.site.is_empty() { "the store".to_owned() } else { printable(&pace.site) };
    match pace.entries_per_second {
        None => format!("{of}: as fast as it goes"),
        Some(0) => format!("{of}: paused"),
        Some(rate) => format!("{of}: at most {} entries/s", count(rate)),
    }
}

/// `apply`, or `apply/acme`.
fn scope_text(scope: Option<&BreakerScope>) -> String {
    let Some(scope) = scope else { return "-".to_owned() };
    let operation = scope.operation().as_str_name().trim_start_matches("BREAKER_OPERATION_").to_lowercase();
    if scope.site.is_empty() { operation } else { format!("{operation}/{}", printable(&scope.site)) }
}

fn state_text(state: BreakerState) -> String {
    state.as_str_name().trim_start_matches("BREAKER_STATE_").to_lowercase().replace('_', " ")
}

fn push(text: &mut String, more: std::fmt::Arguments<'_>) {
    // Into memory: it cannot fail.
    let _ = std::fmt::Write::write_fmt(text, more);
}

/// One breaker on one line.
pub fn breaker_text(breaker: &BreakerStatus) -> String {
    let mut text = format!("{}: {}", scope_text(breaker.scope.as_ref()), state_text(breaker.state()));
    if let Some(evidence) = breaker.tripped_by.as_ref().filter(|_| breaker.state() != BreakerState::Closed) {
        let rule = evidence.rule().as_str_name().trim_start_matches("TRIP_RULE_").to_lowercase();
        push(&mut text, format_args!(", tripped by {}", rule.replace('_', " ")));
        if evidence.oldest_age.is_some() {
            push(&mut text, format_args!(", oldest call {}", span_or_dash(evidence.oldest_age.as_ref())));
        }
    }
    if breaker.next_probe_in.is_some() {
        push(&mut text, format_args!(", tries again in {}", span_or_dash(breaker.next_probe_in.as_ref())));
    }
    if let Some(admitted) = breaker.admitted {
        let unit = match breaker.scope.as_ref().map(BreakerScope::operation) {
            Some(BreakerOperation::Apply) => "entries/s",
            _ => "% of the calls",
        };
        push(&mut text, format_args!(", lets {} {unit} pass", rate(admitted)));
    }
    if let Some(order) = &breaker.operator_override {
        let mode = order.mode().as_str_name().trim_start_matches("BREAKER_OVERRIDE_MODE_").to_lowercase();
        let (mode, by, why) = (mode.replace('_', "-"), printable(&order.owner), printable(&order.reason));
        push(&mut text, format_args!(" ({mode} by {by}: {why})"));
    }
    text
}

/// One breaker as JSON.
pub fn breaker_json(breaker: &BreakerStatus) -> serde_json::Value {
    let order = breaker.operator_override.as_ref().map(|order| {
        json!({
            "mode": order.mode().as_str_name().trim_start_matches("BREAKER_OVERRIDE_MODE_").to_lowercase(),
            "reason": order.reason, "owner": order.owner, "ticket": order.ticket,
        })
    });
    let rule = breaker
        .tripped_by
        .as_ref()
        .map(|evidence| evidence.rule().as_str_name().trim_start_matches("TRIP_RULE_").to_lowercase());
    json!({
        "scope": scope_text(breaker.scope.as_ref()), "state": state_text(breaker.state()),
        "trips": breaker.trips, "tripped_by": rule, "admitted": breaker.admitted, "override": order,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_paces_and_times_are_read() {
        let scope = |operation, site: &str| Ok(Scope { operation, site: site.to_owned() });
        assert_eq!("apply".parse(), scope(BreakerOperation::Apply, ""));
        assert_eq!("load/a.b".parse(), scope(BreakerOperation::Load, "a.b"));
        assert!("disk".parse::<Scope>().is_err());
        assert_eq!(parse_pace("500"), Ok(Pace::EntriesPerSecond(500)));
        assert_eq!(parse_pace("paused"), Ok(Pace::Paused(())));
        assert!(parse_pace("0").is_err() && parse_pace("fast").is_err());
        assert_eq!(parse_span("30m"), Ok(Duration::from_mins(30)));
        assert_eq!(parse_span("24h"), Ok(Duration::from_hours(24)));
        assert!(parse_span("721h").is_err());
    }

    #[test]
    fn a_breaker_is_told_on_one_line() {
        let breaker = BreakerStatus {
            scope: Some(BreakerScope { operation: BreakerOperation::Apply.into(), site: "acme".into() }),
            state: BreakerState::HalfOpen.into(),
            tripped_by: Some(proto::BreakerEvidence {
                rule: proto::TripRule::Stall.into(),
                oldest_age: Some(prost_types::Duration { seconds: 1, nanos: 200_000_000 }),
                ..proto::BreakerEvidence::default()
            }),
            ..BreakerStatus::default()
        };
        assert_eq!(breaker_text(&breaker), "apply/acme: half open, tripped by stall, oldest call 1.2 s");
    }
}
