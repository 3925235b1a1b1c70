//! `steadfast attribute`: whether an attribute takes changes, and whether it may be indexed.

use clap::{Args, ValueEnum};
use serde_json::json;

use super::exit::{Exit, after_help};
use super::failure::CliError;
use super::operations::{CauseArgs, OperatorArgs, owner};
use super::output::{self, position_text};
use super::values::{self, printable};
use crate::proto::{AttributeState, SetAttributeStateRequest};

/// The command line of `steadfast attribute`.
#[derive(Args, Debug)]
#[command(after_help = after_help!(
"Examples:
  steadfast attribute acme last_seen disable --reason 'written on every page load'
  steadfast attribute acme session_id no-index --reason 'one value a user, never queried'"))]
pub struct AttributeArgs {
    /// The site
    pub site: String,
    /// The attribute's name
    pub name: String,
    /// What to do
    #[arg(value_enum)]
    pub action: Action,
    /// Who, why.
    #[command(flatten)]
    pub cause: CauseArgs,
    /// What all commands for operators take.
    #[command(flatten)]
    pub operator: OperatorArgs,
}

/// What can be done with an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Action {
    /// Take changes of it
    Enable,
    /// Ignore changes of it, and say so in the receipts; its values stay as they are
    Disable,
    /// Let it be indexed
    Index,
    /// Free its index: queries that need it are refused
    NoIndex,
}

/// Runs the command.
pub async fn run(args: &AttributeArgs) -> Result<Exit, CliError> {
    let mut client = args.operator.connect().await?;
    let (state, indexed) = match args.action {
        Action::Enable => (AttributeState::Enabled, None),
        Action::Disable => (AttributeState::Disabled, None),
        Action::Index => (AttributeState::Unspecified, Some(true)),
        Action::NoIndex => (AttributeState::Unspecified, Some(false)),
    };
    let request = SetAttributeStateRequest {
        site: args.site.clone(),
        name: args.name.clone(),
        state: state.into(),
        indexed,
        reason: args.cause.reason.clone(),
        owner: owner(args.cause.owner.as_ref()),
    };
    let answer = client.set_attribute_state(args.operator.request(request)).await;
    let answer =
        answer.map_err(|status| CliError::Server(Box::new(super::failure::Failure::of_write(&status))))?;
    let answer = answer.into_inner();
    let attribute = answer.attribute.unwrap_or_default();
    let disabled = attribute.state() == AttributeState::Disabled;
    let state = if disabled { "disabled" } else { "enabled" };
    let position = answer.position.as_ref().map(position_text);
    if args.operator.json {
        let json = json!({
            "name": attribute.name, "type": values::type_name(attribute.r#type()), "state": state,
            "indexed": attribute.indexed, "position": position,
        });
        output::line(&json.to_string())?;
        return Ok(Exit::Ok);
    }
    let indexed = if attribute.indexed { "may be indexed" } else { "is not indexed" };
    let at = position.map_or_else(|| "nothing to change".to_owned(), |at| format!("position {at}"));
    output::line(&format!("{} is {state} and {indexed}  ({at})", printable(&attribute.name)))?;
    Ok(Exit::Ok)
}
