//! The thread of rebuilds: runs those that are asked for, and begins one when the generation in use is damaged,
//! or when there is none.

use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

use super::{Job, Rebuilds, run};
use crate::applier::Closed;
use crate::command::TaskRefused;
use crate::metrics as names;
use crate::store::note::Wanted;
use crate::store::sled::SledStore;

/// How often the generation in use is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// After a rebuild that was begun without being asked for has failed, the next one waits; twice as long each
/// time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

pub struct Watch {
    rebuilds: Rebuilds,
    /// Held as long as there is no generation in use.
    closed: Option<Closed>,
    /// What the last process did not finish.
    wanted: Option<Wanted>,
    stop: watch::Receiver<bool>,
    failures: u32,
    not_before: Instant,
    /// Whether it has been said that a rebuild cannot begin.
    said: bool,
}

impl Watch {
    pub fn new(
        rebuilds: Rebuilds,
        closed: Option<Closed>,
        wanted: Option<Wanted>,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let not_before = Instant::now();
        Self { rebuilds, closed, wanted, stop, failures: 0, not_before, said: false }
    }

    pub fn run(mut self, runtime: &Runtime, mut asked: mpsc::Receiver<Job>) {
        loop {
            self.look();
            let mut stop = self.stop.clone();
            let job = runtime.block_on(async {
                tokio::select! {
                    biased;
                    _ = stop.wait_for(|stop| *stop) => Err(()),
                    job = asked.recv() => job.ok_or(()).map(Some),
                    () = tokio::time::sleep(LOOK_EVERY) => Ok(None),
                }
            });
            match job {
                Ok(Some(job)) => self.rebuild(runtime, job),
                Ok(None) => {}
                Err(()) => {
                    self.rebuilds.0.state.lock().draining = true;
                    return;
                }
            }
        }
    }

    /// Begins a rebuild if one is due.
    fn look(&mut self) {
        let parts = &self.rebuilds.0.parts;
        let why = match parts.switch.current() {
            None => Some("there is no store that is trusted"),
            Some(store) => self.sick(&store),
        };
        let wanted = match (why, &self.wanted) {
            (_, Some(wanted)) => wanted.clone(),
            (Some(why), None) => Wanted { dir: None, reason: why.to_owned(), owner: String::new() },
            (None, None) => return,
        };
        if Instant::now() < self.not_before {
            return;
        }
        match self.rebuilds.begin(wanted, true) {
            Ok(_) => self.said = false,
            Err(TaskRefused::Busy { .. } | TaskRefused::Draining) => {}
            Err(refused) => {
                if !std::mem::replace(&mut self.said, true) {
                    tracing::error!(%refused, "the store must be rebuilt, and cannot be");
                }
                self.put_off();
            }
        }
    }

    /// Why the generation in use has to go. Damage is noted at once, whatever becomes of the rebuild.
    fn sick(&self, store: &SledStore) -> Option<&'static str> {
        let lost = store.is_lost();
        if lost || store.is_damaged() {
            let what = if lost {
                "the store's files were removed or replaced"
            } else {
                "the store has met damage in its files"
            };
            match self.rebuilds.0.parts.generations.condemn() {
                Ok(true) => {
                    tracing::error!(
                        "{what}; a new one is built from snapshot and journal, and nothing is lost"
                    );
                }
                Ok(false) => {}
                Err(error) => tracing::error!(%error, "the store has to go, which could not be noted"),
            }
            return Some(what);
        }
        store.has_failed().then_some("the store has failed to write, and takes no more writes")
    }

    fn rebuild(&mut self, runtime: &Runtime, job: Job) {
        let Job { wanted, automatic, guard } = job;
        let mut stop = self.stop.clone();
        runtime.block_on(async {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => {}
                () = guard.alone() => {}
            }
        });
        let incidents = self.rebuilds.0.parts.incidents.clone();
        incidents
            .rebuild_started(format!("The store is being rebuilt ({}): {}", wanted.owner, wanted.reason));
        let done = run::Run::new(&self.rebuilds, runtime, self.stop.clone(), &mut self.closed).run(&wanted);
        let stopping = *self.stop.borrow();
        match &done {
            Ok(()) => {
                (self.failures, self.wanted) = (0, None);
                incidents.rebuild_finished("The rebuilt store has taken over");
                metrics::counter!(names::REBUILDS, "end" => "done").increment(1);
            }
            // The next start begins it again.
            Err(_) if stopping => {}
            Err(failure) => {
                metrics::counter!(names::REBUILDS, "end" => "failed").increment(1);
                tracing::error!(%failure, "the rebuild of the store has failed");
                incidents.rebuild_failed(format!("The rebuild of the store failed: {failure}"));
                self.put_off();
                let again = automatic || self.rebuilds.0.parts.switch.current().is_none();
                if !again && let Err(error) = self.rebuilds.0.parts.generations.want(None) {
                    tracing::warn!(%error, "the next start will try this rebuild again");
                }
            }
        }
        self.rebuilds.ended(done.err().map(|failure| failure.to_string()));
        drop(guard);
    }

    fn put_off(&mut self) {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16)).min(LONGEST_PAUSE);
        self.failures += 1;
        self.not_before = Instant::now() + pause;
    }
}
