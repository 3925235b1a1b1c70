use super::*;
use std::ops::Bound;

use crate::model::{Applied, Attribute, EventTime, Grave, Profile, User, Value, ValueType};
use crate::store::{ProfilePut, StoredItem};

const NODE: NodeId = NodeId(7);

fn profile(number: u64, version: u64) -> Arc<Record> {
    let mut applied = Applied::default();
    applied.advance(NODE, number + version);
    Arc::new(Record::Live(Profile {
        number,
        version,
        created_at: EventTime::MIN,
        updated_at: EventTime::MIN,
        attributes: vec![],
        unset: vec![],
        erased: None,
        applied,
        recent: vec![],
    }))
}

fn grave(version: u64) -> Arc<Record> {
    let (occurred_at, accepted_at) = (EventTime::MIN, EventTime::MIN);
    let (applied, recent) = (Applied::default(), vec![]);
    Arc::new(Record::Deleted(Grave { version, occurred_at, accepted_at, applied, recent }))
}

/// User, before, after.
type Put<'a> = (&'a str, Option<Arc<Record>>, Arc<Record>);

fn commit(puts: &[Put<'_>], last_position: u64) -> SiteCommit {
    let profiles = puts.iter().map(|(user, before, after)| ProfilePut {
        user: User::new(*user),
        before: before.clone(),
        after: after.clone(),
    });
    SiteCommit { profiles: profiles.collect(), last_position, ..SiteCommit::of(Site::new("s")) }
}

fn key(user: &str) -> ProfileKey {
    ProfileKey::new(Site::new("s"), User::new(user))
}

async fn load(store: &SledStore, user: &str) -> Option<Arc<Record>> {
    store.load(Purpose::Get, vec![key(user)]).await.unwrap().remove(0)
}

#[tokio::test]
async fn a_commit_is_there_after_a_reopen_with_its_mark() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(dir.path(), NODE, &SledOptions::default()).unwrap();
    let first = profile(1, 1);
    assert_eq!(store.commit(commit(&[("a", None, first.clone())], 5)).await.unwrap().commit_number, 1);
    assert!(store.unflushed_bytes() > 0);
    assert_eq!(store.flush().await.unwrap().commit_number, 1);
    assert_eq!(store.unflushed_bytes(), 0);
    store.close(Duration::from_secs(10)).unwrap();
    assert_eq!(store.flush().await, Err(StoreError::Closed));

    let store = SledStore::open(dir.path(), NODE, &SledOptions::default()).unwrap();
    assert_eq!(load(&store, "a").await, Some(first));
    assert_eq!(store.mark(), Mark { node: NODE, commit_number: 1, last_position: 5, profiles: 1 });
}

#[tokio::test]
async fn a_conflict_applies_nothing_of_the_commit() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(dir.path(), NODE, &SledOptions::default()).unwrap();
    store.commit(commit(&[("a", None, profile(1, 1))], 1)).await.unwrap();
    let wrong = commit(&[("b", None, profile(2, 1)), ("a", Some(profile(1, 9)), profile(1, 10))], 2);
    assert_eq!(store.commit(wrong).await, Err(StoreError::Conflict));
    assert_eq!(load(&store, "b").await, None);
    assert_eq!(store.mark().commit_number, 1);
}

#[tokio::test]
async fn a_delete_leaves_a_grave_and_the_next_profile_hides_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(dir.path(), NODE, &SledOptions::default()).unwrap();
    let (first, gone, again) = (profile(1, 1), grave(2), profile(9, 3));
    store.commit(commit(&[("a", None, first.clone())], 1)).await.unwrap();
    store.commit(commit(&[("a", Some(first), gone.clone())], 2)).await.unwrap();
    assert_eq!(load(&store, "a").await, Some(gone.clone()));
    let items = store.scan_records(None, 10).await.unwrap().items;
    assert!(matches!(&*items, [StoredItem::Grave { record, .. }] if *record == gone));
    assert_eq!(store.mark().profiles, 0);
    store.commit(commit(&[("a", Some(gone), again.clone())], 3)).await.unwrap();
    assert_eq!(load(&store, "a").await, Some(again));
    assert_eq!(store.mark().profiles, 1);
}

#[tokio::test]
async fn a_second_open_of_one_directory_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let _store = SledStore::open(dir.path(), NODE, &SledOptions::default()).unwrap();
    assert!(SledStore::open(dir.path(), NODE, &SledOptions::default()).is_err());
}

