//! What the one writer thread does with a commit.
//!
//! First every profile is compared with what the commit expects; a difference refuses the whole commit. (A generation
//! that is being filled has nothing to compare with: see `fill`.)
//! Then, in this order, so that a cut anywhere leaves something that replay completes: refused records,
//! registry, graves that come by hash, profiles, mark. A profile's own put is its atom: its new index
//! entries and the entry under its number come before it, the removal of the old ones after it. A cut
//! between the two leaves at most a number whose profile is gone, which readers see on the loaded profile.

use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashMap;

use super::fill::Puts;
use super::trees::{Mark, Trees, decode_record};
use crate::model::{Profile, Record, codec};
use crate::store::index::AttributeIndex;
use crate::store::{ProfilePut, SiteCommit, StoreError, keys};

/// The writer's state.
pub struct Writer {
    mark: Mark,
    /// While the index is built: the profiles that commits touched, and when by the store's clock.
    touched: Option<HashMap<u64, u64>>,
    filled: Filled,
}

/// How far an empty generation has been filled.
enum Filled {
    /// Not at all, so far.
    No,
    /// With all up to this key and nothing else.
    UpTo(Vec<u8>),
    /// There are other records.
    Over,
}

/// What a commit did.
pub struct Done {
    /// Bytes put.
    pub bytes: u64,
    /// Whether the index has something to build.
    pub build: bool,
}

impl Writer {
    /// A writer that goes on from `mark`, with an index yet to be built.
    pub fn new(mark: Mark) -> Self {
        Self { mark, touched: Some(HashMap::new()), filled: Filled::No }
    }

    /// How far it has come.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// Starts to note which profiles are touched.
    pub fn track(&mut self) {
        self.touched.get_or_insert_default().clear();
    }

    /// Stops it.
    pub fn stop_tracking(&mut self) {
        self.touched = None;
    }

    /// Forgets what was touched before `time`.
    pub fn forget_touched_before(&mut self, time: u64) {
        if let Some(touched) = &mut self.touched {
            touched.retain(|_, at| *at >= time);
        }
    }

    /// Whether the profile with this number has been touched.
    pub fn touched(&self, number: u64) -> bool {
        self.touched.as_ref().is_some_and(|touched| touched.contains_key(&number))
    }

    /// Applies `commit`. `clock` rises when it begins and when it ends.
    pub fn commit(
        &mut self,
        trees: &Trees,
        index: &AttributeIndex,
        clock: &AtomicU64,
        commit: &SiteCommit,
    ) -> Result<Done, StoreError> {
        if !commit.profiles.is_empty() || !commit.graves.is_empty() {
            self.filled = Filled::Over;
        }
        for put in &commit.profiles {
            check(trees, commit, put)?;
        }
        let now = clock.fetch_add(1, Ordering::AcqRel) + 1;
        if let Some(touched) = &mut self.touched {
            for put in &commit.profiles {
                touched.extend(live(Some(&put.after)).map(|profile| (profile.number, now)));
                touched.extend(live(put.before.as_deref()).map(|profile| (profile.number, now)));
            }
        }
        let applied = self.apply(trees, index, commit);
        clock.fetch_add(1, Ordering::AcqRel);
        applied
    }

    /// Puts new profiles into a generation that has only what was put so, in order: then they cannot be there, and
    /// are not looked for. Answers how many bytes.
    pub fn fill(&mut self, trees: &Trees, puts: Puts) -> Result<u64, StoreError> {
        let mut last = match &self.filled {
            Filled::No if trees.profiles.is_empty() && trees.graves.is_empty() => None,
            Filled::UpTo(key) => Some(key),
            Filled::No | Filled::Over => return Err(StoreError::Conflict),
        };
        for (key, _) in &puts.profiles {
            if last.is_some_and(|last| last >= key) {
                return Err(StoreError::Conflict);
            }
            last = Some(key);
        }
        self.filled = last.map_or(Filled::No, |last| Filled::UpTo(last.clone()));
        for (number, index) in &puts.numbers {
            if let Some((key, _)) = puts.profiles.get(*index) {
                trees.numbers.insert(number.to_be_bytes(), key.as_slice())?;
            }
        }
        let mut mark = self.mark;
        mark.commit_number += 1;
        mark.profiles += puts.profiles.len() as u64;
        mark.last_position = mark.last_position.max(puts.last_position);
        let mut bytes = 0;
        for (key, value) in puts.profiles {
            bytes += key.len() + value.len();
            trees.profiles.insert(key, value)?;
        }
        trees.put_mark(&mark)?;
        self.mark = mark;
        Ok(bytes as u64)
    }

    fn apply(
        &mut self,
        trees: &Trees,
        index: &AttributeIndex,
        commit: &SiteCommit,
    ) -> Result<Done, StoreError> {
        let site = &commit.site;
        let (mut bytes, mut build) = (0, false);
        for refused in &commit.refused {
            let value = keys::encode(refused);
            bytes += value.len();
            trees.refused.insert(keys::refused(site, refused.position), value)?;
        }
        for position in &commit.forget_refused {
            trees.refused.remove(keys::refused(site, *position))?;
        }
        for info in &commit.registry {
            let value = keys::encode(info);
            bytes += value.len();
            trees.registry.insert(keys::in_site(site.as_str(), info.name.as_bytes()), value)?;
            build |= index.declare(site, &info.name, info.indexed);
        }
        for (user_hash, grave) in &commit.graves {
            let value = codec::encode_record(grave);
            bytes += value.len();
            trees.graves.insert(keys::grave_of(site, user_hash), value)?;
        }
        let mut mark = self.mark;
        for put in &commit.profiles {
            bytes += put_one(trees, index, commit, put)?;
            match (live(put.before.as_deref()), live(Some(&put.after))) {
                (None, Some(_)) => mark.profiles += 1,
                (Some(_), None) => mark.profiles = mark.profiles.saturating_sub(1),
                _ => {}
            }
        }
        mark.commit_number += 1;
        mark.last_position = mark.last_position.max(commit.last_position);
        trees.put_mark(&mark)?;
        self.mark = mark;
        Ok(Done { bytes: bytes as u64, build })
    }
}

/// Puts one profile, or its grave; answers how many bytes.
fn put_one(
    trees: &Trees,
    index: &AttributeIndex,
    commit: &SiteCommit,
    put: &ProfilePut,
) -> Result<usize, StoreError> {
    let (before, after) = (live(put.before.as_deref()), live(Some(&put.after)));
    let edits = index.edits(&commit.site, before, after);
    let (before, after) = (before.map(|p| p.number), after.map(|p| p.number));
    let key = keys::profile(&commit.site, &put.user);
    let value = codec::encode_record(&put.after);
    let bytes = key.len() + value.len();
    index.insert(&edits);
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
    index.remove(&edits);
    if let Some(number) = before
        && before != after
    {
        trees.numbers.remove(number.to_be_bytes())?;
    }
    Ok(bytes)
}

fn live(record: Option<&Record>) -> Option<&Profile> {
    record.and_then(Record::live)
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
            if codec::encode_record(before) == *stored || **before == decode_record(&stored)? {
                Ok(())
            } else {
                Err(StoreError::Conflict)
            }
        }
        _ => Err(StoreError::Conflict),
    }
}
