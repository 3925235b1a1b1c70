//! The kill switch in a running node: opened before anything is accepted, ticked, and told of by the operators'
//! service.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use tokio::sync::mpsc::UnboundedSender;

use super::{Core, StartError};
use crate::accept::{Shared, Usage};
use crate::clock::Clock;
use crate::command::operate::HoldDesk;
use crate::command::{ExportPage, HoldImpact, Lookup, LookupFuture, ReadError, WriteState};
use crate::config::Config;
use crate::fs::RealFs;
use crate::guard::Guard;
use crate::kill_switch::{Admission, Impact, KillSwitch, NewHold, Now, Operation, Scope, View};
use crate::model::{Position, Site};
use crate::sites::{SiteState, Sites};
use crate::store::{AttributeInfo, RecordCursor};

/// How often time is looked at.
const TICK: Duration = Duration::from_millis(100);

/// How long the last events may take to get to the disk.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// What an entry takes in the journal when none waits whose size is known.
const USUAL_ENTRY: u64 = 300;

/// The switch and its threads.
pub struct Holds {
    switch: Arc<KillSwitch>,
    stop: Sender<()>,
    /// Nothing is sent: it is closed when the scribe has ended.
    written: Receiver<()>,
    threads: Vec<JoinHandle<()>>,
}

fn now(clock: &dyn Clock) -> Now {
    Now { instant: Instant::now(), wall: clock.now() }
}

impl Holds {
    /// Takes up the holds of the last run. Blocks.
    pub fn open(config: &Config, clock: &Arc<dyn Clock>) -> Result<Self, StartError> {
        let (switch, scribe) = KillSwitch::open(Arc::new(RealFs), &config.control.dir, now(clock.as_ref()))?;
        let (stop, stopping) = bounded(0);
        let ticked = Arc::clone(&switch);
        let time = Arc::clone(clock);
        let tick = move || {
            while stopping.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                ticked.tick(now(time.as_ref()));
            }
        };
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(StartError::Thread)
        };
        let (writing, written) = bounded(0);
        let write = move || {
            let _writing: Sender<()> = writing;
            scribe.run();
        };
        if config.control.start_held {
            let reason = "started with everything held";
            // Whether it is on disk is in its status.
            switch.hold_all("steadfast serve", reason, now(clock.as_ref())).map_err(StartError::Held)?;
        }
        let threads = vec![spawn("sf-audit", Box::new(write))?, spawn("sf-holds", Box::new(tick))?];
        Ok(Self { switch, stop, written, threads })
    }

    /// The switch.
    pub fn switch(&self) -> &Arc<KillSwitch> {
        &self.switch
    }

    /// Says who is to go on when holds let go.
    pub fn connect(
        &self,
        sites: Arc<Sites>,
        usage: Arc<Usage>,
        guard: Arc<Guard>,
        ready: UnboundedSender<Arc<SiteState>>,
    ) {
        self.switch.on_resumed(Box::new(move |scope, before, after| {
            let freed = let_go(&sites, scope, before, after);
            let entries = freed.iter().map(|(_, entries)| entries).sum();
            let lanes = freed.iter().filter(|(_, entries)| *entries > 0);
            let lanes: Vec<_> = lanes.map(|(site, entries)| (site.site.clone(), *entries)).collect();
            // First, so that no turn is taken at full speed.
            guard.resume_slowly(scope.site.as_ref(), &lanes, Instant::now());
            for (site, _) in freed {
                let mut lane = site.lane.lock();
                lane.look_again();
                if lane.set_stalled(false) {
                    usage.stalled.fetch_sub(lane.bytes(), Ordering::Relaxed);
                }
                if lane.claim() {
                    // Without the applier nothing is applied any more.
                    drop(ready.send(Arc::clone(&site)));
                }
            }
            entries
        }));
    }

    /// Ends both threads, when what was ordered is on disk. A disk that hangs is not waited for.
    pub fn close(&mut self) {
        // The other end is gone when the thread is.
        let _ = self.stop.send(());
        self.switch.close();
        if self.written.recv_timeout(CLOSE_WITHIN) == Err(RecvTimeoutError::Timeout) {
            tracing::error!("the audit log's disk does not answer; the last events of holds are not on it");
            return;
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the kill switch panicked");
            }
        }
    }
}

