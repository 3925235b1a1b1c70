//! Whether a store's index and its profiles agree.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use steadfast::app::Core;
use steadfast::clock::SystemClock;
use steadfast::config::Config;
use steadfast::model::{ProfileKey, Value};
use steadfast::store::{IndexPage, IndexScan, Store, StoreError, StoredItem};

use crate::support::Home;

/// Opens a directory that no server has, and compares.
pub async fn check_index(home: &Home) {
    let mut config = Config::ephemeral(home.dir());
    config.journal.segment.0 = 4 << 20;
    let mut core = Core::open(&config, Arc::new(SystemClock)).unwrap();
    agree(&core).await;
    core.close(Duration::from_secs(20)).unwrap();
}

/// That every value of every profile is found under it in the index, and that the index has no other entry.
pub async fn agree(core: &Core) {
    // What a kill left waiting is being applied, or the store built anew; meanwhile the two cannot be compared.
    while core.switch.check().is_err()
        || core.shared.sites.all().iter().any(|site| site.lane.lock().waiting() > 0)
    {
        tokio::task::yield_now().await;
    }
    let store = &*core.switch;
    for site in core.shared.sites.all() {
        for attribute in site.registry.load().all() {
            let scan = IndexScan {
                site: site.site.clone(),
                attribute: attribute.name.clone(),
                from: Bound::Unbounded,
                to: Bound::Unbounded,
                prefix: None,
                after: None,
                limit: 1000,
            };
            let mut expected = 0;
            for (key, value) in values(store, &scan).await {
                for value in entries_of(value) {
                    expected += 1;
                    let (from, to) = (Bound::Included(value.clone()), Bound::Included(value.clone()));
                    let found = scan_all(store, IndexScan { from, to, ..scan.clone() }).await;
                    assert!(found.contains(&key), "{key:?} is not under {} = {value:?}", attribute.name);
                }
            }
            let found = scan_all(store, scan).await.len();
            assert_eq!(found, expected, "entries of {} on {:?}", attribute.name, site.site);
        }
    }
}

/// The values under which one is in the index: of a list, its items.
fn entries_of(value: Value) -> Vec<Value> {
    let Value::List(items) = value else { return vec![value] };
    let mut items: Vec<_> = items.iter().cloned().map(Value::String).collect();
    items.sort_by_key(|item| format!("{item:?}"));
    items.dedup();
    items
}

/// The attribute's value in every profile that has it.
async fn values(store: &dyn Store, of: &IndexScan) -> Vec<(ProfileKey, Value)> {
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let page = store.scan_records(after, 1000).await.unwrap();
        for item in page.items {
            if let StoredItem::Profile { key, record } = item
                && key.site == of.site
                && let Some(attribute) = record.live().unwrap().attribute(&of.attribute)
            {
                found.push((key, attribute.value.clone()));
            }
        }
        after = page.next;
        if after.is_none() {
            return found;
        }
    }
}

async fn scan_all(store: &dyn Store, mut scan: IndexScan) -> Vec<ProfileKey> {
    let mut found = Vec::new();
    loop {
        let page = scan_index(store, &scan).await;
        scan.after = page.entries.last().map(|(entry, _)| entry.clone());
        found.extend(page.entries.into_iter().map(|(_, key)| key));
        if !page.more {
            return found;
        }
    }
}

async fn scan_index(store: &dyn Store, scan: &IndexScan) -> IndexPage {
    loop {
        match store.scan_index(scan.clone()).await {
            // It is built in the background; each call waits its turn behind a part of that.
            Err(StoreError::IndexBuilding { .. }) => tokio::task::yield_now().await,
            page => return page.unwrap(),
        }
    }
}
