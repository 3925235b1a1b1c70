//! What services meet over gRPC while the store is sick: who waits, who is served, and that nothing is lost.

use futures_util::future::join_all;
use steadfast::proto::{
    self, BreakerOperation, BreakerState, Fault, FaultPlace, HoldMode, HoldScope, ListRefusedRequest,
    Outcome, PlaceHoldRequest, RefusedAction, ReleaseHoldRequest, ResolveRefusedRequest, StoreCall,
    fault::Effect, write_result::Result as Told,
};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::game_day::{Day, begin, fault};
use crate::support::{
    Client, Home, SITE, add, applied, assert_refused, get, identify, info, number, reason, set, text,
};

fn of(site: &str, request: proto::IdentifyRequest) -> proto::IdentifyRequest {
    proto::IdentifyRequest { site: site.into(), ..request }
}

/// Adds 1 to the visits of a user, so often, one after the other; answers what was heard.
async fn visits(client: &Client, site: &str, user: &str, times: usize) -> Vec<Outcome> {
    let mut heard = Vec::new();
    for _ in 0..times {
        let receipt = identify(&mut client.clone(), of(site, add(user, "visits", 1.0))).await.unwrap();
        heard.push(receipt.outcome());
    }
    heard
}

/// A visit that is kept, and not waited for.
async fn kept(client: &mut Client, site: &str, user: &str) {
    let request = proto::IdentifyRequest { wait: proto::Wait::Journaled.into(), ..add(user, "visits", 1.0) };
    assert_eq!(identify(client, of(site, request)).await.unwrap().outcome(), Outcome::Deferred);
}

/// All writes of a site.
fn writes(site: &str) -> HoldScope {
    HoldScope { site: site.into(), user_percentage: None, operations: Vec::new() }
}

pub async fn place(day: &mut Day, scope: HoldScope, mode: HoldMode) -> String {
    let request = PlaceHoldRequest {
        scope: Some(scope),
        mode: mode.into(),
        reason: "a test".into(),
        owner: "ann".into(),
        ..PlaceHoldRequest::default()
    };
    let placed = day.operator.place_hold(request).await.unwrap().into_inner().hold.unwrap();
    assert!(placed.durable);
    placed.hold.unwrap().id
}

/// Answers how many entries that lets go.
pub async fn release(day: &mut Day, id: &str) -> u64 {
    let request = ReleaseHoldRequest {
        hold_id: id.into(),
        reason: "over".into(),
        owner: "ann".into(),
        ..ReleaseHoldRequest::default()
    };
    let released = day.operator.release_hold(request).await.unwrap().into_inner();
    assert!(released.durable);
    released.released
}

#[tokio::test]
async fn a_sick_site_costs_its_nine_neighbours_nothing() {
    let (_home, mut day) = begin().await;
    day.break_with(fault(FaultPlace::Await, StoreCall::Commit, "sick", Effect::Hang(()))).await;
    let neighbours: Vec<String> = (0..9).map(|n| format!("well-{n}")).collect();
    // From the first moment on, before anybody has noticed, and after.
    let client = day.client.clone();
    let before = join_all(neighbours.iter().map(|site| visits(&client, site, "u", 20)));
    let first = tokio::spawn({
        let client = client.clone();
        async move { visits(&client, "sick", "u", 1).await }
    });
    let (before, ()) = tokio::join!(before, day.until(BreakerOperation::Apply, "sick", BreakerState::Open));
    let after = join_all(neighbours.iter().map(|site| visits(&day.client, site, "u", 20))).await;
    for heard in before.into_iter().chain(after) {
        assert_eq!(heard, [Outcome::Applied; 20]);
    }
    assert_eq!(visits(&day.client, "sick", "u", 20).await, [Outcome::Deferred; 20]);
    day.clear().await;
    day.until(BreakerOperation::Apply, "sick", BreakerState::Closed).await;
    // That its caller was answered at last, with one or the other, is all that is promised.
    first.await.unwrap();
    applied(&mut day.client, of("sick", add("u", "visits", 1.0))).await;
    for (site, count) in neighbours.iter().map(|site| (site.as_str(), 40.0)).chain([("sick", 22.0)]) {
        assert_eq!(day.get(site, "u").await.unwrap().attributes["visits"], number(count));
    }
    day.server.stop();
}

