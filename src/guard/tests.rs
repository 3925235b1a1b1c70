//! The guard around a store that fails on demand; the breakers' time is moved by hand.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tower::Service as _;

use super::*;
use crate::applier::{Permits as _, Wait};
use crate::breaker::{BUCKET, Event, Evidence, Listener, Phase, Rule};
use crate::clock::ManualClock;
use crate::command::breakers::{
    BreakerMode, BreakerOperation, BreakerOrder, BreakerRefused, BreakerState, Pace, PaceStatus, TripRule,
};
use crate::command::operate::Cause;
use crate::model::{EventTime, NodeId, ProfileKey, User};
use crate::store::faulty::{Fault, FaultKind, FaultLevel, Faults, FaultyStore};
use crate::store::service::Load;
use crate::store::sled::{SledOptions, SledStore};
use crate::store::{self, SiteCommit, Store, StoreError, StoreFuture};

struct Bench {
    guard: Arc<Guard>,
    store: GuardedStore,
    faults: Faults,
    now: Duration,
    _dir: tempfile::TempDir,
}

impl Bench {
    /// `isolates`: faults strike at the await too, and each site has breakers of its own.
    fn new(isolates: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let faults = Faults::default();
        let options =
            SledOptions { hook: Some(Arc::new(faults.clone())), queue: 4, ..SledOptions::default() };
        let sled = Arc::new(SledStore::open(dir.path(), NodeId(1), &options).unwrap());
        let store: Arc<dyn Store> =
            if isolates { Arc::new(FaultyStore::new(sled, faults.clone())) } else { sled };
        let options =
            GuardOptions { isolates_sites: store.declaration().isolates_sites, ..GuardOptions::default() };
        let guard = Guard::new(&options, Arc::new(ManualClock::new(EventTime::MIN))).unwrap();
        let store = GuardedStore::new(store, Arc::clone(&guard));
        let mut bench = Self { guard, store, faults, now: Duration::ZERO, _dir: dir };
        bench.tick();
        bench
    }

    fn tick(&mut self) {
        self.now += BUCKET;
        self.guard.tick(self.now, self.now);
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.tick();
        }
    }

    fn phase(&self, operation: Operation, site: Option<&str>) -> Phase {
        let site = site.map(Site::new);
        self.guard.scope(operation, site.as_ref()).phase()
    }

    fn get(&mut self, site: &str) -> StoreFuture<Vec<Option<Arc<crate::model::Record>>>> {
        let keys = vec![ProfileKey::new(Site::new(site), User::new("u"))];
        self.store.call(Load { purpose: Purpose::Get, keys })
    }

    fn commit(&mut self, site: &str) -> StoreFuture<store::Committed> {
        self.store.call(SiteCommit::of(Site::new(site)))
    }

    fn order(&self, scope: &BreakerScope, mode: BreakerMode) -> BreakerState {
        let cause = Cause { owner: "ops".into(), reason: "drill".into() };
        let order = BreakerOrder {
            scope: scope.clone(),
            mode,
            reason: cause.reason.clone(),
            owner: cause.owner.clone(),
            ticket: String::new(),
            lasts: None,
        };
        let order = BreakerOverride { order, created_at: EventTime::MIN, expires_at: None };
        self.guard.obey(scope, Some(order).filter(|_| mode != BreakerMode::Auto), &cause);
        self.guard.status_of(scope).state
    }
}

fn hang(operation: store::Operation, level: FaultLevel) -> Fault {
    Fault::new(FaultKind::Hang, level).on(operation)
}

