//! The records of the snapshot, put into a new generation in their order, many at a time.

use std::sync::Arc;

use super::replay::Replayer;
use super::run::{Failure, Run};
use crate::model::{ProfileKey, Record, Site};
use crate::snapshot::{SnapshotReader, Waiting};
use crate::store::sled::{Filling, SledStore};
use crate::store::{ProfilePut, SiteCommit, StoredItem};

/// Profiles that are put together.
const FILL: usize = 4096;
/// Records of one commit.
const COMMIT: usize = 1024;
/// Commits under way: one is being written while others are made.
const UNDER_WAY: usize = 4;

/// Loads the journal's snapshot, if it has one; `end` is where the replay that follows ends. The answer says which
/// of the entries before its start still count.
pub fn snapshot(
    run: &mut Run<'_>,
    store: &SledStore,
    replayer: &mut Replayer,
    end: u64,
) -> Result<Option<Waiting>, Failure> {
    let parts = &run.rebuilds.0.parts;
    let Some(named) = parts.reader.snapshot() else { return Ok(None) };
    let snapshot = SnapshotReader::open(&parts.snapshots, &named)?;
    let total = snapshot.counts().items() + (end + 1).saturating_sub(parts.reader.start());
    run.count(0, total);
    let mut load = Load { store, replayer, end, total, commit: None };
    let mut profiles = Profiles { filling: store.filling(), next: Vec::with_capacity(FILL), last: None };
    let mut items = snapshot.items();
    let mut left = None;
    for item in items.by_ref() {
        match item? {
            StoredItem::Profile { key, record } if profiles.follows(&key) => {
                profiles.last = Some(key.clone());
                profiles.next.push((key, record));
                if profiles.next.len() >= FILL {
                    load.fill(run, &mut profiles)?;
                }
            }
            // The profiles are over.
            item => {
                left = Some(item);
                break;
            }
        }
    }
    load.fill(run, &mut profiles)?;
    profiles.filling.finish();
    for item in left.map(Ok).into_iter().chain(items) {
        load.item(run, item?)?;
    }
    load.flush(run)?;
    replayer.settle(run)?;
    Ok(Some(snapshot.waiting()?))
}

/// Profiles on their way into the empty generation.
struct Profiles<'a> {
    filling: Filling<'a>,
    next: Vec<(ProfileKey, Arc<Record>)>,
    last: Option<ProfileKey>,
}

impl Profiles<'_> {
    /// Whether `key` comes behind all that were before: sites and users are ordered as the store's keys are.
    fn follows(&self, key: &ProfileKey) -> bool {
        self.last.as_ref().is_none_or(|last| last < key)
    }
}

struct Load<'a> {
    store: &'a SledStore,
    replayer: &'a mut Replayer,
    end: u64,
    total: u64,
    commit: Option<(SiteCommit, usize)>,
}

impl Load<'_> {
    fn fill(&mut self, run: &mut Run<'_>, profiles: &mut Profiles<'_>) -> Result<(), Failure> {
        let count = profiles.next.len();
        if count == 0 {
            return Ok(());
        }
        let put = profiles.filling.put(&profiles.next, self.end);
        profiles.next.clear();
        self.replayer.follow(run, put, UNDER_WAY)?;
        run.count(count as u64, self.total);
        Ok(())
    }

    /// What is no profile, or not in order.
    fn item(&mut self, run: &mut Run<'_>, item: StoredItem) -> Result<(), Failure> {
        let site = site_of(&item);
        let full =
            self.commit.as_ref().is_some_and(|(commit, count)| *count >= COMMIT || commit.site != *site);
        if full {
            self.flush(run)?;
        }
        let end = self.end;
        let (commit, count) = self
            .commit
            .get_or_insert_with(|| (SiteCommit { last_position: end, ..SiteCommit::of(site.clone()) }, 0));
        *count += 1;
        match item {
            StoredItem::Profile { key, record } => {
                commit.profiles.push(ProfilePut { user: key.user, before: None, after: record });
            }
            StoredItem::Grave { user_hash, record, .. } => commit.graves.push((user_hash, record)),
            StoredItem::Refused(record) => commit.refused.push(record),
            StoredItem::Attribute { info, .. } => commit.registry.push(info),
        }
        Ok(())
    }

    fn flush(&mut self, run: &mut Run<'_>) -> Result<(), Failure> {
        if let Some((commit, count)) = self.commit.take() {
            self.replayer.put(run, self.store, commit, UNDER_WAY)?;
            run.count(count as u64, self.total);
        }
        Ok(())
    }
}

fn site_of(item: &StoredItem) -> &Site {
    match item {
        StoredItem::Profile { key, .. } => &key.site,
        StoredItem::Grave { site, .. } | StoredItem::Attribute { site, .. } => site,
        StoredItem::Refused(record) => &record.entry.site,
    }
}
