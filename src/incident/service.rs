//! The handle that everybody reports to, and the thread that records.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use metrics::{counter, gauge};
use parking_lot::Mutex;

use super::event::{Change, JournalLevel, Scope, Transition};
use super::file::{Found, IncidentFile};
use super::record::{Head, Incident};
use super::recorder::{Backlog, Effect, Record, Recorder};
use crate::clock::Clock;
use crate::fs::Fs;
use crate::ledger::{Coverage, Ledger, Sums};
use crate::metrics as names;
use crate::model::{EventTime, Site};
use crate::sites::{SiteState, Sites};

/// What is reported and not yet recorded. More at once is counted, and dropped: whoever reports must not wait.
const INBOX: usize = 4096;
/// How often an open incident is looked at.
const TICK: Duration = Duration::from_millis(100);
/// The same on a node with very many sites, all of which have to be looked at.
const SLOW_TICK: Duration = Duration::from_secs(1);
/// So many are very many.
const MANY_SITES: usize = 2000;
/// How often the sums of open incidents are written down.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// What incidents are recorded about, and where.
pub struct IncidentOptions {
    /// The directory of the file; not under the store's.
    pub dir: PathBuf,
    /// Access to it.
    pub fs: Arc<dyn Fs>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// What counts entries.
    pub ledger: Arc<Ledger>,
    /// What waits. Its lanes must be complete, and not be worked on yet.
    pub sites: Arc<Sites>,
}

/// Takes reports and answers questions; clones speak of the same incidents. Neither ever waits for a disk.
#[derive(Clone)]
pub struct Incidents {
    recorder: Arc<Mutex<Recorder>>,
    inbox: Sender<(EventTime, Transition)>,
    time: SteadyTime,
    node: Node,
}

/// The thread that records.
pub struct IncidentThread {
    inbox: Sender<(EventTime, Transition)>,
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

/// Wall time that runs on evenly, whatever is done to the machine's clock meanwhile: durations must be right.
#[derive(Clone, Copy)]
struct SteadyTime {
    began: Instant,
    at: EventTime,
}

impl SteadyTime {
    fn now(&self) -> EventTime {
        self.at.plus(Instant::now().saturating_duration_since(self.began))
    }
}

impl Incidents {
    /// Takes up what an earlier process recorded, and records on. A file that cannot be read or written keeps nobody
    /// from starting: it is said in the log and in a metric, and incidents are then kept in memory.
    pub fn start(options: IncidentOptions) -> std::io::Result<(Self, IncidentThread)> {
        let time = SteadyTime { began: Instant::now(), at: options.clock.now() };
        let node = Node { ledger: options.ledger, sites: options.sites };
        let mut recorder = Recorder::default();
        let file = match IncidentFile::open(options.fs, &options.dir, &mut recorder, time.now()) {
            Ok((file, found)) => {
                say(&found);
                Some(file)
            }
            Err(error) => {
                counter!(names::INCIDENTS_NOT_SAVED).increment(1);
                let dir = options.dir.display();
                tracing::error!(%dir, %error, "incidents cannot be written down; they are kept in memory only");
                None
            }
        };
        resume(&mut recorder, &node);
        let effects = recorder.restarted(time.now());
        let (inbox, reports) = bounded(INBOX);
        let (stop, stopped) = bounded(1);
        let recorder = Arc::new(Mutex::new(recorder));
        let mut writer = Writer { recorder: Arc::clone(&recorder), node: node.clone(), file };
        let run = move || {
            writer.carry_out(effects);
            writer.run(&reports, &stopped, time);
        };
        let thread = std::thread::Builder::new().name("sf-incidents".to_owned()).spawn(run)?;
        let handle = Self { recorder, inbox: inbox.clone(), time, node };
        Ok((handle, IncidentThread { inbox, stop, thread }))
    }

    /// Something happened, now.
    pub fn report(&self, transition: Transition) {
        match self.inbox.try_send((self.time.now(), transition)) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => counter!(names::INCIDENT_EVENTS_DROPPED).increment(1),
        }
    }

    /// A hold or an override was placed, changed, or ended, or a pace or a quota was set.
    pub fn hold(&self, scope: Scope, message: impl Into<String>) {
        self.note(scope, Change::Hold, message);
    }