#[tokio::test]
async fn while_three_of_ten_commits_hang_all_writes_are_kept() {
    const SITES: usize = 6;
    const EACH: usize = 25;
    // What arrives while it recovers, and hits another one, is told when it has waited for that long.
    let home = Home::new().set("server.fault_injection=true").set("writes.reply_after=250ms");
    let mut day = Day::on(&home).await;
    let hang = fault(FaultPlace::Await, StoreCall::Commit, "", Effect::Hang(()));
    day.break_with(Fault { percentage: Some(30.0), ..hang }).await;
    let sites: Vec<String> = (0..SITES).map(|n| format!("s{n}")).collect();
    let client = day.client.clone();
    let writing = join_all(sites.iter().map(|site| visits(&client, site, "u", EACH)));
    let (heard, ()) = tokio::join!(writing, day.until(BreakerOperation::Apply, "", BreakerState::Open));
    let deferred = heard.iter().flatten().filter(|outcome| **outcome == Outcome::Deferred).count();
    let rest = heard.iter().flatten().filter(|outcome| **outcome == Outcome::Applied).count();
    assert!(deferred > 0 && deferred + rest == SITES * EACH, "{heard:?}");
    day.clear().await;
    day.until(BreakerOperation::Apply, "", BreakerState::Closed).await;
    for site in &sites {
        let receipt = applied(&mut day.client, of(site, add("u", "visits", 1.0))).await;
        assert_eq!(receipt.version, Some(EACH as u64 + 1));
    }
    day.server.stop();
}

#[tokio::test]
async fn a_user_on_whom_the_store_fails_waits_for_an_operator_and_its_site_goes_on() {
    let (_home, mut day) = begin().await;
    let failing = fault(FaultPlace::Await, StoreCall::Commit, "s", Effect::Error("a bad page".into()));
    day.break_with(Fault { user: "poison".into(), ..failing }).await;
    // Nobody waits for them: with the user parked, that would be for as long as an answer may take.
    for _ in 0..2 {
        kept(&mut day.client, "s", "poison").await;
    }
    let parked = loop {
        assert_eq!(visits(&day.client, "s", "healthy", 1).await, [Outcome::Applied]);
        let request = ListRefusedRequest { site: "s".into(), ..ListRefusedRequest::default() };
        let listed = day.operator.list_refused(request).await.unwrap().into_inner().entries;
        if let Some(entry) = listed.into_iter().next() {
            break entry;
        }
    };
    assert_eq!((parked.user.as_str(), parked.parked), ("poison", true));
    kept(&mut day.client, "s", "poison").await;
    assert_eq!(visits(&day.client, "s", "healthy", 10).await, [Outcome::Applied; 10]);
    let profile = day.get("s", "poison").await.unwrap();
    assert_eq!((profile.attributes["visits"].clone(), profile.pending.unwrap().count), (number(3.0), 3));
    day.clear().await;
    let retry = ResolveRefusedRequest {
        site: "s".into(),
        positions: vec![parked.position.unwrap()],
        action: RefusedAction::Retry.into(),
        reason: "the page is mended".into(),
        owner: "ann".into(),
    };
    assert_eq!(day.operator.resolve_refused(retry).await.unwrap().into_inner().failed, 0);
    let receipt = applied(&mut day.client, of("s", add("poison", "visits", 1.0))).await;
    assert_eq!(receipt.version, Some(4), "behind the three that waited");
    day.server.stop();
}

/// A server with users of a site, none of whom is in its memory.
async fn with_cold_users(users: usize) -> (Home, Day) {
    let home = Home::new().set("server.fault_injection=true");
    let server = home.start();
    let mut client = server.client().await;
    let requests = (0..users).map(|n| set(&format!("u{n}"), [("n", number(n as f64))])).collect();
    let answer = client.identify_many(proto::IdentifyManyRequest { requests }).await.unwrap().into_inner();
    assert_eq!(answer.failed, 0);
    server.stop();
    let day = Day::on(&home).await;
    (home, day)
}

async fn all_are_read(day: &Day, users: std::ops::Range<usize>) {
    let reads = users.map(|n| async move { (n, day.get(SITE, &format!("u{n}")).await) });
    for (n, read) in join_all(reads).await {
        assert_eq!(read.unwrap().attributes["n"], number(n as f64));
    }
}

async fn export(mut client: Client) -> Result<usize, tonic::Status> {
    let request = proto::ExportProfilesRequest { site: SITE.into(), ..Default::default() };
    let mut pages = client.export_profiles(request).await?.into_inner();
    let mut count = 0;
    while let Some(page) = pages.message().await? {
        count += page.profiles.len();
    }
    Ok(count)
}

