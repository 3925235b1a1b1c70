//! Slow start after holds: what waited is applied at a rising rate, never as a flood.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::breaker::{Pace, SlowStart};
use crate::kill_switch::Scope;
use crate::model::Site;

/// How often a rate is looked at.
const TICK: Duration = Duration::from_millis(25);

/// A turn that takes this long is slow: the rate is halved.
const SLOW: Duration = Duration::from_millis(250);

/// Slow starts under way at once; with more, the oldest is over.
const LIMIT: usize = 1_000;

/// The slow starts under way.
#[derive(Debug, Default)]
pub struct Resumes {
    /// Whether there are any, so that the usual turn takes no lock.
    any: AtomicBool,
    starts: Mutex<Vec<Resume>>,
}

#[derive(Debug)]
struct Resume {
    scope: Scope,
    began: Instant,
    ticked: Instant,
    slow: u64,
    start: SlowStart,
}

impl Resumes {
    /// Begins one for the lanes of `scope`.
    pub fn begin(&self, scope: Scope, now: Instant) {
        let mut starts = self.starts.lock();
        starts.retain(|resume| resume.scope.site != scope.site);
        if starts.len() >= LIMIT {
            starts.remove(0);
        }
        let start = SlowStart::new(Duration::ZERO);
        starts.push(Resume { scope, began: now, ticked: now, slow: 0, start });
        self.any.store(true, Ordering::Release);
    }

    /// How many of at most `most` entries a turn of `site` may take; or when to ask again.
    pub fn ask(&self, site: &Site, most: usize, now: Instant) -> Result<usize, Duration> {
        if !self.any.load(Ordering::Acquire) {
            return Ok(most);
        }
        let mut starts = self.starts.lock();
        starts.retain_mut(|resume| !resume.tick(now));
        self.any.store(!starts.is_empty(), Ordering::Release);
        let mut entries = most;
        for resume in starts.iter_mut().filter(|resume| resume.scope.concerns(site)) {
            // A tenth of a second's worth, as it is saved up.
            let rate = resume.start.rate(Pace::Auto);
            entries = entries.min(((rate / 10.0) as usize).max(1));
            resume.start.take(entries as u32, Pace::Auto)?;
        }
        Ok(entries)
    }

    /// A turn of `site` has taken so long.
    pub fn took(&self, site: &Site, time: Duration) {
        if time < SLOW || !self.any.load(Ordering::Acquire) {
            return;
        }
        for resume in self.starts.lock().iter_mut().filter(|resume| resume.scope.concerns(site)) {
            resume.slow += 1;
        }
    }
}

impl Resume {
    /// Whether it is over.
    fn tick(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.ticked);
        if passed < TICK {
            return false;
        }
        self.ticked = now;
        let since = now.saturating_duration_since(self.began);
        self.start.tick(since, passed, std::mem::take(&mut self.slow), None, Pace::Auto)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kill_switch::Operations;

    fn scope(site: Option<&str>) -> Scope {
        Scope { site: site.map(Site::new), share: None, operations: Operations::WRITES }
    }

    /// Entries of `site` applied until `end`, asking as a lane does.
    fn applied(resumes: &Resumes, site: &Site, begin: Instant, end: Instant) -> usize {
        let (mut now, mut sum) = (begin, 0);
        while now < end {
            match resumes.ask(site, 256, now) {
                Ok(entries) => sum += entries,
                Err(again) => now += again,
            }
            now += Duration::from_micros(500);
        }
        sum
    }

    #[test]
    fn the_rate_rises_and_then_has_no_limit() {
        let (resumes, site, begin) = (Resumes::default(), Site::new("a"), Instant::now());
        assert_eq!(resumes.ask(&site, 256, begin), Ok(256));
        resumes.begin(scope(Some("a")), begin);
        let second = Duration::from_secs(1);
        // 50 in the first half second, 100 in the second.
        let first = applied(&resumes, &site, begin, begin + second);
        assert!((100..=200).contains(&first), "{first}");
        assert_eq!(resumes.ask(&Site::new("b"), 256, begin + second), Ok(256), "another site");
        let next = applied(&resumes, &site, begin + second, begin + 2 * second);
        assert!((400..=800).contains(&next), "{next}");
        applied(&resumes, &site, begin + 2 * second, begin + 6 * second);
        assert_eq!(resumes.ask(&site, 256, begin + 6 * second), Ok(256));
        assert!(!resumes.any.load(Ordering::Relaxed), "it is over");
    }

    #[test]
    fn slow_turns_halve_it() {
        let (resumes, site, begin) = (Resumes::default(), Site::new("a"), Instant::now());
        resumes.begin(scope(None), begin);
        let mut now = begin;
        for _ in 0..40 {
            now += TICK;
            resumes.took(&site, SLOW);
            let _ = resumes.ask(&site, 256, now);
        }
        let rate = resumes.starts.lock()[0].start.rate(Pace::Auto);
        assert!(rate < 20.0, "{rate}");
    }

    #[test]
    fn one_for_each_scope() {
        let (resumes, begin) = (Resumes::default(), Instant::now());
        for _ in 0..3 {
            resumes.begin(scope(Some("a")), begin);
            resumes.begin(scope(None), begin);
        }
        assert_eq!(resumes.starts.lock().len(), 2);
    }
}
