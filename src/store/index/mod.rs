//! The attribute index, in memory: which profiles have which value.
//!
//! It is derived from the profiles: built at start in the background, kept up by commits, never on disk.
//! One writer changes it (while a generation is filled, whoever fills it); readers share a lock for as long as a
//! bounded scan takes. It speaks of profiles
//! by number, and what it says may be a moment old, or left over from a commit that failed: readers check
//! the profile that they load. It never leaves a profile out.

mod block;
mod pass;
mod values;

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};

pub use self::pass::Batch;
use self::values::{Range, Values};
use super::{IndexKey, IndexScan, StoreError};
use crate::model::{Profile, Site, Value, order};

/// What an attribute takes before it has an entry: its name twice, its place in the maps.
const ATTRIBUTE_OVERHEAD: u64 = 256;
/// Entries read in one go under an attribute's lock; the writer waits no longer than that takes.
const SCAN_STEP: usize = 256;

/// One site's attributes by name.
type Attributes = HashMap<Box<str>, Arc<Attribute>>;

/// The index of one store.
pub struct AttributeIndex {
    sites: RwLock<HashMap<Site, Attributes>>,
    capacity: u64,
    used: AtomicU64,
    // Attributes that are not indexed because it was full.
    left_out: AtomicU64,
    build: Mutex<Build>,
    done: AtomicU64,
    total: AtomicU64,
}

/// Whether and how far it is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexState {
    /// Profiles are being read.
    Building {
        /// Profiles read.
        done: u64,
        /// Profiles in all, about.
        total: u64,
    },
    /// Complete.
    Ready,
}

/// What the index knows of one attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexSize {
    /// The attribute.
    pub attribute: Box<str>,
    /// Whether it can be scanned.
    pub state: AttributeState,
    /// Bytes of memory.
    pub bytes: u64,
    /// Pairs of value and profile.
    pub entries: u64,
}

/// Whether an attribute's entries can be trusted to be complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttributeState {
    /// Not yet: the pass over the profiles with this number completes them.
    Building(u64),
    /// Complete.
    Ready,
    /// Not indexed, by its registry entry.
    Off,
    /// Not indexed, because the index was full.
    Full,
}

struct Build {
    /// The number of the pass that runs or, between passes, of the last one.
    pass: u64,
    running: bool,
}

struct Attribute {
    name: Box<str>,
    inner: RwLock<Inner>,
}

struct Inner {
    state: AttributeState,
    values: Values,
}

/// An entry to insert or remove.
pub struct Edit {
    attribute: Arc<Attribute>,
    key: Box<[u8]>,
    number: u64,
}

/// What one profile's change means for the index: insert, put the profile, then remove.
#[derive(Default)]
pub struct Edits {
    insert: Vec<Edit>,
    remove: Vec<Edit>,
}

impl AttributeIndex {
    /// An empty index of at most `capacity` bytes. Until the first pass ends it is being built.
    pub fn new(capacity: u64) -> Self {
        Self {
            sites: RwLock::default(),
            capacity,
            used: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
            build: Mutex::new(Build { pass: 1, running: true }),
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
        }
    }

    /// Takes notice of a registry entry. Answers whether a pass over the profiles is needed.
    pub fn declare(&self, site: &Site, name: &str, indexed: bool) -> bool {
        let build = self.build.lock();
        let (attribute, is_new) = self.attribute_in(&build, site, name);
        let mut inner = attribute.inner.write();
        match (indexed, inner.state) {
            (false, _) => {
                self.enter(&mut inner, AttributeState::Off);
                self.free(&mut inner);
                false
            }
            (true, AttributeState::Off) => {
                // Never indexed so far, so a running pass has left some of its profiles out.
                let next = build.pass + 1;
                let state = if is_new { self.fresh(&build) } else { AttributeState::Building(next) };
                self.enter(&mut inner, state);
                !is_new
            }
            (true, _) => false,
        }
    }

