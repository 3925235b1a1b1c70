//! Disks that are full: nothing is acknowledged that is not kept, and all goes on once there is room.

use std::fs;
use std::time::Duration;

use steadfast::proto::operator_service_client::OperatorServiceClient;
use steadfast::proto::{GetIncidentRequest, ListIncidentsRequest, TripRule};

use crate::clients::{Writer, check_all, export, write_all};
use crate::disk::Disk;
use crate::support::*;

const CLIENTS: u64 = 6;
/// A full disk is told as it is as soon as it is known; until then there is only no room for now.
const FULL: &[&str] = &["JOURNAL_FULL", "OVERLOADED"];
/// Within this everything must have been applied after there is room again.
const RECOVERED: Duration = Duration::from_mins(2);

async fn write_some(server: &Server, writers: Vec<Writer>, answers: u64) -> Vec<Writer> {
    write_all(server, writers, move |count| count < answers).await
}

async fn recovers(server: &Server, writers: &mut [Writer]) {
    let mut client = server.client().await;
    let checked = tokio::time::timeout(RECOVERED, check_all(&mut client, writers)).await;
    assert!(checked.is_ok(), "it does not recover though there is room");
}

pub async fn all() {
    journal().await;
    journal_at_a_kill().await;
    store().await;
}

/// Until the breaker has kept all commits from the store because that takes no more of them, as the incidents tell.
async fn left_alone(server: &Server) {
    let mut operator = OperatorServiceClient::new(channel(server.operations).await);
    let mut client = server.client().await;
    let tripped = async {
        for n in 0.. {
            // Something to be committed, which is what fails.
            let receipt = identify(&mut client, add(&format!("full-{n}"), "visits", 1.0)).await;
            assert!(receipt.is_ok(), "{receipt:?}");
            let all = operator.list_incidents(ListIncidentsRequest::default()).await.unwrap().into_inner();
            for number in all.incidents.iter().map(|incident| incident.number) {
                let incident = operator.get_incident(GetIncidentRequest { number }).await.unwrap();
                let events = incident.into_inner().incident.unwrap().events;
                let mut seen = events.iter().filter_map(|event| event.evidence.as_ref());
                if let Some(seen) = seen.find(|seen| seen.rule() == TripRule::StoreFailed) {
                    assert!(!seen.last_error.is_empty());
                    println!("  tripped: {}", seen.last_error);
                    return;
                }
            }
        }
    };
    assert!(tokio::time::timeout(RECOVERED, tripped).await.is_ok(), "its breaker stays closed");
}

fn in_trouble(mut writers: Vec<Writer>, tolerated: &'static [&'static str]) -> Vec<Writer> {
    for writer in &mut writers {
        writer.in_trouble(tolerated);
    }
    writers
}

fn at_ease(mut writers: Vec<Writer>) -> Vec<Writer> {
    for writer in &mut writers {
        // Room for the next segment may be looked for still.
        writer.at_ease(&["OVERLOADED"]);
    }
    writers
}

fn with_journal_on(disk: &Disk) -> Home {
    let dir = format!("journal.dir={}", disk.path().join("journal").display());
    Home::new().set("journal.segment=1 MiB").set(&dir)
}

/// Until a write goes in again.
async fn accepted_again(server: &Server) {
    let mut client = server.client().await;
    let accepted = async {
        while let Err(status) = identify(&mut client, add("probe", "visits", 1.0)).await {
            assert!(FULL.contains(&reason(&status).as_str()), "{status:?}");
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(RECOVERED, accepted).await.is_ok(), "it refuses though there is room");
}

async fn journal() {
    println!("the journal's disk is full");
    let disk = Disk::new(48);
    let home = with_journal_on(&disk);
    let server = home.start();
    let mut writers = write_some(&server, Writer::some(CLIENTS), 300).await;
    for left in [0, 3000, 100_000, 1 << 20] {
        let ballast = disk.fill(left);
        writers = write_some(&server, in_trouble(writers, FULL), 10_000).await;
        let mut client = server.client().await;
        let refused = loop {
            match identify(&mut client, add("probe", "visits", 1.0)).await {
                Err(status) if reason(&status) != "OVERLOADED" => break status,
                _ => {}
            }
        };
        assert_refused(&refused, tonic::Code::ResourceExhausted, "JOURNAL_FULL", "");
        // What is there is served meanwhile.
        assert!(!export(&mut client, "site-0").await.is_empty());
        fs::remove_file(ballast).unwrap();
        accepted_again(&server).await;
        writers = write_some(&server, at_ease(writers), 300).await;
        recovers(&server, &mut writers).await;
    }
    server.kill();
    let server = home.start();
    recovers(&server, &mut writers).await;
    server.stop();
}

async fn journal_at_a_kill() {
    println!("killed while the journal's disk is full");
    let disk = Disk::new(48);
    let home = with_journal_on(&disk);
    let server = home.start();
    let mut writers = write_some(&server, Writer::some(CLIENTS), 300).await;
    let ballast = disk.fill(0);
    writers = write_some(&server, in_trouble(writers, FULL), 10_000).await;
    server.kill();
    match home.try_start() {
        Ok(server) => {
            recovers(&server, &mut writers).await;
            server.kill();
        }
        Err(failed) => {
            assert_eq!(failed.status.code(), Some(1), "{failed:?}");
            assert!(failed.said.contains("No space left on device"), "{failed:?}");
        }
    }
    fs::remove_file(ballast).unwrap();
    let server = home.start();
    writers = write_some(&server, at_ease(writers), 300).await;
    recovers(&server, &mut writers).await;
    server.stop();
}

async fn store() {
    println!("the store's disk is full");
    let disk = Disk::new(160);
    let dir = format!("store.dir={}", disk.path().join("store").display());
    let home = Home::new().set(&dir).set("writes.reply_after=30 ms").set("store.cache_capacity=1 MiB");
    let server = home.start();
    let mut writers = write_some(&server, at_ease(Writer::some(CLIENTS)), 300).await;
    for left in [0, 300_000] {
        let ballast = disk.fill(left);
        // All is accepted.
        writers = write_some(&server, in_trouble(writers, &[]), 1500).await;
        left_alone(&server).await;
        fs::remove_file(ballast).unwrap();
        writers = write_some(&server, writers, 300).await;
        recovers(&server, &mut writers).await;
    }
    let ballast = disk.fill(0);
    writers = write_some(&server, writers, 600).await;
    server.kill();
    fs::remove_file(ballast).unwrap();
    let server = home.start();
    recovers(&server, &mut writers).await;
    server.stop();
}
