//! The breaker around the store of a running data side: what writers, readers and neighbours meet while the
//! store hangs, fails or comes back.

#![expect(clippy::float_cmp, reason = "counts are whole numbers")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use steadfast::app::{Core, Layers};
use steadfast::breaker::{Event, Listener, Phase};
use steadfast::clock::SystemClock;
use steadfast::command::breakers::{
    BreakerMode, BreakerOperation, BreakerOrder, BreakerScope, Breakers as _, Pace, PaceStatus, TripRule,
};
use steadfast::command::{
    Outcome, ProfileView, ReadError, ReadRequest, Receipt, Wait, WriteError, WriteRequest,
};
use steadfast::config::Config;
use steadfast::model::{AttributeChange, Change, ChangeKind, ProfileKey, Site, User, Value, Write};
use steadfast::store::faulty::{Fault, FaultKind, FaultLevel, Faults, FaultyStore};
use steadfast::store::{Operation, Purpose, StoreError};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tower::Service as _;

const LONG: Duration = Duration::from_mins(1);

struct Node {
    core: Core,
    faults: Faults,
    events: UnboundedReceiver<Event>,
    /// What happened so far: scope and new state.
    seen: Vec<(String, Phase)>,
    _dir: tempfile::TempDir,
}

struct Tell(UnboundedSender<Event>);

impl Listener for Tell {
    fn event(&self, event: &Event) {
        // The test may be over.
        let _ = self.0.send(event.clone());
    }
}

/// `isolates`: as a backend that keeps sites apart; otherwise as the embedded one, where all share the threads.
/// Whoever is deferred hears it because the breaker says so: by time alone it would take half a minute.
fn open(isolates: bool) -> Node {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::ephemeral(dir.path());
    config.journal.segment.0 = 4 << 20;
    config.writes.reply_after.0 = LONG / 2;
    config.server.drain_timeout.0 = Duration::from_millis(100);
    let faults = Faults::default();
    let wanted = faults.clone();
    let mut layers = Layers { hook: Some(Arc::new(faults.clone())), ..Layers::default() };
    if isolates {
        layers.wrap = Arc::new(move |store| Arc::new(FaultyStore::new(store, wanted.clone())));
    }
    let core = Core::open_layered(&config, Arc::new(SystemClock), &layers).unwrap();
    let (sender, events) = unbounded_channel();
    core.guard.events().attach(Tell(sender));
    Node { core, faults, events, seen: Vec::new(), _dir: dir }
}

fn hang(operation: Operation, level: FaultLevel) -> Fault {
    Fault::new(FaultKind::Hang, level).on(operation)
}

fn add(site: &str, user: &str) -> WriteRequest {
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
        wait: Wait::Applied,
        deadline: Instant::now() + LONG,
        may_load: true,
    }
}

impl Node {
    async fn write(&self, request: WriteRequest) -> Result<Receipt, WriteError> {
        self.core.writes().call(request).await
    }

    async fn outcome(&self, site: &str, user: &str) -> Outcome {
        self.write(add(site, user)).await.unwrap().outcome
    }

    /// Hands a write over and goes on.
    fn begin(&self, site: &str, user: &str) -> tokio::task::JoinHandle<Result<Receipt, WriteError>> {
        tokio::spawn(self.core.writes().call(add(site, user)))
    }

    async fn try_read(&self, site: &str, user: &str) -> Result<ProfileView, ReadError> {
        let keys = vec![ProfileKey::new(Site::new(site), User::new(user))];
        let read = ReadRequest { keys, deadline: Instant::now() + LONG };
        self.core.reads().call(read).await.map(|mut views| views.remove(0))
    }

    async fn visits(&self, site: &str, user: &str) -> f64 {
        let view = self.try_read(site, user).await.unwrap();
        match view.live().and_then(|profile| profile.attribute("visits")).map(|visits| &visits.value) {
            Some(Value::Number(visits)) => *visits,
            _ => 0.0,
        }
    }

