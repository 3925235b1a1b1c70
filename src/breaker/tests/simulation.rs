//! The detector against simulated backends, sick and healthy.
//!
//! `STEADFAST_SIM_HOURS` (default 0.1) and `STEADFAST_SIM_SEEDS` (default 2) say how long and how often the
//! healthy ones run; figures are printed (`--nocapture`).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::*;

/// `SplitMix64`: small, seeded, good enough to draw arrivals.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }
}

/// Seconds on the simulation's clock, and what the detector sees of them.
struct Judge {
    window: Window,
    detector: Detector,
    now: f64,
    next_tick: f64,
    alarms: Vec<(f64, Alarm)>,
}

impl Judge {
    fn new() -> Self {
        let timing = Settings::reads().timing();
        Self {
            window: Window::new(timing.buckets(), 1),
            detector: Detector::new(timing, Duration::ZERO),
            now: 0.0,
            next_tick: 0.025,
            alarms: Vec::new(),
        }
    }

    fn begin(&self) -> Running {
        let mut running = Running::not_yet(self.window.gate().generation());
        assert_eq!(self.window.begin(&mut running, 0), Begun::Running);
        running
    }

    /// Ticks; on an alarm starts over, as a breaker that closes again would.
    fn tick(&mut self) {
        let now = Duration::from_micros((self.next_tick * 1e6).round() as u64);
        if let Some(alarm) = self.detector.tick(now, &self.window).and_then(|finding| finding.alarm) {
            self.alarms.push((self.next_tick, alarm));
            self.detector.next_generation(now, &self.window, true);
        }
        self.next_tick += 0.025;
    }
}

/// Ends in order of time; the running call by number.
#[derive(Default)]
struct Ends {
    heap: BinaryHeap<Reverse<(u64, usize)>>,
    calls: Vec<Option<Running>>,
    free: Vec<usize>,
}

impl Ends {
    fn push(&mut self, at: f64, running: Running) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.calls.push(None);
            self.calls.len() - 1
        });
        self.calls[index] = Some(running);
        if at.is_finite() {
            self.heap.push(Reverse(((at * 1e6) as u64, index)));
        }
    }

    fn pop_until(&mut self, until: f64) -> Option<(f64, Running)> {
        let &Reverse((at, index)) = self.heap.peek()?;
        if at as f64 / 1e6 > until {
            return None;
        }
        self.heap.pop();
        self.free.push(index);
        Some((at as f64 / 1e6, self.calls[index].take().unwrap()))
    }
}

/// Calls arrive by chance at `rate(now)`; each takes `takes(begin)` seconds (infinite: hangs), but none ends
/// inside `frozen(end)`, which answers when the freeze ends. Runs for `seconds`, or to the first alarm.
fn concurrent(
    random: &mut Random,
    seconds: f64,
    stop_at_alarm: bool,
    rate: impl Fn(f64) -> f64,
    mut takes: impl FnMut(&mut Random, f64) -> f64,
    frozen: impl Fn(f64) -> f64,
) -> Vec<(f64, Alarm)> {
    let mut judge = Judge::new();
    let mut ends = Ends::default();
    let mut arrival = random.exponential(1.0 / rate(0.0));
    while judge.now < seconds && (!stop_at_alarm || judge.alarms.is_empty()) {
        judge.now = judge.next_tick.min(arrival);
        while let Some((_, running)) = ends.pop_until(judge.now) {
            judge.window.end(&running, Ending::Good);
        }
        if judge.now >= judge.next_tick {
            judge.tick();
        } else {
            let took = takes(random, arrival);
            ends.push(frozen(arrival + took), judge.begin());
            arrival += random.exponential(1.0 / rate(arrival));
        }
    }
    judge.alarms
}

