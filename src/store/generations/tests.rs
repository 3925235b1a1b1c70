use super::*;
use crate::model::Site;
use crate::store::{AttributeInfo, SiteCommit, Store};

const LIMIT: Duration = Duration::from_secs(10);

struct Dirs(tempfile::TempDir);

impl Dirs {
    fn new() -> Self {
        let dirs = Self(tempfile::tempdir().unwrap());
        fs::create_dir(dirs.0.path().join("journal")).unwrap();
        dirs
    }

    fn options(&self, node: u64, journal_end: u64) -> GenerationOptions {
        GenerationOptions {
            store_dir: self.0.path().join("store"),
            note_dir: self.0.path().join("journal"),
            node: NodeId(node),
            journal_end,
            sled: SledOptions::default(),
        }
    }

    fn open(&self) -> (Generations, Opened) {
        Generations::open(self.options(1, 100)).unwrap()
    }

    /// What a kill of the process would leave: a copy of the files.
    fn copy(&self) -> Self {
        let to = tempfile::tempdir().unwrap();
        copy_dir(self.0.path(), to.path());
        Self(to)
    }
}

fn copy_dir(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn low(applied_to: u64) -> LowWater {
    LowWater { applied_to, ..LowWater::default() }
}

async fn commit(store: &SledStore, position: u64) {
    let info = AttributeInfo {
        name: format!("a{position}").into(),
        value_type: crate::model::ValueType::Bool,
        first_seen: crate::model::EventTime::MIN,
        indexed: true,
        disabled: false,
    };
    let commit = SiteCommit {
        site: Site::new("s"),
        refused: vec![],
        forget_refused: vec![],
        registry: vec![info],
        profiles: vec![],
        last_position: position,
    };
    store.commit(commit).await.unwrap();
}

#[tokio::test]
async fn closed_in_order_it_is_trusted_at_the_next_start() {
    let dirs = Dirs::new();
    let (generations, opened) = dirs.open();
    assert_eq!((opened.distrust, opened.low_water), (Some(Distrust::NoStore), LowWater::default()));
    commit(&opened.store, 7).await;
    generations.set_complete();
    generations.close_clean(&opened.store, low(7), LIMIT).unwrap();
    drop((generations, opened.store));

    let (generations, opened) = dirs.open();
    assert_eq!((opened.distrust, opened.low_water), (None, low(7)));
    assert_eq!((generations.generation(), opened.store.registry().unwrap().len()), (1, 1));
    // Clean no longer, but of this boot.
    let left = note::read(&dirs.0.path().join("journal")).unwrap().unwrap();
    assert!(!left.clean && left.complete);
}

#[tokio::test]
async fn after_a_kill_it_is_trusted_if_what_was_flushed_is_there() {
    let dirs = Dirs::new();
    let (generations, opened) = dirs.open();
    commit(&opened.store, 7).await;
    let before = dirs.copy();
    generations.set_complete();
    let flushed = opened.store.flush().await.unwrap();
    generations.write_note(flushed, low(7)).unwrap();

    let killed = dirs.copy();
    let (_, reopened) = killed.open();
    assert_eq!((reopened.distrust, reopened.low_water), (None, low(7)));

    // An older copy of the store's files under the newer note.
    let store = Path::new("store").join("00000001").join("sled");
    let older = dirs.copy();
    fs::remove_dir_all(older.0.path().join(&store)).unwrap();
    fs::create_dir(older.0.path().join(&store)).unwrap();
    copy_dir(&before.0.path().join(&store), &older.0.path().join(&store));
    let (generations, reopened) = older.open();
    assert!(
        matches!(reopened.distrust, Some(Distrust::Behind | Distrust::NoMark)),
        "{:?}",
        reopened.distrust
    );
    assert_eq!((generations.generation(), reopened.store.mark().commit_number), (2, 0));
}

#[tokio::test]
async fn a_first_replay_that_was_interrupted_starts_over() {
    let dirs = Dirs::new();
    let (generations, opened) = dirs.open();
    commit(&opened.store, 7).await;
    generations.close_clean(&opened.store, low(7), LIMIT).unwrap();
    drop(generations);
    let (generations, opened) = dirs.open();
    assert_eq!(opened.distrust, Some(Distrust::Incomplete));
    assert_eq!((generations.generation(), opened.store.registry().unwrap().len()), (2, 0));
    assert!(!dirs.0.path().join("store/00000001").exists());
}

#[tokio::test]
async fn a_store_that_is_gone_or_damaged_is_replaced() {
    let dirs = Dirs::new();
    let (generations, opened) = dirs.open();
    commit(&opened.store, 7).await;
    generations.set_complete();
    generations.close_clean(&opened.store, low(7), LIMIT).unwrap();
    drop(generations);

    let gone = dirs.copy();
    fs::remove_dir_all(gone.0.path().join("store")).unwrap();
    assert_eq!(gone.open().1.distrust, Some(Distrust::NoGeneration));

    let damaged = dirs.copy();
    fs::write(damaged.0.path().join("store/00000001/sled/db"), b"nonsense").unwrap();
    let distrust = damaged.open().1.distrust;
    assert!(matches!(distrust, Some(Distrust::CannotOpen | Distrust::NoMark)), "{distrust:?}");

    let no_note = dirs.copy();
    fs::remove_file(no_note.0.path().join("journal/store-note")).unwrap();
    assert_eq!(no_note.open().1.distrust, Some(Distrust::NoNote));
}

#[tokio::test]
async fn what_is_not_ours_to_replace_is_refused() {
    let dirs = Dirs::new();
    let (generations, opened) = dirs.open();
    let again = Generations::open(dirs.options(1, 100)).err();
    assert!(matches!(again, Some(OpenError::InUse(_))), "{again:?}");
    commit(&opened.store, 7).await;
    generations.set_complete();
    generations.close_clean(&opened.store, low(7), LIMIT).unwrap();
    drop(generations);

    let other = Generations::open(dirs.options(2, 100)).err();
    assert!(matches!(other, Some(OpenError::Foreign { owner: NodeId(1), .. })), "{other:?}");
    let older_journal = Generations::open(dirs.options(1, 6)).err();
    assert!(matches!(older_journal, Some(OpenError::AheadOfJournal { applied: 7, end: 6, .. })));
}
