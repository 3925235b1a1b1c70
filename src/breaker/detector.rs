//! Judges a backend by the age of its calls: pure arithmetic over the [`Window`], driven by `tick(now)`.
//!
//! A call is slow when its age reaches `slow_after`, whether or not it ends; bad when it failed; otherwise
//! fast. **All verdicts of a bucket are given together**, when its youngest call has reached that age: those
//! that ended well are fast, the rest is slow. Fast verdicts at completion would run ahead of the slow ones
//! of the same burst, and trip a healthy store.
//!
//! Two rules read the verdicts:
//! - **Stall**: a call has been in flight for `stall_after`, and none has ended in that time. Covers the
//!   serial writer (one call is one verdict), low traffic, and the very last call.
//! - **Partial slowness**: the paced [`Cusum`].

use std::collections::VecDeque;
use std::time::Duration;

use super::ages::Ages;
use super::cusum::Cusum;
use super::window::Window;

/// The width of a start bucket, and the watchdog's period.
pub const BUCKET: Duration = Duration::from_millis(25);

/// When a call is too old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// A call of this age is slow.
    pub slow_after: Duration,
    /// A call of this age, with none ended meanwhile, trips at once.
    pub stall_after: Duration,
}

impl Timing {
    /// How many buckets must be remembered to judge by this timing.
    pub fn buckets(&self) -> u32 {
        let longest = self.slow_after.max(self.stall_after);
        // Two for the bucket that fills and the one that just ended, two to spare.
        (longest.as_millis() / BUCKET.as_millis()).min(4_000) as u32 + 4
    }
}

/// Why the detector would trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// The stall rule.
    Stall,
    /// The CUSUM.
    Slowness,
}

/// What one tick found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Finding {
    /// Verdicts given by this tick: fast.
    pub fast: u64,
    /// Slow or bad.
    pub slow: u64,
    /// Calls began since the last tick.
    pub active: bool,
    /// Calls in flight, older than the running bucket.
    pub in_flight: u64,
    /// Age of the oldest of them (at least; bucket resolution).
    pub oldest: Option<Duration>,
    /// Why it would trip.
    pub alarm: Option<Alarm>,
}

#[derive(Debug)]
struct Ended {
    bucket: u32,
    at: Duration,
    done: u64,
    judged: bool,
}

/// The judge of one scope. One bucket of work a tick for each bucket with calls in it, whatever the number
/// of calls.
#[derive(Debug)]
pub struct Detector {
    timing: Timing,
    cusum: Cusum,
    ages: Ages,
    /// Ended buckets that have calls in flight or verdicts to give, oldest first; at most the ring's size.
    live: VecDeque<Ended>,
    began: Duration,
    last_end: Duration,
    /// Calls of this generation that left the ring in flight, and since when the oldest of them is out.
    gone: u64,
    gone_at: Duration,
    late: u64,
    /// Calls of earlier generations that were in flight when theirs ended.
    written_off: u64,
    /// Calls that are still out, but with a backend that has been replaced.
    forgiven: u64,
    /// Verdicts since the beginning: fast, slow or bad.
    judged: (u64, u64),
}

impl Detector {
    /// A detector whose first bucket begins at `now`.
    pub fn new(timing: Timing, now: Duration) -> Self {
        Self {
            timing,
            cusum: Cusum::new(now),
            ages: Ages::default(),
            live: VecDeque::new(),
            began: now,
            last_end: now,
            gone: 0,
            gone_at: now,
            late: 0,
            written_off: 0,
            forgiven: 0,
            judged: (0, 0),
        }
    }

    /// The evidence for partial slowness.
    pub fn cusum(&self) -> &Cusum {
        &self.cusum
    }

    /// Upper bound of the 99th percentile of the ages of calls, in steps of a bucket, over the last seconds.
    pub fn p99(&self) -> Duration {
        self.ages.p99()
    }

    /// When a call was last seen to end.
    pub fn last_end(&self) -> Duration {
        self.last_end
    }

    /// Calls of earlier generations that have not come back.
    pub fn hung(&self, window: &Window) -> u64 {
        self.out(window).saturating_sub(self.forgiven)
    }

