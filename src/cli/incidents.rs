//! `steadfast incidents` and `steadfast incident show`: what went wrong, when, and that nothing was lost.

use clap::{Args, Subcommand, ValueEnum};

use super::exit::{Exit, after_help};
use super::failure::CliError;
use super::operations::OperatorArgs;
use super::output::{self, table};
use super::times;
use crate::incident::report;
use crate::proto::{GetIncidentRequest, Incident, IncidentState, ListIncidentsRequest};

/// Incidents asked for at once.
const PAGE: i32 = 500;

/// The command line of `steadfast incidents`.
#[derive(Args, Debug)]
#[command(after_help = after_help!(
"Examples:
  steadfast incidents
  steadfast incidents --open
  steadfast incidents --json | jq .accounts"))]
pub struct IncidentsArgs {
    /// Only those that are not resolved
    #[arg(long)]
    pub open: bool,
    /// At most so many, the newest
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
    /// What all commands for operators take.
    #[command(flatten)]
    pub operator: OperatorArgs,
}

/// Commands about one incident.
#[derive(Args, Debug)]
pub struct IncidentArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: IncidentCommand,
}

/// What can be done with an incident.
#[derive(Subcommand, Debug)]
pub enum IncidentCommand {
    /// Show it whole: impact, times, timeline, and the proof that nothing was lost
    Show(ShowArgs),
}

/// The command line of `steadfast incident show`.
#[derive(Args, Debug)]
#[command(after_help = after_help!(
"Examples:
  steadfast incident show 7
  steadfast incident show 7 --format json | jq .seconds_to_detect"))]
pub struct ShowArgs {
    /// Its number
    pub number: u64,
    /// As a page for people, or as JSON
    #[arg(long, value_enum, default_value_t = Format::Markdown)]
    pub format: Format,
    /// What all commands for operators take.
    #[command(flatten)]
    pub operator: OperatorArgs,
}

/// How an incident is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A page in the manner of a status page
    Markdown,
    /// JSON, one object
    Json,
}

impl IncidentArgs {
    /// Whether errors are to be JSON.
    pub fn json(&self) -> bool {
        match &self.command {
            IncidentCommand::Show(args) => args.operator.json || args.format == Format::Json,
        }
    }
}

/// Runs `steadfast incidents`.
pub async fn list(args: &IncidentsArgs) -> Result<Exit, CliError> {
    let mut client = args.operator.connect().await?;
    let (mut rows, mut shown) = (vec![head()], 0);
    let mut request = ListIncidentsRequest { page_size: PAGE, ..ListIncidentsRequest::default() };
    'pages: loop {
        let answer = client.list_incidents(args.operator.request(request.clone())).await;
        let answer = answer.map_err(|status| CliError::read(&status))?.into_inner();
        let wanted = |incident: &&Incident| !args.open || incident.state() != IncidentState::Resolved;
        for incident in answer.incidents.iter().filter(wanted) {
            if shown == args.limit {
                break 'pages;
            }
            shown += 1;
            if args.operator.json {
                output::line(&report::to_json(incident).to_string())?;
            } else {
                rows.push(row(incident));
            }
        }
        if answer.next_page_token.is_empty() {
            break;
        }
        request.page_token = answer.next_page_token;
    }
    if !args.operator.json {
        let table = table(&rows);
        output::line(if shown == 0 { "no incidents" } else { table.trim_end() })?;
    }
    Ok(Exit::Ok)
}

fn head() -> Vec<String> {
    ["NUMBER", "STATE", "BEGAN", "DETECTED AFTER", "RESOLVED AFTER", "WHAT"].map(str::to_owned).to_vec()
}

fn row(incident: &Incident) -> Vec<String> {
    let after = |span: &Option<prost_types::Duration>| span.as_ref().map_or("-".to_owned(), report::span);
    let began = incident.started_at.as_ref().map(|at| prost_types::Timestamp { nanos: 0, ..*at });
    vec![
        incident.number.to_string(),
        report::state(incident.state()).to_owned(),
        began.and_then(|at| times::format(&at)).unwrap_or_default(),
        after(&incident.time_to_detect),
        after(&incident.time_to_resolve),
        incident.title.clone(),
    ]
}

/// Runs `steadfast incident`.
pub async fn run(args: &IncidentArgs) -> Result<Exit, CliError> {
    let IncidentCommand::Show(args) = &args.command;
    let mut client = args.operator.connect().await?;
    let request = GetIncidentRequest { number: args.number };
    let answer = client.get_incident(args.operator.request(request)).await;
    let answer = answer.map_err(|status| CliError::read(&status))?.into_inner();
    let incident = answer.incident.ok_or_else(|| CliError::Answer("no incident".to_owned()))?;
    match args.format {
        Format::Markdown if !args.operator.json => output::line(report::markdown(&incident).trim_end())?,
        _ => output::line(&report::to_json(&incident).to_string())?,
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_tells_the_times() {
        let incident = Incident {
            number: 3,
            title: "Writes to the store stalled".to_owned(),
            state: IncidentState::CatchingUp.into(),
            started_at: Some(prost_types::Timestamp { seconds: 1_586_520_000, nanos: 5 }),
            time_to_detect: Some(prost_types::Duration { seconds: 0, nanos: 760_000_000 }),
            ..Incident::default()
        };
        let expected =
            ["3", "catching up", "2020-04-10T12:00:00Z", "760 ms", "-", "Writes to the store stalled"];
        assert_eq!(row(&incident), expected);
        assert_eq!(head().len(), expected.len());
    }
}
