//! Why a command failed: what the server said, or what went wrong before it was asked.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value as Json, json};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::exit::Exit;
use super::values::printable;
use crate::proto::WriteError;

/// Whether a write that failed was kept all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Nothing was written.
    No,
    /// It may or may not be.
    Unknown,
}

/// An error that a server answered, or the end of the connection to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// The gRPC status code.
    pub code: Code,
    /// For people.
    pub message: String,
    /// For programs, such as `TYPE_MISMATCH`; empty if the server did not say (then it was not Steadfast).
    pub reason: String,
    /// Fields and what is wrong with them.
    pub fields: Vec<(String, String)>,
    /// What else `ErrorInfo` carries.
    pub metadata: BTreeMap<String, String>,
    /// For writes.
    pub kept: Option<Kept>,
    /// When to try again, if the server said so.
    pub retry_after: Option<Duration>,
}

/// Reasons of `FAILED_PRECONDITION` that pass without the caller's help.
const PASSING: [&str; 4] = ["WRITES_HELD", "READS_HELD", "BREAKER_OPEN", "CONDITION_NEEDS_STORE"];

impl Failure {
    /// The failure of a read.
    pub fn of_read(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().cloned();
        let fields = details.bad_request().map(|bad| {
            bad.field_violations.iter().map(|v| (v.field.clone(), v.description.clone())).collect()
        });
        Self {
            code: status.code(),
            message: status.message().to_owned(),
            reason: info.as_ref().map(|i| i.reason.clone()).unwrap_or_default(),
            fields: fields.unwrap_or_default(),
            metadata: info.map(|i| i.metadata.into_iter().collect()).unwrap_or_default(),
            kept: None,
            retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
        }
    }

    /// The failure of a write that was sent.
    pub fn of_write(status: &Status) -> Self {
        let mut failure = Self::of_read(status);
        failure.kept = Some(failure.whether_kept());
        failure
    }

    /// The failure of one item of a stream.
    pub fn of_item(error: &WriteError) -> Self {
        let fields =
            if error.field.is_empty() { vec![] } else { vec![(error.field.clone(), error.message.clone())] };
        let retry_after =
            error.metadata.get("retry_after_ms").and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
        let mut failure = Self {
            code: Code::from_i32(error.code),
            message: error.message.clone(),
            reason: error.reason.clone(),
            fields,
            metadata: error.metadata.clone().into_iter().collect(),
            kept: None,
            retry_after,
        };
        failure.kept = Some(failure.whether_kept());
        failure
    }

    /// What the server said; without its word (a proxy's answer, a broken connection) only what is certain.
    fn whether_kept(&self) -> Kept {
        match self.metadata.get("kept").map(String::as_str) {
            Some("no") => Kept::No,
            Some(_) => Kept::Unknown,
            None => match self.code {
                Code::InvalidArgument
                | Code::NotFound
                | Code::PermissionDenied
                | Code::Unauthenticated
                | Code::Unimplemented
                | Code::FailedPrecondition
                | Code::OutOfRange => Kept::No,
                _ => Kept::Unknown,
            },
        }
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        if self.kept == Some(Kept::Unknown) {
            return Exit::Unknown;
        }
        match self.code {
            Code::NotFound => Exit::NotFound,
            Code::ResourceExhausted if self.reason == "MESSAGE_TOO_LARGE" => Exit::Refused,
            Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Cancelled => {
                Exit::TryAgain
            }
            Code::FailedPrecondition
                if self.retry_after.is_some() || PASSING.contains(&self.reason.as_str()) =>
            {
                Exit::TryAgain
            }
            Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::AlreadyExists
            | Code::OutOfRange
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented => Exit::Refused,
            Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => Exit::Unknown,
        }
    }

    /// Whether the same request may do better in a moment. For writes only with a request id.
    pub fn passes(&self) -> bool {
        match self.exit() {
            Exit::TryAgain => true,
            Exit::Unknown => !matches!(self.code, Code::DataLoss),
            _ => false,
        }
    }

    /// The status code as gRPC writes it, such as `INVALID_ARGUMENT`.
    pub fn code_name(&self) -> String {
        let mut name = String::new();
        for (at, c) in format!("{:?}", self.code).chars().enumerate() {
            if at > 0 && c.is_uppercase() {
                name.push('_');
            }
            name.push(c.to_ascii_uppercase());
        }
        name
    }

