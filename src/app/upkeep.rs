//! What goes on beside the requests: health, metrics that are read off, and old notes thrown away.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use metrics::gauge;
use tokio::sync::watch;

use super::{Core, StartError};
use crate::accept::Shared;
use crate::applier::RefusedList;
use crate::guard::Guard;
use crate::incident::{Incidents, JournalRoom, JournalWatch, ParkedWatch};
use crate::journal::JournalState;
use crate::metrics as names;
use crate::rebuild::Rebuilds;
use crate::serve::Health;
use crate::store::switch::StoreSwitch;

/// How often health is looked at.
const PERIOD: Duration = Duration::from_millis(100);

/// How many of these periods pass between two looks at what only metrics want.
const METRICS_EVERY: u32 = 10;

/// The thread that does it.
pub struct Upkeep {
    stop: watch::Sender<Option<String>>,
    fatal: watch::Receiver<Option<String>>,
    thread: Option<JoinHandle<()>>,
}

impl Upkeep {
    /// Starts it on `runtime`.
    pub fn start(core: &Core, health: Health, runtime: tokio::runtime::Runtime) -> Result<Self, StartError> {
        let (stop, stopping) = watch::channel(None);
        let (say, fatal) = watch::channel(None);
        let watched = Watched {
            shared: Arc::clone(&core.shared),
            refused: Arc::clone(&core.refused),
            store: Arc::clone(&core.switch),
            rebuilds: core.rebuilds.clone(),
            incidents: core.incidents.clone(),
            guard: Arc::clone(&core.guard),
        };
        let work = move || runtime.block_on(run(watched, health, say, stopping));
        let thread = std::thread::Builder::new()
            .name("sf-upkeep".to_owned())
            .spawn(work)
            .map_err(StartError::Thread)?;
        Ok(Self { stop, fatal, thread: Some(thread) })
    }

    /// Says why nothing can be accepted any more.
    pub fn fatal(&self) -> watch::Receiver<Option<String>> {
        self.fatal.clone()
    }

    /// Tells callers of the health service that nothing is accepted from now on.
    pub fn refuse(&self, why: &str) {
        self.stop.send_replace(Some(why.to_owned()));
    }

    /// Ends it.
    pub fn stop(&mut self) {
        self.stop.send_replace(Some("stopped".to_owned()));
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the upkeep thread panicked");
        }
    }
}

/// What is looked at.
struct Watched {
    shared: Arc<Shared>,
    refused: Arc<RefusedList>,
    store: Arc<StoreSwitch>,
    rebuilds: Rebuilds,
    incidents: Incidents,
    guard: Arc<Guard>,
}

async fn run(
    watched: Watched,
    health: Health,
    fatal: watch::Sender<Option<String>>,
    mut stopping: watch::Receiver<Option<String>>,
) {
    let mut tick: u32 = 0;
    let mut accepting = true;
    let (mut journal_watch, mut parked_watch) = (JournalWatch::default(), ParkedWatch::default());
    loop {
        tokio::select! {
            biased;
            stop = stopping.wait_for(Option::is_some) => {
                let why = stop.ok().and_then(|why| why.clone()).unwrap_or_default();
                health.refuse(&why).await;
                return;
            }
            () = tokio::time::sleep(PERIOD) => {}
        }
        let state = watched.shared.journal.state();
        watch_journal(&watched, &state, &mut journal_watch);
        let refusing = match state {
            JournalState::Running => None,
            JournalState::Stalled(age) => Some(format!("the journal's disk has not answered for {age:?}")),
            JournalState::Failed(error) => {
                let why = error.to_string();
                fatal.send_replace(Some(why.clone()));
                Some(why)
            }
            JournalState::Closed => Some("the journal is closed".to_owned()),
        };
        match refusing {
            Some(why) => {
                health.refuse(&why).await;
                accepting = false;
            }
            None if !accepting => {
                health.accept().await;
                accepting = true;
            }
            None => {}
        }
        if tick.is_multiple_of(METRICS_EVERY) {
            measure(&watched);
            watch_parked(&watched, &mut parked_watch);
        }
        tick = tick.wrapping_add(1);
    }
}

fn watch_journal(watched: &Watched, state: &JournalState, watch: &mut JournalWatch) {
    let (failed, stalled) = match state {
        JournalState::Running | JournalState::Closed => (None, None),
        JournalState::Stalled(age) => (None, Some(*age)),
        JournalState::Failed(error) => (Some(error.to_string()), None),
    };
    gauge!(names::JOURNAL_STALLED).set(f64::from(u8::from(stalled.is_some())));
    gauge!(names::JOURNAL_FAILED).set(f64::from(u8::from(failed.is_some())));
    let usage = watched.shared.journal.usage();
    let room = JournalRoom {
        used: usage.used,
        limit: usage.limit.saturating_sub(usage.reserved),
        is_short: usage.is_short(),
        is_full: usage.is_full(),
    };
    if let Some((level, message)) = watch.look(failed.as_deref(), stalled, room) {
        watched.incidents.journal(level, message);
    }
}

fn watch_parked(watched: &Watched, watch: &mut ParkedWatch) {
    let sites = watched.shared.sites.all();
    let parked = sites.iter().map(|site| (site.site.clone(), site.lane.lock().parked() as u64));
    let parked: Vec<_> = parked.filter(|(_, users)| *users > 0).collect();
    gauge!(names::PARKED_USERS).set(parked.iter().map(|(_, users)| *users).sum::<u64>() as f64);
    for (site, users, message) in watch.look(parked) {
        watched.incidents.parked(&site, users, message);
    }
}

fn measure(watched: &Watched) {
    let Watched { shared, refused, store, rebuilds, guard, .. } = watched;
    guard.measure(PERIOD * METRICS_EVERY);
    let usage = &shared.usage;
    gauge!(names::PENDING_BYTES).set(usage.pending.load(Ordering::Relaxed) as f64);
    gauge!(names::STALLED_BYTES).set(usage.stalled.load(Ordering::Relaxed) as f64);
    gauge!(names::PENDING_MEMORY_BYTES).set(shared.hot.used() as f64);
    gauge!(names::PROFILE_CACHE_BYTES).set(shared.cache.bytes() as f64);
    gauge!(names::REQUEST_IDS).set(shared.requests.len() as f64);
    gauge!(names::SITES).set(shared.sites.len() as f64);
    gauge!(names::REFUSED_ENTRIES).set(refused.listed() as f64);
    let pending: usize = shared.sites.all().iter().map(|site| site.lane.lock().waiting()).sum();
    gauge!(names::PENDING_ENTRIES).set(pending as f64);
    gauge!(names::STORE_HUNG_THREADS).set(rebuilds.hung_threads() as f64);
    let current = store.current();
    gauge!(names::STORE_COMPLETE).set(if current.is_some() { 1.0 } else { 0.0 });
    let Some(store) = current else { return };
    gauge!(names::STORE_INDEX_BYTES).set(store.index_bytes() as f64);
    gauge!(names::STORE_UNFLUSHED_BYTES).set(store.unflushed_bytes() as f64);
    let oldest = store.oldest_call(std::time::Instant::now()).unwrap_or_default();
    gauge!(names::STORE_OLDEST_CALL_SECONDS).set(oldest.as_secs_f64());
}
