//! Which refused entries the store has: enough of each, in memory, to answer for it and to find those of
//! one user.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::RwLock;

use crate::command::WriteState;
use crate::command::operate::RefusedQuery;
use crate::model::{Entry, EventTime, Refusal, Site, codec};
use crate::store::RefusedRecord;

/// The refused entries of all sites.
#[derive(Debug, Default)]
pub struct RefusedList(RwLock<State>);

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<(Site, u64), Summary>,
    /// Bytes of the entries that are kept whole.
    memory: u64,
    /// Those that only retries ask for, oldest first.
    unlisted: VecDeque<(EventTime, Site, u64)>,
}

#[derive(Clone, Debug)]
struct Summary {
    bytes: u64,
    user: Option<u64>,
    reason: Refusal,
    accepted_at: EventTime,
    /// When it came onto the list, or was found there at the start.
    refused_at: EventTime,
    listed: bool,
    /// The entry, while there is room for it.
    entry: Option<Arc<Entry>>,
    /// Whether an operator has decided on it, and the decision is on its way.
    claimed: bool,
}

/// An entry as operators see it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The tenant.
    pub site: Site,
    /// Its number in the journal.
    pub position: u64,
    /// The entry, if memory has it.
    pub entry: Option<Arc<Entry>>,
    /// Why it was refused.
    pub reason: Refusal,
    /// When it was accepted.
    pub accepted_at: EventTime,
    /// When it came onto the list, or was found there at the start.
    pub refused_at: EventTime,
}

/// Bytes of entries kept in memory. What is beyond is in the store.
const MEMORY: u64 = 64 << 20;

impl State {
    fn forget(&mut self, site: &Site, position: u64) -> Option<Summary> {
        let gone = self.entries.remove(&(site.clone(), position))?;
        if gone.entry.is_some() {
            self.memory = self.memory.saturating_sub(gone.bytes);
        }
        Some(gone)
    }
}

