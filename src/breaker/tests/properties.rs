//! Whatever the interleaving: one verdict per call, no probe lost, nothing decided by the past.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Act {
    Begin { stripe: u32 },
    End { which: usize, ending: u8 },
    Tick { millis: u64 },
    NextGeneration,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (0..4_u32).prop_map(|stripe| Act::Begin { stripe }),
        6 => (any::<usize>(), 0..3_u8).prop_map(|(which, ending)| Act::End { which, ending }),
        8 => prop_oneof![Just(25), Just(50), 1..60_u64].prop_map(|millis| Act::Tick { millis }),
        1 => Just(Act::NextGeneration),
    ]
}

#[derive(Debug)]
struct Call {
    running: Running,
    generation: u32,
    /// When its bucket ended, once it has.
    closed: Option<Duration>,
    ended: Option<Ending>,
    judged: bool,
}

/// What the detector should say, computed call by call.
#[derive(Default)]
struct Model {
    calls: Vec<Call>,
    generation: u32,
}

impl Model {
    fn verdicts(&mut self, now: Duration, slow_after: Duration) -> (u64, u64) {
        let (mut fast, mut slow) = (0, 0);
        for call in self.calls.iter_mut().filter(|call| call.generation == self.generation) {
            let closed = *call.closed.get_or_insert(now);
            if !call.judged && now >= closed + slow_after {
                call.judged = true;
                match call.ended {
                    Some(Ending::Good) => fast += 1,
                    Some(Ending::Void) => {}
                    Some(Ending::Bad) | None => slow += 1,
                }
            }
        }
        (fast, slow)
    }