/// One writer that takes what waits, up to 256 entries, a commit at a time: the shape of an applier.
fn serial(
    random: &mut Random,
    seconds: f64,
    stop_at_alarm: bool,
    rate: f64,
    mut takes: impl FnMut(&mut Random, f64) -> f64,
    frozen: impl Fn(f64) -> f64,
) -> Vec<(f64, Alarm)> {
    let mut judge = Judge::new();
    let mut waiting = 0_usize;
    let mut busy: Option<(f64, Running)> = None;
    let mut arrival = random.exponential(1.0 / rate);
    while judge.now < seconds && (!stop_at_alarm || judge.alarms.is_empty()) {
        let end = busy.as_ref().map_or(f64::INFINITY, |(at, _)| *at);
        judge.now = judge.next_tick.min(arrival).min(end);
        if judge.now >= end {
            if let Some((_, running)) = busy.take() {
                judge.window.end(&running, Ending::Good);
            }
        } else if judge.now >= judge.next_tick {
            judge.tick();
        } else {
            waiting += 1;
            arrival += random.exponential(1.0 / rate);
        }
        if busy.is_none() && waiting > 0 {
            waiting -= waiting.min(256);
            let end = frozen(judge.now + takes(random, judge.now));
            busy = Some((end, judge.begin()));
        }
    }
    judge.alarms
}

fn never(at: f64) -> f64 {
    at
}

/// Every minute, at second 30, everything stands still for 100 to 300 ms.
fn stalls(at: f64) -> f64 {
    let minute = (at / 60.0).floor();
    let length = 0.1 + 0.2 * ((minute * 0.618).fract());
    let begins = minute * 60.0 + 30.0;
    if at >= begins && at < begins + length { begins + length + (at - begins) / 100.0 } else { at }
}

/// Median and 95th percentile, in milliseconds.
fn figures(mut times: Vec<f64>) -> (f64, f64) {
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() as f64 * share) as usize).min(times.len() - 1)] * 1e3;
    (at(0.5), at(0.95))
}

const SEEDS: u64 = 200;
const SICK_FROM: f64 = 5.0;

/// Time from the onset of the fault to the alarm, over the seeds.
fn time_to_trip(name: &str, mut run: impl FnMut(&mut Random, f64) -> Vec<(f64, Alarm)>) -> (f64, f64) {
    let mut times = Vec::new();
    for seed in 0..SEEDS {
        let mut random = Random(seed);
        let from = SICK_FROM + random.between(0.0, 0.025);
        let alarms = run(&mut random, from);
        let (at, _) = alarms.first().copied().unwrap_or_else(|| panic!("{name}: seed {seed} never trips"));
        assert!(at > from, "{name}: seed {seed} trips at {at} while healthy");
        times.push(at - from);
    }
    let (median, p95) = figures(times);
    println!("{name:42} median {median:5.0} ms, p95 {p95:5.0} ms");
    (median, p95)
}

#[test]
fn concurrent_calls_trip_in_time() {
    // (calls/s, share that hangs, bound of the median, bound of the 95th percentile)
    for (rate, share, median, p95) in [
        (20.0, 1.0, 775.0, 950.0),
        (100.0, 1.0, 525.0, 550.0),
        (1_000.0, 1.0, 525.0, 550.0),
        (100.0, 0.5, 625.0, 800.0),
        (1_000.0, 0.5, 550.0, 575.0),
        (100.0, 0.3, 1_100.0, 2_600.0),
        (1_000.0, 0.3, 625.0, 925.0),
    ] {
        let name = format!("{rate}/s, {:.0} % hang", share * 100.0);
        let found = time_to_trip(&name, |random, from| {
            let takes = |random: &mut Random, at: f64| {
                let sick = at >= from && random.unit() < share;
                if sick { f64::INFINITY } else { random.exponential(0.005) }
            };
            concurrent(random, 60.0, true, |_| rate, takes, never)
        });
        assert!(found.0 <= median && found.1 <= p95, "{name}: {found:?}");
    }
}

