//! The one place that decides how a failure is told: status code, reason, details, and whether what was
//! asked for may have been kept.
//!
//! UNAVAILABLE is for states of the whole node only: clients and meshes answer it by leaving the node, which
//! would be wrong for the trouble of one site.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::command::{Kept, ReadError, WriteError};
use crate::kill_switch::Held;
use crate::model::{EventTime, Position, Refusal};
use crate::proto;

/// The `domain` of every `ErrorInfo`.
pub const DOMAIN: &str = "steadfast";

/// The longest delay that is pushed on clients by header. gRPC clients obey it for the whole call, so it is
/// used for states of the whole node only.
const MAX_PUSHBACK: Duration = Duration::from_secs(1);

/// When to try again while a hold without an end stops the whole node.
const HELD_RETRY: Duration = Duration::from_secs(10);

/// A failure, ready to be told by status or in-band.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure(Box<Parts>);

#[derive(Clone, Debug, PartialEq)]
struct Parts {
    code: Code,
    reason: &'static str,
    message: String,
    metadata: Vec<(&'static str, String)>,
    retry_after: Option<Duration>,
    /// Whether the whole node is in this state, so that clients shall back off as a whole.
    node_wide: bool,
    field: Option<String>,
    quota: Option<&'static str>,
}

impl Failure {
    /// A failure with nothing but code, reason and words.
    pub fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            code,
            reason,
            message: message.into(),
            metadata: Vec::new(),
            retry_after: None,
            node_wide: false,
            field: None,
            quota: None,
        }))
    }

    /// A field that is malformed.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, "INVALID_FIELD", message).field(field)
    }

    /// A field that is over a limit.
    pub fn over_limit(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, "LIMIT_EXCEEDED", message).field(field)
    }

    /// A method that is not built.
    pub fn not_supported(what: &str) -> Self {
        Self::new(Code::Unimplemented, "NOT_SUPPORTED", format!("{what} is not supported by this server"))
    }

    /// There is no such profile.
    pub fn profile_not_found() -> Self {
        Self::new(Code::NotFound, "PROFILE_NOT_FOUND", "there is no profile of this user on this site")
    }

    /// There is no such position.
    pub fn position_unknown() -> Self {
        let message = "this position was never given out here, or belongs to another node";
        Self::new(Code::NotFound, "POSITION_UNKNOWN", message)
    }

    /// A page token that was not given out, or was altered.
    pub fn page_token_invalid(field: &'static str) -> Self {
        let message = "is no token that this server gave out";
        Self::new(Code::InvalidArgument, "PAGE_TOKEN_INVALID", message).field(field)
    }

    /// A call without a token, or with one that is not known.
    pub fn unauthenticated() -> Self {
        let message =
            "this needs a token: send `authorization: Bearer <token>`, or give the command --token-file";
        Self::new(Code::Unauthenticated, "UNAUTHENTICATED", message)
    }

    /// More calls than the node takes on.
    pub fn overloaded(message: impl Into<String>) -> Self {
        Self::new(Code::ResourceExhausted, "OVERLOADED", message)
            .retry(Duration::from_millis(200))
            .node_wide()
    }

    /// The server is going down.
    pub fn draining() -> Self {
        Self::new(Code::Unavailable, "DRAINING", "the server is draining")
            .retry(Duration::from_millis(200))
            .node_wide()
    }

    /// A bug; what happened is in the log.
    pub fn internal() -> Self {
        Self::new(
            Code::Internal,
            "INTERNAL",
            "the server failed in a way that it should not; its log says more",
        )
    }

    /// A client that does not read its results.
    pub fn results_unread(limit: Duration) -> Self {
        let message = format!("results were not read for {} s", limit.as_secs_f32());
        Self::new(Code::ResourceExhausted, "RESULTS_UNREAD", message)
    }

    /// The deadline passed while something else than a write was going on.
    pub fn deadline() -> Self {
        Self::new(Code::DeadlineExceeded, "DEADLINE", "the deadline passed")
    }

    /// The path of the field that it is about.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.0.field = Some(field.into());
        self
    }

    /// Puts `prefix` before the path of the field, for an item of a list.
    #[must_use]
    pub fn within(mut self, prefix: &str) -> Self {
        if let Some(field) = &mut self.0.field {
            field.insert_str(0, prefix);
        }
        self
    }

    /// Says whether the write may have been kept.
    #[must_use]
    pub fn kept(self, kept: Kept) -> Self {
        let text = match kept {
            Kept::No => "no",
            Kept::Unknown => "unknown",
        };
        self.with("kept", text.to_owned())
    }

    /// As [`kept`](Self::kept), unless that has been said.
    #[must_use]
    pub fn kept_unless_said(self, kept: Kept) -> Self {
        if self.0.metadata.iter().any(|(key, _)| *key == "kept") { self } else { self.kept(kept) }
    }

    /// Adds a word to the metadata.
    #[must_use]
    pub(super) fn with(mut self, key: &'static str, value: String) -> Self {
        self.0.metadata.retain(|(present, _)| *present != key);
        self.0.metadata.push((key, value));
        self
    }

    fn position(self, position: &Position) -> Self {
        self.with("position", format!("{}/{}", position.node, position.number))
    }

    /// Says when to try again.
    #[must_use]
    pub(super) fn retry(mut self, after: Duration) -> Self {
        self.0.retry_after = Some(after);
        self
    }

    fn node_wide(mut self) -> Self {
        self.0.node_wide = true;
        self
    }

    fn quota(mut self, subject: &'static str) -> Self {
        self.0.quota = Some(subject);
        self
    }

    /// The status code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The reason, for programs.
    pub fn reason(&self) -> &'static str {
        self.0.reason
    }

    /// Points at `path` instead, or at what it pointed at inside of it.
    #[must_use]
    pub(super) fn at(mut self, path: &str) -> Self {
        if let Some(field) = &mut self.0.field {
            let inside = field.split_once('.').map(|(_, inside)| format!(".{inside}")).unwrap_or_default();
            *field = format!("{path}{inside}");
        }
        self
    }

    /// Whether both say the same, so that a whole call may fail with it. Fields and positions differ by item.
    pub fn same_cause(&self, other: &Self) -> bool {
        self.0.code == other.0.code && self.0.reason == other.0.reason
    }

    /// The status of a call.
    pub fn into_status(self) -> Status {
        let parts = *self.0;
        let metadata: HashMap<String, String> =
            parts.metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let mut details = ErrorDetails::with_error_info(parts.reason, DOMAIN, metadata);
        let field = parts.field;
        if let Some(field) = &field {
            details.add_bad_request_violation(field, parts.message.as_str());
        }
        if let Some(subject) = parts.quota {
            details.add_quota_failure_violation(subject, parts.message.as_str());
        }
        if let Some(after) = parts.retry_after {
            details.set_retry_info(Some(after));
        }
        // Many clients show the message and nothing else.
        let message = match &field {
            Some(field) if parts.reason == "INVALID_FIELD" || parts.reason == "LIMIT_EXCEEDED" => {
                format!("{field}: {}", parts.message)
            }
            _ => parts.message,
        };
        let mut status = Status::with_error_details(parts.code, message, details);
        if let (true, Some(after)) = (parts.node_wide, parts.retry_after) {
            let millis = after.min(MAX_PUSHBACK).as_millis() as u64;
            status.metadata_mut().insert("grpc-retry-pushback-ms", millis.into());
        }
        status
    }

    /// The error of one item.
    pub fn into_item(self) -> proto::WriteError {
        let parts = *self.0;
        let mut metadata: BTreeMap<String, String> =
            parts.metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        if let Some(after) = parts.retry_after {
            metadata.insert("retry_after_ms".to_owned(), after.as_millis().to_string());
        }
        proto::WriteError {
            code: parts.code as i32,
            message: parts.message,
            reason: parts.reason.to_owned(),
            metadata,
            field: parts.field.unwrap_or_default(),
        }
    }

    /// What a transport or library said, in our words. It knows nothing of writes.
    pub fn from_transport(code: Code, message: &str) -> Self {
        match code {
            // tonic's word for a message over the limit.
            Code::OutOfRange | Code::ResourceExhausted => {
                Self::new(Code::ResourceExhausted, "MESSAGE_TOO_LARGE", message)
            }
            Code::Unimplemented => Self::new(code, "NOT_SUPPORTED", message),
            Code::InvalidArgument => Self::new(code, "MALFORMED", message),
            // tonic calls these internal; they are what the client sent.
            Code::Internal if is_framing(message) => Self::new(Code::InvalidArgument, "MALFORMED", message),
            Code::Cancelled => Self::new(code, "CANCELLED", message),
            Code::DeadlineExceeded => Self::new(code, "DEADLINE", message),
            Code::Unavailable => Self::new(code, "UNAVAILABLE", message),
            Code::Unauthenticated | Code::PermissionDenied => {
                Self::new(Code::Unauthenticated, "UNAUTHENTICATED", message)
            }
            Code::NotFound => Self::new(code, "NOT_FOUND", message),
            _ => Self::new(Code::Internal, "INTERNAL", message),
        }
    }
}

