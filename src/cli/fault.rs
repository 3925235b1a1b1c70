//! `steadfast fault`: faults in the store of a running server that was started for it, for a game day.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::amounts::{count, span_or_dash};
use super::connect::parse_timeout;
use super::exit::{Exit, after_help};
use super::failure::CliError;
use super::operations::OperatorArgs;
use super::output;
use super::values::printable;
use crate::proto::fault::Effect;
use crate::proto::{ClearFaultsRequest, Fault, FaultPlace, InjectFaultRequest, StoreCall};

/// Faults in the store of a server that runs with --fault-injection.
#[derive(Args, Debug)]
pub struct FaultArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: FaultCommand,
}

/// What can be done with faults.
#[derive(Subcommand, Debug)]
pub enum FaultCommand {
    /// Make calls of the store hang, slow, fail or panic
    Inject(Box<InjectArgs>),
    /// End faults; calls that hang in them go on
    Clear(ClearArgs),
}

/// The command line of `steadfast fault inject`.
#[derive(Args, Debug)]
#[command(after_help = after_help!(
"Examples:
  steadfast fault inject --place thread --call commit --hang --for 1m
  steadfast fault inject --place await --site acme --delay 2s --percent 30
  steadfast fault inject --place thread --call load --error 'input/output error'
  steadfast fault inject --place journal --delay 5s --for 10s

A fault of the store belongs to the one that is in use: `steadfast store rebuild` is rid of it."))]
#[command(group = clap::ArgGroup::new("effect").required(true))]
pub struct InjectArgs {
    /// await: single calls suffer, as in a store that keeps sites apart; thread: all that need the store's thread;
    /// journal: each of its syncs
    #[arg(long, value_enum)]
    pub place: PlaceArg,
    /// Only these calls [default: all]
    #[arg(long = "call", value_name = "CALL", value_delimiter = ',')]
    pub calls: Vec<CallArg>,
    /// Only calls for this site
    #[arg(long, value_name = "SITE", default_value = "", hide_default_value = true)]
    pub site: String,
    /// Only calls for this user of the site
    #[arg(long, value_name = "USER", default_value = "", hide_default_value = true, requires = "site")]
    pub user: String,
    /// Only this share of the calls
    #[arg(long, value_name = "PERCENT")]
    pub percent: Option<f64>,
    /// It strikes the stores too that are built in this one's place
    #[arg(long)]
    pub every_generation: bool,
    /// How long it lasts [default: 10m]
    #[arg(long = "for", value_name = "TIME", value_parser = parse_timeout)]
    pub lasts: Option<Duration>,
    /// Calls do not return until it is over
    #[arg(long, group = "effect")]
    pub hang: bool,
    /// Calls take so much longer
    #[arg(long, group = "effect", value_name = "TIME", value_parser = parse_timeout)]
    pub delay: Option<Duration>,
    /// Calls fail with this message
    #[arg(long, group = "effect", value_name = "TEXT")]
    pub error: Option<String>,
    /// Calls panic
    #[arg(long, group = "effect")]
    pub panic: bool,
    /// What all commands for operators take.
    #[command(flatten)]
    pub operator: OperatorArgs,
}

/// The command line of `steadfast fault clear`.
#[derive(Args, Debug)]
pub struct ClearArgs {
    /// The faults [default: all]
    pub ids: Vec<String>,
    /// What all commands for operators take.
    #[command(flatten)]
    pub operator: OperatorArgs,
}

/// Where a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PlaceArg {
    /// Where a call waits for the store
    Await,
    /// Inside the store's threads
    Thread,
    /// Where the journal is synced
    Journal,
}

/// A call of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CallArg {
    /// Loads of profiles
    Load,
    /// Commits
    Commit,
    /// Scans of an index
    ScanIndex,
    /// Scans of records
    ScanRecords,
    /// Flushes
    Flush,
}

impl FaultArgs {
    /// Whether errors are to be JSON.
    pub fn json(&self) -> bool {
        match &self.command {
            FaultCommand::Inject(args) => args.operator.json,
            FaultCommand::Clear(args) => args.operator.json,
        }
    }
}