#[test]
fn a_serial_writer_trips_in_time() {
    for rate in [5.0, 100.0, 10_000.0] {
        for (fault, extra, median, p95) in [
            ("hangs", f64::INFINITY, 850.0, 1_000.0),
            ("+5 s a commit", 5.0, 850.0, 1_000.0),
            ("+600 ms a commit", 0.6, 6_200.0, 6_600.0),
            ("+300 ms a commit", 0.3, 3_400.0, 3_600.0),
        ] {
            let name = format!("serial, {rate}/s, {fault}");
            let found = time_to_trip(&name, |random, from| {
                let takes = |random: &mut Random, at: f64| {
                    let sick = if at >= from { extra } else { 0.0 };
                    random.exponential(0.002) + sick
                };
                serial(random, 60.0, true, rate, takes, never)
            });
            // At five a second it takes a while until the first entry comes.
            let wait = if rate < 10.0 { 600.0 } else { 0.0 };
            assert!(found.0 <= median + wait && found.1 <= p95 + wait, "{name}: {found:?}");
        }
    }
}

fn from_env(name: &str, default: f64) -> f64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Runs a healthy backend over hours and seeds; no alarm is allowed.
fn no_alarm(name: &str, mut run: impl FnMut(&mut Random, f64) -> Vec<(f64, Alarm)>) {
    let hours = from_env("STEADFAST_SIM_HOURS", 0.1);
    for seed in 0..from_env("STEADFAST_SIM_SEEDS", 2.0) as u64 {
        let alarms = run(&mut Random(1_000 + seed), hours * 3_600.0);
        assert_eq!(alarms, [], "{name}, seed {seed}: false trips in {hours} h");
    }
    println!("{name:42} {hours} h a seed: no false trip");
}

#[test]
fn a_healthy_store_with_slow_calls_and_stalls_never_trips() {
    for rate in [50.0, 200.0] {
        for share in [0.001, 0.03, 0.05] {
            let name = format!("{rate}/s, {} % slow, a stall a minute", share * 100.0);
            no_alarm(&name, |random, seconds| {
                let takes = |random: &mut Random, _| {
                    let slow = random.unit() < share;
                    if slow { random.between(0.25, 2.0) } else { random.exponential(0.005) }
                };
                concurrent(random, seconds, false, |_| rate, takes, stalls)
            });
        }
    }
}

#[test]
fn bursts_are_no_fault() {
    // Every ten seconds, 300 ms at twenty times the rate; 5 % of the calls slow.
    let rate = |at: f64| if at % 10.0 < 0.3 { 2_000.0 } else { 100.0 };
    no_alarm("bursts of 2,000/s, 5 % slow, stalls", |random, seconds| {
        let takes = |random: &mut Random, at: f64| {
            let slow = random.unit() < 0.05;
            // Calls of a burst queue in the backend: up to 100 ms.
            let queued = if at % 10.0 < 0.3 { random.between(0.0, 0.1) } else { 0.0 };
            if slow { random.between(0.25, 2.0) } else { queued + random.exponential(0.005) }
        };
        concurrent(random, seconds, false, rate, takes, stalls)
    });
}

#[test]
fn a_healthy_serial_writer_never_trips() {
    for rate in [5.0, 1_000.0] {
        for share in [0.001, 0.03, 0.05] {
            let name = format!("serial, {rate}/s, {} % slow, stalls", share * 100.0);
            no_alarm(&name, |random, seconds| {
                let takes = |random: &mut Random, _| {
                    let slow = random.unit() < share;
                    // With a stall on top still below 750 ms: beyond that, a serial backend does stand still.
                    if slow { random.between(0.25, 0.42) } else { random.exponential(0.003) }
                };
                serial(random, seconds, false, rate, takes, stalls)
            });
        }
    }
}

#[test]
fn below_the_blind_spot_nothing_trips() {
    // Unseen by the breaker, and left to an alert.
    no_alarm("100/s, 8 % slow", |random, seconds| {
        let takes = |random: &mut Random, _| {
            let slow = random.unit() < 0.08;
            if slow { random.between(0.3, 0.7) } else { random.exponential(0.005) }
        };
        concurrent(random, seconds.min(600.0), false, |_| 100.0, takes, never)
    });
}

/// Waiting entries must not make a queue of old calls: age counts from when the backend begins.
#[test]
fn a_long_queue_before_the_backend_is_not_a_fault() {
    let mut bench = Bench::new(Bounds::default());
    let scope = bench.registry.add_operation("apply", Settings::writes()).unwrap();
    let mut queue: VecDeque<CallToken> =
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
