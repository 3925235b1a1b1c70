//! Rates and latencies of the recent past, measured at the cost of a few relaxed additions a call, in memory
//! that does not grow.
//!
//! Counts only rise; somebody samples them once a second, and what happened in the last 10 s is the difference
//! to the sample of 10 s ago. Latencies fall into buckets that are a quarter of an octave wide, so that a
//! percentile is right within a tenth.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How far back is looked.
pub const WINDOW: Duration = Duration::from_secs(10);

/// Buckets of a latency: 4 an octave, from 1 us to about 70 s.
const BUCKETS: usize = 4 * 26;

/// Threads that count apart from each other; more share.
const SHARDS: usize = 8;

/// Samples kept: those of the window, one more, and some for when sampling is late.
const SAMPLES: usize = 16;

/// How something ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Well.
    Good,
    /// Well, but later than asked for: a write that was deferred.
    Deferred,
    /// In an error.
    Error,
}

/// So large that two threads seldom meet on a cache line.
struct Shard {
    started: AtomicU64,
    stopped: AtomicU64,
    errors: AtomicU64,
    deferred: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

#[derive(Clone)]
struct Totals {
    started: u64,
    stopped: u64,
    errors: u64,
    deferred: u64,
    buckets: Box<[u64; BUCKETS]>,
}

/// Measures one kind of call. Clones measure the same.
#[derive(Clone)]
pub struct Meter(Arc<Inner>);

struct Inner {
    shards: Box<[Shard]>,
    samples: Mutex<VecDeque<(Instant, Totals)>>,
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meter").finish_non_exhaustive()
    }
}

/// The last 10 s, or less if there is no more.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recent {
    /// Calls that ended per second; those that nobody waited for are not among them.
    pub per_second: f64,
    /// Those that ended in an error.
    pub errors_per_second: f64,
    /// Those that ended as deferred.
    pub deferred_per_second: f64,
    /// Calls under way.
    pub in_flight: u64,
    /// The median.
    pub p50: Option<Duration>,
    /// The 99th percentile.
    pub p99: Option<Duration>,
}

/// A call under way; counted as such until it is dropped.
#[derive(Debug)]
pub struct Timing {
    meter: Meter,
    began: Instant,
}

impl Meter {
    /// Nothing measured yet; `now` begins the first window.
    pub fn new(now: Instant) -> Self {
        let shard = || Shard {
            started: AtomicU64::new(0),
            stopped: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            deferred: AtomicU64::new(0),
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
        };
        let meter = Self(Arc::new(Inner {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            samples: Mutex::new(VecDeque::with_capacity(SAMPLES + 1)),
        }));
        meter.sample(now);
        meter
    }

    /// A call begins now.
    pub fn begin(&self) -> Timing {
        if let Some(shard) = self.shard() {
            shard.started.fetch_add(1, Ordering::Relaxed);
        }
        Timing { meter: self.clone(), began: Instant::now() }
    }