fn poll<T>(future: &mut StoreFuture<T>) -> Poll<Result<T, StoreError>> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[tokio::test]
async fn a_thread_that_hangs_trips_although_its_caller_is_gone_and_only_its_own_operation() {
    let mut bench = Bench::new(false);
    bench.faults.add(hang(store::Operation::Load(Purpose::Get), FaultLevel::Thread));
    let hung = bench.get("s");
    bench.faults.until_waiting(1).await;
    drop(hung);
    bench.run(ms(800));
    assert_eq!(bench.phase(Operation::Load, None), Phase::Open);
    let refused = bench.get("s");
    let mut refused = refused;
    let Poll::Ready(Err(StoreError::Withheld { site: false, operation: "load", state: "open", .. })) =
        poll(&mut refused)
    else {
        panic!("refused at once")
    };
    assert!(bench.commit("s").await.is_ok());
    assert_eq!(bench.phase(Operation::Apply, None), Phase::Closed);
    bench.faults.clear();
}

#[tokio::test]
async fn what_hangs_at_the_await_is_its_sites_own() {
    let mut bench = Bench::new(true);
    bench.faults.add(hang(store::Operation::Commit, FaultLevel::Call).of_site(Site::new("sick")));
    let mut hung = bench.commit("sick");
    assert!(poll(&mut hung).is_pending());
    for _ in 0..400 {
        for n in 0..9 {
            assert!(bench.commit(&format!("well-{n}")).await.is_ok());
        }
        bench.tick();
    }
    assert_eq!(bench.phase(Operation::Apply, Some("sick")), Phase::Open);
    assert_eq!(bench.phase(Operation::Apply, None), Phase::Closed);
    assert!(bench.guard.left_alone(&Site::new("sick")).is_some());
    assert!(bench.guard.left_alone(&Site::new("well-1")).is_none());
    assert!(matches!(
        bench.commit("sick").await,
        Err(StoreError::Withheld { site: true, operation: "apply", .. })
    ));
    bench.faults.clear();
    assert!(hung.await.is_ok());
}

#[tokio::test]
async fn a_writer_thread_that_hangs_is_everybodys_also_where_sites_have_breakers() {
    let mut bench = Bench::new(true);
    bench.faults.add(hang(store::Operation::Commit, FaultLevel::Thread));
    let _hung = bench.commit("a");
    let _queued = bench.commit("b");
    bench.faults.until_waiting(1).await;
    bench.run(ms(850));
    assert_eq!(bench.phase(Operation::Apply, None), Phase::Open);
    for site in ["a", "b", "never-seen"] {
        assert!(bench.guard.left_alone(&Site::new(site)).is_some());
        assert!(bench.guard.ask(&Site::new(site), 1, 256).is_err());
    }
    assert!(bench.get("a").await.is_ok(), "reads go on");
    bench.faults.clear();
}

#[tokio::test]
async fn a_full_queue_counts_against_the_store() {
    let mut bench = Bench::new(false);
    bench.faults.add(hang(store::Operation::Commit, FaultLevel::Thread));
    let mut futures = vec![bench.commit("s")];
    bench.faults.until_waiting(1).await;
    let mut busy = 0;
    while bench.phase(Operation::Apply, None) == Phase::Closed && busy < 100 {
        let mut future = bench.commit("s");
        match poll(&mut future) {
            Poll::Pending => futures.push(future),
            Poll::Ready(answer) => {
                assert_eq!(answer, Err(StoreError::Busy));
                busy += 1;
            }
        }
        if busy % 4 == 3 {
            bench.tick();
        }
    }
    assert!((5..100).contains(&busy), "{busy}");
    bench.faults.clear();
}

#[tokio::test]
async fn one_user_on_whom_the_store_fails_does_not_trip_its_site() {
    let mut bench = Bench::new(true);
    let failed = FaultKind::Error(StoreError::Io("as the test asks for".into()));
    for _ in 0..5 {
        bench.faults.add(Fault::new(failed.clone(), FaultLevel::Call).on(store::Operation::Commit));
        assert!(bench.commit("s").await.is_err());
        bench.faults.clear();
        assert!(bench.commit("s").await.is_ok());
        bench.run(ms(100));
    }
    bench.run(ms(1_000));
    assert_eq!(bench.phase(Operation::Apply, Some("s")), Phase::Closed);
}

