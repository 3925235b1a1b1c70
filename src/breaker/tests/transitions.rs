//! Every transition, each tick given by hand.

use super::*;

fn one(settings: Settings) -> (Bench, ScopeHandle) {
    let mut bench = Bench::new(Bounds::default());
    let scope = bench.registry.add_operation("apply", settings).unwrap();
    bench.tick();
    (bench, scope)
}

#[test]
fn one_hanging_call_trips_within_800_ms_and_reports_why() {
    let (mut bench, scope) = one(Settings::writes());
    let _hung = hang(&scope);
    let took = bench.until(&scope, Phase::Open);
    assert!((ms(750)..=ms(800)).contains(&took), "{took:?}");
    let event = bench.heard.0.lock()[0].clone();
    let Event::Transition { from: Phase::Closed, to: Phase::Open, rule: Rule::Stall, evidence, at, .. } =
        event
    else {
        panic!("{event:?}")
    };
    assert_eq!(at, bench.now);
    assert_eq!((evidence.slow, evidence.total, evidence.in_flight), (1, 1, 1));
    assert!(evidence.oldest.unwrap() >= ms(750));
    assert!(evidence.p99 >= ms(250));
}

#[test]
fn a_call_that_ends_in_time_is_no_stall() {
    let (mut bench, scope) = one(Settings::writes());
    while scope.phase() == Phase::Closed {
        let call = hang(&scope);
        bench.run(ms(700));
        call.finished(Outcome::Good);
    }
    assert!(bench.now > ms(5_000));
    // But nine slow ones of nine are partial slowness.
    let changes = bench.changes();
    assert_eq!(changes[0], ("apply".into(), Phase::Closed, Phase::Open, Rule::PartialSlowness));
}

#[test]
fn errors_trip_by_the_same_test() {
    let (mut bench, scope) = one(Settings::reads());
    while scope.phase() == Phase::Closed {
        start(&scope, Role::Caller).unwrap().finished(Outcome::Bad);
        bench.tick();
        assert!(bench.now < ms(2_000));
    }
    assert_eq!(bench.changes()[0].3, Rule::PartialSlowness);
}

#[test]
fn ignored_and_dropped_calls_say_nothing() {
    let (mut bench, scope) = one(Settings::writes());
    for n in 0..400 {
        let call = hang(&scope);
        bench.tick();
        if n % 2 == 0 {
            call.finished(Outcome::Ignored);
        } else {
            drop(call);
        }
        drop(scope.admit(Role::Caller, 1));
    }
    bench.tick();
    assert_eq!(bench.changes(), []);
    let status = &bench.registry.status()[0].evidence;
    assert_eq!((status.in_flight, status.total), (0, 0));
}

#[test]
fn a_call_whose_caller_is_gone_counts_while_the_job_runs() {
    let (mut bench, scope) = one(Settings::writes());
    let mut jobs = Vec::new();
    // Callers give up after 100 ms; the jobs, which own the tokens, do not come back.
    while scope.phase() == Phase::Closed {
        jobs.extend(start(&scope, Role::Caller));
        bench.run(ms(100));
        assert!(bench.now <= ms(1_000));
    }
    assert_eq!(bench.changes()[0].3, Rule::Stall);
}