/// Panics at commits and blocks gets until told.
struct Trouble(crossbeam_channel::Receiver<()>);

impl WorkerHook for Trouble {
    fn before(&self, call: &Call) -> Result<(), StoreError> {
        match call.operation {
            Operation::Commit => panic!("told to"),
            Operation::Load(Purpose::Get) => self.0.recv().map_err(|_| StoreError::Closed),
            _ => Ok(()),
        }
    }
}

#[tokio::test]
async fn panics_are_caught_and_calls_that_hang_are_seen_while_other_pools_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (release, gate) = crossbeam_channel::bounded(0);
    let options = SledOptions {
        get_threads: 1,
        queue: 1,
        hook: Some(Arc::new(Trouble(gate))),
        ..SledOptions::default()
    };
    let store = SledStore::open(dir.path(), NODE, &options).unwrap();
    // Its builder would take the one place in the writer's queue.
    while store.index_state() != IndexState::Ready {
        std::thread::yield_now();
    }
    let told = store.commit(commit(&[("a", None, profile(1, 1))], 1)).await;
    assert_eq!(told, Err(StoreError::Panicked("told to".to_owned())));

    let hung = store.load(Purpose::Get, vec![key("a")]);
    while store.oldest_call(Instant::now()).is_none() {
        std::thread::yield_now();
    }
    // It hangs before it has come to sled: nothing else hangs with it.
    assert_eq!(store.oldest_inside(Instant::now() + Duration::from_mins(1)), None);
    // What panicked was the hook, not sled.
    assert!(!store.is_damaged() && !store.has_failed());
    let waiting = store.load(Purpose::Get, vec![key("a")]);
    assert_eq!(store.load(Purpose::Get, vec![key("a")]).await, Err(StoreError::Busy));
    assert_eq!(store.load(Purpose::Apply, vec![key("a")]).await, Ok(vec![None]));
    let later = Instant::now() + Duration::from_mins(1);
    let gets = store.pools(later).into_iter().find(|p| p.name == "store-get").unwrap();
    assert_eq!((gets.older_than(Duration::from_secs(59)), gets.queued), (1, 1));

    drop(waiting);
    release.send(()).unwrap();
    assert_eq!(hung.await, Ok(vec![None]));
    store.close(Duration::from_secs(10)).unwrap();
}

#[tokio::test]
async fn a_panic_inside_is_damage_and_a_write_that_failed_is_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(dir.path(), NODE, &SledOptions::default()).unwrap();
    let read = |result: Result<(), StoreError>| {
        store.run(&store.gets, Operation::Load(Purpose::Get), None, move |_, _| result)
    };
    assert!(read(Err(StoreError::Io("a read".to_owned()))).await.is_err());
    assert!(!store.is_damaged() && !store.has_failed());
    let write = store.run(&store.writer, Operation::Commit, None, |_, _| -> Result<(), _> {
        Err(StoreError::Io("a write".to_owned()))
    });
    assert!(write.await.is_err());
    assert!(!store.is_damaged() && store.has_failed());
    let told: StoreFuture<()> = store
        .run(&store.gets, Operation::Load(Purpose::Get), None, |_, _| panic!("what it asserts is not so"));
    assert!(matches!(told.await, Err(StoreError::Panicked(_))));
    assert!(store.is_damaged());
}

#[tokio::test]
async fn a_proof_leaves_nothing_and_files_that_are_gone_are_missed() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(&dir.path().join("sled"), NODE, &SledOptions::default()).unwrap();
    let first = profile(1, 1);
    store.commit(commit(&[("a", None, first.clone())], 5)).await.unwrap();
    store.prove(1 << 20).await.unwrap();
    assert_eq!(store.scan_records(None, 10).await.unwrap().items.len(), 1);
    store.check_files().await.unwrap();
    std::fs::rename(dir.path().join("sled"), dir.path().join("away")).unwrap();
    assert!(matches!(store.check_files().await, Err(StoreError::Failed(_))));
    assert!(store.is_lost() && !store.is_damaged());
    // Its open files serve still.
    assert_eq!(load(&store, "a").await, Some(first));
    assert!(store.retire(Duration::from_secs(10)) && store.has_ended());
    assert_eq!(store.flush().await, Err(StoreError::Closed));
}

