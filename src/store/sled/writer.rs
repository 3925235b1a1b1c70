//! What the one writer thread does with a commit.
//!
//! First every profile is compared with what the commit expects; a difference refuses the whole commit.
//! Then, in this order, so that a cut anywhere leaves something that replay completes: refused records,
//! registry, profiles, mark. A profile's own put is its atom: the entry under its number comes before it,
//! the removal of an old number after it. A cut between the two leaves at most a number whose profile is
//! gone, which readers see on the loaded profile.

use std::sync::Arc;

use super::trees::{Mark, Trees, encode_record};
use crate::model::Record;
use crate::store::{ProfilePut, SiteCommit, StoreError, keys};

/// The writer's state.
pub struct Writer {
    mark: Mark,
}

impl Writer {
    /// A writer that goes on from `mark`.
    pub fn new(mark: Mark) -> Self {
        Self { mark }
    }

    /// How far it has come.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// Applies `commit`; answers how many bytes it put.
    pub fn commit(&mut self, trees: &Trees, commit: &SiteCommit) -> Result<u64, StoreError> {
        let site = &commit.site;
        for put in &commit.profiles {
            check(trees, commit, put)?;
        }
        let mut bytes = 0;
        for refused in &commit.refused {
            let value = keys::encode(refused)?;
            bytes += value.len();
            trees.refused.insert(keys::refused(site, refused.position), value)?;
        }
        for position in &commit.forget_refused {
            trees.refused.remove(keys::refused(site, *position))?;
        }
        for info in &commit.registry {
            let value = keys::encode(info)?;
            bytes += value.len();
            trees.registry.insert(keys::in_site(site.as_str(), info.name.as_bytes()), value)?;
        }
        let mut mark = self.mark;
        for put in &commit.profiles {
            bytes += put_one(trees, commit, put)?;
            let (before, after) = (live_number(put.before.as_ref()), live_number(Some(&put.after)));
            mark.profiles += u64::from(before.is_none() && after.is_some());
            mark.profiles = mark.profiles.saturating_sub(u64::from(before.is_some() && after.is_none()));
        }
        mark.commit_number += 1;
        mark.last_position = mark.last_position.max(commit.last_position);
        trees.put_mark(&mark)?;
        self.mark = mark;
        Ok(bytes as u64)
    }
}

/// Puts one profile, or its grave; answers how many bytes.
fn put_one(trees: &Trees, commit: &SiteCommit, put: &ProfilePut) -> Result<usize, StoreError> {
    let (before, after) = (live_number(put.before.as_ref()), live_number(Some(&put.after)));
    let key = keys::profile(&commit.site, &put.user);
    let value = encode_record(&put.after)?;
    let bytes = key.len() + value.len();
    if let Some(number) = after
        && before != after
    {
        trees.numbers.insert(number.to_be_bytes(), key.as_slice())?;
    }
    if after.is_some() {
        trees.profiles.insert(key, value)?;
    } else {
        trees.graves.insert(keys::grave(&commit.site, &put.user), value)?;
        trees.profiles.remove(key)?;
    }
    if let Some(number) = before
        && before != after
    {
        trees.numbers.remove(number.to_be_bytes())?;
    }
    Ok(bytes)
}

/// The profile's number, if there is a profile.
fn live_number(record: Option<&Arc<Record>>) -> Option<u64> {
    record.and_then(|record| record.live()).map(|profile| profile.number)
}

/// Whether the store holds what `put` expects.
fn check(trees: &Trees, commit: &SiteCommit, put: &ProfilePut) -> Result<(), StoreError> {
    let stored = match trees.profiles.get(keys::profile(&commit.site, &put.user))? {
        Some(bytes) => Some(bytes),
        None => trees.graves.get(keys::grave(&commit.site, &put.user))?,
    };
    match (&put.before, stored) {
        (None, None) => Ok(()),
        (Some(before), Some(stored)) => {
            // Comparing bytes is the cheap way; records of an older format are compared decoded.
            if encode_record(before)? == *stored || **before == keys::decode(&stored)? {
                Ok(())
            } else {
                Err(StoreError::Conflict)
            }
        }
        _ => Err(StoreError::Conflict),
    }
}
