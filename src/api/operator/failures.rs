//! How what operators are refused is told.

use std::time::Duration;

use tonic::Code;

use crate::api::status::{Failure, Paths};
use crate::command::TaskRefused;
use crate::command::operate::{AttributeRefused, HandOverRefused, QuotaRefused, ResolveRefused};

impl From<TaskRefused> for Failure {
    fn from(error: TaskRefused) -> Self {
        let message = error.to_string();
        match error {
            TaskRefused::Busy { task } => Self::new(Code::FailedPrecondition, "TASK_RUNNING", message)
                .with("task", task.to_owned())
                .retry(Duration::from_secs(10)),
            TaskRefused::StoreNotTrusted => Self::new(Code::FailedPrecondition, "STORE_NOT_TRUSTED", message)
                .retry(Duration::from_secs(10)),
            TaskRefused::KernelHang { age, advice } => {
                Self::new(Code::FailedPrecondition, "STORE_HANGS", message)
                    .with("age_ms", age.as_millis().to_string())
                    .with("advice", advice)
            }
            TaskRefused::Draining => Self::draining(),
            TaskRefused::Invalid { field, problem } => Self::invalid(field, problem),
            TaskRefused::Failed(_) => Self::new(Code::FailedPrecondition, "TASK_FAILED", message),
        }
    }
}

impl From<HandOverRefused> for Failure {
    fn from(error: HandOverRefused) -> Self {
        let message = error.to_string();
        match error {
            HandOverRefused::OtherNode { node, .. } => {
                Self::new(Code::FailedPrecondition, "OTHER_NODE", message).with("node", node.to_string())
            }
            HandOverRefused::GoingDown => Self::draining(),
            HandOverRefused::Journal(_) => Self::new(Code::Internal, "JOURNAL_FAILED", message),
        }
    }
}

impl From<QuotaRefused> for Failure {
    fn from(error: QuotaRefused) -> Self {
        let message = error.to_string();
        match error {
            QuotaRefused::OutOfRange { .. } => Self::invalid("limit_bytes", message),
            QuotaRefused::UnknownSite(_) => Self::new(Code::NotFound, "SITE_UNKNOWN", message),
        }
    }
}

impl From<AttributeRefused> for Failure {
    fn from(error: AttributeRefused) -> Self {
        match error {
            AttributeRefused::Unknown { .. } => {
                Self::new(Code::NotFound, "ATTRIBUTE_UNKNOWN", error.to_string())
            }
            AttributeRefused::Write(error) => Self::of_write(&error, &Paths::default()),
        }
    }
}

impl From<ResolveRefused> for Failure {
    fn from(error: ResolveRefused) -> Self {
        let message = error.to_string();
        match error {
            ResolveRefused::Unknown => Self::new(Code::NotFound, "POSITION_UNKNOWN", message),
            ResolveRefused::NotRead(_) => {
                Self::new(Code::Unavailable, "STORE_FAILED", message).retry(Duration::from_secs(1))
            }
            ResolveRefused::Parked => Self::new(Code::FailedPrecondition, "ENTRY_PARKED", message),
            ResolveRefused::Write(error) => Self::of_write(&error, &Paths::default()),
        }
    }
}