    fn open(&self, current: bool) -> u64 {
        let of = |call: &&Call| (call.generation == self.generation) == current && call.ended.is_none();
        self.calls.iter().filter(of).count() as u64
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_call_gets_the_verdict_it_deserves_once(acts in prop::collection::vec(act(), 1..400)) {
        let timing = Timing { slow_after: ms(100), stall_after: ms(300) };
        // The smallest ring that works, so that hanging calls leave it.
        let window = Window::new(timing.buckets(), 2);
        let mut detector = Detector::new(timing, Duration::ZERO);
        let mut model = Model::default();
        let mut now = Duration::ZERO;
        for act in acts {
            match act {
                Act::Begin { stripe } => {
                    let generation = model.generation;
                    let mut running = Running::not_yet(generation);
                    prop_assert_eq!(window.begin(&mut running, stripe), Begun::Running);
                    model.calls.push(Call { running, generation, closed: None, ended: None, judged: false });
                }
                Act::End { which, ending } => {
                    let mut open: Vec<_> = model.calls.iter_mut().filter(|call| call.ended.is_none()).collect();
                    if !open.is_empty() {
                        let count = open.len();
                        let call = &mut *open[which % count];
                        let ending = [Ending::Good, Ending::Bad, Ending::Void][usize::from(ending)];
                        let current = window.end(&call.running, ending, which as u32 % 4);
                        prop_assert_eq!(current, call.generation == window.gate().generation());
                        call.ended = Some(ending);
                    }
                }
                Act::Tick { millis } => {
                    now += ms(millis);
                    if let Some(finding) = detector.tick(now, &window) {
                        let expected = model.verdicts(now, timing.slow_after);
                        prop_assert_eq!((finding.fast, finding.slow), expected);
                        prop_assert_eq!(finding.in_flight, model.open(true));
                        prop_assert_eq!(finding.oldest.is_some(), finding.in_flight > 0);
                    }
                }
                Act::NextGeneration => {
                    detector.next_generation(now, &window, true);
                    model.generation = window.gate().generation();
                }
            }
            prop_assert_eq!(detector.hung(&window), model.open(false));
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Deed {
    Admit { scope: usize, background: bool },
    Start { which: usize },
    Finish { which: usize, outcome: u8 },
    Drop { which: usize },
    Tick { ticks: u8 },
    Order { scope: usize, mode: u8 },
}

fn deed() -> impl Strategy<Value = Deed> {
    let which = any::<usize>;
    prop_oneof![
        10 => (0..4_usize, any::<bool>()).prop_map(|(scope, background)| Deed::Admit { scope, background }),
        8 => which().prop_map(|which| Deed::Start { which }),
        5 => (which(), 0..3_u8).prop_map(|(which, outcome)| Deed::Finish { which, outcome }),
        2 => which().prop_map(|which| Deed::Drop { which }),
        8 => (1..60_u8).prop_map(|ticks| Deed::Tick { ticks }),
        1 => (0..4_usize, 0..4_u8).prop_map(|(scope, mode)| Deed::Order { scope, mode }),
    ]
}

fn mode(number: u8) -> Mode {
    [Mode::Auto, Mode::ForceOpen, Mode::ForceClosed, Mode::Observe][usize::from(number)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Random work on an operation and three sites. Only ticks and operators change a state; at most one
    /// probe is out at a time; and when the trouble is over, everything closes again: no probe is lost.
    #[test]
    fn nothing_leaks_and_everything_closes(serial in any::<bool>(), deeds in prop::collection::vec(deed(), 1..300)) {
        let mut bench = Bench::new(Bounds::default());
        let settings = Settings { serial, ..Settings::reads() };
        let root = bench.registry.add_operation("apply", settings).unwrap();
        let mut scopes = vec![root.clone()];
        scopes.extend((0..3).map(|n| bench.registry.site(&root, &n.to_string())));
        let mut tokens: VecDeque<CallToken> = VecDeque::new();
        for deed in deeds {
            let phases: Vec<_> = scopes.iter().map(ScopeHandle::phase).collect();
            let mut steered = false;
            match deed {
                Deed::Admit { scope, background } => {
                    let role = if background { Role::Background } else { Role::Caller };
                    if let Ok(token) = scopes[scope].admit(role, 1) {
                        prop_assert!(phases[scope] != Phase::Open);
                        prop_assert!(!token.is_probe() || background);
                        prop_assert_eq!(token.is_probe(), phases[scope] == Phase::HalfOpen);
                        if token.is_probe() {
                            prop_assert!(scopes[scope].admit(Role::Background, 1).is_err());
                        }
                        tokens.push_back(token);
                    }
                }
                Deed::Start { which } if !tokens.is_empty() => {
                    let count = tokens.len();
                    tokens[which % count].started();
                }
                Deed::Finish { which, outcome } if !tokens.is_empty() => {
                    let outcome = [Outcome::Good, Outcome::Bad, Outcome::Ignored][usize::from(outcome)];
                    tokens.remove(which % tokens.len()).unwrap().finished(outcome);
                }
                Deed::Drop { which } if !tokens.is_empty() => drop(tokens.remove(which % tokens.len())),
                Deed::Start { .. } | Deed::Finish { .. } | Deed::Drop { .. } => {}
                Deed::Tick { ticks } => {
                    steered = true;
                    bench.run(BUCKET * u32::from(ticks));
                }
                Deed::Order { scope, mode: number } => {
                    steered = true;
                    let order =
                        Override { mode: mode(number), reason: "r".into(), owner: "o".into(), lasts: None };
                    bench.registry.set_override(&scopes[scope], order).unwrap();
                }
            }
            if !steered {
                prop_assert_eq!(phases, scopes.iter().map(ScopeHandle::phase).collect::<Vec<_>>());
            }
        }
        // The backend is well again.
        for token in tokens {
            token.finished(Outcome::Good);
        }
        for scope in &scopes {
            let order = Override { mode: Mode::Auto, reason: "r".into(), owner: "o".into(), lasts: None };
            bench.registry.set_override(scope, order).unwrap();
        }
        for _ in 0..120 * 40 {
            bench.tick();
            for scope in &scopes {
                quick(scope, Role::Background);
            }
        }
        for status in bench.registry.status() {
            prop_assert_eq!(status.phase, Phase::Closed, "{}", status.name);
            prop_assert_eq!((status.evidence.in_flight, status.evidence.hung), (0, 0));
        }
    }
}

/// Threads begin and end calls while another ticks and changes generations: in the end every call is
/// accounted for exactly once.
#[test]
fn threads_and_ticks_lose_no_call() {
    const CALLS: u64 = 20_000;
    let timing = Timing { slow_after: ms(50), stall_after: ms(50) };
    let window = Window::new(timing.buckets(), 2);
    let mut detector = Detector::new(timing, Duration::ZERO);
    let (done, current, old) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let mut now = Duration::ZERO;
    std::thread::scope(|threads| {
        let workers: Vec<_> = (0..3)
            .map(|stripe| {
                let (window, current, old) = (&window, &current, &old);
                threads.spawn(move || {
                    let mut held = VecDeque::new();
                    for n in 0..CALLS {
                        let mut running = Running::not_yet(window.gate().generation());
                        match window.begin(&mut running, stripe) {
                            Begun::Running => held.push_back(running),
                            Begun::Outdated => {
                                old.fetch_add(1, Ordering::Relaxed);
                                window.end_outdated();
                            }
                            Begun::Full => panic!("not so many"),
                        }
                        let keep = if n + 1 == CALLS { 0 } else { (n % 50) as usize };
                        while held.len() > keep {
                            let running = held.pop_front().unwrap();
                            let ending = [Ending::Good, Ending::Bad, Ending::Void][(n % 3) as usize];
                            let of = if window.end(&running, ending, stripe) { current } else { old };
                            of.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                })
            })
            .collect();
        threads.spawn(|| {
            for worker in workers {
                worker.join().unwrap();
            }
            done.store(true, Ordering::Release);
        });
        let mut ticks = 0_u64;
        while !done.load(Ordering::Acquire) {
            now += BUCKET;
            ticks += 1;
            detector.tick(now, &window);
            if ticks.is_multiple_of(1_000) {
                detector.next_generation(now, &window, true);
            }
        }
    });
    now += BUCKET;
    let finding = detector.tick(now, &window).unwrap();
    assert_eq!((finding.in_flight, detector.hung(&window)), (0, 0));
    assert_eq!(current.into_inner() + old.into_inner(), 3 * CALLS);
}

/// An owner that has been taken off its processor puts the end of a bucket off, and nothing else.
#[test]
fn while_an_owner_is_interrupted_nobody_waits_and_the_bucket_goes_on() {
    let window = Window::new(8, 2);
    let mut detector = Detector::new(Timing { slow_after: ms(50), stall_after: ms(50) }, Duration::ZERO);
    let (mut call, bucket) = (Running::not_yet(0), window.bucket());
    window.interrupted(0, || {
        assert_eq!(detector.tick(ms(25), &window), None);
        assert_eq!(window.begin(&mut call, 1), Begun::Running);
    });
    assert_eq!(window.bucket(), bucket);
    let finding = detector.tick(ms(50), &window).unwrap();
    assert!(finding.active);
    assert_eq!(finding.in_flight, 1);
    assert!(window.end(&call, Ending::Good, 0));
    let finding = detector.tick(ms(100), &window).unwrap();
    assert_eq!((finding.fast, finding.slow, finding.in_flight), (1, 0, 0));
}