#[tokio::test]
async fn a_new_store_is_not_judged_by_what_hangs_in_the_old_one() {
    let mut bench = Bench::new(false);
    bench.faults.add(hang(store::Operation::Commit, FaultLevel::Thread));
    let _hung = bench.commit("s");
    bench.faults.until_waiting(1).await;
    bench.run(ms(60_000));
    assert_eq!(bench.phase(Operation::Apply, None), Phase::Open, "no probe while the writer hangs");
    bench.guard.store_replaced(bench.store.store.declaration());
    bench.tick();
    assert_eq!(bench.phase(Operation::Apply, None), Phase::HalfOpen);
    bench.faults.clear();
}

#[tokio::test]
async fn a_flush_that_hangs_stops_the_applier() {
    let mut bench = Bench::new(false);
    bench.faults.add(hang(store::Operation::Flush, FaultLevel::Thread));
    let store = Arc::clone(&bench.store.store);
    let _hung = store::watch::carrying(Some(bench.guard.flush_watch()), || store.flush());
    bench.faults.until_waiting(1).await;
    bench.run(ms(5_000));
    assert_eq!(bench.phase(Operation::Apply, None), Phase::Closed);
    bench.run(ms(100));
    assert_eq!(bench.phase(Operation::Apply, None), Phase::Open);
    assert_eq!(bench.phase(Operation::Load, None), Phase::Closed);
    bench.faults.clear();
}

#[tokio::test]
async fn too_much_that_is_not_flushed_pauses_the_applier_without_a_trip() {
    let bench = Bench::new(false);
    let site = Site::new("s");
    let unflushed = Arc::new(AtomicU64::new((256 << 20) + 1));
    let told = Arc::clone(&unflushed);
    bench.guard.watch_unflushed(move || told.load(Ordering::Relaxed));
    assert!(matches!(bench.guard.ask(&site, 1, 256), Err(Wait { left_alone: false, .. })));
    unflushed.store(0, Ordering::Relaxed);
    assert!(bench.guard.ask(&site, 1, 256).is_ok());
}

#[tokio::test]
async fn recovering_turns_are_small_and_grow() {
    let mut bench = Bench::new(false);
    let site = Site::new("s");
    for mode in [BreakerMode::ForceOpen, BreakerMode::Auto] {
        bench.order(&BreakerScope { operation: BreakerOperation::Apply, site: None }, mode);
    }
    while bench.phase(Operation::Apply, None) != Phase::Recovering {
        bench.tick();
        // A turn that was quick.
        if let Ok(leave) = bench.guard.ask(&site, 1, 256) {
            let mut watch = leave.watch.unwrap();
            watch.began();
            watch.ended(None);
        }
    }
    // The applier's loads have a breaker of their own, which lets nothing more than this one's turns through.
    let mut applied = 0;
    let mut largest = 0;
    for _ in 0..120 {
        while let Ok(leave) = bench.guard.ask(&site, 1_000_000, 256) {
            largest = largest.max(leave.entries);
            applied += leave.entries;
        }
        bench.tick();
    }
    // 100, 200, 400, ... entries a second, for half a second each: 3,150 in three seconds.
    assert!((2_800..3_800).contains(&applied), "{applied}");
    assert!((200..=256).contains(&largest), "{largest}");
    assert!(bench.guard.left_alone(&site).is_none(), "slowly, but it goes");
}

