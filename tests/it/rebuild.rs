//! The store built anew under a running node: while clients write and read, from a writer that hangs, after its
//! directory was removed, and when it does not work out.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use steadfast::app::{Core, Layers};
use steadfast::clock::SystemClock;
use steadfast::command::{
    Outcome, ReadError, ReadRequest, RebuildProgress, RebuildRequest, Receipt, SnapshotRequest, TaskRefused,
    TaskState, Wait, WriteError, WriteRequest, WriteState,
};
use steadfast::config::Config;
use steadfast::model::{AttributeChange, Change, ChangeKind, Profile, ProfileKey, Site, User, Value, Write};
use steadfast::store::faulty::{Fault, FaultKind, FaultLevel, Faults, FaultyStore};
use steadfast::store::{Call, IndexScan, Operation, Store as _, StoreError, WorkerHook};
use tower::Service as _;

use crate::support::{self, Home, SITE, add, applied, set, text};

const LONG: Duration = Duration::from_mins(1);

struct Node {
    core: Core,
    faults: Faults,
    config: Config,
}

fn config(dir: &tempfile::TempDir) -> Config {
    let mut config = Config::ephemeral(dir.path());
    config.journal.segment.0 = 4 << 20;
    config.writes.reply_after.0 = LONG / 2;
    config.server.drain_timeout.0 = Duration::from_secs(2);
    config.store.checkpoint_every.0 = Duration::from_millis(50);
    config
}

fn open_hooked(config: Config, hook: Option<Arc<dyn WorkerHook>>) -> Node {
    let faults = Faults::default();
    let wanted = faults.clone();
    let layers = Layers {
        wrap: Arc::new(move |store| Arc::new(FaultyStore::new(store, wanted.clone()))),
        hook: Some(hook.unwrap_or_else(|| Arc::new(faults.clone()))),
        ..Layers::default()
    };
    let core = Core::open_layered(&config, Arc::new(SystemClock), &layers).unwrap();
    Node { core, faults, config }
}

fn open(dir: &tempfile::TempDir) -> Node {
    open_hooked(config(dir), None)
}

fn request(site: &str, user: &str, kind: ChangeKind, wait: Wait) -> WriteRequest {
    let write = Write { user: User::new(user), request_id: None, occurred_at: None, if_version: None, kind };
    WriteRequest { site: Site::new(site), write, wait, deadline: Instant::now() + LONG, may_load: true }
}

fn visit(site: &str, user: &str, wait: Wait) -> WriteRequest {
    let change = AttributeChange { name: "visits".into(), change: Change::Add(1.0), occurred_at: None };
    request(site, user, ChangeKind::Identify(vec![change]), wait)
}

fn too_long(site: &str, user: &str) -> WriteRequest {
    let items: Vec<Box<str>> = (0..101).map(|n| n.to_string().into()).collect();
    let change =
        AttributeChange { name: "tags".into(), change: Change::Append(items.into()), occurred_at: None };
    request(site, user, ChangeKind::Identify(vec![change]), Wait::Applied)
}

/// Until `done` says so.
async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let give_up = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < give_up, "still not: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

impl Node {
    async fn write(&self, request: WriteRequest) -> Result<Receipt, WriteError> {
        self.core.writes().call(request).await
    }

    async fn read(&self, site: &str, user: &str) -> Result<Option<Profile>, ReadError> {
        let keys = vec![ProfileKey::new(Site::new(site), User::new(user))];
        let read = ReadRequest { keys, deadline: Instant::now() + LONG };
        Ok(self.core.reads().call(read).await?.remove(0).live().cloned())
    }

    async fn visits(&self, site: &str, user: &str) -> Option<(u64, f64)> {
        let profile = self.read(site, user).await.unwrap()?;
        let Some(Value::Number(visits)) = profile.attribute("visits").map(|a| a.value.clone()) else {
            panic!("{profile:?}");
        };
        Some((profile.version, visits))
    }

