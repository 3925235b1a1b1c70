//! A small node whose every step is made by hand: a journal on a disk in memory, lanes, a store, an applier.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::sync::watch;

use super::replica::Contents;
use crate::accept::{BatchStamp, End, RequestKey, Requests, Verdict};
use crate::applier::{RefusedList, batch};
use crate::clock::{Clock as _, ManualClock};
use crate::command::TaskRefused;
use crate::fs::{FaultyFs, Fs};
use crate::journal::{
    BatchSettings, Committed, Journal, JournalError, JournalOptions, Kept, Opened, Sink, Submission,
    SubmitReason,
};
use crate::model::evaluate::SEMANTICS;
use crate::model::{
    ChangeKind, Command, Entry, EventTime, NodeId, Position, ProfileKey, Record, Site, User, codec, hash,
};
use crate::read::{EntrySource, Stamped};
use crate::sites::{EntryRef, SiteState, Sites};
use crate::snapshot::pace::Pace;
use crate::snapshot::{Host, InUse, Source, TakeError, Taken};
use crate::store::sled::{SledOptions, SledStore};
use crate::store::{
    Committed as Done, Declaration, IndexPage, IndexScan, Purpose, RecordCursor, RecordPage, RefusedRecord,
    SiteCommit, Store, StoreError, StoreFuture, StoredItem,
};

pub const JOURNAL: &str = "/journal";

/// An entry on its way: its lane, its user, its bytes.
pub type Ticket = (Arc<SiteState>, u64, u32);

/// Position and time of an entry that is kept.
type Place = Option<(u64, EventTime)>;

struct Lanes(Sender<Place>);

impl Sink<Ticket> for Lanes {
    fn committed(&mut self, batch: Vec<Committed<Ticket>>) {
        for done in batch {
            let (site, user, bytes) = done.ticket;
            site.lane.lock().restore(done.position, user, done.offset, bytes, None);
            let _test_is_over = self.0.send(Some((done.position, done.accepted_at)));
        }
    }

    fn failed(&mut self, tickets: Vec<Ticket>, _: Kept, _: Arc<JournalError>) {
        for _ in tickets {
            let _test_is_over = self.0.send(None);
        }
    }
}

/// Whether the store may be copied, and what a checkpoint finds.
#[derive(Default)]
pub struct Trust {
    pub distrusted: AtomicBool,
    pub generation: AtomicU64,
    pub checkpoints: AtomicU64,
    pub checkpoint_fails: AtomicBool,
}

impl Host for Trust {
    fn may_take(&self) -> Result<InUse, TaskRefused> {
        if self.distrusted.load(Ordering::SeqCst) {
            return Err(TaskRefused::StoreNotTrusted);
        }
        let generation = self.generation.load(Ordering::SeqCst);
        Ok(InUse { generation, commit_number: 0, records: 0 })
    }

    fn checkpoint(&self) -> StoreFuture<()> {
        self.checkpoints.fetch_add(1, Ordering::SeqCst);
        let fails = self.checkpoint_fails.load(Ordering::SeqCst);
        Box::pin(std::future::ready(if fails { Err(StoreError::Io("full".to_owned())) } else { Ok(()) }))
    }
}

/// The store, with something that happens before each page of a scan.
pub struct Between {
    store: Arc<SledStore>,
    page: usize,
    act: Mutex<Box<dyn FnMut() + Send>>,
}

impl Store for Between {
    fn declaration(&self) -> Declaration {
        self.store.declaration()
    }
    fn load(&self, purpose: Purpose, keys: Vec<ProfileKey>) -> StoreFuture<Vec<Option<Arc<Record>>>> {
        self.store.load(purpose, keys)
    }
    fn commit(&self, commit: SiteCommit) -> StoreFuture<Done> {
        self.store.commit(commit)
    }
    fn scan_index(&self, scan: IndexScan) -> StoreFuture<IndexPage> {
        self.store.scan_index(scan)
    }
    fn scan_records(&self, after: Option<RecordCursor>, limit: usize) -> StoreFuture<RecordPage> {
        // The caller's thread drives a runtime, and what happens may want one of its own.
        std::thread::scope(|scope| scope.spawn(|| (self.act.lock())()).join().unwrap());
        self.store.scan_records(after, limit.min(self.page))
    }
    fn load_refused(&self, site: Site, position: u64) -> StoreFuture<Option<RefusedRecord>> {
        self.store.load_refused(site, position)
    }
    fn flush(&self) -> StoreFuture<crate::store::Flushed> {
        self.store.flush()
    }
}

pub fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(future)
}

