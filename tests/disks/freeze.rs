//! The store's disk freezes under load, inside the kernel: nothing that touches it returns.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tonic::Code;

use crate::clients::{Population, Writer, check_all, write_all};
use crate::disk::Disk;
use crate::orders::{Task, operator, status};
use crate::support::*;

const CLIENTS: u64 = 6;

pub async fn all() {
    thawed().await;
    taken_over().await;
}

fn home(disk: &Disk) -> Home {
    let dir = format!("store.dir={}", disk.path().join("store").display());
    Home::new().set(&dir).set("writes.reply_after=250 ms")
}

/// Within this a call that hangs in the store is known as such.
const KNOWN_TO_HANG: Duration = Duration::from_mins(1);

/// Adds to a counter, each time until it is told that it was kept, whatever server answers; the longest time
/// between two answers, and how often it added.
async fn insist(address: std::net::SocketAddr, enough: Arc<AtomicBool>) -> (Duration, u32) {
    let mut client = Client::new(lazy_channel(address));
    let (mut added, mut longest, mut last) = (0, Duration::ZERO, Instant::now());
    while !enough.load(Ordering::SeqCst) {
        let request = steadfast::proto::IdentifyRequest {
            request_id: format!("insist-{added}"),
            ..add("insistent", "visits", 1.0)
        };
        if identify(&mut client, request).await.is_ok() {
            added += 1;
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
    }
    (longest, added)
}

/// A disk that does not come back: what hangs in the kernel cannot be replaced in its process, but another process
/// takes its place, with a store on another disk.
async fn taken_over() {
    println!("frozen, and taken over");
    let disk = Disk::new(128);
    let old_home = home(&disk);
    let server = old_home.start();
    let population = Population(500);
    let mut client = server.client().await;
    population.write(&mut client).await;
    let mut writers = write_all(&server, Writer::some(CLIENTS), |count| count < 300).await;
    check_all(&mut client, &mut writers).await;

    let frozen = disk.freeze();
    for writer in &mut writers {
        writer.in_trouble(&[]);
    }
    writers = write_all(&server, writers, |count| count < 500).await;
    let mut operator = operator(&server).await;
    let began = Instant::now();
    loop {
        let store = status(&mut operator).await.unwrap().store.unwrap();
        if store.hung_threads > 0 {
            break;
        }
        assert!(began.elapsed() < KNOWN_TO_HANG, "the store hangs, and the status does not know: {store:?}");
        // Something goes on, or nothing would touch the disk.
        writers = write_all(&server, writers, |count| count < 20).await;
    }
    println!("known to hang after {:?}", began.elapsed());
    let refused = Task::Rebuild(None).begin(&mut operator).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("--take-over"), "{refused:?}");
    // Writes are accepted, and what was read before is shown.
    writers = write_all(&server, writers, |count| count < 500).await;
    for writer in &writers {
        writer.shown(&mut client).await;
    }

    let enough = Arc::new(AtomicBool::new(false));
    let insistent = tokio::spawn(insist(server.data, Arc::clone(&enough)));
    let elsewhere = tempfile::tempdir().unwrap();
    let dir = format!("store.dir={}", elsewhere.path().join("store").display());
    let new_home = Home::at(old_home.dir()).set(&dir);
    let over = Arc::new(AtomicBool::new(false));
    let enough_written = Arc::clone(&over);
    let take = new_home.take_over(&server);
    let taken = tokio::task::spawn_blocking(move || {
        let new = take();
        over.store(true, Ordering::SeqCst);
        new
    });
    // Some of them end when their connection does, some go on with the new process.
    writers = write_all(&server, writers, move |_| !enough_written.load(Ordering::SeqCst)).await;
    let new = taken.await.unwrap();
    writers.iter_mut().for_each(|writer| writer.at_ease(&[]));
    let mut client = new.client().await;
    check_all(&mut client, &mut writers).await;
    enough.store(true, Ordering::SeqCst);
    let (longest, added) = insistent.await.unwrap();
    println!("taken over with at most {longest:?} between two answers to a client");
    let profile = get(&mut client, SITE, "insistent").await.unwrap();
    assert_eq!(profile.attributes["visits"], number(f64::from(added)));
    population.check(&mut client).await;

    // The old process comes back to life, and has no say.
    drop(frozen);
    server.ended();
    writers = write_all(&new, writers, |count| count < 300).await;
    check_all(&mut client, &mut writers).await;
    new.kill();
    let new = new_home.start();
    let mut client = new.client().await;
    check_all(&mut client, &mut writers).await;
    population.check(&mut client).await;
    new.stop();
}

/// A disk that comes back by itself: what was held up is applied, nothing else has happened.
async fn thawed() {
    println!("frozen, and thawed again");
    let disk = Disk::new(128);
    let home = home(&disk);
    let server = home.start();
    let population = Population(500);
    population.write(&mut server.client().await).await;
    let mut writers = write_all(&server, Writer::some(CLIENTS), |count| count < 300).await;
    let mut client = server.client().await;
    check_all(&mut client, &mut writers).await;

    let frozen = disk.freeze();
    for writer in &mut writers {
        writer.in_trouble(&[]);
    }
    // Every one is accepted, and soon.
    let began = Instant::now();
    writers = write_all(&server, writers, |count| count < 500).await;
    println!("500 writes in {:?} while it is frozen", began.elapsed());
    for writer in &writers {
        writer.shown(&mut client).await;
    }
    drop(frozen);
    writers.iter_mut().for_each(|writer| writer.at_ease(&[]));
    check_all(&mut client, &mut writers).await;
    population.check(&mut client).await;
    server.kill();
    let server = home.start();
    let mut client = server.client().await;
    check_all(&mut client, &mut writers).await;
    population.check(&mut client).await;
    server.stop();
}