    fn rebuild(&self) -> Result<RebuildProgress, TaskRefused> {
        let (dir, reason) = (None, "as the test asks for".to_owned());
        self.core.rebuilds.request(RebuildRequest { dir, reason, owner: "test".to_owned() })
    }

    async fn ended(&self) -> RebuildProgress {
        let state = || self.core.rebuilds.progress().map(|progress| progress.state);
        until("rebuilt", || state() != Some(TaskState::Running)).await;
        self.core.rebuilds.progress().unwrap()
    }

    async fn idle(&self) {
        let waits = || self.core.shared.sites.all().iter().any(|site| site.lane.lock().waiting() > 0);
        until("all applied", || !waits()).await;
    }

    fn generation(&self) -> Option<u64> {
        self.core.switch.in_use().map(|in_use| in_use.number)
    }

    fn dir(&self, generation: u64) -> PathBuf {
        self.config.store.dir.join(format!("{generation:08}"))
    }

    /// That profiles and index are what `model` says: visits by user.
    async fn agrees(&self, site: &str, model: &BTreeMap<String, u64>) {
        for (user, visits) in model {
            assert_eq!(self.visits(site, user).await, Some((*visits, *visits as f64)), "{user}");
        }
        let scan = IndexScan {
            site: Site::new(site),
            attribute: "visits".into(),
            from: Bound::Unbounded,
            to: Bound::Unbounded,
            prefix: None,
            after: None,
            limit: model.len() + 1,
        };
        let give_up = Instant::now() + LONG;
        let page = loop {
            match self.core.switch.scan_index(scan.clone()).await {
                Err(StoreError::IndexBuilding { .. }) if Instant::now() < give_up => {
                    tokio::task::yield_now().await;
                }
                page => break page.unwrap(),
            }
        };
        let mut found: Vec<String> =
            page.entries.iter().map(|(_, key)| key.user.as_str().to_owned()).collect();
        found.sort();
        let users: Vec<String> = model.keys().cloned().collect();
        assert_eq!(found, users);
    }
}

#[tokio::test]
async fn it_is_rebuilt_under_writes_and_reads() {
    const USERS: usize = 300;
    let dir = tempfile::tempdir().unwrap();
    let mut node = open(&dir);
    let mut model: BTreeMap<String, u64> = BTreeMap::new();
    let user = |n: usize| format!("u{:04}", n % USERS);
    for n in 0..3 * USERS {
        let last = n + 1 == 3 * USERS;
        let wait = if last { Wait::Applied } else { Wait::Journaled };
        node.write(visit("s", &user(n), wait)).await.unwrap();
        *model.entry(user(n)).or_default() += 1;
    }
    node.idle().await;
    let before = node.generation().unwrap();
    for round in 0..3 {
        let begun = node.rebuild().unwrap();
        assert_eq!((begun.state, begun.owner.as_str()), (TaskState::Running, "test"));
        assert!(matches!(node.rebuild(), Err(TaskRefused::Busy { .. })));
        let mut n = round;
        while node.core.rebuilds.progress().unwrap().state == TaskState::Running {
            node.write(visit("s", &user(n), Wait::Journaled)).await.unwrap();
            let visits = model.entry(user(n)).or_default();
            *visits += 1;
            let expected = Some((*visits, *visits as f64));
            assert_eq!(node.visits("s", &user(n)).await, expected);
            n += 7;
        }
        let done = node.ended().await;
        assert_eq!((done.state, done.error.as_str()), (TaskState::Done, ""));
        assert_eq!(done.done, done.total);
        assert_eq!(node.generation(), Some(before + round as u64 + 1));
        node.idle().await;
        node.agrees("s", &model).await;
    }
    until("the old one is gone", || !node.dir(before).exists()).await;
    node.core.close(LONG).unwrap();
    drop(node);

    let mut node = open(&dir);
    assert_eq!((node.generation(), node.core.replayed.pending), (Some(before + 3), 0));
    node.agrees("s", &model).await;
    node.core.close(LONG).unwrap();
}

