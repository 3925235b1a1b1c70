//! What every backend has to do. Each function is one part of the contract; a backend's tests run
//! [`all`].

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use proptest::test_runner::{Config, TestRunner};

use super::{
    AttributeInfo, IndexKey, IndexScan, ProfilePut, Purpose, RefusedRecord, SiteCommit, Store, StoreError,
    StoredItem,
};
use crate::model::{
    Applied, Attribute, Command, Entry, EventTime, Grave, NodeId, Profile, ProfileKey, Record, Refusal, Site,
    User, Value, ValueType, hash, order,
};

/// A backend under test, with data of its own that ends with it.
pub trait Subject: Sized {
    /// The store.
    fn store(&self) -> Arc<dyn Store>;
    /// The same store closed and opened again.
    #[must_use]
    fn reopen(self) -> Self;
}

/// The whole suite; `make` gives a new and empty store each time.
pub fn all<S: Subject>(make: impl Fn() -> S) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    runtime.block_on(refused_and_registry(make()));
    runtime.block_on(graves_come_by_hash(&make().store()));
    runtime.block_on(conflicts_change_nothing(&make().store()));
    runtime.block_on(a_text_that_is_cut_is_found(&make().store()));
    runtime.block_on(readers_never_miss_a_profile(make().store()));
    random_histories(&runtime, make);
}

fn site() -> Site {
    Site::new("s")
}

fn profile(number: u64, version: u64, attributes: Vec<(&str, Value)>) -> Arc<Record> {
    let mut applied = Applied::default();
    applied.advance(NodeId(1), number + version);
    let mut attributes: Vec<_> = attributes
        .into_iter()
        .map(|(name, value)| Attribute { name: name.into(), value, occurred_at: EventTime::MIN })
        .collect();
    attributes.sort_by(|a, b| a.name.cmp(&b.name));
    Arc::new(Record::Live(Profile {
        number,
        version,
        created_at: EventTime::MIN,
        updated_at: EventTime::MIN,
        attributes,
        unset: vec![],
        erased: None,
        applied,
        recent: vec![],
    }))
}

fn grave(version: u64) -> Arc<Record> {
    Arc::new(Record::Deleted(Grave {
        version,
        occurred_at: EventTime::MIN,
        accepted_at: EventTime::MIN,
        applied: Applied::default(),
        recent: vec![],
    }))
}

fn commit(site: Site, profiles: Vec<ProfilePut>) -> SiteCommit {
    SiteCommit { profiles, last_position: 1, ..SiteCommit::of(site) }
}

fn put(user: &str, before: Option<&Arc<Record>>, after: &Arc<Record>) -> ProfilePut {
    ProfilePut { user: User::new(user), before: before.cloned(), after: Arc::clone(after) }
}

fn whole(site: Site, attribute: &str) -> IndexScan {
    let (from, to) = (Bound::Unbounded, Bound::Unbounded);
    IndexScan { site, attribute: attribute.into(), from, to, prefix: None, after: None, limit: 1000 }
}

