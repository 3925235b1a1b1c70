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

    /// Opens it and adopts a new generation.
    fn begin(&self) -> (Generations, Arc<SledStore>) {
        let (generations, opened) = self.open();
        assert!(opened.store.is_none());
        let store = adopt(&generations, None);
        (generations, store)
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

fn adopt(generations: &Generations, dir: Option<&Path>) -> Arc<SledStore> {
    let mut candidate = generations.begin(dir).unwrap();
    let retired = generations.adopt(&mut candidate, Flushed { commit_number: 0 }, low(0)).unwrap();
    if let Some(dir) = &retired.dir {
        remove_dir(dir);
    }
    candidate.store
}

async fn commit(store: &SledStore, position: u64) {
    let info = AttributeInfo {
        name: format!("a{position}").into(),
        value_type: crate::model::ValueType::Bool,
        first_seen: crate::model::EventTime::MIN,
        indexed: true,
        disabled: false,
    };
    let commit =
        SiteCommit { registry: vec![info], last_position: position, ..SiteCommit::of(Site::new("s")) };
    store.commit(commit).await.unwrap();
}

#[tokio::test]
async fn closed_in_order_it_is_trusted_at_the_next_start() {
    let dirs = Dirs::new();
    let (generations, opened) = dirs.open();
    assert_eq!((opened.distrust, opened.low_water), (Some(Distrust::NoStore), LowWater::default()));
    let store = adopt(&generations, None);
    commit(&store, 7).await;
    generations.close_clean(&store, low(7), LIMIT).unwrap();
    drop((generations, store));

    let (generations, opened) = dirs.open();
    assert_eq!((opened.distrust, opened.low_water), (None, low(7)));
    let store = opened.store.unwrap();
    assert_eq!((generations.generation(), store.registry().unwrap().len()), (1, 1));
    // Clean no longer, but of this boot.
    let left = note::read(&dirs.0.path().join("journal")).unwrap().unwrap();
    assert!(!left.clean && left.complete);
}

#[tokio::test]
async fn after_a_kill_it_is_trusted_if_what_was_flushed_is_there() {
    let dirs = Dirs::new();
    let (generations, store) = dirs.begin();
    commit(&store, 7).await;
    let before = dirs.copy();
    let flushed = store.flush().await.unwrap();
    generations.write_note(1, flushed, low(7)).unwrap();
    // Of a generation that is out of use nothing is noted.
    generations.write_note(9, flushed, low(9)).unwrap();

    let killed = dirs.copy();
    let (_, reopened) = killed.open();
    assert_eq!((reopened.distrust, reopened.low_water), (None, low(7)));

    // An older copy of the store's files under the newer note.
    let files = Path::new("store").join("00000001").join("sled");
    let older = dirs.copy();
    fs::remove_dir_all(older.0.path().join(&files)).unwrap();
    fs::create_dir(older.0.path().join(&files)).unwrap();
    copy_dir(&before.0.path().join(&files), &older.0.path().join(&files));
    let (generations, reopened) = older.open();
    let distrust = reopened.distrust;
    assert!(matches!(distrust, Some(Distrust::Behind | Distrust::NoMark)), "{distrust:?}");
    // What had been dealt with is known still.
    assert_eq!(reopened.low_water, low(7));
    let store = adopt(&generations, None);
    assert_eq!((generations.generation(), store.mark().commit_number), (2, 0));
}

#[tokio::test]
async fn a_rebuild_that_was_interrupted_leaves_no_trace_and_is_wanted_again() {
    let dirs = Dirs::new();
    let (generations, store) = dirs.begin();
    commit(&store, 7).await;
    let wanted = Wanted { dir: None, reason: "because".to_owned(), owner: "me".to_owned() };
    generations.want(Some(wanted.clone())).unwrap();
    let candidate = generations.begin(None).unwrap();
    assert_eq!(candidate.number, 2);
    commit(&candidate.store, 8).await;
    let flushed = store.flush().await.unwrap();
    generations.write_note(1, flushed, low(7)).unwrap();

    let killed = dirs.copy();
    let (generations, opened) = killed.open();
    assert_eq!((opened.distrust, opened.rebuild), (None, Some(wanted.clone())));
    assert!(!killed.0.path().join("store/00000002").exists());
    generations.want(None).unwrap();
    assert_eq!(note::read(&killed.0.path().join("journal")).unwrap().unwrap().rebuild, None);

    // The same when there was no generation in use.
    let (generations, store) = (dirs.copy(), store);
    drop(store);
    let given_up = Generations::open(generations.options(1, 100)).unwrap().0;
    let old = given_up.give_up().unwrap();
    assert!(old.dir.as_ref().unwrap().ends_with("00000001"));
    let killed = generations.copy();
    let (_, opened) = killed.open();
    assert_eq!((opened.distrust, opened.rebuild), (Some(Distrust::Incomplete), Some(wanted)));
    assert_eq!(opened.low_water, low(7));
}

#[tokio::test]
async fn one_that_is_abandoned_is_gone_and_its_number_is_not_used_again() {
    let dirs = Dirs::new();
    let (generations, _store) = dirs.begin();
    let candidate = generations.begin(None).unwrap();
    assert!(generations.abandon(&candidate));
    assert!(!candidate.dir.exists());
    assert_eq!(generations.begin(None).unwrap().number, 3);
    assert_eq!(generations.generation(), 1);
}

#[tokio::test]
async fn one_that_was_built_elsewhere_is_found_unless_the_configuration_says_otherwise() {
    let dirs = Dirs::new();
    let (generations, _old) = dirs.begin();
    let elsewhere = dirs.0.path().join("other disk");
    let store = adopt(&generations, Some(&elsewhere));
    assert!(elsewhere.join("00000002").exists() && !dirs.0.path().join("store/00000001").exists());
    commit(&store, 7).await;
    generations.close_clean(&store, low(7), LIMIT).unwrap();
    drop((generations, store));

    let (generations, opened) = dirs.open();
    assert_eq!((opened.distrust, generations.generation()), (None, 2));
    assert_eq!(opened.store.unwrap().registry().unwrap().len(), 1);
    let again = Generations::open(dirs.options(1, 100)).err();
    assert!(matches!(again, Some(OpenError::InUse(dir)) if dir == elsewhere));
    drop(generations);

    // Another directory is configured: the old one is left alone.
    let moved = GenerationOptions { store_dir: dirs.0.path().join("third"), ..dirs.options(1, 100) };
    let (generations, opened) = Generations::open(moved).unwrap();
    assert_eq!((opened.distrust, opened.low_water), (Some(Distrust::NoGeneration), low(7)));
    assert_eq!(generations.begin(None).unwrap().number, 3);
    assert!(elsewhere.join("00000002").exists());
}

#[tokio::test]
async fn a_store_that_is_gone_or_damaged_is_not_trusted() {
    let dirs = Dirs::new();
    let (generations, store) = dirs.begin();
    commit(&store, 7).await;
    generations.close_clean(&store, low(7), LIMIT).unwrap();
    drop(generations);

    let gone = dirs.copy();
    fs::remove_dir_all(gone.0.path().join("store")).unwrap();
    assert_eq!(gone.open().1.distrust, Some(Distrust::NoGeneration));

    let damaged = dirs.copy();
    fs::write(damaged.0.path().join("store/00000001/sled/db"), b"nonsense").unwrap();
    let distrust = damaged.open().1.distrust;
    assert!(matches!(distrust, Some(Distrust::CannotOpen | Distrust::NoMark)), "{distrust:?}");
    assert!(!damaged.0.path().join("store/00000001").exists());

    let no_note = dirs.copy();
    fs::remove_file(no_note.0.path().join("journal/store-note")).unwrap();
    assert_eq!(no_note.open().1.distrust, Some(Distrust::NoNote));
}

#[tokio::test]
async fn what_is_not_ours_to_replace_is_refused() {
    let dirs = Dirs::new();
    let (generations, store) = dirs.begin();
    let again = Generations::open(dirs.options(1, 100)).err();
    assert!(matches!(again, Some(OpenError::InUse(_))), "{again:?}");
    commit(&store, 7).await;
    generations.close_clean(&store, low(7), LIMIT).unwrap();
    generations.release_lock();

    let other = Generations::open(dirs.options(2, 100)).err();
    assert!(matches!(other, Some(OpenError::Foreign { owner: NodeId(1), .. })), "{other:?}");
    let older_journal = Generations::open(dirs.options(1, 6)).err();
    assert!(matches!(older_journal, Some(OpenError::AheadOfJournal { applied: 7, end: 6, .. })));
}
