//! `TakeSnapshot` and `RebuildStore`: begin a long task; its progress is part of the status.

use super::fields::{Caller, directory};
use super::{Operators, given};
use crate::api::encode::{event_time, span};
use crate::api::status::Failure;
use crate::command::{RebuildProgress, RebuildRequest, SnapshotProgress, SnapshotRequest, TaskState};
use crate::proto;

impl Operators {
    pub(super) fn snapshot(
        &self,
        request: proto::TakeSnapshotRequest,
        caller: &Caller,
    ) -> Result<proto::TakeSnapshotResponse, Failure> {
        let request = SnapshotRequest {
            backup: directory("backup_directory", request.backup_directory)?,
            owner: caller.owner(&request.owner)?,
        };
        let begun = given(self.handles.snapshots.as_ref(), "TakeSnapshot")?.take(request)?;
        Ok(proto::TakeSnapshotResponse { snapshot: Some(snapshot_status(&begun)) })
    }

    pub(super) fn rebuild(
        &self,
        request: proto::RebuildStoreRequest,
        caller: &Caller,
    ) -> Result<proto::RebuildStoreResponse, Failure> {
        let dir = directory("directory", request.directory)?;
        let cause = caller.cause(&request.owner, &request.reason)?;
        let request = RebuildRequest { dir, reason: cause.reason, owner: cause.owner };
        let begun = given(self.handles.rebuilds.as_ref(), "RebuildStore")?.request(request)?;
        Ok(proto::RebuildStoreResponse { rebuild: Some(rebuild_status(&begun)) })
    }
}

fn state(state: TaskState) -> i32 {
    match state {
        TaskState::Never => proto::TaskState::Unspecified,
        TaskState::Running => proto::TaskState::Running,
        TaskState::Done => proto::TaskState::Done,
        TaskState::Failed => proto::TaskState::Failed,
    }
    .into()
}

pub(super) fn snapshot_status(told: &SnapshotProgress) -> proto::SnapshotStatus {
    proto::SnapshotStatus {
        state: state(told.state),
        started_at: told.started_at.map(event_time),
        done: told.done,
        total: told.total,
        error: told.error.clone(),
        last_completed_at: told.last_completed_at.map(event_time),
        last_position: told.last_position,
        last_bytes: told.last_bytes,
        overdue: told.overdue,
        backup_directory: told.backup.as_ref().map(|dir| dir.display().to_string()).unwrap_or_default(),
    }
}

pub(super) fn rebuild_status(told: &RebuildProgress) -> proto::RebuildStatus {
    proto::RebuildStatus {
        state: state(told.state),
        generation: told.generation,
        reason: told.reason.clone(),
        owner: told.owner.clone(),
        started_at: Some(event_time(told.started_at)),
        finished_at: told.finished_at.map(event_time),
        done: told.done,
        total: told.total,
        time_left: told.time_left.map(span),
        reads_served: told.reads_served,
        error: told.error.clone(),
        directory: told.dir.display().to_string(),
    }
}