#[tokio::test]
async fn what_does_not_fit_the_index_is_said_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let options = SledOptions { index_capacity: 4 << 10, ..SledOptions::default() };
    let store = SledStore::open(dir.path(), NODE, &options).unwrap();
    let with = |number: u64| {
        let Record::Live(mut profile) = Record::clone(&profile(number, 1)) else { unreachable!() };
        let value = Value::String(format!("{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).into());
        profile.attributes = vec![Attribute { name: "n".into(), value, occurred_at: EventTime::MIN }];
        Arc::new(Record::Live(profile))
    };
    let mut put = commit(&[("a", None, with(1))], 1);
    let info = AttributeInfo {
        name: "n".into(),
        value_type: ValueType::String,
        first_seen: EventTime::MIN,
        indexed: true,
        disabled: false,
    };
    put.registry = vec![info.clone()];
    store.commit(put).await.unwrap();
    assert_eq!((store.attributes_left_out(), store.index_sizes(&Site::new("s")).len()), (0, 1));
    let users: Vec<_> = (2..1000).map(|number| format!("u{number}")).collect();
    let puts: Vec<_> = (2..).zip(&users).map(|(number, user)| (user.as_str(), None, with(number))).collect();
    store.commit(commit(&puts, 2)).await.unwrap();
    assert_eq!(store.attributes_left_out(), 1);
    let scan = IndexScan {
        site: Site::new("s"),
        attribute: "n".into(),
        from: Bound::Unbounded,
        to: Bound::Unbounded,
        prefix: None,
        after: None,
        limit: 10,
    };
    assert_eq!(store.scan_index(scan).await.unwrap_err(), StoreError::NotIndexed("n".into()));
    // Nobody wants it indexed any more: then it is not left out.
    let mut off = commit(&[], 3);
    off.registry = vec![AttributeInfo { indexed: false, ..info }];
    store.commit(off).await.unwrap();
    assert_eq!(store.attributes_left_out(), 0);
    store.flush().await.unwrap();
    assert_eq!(store.disk_bytes(), std::fs::metadata(dir.path().join("db")).unwrap().len());
}

#[tokio::test]
async fn an_empty_generation_is_filled_in_the_order_of_keys_and_no_other_way() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(dir.path(), NODE, &SledOptions::default()).unwrap();
    while store.index_state() != IndexState::Ready {
        std::thread::yield_now();
    }
    // Numbers in another order than keys.
    let (a, b, c) = (profile(7, 1), profile(3, 1), profile(5, 1));
    let mut filling = store.filling();
    let two = [(key("a"), a.clone()), (key("b"), b.clone())];
    assert_eq!(filling.put(&two, 9).await.unwrap().commit_number, 1);
    for wrong in ["b", "aa"] {
        assert_eq!(filling.put(&[(key(wrong), c.clone())], 9).await, Err(StoreError::Conflict), "{wrong}");
    }
    let twice = [(key("c"), c.clone()), (key("c"), c.clone())];
    assert_eq!(filling.put(&twice, 9).await, Err(StoreError::Conflict));
    let mut with_plan = Record::clone(&c);
    if let Record::Live(profile) = &mut with_plan {
        let (name, value) = ("plan".into(), Value::String("pro".into()));
        profile.attributes = vec![Attribute { name, value, occurred_at: EventTime::MIN }];
    }
    let with_plan = Arc::new(with_plan);
    filling.put(&[(key("c"), with_plan.clone())], 12).await.unwrap();
    filling.finish();
    assert_eq!(store.mark(), Mark { node: NODE, commit_number: 2, last_position: 12, profiles: 3 });
    assert_eq!((load(&store, "a").await, load(&store, "b").await), (Some(a.clone()), Some(b)));
    let scan = IndexScan {
        site: Site::new("s"),
        attribute: "plan".into(),
        from: Bound::Unbounded,
        to: Bound::Unbounded,
        prefix: None,
        after: None,
        limit: 10,
    };
    let page = store.scan_index(scan).await.unwrap();
    let found: Vec<_> = page.entries.iter().map(|(entry, profile)| (entry.number, profile.clone())).collect();
    assert_eq!(found, [(5, key("c"))]);

    // From the first commit on it is a store like any other.
    store.commit(commit(&[("a", Some(a), profile(7, 2))], 13)).await.unwrap();
    assert_eq!(store.filling().put(&[(key("z"), profile(8, 1))], 14).await, Err(StoreError::Conflict));
    assert_eq!(load(&store, "z").await, None);
    store.close(Duration::from_secs(10)).unwrap();
    let store = SledStore::open(dir.path(), NODE, &SledOptions::default()).unwrap();
    assert_eq!(store.filling().put(&[(key("z"), profile(8, 1))], 14).await, Err(StoreError::Conflict));
}