/// All entries of a scan, page by page. Waits for an index that is being built.
async fn scan(store: &Arc<dyn Store>, mut scan: IndexScan) -> Vec<(IndexKey, ProfileKey)> {
    let mut found: Vec<(IndexKey, ProfileKey)> = vec![];
    loop {
        match store.scan_index(scan.clone()).await {
            Ok(page) => {
                assert!(page.entries.len() <= scan.limit);
                found.extend(page.entries);
                if !page.more {
                    return found;
                }
                scan.after = found.last().map(|(key, _)| key.clone());
            }
            Err(StoreError::IndexBuilding { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

async fn records(store: &Arc<dyn Store>, limit: usize) -> Vec<StoredItem> {
    let (mut items, mut after) = (vec![], None);
    loop {
        let page = store.scan_records(after, limit).await.unwrap();
        assert!(page.items.len() <= limit);
        items.extend(page.items);
        after = page.next;
        if after.is_none() {
            return items;
        }
    }
}

async fn load(store: &Arc<dyn Store>, keys: Vec<ProfileKey>) -> Vec<Option<Arc<Record>>> {
    store.load(Purpose::Apply, keys).await.unwrap()
}

async fn refused_and_registry<S: Subject>(subject: S) {
    let refused = |position| RefusedRecord {
        position,
        accepted_at: EventTime::MIN,
        entry: Entry { site: site(), command: Command::DiscardRefused { position: 1 } },
        reason: Refusal::ProfileTooLarge,
        listed: true,
    };
    let info = |name: &str, indexed| AttributeInfo {
        name: name.into(),
        value_type: ValueType::Bool,
        first_seen: EventTime::MIN,
        indexed,
        disabled: false,
    };
    let store = subject.store();
    let value = profile(1, 1, vec![("off", Value::Bool(true)), ("on", Value::Bool(true))]);
    let first = SiteCommit {
        refused: vec![refused(300), refused(7)],
        registry: vec![info("on", true), info("off", false)],
        ..commit(site(), vec![put("u", None, &value)])
    };
    store.commit(first).await.unwrap();
    let forget = SiteCommit { forget_refused: vec![300], ..commit(site(), vec![]) };
    assert_eq!(store.commit(forget).await.unwrap().commit_number, 2);
    assert_eq!(scan(&store, whole(site(), "on")).await.len(), 1);
    drop(store);

    let store = subject.reopen().store();
    assert_eq!(store.load_refused(site(), 7).await.unwrap(), Some(refused(7)));
    assert_eq!(store.load_refused(site(), 300).await.unwrap(), None);
    let expected = [
        StoredItem::Profile { key: ProfileKey::new(site(), User::new("u")), record: value },
        StoredItem::Refused(refused(7)),
        StoredItem::Attribute { site: site(), info: info("off", false) },
        StoredItem::Attribute { site: site(), info: info("on", true) },
    ];
    assert_eq!(records(&store, 1).await, expected);

    // What is not indexed says so; it is indexed as soon as the registry says that it shall be.
    assert_eq!(scan(&store, whole(site(), "on")).await.len(), 1);
    let off = store.scan_index(whole(site(), "off")).await;
    assert_eq!(off, Err(StoreError::NotIndexed("off".into())));
    let turned =
        SiteCommit { registry: vec![info("off", true), info("on", false)], ..commit(site(), vec![]) };
    store.commit(turned).await.unwrap();
    assert_eq!(scan(&store, whole(site(), "off")).await.len(), 1);
    assert!(store.scan_index(whole(site(), "on")).await.is_err());
}

/// A grave put by hash is the user's, until there is a profile.
async fn graves_come_by_hash(store: &Arc<dyn Store>) {
    let (user, gone, live) = (User::new("u"), grave(3), profile(1, 1, vec![]));
    let user_hash = hash::grave_hash(&site(), &user);
    let put_grave = SiteCommit { graves: vec![(user_hash, Arc::clone(&gone))], ..commit(site(), vec![]) };
    store.commit(put_grave).await.unwrap();
    let key = vec![ProfileKey::new(site(), user)];
    assert_eq!(load(store, key.clone()).await, [Some(Arc::clone(&gone))]);
    let items = records(store, 10).await;
    assert_eq!(items, [StoredItem::Grave { site: site(), user_hash, record: Arc::clone(&gone) }]);
    assert_eq!(store.commit(commit(site(), vec![put("u", None, &live)])).await, Err(StoreError::Conflict));
    store.commit(commit(site(), vec![put("u", Some(&gone), &live)])).await.unwrap();
    assert_eq!(load(store, key).await, [Some(live)]);
}

async fn conflicts_change_nothing(store: &Arc<dyn Store>) {
    let (one, two) = (profile(1, 1, vec![]), profile(1, 2, vec![("a", Value::Bool(true))]));
    store.commit(commit(site(), vec![put("u", None, &one)])).await.unwrap();
    let other = profile(2, 1, vec![("a", Value::Bool(true))]);
    for before in [None, Some(&two)] {
        let wrong = commit(site(), vec![put("v", None, &other), put("u", before, &two)]);
        assert_eq!(store.commit(wrong).await, Err(StoreError::Conflict));
    }
    let keys = ["u", "v"].map(|user| ProfileKey::new(site(), User::new(user)));
    assert_eq!(load(store, keys.to_vec()).await, [Some(one), None]);
    assert_eq!(scan(store, whole(site(), "a")).await, []);
}

async fn a_text_that_is_cut_is_found(store: &Arc<dyn Store>) {
    let text = |tail: &str| Value::String(format!("{}{tail}", "x".repeat(order::TEXT_PREFIX)).into());
    let (a, b) = (profile(1, 1, vec![("t", text("a"))]), profile(2, 1, vec![("t", text("b"))]));
    store.commit(commit(site(), vec![put("a", None, &a), put("b", None, &b)])).await.unwrap();
    let behind_a = IndexScan { from: Bound::Excluded(text("a")), ..whole(site(), "t") };
    let before_b = IndexScan { to: Bound::Excluded(text("b")), ..whole(site(), "t") };
    let prefix = IndexScan { prefix: Some("xx".into()), ..whole(site(), "t") };
    for wanted in [behind_a, before_b, prefix] {
        assert_eq!(scan(store, wanted).await.len(), 2);
    }
    let none = IndexScan { prefix: Some("xy".into()), ..whole(site(), "t") };
    assert_eq!(scan(store, none).await, []);
}

/// While its value moves up and down, a profile is always found under one of them.
async fn readers_never_miss_a_profile(store: Arc<dyn Store>) {
    let value = |version: u64| {
        let at = [1.0, 9.0, 5.0][(version % 3) as usize];
        profile(1, version, vec![("n", Value::Number(at))])
    };
    store.commit(commit(site(), vec![put("u", None, &value(0))])).await.unwrap();
    scan(&store, whole(site(), "n")).await;
    let reader = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for _ in 0..300 {
                let page = store.scan_index(whole(site(), "n")).await.unwrap();
                let (key, user) = page.entries.first().expect("the profile is there all the time");
                let found = load(&store, vec![user.clone()]).await.remove(0).unwrap();
                assert_eq!(found.live().unwrap().number, key.number);
            }
        })
    };
    let mut version = 0;
    while !reader.is_finished() {
        let change = commit(site(), vec![put("u", Some(&value(version)), &value(version + 1))]);
        store.commit(change).await.unwrap();
        version += 1;
    }
    reader.await.unwrap();
}

/// One user's next record: attributes, or a delete.
type Step = (u8, Option<[Option<u8>; 4]>);

fn attributes(picks: [Option<u8>; 4]) -> Vec<(&'static str, Value)> {
    let text = |n: u8| -> Box<str> {
        if n.is_multiple_of(3) { format!("{}{n}", "long".repeat(16)).into() } else { format!("t{n}").into() }
    };
    type Make = fn(u8, Box<str>) -> (&'static str, Value);
    let make: [Make; 4] = [
        |n, _| ("bool", Value::Bool(n.is_multiple_of(2))),
        |n, text| ("list", Value::List([text, format!("t{}", n / 2).into()].into())),
        |n, _| ("number", Value::Number(f64::from(n) - 4.0)),
        |_, text| ("text", Value::String(text)),
    ];
    picks.iter().zip(make).filter_map(|(pick, make)| pick.map(|n| make(n, text(n)))).collect()
}

fn random_histories<S: Subject>(runtime: &tokio::runtime::Runtime, make: impl Fn() -> S) {
    let pick = || proptest::option::of(0_u8..10);
    let step = (0_u8..12, proptest::option::weighted(0.8, [pick(), pick(), pick(), pick()]));
    let history = proptest::collection::vec(proptest::collection::vec(step, 1..4), 1..80);
    let mut runner = TestRunner::new(Config { cases: 16, failure_persistence: None, ..Config::default() });
    let bounds = (history, 0_u8..10, 0_u8..10, 1_usize..40);
    runner
        .run(&bounds, |(history, low, high, page)| {
            let subject = make();
            let mut oracle = BTreeMap::new();
            runtime.block_on(async {
                let store = subject.store();
                for (number, steps) in history.iter().enumerate() {
                    apply(&store, &mut oracle, number as u64 + 1, steps).await;
                }
                agree(&store, &oracle, (low, high), page).await;
                drop(store);
                agree(&subject.reopen().store(), &oracle, (low, high), page).await;
            });
            Ok(())
        })
        .unwrap();
}

async fn apply(
    store: &Arc<dyn Store>,
    oracle: &mut BTreeMap<ProfileKey, Arc<Record>>,
    position: u64,
    steps: &[Step],
) {
    let site = Site::new(if position.is_multiple_of(3) { "other" } else { "s" });
    let mut puts = BTreeMap::new();
    for (user, picks) in steps {
        let key = ProfileKey::new(site.clone(), User::new(format!("user{user}")));
        let before = oracle.get(&key).cloned();
        let version = before.as_ref().map_or(0, |record| record.version()) + 1;
        let number =
            before.as_ref().and_then(|r| r.live()).map_or(position * 100 + u64::from(*user), |p| p.number);
        let after = picks.map_or_else(|| grave(version), |picks| profile(number, version, attributes(picks)));
        puts.entry(key).or_insert((before, after));
    }
    let change = puts.iter().map(|(key, (before, after))| put(key.user.as_str(), before.as_ref(), after));
    store.commit(commit(site, change.collect())).await.unwrap();
    oracle.extend(puts.into_iter().map(|(key, (_, after))| (key, after)));
}

async fn agree(
    store: &Arc<dyn Store>,
    oracle: &BTreeMap<ProfileKey, Arc<Record>>,
    (low, high): (u8, u8),
    page: usize,
) {
    let keys: Vec<_> = oracle.keys().cloned().collect();
    let expected: Vec<_> = oracle.values().cloned().map(Some).collect();
    assert_eq!(load(store, keys).await, expected);

    let (mut profiles, mut graves) = (BTreeMap::new(), BTreeMap::new());
    for item in records(store, page).await {
        match item {
            StoredItem::Profile { key, record } => assert!(profiles.insert(key, record).is_none()),
            StoredItem::Grave { site, user_hash, record } => {
                assert!(graves.insert((site, user_hash), record).is_none());
            }
            other => panic!("{other:?}"),
        }
    }
    for (key, record) in oracle {
        match &**record {
            Record::Live(_) => assert_eq!(profiles.remove(key).as_ref(), Some(record)),
            Record::Deleted(_) => {
                let hash = hash::grave_hash(&key.site, &key.user);
                assert_eq!(graves.get(&(key.site.clone(), hash)), Some(record));
            }
        }
    }
    assert_eq!(profiles, BTreeMap::new());

    for site in ["s", "other"].map(Site::new) {
        for name in ["bool", "list", "number", "text", "unknown"] {
            let mut naive = BTreeSet::new();
            for (key, record) in oracle.iter().filter(|(key, _)| key.site == site) {
                let Some(found) = record.live() else { continue };
                if let Some(attribute) = found.attribute(name) {
                    for value in order::index_keys(&attribute.value) {
                        naive.insert((IndexKey { value, number: found.number }, key.clone()));
                    }
                }
            }
            let every = IndexScan { limit: page, ..whole(site.clone(), name) };
            assert_eq!(scan(store, every.clone()).await, naive.iter().cloned().collect::<Vec<_>>());
            if name == "number" {
                let (from, to) = (f64::from(low) - 4.0, f64::from(high) - 4.0);
                let (from, to) = (Value::Number(from), Value::Number(to));
                let (first, last) = (order::order_key(&from).unwrap(), order::order_key(&to).unwrap());
                let inside: Vec<_> =
                    naive.into_iter().filter(|(key, _)| key.value > first && key.value <= last).collect();
                let range = IndexScan { from: Bound::Excluded(from), to: Bound::Included(to), ..every };
                assert_eq!(scan(store, range).await, inside);
            }
        }
    }
}

mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::faulty::{Faults, FaultyStore};
    use crate::store::sled::{SledOptions, SledStore};

    struct Sled {
        dir: tempfile::TempDir,
        store: Arc<SledStore>,
        faulty: bool,
    }

    impl Sled {
        fn open(dir: tempfile::TempDir, faulty: bool) -> Self {
            let store = Arc::new(SledStore::open(dir.path(), NodeId(1), &SledOptions::default()).unwrap());
            Self { dir, store, faulty }
        }
    }

    impl Subject for Sled {
        fn store(&self) -> Arc<dyn Store> {
            if self.faulty {
                return Arc::new(FaultyStore::new(Arc::clone(&self.store), Faults::default()));
            }
            Arc::clone(&self.store) as Arc<dyn Store>
        }

        fn reopen(self) -> Self {
            self.store.close(Duration::from_mins(1)).unwrap();
            Self::open(self.dir, self.faulty)
        }
    }

    #[test]
    fn sled_conforms() {
        all(|| Sled::open(tempfile::tempdir().unwrap(), false));
    }

    #[test]
    fn a_faulty_store_without_faults_conforms() {
        all(|| Sled::open(tempfile::tempdir().unwrap(), true));
    }
}
