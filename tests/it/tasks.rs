//! Snapshots, rebuilds and backups of a server under load, and their ends at any moment.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use steadfast::proto::TaskState;

use crate::agree::check_index;
use crate::clients::{Population, Writer, check_all, write_all};
use crate::orders::{Operator, Task, operator, status};
use crate::support::*;

const CLIENTS: u64 = 4;

/// Kept small in `cargo test`; CI asks for more.
fn rounds(few: u64) -> u64 {
    std::env::var("STEADFAST_TASK_ROUNDS").map_or(few, |text| text.parse().unwrap())
}

fn home() -> Home {
    Home::new().set("journal.segment=1 MiB")
}

/// Clients that know of rebuilds.
fn writers() -> Vec<Writer> {
    let mut writers = Writer::some(CLIENTS);
    for writer in &mut writers {
        writer.beside_rebuilds();
    }
    writers
}

/// Lets all write while `task` runs from beginning to end.
async fn beside(server: &Server, writers: Vec<Writer>, task: &Task) -> Vec<Writer> {
    let done = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&done);
    let mut operator = operator(server).await;
    let written = write_all(server, writers, move |count| count < 50 || !over.load(Ordering::SeqCst));
    let task = async {
        task.complete(&mut operator).await;
        done.store(true, Ordering::SeqCst);
    };
    tokio::join!(written, task).0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_and_rebuilds_under_load_lose_nothing() {
    let home = home();
    let population = Population(400);
    let mut writers = writers();
    let server = home.start();
    population.write(&mut server.client().await).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let tasks = [
        Task::Snapshot,
        Task::Rebuild(None),
        Task::Snapshot,
        Task::Snapshot,
        Task::Rebuild(Some(elsewhere.path().join("store"))),
    ];
    for task in tasks {
        writers = beside(&server, writers, &task).await;
        let mut client = server.client().await;
        check_all(&mut client, &mut writers).await;
        population.check(&mut client).await;
    }
    server.kill();
    // From the last snapshot and what came after it alone.
    for store in [home.path("store"), elsewhere.path().join("store")] {
        if store.exists() {
            fs::remove_dir_all(store).unwrap();
        }
    }
    let server = home.start();
    let mut client = server.client().await;
    check_all(&mut client, &mut writers).await;
    population.check(&mut client).await;
    server.stop();
    check_index(&home).await;
}

/// When a server is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// When files have come or gone so often since the task began.
    Change(u64),
    /// When the task has done so much.
    Progress(u64),
    /// As soon as it is done: before the store's next flush.
    Done,
}

/// The names of all files.
fn names(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        // What goes away meanwhile is not there.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            names(&entry.path(), found);
        }
        found.push(entry.path());
    }
}

/// Waits for `moment` of a task that has begun, or for its end.
async fn wait_for(moment: Moment, task: &Task, operator: &mut Operator, dir: &Path) {
    let mut changes = 0;
    let look = || {
        let mut found = Vec::new();
        names(dir, &mut found);
        found.sort();
        found
    };
    let mut before = look();
    loop {
        let now = look();
        changes += u64::from(now != before);
        before = now;
        let due = match moment {
            Moment::Change(wanted) => changes >= wanted,
            Moment::Progress(_) | Moment::Done => false,
        };
        if due {
            return;
        }
        let Ok(status) = status(operator).await else { return };
        let (state, done, error) = task.state(&status);
        assert_ne!(state, TaskState::Failed, "{task:?}: {error}");
        if state == TaskState::Done || matches!(moment, Moment::Progress(wanted) if done >= wanted) {
            return;
        }
    }
}

