//! The breakers around the store, put together.

use std::sync::Arc;

use super::StartError;
use crate::breaker::Watchdog;
use crate::config::Config;
use crate::guard::{self, Guard, GuardOptions};
use crate::model::Site;
use crate::sites::{SiteState, Sites};
use crate::store::Store;
use crate::store::switch::StoreSwitch;

/// How the store is judged.
pub(super) fn guard_options(config: &Config) -> GuardOptions {
    let breaker = &config.breaker;
    GuardOptions {
        slow_after: breaker.slow_after.0,
        stall_after: breaker.stall_after.0,
        query_slow_after: breaker.query_slow_after.0,
        query_stall_after: breaker.query_stall_after.0,
        open_base: breaker.open_first.0,
        open_max: breaker.open_longest.0,
        probes: breaker.probes,
        unflushed_limit: breaker.unflushed_limit.0,
        // Each generation of the store says it for itself.
        isolates_sites: false,
    }
}

/// The threads that judge the store, and probe it.
#[expect(dead_code, reason = "they end when this is dropped")]
pub(super) struct Guarding {
    upkeep: guard::Upkeep,
    watchdog: Watchdog,
}

impl Guarding {
    pub fn start(
        guard: &Arc<Guard>,
        store: &Arc<StoreSwitch>,
        sites: &Arc<Sites>,
    ) -> Result<Self, StartError> {
        let switch = Arc::clone(store);
        guard.watch_unflushed(move || switch.current().map_or(0, |store| store.unflushed_bytes()));
        let sites = Arc::clone(sites);
        let backlog = move |site: Option<&str>| -> u64 {
            let waiting = |site: &Arc<SiteState>| site.lane.lock().waiting() as u64;
            match site {
                Some(site) => sites.get(&Site::new(site)).as_ref().map_or(0, waiting),
                None => sites.all().iter().map(waiting).sum(),
            }
        };
        let probed = Arc::clone(store) as Arc<dyn Store>;
        let upkeep = guard::Upkeep::start(Arc::clone(guard), probed, Box::new(backlog));
        Ok(Self {
            upkeep: upkeep.map_err(StartError::Thread)?,
            watchdog: guard.watch().map_err(StartError::Thread)?,
        })
    }
}
