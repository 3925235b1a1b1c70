//! Filling a generation that is empty: many new profiles in the order of their keys, without asking for each whether
//! it is there.
//!
//! Two threads share the work. The one that calls encodes, and keeps the index; the writer thread puts. That is safe
//! because nobody reads a generation before it is complete, and because nothing is replaced: the order of index and
//! profile, which readers rely on, does not matter here.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::trees::Trees;
use super::{Shared, SledStore};
use crate::model::{ProfileKey, Record, codec};
use crate::store::index::Batch;
use crate::store::{Committed, Operation, StoreError, StoreFuture, keys};

/// Index entries of so many profiles are sorted and inserted together: the more, the fewer times is each part of the
/// index touched. About 30 MiB at ten attributes.
const INDEXED_TOGETHER: usize = 1 << 16;

/// Profiles as they are put.
pub(super) struct Puts {
    /// Key and record, in the order of keys.
    pub profiles: Vec<(Vec<u8>, Vec<u8>)>,
    /// Profile number and index in `profiles`, in the order of numbers.
    pub numbers: Vec<(u64, usize)>,
    pub last_position: u64,
}

/// Fills a generation. Dropped before [`finish`](Self::finish), its index stays incomplete.
pub struct Filling<'a> {
    store: &'a SledStore,
    entries: Batch,
    profiles: usize,
}

impl<'a> Filling<'a> {
    pub(super) fn of(store: &'a SledStore) -> Self {
        Self { store, entries: Batch::default(), profiles: 0 }
    }

    /// Puts live profiles, with keys that rise from one to the next and from call to call; `last_position` as in a
    /// commit. Anything else, or a generation that has other records: [`StoreError::Conflict`].
    pub fn put(
        &mut self,
        profiles: &[(ProfileKey, Arc<Record>)],
        last_position: u64,
    ) -> StoreFuture<Committed> {
        let mut puts = Puts {
            profiles: Vec::with_capacity(profiles.len()),
            numbers: Vec::with_capacity(profiles.len()),
            last_position,
        };
        for (key, record) in profiles {
            let Some(profile) = record.live() else { continue };
            self.store.shared.index.entries(&key.site, profile, &mut self.entries);
            puts.numbers.push((profile.number, puts.profiles.len()));
            puts.profiles.push((keys::profile(&key.site, &key.user), codec::encode_record(record)));
        }
        puts.numbers.sort_unstable();
        self.profiles += profiles.len();
        if self.profiles >= INDEXED_TOGETHER {
            self.index();
        }
        let site = profiles.first().map(|(key, _)| key.site.clone());
        self.store
            .run(&self.store.writer, Operation::Commit, site, move |shared, trees| puts.put(shared, trees))
    }

    /// Completes the index.
    pub fn finish(mut self) {
        self.index();
    }

    fn index(&mut self) {
        let mut entries = std::mem::take(&mut self.entries);
        entries.sort();
        self.store.shared.index.insert_batch(&entries, |_| false);
        self.profiles = 0;
    }
}

impl Puts {
    fn put(self, shared: &Shared, trees: &Trees) -> Result<Committed, StoreError> {
        let mut writer = shared.writer.lock();
        let bytes = writer.fill(trees, self)?;
        let commit_number = writer.mark().commit_number;
        shared.written_bytes.fetch_add(bytes, Ordering::AcqRel);
        shared.committed.store(commit_number, Ordering::Release);
        Ok(Committed { commit_number })
    }
}
