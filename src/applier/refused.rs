//! Which refused entries the store has: enough of each, in memory, to answer for it and to find those of
//! one user.

use std::collections::{BTreeMap, VecDeque};

use parking_lot::RwLock;

use crate::command::WriteState;
use crate::model::{EventTime, Refusal, Site, codec};
use crate::store::RefusedRecord;

/// The refused entries of all sites.
#[derive(Debug, Default)]
pub struct RefusedList(RwLock<State>);

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<(Site, u64), Summary>,
    /// Those that only retries ask for, oldest first.
    unlisted: VecDeque<(EventTime, Site, u64)>,
}

#[derive(Clone, Debug)]
struct Summary {
    bytes: u64,
    user: Option<u64>,
    reason: Refusal,
    accepted_at: EventTime,
    listed: bool,
}

impl RefusedList {
    /// Takes a record in at `now`; answers the bytes by which the list has grown.
    pub fn add(&self, record: &RefusedRecord, now: EventTime) -> u64 {
        let bytes = codec::encode_entry(&record.entry).len() as u64;
        let summary = Summary {
            bytes,
            user: record.entry.profile_key().map(|key| key.hash64()),
            reason: record.reason.clone(),
            accepted_at: record.accepted_at,
            listed: record.listed,
        };
        let site = record.entry.site.clone();
        let mut state = self.0.write();
        if !record.listed {
            state.unlisted.push_back((now, site.clone(), record.position));
        }
        let before = state.entries.insert((site, record.position), summary);
        bytes.saturating_sub(before.map_or(0, |before| before.bytes))
    }

    /// Puts `other` in the place of this list; answers the bytes of each site.
    pub fn replace(&self, other: Self) -> BTreeMap<Site, u64> {
        let other = other.0.into_inner();
        let mut bytes = BTreeMap::new();
        for ((site, _), summary) in &other.entries {
            *bytes.entry(site.clone()).or_default() += summary.bytes;
        }
        *self.0.write() = other;
        bytes
    }

    /// Forgets a record; answers the bytes by which the list has shrunk.
    pub fn remove(&self, site: &Site, position: u64) -> u64 {
        self.0.write().entries.remove(&(site.clone(), position)).map_or(0, |gone| gone.bytes)
    }

    /// What is known of the entry at `position`.
    pub fn state(&self, site: &Site, position: u64) -> Option<WriteState> {
        self.0.read().entries.get(&(site.clone(), position)).map(|summary| WriteState::Refused {
            reason: summary.reason.clone(),
            accepted_at: summary.accepted_at,
        })
    }

    /// Positions of the refused entries of one user before `position`.
    pub fn of_user(&self, site: &Site, user: u64, position: u64) -> Vec<u64> {
        let state = self.0.read();
        state
            .entries
            .range((site.clone(), 0)..(site.clone(), position))
            .filter(|(_, summary)| summary.user == Some(user))
            .map(|((_, position), _)| *position)
            .collect()
    }

    /// Takes out, by site, up to `limit` of those that only retries ask for and that were taken in before
    /// `before`: they have served.
    pub fn outlived(&self, before: EventTime, limit: usize) -> BTreeMap<Site, Vec<u64>> {
        let mut state = self.0.write();
        let mut outlived: BTreeMap<Site, Vec<u64>> = BTreeMap::new();
        for _ in 0..limit {
            if state.unlisted.front().is_none_or(|(at, ..)| *at >= before) {
                break;
            }
            if let Some((_, site, position)) = state.unlisted.pop_front() {
                outlived.entry(site).or_default().push(position);
            }
        }
        outlived
    }

    /// How many entries of `site` operators see.
    pub fn listed_of(&self, site: &Site) -> u64 {
        let state = self.0.read();
        let of_site = state.entries.range((site.clone(), 0)..=(site.clone(), u64::MAX));
        of_site.filter(|(_, summary)| summary.listed).count() as u64
    }

    /// How many entries operators see.
    pub fn listed(&self) -> usize {
        self.0.read().entries.values().filter(|summary| summary.listed).count()
    }
}
