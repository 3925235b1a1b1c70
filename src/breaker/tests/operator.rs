//! Scopes below scopes, and what operators say.

use super::*;

fn with_sites(count: usize) -> (Bench, ScopeHandle, Vec<ScopeHandle>) {
    let mut bench = Bench::new(Bounds::default());
    let root = bench.registry.add_operation("apply", Settings::reads()).unwrap();
    let sites = (0..count).map(|n| bench.registry.site(&root, &format!("site-{n}"))).collect();
    bench.tick();
    (bench, root, sites)
}

fn order(mode: Mode, lasts: Option<Duration>) -> Override {
    Override { mode, reason: "drill".into(), owner: "ops".into(), lasts }
}

#[test]
fn one_sick_site_leaves_its_neighbours_alone() {
    let (mut bench, root, sites) = with_sites(10);
    let _hung = hang(&sites[0]);
    for _ in 0..400 {
        for site in &sites[1..] {
            assert!(quick(site, Role::Caller));
        }
        bench.tick();
    }
    assert_ne!(sites[0].phase(), Phase::Closed);
    assert_eq!(root.phase(), Phase::Closed);
    assert!(bench.changes().iter().all(|change| change.0 == "apply/site-0"));
}

#[test]
fn one_sick_site_alone_does_not_trip_its_parent() {
    let (mut bench, root, sites) = with_sites(5);
    let _hung = hang(&sites[0]);
    bench.run(ms(3_000));
    assert_ne!(sites[0].phase(), Phase::Closed);
    assert_eq!(root.phase(), Phase::Closed);
}

#[test]
fn two_sites_that_stall_together_trip_the_parent() {
    let (mut bench, root, sites) = with_sites(5);
    let _hung = [hang(&sites[0]), hang(&sites[1])];
    assert!(bench.until(&root, Phase::Open) <= ms(800));
    // They had tripped in the same tick; now they follow.
    let last: Vec<_> = bench.changes();
    assert_eq!(last.iter().filter(|change| change.3 == Rule::ParentTripped).count(), 2);
    for site in &sites {
        assert_eq!(start(site, Role::Background).unwrap_err().scope, root.name());
    }
}

#[test]
fn three_of_six_trip_the_parent_which_alone_probes() {
    let (mut bench, root, sites) = with_sites(6);
    while root.phase() == Phase::Closed {
        for site in &sites[..3] {
            if let Ok(token) = start(site, Role::Caller) {
                token.finished(Outcome::Bad);
            }
        }
        for site in &sites[3..] {
            quick(site, Role::Caller);
        }
        bench.tick();
        assert!(bench.now < ms(3_000));
    }
    let changes = bench.changes();
    assert!(changes.contains(&(
        "apply".into(),
        Phase::Closed,
        Phase::Open,
        Rule::Children { tripped: 3, active: 6 }
    )));
    bench.until(&root, Phase::HalfOpen);
    let probe = start(&sites[0], Role::Background).unwrap();
    assert!(probe.is_probe());
    assert_eq!(start(&sites[1], Role::Background).unwrap_err().reason, Reason::Probing);
    probe.finished(Outcome::Good);
    while root.phase() != Phase::Closed {
        quick(&sites[4], Role::Background);
        bench.tick();
    }
    assert!(sites.iter().all(|site| site.phase() == Phase::Closed && quick(site, Role::Caller)));
    assert!(bench.changes().iter().all(|change| change.0 == "apply"));
}

#[test]
fn three_of_many_do_not_trip_the_parent() {
    let (mut bench, root, sites) = with_sites(20);
    let mut hung = Vec::new();
    for _ in 0..200 {
        for (n, site) in sites.iter().enumerate() {
            match start(site, Role::Caller) {
                Ok(token) if n < 3 => hung.push(token),
                Ok(token) => token.finished(Outcome::Good),
                Err(_) => {}
            }
        }
        bench.tick();
    }
    assert_eq!(root.phase(), Phase::Closed);
    assert!(sites[..3].iter().all(|site| site.phase() != Phase::Closed));
}

#[test]
fn a_new_site_follows_an_open_parent() {
    let (mut bench, root, _) = with_sites(0);
    let _hung = hang(&root);
    bench.until(&root, Phase::Open);
    let late = bench.registry.site(&root, "late");
    assert_eq!(start(&late, Role::Caller).unwrap_err().scope, root.name());
}

#[test]
fn force_open_refuses_at_once_and_ends_through_recovery() {
    let (mut bench, root, sites) = with_sites(2);
    bench.registry.set_override(&root, order(Mode::ForceOpen, Some(ms(10_000)))).unwrap();
    assert!(!quick(&sites[0], Role::Background) && !quick(&root, Role::Background));
    bench.run(ms(9_975));
    assert_eq!(root.phase(), Phase::Open);
    bench.run(ms(50));
    assert_eq!(root.phase(), Phase::HalfOpen);
    for _ in 0..5 {
        assert!(quick(&sites[1], Role::Background));
    }
    bench.tick();
    assert_eq!(root.phase(), Phase::Recovering);
    let heard = bench.heard.0.lock();
    assert!(matches!(&heard[0], Event::Overridden { order, .. } if order.owner == "ops"));
    assert!(heard.iter().any(|event| matches!(event, Event::OverrideExpired { .. })));
}

