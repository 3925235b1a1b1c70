//! Stop it, change what lies on its disk, start it again.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use steadfast::journal::check::{Report, check};
use steadfast::journal::fs::RealFs;
use steadfast::proto::{self, Outcome, Wait, write_result::Result as Told};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::support::*;

const USERS: usize = 200;

fn user(n: usize) -> String {
    format!("u{n}")
}

/// Two writes of each user, `round` among them.
async fn write(client: &mut Client, round: usize) {
    for (at, request) in [0, 1].into_iter().enumerate() {
        let requests = (0..USERS)
            .map(|n| match request {
                0 => set(&user(n), [("round", text(round.to_string())), ("n", text(user(n)))]),
                _ => add(&user(n), "visits", 1.0),
            })
            .collect();
        let response =
            client.identify_many(proto::IdentifyManyRequest { requests }).await.unwrap().into_inner();
        assert_eq!(response.failed, 0, "{at}");
    }
}

/// That every user is as after `rounds` times [`write`].
async fn check_all(client: &mut Client, rounds: usize) {
    for n in 0..USERS {
        let profile = get(client, SITE, &user(n)).await.unwrap_or_else(|| panic!("{n} is gone"));
        let expected = set(
            "",
            [("round", text(rounds.to_string())), ("n", text(user(n))), ("visits", number(rounds as f64))],
        );
        assert_eq!(profile.attributes, expected.attributes, "{n}");
    }
}

fn copy(from: &Path, to: &Path) {
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

#[tokio::test]
async fn the_store_can_be_thrown_away() {
    let home = Home::new();
    let server = home.start();
    write(&mut server.client().await, 1).await;
    server.stop();
    fs::remove_dir_all(home.path("store")).unwrap();
    let server = home.start();
    let mut client = server.client().await;
    check_all(&mut client, 1).await;
    write(&mut client, 2).await;
    server.kill();
    fs::remove_dir_all(home.path("store")).unwrap();
    let server = home.start();
    let mut client = server.client().await;
    check_all(&mut client, 2).await;
    // What it had refused, and why, comes back too; and counts go on.
    write(&mut client, 3).await;
    assert_eq!(get(&mut client, SITE, &user(0)).await.unwrap().version, 6);
    server.wait_for("the store has been rebuilt");
    server.stop();
    let server = home.start();
    check_all(&mut server.client().await, 3).await;
}

#[tokio::test]
async fn an_older_copy_of_the_store_is_not_trusted() {
    let home = Home::new();
    let server = home.start();
    write(&mut server.client().await, 1).await;
    server.stop();
    copy(&home.path("store"), &home.path("older"));
    for kill in [false, true] {
        let server = home.start();
        let mut client = server.client().await;
        write(&mut client, if kill { 3 } else { 2 }).await;
        server.end(kill);
        fs::remove_dir_all(home.path("store")).unwrap();
        copy(&home.path("older"), &home.path("store"));
        let server = home.start();
        check_all(&mut server.client().await, if kill { 3 } else { 2 }).await;
        server.stop();
    }
}

#[tokio::test]
async fn what_waits_at_a_kill_is_applied_after_the_start() {
    let home = Home::new();
    let server = home.start();
    let mut client = server.client().await;
    let mut answers = Vec::new();
    for _ in 0..5 {
        let mut request = add("u", "visits", 1.0);
        request.wait = Wait::Journaled.into();
        let requests =
            (0..1000).map(|n| proto::IdentifyRequest { user: user(n % 10), ..request.clone() }).collect();
        answers
            .push(client.identify_many(proto::IdentifyManyRequest { requests }).await.unwrap().into_inner());
    }
    server.kill();
    assert!(answers.iter().all(|answer| answer.failed == 0));
    let server = home.start();
    let mut client = server.client().await;
    for n in 0..10 {
        let profile = get(&mut client, SITE, &user(n)).await.unwrap();
        // All of it can be read at once, unless more waits than is laid on top.
        if profile.pending.is_none_or(|pending| pending.overlaid) {
            assert_eq!(profile.attributes["visits"], number(500.0));
        }
        let receipt = applied(&mut client, add(&user(n), "visits", 1.0)).await;
        assert_eq!(receipt.version, Some(501));
        assert_eq!(get(&mut client, SITE, &user(n)).await.unwrap().attributes["visits"], number(501.0));
    }
    let Some(Told::Receipt(receipt)) = &answers[4].results[999].result else { panic!("refused") };
    assert_eq!(write_state(&mut client, receipt).await.state(), proto::WriteState::Applied);
}

#[tokio::test]
async fn request_ids_are_known_after_a_start() {
    const WRITES: usize = 30;
    let home = Home::new();
    let request =
        |n: usize| proto::IdentifyRequest { request_id: format!("r{n}"), ..add("u", "visits", 1.0) };
    let server = home.start();
    let mut client = server.client().await;
    let mut positions = Vec::new();
    for n in 0..WRITES {
        positions.push(applied(&mut client, request(n)).await.position);
    }
    server.stop();
    for kill in [true, false] {
        let server = home.start();
        let mut client = server.client().await;
        for (n, position) in positions.iter().enumerate() {
            let again = identify(&mut client, request(n)).await.unwrap();
            assert_eq!((again.outcome(), &again.position), (Outcome::Duplicate, position), "{n}");
            let other = proto::IdentifyRequest { user: "v".into(), ..request(n) };
            assert_eq!(reason(&identify(&mut client, other).await.unwrap_err()), "REQUEST_ID_REUSED");
        }
        let profile = get(&mut client, SITE, "u").await.unwrap();
        assert_eq!((profile.version, &profile.attributes["visits"]), (WRITES as u64, &number(WRITES as f64)));
        server.end(kill);
    }
}

#[tokio::test]
async fn a_second_process_is_turned_away() {
    let home = Home::new();
    let server = home.start();
    let mut client = server.client().await;
    applied(&mut client, add("u", "visits", 1.0)).await;
    let failed = home.try_start().err().unwrap();
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert!(failed.said.contains("in use by another process"), "{failed:?}");
    applied(&mut client, add("u", "visits", 1.0)).await;
    server.stop();
    let server = home.start();
    assert_eq!(get(&mut server.client().await, SITE, "u").await.unwrap().version, 2);
}

fn journal(home: &Home) -> Report {
    check(&RealFs, &home.path("journal")).unwrap()
}

/// The last segment, and where its last batch ends.
fn end_of(report: &Report) -> (PathBuf, u64) {
    let last = report.segments.iter().rev().find(|segment| segment.entries > 0).unwrap();
    (last.file.clone(), last.bytes)
}

fn overwrite(file: &Path, at: u64, with: impl FnOnce(u8) -> u8) {
    let mut file = fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[with(byte[0])]).unwrap();
}