#[test]
fn open_half_open_recovering_closed() {
    let (mut bench, scope) = one(Settings::writes());
    let hung = hang(&scope);
    bench.until(&scope, Phase::Open);
    let refused = start(&scope, Role::Background).unwrap_err();
    assert_eq!(refused.reason, Reason::Open);
    assert!(refused.retry_after <= ms(1_200));
    // Serial: while the call hangs there is no probe, however long.
    bench.run(ms(60_000));
    assert_eq!(scope.phase(), Phase::Open);
    hung.finished(Outcome::Good);
    bench.tick();
    assert_eq!(scope.phase(), Phase::HalfOpen);
    assert_eq!(start(&scope, Role::Caller).unwrap_err().reason, Reason::Probing);
    for _ in 0..5 {
        let probe = start(&scope, Role::Background).unwrap();
        assert!(probe.is_probe());
        assert_eq!(start(&scope, Role::Background).unwrap_err().reason, Reason::Probing);
        probe.finished(Outcome::Good);
    }
    assert_eq!(start(&scope, Role::Background).unwrap_err().reason, Reason::Probing, "five are enough");
    bench.tick();
    assert_eq!(scope.phase(), Phase::Recovering);
    let took = bench.until(&scope, Phase::Closed);
    assert_eq!(took, ms(5_000), "doubling from 100/s to 100,000/s");
    let rules: Vec<_> = bench.changes().into_iter().map(|change| change.3).collect();
    assert_eq!(rules, [Rule::Stall, Rule::OpenTimeOver, Rule::ProbesFast, Rule::FullRate]);
}

#[test]
fn not_serial_probes_while_some_calls_hang_for_good() {
    let (mut bench, scope) = one(Settings::reads());
    let _hung = hang(&scope);
    bench.until(&scope, Phase::Open);
    let took = bench.until(&scope, Phase::HalfOpen);
    assert!((ms(800)..=ms(1_225)).contains(&took), "{took:?}");
    while scope.phase() != Phase::Closed {
        quick(&scope, Role::Background);
        bench.tick();
    }
    assert_eq!(bench.registry.status()[0].evidence.hung, 1);
    // What hangs since before does not trip it again.
    bench.run(ms(10_000));
    assert_eq!(scope.phase(), Phase::Closed);
}

#[test]
fn open_time_doubles_to_its_bound_with_jitter() {
    let (mut bench, scope) = one(Settings::reads());
    let _hung = hang(&scope);
    bench.until(&scope, Phase::Open);
    let mut expected = 1_000;
    for _ in 0..8 {
        let open = bench.until(&scope, Phase::HalfOpen).as_millis() as u64;
        assert!((expected * 8 / 10..=expected * 12 / 10 + 25).contains(&open), "{open} of {expected}");
        start(&scope, Role::Background).unwrap().finished(Outcome::Bad);
        bench.tick();
        assert_eq!(scope.phase(), Phase::Open);
        expected = (expected * 2).min(30_000);
    }
    assert!(bench.changes().iter().skip(2).step_by(2).all(|change| change.3 == Rule::ProbeFailed));
}

#[test]
fn slow_probes_and_lost_probes_fail() {
    let (mut bench, scope) = one(Settings::reads());
    let _hung = hang(&scope);
    bench.until(&scope, Phase::HalfOpen);
    let probe = start(&scope, Role::Background).unwrap();
    let took = bench.until(&scope, Phase::Open);
    assert!((ms(250)..=ms(275)).contains(&took), "{took:?}");
    // It answers now: of an earlier generation, no matter.
    probe.finished(Outcome::Good);
    bench.until(&scope, Phase::HalfOpen);
    // Admitted, but the backend never begins it.
    let queued = scope.admit(Role::Background, 1).unwrap();
    assert_eq!(bench.until(&scope, Phase::Open), ms(1_000));
    drop(queued);
    let failures: Vec<_> = bench.changes().into_iter().map(|change| change.3).collect();
    assert_eq!(failures[2..], [Rule::ProbeSlow, Rule::OpenTimeOver, Rule::ProbeExpired]);
}

#[test]
fn a_probe_given_up_makes_room_for_the_next() {
    let (mut bench, scope) = one(Settings::reads());
    let _hung = hang(&scope);
    bench.until(&scope, Phase::HalfOpen);
    for _ in 0..20 {
        drop(scope.admit(Role::Background, 1).unwrap());
        drop(start(&scope, Role::Background).unwrap());
    }
    for _ in 0..5 {
        assert!(quick(&scope, Role::Background));
    }
    bench.tick();
    assert_eq!(scope.phase(), Phase::Recovering);
}

