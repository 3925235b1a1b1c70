//! Everything that is kept in memory per site: its lane of pending entries and its registry.

pub mod lane;
pub mod registry;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};

use crate::command::WriteError;
use crate::model::Site;

pub use lane::{EntryRef, Lane, ParkedUser, PendingOf, Place};
pub use registry::Registry;

/// One site. The lane's lock is what orders arrival; the registry only changes under it.
pub struct SiteState {
    /// The site.
    pub site: Site,
    /// Entries that wait.
    pub lane: Mutex<Lane>,
    /// The attributes; read without a lock.
    pub registry: ArcSwap<Registry>,
    /// Bytes of its refused entries, which count against its quota.
    pub refused_bytes: AtomicU64,
    /// Bytes that it may have in the journal, if an operator said so; 0: as configured.
    pub quota: AtomicU64,
    /// When a write of it was last accepted, in nanoseconds since 1970; 0: not since the start.
    pub written_at: AtomicU64,
}

impl fmt::Debug for SiteState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SiteState").field("site", &self.site).finish_non_exhaustive()
    }
}

impl SiteState {
    fn new(site: Site) -> Self {
        Self {
            site,
            lane: Mutex::default(),
            registry: ArcSwap::default(),
            refused_bytes: AtomicU64::new(0),
            quota: AtomicU64::new(0),
            written_at: AtomicU64::new(0),
        }
    }

    /// Changes the registry. `_lane` shows that the caller holds the lane's lock.
    pub fn change_registry(&self, _lane: &mut Lane, change: impl FnOnce(&mut Registry)) {
        let mut registry = Registry::clone(&self.registry.load());
        change(&mut registry);
        self.registry.store(Arc::new(registry));
    }
}

/// All sites that this node has heard of, up to a limit.
#[derive(Debug)]
pub struct Sites {
    limit: usize,
    sites: RwLock<HashMap<Site, Arc<SiteState>>>,
}

impl Sites {
    /// None yet; at most `limit`.
    pub fn new(limit: usize) -> Self {
        Self { limit, sites: RwLock::default() }
    }

    /// The site, if anything was ever accepted for it.
    pub fn get(&self, site: &Site) -> Option<Arc<SiteState>> {
        self.sites.read().get(site).cloned()
    }

    /// The site as writes see it before they are accepted: one that nobody has heard of is empty.
    pub fn look(&self, site: &Site) -> Arc<SiteState> {
        self.get(site).unwrap_or_else(|| Arc::new(SiteState::new(site.clone())))
    }

    /// The site, new if need be.
    pub fn get_or_create(&self, site: &Site) -> Result<Arc<SiteState>, WriteError> {
        if let Some(found) = self.get(site) {
            return Ok(found);
        }
        let mut sites = self.sites.write();
        if sites.len() >= self.limit && !sites.contains_key(site) {
            return Err(WriteError::TooManySites { site: site.clone(), limit: self.limit });
        }
        Ok(Arc::clone(sites.entry(site.clone()).or_insert_with(|| Arc::new(SiteState::new(site.clone())))))
    }

    /// The site as it is found in our own files, whatever the limit.
    pub fn restore(&self, site: &Site) -> Arc<SiteState> {
        if let Some(found) = self.get(site) {
            return found;
        }
        let mut sites = self.sites.write();
        Arc::clone(sites.entry(site.clone()).or_insert_with(|| Arc::new(SiteState::new(site.clone()))))
    }

    /// All sites, in no order.
    pub fn all(&self) -> Vec<Arc<SiteState>> {
        self.sites.read().values().cloned().collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sites.read().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