#[tokio::test]
async fn a_write_that_was_not_finished_is_cut_off() {
    let home = Home::new();
    let server = home.start();
    write(&mut server.client().await, 1).await;
    server.kill();
    let (file, end) = end_of(&journal(&home));
    // The beginning of a batch that was never acknowledged.
    for at in 0..40 {
        overwrite(&file, end + at, |_| 0x5a);
    }
    let server = home.start();
    let mut client = server.client().await;
    check_all(&mut client, 1).await;
    write(&mut client, 2).await;
    let said = server.kill();
    assert!(said.contains("cut off and kept in"), "{said}");
    let server = home.start();
    check_all(&mut server.client().await, 2).await;
}

#[tokio::test]
async fn damage_is_refused_and_named() {
    let home = Home::new();
    let server = home.start();
    write(&mut server.client().await, 1).await;
    // After a stop in order nothing can be unfinished, the last batch included.
    server.stop();
    let (file, end) = end_of(&journal(&home));
    let whole = fs::read(&file).unwrap();
    // In the header, in the first batch, and in the last one.
    for at in [20, end / 2, end - 5] {
        overwrite(&file, at, |byte| byte ^ 0x10);
        let failed = home.try_start().err().unwrap_or_else(|| panic!("byte {at} of {end} was not missed"));
        assert_eq!(failed.status.code(), Some(1), "{failed:?}");
        let named = failed.said.contains(file.file_name().unwrap().to_str().unwrap())
            && failed.said.contains("at byte");
        assert!(named, "{at} of {end}: {failed:?}");
        assert!(failed.said.contains("journal"), "{failed:?}");
        fs::write(&file, &whole).unwrap();
    }
    fs::remove_file(&file).unwrap();
    let failed = home.try_start().err().unwrap();
    assert!(failed.said.contains(file.file_name().unwrap().to_str().unwrap()), "{failed:?}");
    fs::write(&file, &whole).unwrap();
    fs::rename(home.path("journal"), home.path("elsewhere")).unwrap();
    let failed = home.try_start().err().unwrap();
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    // Nothing has been harmed by all this.
    fs::remove_dir_all(home.path("journal")).unwrap();
    fs::rename(home.path("elsewhere"), home.path("journal")).unwrap();
    let server = home.start();
    check_all(&mut server.client().await, 1).await;
}

