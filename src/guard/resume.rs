//! Slow start after holds: what they had kept waiting is applied at a rising rate, never as a flood. By the same
//! rules as after a trip ([`SlowStart`]), but only for the lanes in which something was let go: nothing was wrong
//! with the store, so that nobody else has to wait.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::breaker::{Pace, SlowStart};
use crate::model::Site;

/// How often a rate is looked at.
const TICK: Duration = Duration::from_millis(25);

/// Slow starts of single sites at once. What is let go beyond shares the one of the whole store.
const SITES: usize = 1_000;

/// So few entries wait also in a lane that has caught up.
const NO_BACKLOG: usize = 256;

/// The slow starts under way: of a site, or of the whole store.
#[derive(Debug, Default)]
pub(super) struct Resumes {
    /// Whether there are any, so that the usual turn takes no lock.
    any: AtomicBool,
    starts: Mutex<BTreeMap<Option<Site>, Resume>>,
}

#[derive(Debug)]
struct Resume {
    /// Entries let go that have not been taken yet, by lane.
    lanes: HashMap<Site, u64>,
    began: Instant,
    ticked: Instant,
    /// Slow verdicts up to the last tick.
    slow: u64,
    start: SlowStart,
}

/// What a lane that wants a turn says of itself, and what else counts.
pub(super) struct Asked<'a> {
    /// Whose lane.
    pub site: &'a Site,
    /// Entries that wait in it.
    pub waiting: usize,
    /// When it asks.
    pub now: Instant,
    /// What operators say of the pace of a site, or of all.
    pub pace: &'a dyn Fn(Option<&Site>) -> Pace,
    /// Slow verdicts of the store's breaker so far.
    pub slow: &'a dyn Fn() -> u64,
}

impl Resumes {
    /// Begins one for what was `freed`: lanes, and how many entries of each. Of a site that has one the rate begins
    /// anew.
    pub fn begin(&self, site: Option<&Site>, freed: &[(Site, u64)], slow: u64, now: Instant) {
        if freed.is_empty() {
            return;
        }
        let mut starts = self.starts.lock();
        let room = starts.contains_key(&site.cloned()) || starts.len() < SITES;
        let key = site.filter(|_| room).cloned();
        let mut lanes = starts.remove(&key).map(|known| known.lanes).unwrap_or_default();
        for (lane, entries) in freed {
            *lanes.entry(lane.clone()).or_default() += entries;
        }
        let start = SlowStart::new(Duration::ZERO);
        starts.insert(key, Resume { lanes, began: now, ticked: now, slow, start });
        self.any.store(true, Ordering::Release);
    }

    /// How many of at most `most` entries a turn may take; or when to ask again.
    pub fn turn(&self, asked: &Asked<'_>, most: u32) -> Result<u32, Duration> {
        if !self.any.load(Ordering::Acquire) {
            return Ok(most);
        }
        let mut starts = self.starts.lock();
        starts.retain(|scope, resume| {
            resume.caught_up(asked.site, asked.waiting);
            !resume.lanes.is_empty() && !resume.tick(asked, (asked.pace)(scope.as_ref()))
        });
        self.any.store(!starts.is_empty(), Ordering::Release);
        let mut entries = most;
        for (scope, resume) in starts.iter().filter(|(_, resume)| resume.lanes.contains_key(asked.site)) {
            let pace = (asked.pace)(scope.as_ref());
            // Tried only: what is not taken in the end must not be paid for.
            resume.start.clone().take(1, pace)?;
            entries = entries.min(resume.start.turn(pace));
        }
        Ok(entries)
    }

    /// A turn of so many entries has begun.
    pub fn charge(&self, site: &Site, entries: u32, pace: impl Fn(Option<&Site>) -> Pace) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        for (scope, resume) in self.starts.lock().iter_mut() {
            if let Some(left) = resume.lanes.get_mut(site) {
                *left = left.saturating_sub(u64::from(entries));
                // It has just been let through.
                let _ = resume.start.take(entries, pace(scope.as_ref()));
            }
        }
    }

    /// Entries a second that the lane of a site, or those of all together, may have at present; none: no limit.
    pub fn rate(&self, site: Option<&Site>, pace: impl Fn(Option<&Site>) -> Pace) -> Option<f64> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let starts = self.starts.lock();
        let concerns = |scope: &Option<Site>, resume: &Resume| match site {
            None => scope.is_none(),
            Some(site) => resume.lanes.contains_key(site),
        };
        let concerned = starts.iter().filter(|(scope, resume)| concerns(scope, resume));
        concerned.map(|(scope, resume)| resume.start.rate(pace(scope.as_ref()))).reduce(f64::min)
    }

    /// Whether anything is being let in slowly.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }
}

impl Resume {
    /// Of a lane nothing is left of what was let go, nor of what has come behind it.
    fn caught_up(&mut self, site: &Site, waiting: usize) {
        if waiting <= NO_BACKLOG && self.lanes.get(site) == Some(&0) {
            self.lanes.remove(site);
        }
    }