    /// A rebuild of the store began.
    pub fn rebuild_started(&self, message: impl Into<String>) {
        self.note(Scope::default(), Change::RebuildStarted, message);
    }

    /// The rebuilt store took over.
    pub fn rebuild_finished(&self, message: impl Into<String>) {
        self.note(Scope::default(), Change::RebuildFinished, message);
    }

    /// A rebuild failed; the old store stayed.
    pub fn rebuild_failed(&self, message: impl Into<String>) {
        self.note(Scope::default(), Change::RebuildFailed, message);
    }

    /// The journal's level changed.
    pub fn journal(&self, level: JournalLevel, message: impl Into<String>) {
        self.note(Scope::default(), Change::Journal(level), message);
    }

    /// So many users of `site` have their entries parked.
    pub fn parked(&self, site: &Site, users: u64, message: impl Into<String>) {
        let scope = Scope::site(super::Operation::Apply, site.clone());
        self.note(scope, Change::Parked(users), message);
    }

    fn note(&self, scope: Scope, change: Change, message: impl Into<String>) {
        self.report(Transition { scope, change, message: message.into(), evidence: None });
    }

    /// All incidents without their timelines, newest first, sums as of now.
    pub fn list(&self) -> Vec<Head> {
        let recorder = self.recorder.lock();
        recorder.all().rev().map(|incident| self.up_to_date(incident.head.clone())).collect()
    }

    /// One incident whole, sums as of now. The number of one that became part of another leads to that.
    pub fn get(&self, number: u64) -> Option<Incident> {
        let incident = self.recorder.lock().get(number)?.clone();
        Some(Incident { head: self.up_to_date(incident.head), ..incident })
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.recorder.lock().open()
    }

    fn up_to_date(&self, mut head: Head) -> Head {
        if !head.settled
            && let Some((sums, _)) = self.node.sums(head.number)
        {
            head.sums = Some(sums);
        }
        head
    }
}

impl IncidentThread {
    /// Records what is left and ends. To be called when nothing is accepted or applied any more: then the sums that
    /// are written down are those that the next process finds.
    pub fn stop(self) {
        drop(self.inbox);
        // It may have ended by a panic, which the join tells.
        let _ = self.stop.send(());
        if self.thread.join().is_err() {
            tracing::error!("the thread that records incidents panicked");
        }
    }
}

fn say(found: &Found) {
    if found.cut > 0 {
        tracing::info!(
            bytes = found.cut,
            "the last record of an incident had not been finished; it was cut off"
        );
    }
    if let Some((problem, aside)) = &found.set_aside {
        counter!(names::INCIDENTS_UNREADABLE).increment(1);
        let kept = aside.display();
        tracing::error!(problem, %kept, "the file of incidents could not be read to its end; it was set aside");
    }
}

/// Goes on counting for incidents that an earlier process left open.
fn resume(recorder: &mut Recorder, node: &Node) {
    let open: Vec<Head> =
        recorder.all().map(|incident| &incident.head).filter(|head| !head.settled).cloned().collect();
    for head in open {
        let Some(before) = head.sums else { continue };
        let range = |site: &Site| head.covers.from(site).map(|from| (from, u64::MAX));
        let beyond = |site: &Site| head.covers.from(site).map(|from| (from.max(before.last + 1), u64::MAX));
        let waiting = node.waiting_within(&range);
        // What was accepted and not yet counted when a process was killed.
        let unseen = node.waiting_within(&beyond);
        let carried = carry(before, waiting, unseen);
        // Without an interval it keeps the sums of before.
        if node.ledger.resume(head.number, head.covers.clone(), carried).is_err() {
            tracing::warn!(
                incident = head.number,
                "too many incidents are open: this one is not counted further"
            );
        }
    }
}

/// The sums to go on with, when `waiting` entries wait of which `unseen` had not been counted as accepted. After a
/// stop in order nothing changes. After a kill some had ended, or will end again, without being counted so: what does
/// not wait has been applied.
fn carry(before: Sums, waiting: u64, unseen: u64) -> Sums {
    let mut sums = Sums { accepted: (before.accepted + unseen).max(waiting), ..before };
    let ended = sums.accepted - waiting;
    let others = sums.unchanged + sums.duplicate + sums.refused;
    if ended >= others {
        sums.applied = ended - others;
    } else {
        (sums.applied, sums.unchanged, sums.duplicate, sums.refused) = (ended, 0, 0, 0);
    }
    sums.pending = waiting;
    sums
}