#[tokio::test]
async fn a_full_journal_says_so_and_reads_go_on() {
    let home = Home::new()
        .set("journal.segment=1 MiB")
        .set("journal.total_quota=4 MiB")
        .set("journal.site_quota=4 MiB");
    let server = home.start();
    let mut client = server.client().await;
    let mut kept = 0;
    let long = "x".repeat(190);
    let refused = loop {
        let request =
            set(&format!("u{kept}"), [("a", text(&long)), ("b", text(&long)), ("n", number(kept as f64))]);
        let requests = vec![proto::IdentifyRequest { wait: Wait::Journaled.into(), ..request }; 50];
        match client.identify_many(proto::IdentifyManyRequest { requests }).await {
            Ok(response) if response.get_ref().failed == 0 => kept += 1,
            // A part of them was the last that went in.
            Ok(_) => {}
            Err(status) => break status,
        }
        assert!(kept < 1000, "it never was full");
    };
    assert_refused(&refused, Code::ResourceExhausted, "JOURNAL_FULL", "");
    let details = refused.get_error_details();
    assert_eq!(details.quota_failure().unwrap().violations[0].subject, "total");
    assert!(details.retry_info().is_some());
    assert!(kept > 20, "{kept}");
    // Smaller ones may still fit, for a while.
    let mut refused = None;
    for n in 0..10_000 {
        if let Err(status) = identify(&mut client, add("another", "visits", f64::from(n))).await {
            refused = Some(status);
            break;
        }
    }
    assert_refused(&refused.unwrap(), Code::ResourceExhausted, "JOURNAL_FULL", "");
    for n in 0..kept {
        let profile = get(&mut client, SITE, &format!("u{n}")).await.unwrap();
        assert_eq!(profile.attributes["n"], number(n as f64));
    }
    // What changes nothing needs no room.
    let same = set("u0", [("a", text(&long)), ("n", number(0.0))]);
    assert_eq!(identify(&mut client, same).await.unwrap().outcome(), Outcome::Unchanged);
    server.kill();
    let server = home.start();
    let mut client = server.client().await;
    for n in 0..kept {
        assert!(get(&mut client, SITE, &format!("u{n}")).await.is_some(), "{n}");
    }
    server.stop();
}

#[tokio::test]
async fn ten_thousand_sites() {
    const SITES: usize = 10_000;
    let home = Home::new();
    let server = home.start();
    let mut client = server.client().await;
    let all: Vec<_> = (0..SITES)
        .map(|n| proto::IdentifyRequest { site: format!("site-{n}"), ..set("u", [("n", number(n as f64))]) })
        .collect();
    for requests in all.chunks(1000) {
        let requests = requests.to_vec();
        let response = client.identify_many(proto::IdentifyManyRequest { requests }).await.unwrap();
        assert_eq!(response.get_ref().failed, 0);
    }
    server.kill();
    for _ in 0..2 {
        let server = home.start();
        let mut client = server.client().await;
        for n in (0..SITES).step_by(97) {
            let site = format!("site-{n}");
            let profile = get(&mut client, &site, "u").await.unwrap();
            assert_eq!(profile.attributes["n"], number(n as f64));
            let listed =
                client.list_attributes(proto::ListAttributesRequest { site: site.clone() }).await.unwrap();
            assert_eq!(listed.get_ref().attributes.len(), 1);
            let wrong = proto::IdentifyRequest { site, ..set("u", [("n", text("x"))]) };
            assert_eq!(reason(&identify(&mut client, wrong).await.unwrap_err()), "TYPE_MISMATCH");
        }
        server.stop();
    }
}