    /// Until the breaker called `scope` gets into `phase`.
    async fn until(&mut self, scope: &str, phase: Phase) {
        loop {
            let event = tokio::time::timeout(LONG, self.events.recv()).await;
            let event =
                event.unwrap_or_else(|_| panic!("{scope} does not become {phase:?}: {:?}", self.seen));
            if let Event::Transition { scope: name, to, .. } = event.unwrap() {
                self.seen.push((name.to_string(), to));
                if name.to_string() == scope && to == phase {
                    return;
                }
            }
        }
    }

    /// What has changed and was not waited for.
    fn changes(&mut self) -> Vec<(String, Phase)> {
        while let Ok(event) = self.events.try_recv() {
            if let Event::Transition { scope, to, .. } = event {
                self.seen.push((scope.to_string(), to));
            }
        }
        std::mem::take(&mut self.seen)
    }

    /// Until nothing waits.
    async fn idle(&self) {
        let give_up = Instant::now() + 2 * LONG;
        while self.core.shared.sites.all().iter().any(|site| site.lane.lock().waiting() > 0) {
            assert!(Instant::now() < give_up, "entries still wait");
            tokio::task::yield_now().await;
        }
    }

    fn order(&self, operation: BreakerOperation, mode: BreakerMode) {
        let order = BreakerOrder {
            scope: BreakerScope { operation, site: None },
            mode,
            reason: "a test".into(),
            owner: "ops".into(),
            ticket: String::new(),
            lasts: None,
        };
        drop(self.core.orders.order(order).unwrap());
    }

    fn pace(&self, pace: Pace) {
        let pace = PaceStatus { site: None, pace, reason: "a test".into(), owner: "ops".into() };
        self.core.guard.set_pace(pace).unwrap();
    }

    fn close(mut self) {
        self.faults.clear();
        self.core.close(LONG).unwrap();
    }
}

#[tokio::test]
async fn while_the_writer_hangs_everybody_is_deferred_nobody_refused_and_reads_go_on() {
    let mut node = open(false);
    for user in ["a", "b"] {
        assert_eq!(node.outcome("acme", user).await, Outcome::Applied);
    }
    node.faults.add(hang(Operation::Commit, FaultLevel::Thread));
    let first = node.begin("acme", "a");
    node.until("apply", Phase::Open).await;

    for site in ["acme", "neighbour", "new"] {
        assert_eq!(node.outcome(site, "a").await, Outcome::Deferred);
    }
    let mut conditional = add("acme", "b");
    conditional.write.if_version = Some(1);
    let refused = node.write(conditional).await.unwrap_err();
    assert!(matches!(refused, WriteError::ConditionNeedsStore { .. }), "{refused:?}");
    assert_eq!(node.visits("acme", "a").await, 3.0);
    assert_eq!(node.visits("acme", "nobody").await, 0.0);

    node.faults.clear();
    node.until("apply", Phase::Closed).await;
    node.idle().await;
    assert_eq!(first.await.unwrap().unwrap().outcome, Outcome::Applied);
    assert_eq!((node.visits("acme", "a").await, node.visits("new", "a").await), (3.0, 1.0));
    let closed: Vec<Phase> = node.changes().into_iter().map(|(_, phase)| phase).collect();
    assert_eq!(closed, [Phase::Open, Phase::HalfOpen, Phase::Recovering, Phase::Closed]);
    assert_eq!(node.outcome("acme", "a").await, Outcome::Applied);
    node.close();
}

#[tokio::test]
async fn one_site_that_hangs_leaves_nine_neighbours_alone() {
    let mut node = open(true);
    node.faults.add(hang(Operation::Commit, FaultLevel::Call).of_site(Site::new("sick")));
    let first = node.begin("sick", "u");
    node.until("apply/sick", Phase::Open).await;
    for n in 0..90 {
        assert_eq!(node.outcome(&format!("well-{}", n % 9), "u").await, Outcome::Applied);
        assert_eq!(node.outcome("sick", &format!("u{n}")).await, Outcome::Deferred);
    }
    node.faults.clear();
    node.until("apply/sick", Phase::Closed).await;
    node.idle().await;
    assert_eq!(first.await.unwrap().unwrap().outcome, Outcome::Applied);
    assert_eq!(node.visits("sick", "u89").await, 1.0);
    assert!(node.changes().iter().all(|(scope, _)| scope == "apply/sick"));
    node.close();
}

