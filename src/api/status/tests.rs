//! Each error with its code and reason, and how it is told.

use super::*;
use crate::model::NodeId;

fn position() -> Position {
    Position { node: NodeId(0xab), number: 7 }
}

/// Every write error with its code, reason and whether the write may be kept.
fn table() -> Vec<(WriteError, Code, &'static str, &'static str)> {
    let name: Box<str> = "plan".into();
    let refused = |reason| WriteError::Refused { reason, position: Some(position()) };
    vec![
        (
            WriteError::TypeMismatch { name: name.clone(), registered: "string", given: "number" },
            Code::InvalidArgument,
            "TYPE_MISMATCH",
            "no",
        ),
        (
            WriteError::TooManyAttributes { name: name.clone(), limit: 100 },
            Code::InvalidArgument,
            "LIMIT_EXCEEDED",
            "no",
        ),
        (WriteError::RequestIdReused, Code::InvalidArgument, "REQUEST_ID_REUSED", "no"),
        (WriteError::ConditionNeedsApplied, Code::InvalidArgument, "INVALID_FIELD", "no"),
        (refused(Refusal::VersionMismatch { current: 4 }), Code::Aborted, "VERSION_MISMATCH", "no"),
        (refused(Refusal::ListTooLong { name }), Code::InvalidArgument, "LIMIT_EXCEEDED", "no"),
        (refused(Refusal::ProfileTooLarge), Code::InvalidArgument, "LIMIT_EXCEEDED", "no"),
        (
            WriteError::ConditionPending { position: position() },
            Code::DeadlineExceeded,
            "CONDITION_PENDING",
            "unknown",
        ),
        (
            WriteError::ConditionNeedsStore { retry_after: Duration::from_secs(3) },
            Code::FailedPrecondition,
            "CONDITION_NEEDS_STORE",
            "no",
        ),
        (
            WriteError::JournalFull { scope: "site", used: 1, limit: 1 },
            Code::ResourceExhausted,
            "JOURNAL_FULL",
            "no",
        ),
        (WriteError::JournalStalled, Code::Unavailable, "JOURNAL_STALLED", "no"),
        (WriteError::JournalFailed("x".into()), Code::Unavailable, "JOURNAL_FAILED", "no"),
        (WriteError::JournalFailedInFlight("x".into()), Code::Internal, "JOURNAL_FAILED", "unknown"),
        (WriteError::Overloaded, Code::ResourceExhausted, "OVERLOADED", "no"),
        (WriteError::NotAccepted, Code::DeadlineExceeded, "NOT_ACCEPTED", "no"),
        (WriteError::AcceptanceUnknown, Code::DeadlineExceeded, "ACCEPTANCE_UNKNOWN", "unknown"),
        (WriteError::Draining, Code::Unavailable, "DRAINING", "no"),
    ]
}

#[test]
fn every_write_error_is_told_with_its_details() {
    for (error, code, reason, kept) in table() {
        let failure = Failure::of_write(&error, &Paths::default());
        let item = failure.clone().into_item();
        assert_eq!((item.code, item.reason.as_str()), (code as i32, reason), "{error:?}");
        assert_eq!(item.metadata.get("kept").map(String::as_str), Some(kept), "{error:?}");
        let status = failure.into_status();
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!(status.code(), code, "{error:?}");
        assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason, DOMAIN));
        assert_eq!(info.metadata.get("kept").map(String::as_str), Some(kept));
        assert_eq!(code == Code::InvalidArgument, details.bad_request().is_some(), "{error:?}");
    }
}

#[test]
fn details_carry_what_a_program_needs() {
    let refused =
        WriteError::Refused { reason: Refusal::VersionMismatch { current: 4 }, position: Some(position()) };
    let details = Failure::of_write(&refused, &Paths::default()).into_status().get_error_details();
    let metadata = &details.error_info().unwrap().metadata;
    assert_eq!(metadata["current_version"], "4");
    assert_eq!(metadata["position"], "00000000000000ab/7");

    let full = WriteError::JournalFull { scope: "site", used: 9, limit: 8 };
    let status = Failure::of_write(&full, &Paths::default()).into_status();
    assert_eq!(status.get_error_details().quota_failure().unwrap().violations[0].subject, "site");
    assert!(status.metadata().get("grpc-retry-pushback-ms").is_none(), "one site's trouble");

    let status = Failure::of_write(&WriteError::JournalStalled, &Paths::default()).into_status();
    assert_eq!(status.get_error_details().retry_info().unwrap().retry_delay, Some(Duration::from_secs(1)));
    assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "1000");
}

#[test]
fn fields_are_pointed_at() {
    let paths = Paths { changes: vec!["a".into(), "plan".into()] };
    let error = WriteError::TooManyAttributes { name: "plan".into(), limit: 1 };
    assert_eq!(Failure::of_write(&error, &paths).into_item().field, "changes[1]");
    let item = Failure::of_write(&error, &Paths::default()).within("requests[3].").into_item();
    assert_eq!(item.field, "requests[3].attributes[\"plan\"]");
}

#[test]
fn what_the_transport_says_becomes_ours() {
    for (code, message, ours, reason) in [
        (Code::OutOfRange, "decoded message length too large", Code::ResourceExhausted, "MESSAGE_TOO_LARGE"),
        (Code::Unimplemented, "", Code::Unimplemented, "NOT_SUPPORTED"),
        (Code::Internal, "Missing request message.", Code::InvalidArgument, "MALFORMED"),
        (Code::Internal, "h2 protocol error: x", Code::InvalidArgument, "MALFORMED"),
        (Code::Unknown, "boxed", Code::Internal, "INTERNAL"),
    ] {
        let failure = Failure::from_transport(code, message);
        assert_eq!((failure.code(), failure.reason()), (ours, reason), "{message}");
    }
}
