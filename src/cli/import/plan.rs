//! What becomes of each column: decided before anything is written, and shown.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use prost_types::Timestamp;
use serde_json::{Value as Json, json};

use super::infer::{Evidence, convert};
use super::row::{BadRow, Columns, Row};
use crate::cli::failure::CliError;
use crate::cli::output::{Style, table};
use crate::cli::values::{printable, type_name};
use crate::proto::{ImportRecord, Value, ValueType};

/// Attributes that a site, and so a file, can have.
pub const MOST_ATTRIBUTES: usize = 100;

/// The longest attribute name, in characters.
const LONGEST_NAME: usize = 50;

/// What the command line says about columns.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// `--columns`: take these only.
    pub chosen: Option<Vec<String>>,
    /// `--type`.
    pub types: BTreeMap<String, ValueType>,
    /// `--rename`.
    pub names: BTreeMap<String, String>,
    /// `--list`: the separators.
    pub lists: BTreeMap<String, String>,
}

impl Wishes {
    /// Whether the column is to be imported.
    pub fn takes(&self, column: &str) -> bool {
        self.chosen.as_ref().is_none_or(|chosen| chosen.iter().any(|name| name == column))
    }

    /// The type that was asked for.
    pub fn type_of(&self, column: &str) -> Option<ValueType> {
        if self.lists.contains_key(column) { Some(ValueType::List) } else { self.types.get(column).copied() }
    }

    /// Checks what can be checked of one row before the types are known: cells whose type was asked for, and JSON
    /// values that are none of ours.
    pub fn check(&self, row: &Row, columns: &Columns) -> Result<(), BadRow> {
        for (number, cell) in &row.cells {
            let column = columns.name(*number);
            if !self.takes(column) {
                continue;
            }
            let checked = match (self.type_of(column), cell) {
                (Some(kind), cell) => {
                    convert(cell, kind, self.lists.get(column).map(String::as_str)).map(drop)
                }
                (None, super::row::Cell::Json(json)) => crate::cli::values::from_json(json).map(drop),
                (None, super::row::Cell::Text(_)) => Ok(()),
            };
            checked.map_err(|reason| BadRow {
                user: Some(row.user.clone()),
                ..BadRow::cell(row.line, column, reason)
            })?;
        }
        Ok(())
    }
}

/// Where a type comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Cells,
    Asked,
    Site,
}

/// What becomes of one column.
#[derive(Clone, Debug)]
struct Planned {
    header: String,
    attribute: String,
    /// `None`: no cell has anything in it.
    kind: Option<ValueType>,
    origin: Origin,
    separator: Option<String>,
    filled: u64,
    examples: Vec<String>,
}

/// What becomes of all columns.
#[derive(Clone, Debug)]
pub struct Plan {
    columns: BTreeMap<usize, Planned>,
    rows: u64,
}

impl Plan {
    /// Decides. `evidence` by column number, `rows` good ones; `site`: the types that the site knows, if it could be
    /// asked.
    pub fn new(
        columns: &Columns,
        evidence: &[Evidence],
        rows: u64,
        wishes: &Wishes,
        site: Option<&BTreeMap<String, ValueType>>,
    ) -> Result<Self, CliError> {
        known_columns(columns, wishes)?;
        let mut planned = BTreeMap::new();
        let mut attributes: BTreeMap<String, String> = BTreeMap::new();
        let nothing = Evidence::default();
        for (number, header) in columns.names().iter().enumerate().filter(|(_, header)| wishes.takes(header))
        {
            let attribute = wishes.names.get(header).unwrap_or(header).clone();
            valid_name(header, &attribute)?;
            if let Some(other) = attributes.insert(attribute.clone(), header.clone()) {
                return Err(CliError::Data(format!(
                    "columns {other:?} and {header:?} would both be attribute {attribute:?}: use --rename or --columns"
                )));
            }
            let evidence = evidence.get(number).unwrap_or(&nothing);
            let known = site.and_then(|site| site.get(&attribute)).copied();
            let (kind, origin) = decide(header, &attribute, evidence, wishes.type_of(header), known)?;
            planned.insert(
                number,
                Planned {
                    header: header.clone(),
                    attribute,
                    kind,
                    origin,
                    separator: wishes.lists.get(header).cloned(),
                    filled: evidence.filled,
                    examples: evidence.examples.clone(),
                },
            );
        }
        let plan = Self { columns: planned, rows };
        plan.fits(site)?;
        Ok(plan)
    }

    fn fits(&self, site: Option<&BTreeMap<String, ValueType>>) -> Result<(), CliError> {
        let used = || self.columns.values().filter(|column| column.filled > 0);
        let count = used().count();
        if count > MOST_ATTRIBUTES {
            return Err(CliError::Data(format!(
                "{count} columns, but a site has at most {MOST_ATTRIBUTES} attributes: choose with --columns a,b,..."
            )));
        }
        let Some(site) = site else { return Ok(()) };
        let new = used().filter(|column| !site.contains_key(&column.attribute)).count();
        if site.len() + new > MOST_ATTRIBUTES {
            return Err(CliError::Data(format!(
                "the site has {} attributes and this would add {new}; it can have {MOST_ATTRIBUTES}: choose with \
                 --columns a,b,...",
                site.len()
            )));
        }
        Ok(())
    }

