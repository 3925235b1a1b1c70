//! How far the applier has come: what a checkpoint notes, so that the next start replays little.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::LowWater;
use crate::sites::Sites;

/// Computes how far the store has come.
#[derive(Clone, Debug)]
pub struct Progress {
    sites: Arc<Sites>,
    /// The last position that the lanes know as durable.
    settled: Arc<AtomicU64>,
}

impl Progress {
    /// Watches `sites`; `settled` is the last position that their lanes have learnt of.
    pub fn new(sites: Arc<Sites>, settled: Arc<AtomicU64>) -> Self {
        Self { sites, settled }
    }

    /// How far the store has come: everything before has been committed when this is called.
    pub fn low_water(&self) -> LowWater {
        // Read first: what becomes durable while we look at the lanes is beyond it.
        let applied_to = self.settled.load(Ordering::Acquire);
        let mut lagging = BTreeMap::new();
        for site in self.sites.all() {
            if let Some(first) = site.lane.lock().low_water().filter(|first| *first <= applied_to) {
                lagging.insert(site.site.clone(), first);
            }
        }
        LowWater { applied_to, lagging }
    }
}
