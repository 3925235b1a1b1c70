//! The profile cache: records as the store has them, and the knowledge that there is none.
//!
//! A commit puts what it wrote; a reader fills in what it loaded, unless a commit came between its load
//! and its fill. That is what the stamps are for: one per group of users, moved on by every commit.

use std::sync::Arc;

use parking_lot::Mutex;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::model::{Profile, ProfileKey, Record, Value};

/// Groups of users that share a stamp. A power of two.
const GROUPS: usize = 4096;

/// Records by key, bounded by their size in memory.
#[derive(Debug)]
pub struct ProfileCache {
    records: Cache<ProfileKey, Option<Arc<Record>>, BySize>,
    stamps: Vec<Mutex<u64>>,
}

/// Where a user's group stood before a load.
#[derive(Clone, Copy, Debug)]
pub struct Stamp(u64);

impl ProfileCache {
    /// An empty cache of `bytes` bytes.
    pub fn new(bytes: u64) -> Self {
        let expected = (bytes / 512).max(1024) as usize;
        Self {
            records: Cache::with_weighter(expected, bytes, BySize),
            stamps: (0..GROUPS).map(|_| Mutex::new(0)).collect(),
        }
    }

    /// What is known of `key`: `Some(None)` is the knowledge that the store has nothing.
    pub fn get(&self, key: &ProfileKey) -> Option<Option<Arc<Record>>> {
        self.records.get(key)
    }

    /// To be called before a load, for [`Self::fill`].
    pub fn stamp(&self, user: u64) -> Stamp {
        Stamp(self.group(user).map_or(0, |group| *group.lock()))
    }

    /// Keeps what was loaded, if no commit has come between.
    pub fn fill(&self, user: u64, stamp: Stamp, key: ProfileKey, record: Option<Arc<Record>>) {
        if let Some(group) = self.group(user) {
            let group = group.lock();
            if *group == stamp.0 {
                self.records.insert(key, record);
            }
        }
    }

    /// Keeps what was committed.
    pub fn put(&self, user: u64, key: ProfileKey, record: Option<Arc<Record>>) {
        if let Some(group) = self.group(user) {
            let mut group = group.lock();
            *group += 1;
            self.records.insert(key, record);
        }
    }

    /// Forgets `key`: whether its commit happened is not known.
    pub fn forget(&self, user: u64, key: &ProfileKey) {
        if let Some(group) = self.group(user) {
            let mut group = group.lock();
            *group += 1;
            self.records.remove(key);
        }
    }

    /// Forgets everything, fills included that are under way: there is another store.
    pub fn clear(&self) {
        for group in &self.stamps {
            *group.lock() += 1;
        }
        // After the stamps: a fill that was let through before is cleared with the rest.
        self.records.clear();
    }

    /// Bytes in use.
    pub fn bytes(&self) -> u64 {
        self.records.weight()
    }

    fn group(&self, user: u64) -> Option<&Mutex<u64>> {
        self.stamps.get(user as usize % GROUPS)
    }
}

/// Weighs a record by about what it takes in memory.
#[derive(Clone, Debug)]
struct BySize;

impl Weighter<ProfileKey, Option<Arc<Record>>> for BySize {
    fn weight(&self, key: &ProfileKey, record: &Option<Arc<Record>>) -> u64 {
        // Slot and bookkeeping of the cache, the user's name with its counts.
        let fixed = 96 + key.user.as_str().len();
        let content = match record.as_deref() {
            None => 0,
            Some(Record::Deleted(grave)) => 160 + grave.recent.capacity() * 32,
            Some(Record::Live(profile)) => size_of(profile),
        };
        (fixed + content) as u64
    }
}

fn size_of(profile: &Profile) -> usize {
    // An allocation costs about 16 bytes beyond its content.
    const ALLOCATION: usize = 16;
    let attributes: usize =
        profile.attributes.iter().map(|a| a.name.len() + ALLOCATION + value_size(&a.value, ALLOCATION)).sum();
    let unset: usize = profile.unset.iter().map(|u| u.name.len() + ALLOCATION).sum();
    std::mem::size_of::<Profile>()
        + 3 * ALLOCATION
        + attributes
        + unset
        + profile.attributes.capacity() * std::mem::size_of::<crate::model::Attribute>()
        + profile.unset.capacity() * std::mem::size_of::<crate::model::Unset>()
        + profile.recent.capacity() * std::mem::size_of::<crate::model::RecentRequest>()
}

fn value_size(value: &Value, allocation: usize) -> usize {
    match value {
        Value::String(text) => text.len() + allocation,
        Value::List(items) => {
            items.iter().map(|item| item.len() + allocation + 16).sum::<usize>() + allocation
        }
        Value::Number(_) | Value::Bool(_) | Value::Time(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Applied, EventTime, Grave, Site, User};

    fn record(version: u64) -> Arc<Record> {
        Arc::new(Record::Deleted(Grave {
            version,
            occurred_at: EventTime::MIN,
            accepted_at: EventTime::MIN,
            applied: Applied::default(),
            recent: Vec::new(),
        }))
    }

    #[test]
    fn a_fill_that_a_commit_overtook_is_dropped() {
        let cache = ProfileCache::new(1 << 20);
        let key = ProfileKey::new(Site::new("s"), User::new("u"));
        let user = key.hash64();
        let before = cache.stamp(user);
        cache.put(user, key.clone(), Some(record(2)));
        cache.fill(user, before, key.clone(), Some(record(1)));
        assert_eq!(cache.get(&key), Some(Some(record(2))));
        let now = cache.stamp(user);
        cache.forget(user, &key);
        cache.fill(user, now, key.clone(), Some(record(2)));
        assert_eq!(cache.get(&key), None);
        cache.fill(user, cache.stamp(user), key.clone(), None);
        assert_eq!(cache.get(&key), Some(None));
    }

    #[test]
    fn nothing_survives_a_clear_also_no_fill_under_way() {
        let cache = ProfileCache::new(1 << 20);
        let key = ProfileKey::new(Site::new("s"), User::new("u"));
        let user = key.hash64();
        cache.put(user, key.clone(), Some(record(2)));
        let before = cache.stamp(user);
        cache.clear();
        cache.fill(user, before, key.clone(), Some(record(1)));
        assert_eq!(cache.get(&key), None);
    }

    #[test]
    fn it_stays_within_its_bound() {
        let cache = ProfileCache::new(1 << 20);
        for n in 0..20_000 {
            let key = ProfileKey::new(Site::new("s"), User::new(format!("user-{n}")));
            cache.put(key.hash64(), key, Some(record(1)));
        }
        assert!(cache.bytes() <= 1 << 20, "{}", cache.bytes());
    }
}
