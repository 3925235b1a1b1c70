//! What waits when a snapshot begins, and which journal segments are kept or copied because of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::waiting::Waiting;
use crate::journal::SegmentInfo;
use crate::sites::{Place, SiteState, Sites};

/// Entries that are taken out of a lane with its lock held once: a few hundred microseconds.
const AT_ONCE: usize = 10_000;

/// Carried segments shorter than this are carried again rather than kept, so that there are never many.
const SMALL: u64 = 16 << 20;

/// A waiting entry, and whose it is.
#[derive(Clone, Copy, Debug)]
struct Waiter {
    place: Place,
    site: u32,
}

/// The entries before a snapshot's start that wait, in order of position.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    sites: Vec<Arc<SiteState>>,
    entries: Vec<Waiter>,
}

impl Waiters {
    /// Looks into all lanes. All positions before `start` must be known to them.
    pub fn of(sites: &Sites, start: u64) -> Self {
        let mut found = Self { sites: sites.all(), entries: Vec::new() };
        for (index, site) in found.sites.iter().enumerate() {
            let mut from = 0;
            loop {
                // An entry that is applied between two parts is in the store before the scan begins.
                let part = site.lane.lock().waiting_between(from, start, AT_ONCE);
                let Some(last) = part.last() else { break };
                from = last.position + 1;
                found.entries.extend(part.iter().map(|place| Waiter { place: *place, site: index as u32 }));
            }
        }
        found.entries.sort_unstable_by_key(|waiter| waiter.place.position);
        found
    }

    /// Where they are, in order.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.entries.iter().map(|waiter| &waiter.place)
    }

    /// The set of their positions.
    pub fn set(&self, start: u64) -> Waiting {
        Waiting::new(start, self.places().map(|place| place.position))
    }

    /// Those of `segments` before `start` that stay as they are: at least half of their bytes wait.
    pub fn keep(&self, segments: &[SegmentInfo], start: u64) -> BTreeSet<u64> {
        let mut keep = BTreeSet::new();
        for segment in segments.iter().filter(|segment| segment.first_position < start) {
            let waiting: u64 = self.within(segment).map(|place| u64::from(place.bytes)).sum();
            let small = segment.detached && segment.end < SMALL;
            if waiting * 2 >= segment.end && !small {
                keep.insert(segment.number);
            }
        }
        keep
    }

    /// The waiting entries that lie in `segment`.
    pub fn within(&self, segment: &SegmentInfo) -> impl Iterator<Item = &Place> {
        let from = self.entries.partition_point(|w| w.place.position < segment.first_position);
        let last = segment.last_position;
        self.entries.iter().skip(from).map(|w| &w.place).take_while(move |place| place.position <= last)
    }

    /// Tells the lanes where entries have been carried to; `places` is in order of position.
    pub fn repoint(&self, places: &[(u64, u32)]) {
        let mut by_site: Vec<Vec<(u64, u32)>> = vec![Vec::new(); self.sites.len()];
        let mut entries = self.entries.iter();
        for place in places {
            let waiter = entries.by_ref().find(|waiter| waiter.place.position == place.0);
            if let Some(of_site) = waiter.and_then(|waiter| by_site.get_mut(waiter.site as usize)) {
                of_site.push(*place);
            }
        }
        for (site, places) in self.sites.iter().zip(by_site) {
            for part in places.chunks(AT_ONCE) {
                let mut lane = site.lane.lock();
                for (position, offset) in part {
                    lane.repoint(*position, *offset);
                }
            }
        }
    }
}
