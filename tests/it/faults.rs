//! The data side in this process, above a store that fails on demand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use steadfast::app::Core;
use steadfast::clock::SystemClock;
use steadfast::command::{Outcome, ProfileView, ReadRequest, Receipt, Wait, WriteError, WriteRequest};
use steadfast::config::Config;
use steadfast::model::{AttributeChange, Change, ChangeKind, ProfileKey, Record, Site, User, Value, Write};
use steadfast::store::faulty::{Fault, FaultKind, FaultLevel, Faults, FaultyStore};
use steadfast::store::{
    Committed, Declaration, Flushed, IndexPage, IndexScan, Operation, Purpose, RecordCursor, RecordPage,
    RefusedRecord, SiteCommit, Store, StoreError, StoreFuture,
};
use tower::Service as _;

/// Notes which site each commit is of, and of how many profiles, as they are asked for.
struct Recorder {
    inner: FaultyStore<steadfast::store::sled::SledStore>,
    commits: Arc<Mutex<Vec<(String, usize)>>>,
}

impl Store for Recorder {
    fn declaration(&self) -> Declaration {
        self.inner.declaration()
    }
    fn load(&self, purpose: Purpose, keys: Vec<ProfileKey>) -> StoreFuture<Vec<Option<Arc<Record>>>> {
        self.inner.load(purpose, keys)
    }
    fn commit(&self, commit: SiteCommit) -> StoreFuture<Committed> {
        self.commits.lock().push((commit.site.as_str().to_owned(), commit.profiles.len()));
        self.inner.commit(commit)
    }
    fn scan_index(&self, scan: IndexScan) -> StoreFuture<IndexPage> {
        self.inner.scan_index(scan)
    }
    fn scan_records(&self, after: Option<RecordCursor>, limit: usize) -> StoreFuture<RecordPage> {
        self.inner.scan_records(after, limit)
    }
    fn load_refused(&self, site: Site, position: u64) -> StoreFuture<Option<RefusedRecord>> {
        self.inner.load_refused(site, position)
    }
    fn flush(&self) -> StoreFuture<Flushed> {
        self.inner.flush()
    }
}

struct Node {
    core: Core,
    faults: Faults,
    commits: Arc<Mutex<Vec<(String, usize)>>>,
}

const LONG: Duration = Duration::from_mins(1);

fn open(dir: &tempfile::TempDir, reply_after: Duration) -> Node {
    let mut config = Config::ephemeral(dir.path());
    config.journal.segment.0 = 4 << 20;
    config.writes.reply_after.0 = reply_after;
    config.server.drain_timeout.0 = Duration::from_millis(100);
    // Nothing trips, however long a busy machine takes: this is about the applier.
    config.breaker.slow_after.0 = LONG / 2;
    config.breaker.stall_after.0 = LONG;
    let (faults, commits) = (Faults::default(), Arc::default());
    let (wanted, seen) = (faults.clone(), Arc::clone(&commits));
    let wrap = move |store| -> Arc<dyn Store> {
        Arc::new(Recorder { inner: FaultyStore::new(store, wanted.clone()), commits: Arc::clone(&seen) })
    };
    let core = Core::open_with(&config, Arc::new(SystemClock), wrap).unwrap();
    Node { core, faults, commits }
}

fn hang() -> Fault {
    Fault::new(FaultKind::Hang, FaultLevel::Call).on(Operation::Commit)
}

fn add(site: &str, user: &str, wait: Wait) -> WriteRequest {
    WriteRequest {
        site: Site::new(site),
        write: Write {
            user: User::new(user),
            request_id: None,
            occurred_at: None,
            if_version: None,
            kind: ChangeKind::Identify(vec![AttributeChange {
                name: "visits".into(),
                change: Change::Add(1.0),
                occurred_at: None,
            }]),
        },
        wait,
        deadline: Instant::now() + LONG,
        may_load: true,
    }
}

impl Node {
    async fn write(&self, request: WriteRequest) -> Result<Receipt, WriteError> {
        self.core.writes().call(request).await
    }

    /// Hands all over before the first answer is waited for; all must be deferred.
    async fn defer(&self, requests: impl Iterator<Item = WriteRequest>) {
        let mut writes = self.core.writes();
        let answers: Vec<_> = requests.map(|request| writes.call(request)).collect();
        for answer in answers {
            assert_eq!(answer.await.unwrap().outcome, Outcome::Deferred);
        }
    }