#[tokio::test]
async fn gets_do_not_wait_for_exports_that_hang_or_are_slow() {
    const USERS: usize = 400;
    let (_home, mut day) = with_cold_users(USERS).await;
    let late = Effect::Delay(prost_types::Duration { seconds: 0, nanos: 300_000_000 });
    for (effect, half) in [(late, 0..USERS / 2), (Effect::Hang(()), USERS / 2..USERS)] {
        let hangs = effect == Effect::Hang(());
        day.break_with(fault(FaultPlace::Thread, StoreCall::ScanRecords, "", effect)).await;
        let exports: Vec<_> = (0..8).map(|_| tokio::spawn(export(day.client.clone()))).collect();
        // Before anybody has noticed, and after.
        let middle = usize::midpoint(half.start, half.end);
        all_are_read(&day, half.start..middle).await;
        if hangs {
            day.until(BreakerOperation::Query, "", BreakerState::Open).await;
            let refused = export(day.client.clone()).await.unwrap_err();
            assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "BREAKER_OPEN"));
        }
        all_are_read(&day, middle..half.end).await;
        assert_eq!(visits(&day.client, "other", "u", 5).await, [Outcome::Applied; 5]);
        assert!(day.clear().await > 0);
        for export in exports {
            match export.await.unwrap() {
                Ok(exported) => assert_eq!(exported, USERS),
                // It had a page, or none, and was then kept from the store; never is an export cut short in silence.
                Err(status) => assert_eq!(reason(&status), "BREAKER_OPEN", "{status:?}"),
            }
        }
        day.until(BreakerOperation::Query, "", BreakerState::Closed).await;
        assert_eq!(export(day.client.clone()).await.unwrap(), USERS);
    }
    day.server.stop();
}

#[tokio::test]
async fn while_all_writes_hang_all_reads_are_answered() {
    const USERS: usize = 300;
    let (_home, mut day) = with_cold_users(USERS).await;
    day.break_with(fault(FaultPlace::Thread, StoreCall::Commit, "", Effect::Hang(()))).await;
    let client = day.client.clone();
    let first = tokio::spawn(async move { visits(&client, "other", "u0", 1).await });
    // Before anybody has noticed, and after.
    all_are_read(&day, 0..USERS / 2).await;
    day.until(BreakerOperation::Apply, "", BreakerState::Open).await;
    all_are_read(&day, USERS / 2..USERS).await;
    assert_eq!(first.await.unwrap(), [Outcome::Deferred]);
    for site in ["other", "new"] {
        assert_eq!(visits(&day.client, site, "u1", 3).await, [Outcome::Deferred; 3]);
        assert_eq!(day.get(site, "u1").await.unwrap().attributes["visits"], number(3.0));
    }
    assert_eq!(export(day.client.clone()).await.unwrap(), USERS);
    let batch = proto::BatchGetProfilesRequest {
        site: SITE.into(),
        users: (0..100).map(|n| format!("u{n}")).collect(),
        include_occurred_at: false,
    };
    assert_eq!(day.client.batch_get_profiles(batch).await.unwrap().into_inner().profiles.len(), 100);
    day.clear().await;
    day.server.stop();
}

#[tokio::test]
async fn holds_are_placed_and_released_while_the_store_hangs() {
    let (_home, mut day) = begin().await;
    for site in ["held", "refused", "free"] {
        applied(&mut day.client, of(site, add("u", "visits", 1.0))).await;
    }
    day.break_with(fault(FaultPlace::Thread, StoreCall::Commit, "", Effect::Hang(()))).await;
    let client = day.client.clone();
    let first = tokio::spawn(async move { visits(&client, "held", "u", 1).await });
    day.until(BreakerOperation::Apply, "", BreakerState::Open).await;
    let held = place(&mut day, writes("held"), HoldMode::Defer).await;
    let refused = place(&mut day, writes("refused"), HoldMode::Reject).await;
    let short = place(&mut day, writes("free"), HoldMode::Reject).await;
    assert_eq!(release(&mut day, &short).await, 0);
    assert_eq!(first.await.unwrap(), [Outcome::Deferred]);
    for site in ["held", "free"] {
        assert_eq!(visits(&day.client, site, "u", 2).await, [Outcome::Deferred; 2]);
    }
    let status = identify(&mut day.client, of("refused", add("u", "visits", 1.0))).await.unwrap_err();
    assert_refused(&status, Code::FailedPrecondition, "WRITES_HELD", "");
    assert_eq!(info(&status).1["hold_id"], refused);

    day.clear().await;
    day.until(BreakerOperation::Apply, "", BreakerState::Closed).await;
    // The store is well again, and the hold still holds.
    assert_eq!(applied(&mut day.client, of("free", add("u", "visits", 1.0))).await.version, Some(4));
    assert_eq!(visits(&day.client, "held", "u", 1).await, [Outcome::Deferred]);
    let waiting = u64::from(day.get("held", "u").await.unwrap().pending.unwrap().count);
    // The one on which the store hung was under way when the hold came.
    assert!((3..=4).contains(&waiting), "{waiting}");
    assert_eq!(release(&mut day, &held).await, waiting);
    assert_eq!(release(&mut day, &refused).await, 0);
    assert_eq!(applied(&mut day.client, of("held", add("u", "visits", 1.0))).await.version, Some(6));
    assert_eq!(applied(&mut day.client, of("refused", add("u", "visits", 1.0))).await.version, Some(2));
    day.server.stop();
}