    /// A call took so long.
    pub fn record(&self, took: Duration, end: End) {
        let Some(shard) = self.shard() else { return };
        if let Some(bucket) = shard.buckets.get(bucket(took)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        match end {
            End::Good => {}
            End::Deferred => drop(shard.deferred.fetch_add(1, Ordering::Relaxed)),
            End::Error => drop(shard.errors.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// To be called about once a second.
    pub fn sample(&self, now: Instant) {
        let totals = self.totals();
        let mut samples = self.0.samples.lock();
        samples.push_back((now, totals));
        while samples.len() > SAMPLES {
            samples.pop_front();
        }
    }

    /// What the last 10 s were like.
    pub fn recent(&self, now: Instant) -> Recent {
        let totals = self.totals();
        let samples = self.0.samples.lock();
        // The newest one that is old enough; otherwise the oldest.
        let old_enough = |at: &Instant| now.saturating_duration_since(*at) >= WINDOW;
        let since = samples.iter().rev().find(|(at, _)| old_enough(at)).or_else(|| samples.front());
        let Some((at, before)) = since else { return Recent::default() };
        let seconds = now.saturating_duration_since(*at).as_secs_f64().max(0.001);
        let counts: Vec<u64> = totals
            .buckets
            .iter()
            .zip(before.buckets.iter())
            .map(|(now, then)| now.saturating_sub(*then))
            .collect();
        let calls: u64 = counts.iter().sum();
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        Recent {
            per_second: calls as f64 / seconds,
            errors_per_second: rate(totals.errors, before.errors),
            deferred_per_second: rate(totals.deferred, before.deferred),
            in_flight: totals.started.saturating_sub(totals.stopped),
            p50: percentile(&counts, calls, 50),
            p99: percentile(&counts, calls, 99),
        }
    }

    fn totals(&self) -> Totals {
        let mut totals =
            Totals { started: 0, stopped: 0, errors: 0, deferred: 0, buckets: Box::new([0; BUCKETS]) };
        for shard in &self.0.shards {
            // Ends first, so that what is under way is never counted below what it is.
            totals.stopped += shard.stopped.load(Ordering::Relaxed);
            totals.errors += shard.errors.load(Ordering::Relaxed);
            totals.deferred += shard.deferred.load(Ordering::Relaxed);
            for (sum, bucket) in totals.buckets.iter_mut().zip(&shard.buckets) {
                *sum += bucket.load(Ordering::Relaxed);
            }
        }
        totals.started = self.0.shards.iter().map(|shard| shard.started.load(Ordering::Relaxed)).sum();
        totals
    }

    fn shard(&self) -> Option<&Shard> {
        self.0.shards.get(own_shard())
    }
}

impl Timing {
    /// The call ended now.
    pub fn end(self, end: End) {
        self.meter.record(self.began.elapsed(), end);
    }
}

impl Drop for Timing {
    fn drop(&mut self) {
        if let Some(shard) = self.meter.shard() {
            shard.stopped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// This thread's shard, given out in turn.
fn own_shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    OWN.with(|own| {
        if own.get() == usize::MAX {
            own.set(NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS);
        }
        own.get()
    })
}

fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
    let octave = micros.ilog2() as usize;
    // The two bits behind the leading one.
    let quarter = if octave >= 2 { (micros >> (octave - 2)) & 3 } else { (micros << (2 - octave)) & 3 };
    (4 * octave + quarter as usize).min(BUCKETS - 1)
}

/// The middle of a bucket.
fn middle(bucket: usize) -> Duration {
    let base = 2_f64.powi((bucket / 4) as i32);
    Duration::from_secs_f64(base * (1.0 + (bucket % 4) as f64 / 4.0 + 0.125) / 1e6)
}

fn percentile(counts: &[u64], calls: u64, percent: u64) -> Option<Duration> {
    let wanted = (calls * percent).div_ceil(100).max(1);
    let mut seen = 0;
    counts
        .iter()
        .position(|count| {
            seen += count;
            seen >= wanted && calls > 0
        })
        .map(middle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_rise_and_hold_what_falls_into_them() {
        let mut last = 0;
        for micros in 1..100_000_u64 {
            let at = bucket(Duration::from_micros(micros));
            assert!(at >= last, "{micros}");
            last = at;
            if micros >= 8 {
                let middle = middle(at).as_secs_f64() * 1e6;
                assert!((middle / micros as f64 - 1.0).abs() < 0.14, "{micros}: {middle}");
            }
        }
        assert_eq!(bucket(Duration::ZERO), 0);
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn only_the_window_counts() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let meter = Meter::new(start);
        assert_eq!(meter.recent(at(1)), Recent::default());
        for second in 1..=30 {
            for _ in 0..99 {
                meter.record(Duration::from_millis(1), End::Good);
            }
            let end = if second > 20 { End::Error } else { End::Deferred };
            meter.record(Duration::from_millis(100), end);
            meter.sample(at(second));
        }
        let recent = meter.recent(at(30));
        assert!((recent.per_second - 100.0).abs() < 0.1, "{recent:?}");
        assert!((recent.errors_per_second - 1.0).abs() < 0.01 && recent.deferred_per_second == 0.0);
        let (p50, p99) = (recent.p50.unwrap().as_secs_f64(), recent.p99.unwrap().as_secs_f64());
        assert!((0.000_9..0.001_2).contains(&p50) && (0.000_9..0.001_2).contains(&p99), "{recent:?}");
        // Nothing more happens.
        for second in 31..=41 {
            meter.sample(at(second));
        }
        assert_eq!(meter.recent(at(41)), Recent::default());
        assert!(meter.0.samples.lock().len() <= SAMPLES);
    }

    #[test]
    fn what_is_under_way_is_counted_until_it_ends_or_is_dropped() {
        let start = Instant::now();
        let meter = Meter::new(start);
        let (one, two) = (meter.begin(), meter.begin());
        assert_eq!(meter.recent(start).in_flight, 2);
        one.end(End::Good);
        assert_eq!(meter.recent(start).in_flight, 1);
        let other = std::thread::spawn(move || drop(two));
        other.join().unwrap();
        let recent = meter.recent(start + Duration::from_secs(1));
        assert_eq!((recent.in_flight, recent.per_second), (0, 1.0));
    }
}
