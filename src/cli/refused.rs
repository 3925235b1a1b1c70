//! `steadfast refused`: writes that were accepted and could not be applied, and those that are parked.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};

use super::exit::{Exit, after_help};
use super::failure::{CliError, Failure};
use super::operations::{CauseArgs, OperatorArgs, OperatorClient, owner};
use super::output::{self, Style, parse_position, position_text, receipt_json, receipt_text};
use super::values::{self, printable};
use crate::proto::attribute_change::Change;
use crate::proto::refused_entry::Write;
use crate::proto::{
    AttributeChange, ListRefusedRequest, Position, RefusedAction, RefusedEntry, ResolveRefusedRequest,
    write_result,
};

/// Entries asked for at once.
const PAGE: i32 = 500;

/// Commands about refused entries.
#[derive(Args, Debug)]
pub struct RefusedArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: RefusedCommand,
}

/// What can be done with refused entries.
#[derive(Subcommand, Debug)]
pub enum RefusedCommand {
    /// List them
    List(ListArgs),
    /// Try some of them again: a refused one as a new write, a parked one in its place
    Retry(ResolveArgs),
    /// Be done with some of them: their content is gone
    Discard(ResolveArgs),
    /// Write them to a file, content and all, one JSON object a line
    Export(ExportArgs),
}

/// Which ones.
#[derive(Args, Debug)]
pub struct WhichArgs {
    /// Only of this site
    #[arg(long, value_name = "SITE")]
    pub site: Option<String>,
    /// Only of this user of the site
    #[arg(long, value_name = "USER", requires = "site")]
    pub user: Option<String>,
}

/// The command line of `steadfast refused list`.
#[derive(Args, Debug)]
#[command(after_help = after_help!(
"Examples:
  steadfast refused list
  steadfast refused list --site acme --user alice --json"))]
pub struct ListArgs {
    /// Which.
    #[command(flatten)]
    pub which: WhichArgs,
    /// What all commands for operators take.
    #[command(flatten)]
    pub operator: OperatorArgs,
}

/// The command line of `steadfast refused export`.
#[derive(Args, Debug)]
#[command(after_help = after_help!(
"Examples:
  steadfast refused export --site acme > refused.jsonl
  steadfast refused export --to refused.jsonl"))]
pub struct ExportArgs {
    /// Which.
    #[command(flatten)]
    pub which: WhichArgs,
    /// Into this file [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub to: Option<PathBuf>,
    /// What all commands for operators take.
    #[command(flatten)]
    pub operator: OperatorArgs,
}

/// The command line of `steadfast refused retry` and `discard`.
#[derive(Args, Debug)]
#[command(after_help = after_help!(
"Examples:
  steadfast refused retry acme 0123456789abcdef/42 --reason 'list has been shortened'
  steadfast refused discard acme 0123456789abcdef/42 0123456789abcdef/43 --reason 'test data'"))]
pub struct ResolveArgs {
    /// The site
    pub site: String,
    /// Their positions, as `refused list` shows them
    #[arg(required = true, value_name = "POSITION", value_parser = parse_position)]
    pub positions: Vec<Position>,
    /// Who, why.
    #[command(flatten)]
    pub cause: CauseArgs,
    /// What all commands for operators take.
    #[command(flatten)]
    pub operator: OperatorArgs,
}

impl RefusedArgs {
    /// Whether errors are to be JSON.
    pub fn json(&self) -> bool {
        match &self.command {
            RefusedCommand::List(args) => args.operator.json,
            RefusedCommand::Retry(args) | RefusedCommand::Discard(args) => args.operator.json,
            RefusedCommand::Export(args) => args.operator.json,
        }
    }
}

/// Runs the command.
pub async fn run(args: &RefusedArgs) -> Result<Exit, CliError> {
    match &args.command {
        RefusedCommand::List(args) => list(args).await,
        RefusedCommand::Retry(args) => resolve(args, RefusedAction::Retry).await,
        RefusedCommand::Discard(args) => resolve(args, RefusedAction::Discard).await,
        RefusedCommand::Export(args) => export(args).await,
    }
}

/// Calls `each` for every page.
async fn pages(
    client: &mut OperatorClient,
    operator: &OperatorArgs,
    which: &WhichArgs,
    include_writes: bool,
    mut each: impl FnMut(Vec<RefusedEntry>) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let mut page_token = String::new();
    loop {
        let request = ListRefusedRequest {
            site: which.site.clone().unwrap_or_default(),
            user: which.user.clone().unwrap_or_default(),
            include_writes,
            page_size: PAGE,
            page_token,
        };
        let answer = client.list_refused(operator.request(request)).await;
        let answer = answer.map_err(|status| CliError::read(&status))?.into_inner();
        each(answer.entries)?;
        if answer.next_page_token.is_empty() {
            return Ok(());
        }
        page_token = answer.next_page_token;
    }
}

async fn list(args: &ListArgs) -> Result<Exit, CliError> {
    let mut client = args.operator.connect().await?;
    let mut rows = vec![["SITE", "USER", "POSITION", "ACCEPTED", "WHY"].map(str::to_owned).to_vec()];
    let json = args.operator.json;
    pages(&mut client, &args.operator, &args.which, false, |entries| {
        for entry in &entries {
            if json {
                output::line(&entry_json(entry)?.to_string())?;
            } else {
                rows.push(row(entry)?);
            }
        }
        Ok(())
    })
    .await?;
    if json {
        return Ok(Exit::Ok);
    }
    if rows.len() == 1 {
        output::line(
            &Style::stdout().dim("(none: every accepted write was applied, or waits for its turn)"),
        )?;
    } else {
        output::line(&output::table(&rows))?;
    }
    Ok(Exit::Ok)
}

