//! Bad rows: every one counted and written down, none skipped in silence.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};

use super::progress::Progress;
use super::row::BadRow;
use crate::cli::failure::CliError;
use crate::cli::values::printable;

/// So many are shown; a file with all of them is had by `--bad-rows`.
const SHOWN: u64 = 20;

/// Where bad rows go.
pub struct Report {
    file: Option<(PathBuf, File)>,
    json: bool,
    most: Option<u64>,
    /// Bad rows so far, those of the interrupted import included.
    pub count: u64,
    shown: u64,
}

/// A bad row for people.
pub fn text(bad: &BadRow) -> String {
    let column =
        bad.column.as_ref().map(|column| format!(", column {}", printable(column))).unwrap_or_default();
    let user = bad.user.as_ref().map(|user| format!(" (user {})", printable(user))).unwrap_or_default();
    format!("line {}{column}: {}{user}", bad.line, printable(&bad.reason))
}

fn as_json(bad: &BadRow) -> Json {
    json!({ "line": bad.line, "column": bad.column, "user": bad.user, "reason": bad.reason })
}

impl Report {
    /// Opens the file for bad rows: anew, or to go on with it.
    pub fn new(
        path: Option<&Path>,
        resumed: Option<u64>,
        most: Option<u64>,
        json: bool,
    ) -> Result<Self, CliError> {
        let open = |path: &Path| {
            let mut options = File::options();
            options.create(true).write(true).append(resumed.is_some()).truncate(resumed.is_none());
            options.open(path).map_err(|error| CliError::file(path, error))
        };
        let file = path.map(|path| Ok::<_, CliError>((path.to_owned(), open(path)?))).transpose()?;
        Ok(Self { file, json, most, count: resumed.unwrap_or(0), shown: 0 })
    }

    /// Takes one in. More than were allowed: an error that ends the import.
    pub fn bad(&mut self, bad: &BadRow, progress: &Progress) -> Result<(), CliError> {
        self.count += 1;
        if let Some((path, file)) = &mut self.file {
            writeln!(file, "{}", as_json(bad)).map_err(|error| CliError::file(&*path, error))?;
        }
        self.shown += 1;
        if self.shown <= SHOWN {
            let line = if self.json { json!({ "bad_row": as_json(bad) }).to_string() } else { text(bad) };
            progress.message(&line);
        } else if self.shown == SHOWN + 1 && !self.json {
            progress.message("further bad rows are counted, and listed by --bad-rows FILE");
        }
        match self.most {
            Some(most) if self.count > most => Err(too_many(self.count, most)),
            _ => Ok(()),
        }
    }
}

/// The error for more bad rows than `--max-bad` allows.
pub fn too_many(count: u64, most: u64) -> CliError {
    CliError::Data(format!("{count} bad rows, --max-bad allows {most}"))
}