    /// What a change of a profile from `before` to `after` means.
    pub fn edits(&self, site: &Site, before: Option<&Profile>, after: Option<&Profile>) -> Edits {
        let mut edits = Edits::default();
        let (old, new) = (attributes(before), attributes(after));
        let same_number = before.map(|p| p.number) == after.map(|p| p.number);
        let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return edits,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(a), Some(b)) => a.name.cmp(&b.name),
            };
            let a = if order.is_le() { old.next() } else { None };
            let b = if order.is_ge() { new.next() } else { None };
            let Some(name) = a.or(b).map(|attribute| &*attribute.name) else { return edits };
            let attribute = self.attribute(site, name);
            let building = match attribute.inner.read().state {
                AttributeState::Off | AttributeState::Full => continue,
                AttributeState::Building(_) => true,
                AttributeState::Ready => false,
            };
            // While the index is built, the builder leaves out what is changed meanwhile.
            if !building && same_number && a.map(|a| &a.value) == b.map(|b| &b.value) {
                continue;
            }
            let old_keys = a.map(|a| order::index_keys(&a.value)).unwrap_or_default();
            let new_keys = b.map(|b| order::index_keys(&b.value)).unwrap_or_default();
            let edit = |key: &[u8], number| Edit { attribute: attribute.clone(), key: key.into(), number };
            if let Some(profile) = before {
                if building {
                    edits.insert.extend(old_keys.iter().map(|key| edit(key, profile.number)));
                }
                let gone = old_keys.iter().filter(|key| !same_number || !new_keys.contains(key));
                edits.remove.extend(gone.map(|key| edit(key, profile.number)));
            }
            if let Some(profile) = after {
                let fresh = new_keys.iter().filter(|key| building || !same_number || !old_keys.contains(key));
                edits.insert.extend(fresh.map(|key| edit(key, profile.number)));
            }
        }
    }

    /// Inserts the new entries: before the profile is put.
    pub fn insert(&self, edits: &Edits) {
        for edit in &edits.insert {
            let mut inner = edit.attribute.inner.write();
            self.change(&mut inner, |values| values.insert(&edit.key, edit.number));
        }
    }

    /// Removes the old entries: after the profile has been put.
    pub fn remove(&self, edits: &Edits) {
        for edit in &edits.remove {
            let mut inner = edit.attribute.inner.write();
            self.change(&mut inner, |values| values.remove(&edit.key, edit.number));
        }
    }

    /// Appends entries of `scan` behind `after` to `found` until it has `limit`; whether there may be
    /// more. Bounded work: about 256 entries at a time under the attribute's lock.
    pub fn scan(
        &self,
        scan: &IndexScan,
        after: Option<&IndexKey>,
        limit: usize,
    ) -> Result<(Vec<IndexKey>, bool), StoreError> {
        let find = || self.sites.read().get(&scan.site).and_then(|site| site.get(&*scan.attribute)).cloned();
        let attribute = match (find(), self.state()) {
            (None, IndexState::Building { done, total }) => {
                return Err(StoreError::IndexBuilding { done, total });
            }
            // The pass may have ended between the two looks; from then on nobody has what is not found.
            (None, IndexState::Ready) => find(),
            (found, _) => found,
        };
        let Some(attribute) = attribute else { return Ok((Vec::new(), false)) };
        let (from, to) = (bound_key(&scan.from)?, bound_key(&scan.to)?);
        let prefix = scan.prefix.as_ref().map(|text| order::text_key(text)).unwrap_or_default();
        let mut found: Vec<IndexKey> = Vec::new();
        loop {
            let inner = attribute.inner.read();
            match inner.state {
                AttributeState::Ready => {}
                AttributeState::Building(_) => {
                    let (done, total) =
                        (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed));
                    return Err(StoreError::IndexBuilding { done, total });
                }
                AttributeState::Off | AttributeState::Full => {
                    return Err(StoreError::NotIndexed(attribute.name.clone()));
                }
            }
            let step = limit.min(found.len() + SCAN_STEP);
            let last = found.last().cloned();
            let range = Range {
                from: from.as_ref().map(|key| &**key),
                to: to.as_ref().map(|key| &**key),
                prefix: &prefix,
                after: last.as_ref().or(after),
            };
            let more = inner.values.scan(&range, step, &mut found);
            if !more || found.len() >= limit {
                return Ok((found, more));
            }
        }
    }

    /// Whether it is built.
    pub fn state(&self) -> IndexState {
        if self.build.lock().running {
            let (done, total) = (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed));
            IndexState::Building { done, total: total.max(done) }
        } else {
            IndexState::Ready
        }
    }

    /// Bytes of memory in all.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Attributes of all sites that are not indexed because the index was full.
    pub fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    /// The attributes of one site, by name.
    pub fn sizes(&self, site: &Site) -> Vec<IndexSize> {
        let attributes: Vec<_> =
            self.sites.read().get(site).map(|site| site.values().cloned().collect()).unwrap_or_default();
        let mut sizes: Vec<_> = attributes
            .iter()
            .map(|attribute| {
                let inner = attribute.inner.read();
                IndexSize {
                    attribute: attribute.name.clone(),
                    state: inner.state,
                    bytes: inner.values.bytes() as u64 + ATTRIBUTE_OVERHEAD,
                    entries: inner.values.entries(),
                }
            })
            .collect();
        sizes.sort_unstable_by(|a, b| a.attribute.cmp(&b.attribute));
        sizes
    }

    fn attribute(&self, site: &Site, name: &str) -> Arc<Attribute> {
        if let Some(found) = self.sites.read().get(site).and_then(|site| site.get(name)) {
            return Arc::clone(found);
        }
        let build = self.build.lock();
        let (attribute, is_new) = self.attribute_in(&build, site, name);
        if is_new {
            self.enter(&mut attribute.inner.write(), self.fresh(&build));
        }
        attribute
    }

    /// Finds or makes an attribute; a new one is off.
    fn attribute_in(&self, _build: &Build, site: &Site, name: &str) -> (Arc<Attribute>, bool) {
        let mut sites = self.sites.write();
        let attributes = sites.entry(site.clone()).or_default();
        if let Some(found) = attributes.get(name) {
            return (Arc::clone(found), false);
        }
        let inner = RwLock::new(Inner { state: AttributeState::Off, values: Values::default() });
        let attribute = Arc::new(Attribute { name: name.into(), inner });
        attributes.insert(name.into(), Arc::clone(&attribute));
        self.used.fetch_add(ATTRIBUTE_OVERHEAD, Ordering::Relaxed);
        (attribute, true)
    }

    /// The state of an attribute that nobody has had before.
    fn fresh(&self, build: &Build) -> AttributeState {
        if self.used() > self.capacity {
            AttributeState::Full
        } else if build.running {
            AttributeState::Building(build.pass)
        } else {
            AttributeState::Ready
        }
    }

    /// Changes an attribute that is indexed, and gives it up when the index is over its capacity.
    fn change(&self, inner: &mut Inner, change: impl FnOnce(&mut Values)) {
        if matches!(inner.state, AttributeState::Off | AttributeState::Full) {
            return;
        }
        let before = inner.values.bytes() as u64;
        change(&mut inner.values);
        let after = inner.values.bytes() as u64;
        let used = self.account(before, after);
        if after > before && used > self.capacity {
            self.enter(inner, AttributeState::Full);
            self.free(inner);
        }
    }

    fn enter(&self, inner: &mut Inner, state: AttributeState) {
        match (inner.state == AttributeState::Full, state == AttributeState::Full) {
            (false, true) => self.left_out.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.left_out.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
        inner.state = state;
    }

    fn free(&self, inner: &mut Inner) {
        let values = std::mem::take(&mut inner.values);
        self.account(values.bytes() as u64, 0);
    }

    fn account(&self, before: u64, after: u64) -> u64 {
        if after >= before {
            self.used.fetch_add(after - before, Ordering::Relaxed) + (after - before)
        } else {
            self.used.fetch_sub(before - after, Ordering::Relaxed) - (before - after)
        }
    }
}

fn attributes(profile: Option<&Profile>) -> &[crate::model::Attribute] {
    profile.map_or(&[], |profile| &profile.attributes)
}

/// A bound as a key. A text that was cut may stand for values on either side, so its bound is included.
fn bound_key(bound: &Bound<Value>) -> Result<Bound<Box<[u8]>>, StoreError> {
    let key =
        |value| order::order_key(value).ok_or_else(|| StoreError::Invalid("a list has no order".to_owned()));
    Ok(match bound {
        Bound::Unbounded => Bound::Unbounded,
        Bound::Included(value) => Bound::Included(key(value)?),
        Bound::Excluded(value) => match key(value)? {
            key if order::is_exact(&key) => Bound::Excluded(key),
            key => Bound::Included(key),
        },
    })
}