fn row(entry: &RefusedEntry) -> Result<Vec<String>, CliError> {
    let why = if entry.parked {
        format!("PARKED, {} behind it: {}", entry.waiting_behind, printable(&entry.message))
    } else {
        printable(&entry.message)
    };
    let user = if entry.user.is_empty() { "?".to_owned() } else { printable(&entry.user) };
    let accepted = accepted_at(entry)?.unwrap_or_else(|| "-".to_owned());
    Ok(vec![printable(&entry.site), user, position(entry), accepted, why])
}

fn position(entry: &RefusedEntry) -> String {
    entry.position.as_ref().map(position_text).unwrap_or_default()
}

fn accepted_at(entry: &RefusedEntry) -> Result<Option<String>, CliError> {
    let text = entry.accepted_at.as_ref().map(values::time_text).transpose();
    text.map_err(|error| CliError::Answer(format!("{}: {error}", position(entry))))
}

fn entry_json(entry: &RefusedEntry) -> Result<Json, CliError> {
    let reason = entry.reason().as_str_name().trim_start_matches("REFUSAL_REASON_").to_owned();
    let mut json = json!({
        "site": entry.site, "user": entry.user, "position": position(entry), "reason": reason,
        "message": entry.message, "accepted_at": accepted_at(entry)?, "parked": entry.parked,
        "waiting_behind": entry.waiting_behind,
    });
    let write = match &entry.write {
        None => return Ok(json),
        Some(Write::Identify(write)) => {
            let changes: Result<Vec<Json>, CliError> = write.changes.iter().map(change_json).collect();
            json!({ "identify": changes?, "request_id": write.request_id, "if_version": write.if_version })
        }
        Some(Write::Delete(write)) => {
            json!({ "delete": true, "request_id": write.request_id, "if_version": write.if_version })
        }
    };
    if let Some(fields) = json.as_object_mut() {
        fields.insert("write".to_owned(), write);
    }
    Ok(json)
}

fn change_json(change: &AttributeChange) -> Result<Json, CliError> {
    let value =
        |value| values::to_json(value).map_err(|error| CliError::Answer(format!("{}: {error}", change.name)));
    let (kind, value) = match &change.change {
        Some(Change::Set(given)) => ("set", value(given)?),
        Some(Change::SetOnce(given)) => ("set_once", value(given)?),
        Some(Change::Unset(())) => ("unset", Json::Null),
        Some(Change::Add(by)) => ("add", json!(by)),
        Some(Change::Append(items)) => ("append", json!(items.values)),
        Some(Change::Union(items)) => ("union", json!(items.values)),
        Some(Change::Remove(items)) => ("remove", json!(items.values)),
        None => return Err(CliError::Answer(format!("{}: no change", change.name))),
    };
    Ok(json!({ "attribute": change.name, kind: value }))
}

async fn export(args: &ExportArgs) -> Result<Exit, CliError> {
    let mut client = args.operator.connect().await?;
    let mut lines = String::new();
    let mut count = 0_u64;
    let to_file = args.to.is_some();
    pages(&mut client, &args.operator, &args.which, true, |entries| {
        for entry in &entries {
            let line = entry_json(entry)?.to_string();
            count += 1;
            if to_file {
                lines.push_str(&line);
                lines.push('\n');
            } else {
                output::line(&line)?;
            }
        }
        Ok(())
    })
    .await?;
    if let Some(path) = &args.to {
        std::fs::write(path, lines).map_err(|error| CliError::file(path, error))?;
        output::line(&format!("{count} entries written to {}", path.display()))?;
    }
    Ok(Exit::Ok)
}

async fn resolve(args: &ResolveArgs, action: RefusedAction) -> Result<Exit, CliError> {
    let mut client = args.operator.connect().await?;
    let request = ResolveRefusedRequest {
        site: args.site.clone(),
        positions: args.positions.clone(),
        action: action.into(),
        reason: args.cause.reason.clone(),
        owner: owner(args.cause.owner.as_ref()),
    };
    let answer = client.resolve_refused(args.operator.request(request)).await;
    let answer =
        answer.map_err(|status| CliError::Server(Box::new(Failure::of_write(&status))))?.into_inner();
    let style = Style::stdout();
    for resolution in &answer.resolutions {
        let position = resolution.position.as_ref().map(position_text).unwrap_or_default();
        let result = resolution.result.as_ref().and_then(|result| result.result.as_ref());
        let (json, text) = match result {
            Some(write_result::Result::Receipt(receipt)) => (
                json!({ "position": position, "receipt": receipt_json(receipt, "") }),
                receipt_text(receipt, style),
            ),
            Some(write_result::Result::Error(error)) => {
                let failure = Failure::of_item(error);
                (json!({ "position": position, "error": failure.json() }), failure.text())
            }
            None => return Err(CliError::Answer(format!("{position}: no result"))),
        };
        if args.operator.json {
            output::line(&json.to_string())?;
        } else {
            output::line(&format!("{position}: {text}"))?;
        }
    }
    Ok(if answer.failed > 0 { Exit::Refused } else { Exit::Ok })
}
