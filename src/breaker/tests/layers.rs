//! The tower layer.

use std::future::{Future, pending, ready};
use std::task::{Context, Poll, Waker};

use tower::{Layer, Service, service_fn};

use super::*;

type Judge = fn(&Result<u32, &'static str>) -> Outcome;

fn judge(result: &Result<u32, &'static str>) -> Outcome {
    if result.is_ok() { Outcome::Good } else { Outcome::Bad }
}

fn poll<F: Future>(future: F) -> Poll<F::Output> {
    std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn bench() -> (Bench, ScopeHandle) {
    let mut bench = Bench::new(Bounds::default());
    let scope = bench.registry.add_operation("read", Settings::reads()).unwrap();
    bench.tick();
    (bench, scope)
}

#[test]
fn passes_answers_and_errors_through_and_judges_them() {
    let (mut bench, scope) = bench();
    let layer = BreakerLayer::new(fixed(scope.clone(), Role::Caller), judge as Judge);
    let mut service = layer.layer(service_fn(|n: u32| ready(if n == 0 { Err("broken") } else { Ok(n + 1) })));
    assert!(matches!(poll(service.call(1)), Poll::Ready(Ok(2))));
    let mut refused = None;
    while refused.is_none() {
        match poll(service.call(0)) {
            Poll::Ready(Err(BreakerError::Inner("broken"))) => bench.tick(),
            Poll::Ready(Err(BreakerError::Refused(why))) => refused = Some(why),
            other => panic!("{other:?}"),
        }
        assert!(bench.now < ms(2_000));
    }
    assert_eq!(refused.unwrap().scope, scope.name());
}

#[test]
fn a_future_that_hangs_trips_and_one_dropped_early_does_not() {
    let (mut bench, scope) = bench();
    let layer = BreakerLayer::new(fixed(scope.clone(), Role::Caller), judge as Judge);
    let mut service = layer.layer(service_fn(|_: u32| pending()));
    for _ in 0..20 {
        let future = service.call(1);
        bench.run(ms(200));
        drop(future);
    }
    assert_eq!(scope.phase(), Phase::Closed);
    let _kept = service.call(1);
    assert!(bench.until(&scope, Phase::Open) <= ms(800));
}

#[test]
fn a_job_that_was_handed_over_counts_after_its_caller_left() {
    let (mut bench, scope) = bench();
    let (jobs, queue) = crossbeam_channel::unbounded();
    let layer = BreakerLayer::handing_over(fixed(scope.clone(), Role::Caller));
    let mut service = layer.layer(service_fn(move |guarded: Guarded<u32>| {
        jobs.send(guarded).unwrap();
        pending::<Result<(), &str>>()
    }));
    drop(service.call(7));
    let mut job = queue.recv().unwrap();
    bench.run(ms(5_000));
    assert_eq!(scope.phase(), Phase::Closed, "still in the queue: it has no age");
    job.token.started();
    assert!(bench.until(&scope, Phase::Open) <= ms(800));
    assert_eq!(job.request, 7);
}

#[test]
fn the_scope_comes_from_the_request() {
    let (mut bench, root) = bench();
    let registry = Arc::new(std::mem::replace(&mut bench.registry, Registry::new(Bounds::default(), 1, ())));
    let sites = Arc::clone(&registry);
    let by_site = root.clone();
    let admit = move |site: &&'static str| sites.site(&by_site, site).admit(Role::Caller, 1);
    let mut service = BreakerLayer::new(admit, |_: &Result<(), ()>| Outcome::Good)
        .layer(service_fn(|_: &'static str| ready(Ok::<(), ()>(()))));
    assert!(poll(service.call("a")).is_ready());
    let a = registry.find("read", Some("a")).unwrap();
    let forced = Override { mode: Mode::ForceOpen, reason: "test".into(), owner: "ops".into(), lasts: None };
    registry.set_override(&a, forced).unwrap();
    assert!(matches!(poll(service.call("a")), Poll::Ready(Err(BreakerError::Refused(_)))));
    assert!(matches!(poll(service.call("b")), Poll::Ready(Ok(()))));
}

#[test]
fn the_watchdog_ticks_and_stops() {
    let (sender, events) = crossbeam_channel::unbounded();
    struct Send(crossbeam_channel::Sender<Event>);
    impl Listener for Send {
        fn event(&self, event: &Event) {
            self.0.send(event.clone()).unwrap();
        }
    }
    let registry = Arc::new(Registry::new(Bounds::default(), 1, Send(sender)));
    let scope = registry.add_operation("apply", Settings::writes()).unwrap();
    let watchdog = Watchdog::start(Arc::clone(&registry)).unwrap();
    let _hung = hang(&scope);
    assert!(matches!(events.recv().unwrap(), Event::Transition { rule: Rule::Stall, .. }));
    drop(watchdog);
    assert_eq!(Arc::strong_count(&registry), 1);
}