/// What the applier works on.
pub struct State {
    pub refused: RefusedList,
    pub requests: Arc<Requests>,
    pub store: Arc<SledStore>,
    pub entries: EntrySource,
    pub clock: Arc<ManualClock>,
    _dir: TempDir,
}

pub struct Node {
    /// The disk in memory, unless it was made on another.
    pub fs: FaultyFs,
    on: Arc<dyn Fs>,
    snapshots: PathBuf,
    pub journal: Journal<Ticket>,
    pub state: State,
    pub sites: Arc<Sites>,
    pub trust: Arc<Trust>,
    /// Everything that was ever accepted.
    pub log: Vec<Stamped>,
    id: NodeId,
    heard: Receiver<Place>,
}

pub fn stamp() -> BatchStamp {
    BatchStamp { refresh_after: Duration::ZERO, semantics: SEMANTICS }
}

pub fn options() -> JournalOptions {
    JournalOptions {
        segment_bytes: 16 << 10,
        batch_bytes: 6 << 10,
        max_entry_bytes: 4 << 10,
        queue_entries: 1000,
        queue_bytes: 6 << 10,
        total_quota: 16 << 20,
        ..JournalOptions::new(JOURNAL)
    }
}

pub fn open_journal(fs: Arc<dyn Fs>, clock: &Arc<ManualClock>, options: JournalOptions) -> Opened {
    let clock = Arc::clone(clock);
    Journal::<Ticket>::open(options, fs, clock).unwrap()
}

impl Node {
    pub fn new() -> Self {
        Self::with(options())
    }

    pub fn with(options: JournalOptions) -> Self {
        let fs = FaultyFs::default();
        let node = Self::on(Arc::new(fs.clone()), options, super::support::dir());
        Self { fs, ..node }
    }

    /// A node whose files are on `on`.
    pub fn on(on: Arc<dyn Fs>, options: JournalOptions, snapshots: PathBuf) -> Self {
        let clock = Arc::new(ManualClock::new(EventTime::MIN.plus(Duration::from_secs(1_000_000))));
        let opened = open_journal(Arc::clone(&on), &clock, options);
        let (node, reader) = (opened.node, opened.reader.clone());
        let (sender, heard) = channel();
        let settings = BatchSettings { refresh_after: stamp().refresh_after, semantics: SEMANTICS };
        let journal = opened.start(move || settings, Box::new(Lanes(sender))).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let sites = Arc::new(Sites::new(100));
        let state = State {
            refused: RefusedList::default(),
            requests: Arc::new(Requests::new(10_000, Duration::from_mins(10))),
            store: Arc::new(SledStore::open(&dir.path().join("sled"), node, &sled()).unwrap()),
            entries: EntrySource::new(node, reader, stamp()),
            clock,
            _dir: dir,
        };
        let log = Vec::new();
        let fs = FaultyFs::default();
        Self { fs, on, snapshots, journal, state, sites, trust: Arc::default(), log, id: node, heard }
    }

    /// Accepts an entry; it waits in its lane then. False if the journal is full.
    pub fn accept(&mut self, entry: Entry) -> bool {
        self.state.clock.advance(Duration::from_millis(1));
        let site = self.sites.restore(&entry.site);
        let user = entry.profile_key().map_or(0, |key| key.hash64());
        let payload = codec::encode_entry(&entry);
        let bytes = payload.len() as u32 + crate::accept::ENTRY_OVERHEAD;
        if let Command::Write(write) = &entry.command
            && let ChangeKind::Identify(changes) = &write.kind
        {
            let mut lane = site.lane.lock();
            site.change_registry(&mut lane, |registry| registry.declare(changes, EventTime::MIN));
        }
        loop {
            let submission =
                Submission { payload: payload.clone(), ticket: (Arc::clone(&site), user, bytes) };
            match self.journal.submit(submission) {
                Ok(()) => {
                    let Some((number, accepted_at)) = self.heard.recv().unwrap() else { return false };
                    let position = Position { node: self.id, number };
                    self.log.push(Stamped { position, accepted_at, batch: stamp(), entry: Arc::new(entry) });
                    return true;
                }
                Err(error) => match error.reason {
                    SubmitReason::Overloaded => std::thread::yield_now(),
                    SubmitReason::Full { .. } => return false,
                    other => panic!("{other}"),
                },
            }
        }
    }

    /// What a snapshot is taken of; `act` happens before each page (of `page` records) of the scan.
    pub fn source(&self, page: usize, act: impl FnMut() + Send + 'static) -> Source<Ticket> {
        let store = Between { store: Arc::clone(&self.state.store), page, act: Mutex::new(Box::new(act)) };
        Source {
            fs: Arc::clone(&self.on),
            dir: self.snapshots.clone(),
            journal: self.journal.clone(),
            sites: Arc::clone(&self.sites),
            requests: Arc::clone(&self.state.requests),
            store: Arc::new(store),
            clock: Arc::clone(&self.state.clock) as _,
            host: Arc::clone(&self.trust) as _,
        }
    }