#[tokio::test]
async fn in_a_stream_only_what_is_held_back_is_refused() {
    let (_home, mut day) = begin().await;
    let id = place(&mut day, writes("refused"), HoldMode::Reject).await;
    place(&mut day, writes("deferred"), HoldMode::Defer).await;
    let requests: Vec<_> = (0..30_u64)
        .map(|sequence| {
            let site = ["free", "refused", "deferred"][sequence as usize % 3];
            let request = Some(of(site, add(&format!("u{sequence}"), "visits", 1.0)));
            proto::IdentifyStreamRequest { sequence, request }
        })
        .collect();
    let mut answers = day.client.identify_stream(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let mut heard = 0;
    while let Some(answer) = answers.message().await.unwrap() {
        heard += 1;
        match (answer.sequence % 3, answer.result.unwrap().result.unwrap()) {
            (0, Told::Receipt(receipt)) => assert_eq!(receipt.outcome(), Outcome::Applied),
            (1, Told::Error(error)) => {
                assert_eq!((error.reason.as_str(), &error.metadata["hold_id"]), ("WRITES_HELD", &id));
            }
            (2, Told::Receipt(receipt)) => assert_eq!(receipt.outcome(), Outcome::Deferred),
            (_, told) => panic!("{}: {told:?}", answer.sequence),
        }
    }
    assert_eq!(heard, 30);
    day.server.stop();
}

#[tokio::test]
async fn sites_that_wait_leave_the_others_their_part_of_the_journal() {
    let home = Home::new()
        .set("server.fault_injection=true")
        .set("journal.segment=1 MiB")
        .set("journal.total_quota=16 MiB")
        .set("journal.site_quota=16 MiB");
    let mut day = Day::on(&home).await;
    let held = ["held-0", "held-1"];
    let mut ids = Vec::new();
    for site in held {
        ids.push(place(&mut day, writes(site), HoldMode::Defer).await);
    }
    let long = "x".repeat(190);
    let mut kept = [0_usize; 2];
    let full = 'full: loop {
        for (site, kept) in held.iter().zip(&mut kept) {
            let write = |n: usize| {
                let values = ["a", "b", "c", "d"].map(|name| (name, text(long.clone())));
                let request = of(site, set(&format!("u{n}"), values));
                proto::IdentifyRequest { wait: proto::Wait::Journaled.into(), ..request }
            };
            let requests = (*kept..*kept + 100).map(write).collect();
            match day.client.identify_many(proto::IdentifyManyRequest { requests }).await {
                Ok(answer) if answer.get_ref().failed == 0 => *kept += 100,
                Ok(answer) => *kept += 100 - answer.get_ref().failed as usize,
                Err(status) => break 'full status,
            }
        }
        assert!(kept[0] < 50_000, "it never was full");
    };
    assert_refused(&full, Code::ResourceExhausted, "JOURNAL_FULL", "");
    let details = full.get_error_details();
    assert_eq!(details.quota_failure().unwrap().violations[0].subject, "sites that are not being applied");
    // Of 16 MiB they have 80 %, together.
    let bytes = (kept[0] + kept[1]) * 4 * 190;
    assert!((8 << 20..14 << 20).contains(&bytes), "{kept:?}");
    for n in 0..500 {
        applied(&mut day.client, of("free", set(&format!("u{n}"), [("a", text(long.clone()))]))).await;
    }
    assert!(get(&mut day.client, held[0], "u0").await.unwrap().pending.is_some());
    // What waits is let go, and there is room again.
    let released = release(&mut day, &ids[0]).await + release(&mut day, &ids[1]).await;
    assert_eq!(released as usize, kept[0] + kept[1]);
    for (site, kept) in held.iter().zip(kept) {
        applied(&mut day.client, of(site, set(&format!("u{}", kept - 1), [("a", text("y"))]))).await;
        applied(&mut day.client, of(site, set("one more", [("a", text("y"))]))).await;
    }
    day.server.stop();
}