#[test]
fn results_of_an_earlier_generation_change_nothing() {
    let (mut bench, scope) = one(Settings::reads());
    let mut old: Vec<_> = (0..50).map(|_| hang(&scope)).collect();
    let queued = scope.admit(Role::Caller, 1).unwrap();
    bench.until(&scope, Phase::HalfOpen);
    for token in old.drain(..25) {
        token.finished(Outcome::Good);
    }
    bench.run(ms(1_000));
    assert_eq!(scope.phase(), Phase::HalfOpen, "25 answers, but none is a probe's");
    for _ in 0..5 {
        quick(&scope, Role::Background);
    }
    bench.tick();
    for token in old {
        token.finished(Outcome::Bad);
    }
    // Admitted before the trip, begun after: not judged, but counted as out until it returns.
    let mut queued = queued;
    queued.started();
    bench.tick();
    assert_eq!(bench.registry.status()[0].evidence.hung, 1);
    queued.finished(Outcome::Bad);
    bench.tick();
    let status = bench.registry.status().remove(0).evidence;
    assert_eq!((status.hung, status.in_flight, status.slow), (0, 0, 0));
    assert_eq!(scope.phase(), Phase::Recovering);
}

#[test]
fn recovery_trips_again_when_it_is_slow_again() {
    let (mut bench, scope) = one(Settings::writes());
    hang(&scope).finished(Outcome::Good);
    let hung = hang(&scope);
    bench.until(&scope, Phase::Open);
    hung.finished(Outcome::Good);
    while scope.phase() != Phase::Recovering {
        quick(&scope, Role::Background);
        bench.tick();
    }
    let _hung = hang(&scope);
    assert!(bench.until(&scope, Phase::Open) <= ms(800));
}

#[test]
fn a_call_that_hangs_as_recovery_ends_is_still_seen() {
    let (mut bench, scope) = one(Settings::writes());
    let hung = hang(&scope);
    bench.until(&scope, Phase::Open);
    hung.finished(Outcome::Good);
    while scope.phase() != Phase::Recovering {
        quick(&scope, Role::Background);
        bench.tick();
    }
    scope.set_backlog(0);
    bench.run(ms(900));
    let _last = start(&scope, Role::Background).unwrap();
    bench.until(&scope, Phase::Closed);
    assert!(bench.until(&scope, Phase::Open) <= ms(775));
    let rules: Vec<_> = bench.changes().into_iter().rev().take(2).map(|change| change.3).collect();
    assert_eq!(rules, [Rule::Stall, Rule::BacklogEmpty]);
}

#[test]
fn reads_ramp_up_in_four_seconds() {
    let (mut bench, scope) = one(Settings::reads());
    let _hung = hang(&scope);
    bench.until(&scope, Phase::HalfOpen);
    while scope.phase() != Phase::Recovering {
        quick(&scope, Role::Background);
        bench.tick();
    }
    for share in [10, 25, 50, 100] {
        assert_eq!((0..1_000).filter(|_| quick(&scope, Role::Caller)).count(), share * 10);
        bench.run(ms(1_000));
    }
    assert_eq!(scope.phase(), Phase::Closed);
}

#[test]
fn an_overdue_flush_trips_and_keeps_it_open() {
    let (mut bench, scope) = one(Settings::writes());
    scope.flush_started();
    // Calls go on being fast: the backend hides the frozen disk.
    let began = bench.now;
    while scope.phase() == Phase::Closed {
        quick(&scope, Role::Caller);
        bench.tick();
    }
    assert!((ms(5_000)..=ms(5_050)).contains(&bench.now.saturating_sub(began)));
    bench.run(ms(60_000));
    assert_eq!(scope.phase(), Phase::Open);
    scope.flush_finished();
    bench.tick();
    assert_eq!(scope.phase(), Phase::HalfOpen);
    let rules: Vec<_> = bench.changes().into_iter().map(|change| change.3).collect();
    assert!(matches!(rules[..], [Rule::FlushOverdue { age }, Rule::OpenTimeOver] if age > ms(5_000)));
}