/// What the recorder asks about, and has counted.
#[derive(Clone)]
struct Node {
    ledger: Arc<Ledger>,
    sites: Arc<Sites>,
}

impl Node {
    fn in_scopes(&self, scopes: &[Scope]) -> Vec<Arc<SiteState>> {
        let scopes = scopes.iter().filter(|scope| scope.delays_writes());
        let sites: Option<Vec<&Site>> = scopes.map(|scope| scope.site.as_ref()).collect();
        match sites {
            Some(sites) => sites.into_iter().filter_map(|site| self.sites.get(site)).collect(),
            None => self.sites.all(),
        }
    }

    fn waiting_within(&self, range: &dyn Fn(&Site) -> Option<(u64, u64)>) -> u64 {
        let within = |site: Arc<SiteState>| {
            let (from, to) = range(&site.site)?;
            Some(site.lane.lock().waiting_within(from, to) as u64)
        };
        self.sites.all().into_iter().filter_map(within).sum()
    }
}

impl Backlog for Node {
    fn durable(&self) -> u64 {
        self.ledger.durable()
    }

    fn oldest_waiting(&self, scopes: &[Scope]) -> Option<u64> {
        self.in_scopes(scopes).iter().filter_map(|site| site.lane.lock().low_water_of_active()).min()
    }

    fn waiting(&self, scopes: &[Scope]) -> u64 {
        self.in_scopes(scopes).iter().map(|site| site.lane.lock().waiting() as u64).sum()
    }

    fn sums(&self, number: u64) -> Option<(Sums, Coverage)> {
        self.ledger.read(number, |range| self.waiting_within(range))
    }
}

/// The recording thread's own.
struct Writer {
    recorder: Arc<Mutex<Recorder>>,
    node: Node,
    file: Option<IncidentFile>,
}

impl Writer {
    fn run(&mut self, reports: &Receiver<(EventTime, Transition)>, stop: &Receiver<()>, time: SteadyTime) {
        let mut saved = Instant::now();
        loop {
            let pause = if self.node.sites.len() > MANY_SITES { SLOW_TICK } else { TICK };
            let first = match reports.recv_timeout(pause) {
                Ok(report) => Some(report),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let stopping = stop.try_recv().is_ok();
            let mut effects = Vec::new();
            for (at, transition) in first.into_iter().chain(reports.try_iter().take(INBOX)) {
                effects.extend(self.recorder.lock().apply(at, &transition));
            }
            self.carry_out(effects);
            let effects = self.recorder.lock().tick(time.now(), &self.node);
            self.carry_out(effects);
            if stopping || Instant::now().saturating_duration_since(saved) >= SAVE_EVERY {
                saved = Instant::now();
                let effects = self.recorder.lock().refresh(&self.node);
                self.carry_out(effects);
                gauge!(names::INCIDENTS_OPEN).set(self.recorder.lock().open() as f64);
                counter!(names::INCIDENTS).absolute(self.recorder.lock().numbered());
            }
            if stopping {
                return;
            }
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        let mut records: Vec<Record> = Vec::new();
        for effect in effects {
            match effect {
                Effect::Save(record) => records.push(record),
                Effect::Cover(number, site) => {
                    if self.node.ledger.cover(number, site.as_ref()).is_err() {
                        tracing::warn!(
                            incident = number,
                            "too many incidents are open: this one is not counted"
                        );
                    }
                }
                Effect::Merge { from, into } => self.node.ledger.merge(from, into),
                Effect::End(number) => self.node.ledger.end(number),
                Effect::Forget(number) => self.node.ledger.forget(number),
                Effect::NotRecorded => counter!(names::INCIDENT_EVENTS_DROPPED).increment(1),
            }
        }
        let Some(file) = self.file.as_mut().filter(|_| !records.is_empty()) else { return };
        let recorder = &self.recorder;
        if let Err(error) = file.append(&records, || recorder.lock().clone()) {
            counter!(names::INCIDENTS_NOT_SAVED).increment(1);
            tracing::warn!(%error, "an incident could not be written down; it is kept in memory, and tried again");
        }
    }
}

#[cfg(test)]
mod tests;
