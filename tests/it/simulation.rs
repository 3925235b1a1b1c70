//! How soon a sick backend is noticed, and that a healthy one never is: by simulation, on concurrent calls and
//! on an applier's.
//!
//! What is slow by chance alone does trip a breaker once in a thousand million calls or so, at 5 %: that is what its
//! threshold says. (Of ten sites with 20 calls a second each, one was tripped in 2,400 hours of a site.)
//!
//! `STEADFAST_SIM_HOURS` (default 24) and `STEADFAST_SIM_SEEDS` (default 2) say how long the breakers of each
//! healthy one run, and how often. Figures are printed (`--nocapture`).

use std::sync::atomic::{AtomicUsize, Ordering};

use steadfast_simulation::Shape::{Concurrent, Serial};
use steadfast_simulation::{Healthy, Shape, Sick, Trip, false_trip, until_trip};

/// Does all the work there is on all cores; answers in its order.
fn on_all_cores<W: Sync, R: Send>(work: &[W], run: impl Fn(&W) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut done: Vec<(usize, R)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut done = Vec::new();
                    while let Some(at) =
                        Some(next.fetch_add(1, Ordering::Relaxed)).filter(|at| *at < work.len())
                    {
                        done.push((at, run(&work[at])));
                    }
                    done
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

const SEEDS: u64 = 200;

/// Median, 95th percentile and longest of some seconds, in milliseconds.
fn figures(mut times: Vec<f64>) -> (f64, f64, f64) {
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() as f64 * share) as usize).min(times.len() - 1)] * 1e3;
    (at(0.5), at(0.95), at(1.0))
}

/// What is expected of a fault, in milliseconds: median and 95th percentile, at each of [`RATES`].
type Expected = [Option<(f64, f64)>; 3];
const RATES: [f64; 3] = [20.0, 100.0, 1_000.0];
/// How much later it may be.
const TOLERANCE: f64 = 1.15;
/// A call that hangs is noticed so soon after it began, whatever else: 750 ms, and a tick at each end.
const HANG_NOTICED: f64 = 800.0;
const FOR_EVER: f64 = f64::INFINITY;

#[test]
fn a_sick_backend_is_noticed_in_time() {
    let at_once: Expected = [Some((700.0, 775.0)), Some((475.0, 500.0)), Some((475.0, 500.0))];
    let stalled: Expected = [Some((800.0, 825.0)); 3];
    let expected: [(&str, Shape, f64, f64, Expected); 10] = [
        ("all hang", Concurrent, 1.0, FOR_EVER, at_once),
        ("half hang", Concurrent, 0.5, FOR_EVER, [None, Some((575.0, 725.0)), None]),
        ("30 % hang", Concurrent, 0.3, FOR_EVER, [None, Some((1_000.0, 1_925.0)), Some((550.0, 800.0))]),
        ("+5 s", Concurrent, 1.0, 5.0, at_once),
        ("+600 ms", Concurrent, 1.0, 0.6, [None; 3]),
        ("+300 ms", Concurrent, 1.0, 0.3, [None; 3]),
        ("serial, hangs", Serial, 1.0, FOR_EVER, stalled),
        ("serial, +5 s", Serial, 1.0, 5.0, stalled),
        // One call is one verdict: so many calls have to end first.
        ("serial, +600 ms", Serial, 1.0, 0.6, [Some((5_100.0, 5_100.0)); 3]),
        ("serial, +300 ms", Serial, 1.0, 0.3, [Some((2_700.0, 2_700.0)); 3]),
    ];
    let mut work = Vec::new();
    for (name, shape, share, extra, expected) in expected {
        for (rate, expected) in RATES.into_iter().zip(expected) {
            work.push((format!("{name}, {rate}/s"), Sick { shape, rate, share, extra }, expected));
        }
    }
    let found = on_all_cores(&work, |(name, sick, _)| {
        let trip = |seed| until_trip(sick, seed).unwrap_or_else(|| panic!("{name}: seed {seed} never trips"));
        (0..SEEDS).map(trip).collect::<Vec<Trip>>()
    });
    println!(
        "ms until it trips, {SEEDS} seeds      median    p95  longest  from the first call that suffered"
    );
    let mut late = Vec::new();
    for ((name, sick, expected), trips) in work.iter().zip(found) {
        let (median, p95, longest) = figures(trips.iter().map(|trip| trip.after).collect());
        let (.., from_first) = figures(trips.iter().map(|trip| trip.after_first).collect());
        println!("{name:30} {median:8.0} {p95:6.0} {longest:8.0} {from_first:8.0}");
        let early = trips.iter().find(|trip| trip.after <= 0.0);
        assert_eq!(early, None, "{name}: while it was healthy");
        if expected.is_some_and(|expected| median > expected.0 * TOLERANCE || p95 > expected.1 * TOLERANCE) {
            late.push((name, expected));
        }
        if sick.share >= 1.0 && sick.extra >= 1.0 && from_first > HANG_NOTICED {
            late.push((name, &None));
        }
    }
    assert!(late.is_empty(), "later than expected: {late:?}");
}

fn from_env(name: &str, default: f64) -> f64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[test]
fn a_healthy_backend_is_never_mistaken_for_a_sick_one() {
    let usual = Healthy {
        shape: Concurrent,
        rate: 200.0,
        slow: 0.05,
        slowest: 2.0,
        stalls: true,
        bursts: false,
        sites: 0,
    };
    // With a stall on top it must not stand still for 750 ms: beyond that, a serial backend does.
    let serial = Healthy { shape: Serial, slowest: 0.42, ..usual };
    let slow = |healthy: Healthy| [0.001, 0.03, 0.05].map(|slow| Healthy { slow, ..healthy });
    let mut all = [slow(usual), slow(serial), slow(Healthy { rate: 5.0, ..serial })].concat();
    all.extend([
        // So few that a slow one may be the only one for 750 ms.
        Healthy { rate: 20.0, slowest: 0.7, ..usual },
        Healthy { rate: 100.0, bursts: true, ..usual },
        Healthy { sites: 10, slowest: 0.7, ..usual },
    ]);
    let (hours, seeds) = (from_env("STEADFAST_SIM_HOURS", 24.0), from_env("STEADFAST_SIM_SEEDS", 2.0) as u64);
    let work: Vec<_> = all.iter().flat_map(|healthy| (0..seeds).map(move |seed| (healthy, seed))).collect();
    // All breakers together.
    let hours = |healthy: &Healthy| hours / healthy.sites.max(1) as f64;
    let found = on_all_cores(&work, |(healthy, seed)| false_trip(healthy, hours(healthy), 1_000 + seed));
    let trips: Vec<_> = work.iter().zip(found).filter_map(|(run, trip)| Some((run, trip?))).collect();
    for healthy in &all {
        let false_trips = trips.iter().filter(|((of, _), _)| std::ptr::eq(*of, healthy)).count();
        println!("{seeds} x {} h: {false_trips} false trips; {healthy:?}", hours(healthy));
    }
    assert!(trips.is_empty(), "{trips:#?}");
}

#[test]
fn what_is_too_little_for_the_breaker_is_left_to_an_alert() {
    for (slow, trips) in [(0.08, false), (0.3, true)] {
        let healthy = Healthy {
            shape: Concurrent,
            rate: 100.0,
            slow,
            slowest: 0.7,
            stalls: false,
            bursts: false,
            sites: 0,
        };
        assert_eq!(false_trip(&healthy, 1.0 / 6.0, 1).is_some(), trips, "{slow}");
    }
}