    /// The row as a record to send. `occurred_at`: when the values hold that have no time of their own.
    pub fn record(&self, row: Row, occurred_at: Timestamp) -> Result<ImportRecord, BadRow> {
        let mut record = ImportRecord {
            number: row.line,
            user: row.user,
            occurred_at: Some(occurred_at),
            ..ImportRecord::default()
        };
        for (number, cell) in &row.cells {
            let Some(column) = self.columns.get(number) else { continue };
            let converted = match column.kind {
                Some(kind) => convert(cell, kind, column.separator.as_deref()),
                None => Err("a value of no known type".to_owned()),
            };
            let kind = converted.map_err(|reason| BadRow {
                user: Some(record.user.clone()),
                ..BadRow::cell(row.line, &column.header, reason)
            })?;
            record.attributes.insert(column.attribute.clone(), Value { kind: Some(kind) });
            if let Some(time) = row.times.get(number) {
                record.attribute_occurred_at.insert(column.attribute.clone(), *time);
            }
        }
        Ok(record)
    }

    /// The column that a server's field path is about, such as `attributes["plan"]`.
    pub fn column_of_field(&self, field: &str) -> Option<String> {
        let name = field.split_once("[\"")?.1.split_once("\"]")?.0;
        self.columns.values().find(|column| column.attribute == name).map(|column| column.header.clone())
    }

    /// What an interrupted import must agree on with the one that continues it.
    pub fn fingerprint(&self) -> u128 {
        let mut text = String::new();
        for (number, column) in &self.columns {
            let kind = column.kind.map(type_name);
            let _ = writeln!(text, "{number} {:?} {kind:?} {:?}", column.attribute, column.separator);
        }
        xxhash_rust::xxh3::xxh3_128(text.as_bytes())
    }

    /// The table for people.
    pub fn text(&self, style: Style) -> String {
        let mut rows = vec![["COLUMN", "ATTRIBUTE", "TYPE", "EMPTY", "EXAMPLES"].map(str::to_owned).to_vec()];
        for column in self.columns.values() {
            let kind = match (column.kind, column.origin) {
                (None, _) => "- (left out: all cells are empty)".to_owned(),
                (Some(kind), Origin::Asked) => format!("{} (as asked)", type_name(kind)),
                (Some(kind), Origin::Site) => format!("{} (as on the site)", type_name(kind)),
                (Some(kind), Origin::Cells) => type_name(kind).to_owned(),
            };
            rows.push(vec![
                printable(&column.header),
                if column.kind.is_some() { printable(&column.attribute) } else { "-".to_owned() },
                kind,
                self.rows.saturating_sub(column.filled).to_string(),
                column.examples.join(", "),
            ]);
        }
        let text = table(&rows);
        match text.split_once('\n') {
            Some((head, rest)) => format!("{}\n{rest}", style.bold(head)),
            None => text,
        }
    }

    /// The same for programs.
    pub fn json(&self) -> Json {
        let columns: Vec<Json> = self
            .columns
            .values()
            .map(|column| {
                json!({
                    "column": column.header, "attribute": column.attribute, "type": column.kind.map(type_name),
                    "empty": self.rows.saturating_sub(column.filled), "examples": column.examples,
                })
            })
            .collect();
        json!(columns)
    }
}

fn known_columns(columns: &Columns, wishes: &Wishes) -> Result<(), CliError> {
    let chosen = wishes.chosen.iter().flatten().map(|name| ("--columns", name));
    let types = wishes.types.keys().map(|name| ("--type", name));
    let names = wishes.names.keys().map(|name| ("--rename", name));
    let lists = wishes.lists.keys().map(|name| ("--list", name));
    for (option, name) in chosen.chain(types).chain(names).chain(lists) {
        if columns.find(name).is_none() {
            let known: BTreeSet<&String> = columns.names().iter().collect();
            return Err(CliError::Usage(format!(
                "{option}: there is no column {name:?}; there are {known:?}"
            )));
        }
    }
    Ok(())
}

fn valid_name(header: &str, attribute: &str) -> Result<(), CliError> {
    let length = attribute.chars().count();
    if (1..=LONGEST_NAME).contains(&length) {
        return Ok(());
    }
    Err(CliError::Data(format!(
        "column {header:?}: an attribute name has 1 to {LONGEST_NAME} characters, this has {length}: \
         use --rename {header:?}=SHORTER, or choose others with --columns"
    )))
}

fn decide(
    header: &str,
    attribute: &str,
    evidence: &Evidence,
    asked: Option<ValueType>,
    site: Option<ValueType>,
) -> Result<(Option<ValueType>, Origin), CliError> {
    if let Some(asked) = asked {
        return match site {
            Some(site) if site != asked => Err(CliError::Data(format!(
                "column {header:?}: the site has attribute {attribute:?} as {}, so it cannot be {}",
                type_name(site),
                type_name(asked)
            ))),
            _ => Ok(((evidence.filled > 0).then_some(asked), Origin::Asked)),
        };
    }
    if evidence.filled > 0 && site == Some(ValueType::String) {
        // Text keeps every cell as it is written.
        return Ok((site, Origin::Site));
    }
    let inferred = evidence.infer().map_err(|reason| {
        CliError::Data(format!(
            "column {header:?}: {reason}: give --type {header:?}=string, or repair the file"
        ))
    })?;
    match (inferred, site) {
        (Some(inferred), Some(site)) if inferred != site => {
            let against = evidence.against(site).map(|cell| format!(" ({cell})")).unwrap_or_default();
            let advice = if site == ValueType::List {
                format!("--list {header:?}=';' splits its cells")
            } else {
                format!("--type {header:?}={} converts what can be", type_name(site))
            };
            Err(CliError::Data(format!(
                "column {header:?} reads as {}{against}, but the site has attribute {attribute:?} as {}: {advice}, \
                 --rename gives it another name",
                type_name(inferred),
                type_name(site)
            )))
        }
        _ => Ok((inferred, Origin::Cells)),
    }
}
