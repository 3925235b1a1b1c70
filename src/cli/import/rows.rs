//! A file's rows, whichever its format.

use std::path::Path;

use clap::ValueEnum;

use super::csv_rows::CsvRows;
use super::jsonl_rows::JsonRows;
use super::row::{BadRow, Columns, Row};
use super::source::Source;
use crate::cli::failure::CliError;

/// How the file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Comma-separated values with a header
    Csv,
    /// One JSON object a line
    Jsonl,
}

impl Format {
    /// By the file's name: `.jsonl`, `.ndjson` and `.json` are JSON Lines, all else is CSV.
    pub fn of(path: &Path) -> Self {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        if matches!(extension.as_str(), "jsonl" | "ndjson" | "json") { Self::Jsonl } else { Self::Csv }
    }
}

/// How to read the rows.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The file's format.
    pub format: Format,
    /// The column with the user.
    pub user_column: Option<String>,
    /// The columns to take, if not all.
    pub chosen: Option<Vec<String>>,
    /// Between the fields of CSV.
    pub delimiter: u8,
}

/// The rows of a file.
pub enum Rows {
    /// Of CSV.
    Csv(Box<CsvRows>),
    /// Of JSON Lines.
    Jsonl(Box<JsonRows>),
}

impl Rows {
    /// Reads from the start.
    pub fn open(source: &Source, layout: &Layout) -> Result<Self, CliError> {
        let user = layout.user_column.as_deref();
        Ok(match layout.format {
            Format::Csv => {
                Self::Csv(Box::new(CsvRows::open(source, user, layout.chosen.as_deref(), layout.delimiter)?))
            }
            Format::Jsonl => Self::Jsonl(Box::new(JsonRows::open(source, user)?)),
        })
    }

    /// The next row. The outer error ends the import.
    pub fn next_row(&mut self) -> Result<Option<Result<Row, BadRow>>, CliError> {
        match self {
            Self::Csv(rows) => rows.next_row(),
            Self::Jsonl(rows) => rows.next_row(),
        }
    }

    /// The columns seen so far, without the user's.
    pub fn columns(&self) -> &Columns {
        match self {
            Self::Csv(rows) => rows.columns(),
            Self::Jsonl(rows) => rows.columns(),
        }
    }

    /// The hash of what was read so far.
    pub fn digest(&self) -> u128 {
        match self {
            Self::Csv(rows) => rows.digest(),
            Self::Jsonl(rows) => rows.digest(),
        }
    }
}
