//! Whether the store is still being filled from the journal.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::command::ReadError;
use crate::sites::Sites;

/// The filling of a store that was empty at start. While it goes on, reads by key are right all the same,
/// because what is missing is pending and is laid on top; reads that only look at the store are refused.
#[derive(Debug)]
pub struct Rebuild {
    sites: Arc<Sites>,
    complete: AtomicBool,
    /// The journal's end when the filling began.
    end: u64,
    /// Entries to apply then.
    total: u64,
}

impl Rebuild {
    /// A store that lacks `total` entries, up to position `end`; or that is complete.
    pub fn new(sites: Arc<Sites>, complete: bool, end: u64, total: u64) -> Self {
        Self { sites, complete: AtomicBool::new(complete), end, total }
    }

    /// Whether the applier has come past everything that was missing; what is parked apart.
    pub fn is_finished(&self) -> bool {
        self.sites.all().iter().all(|site| {
            let first = site.lane.lock().low_water_of_active();
            first.is_none_or(|first| first > self.end)
        })
    }

    /// Notes the end of it; answers whether that is news.
    pub fn finish(&self) -> bool {
        !self.complete.swap(true, Ordering::AcqRel)
    }

    /// Refuses while the store is not complete.
    pub fn check(&self) -> Result<(), ReadError> {
        // A store that lacks nothing need not wait until that has been noted.
        if self.total == 0 || self.complete.load(Ordering::Acquire) {
            return Ok(());
        }
        // All of it has been applied; only that is not noted yet.
        if self.is_finished() {
            return Ok(());
        }
        let waiting: usize = self.sites.all().iter().map(|site| site.lane.lock().waiting()).sum();
        Err(ReadError::Rebuilding { done: self.total.saturating_sub(waiting as u64), total: self.total })
    }
}
