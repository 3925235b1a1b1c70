//! Waiting for a long task of a server, with a bar that shows how far it is.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::failure::CliError;
use super::operations::{OperatorArgs, OperatorClient};
use crate::proto::{GetStatusRequest, NodeStatus, RebuildStatus, SnapshotStatus, TaskState};

/// How often is asked how far it is.
const LOOK: Duration = Duration::from_millis(250);

/// A long task, as a server tells of it.
pub trait Task: Sized {
    /// What to call it.
    const NAME: &str;

    /// It, in the server's status.
    fn of(status: NodeStatus) -> Option<Self>;

    /// Whether it has ended, and how.
    fn task_state(&self) -> TaskState;

    /// Records done, and how many there are.
    fn progress(&self) -> (u64, u64);
}

impl Task for SnapshotStatus {
    const NAME: &str = "snapshot";

    fn of(status: NodeStatus) -> Option<Self> {
        status.snapshot
    }

    fn task_state(&self) -> TaskState {
        self.state()
    }

    fn progress(&self) -> (u64, u64) {
        (self.done, self.total)
    }
}

impl Task for RebuildStatus {
    const NAME: &str = "rebuild";

    fn of(status: NodeStatus) -> Option<Self> {
        status.rebuild
    }

    fn task_state(&self) -> TaskState {
        self.state()
    }

    fn progress(&self) -> (u64, u64) {
        (self.done, self.total)
    }
}

/// Asks again and again until `begun` has ended. No bar is drawn for readers of JSON.
pub async fn wait<T: Task>(
    args: &OperatorArgs,
    client: &mut OperatorClient,
    begun: T,
) -> Result<T, CliError> {
    let bar = ProgressBar::new(0);
    if args.json {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let template = "{wide_bar} {percent:>3} %  {human_pos}/{human_len} records  {per_sec}  {eta} left";
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut last = begun;
    while last.task_state() == TaskState::Running {
        let (done, total) = last.progress();
        bar.set_length(total);
        bar.set_position(done);
        tokio::time::sleep(LOOK).await;
        let request = GetStatusRequest { site: String::new(), max_sites: 1 };
        let answer = client.get_status(args.request(request)).await;
        let status = answer.map_err(|status| CliError::read(&status))?.into_inner().status;
        last = status
            .and_then(T::of)
            .ok_or_else(|| CliError::Answer(format!("it does not know of the {} any more", T::NAME)))?;
    }
    bar.finish_and_clear();
    Ok(last)
}
