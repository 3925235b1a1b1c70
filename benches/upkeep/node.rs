//! The server that is measured, and what its operator does.

use std::fmt;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use steadfast::proto::attribute_service_client::AttributeServiceClient;
use steadfast::proto::operator_service_client::OperatorServiceClient;
use steadfast::proto::{
    ExportProfilesRequest, GetStatusRequest, NodeStatus, RebuildStoreRequest, TakeSnapshotRequest, TaskState,
};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tonic::transport::Channel;

use crate::Outcome;

const GLANCE: Duration = Duration::from_millis(20);

/// What an operator may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    Snapshot,
    Rebuild,
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(if *self == Self::Snapshot { "snapshot" } else { "rebuild" })
    }
}

/// A server process on a directory of its own; killed when dropped.
pub struct Node {
    pub addr: String,
    operations: String,
    child: Child,
    dir: TempDir,
    runtime: Runtime,
}

impl Node {
    /// Starts it with these settings, named as in the environment.
    pub fn start(settings: &[(&str, &str)]) -> Outcome<Self> {
        // In the build directory: the temporary one may be in memory, where a sync costs nothing.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let address = || Ok::<_, std::io::Error>(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string());
        let (addr, operations) = (address()?, address()?);
        let mut command = Command::new(env!("CARGO_BIN_EXE_steadfast"));
        command.arg("serve").args(["--listen", &addr, "--operations-listen", &operations]);
        command.env("STEADFAST_DATA_DIR", dir.path()).stdout(Stdio::null());
        for (name, value) in settings {
            command.env(format!("STEADFAST_{name}"), value);
        }
        let mut child = command.spawn()?;
        while TcpStream::connect(&addr).is_err() {
            if let Some(status) = child.try_wait()? {
                return Err(format!("the server ended at once: {status}").into());
            }
            thread::sleep(GLANCE);
        }
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Self { addr, operations, child, dir, runtime })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    fn channel(address: &str) -> Outcome<Channel> {
        Ok(Channel::from_shared(format!("http://{address}"))?.connect_lazy())
    }

    pub fn status(&self) -> Outcome<NodeStatus> {
        self.runtime.block_on(async {
            let mut operator = OperatorServiceClient::new(Self::channel(&self.operations)?);
            let status = operator.get_status(GetStatusRequest::default()).await?.into_inner().status;
            status.ok_or_else(|| "a status without content".into())
        })
    }

    /// Does `task` from beginning to end.
    pub fn complete(&self, task: Task) -> Outcome<()> {
        self.begin(task)?;
        loop {
            let status = self.status()?;
            let (state, error) = match task {
                Task::Snapshot => status.snapshot.map(|task| (task.state, task.error)),
                Task::Rebuild => status.rebuild.map(|task| (task.state, task.error)),
            }
            .unwrap_or_default();
            match TaskState::try_from(state)? {
                TaskState::Done => return Ok(()),
                TaskState::Failed => return Err(format!("the {task} failed: {error}").into()),
                TaskState::Running | TaskState::Unspecified => thread::sleep(GLANCE),
            }
        }
    }

    fn begin(&self, task: Task) -> Outcome<()> {
        let owner = "bench".to_owned();
        self.runtime.block_on(async {
            let mut operator = OperatorServiceClient::new(Self::channel(&self.operations)?);
            match task {
                Task::Snapshot => {
                    let request = TakeSnapshotRequest { backup_directory: String::new(), owner };
                    operator.take_snapshot(request).await?;
                }
                Task::Rebuild => {
                    let request = RebuildStoreRequest {
                        directory: String::new(),
                        reason: "measured".to_owned(),
                        owner,
                    };
                    operator.rebuild_store(request).await?;
                }
            }
            Ok(())
        })
    }

    /// How many profiles of `site` an export gives.
    pub fn export(&self, site: &str) -> Outcome<u64> {
        self.runtime.block_on(async {
            let channel = Self::channel(&self.addr)?;
            let mut client = AttributeServiceClient::new(channel).max_decoding_message_size(usize::MAX);
            let request = ExportProfilesRequest { site: site.to_owned(), ..Default::default() };
            let mut pages = client.export_profiles(request).await?.into_inner();
            let mut profiles = 0;
            while let Some(page) = pages.message().await? {
                profiles += page.profiles.len() as u64;
            }
            Ok(profiles)
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Nothing can be done about a child that is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bytes that the files under `dir` take on the disk.
pub fn disk_use(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let of = |path: PathBuf| match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => disk_use(&path),
        Ok(metadata) => metadata.blocks() * 512,
        // Removed meanwhile.
        Err(_) => 0,
    };
    entries.map(|entry| of(entry.path())).sum()
}
