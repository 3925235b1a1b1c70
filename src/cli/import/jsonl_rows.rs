//! JSON Lines: what `steadfast export` writes, or flat objects with the user in one of the fields.

use std::cell::Cell as Counter;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _};
use std::rc::Rc;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value as Json;

use super::row::{BadRow, Cell, Columns, MOST_COLUMNS, Row};
use super::source::{LONGEST_RECORD, Reader, Source};
use crate::cli::failure::CliError;
use crate::cli::values;

/// The rows of a JSON Lines file.
pub struct JsonRows {
    reader: BufReader<Reader>,
    name: String,
    since_record: Rc<Counter<u64>>,
    user_field: Option<String>,
    columns: Columns,
    line: u64,
    buffer: Vec<u8>,
}

/// The fields of an object, in order. A key given twice is an error: one of the values would be lost.
struct Fields(Vec<(String, Json)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Unique;
        impl<'de> Visitor<'de> for Unique {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Fields, M::Error> {
                let (mut fields, mut names) = (vec![], HashSet::new());
                while let Some((name, value)) = map.next_entry::<String, Json>()? {
                    if !names.insert(name.clone()) {
                        return Err(serde::de::Error::custom(format!("{name:?} is given twice")));
                    }
                    fields.push((name, value));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Unique)
    }
}

/// A line of an export. Version and times of the profile itself are the store's, not the data's.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exported {
    user: String,
    attributes: Fields,
    occurred_at: Option<Fields>,
    #[serde(rename = "site")]
    _site: Option<String>,
    #[serde(rename = "version")]
    _version: Option<Json>,
    #[serde(rename = "created_at")]
    _created_at: Option<Json>,
    #[serde(rename = "updated_at")]
    _updated_at: Option<Json>,
    #[serde(rename = "pending")]
    _pending: Option<Json>,
}

impl JsonRows {
    /// Reads from the start. With `user_field` the lines are flat objects, without it lines of an export.
    pub fn open(source: &Source, user_field: Option<&str>) -> Result<Self, CliError> {
        let reader = source.reader()?;
        Ok(Self {
            since_record: reader.since_record(),
            reader: BufReader::new(reader),
            name: source.name().to_owned(),
            user_field: user_field.map(str::to_owned),
            columns: Columns::default(),
            line: 0,
            buffer: vec![],
        })
    }

    /// The columns seen so far.
    pub fn columns(&self) -> &Columns {
        &self.columns
    }

    /// The hash of what was read.
    pub fn digest(&self) -> u128 {
        self.reader.get_ref().digest()
    }

    /// The next row. Blank lines are skipped.
    pub fn next_row(&mut self) -> Result<Option<Result<Row, BadRow>>, CliError> {
        loop {
            self.buffer.clear();
            let read = (&mut self.reader).take(LONGEST_RECORD).read_until(b'\n', &mut self.buffer);
            let read = read.map_err(|error| CliError::file(&self.name, error))?;
            self.since_record.set(0);
            if read == 0 {
                return Ok(None);
            }
            self.line += 1;
            if read as u64 == LONGEST_RECORD {
                let line = self.line;
                return Err(CliError::Data(format!(
                    "{}: line {line} is longer than {LONGEST_RECORD} bytes",
                    self.name
                )));
            }
            let mut bytes = self.buffer.as_slice();
            if self.line == 1 {
                bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
            }
            let Ok(text) = std::str::from_utf8(bytes) else {
                return Ok(Some(Err(BadRow::new(self.line, "not UTF-8"))));
            };
            if text.trim().is_empty() {
                continue;
            }
            let row = match self.user_field.clone() {
                Some(field) => flat(text, self.line, &field, &mut self.columns),
                None => exported(text, self.line, &mut self.columns),
            };
            return Ok(Some(row));
        }
    }
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str, line: u64) -> Result<T, BadRow> {
    serde_json::from_str(text).map_err(|error| {
        // serde_json counts lines within this text: there is only one.
        let text = error.to_string();
        let message = text.split(" at line ").next().unwrap_or_default();
        BadRow::new(line, format!("{message} (at character {})", error.column()))
    })
}

fn number(columns: &mut Columns, name: &str, line: u64) -> Result<usize, BadRow> {
    columns
        .number(name)
        .ok_or_else(|| BadRow::cell(line, name, format!("more than {MOST_COLUMNS} different names")))
}

fn cells(
    fields: Vec<(String, Json)>,
    line: u64,
    columns: &mut Columns,
) -> Result<Vec<(usize, Cell)>, BadRow> {
    let filled = fields.into_iter().filter(|(_, json)| !json.is_null());
    filled.map(|(name, json)| Ok((number(columns, &name, line)?, Cell::Json(json)))).collect()
}

fn flat(text: &str, line: u64, user_field: &str, columns: &mut Columns) -> Result<Row, BadRow> {
    let Fields(mut fields) = parse(text, line)?;
    let at = fields.iter().position(|(name, _)| name == user_field);
    let at = at.ok_or_else(|| BadRow::cell(line, user_field, "the user is missing"))?;
    let user = match fields.remove(at).1 {
        Json::String(user) if !user.is_empty() => user,
        Json::Number(number) => number.to_string(),
        _ => {
            return Err(BadRow::cell(
                line,
                user_field,
                "the user is neither a string (not empty) nor a number",
            ));
        }
    };
    Ok(Row { line, user, cells: cells(fields, line, columns)?, times: BTreeMap::new() })
}

fn exported(text: &str, line: u64, columns: &mut Columns) -> Result<Row, BadRow> {
    let parsed: Exported = parse(text, line).map_err(|mut bad: BadRow| {
        bad.reason.push_str(
            "; a line is as `steadfast export` writes it, or a flat object: then give --user-column",
        );
        bad
    })?;
    if parsed.user.is_empty() {
        return Err(BadRow::new(line, "the user is empty"));
    }
    let cells = cells(parsed.attributes.0, line, columns)?;
    let mut times = BTreeMap::new();
    for (name, json) in parsed.occurred_at.map(|fields| fields.0).unwrap_or_default() {
        let wrong = |reason: String| BadRow::cell(line, &name, format!("occurred_at: {reason}"));
        let column = columns.find(&name).filter(|column| cells.iter().any(|(number, _)| number == column));
        let column = column.ok_or_else(|| wrong("there is no such attribute in this line".to_owned()))?;
        let time = json.as_str().ok_or_else(|| wrong("not a string".to_owned()))?;
        times.insert(column, values::time(time).map_err(wrong)?);
    }
    Ok(Row { line, user: parsed.user, cells, times })
}