fn rfc3339(time: EventTime) -> Option<String> {
    jiff::Timestamp::from_nanosecond(i128::from(time.0)).ok().map(|time| time.to_string())
}

/// Whether tonic's INTERNAL speaks of gRPC framing that the client got wrong.
fn is_framing(message: &str) -> bool {
    ["Missing request message", "compress", "Unexpected EOF", "protocol error"]
        .iter()
        .any(|part| message.contains(part))
}

/// Where in a request an attribute was named, to point at it in an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    /// Names in `changes`, in order; every other attribute is in `attributes`.
    pub changes: Vec<Box<str>>,
}

impl Paths {
    /// The path of the attribute called `name`.
    pub fn of(&self, name: &str) -> String {
        match self.changes.iter().position(|change| **change == *name) {
            Some(at) => format!("changes[{at}]"),
            None => format!("attributes[{name:?}]"),
        }
    }
}

impl Failure {
    /// A write's error; `paths` tells where its attributes were named.
    pub fn of_write(error: &WriteError, paths: &Paths) -> Self {
        let told = |code, reason| Self::new(code, reason, error.to_string());
        let failure = match error {
            WriteError::TypeMismatch { name, .. } => {
                told(Code::InvalidArgument, "TYPE_MISMATCH").field(paths.of(name))
            }
            WriteError::TooManyAttributes { name, .. } => {
                told(Code::InvalidArgument, "LIMIT_EXCEEDED").field(paths.of(name))
            }
            WriteError::TooManySites { .. } => told(Code::InvalidArgument, "LIMIT_EXCEEDED").field("site"),
            WriteError::RequestIdReused => {
                told(Code::InvalidArgument, "REQUEST_ID_REUSED").field("request_id")
            }
            WriteError::ConditionNeedsApplied => {
                told(Code::InvalidArgument, "INVALID_FIELD").field("if_version")
            }
            WriteError::Refused { reason, position } => {
                let failure = Self::of_refusal(reason, error.to_string(), paths);
                match position {
                    Some(position) => failure.position(position),
                    None => failure,
                }
            }
            WriteError::TooLarge { .. } => {
                told(Code::InvalidArgument, "LIMIT_EXCEEDED").field("changes".to_owned())
            }
            WriteError::ConditionPending { position } => {
                told(Code::DeadlineExceeded, "CONDITION_PENDING").position(position)
            }
            WriteError::ConditionNeedsStore { retry_after } => {
                told(Code::FailedPrecondition, "CONDITION_NEEDS_STORE").retry(*retry_after)
            }
            WriteError::WritesHeld(held) => Self::of_hold("WRITES_HELD", held),
            WriteError::JournalFull { scope, .. } => told(Code::ResourceExhausted, "JOURNAL_FULL")
                .with("scope", (*scope).to_owned())
                .quota(scope)
                .retry(Duration::from_secs(5)),
            WriteError::JournalStalled => {
                told(Code::Unavailable, "JOURNAL_STALLED").retry(Duration::from_secs(1)).node_wide()
            }
            WriteError::JournalFailed(_) => {
                told(Code::Unavailable, "JOURNAL_FAILED").retry(Duration::from_secs(1)).node_wide()
            }
            WriteError::JournalFailedInFlight(_) => told(Code::Internal, "JOURNAL_FAILED"),
            WriteError::Overloaded => Self::overloaded(error.to_string()),
            WriteError::NotAccepted => told(Code::DeadlineExceeded, "NOT_ACCEPTED"),
            WriteError::AcceptanceUnknown => told(Code::DeadlineExceeded, "ACCEPTANCE_UNKNOWN"),
            WriteError::Draining => Self::draining(),
        };
        failure.kept(error.kept())
    }

