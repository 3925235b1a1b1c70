//! What is kept beside a file while it is imported, so that an interrupted import goes on where it was.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cli::failure::CliError;

/// How far an import has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settled {
    /// The site.
    pub site: String,
    /// Hash of the file's content.
    pub file: String,
    /// Hash of what becomes of its columns.
    pub plan: String,
    /// The event time of row 0.
    pub occurred_at: String,
    /// So many rows, from the first, are settled: kept or reported as bad.
    pub rows: u64,
    /// Of these, kept.
    pub kept: u64,
    /// Of these, bad.
    pub bad: u64,
}

/// The file with it.
#[derive(Clone, Debug)]
pub struct ResumeFile(PathBuf);

impl ResumeFile {
    /// The one for `input`.
    pub fn beside(input: &Path) -> Self {
        let mut path = input.as_os_str().to_owned();
        path.push(".steadfast-resume");
        Self(path.into())
    }

    /// One of the caller's choice.
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What an interrupted import left; `None` if there is no such file.
    pub fn read(&self) -> Result<Option<Settled>, CliError> {
        match fs::read(&self.0) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
                CliError::Data(format!(
                    "{}: not a resume file ({error}); --restart begins anew",
                    self.0.display()
                ))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(CliError::file(&self.0, error)),
        }
    }

    /// Puts `settled` in its place, whole or not at all.
    pub fn write(&self, settled: &Settled) -> Result<(), CliError> {
        let mut next = self.0.as_os_str().to_owned();
        next.push(".new");
        let next = PathBuf::from(next);
        let text = serde_json::to_string(settled).map_err(|error| CliError::file(&next, error.into()))?;
        fs::write(&next, text).map_err(|error| CliError::file(&next, error))?;
        fs::rename(&next, &self.0).map_err(|error| CliError::file(&self.0, error))
    }

    /// Removes it, when all is done.
    pub fn remove(&self) -> Result<(), CliError> {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CliError::file(&self.0, error)),
            _ => Ok(()),
        }
    }
}
