//! What the breakers need from somebody who has time: canaries where no entry can probe, and the length of
//! backlogs while they are let in.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::{Guard, Operation};
use crate::breaker::{Phase, Role};
use crate::model::{ProfileKey, Site, User};
use crate::store::watch::carrying;
use crate::store::{Purpose, SiteCommit, Store};

/// How often it is looked whether a probe is wanted, while one may be.
const LOOK: Duration = Duration::from_millis(25);

/// Waiting entries get so long to show that a breaker can close. They may all be held, or parked.
const ENTRIES_FIRST: Duration = Duration::from_secs(1);

/// A canary that has not answered by then is given up; its lease on the probe has ended before.
const GIVE_UP: Duration = Duration::from_secs(10);

/// So few entries wait also where nothing is wrong.
const NO_BACKLOG: u64 = 256;

/// No site can be called so: its commits change nothing, and its profile is not there.
const CANARY: &str = "(canary)";

/// How many entries of a site, or of all, wait.
pub type Backlog = Box<dyn Fn(Option<&str>) -> u64 + Send + Sync>;

/// The thread that does it. Ends when dropped.
#[derive(Debug)]
pub struct Upkeep {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Upkeep {
    /// Starts it: probes go to `store`.
    pub fn start(guard: Arc<Guard>, store: Arc<dyn Store>, backlog: Backlog) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let work = async move {
            tokio::select! {
                // Whether it is sent or dropped: the end.
                _ = stopped => {}
                () = run(&guard, &store, &backlog) => {}
            }
        };
        let thread =
            std::thread::Builder::new().name("sf-guard".to_owned()).spawn(move || runtime.block_on(work))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the guard's thread had panicked");
        }
    }
}

async fn run(guard: &Arc<Guard>, store: &Arc<dyn Store>, backlog: &Backlog) {
    let mut since: Vec<(Operation, Option<Arc<str>>, Instant)> = Vec::new();
    loop {
        let disturbed = guard.events.disturbed();
        if disturbed.is_empty() {
            guard.events.changed().await;
            continue;
        }
        let now = Instant::now();
        let half_open: HashSet<_> = disturbed
            .iter()
            .filter(|(_, _, phase)| *phase == Phase::HalfOpen)
            .map(|(operation, site, _)| (*operation, site.clone()))
            .collect();
        since.retain(|(operation, site, _)| half_open.contains(&(*operation, site.clone())));
        for (operation, site) in half_open {
            let known = since.iter().find(|(o, s, _)| (*o, s) == (operation, &site)).map(|(.., at)| *at);
            let at = known.unwrap_or_else(|| {
                since.push((operation, site.clone(), now));
                now
            });
            let entries_probe = operation == Operation::Apply
                && now.saturating_duration_since(at) < ENTRIES_FIRST
                && backlog(site.as_deref()) > 0;
            if !entries_probe {
                probe(guard, store, operation, site.as_deref());
            }
        }
        for (operation, site, phase) in disturbed {
            if phase == Phase::Recovering && matches!(operation, Operation::Apply | Operation::ApplyLoad) {
                let waiting = backlog(site.as_deref());
                let waiting = if waiting <= NO_BACKLOG { 0 } else { waiting };
                let scope = guard.registry.find(operation.as_str(), site.as_deref());
                if let Some(scope) = scope {
                    scope.set_backlog(waiting);
                }
            }
        }
        sleep(LOOK).await;
    }
}

/// A call that asks nothing of anybody, if the breaker wants one.
fn probe(guard: &Arc<Guard>, store: &Arc<dyn Store>, operation: Operation, site: Option<&str>) {
    let own = site.map(Site::new);
    let Ok(followed) = guard.admit(operation, own.as_ref(), Role::Background, 1) else { return };
    let site = own.unwrap_or_else(|| Site::new(CANARY));
    if !followed.is_probe() {
        return;
    }
    let watch = Some(followed.watch());
    let purpose = match operation {
        Operation::Apply => None,
        Operation::ApplyLoad => Some(Purpose::Apply),
        Operation::Load => Some(Purpose::Get),
        Operation::Query => Some(Purpose::Query),
    };
    if let Some(purpose) = purpose {
        let key = vec![ProfileKey::new(site, User::new(CANARY))];
        drop(tokio::spawn(timeout(GIVE_UP, carrying(watch, || store.load(purpose, key)))));
    } else {
        drop(tokio::spawn(timeout(GIVE_UP, carrying(watch, || store.commit(SiteCommit::of(site))))));
    }
}