/// Hangs the first commit after it was armed, until it is released.
struct HangOnce {
    armed: AtomicBool,
    hanging: AtomicBool,
    gate: crossbeam_channel::Receiver<()>,
}

impl WorkerHook for HangOnce {
    fn before(&self, call: &Call) -> Result<(), StoreError> {
        if call.operation == Operation::Commit && self.armed.swap(false, Ordering::SeqCst) {
            self.hanging.store(true, Ordering::SeqCst);
            // Disconnected is released too.
            let _ = self.gate.recv();
            self.hanging.store(false, Ordering::SeqCst);
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_writer_that_hangs_is_replaced_and_its_late_return_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (release, gate) = crossbeam_channel::bounded(0);
    let hook = Arc::new(HangOnce { armed: AtomicBool::new(false), hanging: AtomicBool::new(false), gate });
    let mut node = open_hooked(config(&dir), Some(hook.clone()));
    let mut model = BTreeMap::new();
    for n in 0..20 {
        node.write(visit("s", &format!("u{n}"), Wait::Applied)).await.unwrap();
        model.insert(format!("u{n}"), 1);
    }
    hook.armed.store(true, Ordering::SeqCst);
    // More than turns and queues hold on many sites, all of it behind the one that hangs.
    for n in 0..20 {
        node.write(visit("s", &format!("u{n}"), Wait::Journaled)).await.unwrap();
        *model.get_mut(&format!("u{n}")).unwrap() += 1;
    }
    for n in 0..100 {
        node.write(visit(&format!("other{n}"), "u", Wait::Journaled)).await.unwrap();
    }
    until("it hangs", || hook.hanging.load(Ordering::SeqCst)).await;
    node.rebuild().unwrap();
    let done = node.ended().await;
    assert_eq!((done.state, done.error.as_str()), (TaskState::Done, ""));
    node.idle().await;
    assert!(hook.hanging.load(Ordering::SeqCst));
    node.agrees("s", &model).await;
    let receipt = node.write(visit("s", "u1", Wait::Applied)).await.unwrap();
    assert_eq!((receipt.outcome, receipt.version), (Outcome::Applied, Some(3)));
    model.insert("u1".to_owned(), 3);

    release.send(()).unwrap();
    until("it has returned", || !hook.hanging.load(Ordering::SeqCst)).await;
    node.agrees("s", &model).await;
    for n in 0..100 {
        assert_eq!(node.visits(&format!("other{n}"), "u").await, Some((1, 1.0)));
    }
    node.core.close(LONG).unwrap();
    drop(node);
    let mut node = open(&dir);
    node.agrees("s", &model).await;
    node.core.close(LONG).unwrap();
}

#[tokio::test]
async fn a_snapshot_that_waits_for_the_sick_store_does_not_keep_it_from_being_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = open(&dir);
    node.write(visit("s", "u", Wait::Applied)).await.unwrap();
    let before = node.generation();
    node.faults.add(Fault::new(FaultKind::Hang, FaultLevel::Thread).on(Operation::ScanRecords));
    let take = || node.core.snapshots.take(SnapshotRequest { backup: None, owner: "test".to_owned() });
    take().unwrap();
    node.faults.until_waiting(1).await;
    node.rebuild().unwrap();
    let done = node.ended().await;
    assert_eq!((done.state, done.error.as_str()), (TaskState::Done, ""));
    assert_ne!(node.generation(), before);
    let snapshot = node.core.snapshots.progress();
    assert_eq!(snapshot.state, TaskState::Failed);
    assert!(snapshot.error.contains("gave way"), "{snapshot:?}");
    node.faults.clear();
    take().unwrap();
    until("a snapshot", || node.core.snapshots.progress().state != TaskState::Running).await;
    assert_eq!(node.core.snapshots.progress().state, TaskState::Done);
    node.core.close(LONG).unwrap();
}

#[tokio::test]
async fn a_store_whose_directory_is_removed_is_built_anew_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = open(&dir);
    let mut model = BTreeMap::new();
    for round in 1..=3 {
        for n in 0..50 {
            node.write(visit("s", &format!("u{n}"), Wait::Applied)).await.unwrap();
            *model.entry(format!("u{n}")).or_default() += 1;
        }
        let before = node.generation();
        // Another time only the file is replaced.
        match round {
            1 => std::fs::remove_dir_all(&node.config.store.dir).unwrap(),
            2 => std::fs::remove_dir_all(node.dir(before.unwrap())).unwrap(),
            _ => {
                let db = node.dir(before.unwrap()).join("sled/db");
                let copy = std::fs::read(&db).unwrap();
                std::fs::remove_file(&db).unwrap();
                std::fs::write(&db, copy).unwrap();
            }
        }
        until("another generation", || node.generation().is_some_and(|now| Some(now) != before)).await;
        node.agrees("s", &model).await;
    }
    node.core.close(LONG).unwrap();
}