#[tokio::test]
async fn a_part_of_all_commits_that_hangs_loses_nothing() {
    const SITES: usize = 6;
    let mut node = open(true);
    node.faults.add(hang(Operation::Commit, FaultLevel::Call).share(300));
    // Writers that do not wait for the store, until it is noticed.
    let mut written = [0.0; SITES];
    while !node.changes().iter().any(|(scope, phase)| scope == "apply" && *phase == Phase::Open) {
        for (n, count) in written.iter_mut().enumerate() {
            let journaled = WriteRequest { wait: Wait::Journaled, ..add(&format!("s{n}"), "u") };
            assert_eq!(node.write(journaled).await.unwrap().outcome, Outcome::Deferred);
            *count += 1.0;
        }
    }
    assert_eq!(node.outcome("s0", "v").await, Outcome::Deferred);
    node.faults.clear();
    node.until("apply", Phase::Closed).await;
    node.idle().await;
    for (n, count) in written.into_iter().enumerate() {
        assert_eq!(node.visits(&format!("s{n}"), "u").await, count);
    }
    node.close();
}

#[tokio::test]
async fn reads_of_a_store_that_hangs_are_answered_at_once_and_cached_ones_served() {
    let mut node = open(false);
    assert_eq!(node.outcome("acme", "cached").await, Outcome::Applied);
    node.faults.add(hang(Operation::Load(Purpose::Get), FaultLevel::Thread));
    let mut reads = node.core.reads();
    let key = ProfileKey::new(Site::new("acme"), User::new("cold"));
    let read = ReadRequest { keys: vec![key], deadline: Instant::now() + LONG };
    let hung = tokio::spawn(reads.call(read));
    node.until("load", Phase::Open).await;

    let mut quickest = LONG;
    for _ in 0..20 {
        let began = Instant::now();
        let refused = node.try_read("acme", "cold").await.unwrap_err();
        quickest = quickest.min(began.elapsed());
        assert!(matches!(refused, ReadError::BreakerOpen { site: false, .. }), "{refused:?}");
    }
    assert!(quickest < Duration::from_millis(5), "{quickest:?}");
    assert_eq!(node.visits("acme", "cached").await, 1.0);
    // A write would have asked the store whether it changes anything; now the journal has it.
    assert_eq!(node.outcome("acme", "cold").await, Outcome::Applied);

    node.faults.clear();
    hung.await.unwrap().unwrap();
    // Nobody's read is a probe: canaries are.
    node.until("load", Phase::Closed).await;
    assert_eq!(node.visits("acme", "nobody").await, 0.0);
    node.close();
}

#[tokio::test]
async fn with_nothing_waiting_a_canary_finds_out() {
    let mut node = open(false);
    node.order(BreakerOperation::Apply, BreakerMode::ForceOpen);
    node.until("apply", Phase::Open).await;
    node.order(BreakerOperation::Apply, BreakerMode::Auto);
    node.until("apply", Phase::Closed).await;
    let scanned = node.core.guarded().scan_records(&Site::new("acme"), None, 100).await.unwrap();
    assert!(scanned.items.is_empty(), "it leaves nothing behind");
    node.close();
}

#[tokio::test]
async fn a_store_that_takes_no_more_writes_is_left_alone_at_once_and_loses_nothing() {
    let mut node = open(false);
    assert_eq!(node.outcome("s", "u").await, Outcome::Applied);
    let full = StoreError::Failed("no space left on device".into());
    let fault = Fault::new(FaultKind::Error(full), FaultLevel::Thread);
    node.faults.add(fault.on(Operation::Commit));
    let first = node.begin("s", "u");
    node.until("apply", Phase::Open).await;
    let told = node.core.orders.breaker(&BreakerScope { operation: BreakerOperation::Apply, site: None });
    let tripped = told.tripped_by.unwrap();
    assert_eq!(tripped.rule, Some(TripRule::StoreFailed));
    assert!(tripped.last_error.contains("no space left on device"), "{}", tripped.last_error);
    // Accepted all the while, by everybody, and read.
    for site in ["s", "t", "new"] {
        assert_eq!(node.outcome(site, "u").await, Outcome::Deferred);
    }
    assert_eq!(node.visits("s", "u").await, 3.0);
    node.faults.clear();
    node.until("apply", Phase::Closed).await;
    assert_eq!(first.await.unwrap().unwrap().outcome, Outcome::Applied);
    node.idle().await;
    assert_eq!((node.visits("s", "u").await, node.visits("new", "u").await), (3.0, 1.0));
    node.close();
}

