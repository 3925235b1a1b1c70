//! The records of the snapshot, put into a new generation in their order, many at a time.

use super::replay::Replayer;
use super::run::{Failure, Run};
use crate::model::Site;
use crate::snapshot::{SnapshotReader, Waiting};
use crate::store::sled::SledStore;
use crate::store::{ProfilePut, SiteCommit, StoredItem};

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
    let mut commit: Option<(SiteCommit, usize)> = None;
    for item in snapshot.items() {
        let item = item?;
        let site = site_of(&item);
        let full = commit.as_ref().is_some_and(|(commit, count)| *count >= COMMIT || commit.site != *site);
        if full && let Some((commit, count)) = commit.take() {
            replayer.put(run, store, commit, UNDER_WAY)?;
            run.count(count as u64, total);
        }
        let (commit, count) = commit
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
    }
    if let Some((commit, count)) = commit {
        replayer.put(run, store, commit, UNDER_WAY)?;
        run.count(count as u64, total);
    }
    replayer.settle(run)?;
    Ok(Some(snapshot.waiting()?))
}

fn site_of(item: &StoredItem) -> &Site {
    match item {
        StoredItem::Profile { key, .. } => &key.site,
        StoredItem::Grave { site, .. } | StoredItem::Attribute { site, .. } => site,
        StoredItem::Refused(record) => &record.entry.site,
    }
}