#[tokio::test]
async fn one_that_fails_leaves_the_old_store_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = open(&dir);
    for n in 0..50 {
        node.write(visit("s", &format!("u{n}"), Wait::Applied)).await.unwrap();
    }
    let before = node.generation();
    let full = FaultKind::Error(StoreError::Io("no space left on device".to_owned()));
    node.faults.add(Fault::new(full, FaultLevel::Thread).on(Operation::Commit));
    let begun = node.rebuild().unwrap();
    let failed = node.ended().await;
    assert_eq!(failed.state, TaskState::Failed);
    assert!(failed.error.contains("no space left"), "{}", failed.error);
    assert_eq!(node.generation(), before);
    assert!(!node.dir(begun.generation).exists());
    assert_eq!(node.visits("s", "u1").await, Some((1, 1.0)));
    node.faults.clear();
    let receipt = node.write(visit("s", "u1", Wait::Applied)).await.unwrap();
    assert_eq!(receipt.version, Some(2));

    node.rebuild().unwrap();
    assert_eq!(node.ended().await.state, TaskState::Done);
    assert_eq!(node.visits("s", "u1").await, Some((2, 2.0)));
    node.core.close(LONG).unwrap();
}

#[tokio::test]
async fn refused_deleted_and_waiting_entries_stay_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = open(&dir);
    for user in ["gone", "back", "kept"] {
        node.write(visit("s", user, Wait::Applied)).await.unwrap();
    }
    let refused = node.write(too_long("s", "kept")).await.unwrap_err();
    let WriteError::Refused { position: Some(position), .. } = refused else { panic!("{refused:?}") };
    let erased = node.write(too_long("s", "gone")).await.unwrap_err();
    let WriteError::Refused { position: Some(erased), .. } = erased else { panic!("{erased:?}") };
    for user in ["gone", "back"] {
        node.write(request("s", user, ChangeKind::Delete, Wait::Applied)).await.unwrap();
    }
    node.write(visit("s", "back", Wait::Applied)).await.unwrap();
    // One site's commits hang at the call: what waits goes on waiting, also on the new store.
    node.faults
        .add(Fault::new(FaultKind::Hang, FaultLevel::Call).on(Operation::Commit).of_site(Site::new("held")));
    for _ in 0..3 {
        node.write(visit("held", "u", Wait::Journaled)).await.unwrap();
    }
    node.faults.until_waiting(1).await;

    node.rebuild().unwrap();
    let done = node.ended().await;
    assert_eq!((done.state, done.error.as_str()), (TaskState::Done, ""));
    let held = node.core.shared.sites.get(&Site::new("held")).unwrap();
    assert_eq!(held.lane.lock().waiting(), 3);
    assert_eq!(node.visits("held", "u").await, Some((3, 3.0)));
    let state = |at: u64| node.core.refused.state(&Site::new("s"), at);
    assert!(matches!(state(position.number), Some(WriteState::Refused { .. })));
    assert_eq!(state(erased.number), None);
    assert_eq!(node.core.refused.listed(), 1);
    assert_eq!(node.read("s", "gone").await.unwrap(), None);
    // Applied, deleted, made anew: the version goes on.
    assert_eq!(node.visits("s", "back").await, Some((3, 1.0)));
    let again = node.write(visit("s", "gone", Wait::Applied)).await.unwrap();
    assert_eq!(again.version, Some(3));
    let stored = node.core.switch.load_refused(Site::new("s"), position.number).await.unwrap();
    assert!(stored.is_some());
    node.faults.clear();
    node.idle().await;
    assert_eq!(node.visits("held", "u").await, Some((3, 3.0)));
    node.core.close(LONG).unwrap();
}