#[tokio::test]
async fn a_store_that_fails_is_left_alone_until_it_is_well() {
    let mut node = open(false);
    let full = FaultKind::Error(StoreError::Io("no space left on device".into()));
    node.faults.add(Fault::new(full, FaultLevel::Thread).on(Operation::Commit));
    let begun: Vec<_> = (0..20).map(|n| node.begin(&format!("s{n}"), "u")).collect();
    node.until("apply", Phase::Open).await;
    assert_eq!(node.outcome("s0", "u").await, Outcome::Deferred);
    node.faults.clear();
    node.until("apply", Phase::Closed).await;
    node.idle().await;
    for write in begun {
        assert_eq!(write.await.unwrap().unwrap().outcome, Outcome::Applied);
    }
    assert_eq!(node.visits("s0", "u").await, 2.0);
    node.close();
}

#[tokio::test]
async fn a_user_on_whom_the_store_fails_does_not_trip_its_site() {
    let mut node = open(true);
    let failure = FaultKind::Error(StoreError::Io("as the test asks for".into()));
    let fault = Fault::new(failure, FaultLevel::Call).on(Operation::Commit).of_user(User::new("poison"));
    node.faults.add(fault);
    let _poisoned = node.begin("s", "poison");
    let mut others = 0;
    loop {
        assert_eq!(node.outcome("s", "healthy").await, Outcome::Applied);
        others += 1;
        let site = node.core.shared.sites.get(&Site::new("s")).unwrap();
        if site.lane.lock().parked() == 1 {
            break;
        }
    }
    assert_eq!(node.visits("s", "healthy").await, f64::from(others));
    assert_eq!(node.changes(), []);
    node.close();
}

#[tokio::test]
async fn a_backlog_is_caught_up_under_traffic_without_another_trip() {
    const BACKLOG: usize = 10_000;
    let mut node = open(false);
    node.order(BreakerOperation::Apply, BreakerMode::ForceOpen);
    node.until("apply", Phase::Open).await;
    let mut writes = node.core.writes();
    let begun: Vec<_> =
        (0..BACKLOG).map(|n| writes.call(add(&format!("s{}", n % 3), &format!("u{}", n % 500)))).collect();
    for write in begun {
        assert_eq!(write.await.unwrap().outcome, Outcome::Deferred);
    }
    node.order(BreakerOperation::Apply, BreakerMode::Auto);
    let site = |n: usize| format!("s{}", n % 5);
    let mut live = Vec::new();
    for n in 0..200 {
        live.push(node.begin(&site(n), "live"));
    }
    node.until("apply", Phase::Closed).await;
    node.idle().await;
    for write in live {
        write.await.unwrap().unwrap();
    }
    assert_eq!(node.visits("s0", "live").await, 40.0);
    let sum = node.visits("s0", "u0").await + node.visits("s1", "u0").await + node.visits("s2", "u0").await;
    assert_eq!(sum, (BACKLOG / 500) as f64);
    let changes = node.changes().into_iter().filter(|(scope, _)| scope == "apply");
    let phases: Vec<Phase> = changes.map(|(_, phase)| phase).collect();
    assert_eq!(phases, [Phase::Open, Phase::HalfOpen, Phase::Recovering, Phase::Closed]);
    node.close();
}

#[tokio::test]
async fn a_paused_applier_defers_and_goes_on_when_told() {
    let node = open(false);
    node.pace(Pace::Paused);
    assert_eq!(node.outcome("s", "u").await, Outcome::Deferred);
    assert_eq!(node.visits("s", "u").await, 1.0);
    node.pace(Pace::PerSecond(1_000));
    node.idle().await;
    assert_eq!(node.outcome("s", "u").await, Outcome::Applied);
    node.pace(Pace::Automatic);
    assert_eq!(node.outcome("s", "u").await, Outcome::Applied);
    node.close();
}