#[tokio::test]
async fn what_a_hold_let_go_is_let_in_slowly_and_nobody_else_waits() {
    const SECOND: Duration = Duration::from_secs(1);
    let mut bench = Bench::new(false);
    let (freed, live) = (Site::new("freed"), Site::new("live"));
    let begin = std::time::Instant::now();
    bench.guard.resume_slowly(Some(&freed), &[(freed.clone(), 50_000)], begin);
    let (mut first, mut neighbours, mut now) = (0, 0, Duration::ZERO);
    while now < SECOND {
        for (site, sum) in [(&freed, &mut first), (&live, &mut neighbours)] {
            if let Ok(leave) = bench.guard.ask_at(site, 100_000, 256, begin + now) {
                *sum += leave.entries;
                let mut watch = leave.watch.unwrap();
                watch.began();
                watch.ended(None);
            }
        }
        now += ms(5);
        if now.as_millis().is_multiple_of(25) {
            bench.tick();
        }
    }
    assert!((100..=250).contains(&first), "{first}");
    assert_eq!(neighbours, 200 * 256, "its turns are as large and as many as they like");
    let rate = bench.guard.resuming(Some(&freed)).unwrap();
    assert!((200.0..=800.0).contains(&rate), "{rate}");
    assert!(bench.guard.resuming(Some(&live)).is_none() && bench.guard.is_resuming());
    assert!(bench.guard.left_alone(&freed).is_none(), "slowly, but it goes");

    // A pace counts here as it does after a trip; paused, nothing of it is applied.
    let pace = |pace| PaceStatus { site: Some(freed.clone()), pace, reason: "r".into(), owner: "o".into() };
    bench.guard.set_pace(pace(Pace::PerSecond(40))).unwrap();
    assert_eq!(bench.guard.resuming(Some(&freed)), Some(40.0));
    bench.guard.set_pace(pace(Pace::Paused)).unwrap();
    let paused = bench.guard.ask_at(&freed, 100_000, 256, begin + SECOND);
    assert!(matches!(paused, Err(Wait { left_alone: true, .. })));
    assert!(bench.guard.left_alone(&freed).is_some());
    bench.guard.set_pace(pace(Pace::Automatic)).unwrap();
    assert_eq!(bench.guard.resuming(Some(&freed)), Some(rate));
}

fn apply() -> BreakerScope {
    BreakerScope { operation: BreakerOperation::Apply, site: None }
}

/// Why the breaker of commits has tripped, and on what evidence.
#[derive(Clone, Default)]
struct Heard(Arc<parking_lot::Mutex<Vec<(Rule, Evidence)>>>);

impl Listener for Heard {
    fn event(&self, event: &Event) {
        if let Event::Transition { scope, to: Phase::Open, rule, evidence, .. } = event
            && *scope.operation == *Operation::Apply.as_str()
        {
            self.0.lock().push((*rule, *evidence));
        }
    }
}

#[tokio::test]
async fn a_store_that_takes_no_more_writes_trips_at_once_and_says_why() {
    let mut bench = Bench::new(false);
    let full = StoreError::Failed("no space left on device".into());
    let fault = Fault::new(FaultKind::Error(full.clone()), FaultLevel::Thread);
    bench.faults.add(fault.on(store::Operation::Commit));
    assert_eq!(bench.commit("s").await, Err(full.clone()));
    bench.tick();
    let told = bench.guard.status_of(&apply());
    assert_eq!(told.state, BreakerState::Open);
    let tripped = told.tripped_by.unwrap();
    assert_eq!((tripped.rule, tripped.last_error), (Some(TripRule::StoreFailed), full.to_string()));
    assert_eq!(told.evidence.last_error, full.to_string());
    assert_eq!(bench.phase(Operation::Load, None), Phase::Closed, "reads are not its matter");
    // It is tried again, with a longer pause each time, as long as it fails.
    let mut tries = Vec::new();
    while tries.len() < 4 {
        bench.tick();
        if let Ok(leave) = bench.guard.ask(&Site::new("s"), 1, 256) {
            tries.push(bench.now);
            let commit = SiteCommit::of(Site::new("s"));
            assert!(store::watch::carrying(leave.watch, || bench.store.store.commit(commit)).await.is_err());
        }
    }
    let pauses: Vec<_> = tries.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
    assert!(pauses.is_sorted() && pauses[2] > 2 * pauses[0], "{pauses:?}");
    // Well again, it is let back in.
    bench.faults.clear();
    while bench.phase(Operation::Apply, None) != Phase::Recovering {
        bench.tick();
        if let Ok(leave) = bench.guard.ask(&Site::new("s"), 1, 256) {
            let commit = SiteCommit::of(Site::new("s"));
            assert!(store::watch::carrying(leave.watch, || bench.store.store.commit(commit)).await.is_ok());
        }
    }
}