    /// A hold of one site or some users is not a reason to leave the node.
    fn of_hold(reason: &'static str, held: &Held) -> Self {
        let code = if held.whole_node { Code::Unavailable } else { Code::FailedPrecondition };
        let mut failure = Self::new(code, reason, held.to_string())
            .with("hold_id", held.id.to_string())
            .with("scope", held.scope.clone());
        if let Some(at) = held.expires_at.and_then(rfc3339) {
            failure = failure.with("expires_at", at);
        }
        match (held.expires_in, held.whole_node) {
            (Some(left), false) => failure.retry(left),
            (None, false) => failure,
            (left, true) => failure.retry(left.unwrap_or(HELD_RETRY)).node_wide(),
        }
    }

    fn of_refusal(reason: &Refusal, message: String, paths: &Paths) -> Self {
        let limit = |field: String| Self::over_limit(field, message.clone());
        match reason {
            Refusal::VersionMismatch { current } => Self::new(Code::Aborted, "VERSION_MISMATCH", message)
                .with("current_version", current.to_string()),
            Refusal::ListTooLong { name } | Refusal::NumberOverflow { name } => limit(paths.of(name)),
            Refusal::ProfileTooLarge => limit("attributes".to_owned()),
            Refusal::TypeMismatch { name } => {
                Self::new(Code::InvalidArgument, "TYPE_MISMATCH", message).field(paths.of(name))
            }
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        let message = error.to_string();
        match error {
            ReadError::Store(_) => {
                Self::new(Code::Unavailable, "STORE_FAILED", message).retry(Duration::from_secs(1))
            }
            ReadError::Overloaded => Self::overloaded(message),
            ReadError::Deadline => Self::deadline(),
            ReadError::Behind { waiting } => Self::new(Code::FailedPrecondition, "SITE_BEHIND", message)
                .with("waiting", waiting.to_string())
                .retry(Duration::from_secs(1)),
            ReadError::Rebuilding { done, total } => {
                Self::new(Code::Unavailable, "STORE_REBUILDING", message)
                    .with("done", done.to_string())
                    .with("total", total.to_string())
                    .retry(Duration::from_secs(1))
                    .node_wide()
            }
            ReadError::ReadsHeld(held) => Self::of_hold("READS_HELD", &held),
            ReadError::Draining => Self::draining(),
            // One site's trouble must not make clients leave the node.
            ReadError::BreakerOpen { operation, state, site, retry_after } => {
                let code = if site { Code::FailedPrecondition } else { Code::Unavailable };
                let failure = Self::new(code, "BREAKER_OPEN", message)
                    .with("operation", operation.to_owned())
                    .with("state", state.to_owned())
                    .with("scope", if site { "site" } else { "store" }.to_owned())
                    .retry(retry_after);
                if site { failure } else { failure.node_wide() }
            }
        }
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        failure.into_status()
    }
}

#[cfg(test)]
mod tests;
