//! What both formats become: rows of cells under named columns.

use std::collections::{BTreeMap, HashMap};

use prost_types::Timestamp;
use serde_json::Value as Json;

/// Columns are remembered by name; a file that keeps naming new ones is not a table.
pub const MOST_COLUMNS: usize = 10_000;

/// A cell that holds something.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Text without a type: CSV.
    Text(String),
    /// A JSON value.
    Json(Json),
}

/// One user's cells.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The line on which the row begins, from 1.
    pub line: u64,
    /// The user.
    pub user: String,
    /// Column numbers and cells; empty ones are left out.
    pub cells: Vec<(usize, Cell)>,
    /// When each attribute was set, by column number: exports carry it.
    pub times: BTreeMap<usize, Timestamp>,
}

/// A row that cannot be imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRow {
    /// The line on which it begins.
    pub line: u64,
    /// The column at fault, if it is one.
    pub column: Option<String>,
    /// The user, if known.
    pub user: Option<String>,
    /// What is wrong.
    pub reason: String,
}

impl BadRow {
    /// A row that is wrong as a whole.
    pub fn new(line: u64, reason: impl Into<String>) -> Self {
        Self { line, column: None, user: None, reason: reason.into() }
    }

    /// A row with a wrong cell.
    pub fn cell(line: u64, column: &str, reason: impl Into<String>) -> Self {
        Self { line, column: Some(column.to_owned()), user: None, reason: reason.into() }
    }
}

/// The columns by number and by name. The user column is not one of them.
#[derive(Clone, Debug, Default)]
pub struct Columns {
    names: Vec<String>,
    numbers: HashMap<String, usize>,
}

impl Columns {
    /// The number of the column called `name`, which is added if it is new; `None` if there are too many.
    pub fn number(&mut self, name: &str) -> Option<usize> {
        if let Some(number) = self.numbers.get(name) {
            return Some(*number);
        }
        let number = self.names.len();
        if number == MOST_COLUMNS {
            return None;
        }
        self.names.push(name.to_owned());
        self.numbers.insert(name.to_owned(), number);
        Some(number)
    }

    /// The number of the column called `name`.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.numbers.get(name).copied()
    }

    /// The name of column `number`.
    pub fn name(&self, number: usize) -> &str {
        self.names.get(number).map_or("?", String::as_str)
    }

    /// All names, by number.
    pub fn names(&self) -> &[String] {
        &self.names
    }
}
