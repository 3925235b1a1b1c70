//! How fast operators let waiting entries be applied: an upper bound, for one site or for all.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::breaker::Pace;
use crate::model::Site;

/// Sites that can have a pace of their own.
const SITES: usize = 1_000;

/// A paused lane is looked at so often.
const PAUSED: Duration = Duration::from_millis(250);

/// What an operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// At most so many entries a second, at least 1.
    PerSecond(u64),
    /// None.
    Paused,
}

impl Order {
    /// As a slow start has it. What is more than it can say is no limit in effect.
    pub(super) fn pace(self) -> Pace {
        match self {
            Self::Paused => Pace::Paused,
            Self::PerSecond(rate) => Pace::Fixed(u32::try_from(rate).unwrap_or(u32::MAX)),
        }
    }
}

/// An order, with who gave it and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PaceSet {
    /// What.
    pub order: Order,
    /// Why.
    pub reason: String,
    /// Who.
    pub owner: String,
}

/// A pace that cannot be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PaceError {
    /// There are 1,000.
    #[error("{SITES} sites have a pace already; set some of them back to automatic")]
    TooMany,
}

/// Entries that may be applied, saved up for at most a tenth of a second.
#[derive(Debug)]
struct Bucket {
    set: PaceSet,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn new(set: PaceSet, now: Instant) -> Self {
        Self { set, tokens: 1.0, at: now }
    }

    /// How many entries a turn may have now.
    fn turn(&mut self, now: Instant) -> Result<u32, Duration> {
        let Order::PerSecond(rate) = self.set.order else { return Err(PAUSED) };
        let rate = rate.max(1) as f64;
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.tokens = (self.tokens + rate * passed).min((rate / 10.0).max(1.0));
        if self.tokens >= 1.0 {
            Ok(self.tokens as u32)
        } else {
            Err(Duration::from_secs_f64(((1.0 - self.tokens) / rate).clamp(0.001, 1.0)))
        }
    }
}

#[derive(Debug, Default)]
struct State {
    all: Option<Bucket>,
    sites: HashMap<Site, Bucket>,
}

impl State {
    fn of(&mut self, site: &Site) -> impl Iterator<Item = &mut Bucket> {
        self.all.iter_mut().chain(self.sites.get_mut(site))
    }
}

/// All that is set.
#[derive(Debug, Default)]
pub(super) struct Paces {
    any: AtomicBool,
    state: Mutex<State>,
}

impl Paces {
    /// Sets the pace of a site, or of all; `None`: automatic.
    pub fn set(&self, site: Option<Site>, set: Option<PaceSet>, now: Instant) -> Result<(), PaceError> {
        let mut state = self.state.lock();
        let bucket = set.map(|set| Bucket::new(set, now));
        match (site, bucket) {
            (None, bucket) => state.all = bucket,
            (Some(site), None) => drop(state.sites.remove(&site)),
            (Some(site), Some(bucket)) => {
                if state.sites.len() >= SITES && !state.sites.contains_key(&site) {
                    return Err(PaceError::TooMany);
                }
                state.sites.insert(site, bucket);
            }
        }
        self.any.store(state.all.is_some() || !state.sites.is_empty(), Ordering::Release);
        Ok(())
    }

    /// What is set for a site, or for all.
    pub fn get(&self, site: Option<&Site>) -> Option<PaceSet> {
        let state = self.state.lock();
        let bucket = site.map_or(state.all.as_ref(), |site| state.sites.get(site));
        bucket.map(|bucket| bucket.set.clone())
    }

    /// The same as a slow start has it: for a site the lower of its own and that of all.
    pub fn pace(&self, site: Option<&Site>) -> Pace {
        if !self.any.load(Ordering::Acquire) {
            return Pace::Auto;
        }
        let state = self.state.lock();
        let own = site.and_then(|site| state.sites.get(site));
        let orders = state.all.iter().chain(own).map(|bucket| bucket.set.order.pace());
        orders.fold(Pace::Auto, |lowest, pace| match (lowest, pace) {
            (Pace::Paused, _) | (_, Pace::Paused) => Pace::Paused,
            (Pace::Fixed(rate), Pace::Fixed(other)) => Pace::Fixed(rate.min(other)),
            (Pace::Auto, pace) | (pace, Pace::Auto) => pace,
        })
    }

