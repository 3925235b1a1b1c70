//! Damage to what lies on disk: it is told or healed, and never served as truth.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use steadfast::app::{Core, StartError};
use steadfast::clock::SystemClock;
use steadfast::command::ReadRequest;
use steadfast::config::Config;
use steadfast::model::{ProfileKey, Site, User};
use tower::Service as _;

use crate::clients::{Population, Writer, check_all, write_all};
use crate::support::*;

/// How many places are damaged, out of all that CI tries (`STEADFAST_DAMAGE=all`).
fn places(all: usize, few: usize) -> usize {
    if std::env::var_os("STEADFAST_DAMAGE").is_some_and(|wanted| wanted == "all") { all } else { few }
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Every file under `dir` that has something in it.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else if entry.metadata().unwrap().len() > 0 {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

/// Places in memory where there is room: what is tried is what is read, not how fast.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

fn config(dir: &Path) -> Config {
    let mut config = Config::ephemeral(dir);
    config.journal.segment.0 = 1 << 20;
    config.store.cache_capacity.0 = 16 << 20;
    config.cache.profile_capacity.0 = 1 << 20;
    config
}

type Served = BTreeMap<String, String>;

/// Opens the data side of `dir` and reads all of `keys`, or hears why it does not open. What is refused to be
/// read is told too.
async fn served(dir: &Path, keys: &[ProfileKey]) -> Result<Served, String> {
    let mut core = Core::open(&config(dir), Arc::new(SystemClock)).map_err(|error| told(&error))?;
    let mut found = Served::new();
    for key in keys {
        let view = loop {
            let read =
                ReadRequest { keys: vec![key.clone()], deadline: Instant::now() + Duration::from_mins(1) };
            match core.reads().call(read).await {
                Ok(views) => break Ok(views),
                // It is on its way.
                Err(steadfast::command::ReadError::Rebuilding { .. }) => tokio::task::yield_now().await,
                Err(error) => break Err(format!("{error:?}")),
            }
        };
        let view = match view {
            Ok(mut views) => views.remove(0),
            Err(error) => {
                drop(core);
                return Err(error);
            }
        };
        let mut shown = String::from("nothing");
        if let Some(profile) = view.live() {
            shown = format!("{} {:?} {:?}", profile.version, profile.created_at, profile.attributes);
        }
        found.insert(format!("{key:?}"), shown);
    }
    for site in core.shared.sites.all() {
        let registry: Vec<_> =
            site.registry.load().all().map(|info| format!("{} {:?}", info.name, info.value_type)).collect();
        found.insert(format!("{:?}", site.site), format!("{registry:?}"));
    }
    match core.close(Duration::from_secs(20)) {
        Ok(()) | Err(StartError::StoreClose(_)) => Ok(found),
        Err(error) => Err(told(&error)),
    }
}

fn told(error: &StartError) -> String {
    let text = error.to_string();
    assert!(text.len() > 20, "that helps nobody: {text}");
    text
}

/// A small directory, closed in order, with what it serves.
struct Sample {
    home: Home,
    keys: Vec<ProfileKey>,
    served: Served,
}

async fn sample() -> Sample {
    let home = Home::new().set("journal.segment=1 MiB");
    let server = home.start();
    let mut client = server.client().await;
    Population(20).write(&mut client).await;
    let mut writers = write_all(&server, Writer::some(3), |count| count < 60).await;
    check_all(&mut client, &mut writers).await;
    server.stop();
    let mut keys: Vec<_> = writers.iter().flat_map(Writer::keys).collect();
    keys.extend(Population(20).keys());
    let keys: Vec<_> =
        keys.into_iter().map(|(site, user)| ProfileKey::new(Site::new(site), User::new(user))).collect();
    let whole = scratch();
    copy(home.dir(), whole.path());
    let served = served(whole.path(), &keys).await.unwrap();
    Sample { home, keys, served }
}

impl Sample {
    /// What becomes of a copy that `damage` was done to. Answers whether it was told; otherwise it is healed, or
    /// was nothing that is read.
    async fn after(&self, what: &str, damage: impl FnOnce(&Path)) -> bool {
        let dir = scratch();
        copy(self.home.dir(), dir.path());
        damage(dir.path());
        match served(dir.path(), &self.keys).await {
            Ok(found) => {
                for (key, value) in &self.served {
                    assert_eq!(found.get(key), Some(value), "{what}: {key}");
                }
                false
            }
            Err(_) => true,
        }
    }
}

fn flip(file: &Path, at: usize, bit: u8) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 1 << bit;
    fs::write(file, bytes).unwrap();
}

/// Where a file has something, and a little beyond.
fn used(file: &Path) -> Vec<usize> {
    let bytes = fs::read(file).unwrap();
    let mut until = 64;
    let mut found = Vec::new();
    for (at, byte) in bytes.iter().enumerate() {
        if *byte != 0 {
            until = at + 64;
        }
        if at < until {
            found.push(at);
        }
    }
    found
}

#[tokio::test]
async fn a_flipped_bit_is_told_or_healed() {
    let sample = sample().await;
    let mut numbers = Numbers(11);
    let (mut told, mut count) = (BTreeMap::new(), 0);
    for file in files(sample.home.dir()) {
        let places_there = used(&file);
        let name = file.strip_prefix(sample.home.dir()).unwrap().to_owned();
        // Each place in turn where all are tried, otherwise a few anywhere.
        let every = places_there.len().div_ceil(places(400, 6)).max(1);
        let first = numbers.below(every as u64) as usize;
        for at in places_there.into_iter().skip(first).step_by(every) {
            let bit = numbers.below(8) as u8;
            let what = format!("bit {bit} of byte {at} of {}", name.display());
            count += 1;
            if sample.after(&what, |dir| flip(&dir.join(&name), at, bit)).await {
                *told.entry(name.clone()).or_insert(0) += 1;
            }
        }
    }
    // The store never keeps a server from starting.
    println!("{count} flips; told: {told:?}");
    assert!(!told.keys().any(|name| name.starts_with("store")), "{told:?}");
    assert!(told.keys().any(|name| name.starts_with("journal")), "{told:?}");
}

#[tokio::test]
async fn a_file_that_is_cut_short_or_gone_is_told_or_healed() {
    let sample = sample().await;
    let mut numbers = Numbers(12);
    for file in files(sample.home.dir()) {
        let name = file.strip_prefix(sample.home.dir()).unwrap().to_owned();
        let length = file.metadata().unwrap().len();
        let in_store = name.starts_with("store");
        let what = format!("{} removed", name.display());
        let told = sample.after(&what, |dir| fs::remove_file(dir.join(&name)).unwrap()).await;
        assert!(!(told && in_store), "{what}");
        for _ in 0..places(20, 3) {
            let left = numbers.below(length);
            let what = format!("{} cut at {left} of {length}", name.display());
            let cut = |dir: &Path| {
                fs::OpenOptions::new().write(true).open(dir.join(&name)).unwrap().set_len(left).unwrap();
            };
            let told = sample.after(&what, cut).await;
            assert!(!(told && in_store), "{what}");
        }
    }
    for dir in ["store", "store/00000001"] {
        let told = sample.after(dir, |copy| fs::remove_dir_all(copy.join(dir)).unwrap()).await;
        assert!(!told, "{dir}");
    }
    assert!(sample.after("journal", |dir| fs::remove_dir_all(dir.join("journal")).unwrap()).await);
}

/// An older copy of the journal or of the store beside the newer other one, whether they were closed in order or
/// not.
#[tokio::test]
async fn an_older_journal_is_refused_and_an_older_store_is_not_trusted() {
    for (older_clean, newer_clean) in [(true, true), (true, false), (false, true), (false, false)] {
        let home = Home::new();
        let mut writers = Writer::some(3);
        let server = home.start();
        writers = write_all(&server, writers, |count| count < 60).await;
        check_all(&mut server.client().await, &mut writers).await;
        server.end(!older_clean);
        let older = scratch();
        copy(home.dir(), older.path());
        let server = home.start();
        writers = write_all(&server, writers, |count| count < 60).await;
        // Applied, so that the store is ahead of the older journal.
        check_all(&mut server.client().await, &mut writers).await;
        server.end(!newer_clean);
        let newer = scratch();
        copy(home.dir(), newer.path());

        let replace = |name: &str, from: &Path| {
            fs::remove_dir_all(home.path(name)).unwrap();
            copy(&from.join(name), &home.path(name));
        };
        replace("journal", older.path());
        match home.try_start() {
            Err(failed) => {
                assert_eq!(failed.status.code(), Some(1), "{failed:?}");
                assert!(failed.said.contains("journal"), "{failed:?}");
            }
            // What was never flushed of the store is not ahead of anything.
            Ok(server) => {
                assert!(!newer_clean, "an older journal is taken for the whole");
                server.kill();
            }
        }
        replace("journal", newer.path());
        for from in [older.path(), newer.path()] {
            replace("store", from);
            let server = home.start();
            check_all(&mut server.client().await, &mut writers).await;
            server.stop();
        }
    }
}
