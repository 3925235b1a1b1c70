//! `steadfast identify`: save attributes of one user.

use std::collections::{BTreeMap, BTreeSet};

use clap::{Args, ValueEnum};

use super::client::Common;
use super::connect::{self, ATTEMPTS};
use super::exit::{Exit, after_help};
use super::failure::CliError;
use super::output::{self, Style};
use super::{assign, values};
use crate::proto::attribute_change::Change;
use crate::proto::{AttributeChange, IdentifyRequest, Receipt, Wait};

/// The command line of `steadfast identify`.
#[derive(Args, Debug)]
#[command(after_help = after_help!(
"Examples:
  steadfast identify acme u1 plan=pro seats:=12 trial:=false signed_up:=@2020-04-10
  steadfast identify acme u1 --add visits=1 --unset old --union tags=a,b
  steadfast identify acme u1 'tags:=[\"a\",\"b, c\"]' --set-once source=newsletter
  steadfast identify acme u1 plan=free --if-version 3 --json
  steadfast identify acme u1 plan=pro --occurred-at 2020-04-10T12:30:00Z --wait journaled"))]
pub struct IdentifyArgs {
    /// The site
    pub site: String,
    /// The user
    pub user: String,
    /// Set an attribute: NAME=STRING or NAME:=VALUE
    #[arg(value_name = "NAME=VALUE", value_parser = assign::set)]
    pub set: Vec<AttributeChange>,
    /// Set an attribute that has no value yet
    #[arg(long, value_name = "NAME=VALUE", value_parser = assign::set_once)]
    pub set_once: Vec<AttributeChange>,
    /// Remove an attribute's value
    #[arg(long, value_name = "NAME", value_parser = assign::unset)]
    pub unset: Vec<AttributeChange>,
    /// Add to a number, from 0 if there is none
    #[arg(long, value_name = "NAME=NUMBER", value_parser = assign::add)]
    pub add: Vec<AttributeChange>,
    /// Append to a list
    #[arg(long, value_name = "NAME=A,B", value_parser = assign::append)]
    pub append: Vec<AttributeChange>,
    /// Append those that the list does not have
    #[arg(long, value_name = "NAME=A,B", value_parser = assign::union)]
    pub union: Vec<AttributeChange>,
    /// Remove from a list
    #[arg(long, value_name = "NAME=A,B", value_parser = assign::remove)]
    pub remove: Vec<AttributeChange>,
    /// How this write is made.
    #[command(flatten)]
    pub write: WriteArgs,
    /// What all commands take.
    #[command(flatten)]
    pub common: Common,
}

/// What `identify` and `delete` have in common.
#[derive(Args, Clone, Debug)]
pub struct WriteArgs {
    /// When it happened: an RFC 3339 date or timestamp [default: now]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub occurred_at: Option<prost_types::Timestamp>,
    /// Only if the profile has this version (identify: 0 = only if there is none)
    #[arg(long, value_name = "N")]
    pub if_version: Option<u64>,
    /// When to answer
    #[arg(long, value_enum, default_value_t = WaitFor::Applied)]
    pub wait: WaitFor,
    /// The id under which this write counts once, 1 to 64 bytes [default: a random one]
    #[arg(long, value_name = "ID", value_parser = parse_request_id)]
    pub request_id: Option<String>,
    /// Send it once only. Otherwise it is sent again, up to 5 times in all, while the server cannot answer or the
    /// outcome is unknown; that is safe, because the request id makes the server count it once
    #[arg(long)]
    pub no_retry: bool,
}

/// When the server answers a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WaitFor {
    /// When it is applied
    Applied,
    /// As soon as it is durable
    Journaled,
}

impl WriteArgs {
    /// The value for the request.
    pub fn wait(&self) -> i32 {
        match self.wait {
            WaitFor::Applied => Wait::Applied as i32,
            WaitFor::Journaled => Wait::Journaled as i32,
        }
    }

    /// The request id given, or a new one.
    pub fn request_id(&self) -> Result<String, CliError> {
        self.request_id.clone().map_or_else(connect::new_request_id, Ok)
    }

    /// How often to send it at most.
    pub fn attempts(&self) -> u32 {
        if self.no_retry { 1 } else { ATTEMPTS }
    }
}

