//! CSV with a header (RFC 4180): quoted fields may hold newlines, `""` is a quote, blank lines are skipped.

use std::cell::Cell as Counter;
use std::rc::Rc;

use csv::ByteRecord;

use super::quotes::QuoteWatch;
use super::row::{BadRow, Cell, Columns, Row};
use super::source::{LONGEST_RECORD, Reader, Source};
use crate::cli::failure::CliError;

/// The rows of a CSV file.
pub struct CsvRows {
    reader: csv::Reader<QuoteWatch<Reader>>,
    name: String,
    since_record: Rc<Counter<u64>>,
    columns: Columns,
    /// For each field: what it is.
    fields: Vec<Field>,
    record: ByteRecord,
    /// On which the record begins.
    line: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    User,
    Column(usize),
    /// Not among the chosen columns.
    Skipped,
}

impl CsvRows {
    /// Reads the header. `chosen`: the columns to read, if not all.
    pub fn open(
        source: &Source,
        user_column: Option<&str>,
        chosen: Option<&[String]>,
        delimiter: u8,
    ) -> Result<Self, CliError> {
        let reader = source.reader()?;
        let since_record = reader.since_record();
        let reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(delimiter)
            .from_reader(QuoteWatch::new(reader, delimiter));
        let mut rows = Self {
            reader,
            name: source.name().to_owned(),
            since_record,
            columns: Columns::default(),
            fields: vec![],
            record: ByteRecord::new(),
            line: 1,
        };
        if !rows.read()? {
            return Err(CliError::Data(format!("{}: empty: there is no header line", rows.name)));
        }
        rows.header(user_column, chosen)?;
        Ok(rows)
    }

    fn header(&mut self, user_column: Option<&str>, chosen: Option<&[String]>) -> Result<(), CliError> {
        let bad = |text: String| CliError::Data(format!("{}: header: {text}", self.name));
        let mut headers: Vec<&str> = vec![];
        for (at, field) in self.record.iter().enumerate() {
            headers.push(
                std::str::from_utf8(field).map_err(|_| bad(format!("column {} is not UTF-8", at + 1)))?,
            );
        }
        let known = || headers.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
        let Some(user_column) = user_column else {
            return Err(CliError::Usage(format!("--user-column is needed for CSV: one of {}", known())));
        };
        if !headers.contains(&user_column) {
            return Err(CliError::Usage(format!(
                "--user-column {user_column:?}: no such column; there are {}",
                known()
            )));
        }
        for (at, &name) in headers.iter().enumerate() {
            let wanted = name == user_column || chosen.is_none_or(|chosen| chosen.iter().any(|c| c == name));
            if !wanted {
                self.fields.push(Field::Skipped);
                continue;
            }
            if let Some(first) = headers.iter().take(at).position(|&earlier| earlier == name) {
                return Err(bad(format!(
                    "columns {} and {} are both called {name:?}: give one of them another name in the file, or \
                     choose others with --columns",
                    first + 1,
                    at + 1
                )));
            }
            if name.is_empty() {
                return Err(bad(format!(
                    "column {} has no name: give it one, or choose others with --columns",
                    at + 1
                )));
            }
            if name == user_column {
                self.fields.push(Field::User);
            } else {
                let number = self.columns.number(name).ok_or_else(|| bad("too many columns".to_owned()))?;
                self.fields.push(Field::Column(number));
            }
        }
        Ok(())
    }

    /// The columns, without the user's.
    pub fn columns(&self) -> &Columns {
        &self.columns
    }

    /// The hash of what was read.
    pub fn digest(&self) -> u128 {
        self.reader.get_ref().inner().digest()
    }

    fn read(&mut self) -> Result<bool, CliError> {
        let line = self.reader.position().line();
        let found = self.reader.read_byte_record(&mut self.record).map_err(|error| match error.into_kind() {
            csv::ErrorKind::Io(error) if error.kind() == std::io::ErrorKind::FileTooLarge => CliError::Data(format!(
                "{}: line {line}: a row longer than {LONGEST_RECORD} bytes: is there a quote that is never closed?",
                self.name
            )),
            csv::ErrorKind::Io(error) => CliError::file(&self.name, error),
            other => CliError::Data(format!("{}: line {line}: {other:?}", self.name)),
        })?;
        self.since_record.set(0);
        let begins = self.record.position().map_or(0, csv::Position::byte);
        if let Some(line) = self.reader.get_mut().line_of(begins) {
            self.line = line;
        }
        Ok(found)
    }

    /// The next row.
    pub fn next_row(&mut self) -> Result<Option<Result<Row, BadRow>>, CliError> {
        Ok(self.read()?.then(|| self.row()))
    }

    fn row(&self) -> Result<Row, BadRow> {
        let line = self.line;
        if self.reader.get_ref().ended_within_quotes() {
            // The parser takes all up to the end of the file for a whole row.
            return Err(BadRow::new(line, "a quote is opened and never closed"));
        }
        if self.record.len() != self.fields.len() {
            let (found, expected) = (self.record.len(), self.fields.len());
            return Err(BadRow::new(line, format!("{found} fields, but the header has {expected}")));
        }
        let mut row =
            Row { line, user: String::new(), cells: vec![], times: std::collections::BTreeMap::new() };
        for (bytes, field) in self.record.iter().zip(&self.fields) {
            let name = || match field {
                Field::Column(number) => self.columns.name(*number),
                Field::User | Field::Skipped => "(user)",
            };
            if *field == Field::Skipped {
                continue;
            }
            let text = std::str::from_utf8(bytes).map_err(|_| BadRow::cell(line, name(), "not UTF-8"))?;
            match field {
                Field::User => text.clone_into(&mut row.user),
                Field::Column(number) if !text.is_empty() => {
                    row.cells.push((*number, Cell::Text(text.to_owned())));
                }
                _ => {}
            }
        }
        if row.user.is_empty() { Err(BadRow::new(line, "the user is empty")) } else { Ok(row) }
    }
}