impl InjectArgs {
    fn fault(&self) -> Fault {
        let place = match self.place {
            PlaceArg::Await => FaultPlace::Await,
            PlaceArg::Thread => FaultPlace::Thread,
            PlaceArg::Journal => FaultPlace::JournalSync,
        };
        let call = |call: &CallArg| match call {
            CallArg::Load => StoreCall::Load,
            CallArg::Commit => StoreCall::Commit,
            CallArg::ScanIndex => StoreCall::ScanIndex,
            CallArg::ScanRecords => StoreCall::ScanRecords,
            CallArg::Flush => StoreCall::Flush,
        };
        // clap takes care that there is exactly one.
        let effect = match (self.delay, &self.error) {
            (Some(delay), _) => Effect::Delay(proto(delay)),
            (None, Some(message)) => Effect::Error(message.clone()),
            (None, None) if self.panic => Effect::Panic(()),
            (None, None) => Effect::Hang(()),
        };
        Fault {
            place: place.into(),
            calls: self.calls.iter().map(|asked| call(asked).into()).collect(),
            site: self.site.clone(),
            user: self.user.clone(),
            percentage: self.percent,
            lasts: self.lasts.map(proto),
            effect: Some(effect),
            every_generation: self.every_generation,
            ..Fault::default()
        }
    }
}

fn proto(span: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(span.subsec_nanos()).unwrap_or_default(),
    }
}

/// Runs the command.
pub async fn run(args: &FaultArgs) -> Result<Exit, CliError> {
    let (operator, faults) = match &args.command {
        FaultCommand::Inject(args) => {
            let mut client = args.operator.connect().await?;
            let request = InjectFaultRequest { fault: Some(args.fault()) };
            let answer = client.inject_fault(args.operator.request(request)).await;
            let answer = answer.map_err(|status| CliError::read(&status))?.into_inner();
            (&args.operator, answer.fault.into_iter().collect::<Vec<_>>())
        }
        FaultCommand::Clear(args) => {
            let mut client = args.operator.connect().await?;
            let request = ClearFaultsRequest { fault_ids: args.ids.clone() };
            let answer = client.clear_faults(args.operator.request(request)).await;
            (&args.operator, answer.map_err(|status| CliError::read(&status))?.into_inner().faults)
        }
    };
    for fault in &faults {
        output::line(&if operator.json { fault_json(fault).to_string() } else { fault_text(fault) })?;
    }
    if faults.is_empty() && !operator.json {
        output::line("no faults were in force")?;
    }
    Ok(Exit::Ok)
}

fn fault_text(fault: &Fault) -> String {
    let effect = match &fault.effect {
        Some(Effect::Hang(())) => "hang".to_owned(),
        Some(Effect::Delay(delay)) => format!("{} longer", span_or_dash(Some(delay))),
        Some(Effect::Error(message)) => format!("fail: {}", printable(message)),
        Some(Effect::Panic(())) => "panic".to_owned(),
        None => "nothing".to_owned(),
    };
    let of = if fault.site.is_empty() { String::new() } else { format!(" of {}", printable(&fault.site)) };
    let left = span_or_dash(fault.lasts.as_ref());
    let share = fault.percentage.unwrap_or(100.0);
    let named: Vec<String> = fault
        .calls
        .iter()
        .filter_map(|call| StoreCall::try_from(*call).ok())
        .map(|call| call.as_str_name().trim_start_matches("STORE_CALL_").to_lowercase().replace('_', "-"))
        .collect();
    let calls = match named.as_slice() {
        _ if fault.place() == FaultPlace::JournalSync => "the journal's syncs".to_owned(),
        [] => "all calls".to_owned(),
        named => format!("{} calls", named.join(" and ")),
    };
    format!(
        "fault {}: {share} % of {calls}{of}: {effect}; {left} left, {} struck",
        fault.id,
        count(fault.struck)
    )
}

fn fault_json(fault: &Fault) -> serde_json::Value {
    json!({
        "id": fault.id, "site": fault.site, "user": fault.user, "percentage": fault.percentage,
        "left": span_or_dash(fault.lasts.as_ref()), "struck": fault.struck,
    })
}