/// A time as an argument; the `@` that values have is allowed.
pub fn parse_time(text: &str) -> Result<prost_types::Timestamp, String> {
    values::time(text.strip_prefix('@').unwrap_or(text))
}

fn parse_request_id(text: &str) -> Result<String, String> {
    if (1..=64).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err("must have 1 to 64 bytes".to_owned())
    }
}

fn request(args: &IdentifyArgs, request_id: String) -> Result<IdentifyRequest, CliError> {
    let lists = [&args.set, &args.set_once, &args.unset, &args.add, &args.append, &args.union, &args.remove];
    let (mut names, mut attributes, mut changes) = (BTreeSet::new(), BTreeMap::new(), vec![]);
    for change in lists.into_iter().flatten() {
        if !names.insert(&change.name) {
            return Err(CliError::Usage(format!("attribute {:?} is given twice", change.name)));
        }
        match &change.change {
            // Errors about these then name the attribute, not a number in a list.
            Some(Change::Set(value)) => drop(attributes.insert(change.name.clone(), value.clone())),
            _ => changes.push(change.clone()),
        }
    }
    Ok(IdentifyRequest {
        site: args.site.clone(),
        user: args.user.clone(),
        attributes,
        changes,
        occurred_at: args.write.occurred_at,
        request_id,
        if_version: args.write.if_version,
        wait: args.write.wait(),
    })
}

/// Runs the command.
pub async fn run(args: &IdentifyArgs) -> Result<Exit, CliError> {
    let request_id = args.write.request_id()?;
    let request = request(args, request_id.clone())?;
    let client = args.common.server.connect().await?;
    let send = || {
        let (mut client, request) = (client.clone(), args.common.server.request(request.clone()));
        async move { client.identify(request).await }
    };
    let answer = connect::write(&request_id, args.write.attempts(), send, tokio::time::sleep).await?;
    show(answer.receipt, &request_id, args.common.json)
}

/// Prints a receipt.
pub fn show(receipt: Option<Receipt>, request_id: &str, json: bool) -> Result<Exit, CliError> {
    let receipt = receipt.ok_or_else(|| CliError::Answer("no receipt".to_owned()))?;
    if json {
        output::line(&output::receipt_json(&receipt, request_id).to_string())?;
    } else {
        output::line(&output::receipt_text(&receipt, Style::stdout()))?;
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: IdentifyArgs,
    }

    fn parse(line: &[&str]) -> Result<IdentifyRequest, String> {
        let line = ["steadfast"].iter().chain(line);
        let line = Line::try_parse_from(line).map_err(|error| error.to_string())?;
        request(&line.args, "id".to_owned()).map_err(|error| error.to_string())
    }

    #[test]
    fn all_changes_become_one_write() {
        let request = parse(&[
            "acme",
            "u1",
            "plan=pro",
            "seats:=12",
            "--add",
            "visits=-1",
            "--unset",
            "old",
            "--append",
            "a=x,y",
            "--union",
            "b=x",
            "--remove",
            "c=x",
            "--set-once",
            "d=v",
            "--occurred-at",
            "2020-04-10",
            "--if-version",
            "3",
            "--wait",
            "journaled",
        ])
        .unwrap();
        let names: Vec<_> = request.changes.iter().map(|change| change.name.as_str()).collect();
        assert_eq!(request.attributes.keys().collect::<Vec<_>>(), ["plan", "seats"]);
        assert_eq!(names, ["d", "old", "visits", "a", "b", "c"]);
        assert_eq!(request.if_version, Some(3));
        assert_eq!(request.wait, Wait::Journaled as i32);
        assert_eq!(request.occurred_at.map(|time| time.seconds), Some(1_586_476_800));
    }

    #[test]
    fn mistakes_name_the_argument() {
        for (line, part) in [
            (&["acme", "u1", "plan"][..], "plan"),
            (&["acme", "u1", "a=1", "--unset", "a"][..], "\"a\" is given twice"),
            (&["acme", "u1", "--add", "a=x"][..], "\"a=x\""),
            (&["acme", "u1", "--occurred-at", "now"][..], "--occurred-at"),
            (&["acme", "u1", "--request-id", ""][..], "--request-id"),
            (&["acme"][..], "<USER>"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(part), "{line:?}: {error}");
        }
    }
}