/// kill -9 in the middle of snapshots and rebuilds, of their switches and of the release of segments.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_is_killed_leaves_all_as_it_was() {
    let home = home();
    let population = Population(2000);
    let mut writers = writers();
    let mut numbers = Numbers(77);
    let server = home.start();
    population.write(&mut server.client().await).await;
    server.stop();
    let rounds = rounds(6);
    for round in 0..rounds {
        let task = if numbers.below(2) == 0 { Task::Snapshot } else { Task::Rebuild(None) };
        let moment = match round % 4 {
            0 | 1 => Moment::Change(1 + numbers.below(8)),
            2 => Moment::Progress(numbers.below(2500)),
            _ => Moment::Done,
        };
        println!("round {round}: {task:?}, {moment:?}");
        let server = home.start();
        check_all(&mut server.client().await, &mut writers).await;
        let mut operator = operator(&server).await;
        let kill = server.signaller(rustix::process::Signal::KILL);
        let count = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&count);
        let written = write_all(&server, writers, move |count| {
            counted.store(count, Ordering::SeqCst);
            true
        });
        let killed = async {
            while count.load(Ordering::SeqCst) < 30 {
                tokio::task::yield_now().await;
            }
            task.begin(&mut operator).await.unwrap_or_else(|status| panic!("{task:?}: {status:?}"));
            wait_for(moment, &task, &mut operator, home.dir()).await;
            kill();
        };
        (writers, ()) = tokio::join!(written, killed);
        server.ended();
        if numbers.below(3) == 0 {
            // The store was all that was lost.
            fs::remove_dir_all(home.path("store")).unwrap();
        }
        if round % 5 == 0 {
            check_index(&home).await;
        }
    }
    let server = home.start();
    let mut client = server.client().await;
    check_all(&mut client, &mut writers).await;
    population.check(&mut client).await;
    server.stop();
    // Nothing is left of what was interrupted.
    let mut left = Vec::new();
    names(home.dir(), &mut left);
    left.retain(|path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        // The next manifest's room is kept.
        name != "manifest.tmp" && (name.contains("tmp") || name.contains("part"))
    });
    assert_eq!(left, Vec::<PathBuf>::new());
}

/// What is done to the store of a running server.
type Damage = (&'static str, fn(&Path, &mut Numbers));

fn sled_files(store: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    names(store, &mut found);
    found.retain(|path| path.is_file() && path.components().any(|part| part.as_os_str() == "sled"));
    found
}

const DAMAGES: [Damage; 4] = [
    ("removed", |store, _| fs::remove_dir_all(store).unwrap()),
    ("its files removed", |store, _| {
        for file in sled_files(store) {
            fs::remove_file(file).unwrap();
        }
    }),
    ("cut short", |store, numbers| {
        for file in sled_files(store) {
            let file = fs::OpenOptions::new().write(true).open(file).unwrap();
            let length = file.metadata().unwrap().len();
            file.set_len(numbers.below(length.max(1))).unwrap();
        }
    }),
    ("overwritten", |store, numbers| {
        use std::os::unix::fs::FileExt as _;
        for file in sled_files(store) {
            let file = fs::OpenOptions::new().write(true).open(file).unwrap();
            let length = file.metadata().unwrap().len();
            for _ in 0..200 {
                let bytes = numbers.next().to_le_bytes();
                file.write_all_at(&bytes, numbers.below(length.saturating_sub(8).max(1))).unwrap();
            }
        }
    }),
];

/// The store's directory damaged under the running server, while clients write and read: then a new one is built,
/// by itself or when it is asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_damaged_while_it_runs_is_replaced() {
    let mut numbers = Numbers(5);
    for (what, damage) in DAMAGES {
        for snapshot_first in [false, true] {
            println!("the store is {what}, {} a snapshot", if snapshot_first { "with" } else { "without" });
            // Little in memory, so that the files are read.
            let home = home().set("cache.profile_capacity=1 MiB").set("store.cache_capacity=1 MiB");
            let population = Population(3000);
            let server = home.start();
            let mut client = server.client().await;
            population.write(&mut client).await;
            let mut writers = write_all(&server, writers(), |count| count < 200).await;
            check_all(&mut client, &mut writers).await;
            population.check(&mut client).await;
            let mut operator = operator(&server).await;
            if snapshot_first {
                Task::Snapshot.complete(&mut operator).await;
            }
            let store = home.path("store");
            let hit = Arc::new(AtomicBool::new(false));
            let done = Arc::clone(&hit);
            let written = write_all(&server, writers, move |_| !done.load(Ordering::SeqCst));
            let replaced = async {
                damage(&store, &mut numbers);
                let task = Task::Rebuild(None);
                // One that has begun by itself does as well.
                if let Err(refused) = task.begin(&mut operator).await {
                    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused:?}");
                }
                task.ended(&mut operator).await;
                hit.store(true, Ordering::SeqCst);
            };
            (writers, ()) = tokio::join!(written, replaced);
            check_all(&mut client, &mut writers).await;
            population.check(&mut client).await;
            server.end(snapshot_first);
            let server = home.start();
            let mut client = server.client().await;
            check_all(&mut client, &mut writers).await;
            population.check(&mut client).await;
            server.stop();
            check_index(&home).await;
        }
    }
}