#[tokio::test]
async fn without_a_store_writes_are_kept_and_reads_told_why_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = open(&dir);
    let mut model = BTreeMap::new();
    for n in 0..50 {
        node.write(visit("s", &format!("u{n}"), Wait::Applied)).await.unwrap();
        model.insert(format!("u{n}"), 1);
    }
    node.core.close(LONG).unwrap();
    let store_dir = node.config.store.dir.clone();
    drop(node);
    std::fs::remove_dir_all(&store_dir).unwrap();

    // The new store's first commit hangs.
    let (release, gate) = crossbeam_channel::bounded(0);
    let hook = Arc::new(HangOnce { armed: AtomicBool::new(true), hanging: AtomicBool::new(false), gate });
    let slow = config(&dir);
    let mut node = open_hooked(slow.clone(), Some(hook.clone()));
    until("it hangs", || hook.hanging.load(Ordering::SeqCst)).await;
    let told = node.read("s", "u1").await;
    assert!(matches!(told, Err(ReadError::Rebuilding { .. })), "{told:?}");
    // At once: there is nothing to wait for.
    let asked = Instant::now();
    let receipt = node.write(visit("s", "u1", Wait::Applied)).await.unwrap();
    assert_eq!(receipt.outcome, Outcome::Deferred);
    assert!(asked.elapsed() < slow.writes.reply_after.0, "only when the time for an answer was over");
    model.insert("u1".to_owned(), 2);
    // Of a site that comes only now, too.
    let mut conditional = visit("new", "u1", Wait::Applied);
    conditional.write.if_version = Some(0);
    let told = node.write(conditional).await;
    assert!(matches!(told, Err(WriteError::ConditionNeedsStore { .. })), "{told:?}");
    // Types are those that were accepted before.
    let text = Change::Set(Value::String("many".into()));
    let change = AttributeChange { name: "visits".into(), change: text, occurred_at: None };
    let wrong = request("s", "u2", ChangeKind::Identify(vec![change]), Wait::Applied);
    assert!(matches!(node.write(wrong).await, Err(WriteError::TypeMismatch { .. })));
    // It stops in time, and begins again.
    node.core.close(Duration::from_secs(2)).unwrap();
    drop(node);
    drop(release);

    let mut node = open_hooked(slow, None);
    until("built", || node.generation().is_some()).await;
    node.idle().await;
    node.agrees("s", &model).await;
    node.core.close(LONG).unwrap();
}

