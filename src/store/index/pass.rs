//! The passes over all profiles that build the index, or what has been turned on since.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hashbrown::HashMap;

use super::{Attribute, AttributeIndex, AttributeState};
use crate::model::{Profile, Site, order};

impl AttributeIndex {
    /// The entries of a profile that a pass has read, by attribute still to be built.
    pub fn unbuilt(&self, site: &Site, profile: &Profile, into: &mut Batch) {
        self.collect(site, profile, into, |state| matches!(state, AttributeState::Building(_)));
    }

    /// The entries of a profile that is new to the store, by attribute.
    pub fn entries(&self, site: &Site, profile: &Profile, into: &mut Batch) {
        let indexed = |state| matches!(state, AttributeState::Building(_) | AttributeState::Ready);
        self.collect(site, profile, into, indexed);
    }

    fn collect(
        &self,
        site: &Site,
        profile: &Profile,
        into: &mut Batch,
        wanted: impl Fn(AttributeState) -> bool,
    ) {
        for attribute in &profile.attributes {
            let found = self.attribute(site, &attribute.name);
            if wanted(found.inner.read().state) {
                let keys = order::index_keys(&attribute.value);
                let (_, entries) =
                    into.0.entry(Arc::as_ptr(&found) as usize).or_insert_with(|| (found, Vec::new()));
                entries.extend(keys.into_iter().map(|key| (key, profile.number)));
            }
        }
    }

    /// Inserts what a pass has read, except of profiles that `skip` names.
    pub fn insert_batch(&self, batch: &Batch, skip: impl Fn(u64) -> bool) {
        for (attribute, entries) in batch.0.values() {
            let mut inner = attribute.inner.write();
            self.change(&mut inner, |values| {
                for (key, number) in entries {
                    if !skip(*number) {
                        values.insert(key, *number);
                    }
                }
            });
        }
    }

    /// A pass over all profiles begins; the first one is number 1. `total`: profiles in all, about.
    pub fn begin_pass(&self, total: u64) {
        let mut build = self.build.lock();
        if !build.running {
            build.pass += 1;
            build.running = true;
        }
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    /// A pass has read `profiles` more.
    pub fn advance_pass(&self, profiles: u64) {
        self.done.fetch_add(profiles, Ordering::Relaxed);
    }

    /// The pass has read all profiles: what waited for it is complete.
    pub fn end_pass(&self) {
        let mut build = self.build.lock();
        build.running = false;
        for site in self.sites.read().values() {
            for attribute in site.values() {
                let mut inner = attribute.inner.write();
                if matches!(inner.state, AttributeState::Building(pass) if pass <= build.pass) {
                    inner.state = AttributeState::Ready;
                }
            }
        }
    }
}

/// Entries that a pass has read, by attribute.
#[derive(Default)]
pub struct Batch(HashMap<usize, AttributeBatch>);

/// An attribute and its entries: value, profile number.
type AttributeBatch = (Arc<Attribute>, Vec<(Box<[u8]>, u64)>);

impl Batch {
    /// Sorts each attribute's entries: inserted in order, they touch each block once.
    pub fn sort(&mut self) {
        for (_, entries) in self.0.values_mut() {
            entries.sort_unstable();
        }
    }
}
