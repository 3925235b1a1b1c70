//! Cuts the power under load: what was not synced is gone, what was acknowledged must not be.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use rustix::process::Signal;
use steadfast::proto::TaskState;
use tonic::Code;

use crate::agree::check_index;
use crate::clients::{Population, Writer, check_all, write_all};
use crate::disk::Disk;
use crate::orders::{Operator, Task, operator, status};
use crate::support::*;

const CLIENTS: u64 = 6;

/// When the power is cut.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// When so many writes have been acknowledged, wherever the store's flushes are.
    Any,
    /// Right after the store's file has grown: it uses what it has freed again in place.
    Grown,
    /// Right after a file has come or gone.
    FilesChanged,
}

const MOMENTS: [Moment; 3] = [Moment::Any, Moment::Grown, Moment::FilesChanged];

/// Files and their lengths.
fn files(dir: &Path, found: &mut BTreeMap<PathBuf, u64>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        // What goes away meanwhile is not there.
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => files(&entry.path(), found),
            Ok(metadata) => drop(found.insert(entry.path(), metadata.len())),
            Err(_) => {}
        }
    }
}

impl Moment {
    /// What changes at this moment.
    fn watched(self, home: &Path) -> Vec<(PathBuf, u64)> {
        let mut found = BTreeMap::new();
        match self {
            Self::Any => {}
            Self::Grown => {
                files(&home.join("store"), &mut found);
                found.retain(|path, _| path.ends_with("sled/db"));
            }
            Self::FilesChanged => {
                files(home, &mut found);
                for len in found.values_mut() {
                    *len = 0;
                }
            }
        }
        found.into_iter().collect()
    }
}

/// Waits until no thread of a process that was told to stop runs any more.
fn stands_still(pid: u32) {
    let still = |task: fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        // The state is the word behind the name in brackets. Inside the kernel counts too: from there it
        // does not come back to the program.
        let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
        matches!(state, None | Some('T' | 'D' | 'Z' | 'X'))
    };
    while !fs::read_dir(format!("/proc/{pid}/task")).unwrap().all(|task| still(task.unwrap())) {
        std::thread::yield_now();
    }
}

/// Takes snapshots and builds the store anew, one after the other in any order, until the server is gone.
async fn upkeep(mut operator: Operator, mut numbers: Numbers) {
    loop {
        let task = if numbers.below(3) == 0 { Task::Rebuild(None) } else { Task::Snapshot };
        // While one runs that the server began by itself this one does not.
        if task.begin(&mut operator).await.is_err_and(|refused| refused.code() == Code::Unavailable) {
            return;
        }
        loop {
            match status(&mut operator).await {
                Ok(status) if task.state(&status).0 == TaskState::Running => tokio::task::yield_now().await,
                Ok(_) => break,
                Err(_) => return,
            }
        }
    }
}

/// Runs a server under load until `moment` after `after` acknowledged writes, and saves the disk then.
async fn cut(home: &Home, disk: &Disk, mut writers: Vec<Writer>, moment: Moment, after: u64) -> Vec<Writer> {
    let server = home.start();
    check_all(&mut server.client().await, &mut writers).await;
    let (stop, stopped) = mpsc::channel();
    let pid = server.pid();
    let signal = server.signaller(Signal::STOP);
    let kill = server.signaller(Signal::KILL);
    let dir = home.dir().to_owned();
    let due = Arc::new(Mutex::new((Some(signal), None)));
    let acknowledged = move |count| {
        let mut due = due.lock().unwrap();
        if count >= after && due.0.is_some() {
            let now = moment.watched(&dir);
            let before = due.1.get_or_insert_with(|| now.clone());
            // A moment that does not come is not waited for for ever.
            if matches!(moment, Moment::Any) || *before != now || count > after + 3000 {
                due.0.take().unwrap()();
                stop.send(()).unwrap();
            }
        }
        true
    };
    let upkeep = tokio::spawn(upkeep(operator(&server).await, Numbers(after)));
    let saver = disk.saver();
    let saved = tokio::task::spawn_blocking(move || {
        stopped.recv().unwrap();
        stands_still(pid);
        let rested = saver.save();
        kill();
        assert!(rested, "the disk never rests");
    });
    let writers = write_all(&server, writers, acknowledged).await;
    saved.await.unwrap();
    server.ended();
    upkeep.await.unwrap();
    writers
}

pub async fn cuts(rounds: u64) {
    let mut disk = Disk::new(256);
    // Where a snapshot begins, a segment does: they are small, as is what is due.
    let settings = ["journal.segment=1 MiB", "snapshots.journal_bytes=1 MiB"];
    let home = settings.into_iter().fold(Home::at(&disk.path().join("data")), Home::set);
    let mut numbers = Numbers(std::process::id().into());
    println!("seed {}", numbers.0);
    let mut writers = Writer::some(CLIENTS);
    for writer in &mut writers {
        writer.beside_rebuilds();
    }
    let population = Population(500);
    let server = home.start();
    population.write(&mut server.client().await).await;
    server.stop();
    for round in 0..rounds {
        let moment = MOMENTS[round as usize % MOMENTS.len()];
        let after = 20 + numbers.below(600);
        println!("round {round}: {moment:?} after {after} writes");
        writers = cut(&home, &disk, writers, moment, after).await;
        // Longer between the file system's own syncs loses more.
        let options = ["defaults", "commit=300", "commit=300,data=writeback", "commit=1"];
        disk.restore(options[numbers.below(options.len() as u64) as usize]);
        if round % 10 == 0 {
            check_index(&home).await;
        }
    }
    let server = home.start();
    let mut client = server.client().await;
    check_all(&mut client, &mut writers).await;
    population.check(&mut client).await;
    server.stop();
}