#[test]
fn a_panic_in_the_job_is_a_failure() {
    let (mut bench, scope) = one(Settings::reads());
    while scope.phase() == Phase::Closed {
        let token = start(&scope, Role::Caller).unwrap();
        let job = std::thread::spawn(move || {
            let _token = token;
            std::panic::resume_unwind(Box::new("a bug in the store"));
        });
        assert!(job.join().is_err());
        bench.tick();
        assert!(bench.now < ms(2_000));
    }
}

#[test]
fn nothing_to_do_costs_no_transition() {
    let (mut bench, scope) = one(Settings::writes());
    bench.run(ms(100_000));
    assert!(quick(&scope, Role::Caller));
    bench.run(ms(100_000));
    assert_eq!(bench.changes(), []);
}

#[test]
fn a_ramp_trips_again_when_it_is_slow_again() {
    let (mut bench, scope) = one(Settings::reads());
    let _hung = hang(&scope);
    bench.until(&scope, Phase::HalfOpen);
    while scope.phase() != Phase::Recovering {
        quick(&scope, Role::Background);
        bench.tick();
    }
    let _again = loop {
        if let Ok(token) = start(&scope, Role::Caller) {
            break token;
        }
    };
    assert!(bench.until(&scope, Phase::Open) <= ms(800));
    let rules: Vec<_> = bench.changes().into_iter().map(|change| change.3).collect();
    assert_eq!(rules, [Rule::Stall, Rule::OpenTimeOver, Rule::ProbesFast, Rule::Stall]);
}

#[test]
fn a_flush_that_is_overdue_while_it_probes_opens_it_again() {
    let (mut bench, scope) = one(Settings::writes());
    let hung = hang(&scope);
    bench.until(&scope, Phase::Open);
    scope.flush_started();
    hung.finished(Outcome::Good);
    bench.until(&scope, Phase::HalfOpen);
    // Four probes are fast, but there is no fifth.
    for _ in 0..4 {
        assert!(quick(&scope, Role::Background));
    }
    bench.until(&scope, Phase::Open);
    let (_, from, _, rule) = bench.changes().pop().unwrap();
    assert!(matches!((from, rule), (Phase::HalfOpen, Rule::FlushOverdue { .. })), "{from:?} {rule:?}");
}

#[test]
fn trips_in_a_row_keep_it_open_for_longer_until_it_has_been_well_for_a_minute() {
    let (mut bench, scope) = one(Settings::reads());
    for (expected, well_for) in [(1_000, 0), (2_000, 59_000), (4_000, 61_000), (1_000, 0)] {
        let hung = hang(&scope);
        bench.until(&scope, Phase::Open);
        let open = bench.until(&scope, Phase::HalfOpen).as_millis();
        assert!((expected * 8 / 10..=expected * 12 / 10 + 25).contains(&open), "{open} of {expected}");
        hung.finished(Outcome::Good);
        while scope.phase() != Phase::Closed {
            quick(&scope, Role::Background);
            bench.tick();
        }
        bench.run(ms(well_for));
    }
}

/// Waiting entries must not make a queue of old calls: age counts from when the backend begins.
#[test]
fn a_long_queue_before_the_backend_is_not_a_fault() {
    let (mut bench, scope) = one(Settings::writes());
    let mut queue: std::collections::VecDeque<CallToken> =
        (0..10_000).map(|_| scope.admit(Role::Background, 1).unwrap()).collect();
    while let Some(mut token) = queue.pop_front() {
        token.started();
        token.finished(Outcome::Good);
        if queue.len().is_multiple_of(4) {
            bench.tick();
        }
    }
    assert!(bench.now > ms(60_000));
    assert_eq!(bench.changes(), []);
}