/// The lanes in which entries wait by `before` that do not by `after`, or whose next write would, and how many.
fn let_go(sites: &Sites, scope: &Scope, before: &View, after: &View) -> Vec<(Arc<SiteState>, u64)> {
    let concerned = match &scope.site {
        Some(site) => sites.get(site).into_iter().collect(),
        None => sites.all(),
    };
    let mut freed = Vec::new();
    for site in concerned {
        let Some(was) = before.deferral(&site.site) else { continue };
        let is = after.deferral(&site.site);
        let entries = site.lane.lock().count(|user, operation| {
            operation.map_or_else(
                || was.is_whole() && !is.is_some_and(|is| is.is_whole()),
                |operation| was.holds(user, operation) && !is.is_some_and(|is| is.holds(user, operation)),
            )
        });
        freed.push((site, entries));
    }
    freed
}

/// What operators ask.
struct Desk {
    switch: Arc<KillSwitch>,
    shared: Arc<Shared>,
}

impl Core {
    /// What operators do to holds.
    pub fn hold_desk(&self) -> Arc<dyn HoldDesk> {
        Arc::new(Desk { switch: Arc::clone(self.holds.switch()), shared: Arc::clone(&self.shared) })
    }
}

impl HoldDesk for Desk {
    fn switch(&self) -> &KillSwitch {
        &self.switch
    }

    fn now(&self) -> Now {
        now(self.shared.clock.as_ref())
    }

    fn impact(&self, new: &NewHold) -> HoldImpact {
        let now = self.now();
        let scope = &new.scope;
        let Impact { requests_per_second, in_flight, overlapping } = self.switch.impact(scope, now);
        let alone = View::of_scope(scope);
        let (mut active_sites, mut pending) = (0, 0);
        let (mut waiting, mut waiting_bytes) = (0, 0);
        let lately = now.wall.minus(Duration::from_mins(1)).0;
        for site in self.shared.sites.all() {
            let lane = site.lane.lock();
            waiting += lane.waiting() as u64;
            waiting_bytes += lane.bytes();
            if !scope.concerns(&site.site) {
                continue;
            }
            active_sites += u64::from(site.written_at.load(Ordering::Relaxed) >= lately);
            if let Some(deferral) = alone.deferral(&site.site) {
                pending += lane.count(|user, operation| {
                    operation.is_some_and(|operation| deferral.holds(user, operation))
                });
            }
        }
        let usage = self.shared.journal.usage();
        let free = usage.limit.saturating_sub(usage.used);
        let entry = waiting_bytes.checked_div(waiting).unwrap_or(USUAL_ENTRY);
        let bytes_per_second = requests_per_second * entry as f64;
        let fills = new.mode == crate::kill_switch::Mode::Defer && bytes_per_second > 1.0;
        let time_to_full = fills.then(|| Duration::from_secs_f64(free as f64 / bytes_per_second));
        HoldImpact { active_sites, requests_per_second, in_flight, pending, time_to_full, overlapping }
    }

    fn let_go(&self, scope: &Scope, before: &View, after: &View) -> u64 {
        let_go(&self.shared.sites, scope, before, after).iter().map(|(_, entries)| entries).sum()
    }
}

/// Questions behind the switch.
pub struct HeldLookup<L> {
    switch: Arc<KillSwitch>,
    inner: L,
}

impl<L: Lookup> HeldLookup<L> {
    /// `inner` behind `switch`.
    pub fn new(switch: Arc<KillSwitch>, inner: L) -> Self {
        Self { switch, inner }
    }

    fn ask<T: Send + 'static>(
        &self,
        site: Site,
        operation: Operation,
        ask: impl FnOnce(&L, Site) -> LookupFuture<T>,
    ) -> LookupFuture<T> {
        // None of these is about single users.
        match self.switch.admit(&site, operation, &|_| false) {
            Admission::Refuse(held) => Box::pin(std::future::ready(Err(ReadError::from(held)))),
            // A read cannot wait, and no hold asks it to.
            Admission::Pass(ticket) | Admission::Defer(ticket, _) => {
                let answer = ask(&self.inner, site);
                Box::pin(async move {
                    let _under_way = ticket;
                    answer.await
                })
            }
        }
    }
}

impl<L: Lookup> Lookup for HeldLookup<L> {
    fn write_state(&self, site: Site, position: Position, deadline: Instant) -> LookupFuture<WriteState> {
        self.ask(site, Operation::Get, |inner, site| inner.write_state(site, position, deadline))
    }

    fn attributes(&self, site: Site, deadline: Instant) -> LookupFuture<Vec<AttributeInfo>> {
        self.ask(site, Operation::Get, |inner, site| inner.attributes(site, deadline))
    }

    fn export(
        &self,
        site: Site,
        after: Option<RecordCursor>,
        limit: usize,
        deadline: Instant,
    ) -> LookupFuture<ExportPage> {
        self.ask(site, Operation::Query, |inner, site| inner.export(site, after, limit, deadline))
    }
}