    async fn read(&self, site: &str, user: &str) -> ProfileView {
        let keys = vec![ProfileKey::new(Site::new(site), User::new(user))];
        let read = ReadRequest { keys, deadline: Instant::now() + LONG };
        self.core.reads().call(read).await.unwrap().remove(0)
    }

    /// Until nothing waits.
    async fn idle(&self) {
        while self.core.shared.sites.all().iter().any(|site| site.lane.lock().waiting() > 0) {
            tokio::task::yield_now().await;
        }
    }

    fn commits(&self) -> Vec<(String, usize)> {
        self.commits.lock().clone()
    }
}

/// The version of what is shown, visits, pending entries, and whether they are laid on top.
fn seen(view: &ProfileView) -> (u64, f64, u64, bool) {
    let profile = view.live();
    let visits =
        profile.and_then(|profile| profile.attribute("visits")).map_or(0.0, |visits| match visits.value {
            Value::Number(visits) => visits,
            _ => panic!("not a number"),
        });
    (profile.map_or(0, |profile| profile.version), visits, view.pending, view.overlaid)
}

#[tokio::test]
async fn what_a_sick_store_holds_up_is_deferred_readable_and_applied_later() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = open(&dir, Duration::from_millis(20));
    node.faults.add(hang());
    for n in 1..=3 {
        let receipt = node.write(add("s", "u", Wait::Applied)).await.unwrap();
        assert_eq!((receipt.outcome, receipt.version), (Outcome::Deferred, None));
        assert!(receipt.position.is_some());
        assert_eq!(seen(&node.read("s", "u").await), (n, n as f64, n, true));
    }
    node.faults.clear();
    node.idle().await;
    assert_eq!(seen(&node.read("s", "u").await), (3, 3.0, 0, true));
    node.core.close(LONG).unwrap();
}

#[tokio::test]
async fn a_short_deadline_is_kept_also_without_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = open(&dir, LONG / 2);
    node.faults.add(hang());
    let mut request = add("s", "u", Wait::Applied);
    request.deadline = Instant::now() + Duration::from_millis(500);
    assert_eq!(node.write(request).await.unwrap().outcome, Outcome::Deferred);

    // A condition cannot be decided without the profile; asked again later it is told.
    let mut conditional = add("s", "v", Wait::Applied);
    conditional.write.if_version = Some(0);
    conditional.write.request_id = Some("r".into());
    let mut hurried = conditional.clone();
    hurried.deadline = Instant::now() + Duration::from_millis(500);
    let pending = node.write(hurried).await.unwrap_err();
    let WriteError::ConditionPending { position } = pending else { panic!("{pending:?}") };
    node.faults.clear();
    node.idle().await;
    let decided = node.write(conditional).await.unwrap();
    assert_eq!(
        (decided.outcome, decided.version, decided.position),
        (Outcome::Duplicate, Some(1), Some(position))
    );
    node.core.close(LONG).unwrap();
}

#[tokio::test]
async fn retries_of_what_waits_are_told_so_however_many() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = open(&dir, Duration::from_millis(1));
    node.faults.add(hang());
    let mut request = add("s", "u", Wait::Applied);
    request.write.request_id = Some("r".into());
    let first = node.write(request.clone()).await.unwrap();
    for _ in 0..200 {
        let again = node.write(request.clone()).await.unwrap();
        assert_eq!((again.outcome, again.position), (Outcome::Deferred, first.position));
    }
    node.faults.clear();
    node.idle().await;
    assert_eq!(seen(&node.read("s", "u").await), (1, 1.0, 0, true));
    node.core.close(LONG).unwrap();
}

#[tokio::test]
async fn entries_of_one_user_are_committed_together() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = open(&dir, LONG / 2);
    node.faults.add(hang());
    node.defer([add("s", "u", Wait::Journaled)].into_iter()).await;
    node.faults.until_waiting(1).await;
    node.defer((0..100).map(|_| add("s", "u", Wait::Journaled))).await;
    assert_eq!(seen(&node.read("s", "u").await), (101, 101.0, 101, true));
    node.defer((0..28).map(|_| add("s", "u", Wait::Journaled))).await;
    // One more than is laid on top: what is stored is shown, and that it is not all.
    let view = node.read("s", "u").await;
    assert_eq!(seen(&view), (0, 0.0, 129, false));
    node.faults.clear();
    node.idle().await;
    assert_eq!(seen(&node.read("s", "u").await), (129, 129.0, 0, true));
    assert_eq!(node.commits(), [("s".to_owned(), 1), ("s".to_owned(), 1)]);
    node.core.close(LONG).unwrap();
}