impl RefusedList {
    /// Takes a record in at `now`; answers the bytes by which the list has grown.
    pub fn add(&self, record: &RefusedRecord, now: EventTime) -> u64 {
        let bytes = codec::encode_entry(&record.entry).len() as u64;
        let site = record.entry.site.clone();
        let mut state = self.0.write();
        let before = state.forget(&site, record.position);
        let keep = record.listed && state.memory + bytes <= MEMORY;
        let summary = Summary {
            bytes,
            user: record.entry.profile_key().map(|key| key.hash64()),
            reason: record.reason.clone(),
            accepted_at: record.accepted_at,
            refused_at: now,
            listed: record.listed,
            entry: keep.then(|| Arc::new(record.entry.clone())),
            claimed: before.as_ref().is_some_and(|before| before.claimed),
        };
        if keep {
            state.memory += bytes;
        }
        if !record.listed {
            state.unlisted.push_back((now, site.clone(), record.position));
        }
        state.entries.insert((site, record.position), summary);
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
        self.0.write().forget(site, position).map_or(0, |gone| gone.bytes)
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

    /// What was taken out at `now` could not be forgotten: it is taken out again when that is as long ago as for what
    /// was taken in now.
    pub fn put_off(&self, site: &Site, positions: &[u64], now: EventTime) {
        let mut state = self.0.write();
        state.unlisted.extend(positions.iter().map(|position| (now, site.clone(), *position)));
    }

    /// Some of the entries that operators see and that nobody has decided on, by site and position.
    pub fn list(&self, query: &RefusedQuery) -> Vec<Listed> {
        let state = self.0.read();
        let first = match (&query.after, &query.site) {
            (Some((site, position)), _) => (site.clone(), position.saturating_add(1)),
            (None, Some(site)) => (site.clone(), 0),
            (None, None) => (Site::new(""), 0),
        };
        let wanted = |((site, _), summary): &(&(Site, u64), &Summary)| {
            query.site.as_ref().is_none_or(|wanted| wanted == site)
                && query.user.is_none_or(|user| summary.user == Some(user))
                && summary.listed
                && !summary.claimed
        };
        let listed = |((site, position), summary): (&(Site, u64), &Summary)| Listed {
            site: site.clone(),
            position: *position,
            entry: summary.entry.clone(),
            reason: summary.reason.clone(),
            accepted_at: summary.accepted_at,
            refused_at: summary.refused_at,
        };
        state.entries.range(first..).filter(wanted).take(query.limit).map(listed).collect()
    }

    /// The entry at `position`, if memory has it, and when it was accepted.
    pub fn entry(&self, site: &Site, position: u64) -> Option<(Option<Arc<Entry>>, EventTime)> {
        let state = self.0.read();
        let summary = state.entries.get(&(site.clone(), position))?;
        Some((summary.entry.clone(), summary.accepted_at))
    }

    /// Takes an entry off what operators see, because one has decided on it; whether nobody had before.
    pub fn claim(&self, site: &Site, position: u64) -> bool {
        let mut state = self.0.write();
        match state.entries.get_mut(&(site.clone(), position)) {
            Some(summary) if summary.listed && !summary.claimed => {
                summary.claimed = true;
                true
            }
            _ => false,
        }
    }

    /// The decision came to nothing.
    pub fn give_back(&self, site: &Site, position: u64) {
        if let Some(summary) = self.0.write().entries.get_mut(&(site.clone(), position)) {
            summary.claimed = false;
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ChangeKind, Command, ProfileKey, User, Write};

    fn record(site: &str, user: &str, position: u64) -> RefusedRecord {
        let write = Write {
            user: User::new(user),
            request_id: None,
            occurred_at: None,
            if_version: None,
            kind: ChangeKind::Delete,
        };
        RefusedRecord {
            position,
            accepted_at: EventTime(position),
            entry: Entry { site: Site::new(site), command: Command::Write(write) },
            reason: Refusal::ProfileTooLarge,
            listed: true,
        }
    }

    fn all(
        list: &RefusedList,
        site: Option<&str>,
        user: Option<u64>,
        after: Option<(&str, u64)>,
    ) -> Vec<u64> {
        let after = after.map(|(site, position)| (Site::new(site), position));
        let query = RefusedQuery { site: site.map(Site::new), user, after, limit: 10 };
        list.list(&query).into_iter().map(|listed| listed.position).collect()
    }

    #[test]
    fn it_is_listed_by_site_and_position_and_settled_once() {
        let list = RefusedList::default();
        for (site, user, position) in [("b", "u", 1), ("a", "u", 2), ("a", "v", 3), ("a", "u", 4)] {
            assert!(list.add(&record(site, user, position), EventTime(9)) > 0);
        }
        list.add(&RefusedRecord { listed: false, ..record("a", "u", 5) }, EventTime(9));
        assert_eq!(all(&list, None, None, None), [2, 3, 4, 1]);
        assert_eq!(all(&list, Some("a"), None, Some(("a", 2))), [3, 4]);
        let user = ProfileKey::new(Site::new("a"), User::new("u")).hash64();
        assert_eq!(all(&list, Some("a"), Some(user), None), [2, 4]);
        let a = Site::new("a");
        assert!(list.claim(&a, 2) && !list.claim(&a, 2) && !list.claim(&a, 5) && !list.claim(&a, 99));
        // A replay brings it again, and changes nothing of that.
        list.add(&record("a", "u", 2), EventTime(9));
        assert_eq!(all(&list, Some("a"), None, None), [3, 4]);
        list.give_back(&a, 2);
        assert_eq!(all(&list, Some("a"), None, None), [2, 3, 4]);
        assert!(matches!(list.entry(&a, 2), Some((Some(_), EventTime(2)))));
        assert!(list.remove(&a, 2) > 0 && list.remove(&a, 2) == 0);
        assert_eq!((list.listed_of(&a), list.listed()), (2, 3));
    }

    #[test]
    fn memory_for_entries_comes_back() {
        let list = RefusedList::default();
        for _ in 0..3 {
            list.add(&record("a", "u", 1), EventTime(9));
        }
        assert!(list.0.read().memory > 0);
        list.remove(&Site::new("a"), 1);
        assert_eq!(list.0.read().memory, 0);
    }
}
