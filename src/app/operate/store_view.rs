//! The store as an operator sees it: what its threads do, never an answer of its own.

use std::time::Instant;

use crate::command::{StoreCallStatus, StoreHealth, StoreStatus};
use crate::meter::{Meter, Recent};
use crate::rebuild::Rebuilds;
use crate::store::index::IndexState;
use crate::store::metered::StoreMeters;
use crate::store::sled::PoolState;
use crate::store::switch::StoreSwitch;

/// What the store does at `now`.
pub fn look(switch: &StoreSwitch, rebuilds: &Rebuilds, meters: &StoreMeters, now: Instant) -> StoreStatus {
    let hung_threads = rebuilds.hung_threads() as u64;
    let Some(in_use) = switch.in_use() else {
        let (health, hung_threads, last_error) = (StoreHealth::Rebuilding, hung_threads, meters.last_error());
        return StoreStatus { health, hung_threads, last_error, ..StoreStatus::default() };
    };
    let store = &in_use.store;
    let pools = store.pools(now);
    let pool = |name: &'static str| pools.iter().filter(move |pool| pool.name == name);
    let (health, index_progress) = match store.index_state() {
        _ if store.is_damaged() => (StoreHealth::Failed, None),
        _ if store.has_failed() => (StoreHealth::Failed, None),
        IndexState::Ready => (StoreHealth::Serving, None),
        IndexState::Building { done, total } => {
            (StoreHealth::IndexBuilding, Some(done as f64 / total.max(1) as f64))
        }
    };
    let last_error =
        if store.is_damaged() { "its files are damaged".to_owned() } else { meters.last_error() };
    StoreStatus {
        health,
        generation: in_use.number,
        dir: store.dir().to_owned(),
        profiles: store.profiles(),
        disk_bytes: store.disk_bytes(),
        commits: calls(&meters.commits, pool("store-writer"), now),
        loads: calls(&meters.loads, pool("store-get").chain(pool("store-apply")), now),
        scans: calls(&meters.scans, pool("store-query"), now),
        hung_threads,
        hung_in_use: rebuilds.hung_in_use() as u64,
        unflushed_bytes: store.unflushed_bytes(),
        flush_age: pool("store-flush").filter_map(PoolState::oldest).max(),
        cache_miss_share: 0.0,
        index_bytes: store.index_bytes(),
        index_limit_bytes: 0,
        attributes_not_indexed: store.attributes_left_out(),
        index_progress,
        last_error,
    }
}

fn calls<'a>(meter: &Meter, pools: impl Iterator<Item = &'a PoolState>, now: Instant) -> StoreCallStatus {
    let Recent { per_second, p50, p99, .. } = meter.recent(now);
    let mut status = StoreCallStatus { calls_per_second: per_second, p50, p99, ..Default::default() };
    for pool in pools {
        status.in_flight += pool.running.len() as u64;
        status.queued += pool.queued as u64;
        status.oldest_age = status.oldest_age.max(pool.oldest());
    }
    status
}