#[tokio::test]
async fn a_site_with_much_to_do_delays_no_other() {
    const MANY: usize = 3000;
    let dir = tempfile::tempdir().unwrap();
    let mut node = open(&dir, LONG / 2);
    node.faults.add(hang());
    node.defer((0..MANY).map(|n| add("big", &format!("u{n}"), Wait::Journaled))).await;
    node.faults.until_waiting(1).await;
    node.defer((0..MANY).map(|n| add("other", &format!("u{n}"), Wait::Journaled))).await;
    node.defer([add("small", "u", Wait::Journaled)].into_iter()).await;
    // While a commit of one site hangs, those of the others are asked for.
    node.faults.until_waiting(3).await;
    let mut first: Vec<String> = node.commits().into_iter().map(|(site, _)| site).collect();
    first.sort();
    assert_eq!(first, ["big", "other", "small"]);
    node.faults.clear();
    node.idle().await;
    let commits = node.commits();
    assert!(commits.iter().all(|(_, profiles)| *profiles <= 256));
    // As long as both have work, they take turns; not strictly, as one may wait longer for what it loads.
    let sites: Vec<&str> = commits.iter().map(|(site, _)| site.as_str()).collect();
    let last = |site: &str| sites.iter().rposition(|other| *other == site).unwrap();
    let both = last("big").min(last("other"));
    for row in sites[..=both].windows(5) {
        assert!(row.contains(&"big") && row.contains(&"other"), "{sites:?}");
    }
    let applied: usize = commits.iter().map(|(_, profiles)| profiles).sum();
    assert_eq!(applied, 2 * MANY + 1);
    node.core.close(LONG).unwrap();
}

#[tokio::test]
async fn a_user_on_whom_the_store_fails_does_not_stop_its_site() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = open(&dir, LONG / 2);
    node.write(add("s", "healthy", Wait::Applied)).await.unwrap();
    let error = FaultKind::Error(StoreError::Io("as the test asks for".into()));
    node.faults.add(Fault::new(error, FaultLevel::Call).on(Operation::Commit).of_user(User::new("poison")));
    node.defer((0..2).map(|_| add("s", "poison", Wait::Journaled))).await;
    let site = node.core.shared.sites.get(&Site::new("s")).unwrap();
    let mut others = 1;
    while site.lane.lock().parked() == 0 {
        let receipt = node.write(add("s", "healthy", Wait::Applied)).await.unwrap();
        others += 1;
        assert_eq!((receipt.outcome, receipt.version), (Outcome::Applied, Some(others)));
    }
    // Its entries wait, in order, and are shown.
    node.defer([add("s", "poison", Wait::Journaled)].into_iter()).await;
    assert_eq!(seen(&node.read("s", "poison").await), (3, 3.0, 3, true));
    node.faults.clear();
    node.write(add("s", "healthy", Wait::Applied)).await.unwrap();
    assert_eq!(seen(&node.read("s", "poison").await).2, 3);
    node.core.close(LONG).unwrap();
    drop(node);

    let mut node = open(&dir, LONG / 2);
    node.idle().await;
    assert_eq!(seen(&node.read("s", "poison").await), (3, 3.0, 0, true));
    assert_eq!(seen(&node.read("s", "healthy").await).0, others + 1);
    node.core.close(LONG).unwrap();
}

#[tokio::test]
async fn a_store_that_hangs_does_not_keep_the_server_from_stopping() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = open(&dir, LONG / 2);
    node.faults.add(hang());
    node.defer([add("s", "u", Wait::Journaled)].into_iter()).await;
    node.faults.until_waiting(1).await;
    node.core.close(Duration::from_millis(100)).unwrap();
    let late = node.write(add("s", "u", Wait::Applied)).await;
    assert_eq!(late, Err(WriteError::Draining));
    drop(node);
    let mut node = open(&dir, LONG / 2);
    node.idle().await;
    assert_eq!(seen(&node.read("s", "u").await), (1, 1.0, 0, true));
    node.core.close(LONG).unwrap();
}
