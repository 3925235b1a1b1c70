//! What an operator asks of a running server.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use steadfast::proto::operator_service_client::OperatorServiceClient;
use steadfast::proto::{
    GetStatusRequest, NodeStatus, RebuildStoreRequest, SnapshotStatus, TakeSnapshotRequest, TaskState,
};
use tonic::Status;
use tonic::transport::Channel;

use crate::support::*;

pub type Operator = OperatorServiceClient<Channel>;

/// No task of a test takes longer.
const PATIENCE: Duration = Duration::from_mins(2);

/// A long task.
#[derive(Clone, Debug, PartialEq)]
pub enum Task {
    Snapshot,
    Backup(PathBuf),
    Rebuild(Option<PathBuf>),
}

fn path(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

pub async fn operator(server: &Server) -> Operator {
    OperatorServiceClient::new(channel(server.operations).await)
}

pub async fn status(operator: &mut Operator) -> Result<NodeStatus, Status> {
    Ok(operator.get_status(GetStatusRequest::default()).await?.into_inner().status.unwrap())
}

impl Task {
    /// Has it begun.
    pub async fn begin(&self, operator: &mut Operator) -> Result<(), Status> {
        let owner = "test".to_owned();
        match self {
            Self::Snapshot | Self::Backup(_) => {
                let backup_directory = if let Self::Backup(dir) = self { path(dir) } else { String::new() };
                operator.take_snapshot(TakeSnapshotRequest { backup_directory, owner }).await.map(drop)
            }
            Self::Rebuild(dir) => {
                let directory = dir.as_deref().map(path).unwrap_or_default();
                let request = RebuildStoreRequest { directory, reason: "test".into(), owner };
                operator.rebuild_store(request).await.map(drop)
            }
        }
    }

    /// How far the last one of its kind is, what it has done, and why it failed.
    pub fn state(&self, status: &NodeStatus) -> (TaskState, u64, String) {
        match self {
            Self::Rebuild(_) => {
                status.rebuild.clone().map_or((TaskState::Unspecified, 0, String::new()), |task| {
                    (task.state(), task.done, task.error)
                })
            }
            _ => status.snapshot.clone().map_or((TaskState::Unspecified, 0, String::new()), |task| {
                (task.state(), task.done, task.error)
            }),
        }
    }

    /// Does it from beginning to end.
    pub async fn complete(&self, operator: &mut Operator) -> SnapshotStatus {
        self.begin(operator).await.unwrap_or_else(|status| panic!("{self:?}: {status:?}"));
        self.ended(operator).await
    }

    /// Waits until it is done.
    pub async fn ended(&self, operator: &mut Operator) -> SnapshotStatus {
        let began = Instant::now();
        loop {
            let status = status(operator).await.unwrap();
            match self.state(&status) {
                (TaskState::Done, ..) => return status.snapshot.unwrap_or_default(),
                (TaskState::Running, ..) => tokio::task::yield_now().await,
                failed => panic!("{self:?}: {failed:?}"),
            }
            assert!(began.elapsed() < PATIENCE, "{self:?} does not end");
        }
    }
}
