//! What people and programs see: aligned text, or one JSON object a line.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};

use serde_json::{Map, Value as Json, json};

use super::failure::CliError;
use super::values;
use crate::proto::attribute_note::Reason;
use crate::proto::{Outcome, Position, Profile, Receipt};

/// Whether to colour what goes to a stream: a terminal, and nobody asked for none (`NO_COLOR`, `TERM=dumb`).
fn coloured(terminal: bool) -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    terminal && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Text effects, or none.
#[derive(Clone, Copy, Debug)]
pub struct Style(bool);

impl Style {
    /// For standard output.
    pub fn stdout() -> Self {
        Self(coloured(io::stdout().is_terminal()))
    }

    /// No effects.
    #[cfg(test)]
    pub fn plain() -> Self {
        Self(false)
    }

    /// For standard error.
    pub fn stderr() -> Self {
        Self(coloured(io::stderr().is_terminal()))
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.0 { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// Names, headings.
    pub fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    /// Side matters.
    pub fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    /// Errors.
    pub fn red(self, text: &str) -> String {
        self.wrap("1;31", text)
    }
}

/// Writes a line to standard output; a closed pipe is an error here, not a panic.
pub fn line(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    io::Write::write_fmt(&mut out, format_args!("{text}\n"))?;
    io::Write::flush(&mut out)?;
    Ok(())
}

/// Writes an error to standard error. There is nobody to tell if that fails.
pub fn error(error: &CliError, json: bool) {
    let text =
        if json { error.json().to_string() } else { format!("{} {error}", Style::stderr().red("error:")) };
    let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("{text}\n"));
}

/// Rows with their columns aligned (by characters), two spaces between, no blanks at the ends.
pub fn table(rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = vec![];
    for row in rows {
        for (at, cell) in row.iter().enumerate() {
            let width = cell.chars().count();
            match widths.get_mut(at) {
                Some(widest) => *widest = width.max(*widest),
                None => widths.push(width),
            }
        }
    }
    let lines: Vec<String> = rows
        .iter()
        .map(|row| {
            let mut text = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                text.push_str(cell);
                text.extend(std::iter::repeat_n(' ', width + 2 - cell.chars().count()));
            }
            text.trim_end().to_owned()
        })
        .collect();
    lines.join("\n")
}

/// A position as people pass it on: `node/number`.
pub fn position_text(position: &Position) -> String {
    format!("{}/{}", position.node, position.number)
}

/// Reads `node/number`.
pub fn parse_position(text: &str) -> Result<Position, String> {
    let parsed = text.rsplit_once('/').and_then(|(node, number)| {
        let number = number.parse().ok().filter(|&n| n > 0)?;
        (!node.is_empty()).then(|| Position { node: node.to_owned(), number })
    });
    parsed.ok_or_else(|| "a position is node/number, as a receipt shows it".to_owned())
}

/// `OUTCOME_APPLIED` as `APPLIED`, and so on; the number itself if this program does not know it.
fn outcome_name(receipt: &Receipt) -> String {
    match Outcome::try_from(receipt.outcome) {
        Ok(outcome) => outcome.as_str_name().trim_start_matches("OUTCOME_").to_owned(),
        Err(_) => format!("OUTCOME_{}", receipt.outcome),
    }
}

fn reason_name(reason: i32) -> String {
    match Reason::try_from(reason) {
        Ok(reason) => reason.as_str_name().trim_start_matches("REASON_").to_owned(),
        Err(_) => format!("REASON_{reason}"),
    }
}

/// A receipt for people.
pub fn receipt_text(receipt: &Receipt, style: Style) -> String {
    let name = outcome_name(receipt);
    let meaning = match Outcome::try_from(receipt.outcome) {
        Ok(Outcome::Unchanged) => " (nothing to change)",
        Ok(Outcome::Duplicate) => " (this request id was applied before)",
        Ok(Outcome::Deferred) => " (kept, and will be applied)",
        _ => "",
    };
    let mut text = format!("{}{meaning}", style.bold(&name.to_lowercase()));
    if let Some(version) = receipt.version {
        let _ = write!(text, "  version {version}");
    }
    if let Some(position) = &receipt.position {
        text.push_str(&style.dim(&format!("  position {}", position_text(position))));
    }
    for note in &receipt.notes {
        let why = match Reason::try_from(note.reason) {
            Ok(Reason::Stale) => "not changed: it was set or unset at a later time (stale)".to_owned(),
            Ok(Reason::Disabled) => "not changed: the attribute is disabled on this site".to_owned(),
            _ => format!("not changed: {}", reason_name(note.reason)),
        };
        let _ = write!(text, "\n  {}: {why}", values::printable(&note.name));
    }
    text
}

/// A receipt for programs.
pub fn receipt_json(receipt: &Receipt, request_id: &str) -> Json {
    let notes: Vec<Json> = receipt
        .notes
        .iter()
        .map(|note| json!({ "attribute": note.name, "reason": reason_name(note.reason) }))
        .collect();
    json!({
        "outcome": outcome_name(receipt), "version": receipt.version,
        "position": receipt.position.as_ref().map(position_text), "notes": notes, "request_id": request_id,
    })
}

