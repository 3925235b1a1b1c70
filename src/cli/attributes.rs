//! `steadfast attributes`: what a site knows.

use clap::Args;
use serde_json::json;

use super::client::Common;
use super::exit::{Exit, after_help};
use super::failure::CliError;
use super::output::{self, Style};
use super::values;
use crate::proto::{Attribute, AttributeState, ListAttributesRequest};

/// The command line of `steadfast attributes`.
#[derive(Args, Debug)]
#[command(after_help = after_help!(
"Examples:
  steadfast attributes acme
  steadfast attributes acme --json"))]
pub struct AttributesArgs {
    /// The site
    pub site: String,
    /// What all commands take.
    #[command(flatten)]
    pub common: Common,
}

fn state(attribute: &Attribute) -> &'static str {
    match attribute.state() {
        AttributeState::Enabled => "enabled",
        AttributeState::Disabled => "disabled",
        AttributeState::Unspecified => "unknown",
    }
}

fn first_seen(attribute: &Attribute) -> Result<Option<String>, CliError> {
    let text = attribute.first_seen.as_ref().map(values::time_text).transpose();
    text.map_err(|error| CliError::Answer(format!("{}: {error}", attribute.name)))
}

/// Runs the command.
pub async fn run(args: &AttributesArgs) -> Result<Exit, CliError> {
    let mut client = args.common.server.connect().await?;
    let request = ListAttributesRequest { site: args.site.clone() };
    let answer = client.list_attributes(args.common.server.request(request)).await;
    let attributes = answer.map_err(|status| CliError::read(&status))?.into_inner().attributes;
    if args.common.json {
        for attribute in &attributes {
            let json = json!({
                "name": attribute.name, "type": values::type_name(attribute.r#type()),
                "first_seen": first_seen(attribute)?, "indexed": attribute.indexed, "state": state(attribute),
            });
            output::line(&json.to_string())?;
        }
        return Ok(Exit::Ok);
    }
    if attributes.is_empty() {
        output::line(&Style::stdout().dim("(no attributes: nothing was written to this site)"))?;
        return Ok(Exit::Ok);
    }
    let mut rows = vec![["NAME", "TYPE", "FIRST SEEN", "INDEXED", "STATE"].map(str::to_owned).to_vec()];
    for attribute in &attributes {
        rows.push(vec![
            values::printable(&attribute.name),
            values::type_name(attribute.r#type()).to_owned(),
            first_seen(attribute)?.unwrap_or_else(|| "-".to_owned()),
            if attribute.indexed { "yes" } else { "no" }.to_owned(),
            state(attribute).to_owned(),
        ]);
    }
    output::line(&output::table(&rows))?;
    Ok(Exit::Ok)
}