    fn out(&self, window: &Window) -> u64 {
        let (outdated, returned) = window.written_off();
        (self.written_off + outdated).saturating_sub(returned)
    }

    /// Verdicts since the beginning: fast, slow or bad.
    pub fn judged(&self) -> (u64, u64) {
        self.judged
    }

    /// The backend has been replaced: what is still out is with the old one, and says nothing of the new. When
    /// such a call comes back later, it hides one that hangs in the new backend from [`hung`](Self::hung); that
    /// costs one probe that expires.
    pub fn forgive(&mut self, now: Duration, window: &Window, passes: bool) {
        self.next_generation(now, window, passes);
        self.forgiven = self.out(window);
    }

    /// Judges what has happened up to `now` (a clock that never goes back). `None`: the running bucket is
    /// not over yet, or cannot be ended just now. Bounded by the number of buckets.
    pub fn tick(&mut self, now: Duration, window: &Window) -> Option<Finding> {
        let passed = now.saturating_sub(self.began);
        if passed < BUCKET {
            return None;
        }
        let mut finding = Finding { active: self.roll(now, window)?, ..Finding::default() };
        let mut ended = false;
        self.ages.fade(passed);
        let (timing, ages) = (self.timing, &mut self.ages);
        self.live.retain_mut(|bucket| {
            let counts = window.read(bucket.bucket);
            let age = now.saturating_sub(bucket.at);
            let done = counts.good + counts.bad;
            if done > bucket.done {
                ages.record(age, done - bucket.done);
                bucket.done = done;
                ended = true;
            }
            let open = counts.open();
            if !bucket.judged && age >= timing.slow_after {
                bucket.judged = true;
                finding.fast += counts.good;
                finding.slow += counts.bad + open;
            }
            if open > 0 {
                finding.in_flight += open;
                finding.oldest.get_or_insert(age);
            }
            open > 0 || !bucket.judged
        });
        let late = window.late();
        ended |= late != self.late;
        self.late = late;
        let gone = self.gone.saturating_sub(late);
        if gone > 0 {
            finding.in_flight += gone;
            finding.oldest = Some(now.saturating_sub(self.gone_at));
        } else {
            self.gone_at = now;
        }
        if ended {
            self.last_end = now;
        }
        self.ages.in_flight(finding.oldest, finding.slow);
        self.judged.0 += finding.fast;
        self.judged.1 += finding.slow;
        // Those that came back need no forgiving.
        self.forgiven = self.forgiven.min(self.out(window));
        if self.cusum.update(now, passed, finding.fast, finding.slow) {
            finding.alarm = Some(Alarm::Slowness);
        }
        let stalled = |age: Duration| age >= timing.stall_after;
        if finding.oldest.is_some_and(stalled) && stalled(now.saturating_sub(self.last_end)) {
            finding.alarm = Some(Alarm::Stall);
        }
        Some(finding)
    }

    /// Ends the running bucket; true when calls began in it.
    fn roll(&mut self, now: Duration, window: &Window) -> Option<bool> {
        let bucket = window.bucket();
        let left = window.roll()?;
        self.began = now;
        let oldest = window.bucket().wrapping_sub(window.slots());
        while self.live.front().is_some_and(|ended| ended.bucket == oldest) {
            let at = self.live.pop_front().map_or(now, |ended| ended.at);
            if left > 0 && self.gone <= self.late {
                self.gone_at = at;
            }
        }
        self.gone += left;
        let active = window.read(bucket).begun > 0;
        if active {
            self.live.push_back(Ended { bucket, at: now, done: 0, judged: false });
        }
        Some(active)
    }

    /// Forgets all evidence and starts the next generation: calls in flight are written off, and what
    /// becomes of them changes nothing here.
    pub fn next_generation(&mut self, now: Duration, window: &Window, passes: bool) {
        let (open, late) = window.next_generation(passes);
        // A call that ended while its slot was taken away is in both counts.
        self.written_off += (open + self.gone).saturating_sub(late);
        self.cusum = Cusum::new(now);
        self.live.clear();
        self.began = now;
        self.last_end = now;
        self.gone = 0;
        self.gone_at = now;
        self.late = 0;
    }
}