    /// Takes a snapshot of a store that nothing else happens to.
    pub fn snapshot(&self) -> Result<Taken, TakeError> {
        take(&self.source(100, || {}))
    }

    /// Applies up to `limit` entries of each lane, except those of users that are `held`.
    pub fn apply(&self, limit: usize, held: impl Fn(u64) -> bool) {
        self.state.apply(&self.sites, limit, held);
    }

    /// The names in a directory.
    pub fn names(&self, dir: &std::path::Path) -> Vec<String> {
        self.fs.list(dir).unwrap_or_default()
    }
}

/// Takes a snapshot, at full speed.
pub fn take(source: &Source<Ticket>) -> Result<Taken, TakeError> {
    let (_keep, stop) = watch::channel(false);
    wait(source.take(&mut Pace::new(100, stop), &|_, _| {}))
}

pub fn sled() -> SledOptions {
    SledOptions {
        cache_capacity: 16 << 20,
        index_capacity: 1 << 20,
        get_threads: 1,
        query_threads: 1,
        apply_threads: 1,
        queue: 64,
        hook: None,
        generation: 0,
    }
}

impl State {
    /// Applies up to `limit` entries of each lane, except those of users that are `held`.
    pub fn apply(&self, sites: &Sites, limit: usize, held: impl Fn(u64) -> bool) {
        for site in sites.all() {
            let taken = {
                let mut lane = site.lane.lock();
                lane.look_again();
                lane.take(limit, false, |user, _| held(user))
            };
            if taken.is_empty() {
                continue;
            }
            let entries: Vec<Stamped> =
                taken.iter().map(|entry| self.entries.fetch(entry).unwrap()).collect();
            let ends = apply(&site, &entries, &self.store, &self.refused);
            self.conclude(&site, &entries, &taken, ends);
        }
    }

    fn conclude(&self, site: &SiteState, entries: &[Stamped], taken: &[EntryRef], ends: Vec<Option<End>>) {
        for ((stamped, end), reference) in entries.iter().zip(ends).zip(taken) {
            if let Command::Write(write) = &stamped.entry.command
                && let Some(id) = write.request_id.as_deref()
            {
                let verdict = Verdict { position: reference.position, end: end.unwrap() };
                let key = RequestKey::new(&site.site, id);
                self.requests.end(key, hash::payload_hash(write), verdict, self.clock.now());
            }
        }
        site.lane.lock().finish(taken.iter().map(|entry| entry.position));
    }
}

/// Applies entries of one site to a store, by the applier's own rules.
pub fn apply(
    site: &SiteState,
    entries: &[Stamped],
    store: &SledStore,
    refused: &RefusedList,
) -> Vec<Option<End>> {
    let mut users: Vec<User> = Vec::new();
    for stamped in entries {
        if let Command::Write(write) = &stamped.entry.command
            && !users.contains(&write.user)
        {
            users.push(write.user.clone());
        }
    }
    let keys = users.iter().map(|user| ProfileKey::new(site.site.clone(), user.clone())).collect();
    let loaded = wait(store.load(Purpose::Apply, keys)).unwrap();
    let records: HashMap<_, _> = users.into_iter().zip(loaded).collect();
    let turn = batch::turn(site, entries, records, refused);
    assert!(turn.failing.is_empty());
    if !turn.is_settled() {
        commit(site, store, refused, &turn.commit);
    }
    turn.ends
}

fn commit(site: &SiteState, store: &SledStore, refused: &RefusedList, commit: &SiteCommit) {
    wait(store.commit(commit.clone())).unwrap();
    for record in &commit.refused {
        refused.add(record, EventTime::MIN);
    }
    for position in &commit.forget_refused {
        refused.remove(&site.site, *position);
    }
    let mut lane = site.lane.lock();
    site.change_registry(&mut lane, |registry| {
        for info in &commit.registry {
            registry.restore(info.clone());
        }
    });
}

/// Everything that a store holds.
pub fn contents(store: &SledStore) -> Contents {
    let (mut found, mut graves) = (Contents::default(), Vec::new());
    let mut after = None;
    loop {
        let page = wait(store.scan_records(after.take(), 100)).unwrap();
        for item in page.items {
            if matches!(item, StoredItem::Grave { .. }) { graves.push(item) } else { found.add(item) }
        }
        after = page.next;
        if after.is_none() {
            for grave in graves {
                found.add(grave);
            }
            return found;
        }
    }
}