#[tokio::test]
async fn it_is_built_from_a_snapshot_and_what_came_after() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = open(&dir);
    let mut model = BTreeMap::new();
    let user = |n: usize| format!("u{n:04}");
    for n in 0..200 {
        node.write(visit("s", &user(n), Wait::Journaled)).await.unwrap();
        model.insert(user(n), 1);
    }
    let refused = node.write(too_long("s", "refused")).await.unwrap_err();
    let WriteError::Refused { position: Some(position), .. } = refused else { panic!("{refused:?}") };
    for user in ["gone", "back"] {
        node.write(visit("other", user, Wait::Applied)).await.unwrap();
        node.write(request("other", user, ChangeKind::Delete, Wait::Applied)).await.unwrap();
    }
    // These wait while the snapshot is taken, and are applied later.
    node.faults
        .add(Fault::new(FaultKind::Hang, FaultLevel::Call).on(Operation::Commit).of_site(Site::new("held")));
    for _ in 0..3 {
        node.write(visit("held", "u", Wait::Journaled)).await.unwrap();
    }
    node.faults.until_waiting(1).await;
    let progress = || node.core.snapshots.progress();
    node.core.snapshots.take(SnapshotRequest { backup: None, owner: "test".to_owned() }).unwrap();
    until("a snapshot", || progress().state != TaskState::Running).await;
    assert_eq!((progress().state, progress().error.as_str()), (TaskState::Done, ""));

    for n in 0..100 {
        node.write(visit("s", &user(n * 3), Wait::Journaled)).await.unwrap();
        *model.entry(user(n * 3)).or_default() += 1;
    }
    node.write(visit("other", "back", Wait::Applied)).await.unwrap();
    let same = async |node: &Node, held: u64| {
        node.agrees("s", &model).await;
        assert_eq!(node.read("other", "gone").await.unwrap(), None);
        assert_eq!(node.visits("other", "back").await, Some((3, 1.0)));
        assert_eq!(node.visits("held", "u").await, Some((held, held as f64)));
        let state = node.core.refused.state(&Site::new("s"), position.number);
        assert!(matches!(state, Some(WriteState::Refused { .. })));
    };
    node.rebuild().unwrap();
    let done = node.ended().await;
    assert_eq!((done.state, done.error.as_str()), (TaskState::Done, ""));
    same(&node, 3).await;
    // Now they are applied: the next one has to bring them from before the snapshot's start.
    node.faults.clear();
    node.idle().await;
    node.rebuild().unwrap();
    assert_eq!(node.ended().await.state, TaskState::Done);
    same(&node, 3).await;
    node.core.close(LONG).unwrap();
    drop(node);

    std::fs::remove_dir_all(dir.path().join("store")).unwrap();
    let mut node = open(&dir);
    until("built", || node.generation().is_some()).await;
    node.idle().await;
    same(&node, 3).await;
    let text = Change::Set(Value::String("many".into()));
    let change = AttributeChange { name: "visits".into(), change: text, occurred_at: None };
    let wrong = request("other", "gone", ChangeKind::Identify(vec![change]), Wait::Applied);
    assert!(matches!(node.write(wrong).await, Err(WriteError::TypeMismatch { .. })));
    let again = node.write(visit("other", "gone", Wait::Applied)).await.unwrap();
    assert_eq!(again.version, Some(3));
    node.core.close(LONG).unwrap();
}

/// Kills the process while it builds its store, again and again.
#[tokio::test]
async fn a_kill_in_the_middle_of_a_rebuild_starts_it_over() {
    const USERS: usize = 20_000;
    let home = Home::new();
    let server = home.start();
    let mut client = server.client().await;
    for first in (0..USERS).step_by(1000) {
        let requests = (first..first + 1000).map(|n| set(&format!("u{n}"), [("n", text(n.to_string()))]));
        let request = steadfast::proto::IdentifyManyRequest { requests: requests.collect() };
        assert_eq!(client.identify_many(request).await.unwrap().into_inner().failed, 0);
    }
    server.stop();
    std::fs::remove_dir_all(home.path("store")).unwrap();

    let mut late = 0;
    for round in 0..3 {
        let server = home.start();
        let mut client = server.client().await;
        // Accepted while there is no store.
        let receipt = support::identify(&mut client, add("late", "times", 1.0)).await.unwrap();
        late += 1;
        assert!(receipt.version.is_none_or(|version| version == late), "{round}: {receipt:?}");
        server.kill();
    }
    let server = home.start();
    let mut client = server.client().await;
    for n in (0..USERS).step_by(97) {
        let profile = support::get(&mut client, SITE, &format!("u{n}")).await.unwrap();
        assert_eq!((profile.version, &profile.attributes["n"]), (1, &text(n.to_string())));
    }
    let receipt = applied(&mut client, add("late", "times", 1.0)).await;
    assert_eq!(receipt.version, Some(late + 1));
    server.stop();
}