fn steadfast(words: &[&str]) -> (bool, String) {
    let output = program().args(words).output().unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap()).concat();
    (output.status.success(), said)
}

fn sizes(dir: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = Vec::new();
    names(dir, &mut found);
    found
        .into_iter()
        .filter(|path| path.is_file())
        .map(|path| (path.clone(), path.metadata().unwrap().len()))
        .collect()
}

/// A backup under load restores to exactly what was acknowledged up to the position that it names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_restores_to_what_was_acknowledged() {
    let home = home();
    let population = Population(500);
    let server = home.start();
    population.write(&mut server.client().await).await;
    let mut writers = writers();
    for writer in &mut writers {
        writer.remember_all();
    }
    let backup = home.path("backup");
    // The second one takes what is there already.
    for _ in 0..2 {
        writers = write_all(&server, writers, |count| count < 300).await;
        let least = writers.iter().map(Writer::last_position).max().unwrap();
        writers = beside(&server, writers, &Task::Backup(backup.clone())).await;
        let backup = backup.to_str().unwrap();
        let (sound, said) = steadfast(&["backup", "verify", backup, "--json"]);
        assert!(sound, "{said}");
        let told: serde_json::Value =
            serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
        let position = told["last_position"].as_u64().unwrap_or_else(|| panic!("no last_position: {said}"));
        assert!(position >= least, "{position} is before {least}, which was acknowledged before it began");

        let restored = Home::new().set("journal.segment=1 MiB");
        let target = restored.path("data");
        let target = target.to_str().unwrap();
        let (done, said) = steadfast(&["restore", "--from", backup, "--data-dir", target]);
        assert!(done, "{said}");
        let (again, said) = steadfast(&["restore", "--from", backup, "--data-dir", target]);
        assert!(!again, "it restores over what is there: {said}");
        let at = Home::at(&restored.path("data")).set("journal.segment=1 MiB");
        let copy = at.start();
        let mut client = copy.client().await;
        for writer in &writers {
            writer.check_as_of(&mut client, position).await;
        }
        population.check(&mut client).await;
        copy.stop();
        check_index(&at).await;
    }
    // Each damaged byte is seen.
    let mut numbers = Numbers(3);
    for (file, length) in sizes(&backup).into_iter().filter(|(_, length)| *length > 0) {
        let whole = fs::read(&file).unwrap();
        let mut damaged = whole.clone();
        // Behind the last batch of a segment is nothing.
        let used = whole.iter().rposition(|byte| *byte != 0).unwrap_or(0) as u64 + 1;
        damaged[numbers.below(used.min(length)) as usize] ^= 1;
        fs::write(&file, damaged).unwrap();
        let (sound, said) = steadfast(&["backup", "verify", backup.to_str().unwrap()]);
        assert!(!sound && said.contains(file.file_name().unwrap().to_str().unwrap()), "{file:?}: {said}");
        fs::write(&file, whole).unwrap();
    }
    server.stop();
}