#[tokio::test]
async fn a_trip_by_a_probe_counts_from_when_the_probe_began() {
    let mut bench = Bench::new(false);
    let heard = Heard::default();
    bench.guard.events().attach(heard.clone());
    for mode in [BreakerMode::ForceOpen, BreakerMode::Auto] {
        bench.order(&apply(), mode);
    }
    bench.run(ms(50));
    let mut probe = bench.guard.ask(&Site::new("s"), 1, 256).unwrap().watch.unwrap();
    probe.began();
    while heard.0.lock().len() < 2 {
        bench.tick();
    }
    let (rule, evidence) = heard.0.lock()[1];
    assert_eq!(rule, Rule::ProbeSlow);
    assert!(evidence.since >= ms(250) && evidence.since < ms(400), "{evidence:?}");
    assert!(evidence.oldest >= Some(ms(250)), "{evidence:?}");
    // One that nobody begins has its whole lease.
    probe.ended(None);
    while bench.phase(Operation::Apply, None) != Phase::HalfOpen {
        bench.tick();
    }
    let queued = bench.guard.ask(&Site::new("s"), 1, 256).unwrap();
    while heard.0.lock().len() < 3 {
        bench.tick();
    }
    let (rule, evidence) = heard.0.lock()[2];
    assert_eq!(rule, Rule::ProbeExpired);
    assert!(evidence.since >= ms(1_000), "{evidence:?}");
    drop(queued);
}

#[tokio::test]
async fn operators_force_breakers_and_set_the_pace() {
    let mut bench = Bench::new(false);
    let site = Site::new("s");
    let apply = apply();
    assert_eq!(bench.order(&apply, BreakerMode::ForceOpen), BreakerState::Open);
    assert!(matches!(bench.guard.ask(&site, 1, 256), Err(Wait { left_alone: true, .. })));
    let told = bench.guard.breakers(100);
    assert_eq!(told.len(), 3);
    assert_eq!(told[0].ordered.as_ref().map(|o| o.order.owner.as_str()), Some("ops"));
    assert_eq!(bench.order(&apply, BreakerMode::Auto), BreakerState::Open, "it probes first");
    assert!(bench.guard.breakers(100).iter().all(|told| told.ordered.is_none()));
    bench.run(ms(50));
    assert_eq!(bench.phase(Operation::Apply, None), Phase::HalfOpen);
    assert!(bench.guard.ask(&site, 1_000, 256).is_ok_and(|leave| leave.probe && leave.entries <= 16));

    let of_site = BreakerScope { operation: BreakerOperation::Load, site: Some(site.clone()) };
    assert!(!bench.guard.keeps_sites_apart());
    assert_eq!(bench.order(&of_site, BreakerMode::ForceOpen), BreakerState::Open);
    assert_eq!(bench.phase(Operation::Load, None), Phase::Closed, "a site's own decides on nothing here");

    let mut pace = PaceStatus { site: None, pace: Pace::Paused, reason: "r".into(), owner: "o".into() };
    assert_eq!(bench.guard.set_pace(pace.clone()), Ok(pace.clone()));
    assert!(matches!(bench.guard.ask(&site, 1, 256), Err(Wait { left_alone: true, .. })));
    pace.pace = Pace::PerSecond(0);
    assert!(matches!(bench.guard.set_pace(pace.clone()), Err(BreakerRefused::Invalid(_))));
    pace.pace = Pace::Automatic;
    assert_eq!(bench.guard.set_pace(pace).map(|set| set.owner), Ok(String::new()));
}