    fn advice(&self) -> Option<String> {
        let advice = match self.reason.as_str() {
            "TYPE_MISMATCH" => {
                "the first write of an attribute fixed its type (`steadfast attributes SITE` lists them); \
                 name=value is a string, name:=value is typed"
            }
            "REQUEST_ID_REUSED" => {
                "this --request-id was used for another write; leave it out to have a new one made"
            }
            "UNAUTHENTICATED" => "give --token-file FILE, or set STEADFAST_TOKEN",
            "STORE_HANGS" => {
                "steadfast serve --take-over --store-dir DIR, with a directory on a healthy disk"
            }
            "NOT_SUPPORTED" => {
                "operators call another address than services do: is this the right one? (steadfast serve prints both); \
                 faults are injected only into a server started with --fault-injection"
            }
            _ => return None,
        };
        Some(advice.to_owned())
    }

    pub(super) fn text(&self) -> String {
        let reason =
            if self.reason.is_empty() { String::new() } else { format!("{}, ", printable(&self.reason)) };
        let message = if self.message.is_empty() { "no message" } else { &self.message };
        let mut text = format!("{} ({reason}{})", printable(message), self.code_name());
        for (field, description) in &self.fields {
            let _ = write!(text, "\n  field {}", printable(field));
            if *description != self.message {
                let _ = write!(text, ": {}", printable(description));
            }
        }
        for key in ["current_version", "hold_id", "scope", "expires_at", "position"] {
            if let Some(value) = self.metadata.get(key) {
                let _ = write!(text, "\n  {key}: {}", printable(value));
            }
        }
        match self.kept {
            Some(Kept::No) => text.push_str("\n  kept: no, nothing was written"),
            Some(Kept::Unknown) => text.push_str("\n  kept: unknown"),
            None => {}
        }
        if let Some(delay) = self.retry_after {
            let _ = write!(text, "\n  try again in {:.1} s", delay.as_secs_f64());
        }
        if let Some(advice) = self.advice() {
            let _ = write!(text, "\n  hint: {advice}");
        }
        text
    }

    pub(super) fn json(&self) -> Json {
        let fields: Vec<Json> =
            self.fields.iter().map(|(field, text)| json!({ "field": field, "description": text })).collect();
        json!({
            "code": self.code_name(), "message": self.message, "reason": self.reason, "fields": fields,
            "metadata": self.metadata,
            "kept": self.kept.map(|kept| match kept { Kept::No => "no", Kept::Unknown => "unknown" }),
            "retry_after_ms": self.retry_after.map(|d| d.as_millis() as u64),
        })
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// There is no connection: nothing was sent.
    #[error(
        "cannot reach {addr}: {message}\n  hint: is the server running, and is this its address? Services call 50051, operators \
         50052, unless it was told otherwise; --addr gives another one"
    )]
    Unreachable {
        /// The server's address.
        addr: String,
        /// Why.
        message: String,
    },
    /// The server's answer.
    #[error("{}", .0.text())]
    Server(Box<Failure>),
    /// A write failed, after how many attempts, under this request id.
    #[error("{}\n  attempts: {attempts}, request id {request_id}", .failure.text())]
    Write {
        /// The last attempt's; `kept` covers all of them.
        failure: Box<Failure>,
        /// How often it was sent.
        attempts: u32,
        /// To ask again with.
        request_id: String,
    },
    /// An answer that breaks the service's own rules.
    #[error("the server's answer makes no sense: {0}")]
    Answer(String),
    /// The data is bad, or was refused in part.
    #[error("{0}")]
    Data(String),
    /// A local file.
    #[error("{}: {error}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// What is wrong.
        error: io::Error,
    },
    /// Standard output.
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
}

impl CliError {
    /// A local file's error.
    pub fn file(path: impl Into<PathBuf>, error: io::Error) -> Self {
        Self::File { path: path.into(), error }
    }

    /// A read's error.
    pub fn read(status: &Status) -> Self {
        Self::Server(Box::new(Failure::of_read(status)))
    }