#[test]
fn force_closed_never_trips_but_does_not_pass_an_open_parent() {
    let (mut bench, root, sites) = with_sites(2);
    bench.registry.set_override(&sites[0], order(Mode::ForceClosed, None)).unwrap();
    let _hung = hang(&sites[0]);
    bench.run(ms(5_000));
    assert!(quick(&sites[0], Role::Caller));
    let _hung = hang(&root);
    bench.until(&root, Phase::Open);
    assert!(!quick(&sites[0], Role::Caller));
}

#[test]
fn what_is_open_closes_at_an_operators_word() {
    for mode in [Mode::ForceClosed, Mode::Observe] {
        let (mut bench, root, _) = with_sites(0);
        let _hung = hang(&root);
        bench.until(&root, Phase::Open);
        bench.changes();
        bench.registry.set_override(&root, order(mode, None)).unwrap();
        assert!(quick(&root, Role::Caller));
        assert_eq!(bench.changes(), [("apply".into(), Phase::Open, Phase::Closed, Rule::Operator)]);
    }
}

#[test]
fn observe_reports_and_never_refuses() {
    let (mut bench, root, _) = with_sites(0);
    bench.registry.set_override(&root, order(Mode::Observe, None)).unwrap();
    let _hung = hang(&root);
    bench.run(ms(2_000));
    assert!(quick(&root, Role::Caller));
    assert!(matches!(bench.heard.0.lock()[1], Event::WouldTrip { rule: Rule::Stall, .. }));
    assert_eq!(bench.heard.0.lock().len(), 2, "said once, not every tick");
    // Handed back to the breaker while the call still hangs: it trips.
    bench.registry.set_override(&root, order(Mode::Auto, None)).unwrap();
    bench.run(ms(1_000));
    assert_eq!(root.phase(), Phase::Open);
}

#[test]
fn overrides_need_a_reason_and_an_owner() {
    let (bench, root, _) = with_sites(0);
    let mut nameless = order(Mode::ForceOpen, None);
    nameless.owner = " ".into();
    assert_eq!(bench.registry.set_override(&root, nameless), Err(OverrideError::NoOwner));
    let mut silent = order(Mode::ForceOpen, None);
    silent.reason.clear();
    assert_eq!(bench.registry.set_override(&root, silent), Err(OverrideError::NoReason));
    assert!(quick(&root, Role::Caller));
}

#[test]
fn a_backlog_starts_slowly_and_waits_while_it_is_paused() {
    let (mut bench, root, _) = with_sites(0);
    let writes = bench.registry.add_operation("writes", Settings::writes()).unwrap();
    for mode in [Mode::ForceOpen, Mode::Auto] {
        bench.registry.set_override(&writes, order(mode, None)).unwrap();
    }
    while writes.phase() != Phase::Recovering {
        bench.tick();
        quick(&writes, Role::Background);
    }
    let mut passed = 0;
    for _ in 0..20 {
        bench.tick();
        while quick(&writes, Role::Background) {
            passed += 1;
        }
    }
    assert!((48..=55).contains(&passed), "{passed} in half a second at 100/s");
    assert_eq!(root.phase(), Phase::Closed);
    writes.set_pace(Pace::Paused);
    bench.tick();
    assert_eq!(start(&writes, Role::Background).unwrap_err().reason, Reason::Paced);
}

#[test]
fn a_full_registry_shares_one_scope_and_reuses_idle_ones() {
    let mut bench = Bench::new(Bounds { scopes: 2, idle_after: ms(1_000) });
    let root = bench.registry.add_operation("apply", Settings::reads()).unwrap();
    let a = bench.registry.site(&root, "a");
    drop(bench.registry.site(&root, "b"));
    let c = bench.registry.site(&root, "c");
    assert_eq!(c.name().to_string(), format!("apply/{OVERFLOW}"));
    assert_eq!(bench.registry.site(&root, "d").name(), c.name());
    // `b` is idle and nobody holds it; `a` is held.
    bench.run(ms(3_000));
    assert_eq!(bench.registry.site(&root, "c").name().to_string(), "apply/c");
    assert_eq!(bench.registry.site(&root, "a").name(), a.name());
    assert_eq!(bench.registry.status().len(), 4);
    assert!(bench.registry.find("apply", Some("b")).is_none());
}

#[test]
fn a_sick_scope_is_not_given_away() {
    let mut bench = Bench::new(Bounds { scopes: 1, idle_after: ms(1_000) });
    let root = bench.registry.add_operation("apply", Settings::reads()).unwrap();
    let hung = hang(&bench.registry.site(&root, "a"));
    bench.run(ms(10_000));
    assert!(bench.registry.find("apply", Some("a")).is_some());
    drop(hung);
}

#[test]
fn settings_without_sense_are_refused() {
    let bench = Bench::new(Bounds::default());
    let zero = Settings { slow_after: Duration::ZERO, ..Settings::reads() };
    assert!(matches!(bench.registry.add_operation("x", zero), Err(RegistryError::Settings(_))));
    bench.registry.add_operation("x", Settings::reads()).unwrap();
    let again = bench.registry.add_operation("x", Settings::reads());
    assert_eq!(again.unwrap_err(), RegistryError::Exists("x".into()));
}
