use std::task::Poll;

use super::*;
use crate::model::NodeId;
use crate::store::sled::{SledOptions, SledStore};

fn stores(dir: &tempfile::TempDir) -> (Arc<FaultyStore<SledStore>>, Faults) {
    let faults = Faults::default();
    let options = SledOptions { hook: Some(Arc::new(faults.clone())), ..SledOptions::default() };
    let sled = SledStore::open(dir.path(), NodeId(1), &options).unwrap();
    (Arc::new(FaultyStore::new(Arc::new(sled), faults.clone())), faults)
}

fn load(store: &FaultyStore<SledStore>, site: &str) -> StoreFuture<Vec<Option<Arc<Record>>>> {
    store.load(Purpose::Get, vec![ProfileKey::new(Site::new(site), User::new("u"))])
}

fn empty_commit(site: &str) -> SiteCommit {
    SiteCommit { last_position: 1, ..SiteCommit::of(Site::new(site)) }
}

#[tokio::test]
async fn at_the_call_a_hang_is_one_sites_own() {
    let dir = tempfile::tempdir().unwrap();
    let (store, faults) = stores(&dir);
    faults.add(Fault::new(FaultKind::Hang, FaultLevel::Call).of_site(Site::new("sick")));
    let mut hung = load(&store, "sick");
    assert!(matches!(futures_util::poll!(&mut hung), Poll::Pending));
    assert_eq!(faults.waiting(), 1);
    assert_eq!(load(&store, "well").await, Ok(vec![None]));
    faults.clear();
    assert_eq!(hung.await, Ok(vec![None]));
    assert_eq!(faults.waiting(), 0);
    // A caller that gives up is not counted for ever.
    faults.add(Fault::new(FaultKind::Hang, FaultLevel::Call).of_user(User::new("u")));
    let mut hung = load(&store, "s");
    assert!(matches!(futures_util::poll!(&mut hung), Poll::Pending));
    drop(hung);
    assert_eq!(faults.waiting(), 0);
}

#[tokio::test]
async fn on_the_thread_a_hang_holds_up_every_commit_and_no_read() {
    let dir = tempfile::tempdir().unwrap();
    let (store, faults) = stores(&dir);
    faults.add(Fault::new(FaultKind::Hang, FaultLevel::Thread).on(Operation::Commit));
    let (one, mut two) = (store.commit(empty_commit("a")), store.commit(empty_commit("b")));
    faults.until_waiting(1).await;
    assert!(matches!(futures_util::poll!(&mut two), Poll::Pending));
    assert_eq!(load(&store, "a").await, Ok(vec![None]));
    faults.clear();
    assert_eq!(one.await.unwrap().commit_number, 1);
    assert_eq!(two.await.unwrap().commit_number, 2);
}

#[tokio::test]
async fn an_answer_that_is_lost_was_given() {
    let dir = tempfile::tempdir().unwrap();
    let (store, faults) = stores(&dir);
    let lost = StoreError::Io("lost".to_owned());
    faults.add(Fault::new(FaultKind::Error(lost.clone()), FaultLevel::Answer).on(Operation::Commit));
    assert_eq!(store.commit(empty_commit("a")).await, Err(lost));
    faults.clear();
    assert_eq!(store.commit(empty_commit("a")).await.unwrap().commit_number, 2);
}

#[tokio::test]
async fn a_share_strikes_evenly_and_panics_on_the_thread_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let (store, faults) = stores(&dir);
    faults.add(Fault::new(FaultKind::Panic, FaultLevel::Thread).share(250));
    let mut struck = vec![];
    for _ in 0..8 {
        struck.push(load(&store, "s").await.is_err());
    }
    assert_eq!(struck, [false, false, false, true, false, false, false, true]);
    assert_eq!(faults.struck(), 2);
    faults.clear();
    assert_eq!(load(&store, "s").await, Ok(vec![None]));
}

#[tokio::test]
async fn a_delay_ends_by_time_or_when_it_is_cleared() {
    let dir = tempfile::tempdir().unwrap();
    let (store, faults) = stores(&dir);
    faults.add(Fault::new(FaultKind::Delay(Duration::from_millis(1)), FaultLevel::Call));
    assert_eq!(load(&store, "s").await, Ok(vec![None]));
    faults.clear();
    faults.add(Fault::new(FaultKind::Delay(Duration::from_hours(1)), FaultLevel::Thread));
    let late = load(&store, "s");
    faults.until_waiting(1).await;
    faults.clear();
    assert_eq!(late.await, Ok(vec![None]));
}