/// A profile for programs; also the line of an export, which import reads.
pub fn profile_json(profile: &Profile) -> Result<Json, CliError> {
    let wrong = |name: &str, error: String| CliError::Answer(format!("{}: {name}: {error}", profile.user));
    let mut json = Map::new();
    json.insert("site".to_owned(), json!(profile.site));
    json.insert("user".to_owned(), json!(profile.user));
    let mut attributes = Map::new();
    for (name, value) in &profile.attributes {
        attributes.insert(name.clone(), values::to_json(value).map_err(|error| wrong(name, error))?);
    }
    json.insert("attributes".to_owned(), Json::Object(attributes));
    if !profile.occurred_at.is_empty() {
        let mut times = Map::new();
        for (name, time) in &profile.occurred_at {
            times.insert(
                name.clone(),
                Json::String(values::time_text(time).map_err(|error| wrong(name, error))?),
            );
        }
        json.insert("occurred_at".to_owned(), Json::Object(times));
    }
    json.insert("version".to_owned(), json!(profile.version));
    for (key, time) in [("created_at", &profile.created_at), ("updated_at", &profile.updated_at)] {
        if let Some(time) = time {
            let text = values::time_text(time).map_err(|error| wrong(key, error))?;
            json.insert(key.to_owned(), Json::String(text));
        }
    }
    if let Some(pending) = &profile.pending {
        json.insert("pending".to_owned(), json!({ "count": pending.count, "overlaid": pending.overlaid }));
    }
    Ok(Json::Object(json))
}

/// A profile for people.
pub fn profile_text(profile: &Profile, style: Style) -> Result<String, CliError> {
    let wrong = |name: &str, error: String| CliError::Answer(format!("{name}: {error}"));
    let time = |key: &str, time: &Option<_>| match time {
        Some(time) => {
            values::time_text(time).map(|text| format!("  {key} {text}")).map_err(|e| wrong(key, e))
        }
        None => Ok(String::new()),
    };
    let mut text = format!(
        "{} on {}  version {}{}{}",
        style.bold(&values::printable(&profile.user)),
        profile.site,
        profile.version,
        time("created", &profile.created_at)?,
        time("updated", &profile.updated_at)?,
    );
    if let Some(pending) = &profile.pending {
        let shown = if pending.overlaid { "shown here" } else { "NOT shown here: too many" };
        let _ = write!(text, "\n{} writes wait to be applied, {shown}", pending.count);
    }
    let rows: Result<Vec<Vec<String>>, CliError> = profile
        .attributes
        .iter()
        .map(|(name, value)| attribute_row(name, value, &profile.occurred_at))
        .collect();
    let rows = rows?;
    if rows.is_empty() {
        text.push_str("\n(no attributes)");
    } else {
        text.push('\n');
        text.push_str(&table(&rows));
    }
    Ok(text)
}

fn attribute_row(
    name: &str,
    value: &crate::proto::Value,
    times: &BTreeMap<String, prost_types::Timestamp>,
) -> Result<Vec<String>, CliError> {
    let wrong = |error| CliError::Answer(format!("{name}: {error}"));
    let kind = value.kind.as_ref().map_or("unknown", |kind| values::type_name(values::type_of(kind)));
    let mut row = vec![
        format!("  {}", values::printable(name)),
        kind.to_owned(),
        values::to_text(value).map_err(wrong)?,
    ];
    if let Some(time) = times.get(name) {
        row.push(format!("set {}", values::time_text(time).map_err(wrong)?));
    }
    Ok(row)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::{AttributeNote, Value, value::Kind};

    #[test]
    fn tables_are_aligned_by_characters() {
        let rows = vec![vec!["é".to_owned(), "b".to_owned()], vec!["long".to_owned(), "c".to_owned()]];
        assert_eq!(table(&rows), "é     b\nlong  c");
    }

    #[test]
    fn a_receipt_has_a_stable_shape() {
        let receipt = Receipt {
            outcome: Outcome::Applied as i32,
            version: Some(3),
            position: Some(Position { node: "ab".into(), number: 7 }),
            notes: vec![AttributeNote { name: "plan".into(), reason: Reason::Stale as i32 }],
        };
        assert_eq!(
            receipt_json(&receipt, "r1").to_string(),
            r#"{"outcome":"APPLIED","version":3,"position":"ab/7","notes":[{"attribute":"plan","reason":"STALE"}],"request_id":"r1"}"#
        );
        let text = receipt_text(&receipt, Style(false));
        assert_eq!(
            text,
            "applied  version 3  position ab/7\n  plan: not changed: it was set or unset at a later time (stale)"
        );
        assert_eq!(parse_position("ab/7"), Ok(Position { node: "ab".into(), number: 7 }));
        for text in ["", "7", "/7", "ab/", "ab/0", "ab/-1"] {
            assert!(parse_position(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_profile_reads_well() {
        let value = |kind| Value { kind: Some(kind) };
        let time = prost_types::Timestamp { seconds: 1_586_476_800, nanos: 0 };
        let profile = Profile {
            site: "acme".into(),
            user: "u1".into(),
            attributes: [
                ("plan".to_owned(), value(Kind::StringValue("pro".into()))),
                ("seats".to_owned(), value(Kind::NumberValue(12.0))),
            ]
            .into(),
            occurred_at: [("plan".to_owned(), time)].into(),
            version: 2,
            created_at: Some(time),
            ..Profile::default()
        };
        assert_eq!(
            profile_text(&profile, Style(false)).unwrap(),
            "u1 on acme  version 2  created 2020-04-10T00:00:00Z\n  plan   string  pro  set 2020-04-10T00:00:00Z\n  seats  number  12"
        );
        assert_eq!(
            profile_json(&profile).unwrap().to_string(),
            r#"{"site":"acme","user":"u1","attributes":{"plan":"pro","seats":12},"occurred_at":{"plan":"2020-04-10T00:00:00Z"},"version":2,"created_at":"2020-04-10T00:00:00Z"}"#
        );
    }

    proptest! {
        #[test]
        fn positions_come_back(node in "[0-9a-f]{16}", number in 1..u64::MAX) {
            let position = Position { node, number };
            prop_assert_eq!(parse_position(&position_text(&position)), Ok(position));
        }
    }
}