    /// Whether it is over.
    fn tick(&mut self, asked: &Asked<'_>, pace: Pace) -> bool {
        let passed = asked.now.saturating_duration_since(self.ticked);
        if passed < TICK {
            return false;
        }
        self.ticked = asked.now;
        let slow = (asked.slow)();
        // Breakers of sites come and go, and their counts with them.
        let new = slow.saturating_sub(self.slow);
        self.slow = slow;
        let since = asked.now.saturating_duration_since(self.began);
        self.start.tick(since, passed, new, None, pace)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Lanes that ask, with a backlog as long as they like.
    struct Bench {
        resumes: Resumes,
        begin: Instant,
        pace: Cell<Pace>,
        slow: Cell<u64>,
    }

    impl Bench {
        fn new() -> Self {
            let (resumes, pace) = (Resumes::default(), Cell::new(Pace::Auto));
            Self { resumes, begin: Instant::now(), pace, slow: Cell::new(0) }
        }

        fn free(&self, scope: Option<&str>, lanes: &[(&str, u64)], after: Duration) {
            let freed: Vec<_> = lanes.iter().map(|(site, entries)| (Site::new(*site), *entries)).collect();
            let scope = scope.map(Site::new);
            self.resumes.begin(scope.as_ref(), &freed, self.slow.get(), self.begin + after);
        }

        fn ask(&self, site: &str, waiting: usize, after: Duration) -> Result<u32, Duration> {
            let site = Site::new(site);
            let asked = Asked {
                site: &site,
                waiting,
                now: self.begin + after,
                pace: &|_| self.pace.get(),
                slow: &|| self.slow.get(),
            };
            let entries = self.resumes.turn(&asked, 256)?;
            self.resumes.charge(&site, entries, |_| self.pace.get());
            Ok(entries)
        }

        /// Entries of `sites` taken meanwhile, asking as lanes do.
        fn taken(&self, sites: &[&str], from: Duration, to: Duration) -> u32 {
            let mut sum = 0;
            let mut now = from;
            while now < to {
                for site in sites {
                    sum += self.ask(site, 100_000, now).unwrap_or(0);
                }
                now += Duration::from_millis(5);
            }
            sum
        }

        fn rate(&self, site: Option<&str>) -> Option<f64> {
            self.resumes.rate(site.map(Site::new).as_ref(), |_| self.pace.get())
        }
    }

    #[test]
    fn the_rate_rises_until_there_is_no_limit_and_others_have_none() {
        let bench = Bench::new();
        assert_eq!(bench.ask("a", 9, Duration::ZERO), Ok(256));
        bench.free(Some("a"), &[("a", 100_000)], Duration::ZERO);
        // 50 in the first half second, 100 in the second.
        let first = bench.taken(&["a"], Duration::ZERO, SECOND);
        assert!((100..=200).contains(&first), "{first}");
        assert_eq!(bench.ask("b", 100_000, SECOND), Ok(256), "nothing of it was held");
        let next = bench.taken(&["a"], SECOND, 2 * SECOND);
        assert!((400..=800).contains(&next), "{next}");
        bench.taken(&["a"], 2 * SECOND, 6 * SECOND);
        assert_eq!((bench.ask("a", 100_000, 6 * SECOND), bench.resumes.any()), (Ok(256), false));
    }

    #[test]
    fn what_was_let_go_together_shares_one_rate_and_lanes_without_any_are_free() {
        let bench = Bench::new();
        bench.free(None, &[("a", 1_000), ("b", 1_000)], Duration::ZERO);
        let both = bench.taken(&["a", "b"], Duration::ZERO, SECOND);
        assert!((100..=200).contains(&both), "{both}");
        assert_eq!(bench.ask("live", 100_000, SECOND), Ok(256));
        assert!(bench.rate(None).is_some() && bench.rate(Some("a")) == bench.rate(None));
        assert_eq!(bench.rate(Some("live")), None);
    }

    #[test]
    fn a_lane_is_free_when_it_has_caught_up() {
        let bench = Bench::new();
        bench.free(Some("a"), &[("a", 3)], Duration::ZERO);
        let mut now = Duration::ZERO;
        let mut taken = 0;
        while taken < 3 {
            taken += bench.ask("a", 1_000, now).unwrap_or(0);
            now += TICK;
        }
        assert!(
            bench.ask("a", 1_000, now).is_err_and(|again| again < SECOND),
            "its new writes queue behind it"
        );
        assert_eq!(bench.ask("a", 5, now), Ok(256), "and none waits any more");
        assert!(!bench.resumes.any());
    }

    #[test]
    fn slow_verdicts_halve_it() {
        let bench = Bench::new();
        bench.free(Some("a"), &[("a", 10_000)], Duration::ZERO);
        for n in 1..40 {
            bench.slow.set(u64::from(n));
            let _ = bench.ask("a", 10_000, TICK * n);
        }
        assert!(bench.rate(Some("a")).unwrap() < 20.0);
    }

    #[test]
    fn a_pause_is_no_time_in_which_the_rate_rises_and_a_set_rate_is_that() {
        let bench = Bench::new();
        bench.free(Some("a"), &[("a", 1_000_000)], Duration::ZERO);
        bench.pace.set(Pace::Paused);
        assert_eq!(bench.taken(&["a"], Duration::ZERO, 10 * SECOND), 0);
        bench.pace.set(Pace::Auto);
        let first = bench.taken(&["a"], 10 * SECOND, 11 * SECOND);
        assert!((100..=250).contains(&first), "{first}");
        bench.pace.set(Pace::Fixed(2_000));
        let set = bench.taken(&["a"], 11 * SECOND, 12 * SECOND);
        assert!((1_800..=2_300).contains(&set), "{set}");
    }

    #[test]
    fn they_are_bounded_and_nothing_is_let_go_as_a_flood() {
        let bench = Bench::new();
        for n in 0..2 * SITES {
            let site = format!("s{n}");
            bench.free(Some(&site), &[(&site, 1_000)], Duration::ZERO);
            bench.free(Some(&site), &[(&site, 1_000)], Duration::ZERO);
        }
        assert_eq!(bench.resumes.starts.lock().len(), SITES + 1);
        for site in ["s0", "s1999"] {
            assert!(bench.ask(site, 2_000, TICK).is_ok_and(|entries| entries <= 20));
        }
    }
}
