//! The command line of `steadfast import`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use prost_types::Timestamp;

use super::plan::Wishes;
use super::resume::ResumeFile;
use super::rows::{Format, Layout};
use crate::cli::client::Common;
use crate::cli::exit::after_help;
use crate::cli::failure::CliError;
use crate::cli::identify::parse_time;
use crate::proto::ValueType;

/// The command line of `steadfast import`.
#[derive(Args, Debug)]
#[command(after_help = after_help!(
"Examples:
  steadfast import acme users.csv --user-column email --dry-run
  steadfast import acme users.csv --user-column id --columns plan,seats,zip --type zip=string --yes
  steadfast import acme users.csv --user-column id --rename \"Plan name=plan\" --list 'tags=;'
  steadfast import acme users.csv --user-column id --resume --yes --bad-rows bad.jsonl
  zcat acme.jsonl.gz | steadfast import acme-copy - --format jsonl --yes"))]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub struct ImportArgs {
    /// The site
    pub site: String,
    /// The file; - for standard input (kept in a temporary file meanwhile)
    pub file: PathBuf,
    /// The file's format [default: by its name; .jsonl, .ndjson and .json are JSON Lines]
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// The column, or field of flat JSON objects, that holds the user
    #[arg(long, value_name = "COLUMN")]
    pub user_column: Option<String>,
    /// Between the fields of CSV: one character, or "tab" [default: a comma; tab for .tsv]
    #[arg(long, value_name = "CHAR", value_parser = parse_delimiter)]
    pub delimiter: Option<u8>,
    /// Import these columns only
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub columns: Option<Vec<String>>,
    /// A column's type: string, number, bool or time
    #[arg(long = "type", value_name = "COLUMN=TYPE", value_parser = parse_type)]
    pub types: Vec<(String, ValueType)>,
    /// The attribute that a column becomes, if not of the same name
    #[arg(long, value_name = "COLUMN=NAME", value_parser = parse_pair)]
    pub rename: Vec<(String, String)>,
    /// A column that holds a list, and what stands between its items
    #[arg(long, value_name = "COLUMN=SEPARATOR", value_parser = parse_pair)]
    pub list: Vec<(String, String)>,
    /// The event time of all values that have none of their own [default: now]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub occurred_at: Option<Timestamp>,
    /// Do not ask before writing
    #[arg(long, short)]
    pub yes: bool,
    /// Show what would be written, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Go on with an interrupted import
    #[arg(long, conflicts_with_all = ["restart", "occurred_at"])]
    pub resume: bool,
    /// Begin an interrupted import anew
    #[arg(long)]
    pub restart: bool,
    /// Where the progress is kept [default: FILE.steadfast-resume; none for standard input]
    #[arg(long, value_name = "PATH")]
    pub resume_file: Option<PathBuf>,
    /// Write bad rows to this file, as JSON Lines
    #[arg(long, value_name = "PATH")]
    pub bad_rows: Option<PathBuf>,
    /// Stop when there are more bad rows; before anything is written if the file shows it
    #[arg(long, value_name = "N")]
    pub max_bad: Option<u64>,
    /// What all commands take.
    #[command(flatten)]
    pub common: Common,
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    let pair = text.rsplit_once('=').filter(|(column, value)| !column.is_empty() && !value.is_empty());
    pair.map(|(column, value)| (column.to_owned(), value.to_owned()))
        .ok_or_else(|| "write COLUMN=...".to_owned())
}

fn parse_type(text: &str) -> Result<(String, ValueType), String> {
    let (column, name) = parse_pair(text)?;
    let kind = match name.as_str() {
        "string" => ValueType::String,
        "number" => ValueType::Number,
        "bool" => ValueType::Bool,
        "time" => ValueType::Time,
        "list" => return Err(format!("--list {column}=SEPARATOR says how to split a list")),
        _ => return Err(format!("{name:?} is no type: string, number, bool, time")),
    };
    Ok((column, kind))
}

fn parse_delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        _ if text == "tab" => Ok(b'\t'),
        [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r') => Ok(*byte),
        _ => Err("one ASCII character, or \"tab\"".to_owned()),
    }
}

impl ImportArgs {
    pub(super) fn layout(&self) -> Layout {
        let format = self.format.unwrap_or_else(|| Format::of(&self.file));
        let tsv = self.file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("tsv"));
        Layout {
            format,
            user_column: self.user_column.clone(),
            chosen: self.columns.clone(),
            delimiter: self.delimiter.unwrap_or(if tsv { b'\t' } else { b',' }),
        }
    }

    pub(super) fn wishes(&self) -> Result<Wishes, CliError> {
        Ok(Wishes {
            chosen: self.columns.clone(),
            types: once_each("--type", &self.types)?,
            names: once_each("--rename", &self.rename)?,
            lists: once_each("--list", &self.list)?,
        })
    }

    pub(super) fn resume_file(&self) -> Option<ResumeFile> {
        match &self.resume_file {
            Some(path) => Some(ResumeFile::at(path)),
            None if self.file == Path::new("-") => None,
            None => Some(ResumeFile::beside(&self.file)),
        }
    }
}

fn once_each<T: Clone>(option: &str, pairs: &[(String, T)]) -> Result<BTreeMap<String, T>, CliError> {
    let mut map = BTreeMap::new();
    for (column, value) in pairs {
        if map.insert(column.clone(), value.clone()).is_some() {
            return Err(CliError::Usage(format!("{option}: column {column:?} is given twice")));
        }
    }
    Ok(map)
}