    /// How many entries a turn of `site` may have now: no more than `most`. Otherwise when to ask again.
    pub fn turn(&self, site: &Site, most: u32, now: Instant) -> Result<u32, Duration> {
        if !self.any.load(Ordering::Acquire) {
            return Ok(most);
        }
        let mut state = self.state.lock();
        state.of(site).try_fold(most, |least, bucket| Ok(least.min(bucket.turn(now)?)))
    }

    /// Whether nothing of `site` is to be applied.
    pub fn paused(&self, site: &Site) -> bool {
        self.any.load(Ordering::Acquire)
            && self.state.lock().of(site).any(|bucket| bucket.set.order == Order::Paused)
    }

    /// A turn of so many entries has begun.
    pub fn charge(&self, site: &Site, entries: u32) {
        if self.any.load(Ordering::Acquire) {
            for bucket in self.state.lock().of(site) {
                bucket.tokens -= f64::from(entries);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(order: Order) -> PaceSet {
        PaceSet { order, reason: "drill".into(), owner: "ops".into() }
    }

    /// Entries that get through in a second, asked every millisecond.
    fn in_a_second(paces: &Paces, site: &Site, start: Instant) -> u32 {
        let mut passed = 0;
        for ms in 0..1_000 {
            if let Ok(entries) = paces.turn(site, 256, start + Duration::from_millis(ms)) {
                paces.charge(site, entries);
                passed += entries;
            }
        }
        passed
    }

    #[test]
    fn the_lower_of_two_paces_counts() {
        let (paces, a, b) = (Paces::default(), Site::new("a"), Site::new("b"));
        assert_eq!(paces.turn(&a, 256, Instant::now()), Ok(256));
        let start = Instant::now();
        paces.set(None, Some(to(Order::PerSecond(1_000))), start).unwrap();
        paces.set(Some(a.clone()), Some(to(Order::PerSecond(50))), start).unwrap();
        let slow = in_a_second(&paces, &a, start);
        let fast = in_a_second(&paces, &b, start + Duration::from_secs(1));
        assert!((49..=51).contains(&slow), "{slow}");
        assert!((950..=1_101).contains(&fast), "{fast}");
    }

    #[test]
    fn paused_is_paused_until_it_is_automatic_again() {
        let (paces, a) = (Paces::default(), Site::new("a"));
        paces.set(Some(a.clone()), Some(to(Order::Paused)), Instant::now()).unwrap();
        assert!(paces.paused(&a) && !paces.paused(&Site::new("b")));
        assert_eq!(paces.turn(&a, 256, Instant::now()), Err(PAUSED));
        assert_eq!(paces.get(Some(&a)).map(|set| set.owner), Some("ops".to_owned()));
        paces.set(Some(a.clone()), None, Instant::now()).unwrap();
        assert_eq!(paces.turn(&a, 256, Instant::now()), Ok(256));
        assert_eq!(paces.get(Some(&a)), None);
    }

    #[test]
    fn a_slow_start_hears_the_lower_pace() {
        let (paces, a) = (Paces::default(), Site::new("a"));
        assert_eq!(paces.pace(Some(&a)), Pace::Auto);
        let set =
            |site: Option<&Site>, order| paces.set(site.cloned(), Some(to(order)), Instant::now()).unwrap();
        set(None, Order::PerSecond(1_000));
        set(Some(&a), Order::PerSecond(u64::MAX));
        assert_eq!((paces.pace(Some(&a)), paces.pace(None)), (Pace::Fixed(1_000), Pace::Fixed(1_000)));
        set(Some(&a), Order::PerSecond(50));
        assert_eq!((paces.pace(Some(&a)), paces.pace(None)), (Pace::Fixed(50), Pace::Fixed(1_000)));
        set(None, Order::Paused);
        assert_eq!(paces.pace(Some(&a)), Pace::Paused);
    }

    #[test]
    fn the_sites_with_a_pace_are_bounded() {
        let paces = Paces::default();
        for n in 0..SITES {
            paces.set(Some(Site::new(n.to_string())), Some(to(Order::Paused)), Instant::now()).unwrap();
        }
        let more = paces.set(Some(Site::new("more")), Some(to(Order::Paused)), Instant::now());
        assert_eq!(more, Err(PaceError::TooMany));
        paces.set(Some(Site::new("0")), Some(to(Order::PerSecond(1))), Instant::now()).unwrap();
    }
}