    /// Whether the reader of standard output went away, as `head` does.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The exit code. A reader that has seen enough is no error.
    pub fn exit(&self) -> Exit {
        match self {
            _ if self.is_broken_pipe() => Exit::Ok,
            Self::Usage(_) => Exit::Usage,
            Self::Unreachable { .. } => Exit::TryAgain,
            Self::Server(failure) | Self::Write { failure, .. } => failure.exit(),
            Self::Answer(_) => Exit::Unknown,
            Self::Data(_) => Exit::Refused,
            Self::File { error, .. } if error.kind() == io::ErrorKind::NotFound => Exit::NotFound,
            Self::File { .. } | Self::Output(_) => Exit::Io,
        }
    }

    /// For programs, in the same shape for every kind of error.
    pub fn json(&self) -> Json {
        let mut error = match self {
            Self::Server(failure) => failure.json(),
            Self::Write { failure, attempts, request_id } => {
                let mut error = failure.json();
                if let Some(fields) = error.as_object_mut() {
                    fields.insert("attempts".to_owned(), json!(attempts));
                    fields.insert("request_id".to_owned(), json!(request_id));
                }
                error
            }
            Self::Unreachable { .. } => {
                json!({ "code": "UNAVAILABLE", "message": self.to_string(), "reason": "UNREACHABLE", "kept": "no" })
            }
            other => json!({ "message": other.to_string() }),
        };
        if let Some(fields) = error.as_object_mut() {
            fields.insert("exit".to_owned(), json!(self.exit() as u8));
        }
        json!({ "error": error })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    /// What a server answers.
    pub(crate) fn status(code: Code, reason: &str, kept: &str, retry: Option<Duration>) -> Status {
        let metadata = [("kept".to_owned(), kept.to_owned())];
        let mut details = ErrorDetails::with_error_info(reason, "steadfast", metadata);
        if retry.is_some() {
            details.set_retry_info(retry);
        }
        Status::with_error_details(code, "what happened", details)
    }

    #[test]
    fn exit_codes_follow_what_is_known() {
        let exit = |code, reason, kept| Failure::of_write(&status(code, reason, kept, None)).exit();
        assert_eq!(exit(Code::InvalidArgument, "TYPE_MISMATCH", "no"), Exit::Refused);
        assert_eq!(exit(Code::Aborted, "VERSION_MISMATCH", "no"), Exit::Refused);
        assert_eq!(exit(Code::FailedPrecondition, "WRITES_HELD", "no"), Exit::TryAgain);
        assert_eq!(exit(Code::FailedPrecondition, "QUERY_UNBOUNDED", "no"), Exit::Refused);
        assert_eq!(exit(Code::Unavailable, "JOURNAL_STALLED", "no"), Exit::TryAgain);
        assert_eq!(exit(Code::ResourceExhausted, "MESSAGE_TOO_LARGE", "no"), Exit::Refused);
        assert_eq!(exit(Code::DeadlineExceeded, "ACCEPTANCE_UNKNOWN", "unknown"), Exit::Unknown);
        assert_eq!(exit(Code::Internal, "JOURNAL_FAILED", "unknown"), Exit::Unknown);
        assert_eq!(Failure::of_write(&Status::unavailable("broken pipe")).exit(), Exit::Unknown);
        assert_eq!(Failure::of_read(&Status::unavailable("broken pipe")).exit(), Exit::TryAgain);
        assert_eq!(Failure::of_read(&Status::not_found("")).exit(), Exit::NotFound);
    }

    #[test]
    fn the_text_says_all_that_the_server_said() {
        let mut details =
            ErrorDetails::with_bad_request_violation("attributes[\"plan\"]", "is a \u{1b}number");
        details.set_error_info("TYPE_MISMATCH", "steadfast", [("kept".to_owned(), "no".to_owned())]);
        let status = Status::with_error_details(Code::InvalidArgument, "no", details);
        let error = CliError::Server(Box::new(Failure::of_write(&status)));
        let text = error.to_string();
        for part in [
            "TYPE_MISMATCH, INVALID_ARGUMENT",
            "field attributes[\"plan\"]: is a \\u{1b}number",
            "kept: no",
            "hint:",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(error.json()["error"]["reason"], "TYPE_MISMATCH");
        assert_eq!(error.json()["error"]["exit"], 65);
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        assert_eq!(CliError::Output(io::ErrorKind::BrokenPipe.into()).exit(), Exit::Ok);
        assert_eq!(CliError::Output(io::ErrorKind::StorageFull.into()).exit(), Exit::Io);
    }
}
