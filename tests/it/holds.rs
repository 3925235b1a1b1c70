//! The kill switch of a running server: what services hear, what waits, what operators see.

use std::time::Duration;

use steadfast::proto::operator_service_client::OperatorServiceClient;
use steadfast::proto::{
    self, HoldEventKind, HoldMode, HoldScope, HoldStatus, Operation, Outcome, PlaceHoldRequest,
    PlaceHoldResponse, WriteState, place_hold_request::Expiry,
};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::*;

type Operator = OperatorServiceClient<Channel>;

async fn operator(server: &Server) -> Operator {
    OperatorServiceClient::new(channel(server.operations).await)
}

fn scope(site: &str, operations: &[Operation]) -> HoldScope {
    let operations = operations.iter().map(|operation| (*operation).into()).collect();
    HoldScope { site: site.into(), user_percentage: None, operations }
}

fn hold(scope: HoldScope, mode: HoldMode) -> PlaceHoldRequest {
    PlaceHoldRequest {
        scope: Some(scope),
        mode: mode.into(),
        reason: "a test".into(),
        owner: "ann".into(),
        ..Default::default()
    }
}

async fn placed(operator: &mut Operator, request: PlaceHoldRequest) -> PlaceHoldResponse {
    let placed = operator.place_hold(request).await.unwrap().into_inner();
    assert!(placed.hold.as_ref().unwrap().durable);
    placed
}

async fn place(operator: &mut Operator, request: PlaceHoldRequest) -> String {
    placed(operator, request).await.hold.unwrap().hold.unwrap().id
}

fn ending(id: &str) -> proto::ReleaseHoldRequest {
    proto::ReleaseHoldRequest {
        hold_id: id.into(),
        reason: "over".into(),
        owner: "bob".into(),
        ..Default::default()
    }
}

/// Answers how many entries that lets go.
async fn release(operator: &mut Operator, id: &str) -> u64 {
    let released = operator.release_hold(ending(id)).await.unwrap().into_inner();
    assert!(released.durable);
    released.released
}

async fn holds(operator: &mut Operator) -> Vec<HoldStatus> {
    operator.list_holds(proto::ListHoldsRequest::default()).await.unwrap().into_inner().holds
}

/// A write that waits. The server answers writes as deferred by themselves after 30 s only.
async fn deferred(client: &mut Client, request: proto::IdentifyRequest) -> proto::Receipt {
    let receipt = identify(client, request).await.unwrap();
    assert_eq!((receipt.outcome(), receipt.version), (Outcome::Deferred, None), "{receipt:?}");
    assert!(receipt.position.is_some());
    receipt
}

fn at_site(site: &str, user: &str) -> proto::IdentifyRequest {
    proto::IdentifyRequest { site: site.into(), ..set(user, [("plan", text("pro"))]) }
}

fn journaled(request: proto::IdentifyRequest) -> proto::IdentifyRequest {
    proto::IdentifyRequest { wait: proto::Wait::Journaled.into(), ..request }
}

fn retry_after(status: &Status) -> Option<Duration> {
    status.get_error_details().retry_info().and_then(|info| info.retry_delay)
}

#[tokio::test]
async fn deferred_writes_are_kept_shown_and_applied_after_the_release() {
    let home = Home::new();
    let server = home.start();
    let (mut client, mut operator) = (server.client().await, operator(&server).await);
    applied(&mut client, set("u", [("plan", text("free"))])).await;
    let id = place(&mut operator, hold(scope(SITE, &[]), HoldMode::Defer)).await;
    assert_eq!(id, "hold-1");

    let first = deferred(&mut client, set("u", [("plan", text("pro"))])).await;
    let second = deferred(&mut client, add("u", "seats", 1.0)).await;
    for receipt in [&first, &second] {
        assert_eq!(write_state(&mut client, receipt).await.state(), WriteState::Pending);
    }
    let profile = get(&mut client, SITE, "u").await.unwrap();
    assert_eq!(profile.attributes["plan"], text("pro"));
    assert_eq!(profile.pending.map(|pending| (pending.count, pending.overlaid)), Some((2, true)));
    let deleted = client.delete_profile(delete("v")).await.unwrap().into_inner().receipt.unwrap();
    assert_eq!(deleted.outcome(), Outcome::Deferred);
    applied(&mut client, at_site("other", "u")).await;

    let conditional = proto::IdentifyRequest { if_version: Some(1), ..set("w", [("n", number(1.0))]) };
    let refused = identify(&mut client, conditional).await.unwrap_err();
    assert_refused(&refused, Code::FailedPrecondition, "CONDITION_NEEDS_STORE", "");
    assert!(retry_after(&refused).is_some_and(|after| after > Duration::from_mins(50)));

    let status = holds(&mut operator).await.remove(0);
    assert_eq!((status.deferred, status.rejected, status.in_flight), (4, 0, 0));
    assert!(status.drained_at.is_some() && status.time_left.is_some());
    let dry = proto::ReleaseHoldRequest { dry_run: true, ..ending(&id) };
    assert_eq!(operator.release_hold(dry).await.unwrap().into_inner().released, 3);
    assert_eq!(release(&mut operator, &id).await, 3);
    let receipt = applied(&mut client, add("u", "seats", 1.0)).await;
    assert_eq!(receipt.version, Some(4), "behind the two that waited");
    assert_eq!(write_state(&mut client, &second).await.state(), WriteState::Applied);
    assert_eq!(get(&mut client, SITE, "u").await.unwrap().attributes["seats"], number(2.0));
    assert!(holds(&mut operator).await.is_empty());

    let events = operator.list_hold_events(proto::ListHoldEventsRequest::default()).await.unwrap();
    let events = events.into_inner().events;
    let kinds: Vec<_> = events.iter().map(|event| (event.kind(), event.owner.as_str())).collect();
    assert_eq!(kinds, [(HoldEventKind::Released, "bob"), (HoldEventKind::Placed, "ann")]);
    server.stop();
}

#[tokio::test]
async fn what_is_rejected_says_by_what_and_for_how_long() {
    let home = Home::new();
    let server = home.start();
    let (mut client, mut operator) = (server.client().await, operator(&server).await);
    applied(&mut client, set("u", [("plan", text("free"))])).await;
    let site = place(&mut operator, hold(scope(SITE, &[]), HoldMode::Reject)).await;
    let refused = identify(&mut client, set("u", [("plan", text("pro"))])).await.unwrap_err();
    assert_refused(&refused, Code::FailedPrecondition, "WRITES_HELD", "");
    let metadata = info(&refused).1;
    assert_eq!(metadata["hold_id"], site);
    assert_eq!(metadata["scope"], "site acme, IDENTIFY+DELETE");
    assert!(metadata["expires_at"].ends_with('Z'), "{metadata:?}");
    assert!(retry_after(&refused).is_some_and(|after| after <= Duration::from_hours(1)));
    let status = client.delete_profile(delete("u")).await.unwrap_err();
    assert_eq!(reason(&status), "WRITES_HELD");
    let many = proto::IdentifyManyRequest { requests: vec![at_site(SITE, "a"), at_site("other", "a")] };
    let results = client.identify_many(many).await.unwrap().into_inner();
    assert_eq!(results.failed, 1, "one site's trouble is not the other's");
    applied(&mut client, at_site("other", "u")).await;
    assert!(get(&mut client, SITE, "u").await.is_some(), "reads go on");

    let forever = PlaceHoldRequest {
        expiry: Some(Expiry::Never(())),
        ..hold(scope(SITE, &[Operation::Get, Operation::Query]), HoldMode::Reject)
    };
    let reads = place(&mut operator, forever).await;
    let request = proto::GetProfileRequest { site: SITE.into(), user: "u".into(), ..Default::default() };
    let refused = client.get_profile(request.clone()).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "READS_HELD"));
    assert_eq!((info(&refused).1["hold_id"].as_str(), retry_after(&refused)), (reads.as_str(), None));
    let export = proto::ExportProfilesRequest { site: SITE.into(), ..Default::default() };
    let refused = match client.export_profiles(export).await {
        Err(status) => status,
        Ok(stream) => stream.into_inner().message().await.unwrap_err(),
    };
    assert_eq!(reason(&refused), "READS_HELD");

    let node = place(&mut operator, hold(scope("", &[Operation::Writes, Operation::Get]), HoldMode::Reject));
    let node = node.await;
    let refused = identify(&mut client, at_site("other", "u")).await.unwrap_err();
    assert_refused(&refused, Code::Unavailable, "WRITES_HELD", "");
    assert_eq!(info(&refused).1["hold_id"], node);
    let refused = client.get_profile(request).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "READS_HELD"));
    for id in [node, reads, site] {
        assert_eq!(release(&mut operator, &id).await, 0);
    }
    applied(&mut client, set("u", [("plan", text("pro"))])).await;
    server.stop();
}

#[tokio::test]
async fn what_an_operator_asks_wrongly_is_said_and_a_dry_run_does_nothing() {
    let home = Home::new();
    let server = home.start();
    let (mut client, mut operator) = (server.client().await, operator(&server).await);
    applied(&mut client, set("u", [("plan", text("free"))])).await;
    let good = || hold(scope(SITE, &[]), HoldMode::Reject);
    let share = |percent| HoldScope { user_percentage: Some(percent), ..scope(SITE, &[]) };
    let spans = |seconds| Some(Expiry::ExpiresIn(prost_types::Duration { seconds, nanos: 0 }));
    for (wrong, field) in [
        (PlaceHoldRequest { reason: String::new(), ..good() }, "reason"),
        (PlaceHoldRequest { owner: String::new(), ..good() }, "owner"),
        (PlaceHoldRequest { mode: 0, ..good() }, "mode"),
        (PlaceHoldRequest { mode: 9, ..good() }, "mode"),
        (PlaceHoldRequest { expiry: spans(0), ..good() }, "expires_in"),
        (PlaceHoldRequest { expiry: spans(40 * 86_400), ..good() }, "expires_in"),
        (hold(scope(SITE, &[Operation::Get]), HoldMode::Defer), "mode"),
        (hold(scope(SITE, &[Operation::Unspecified]), HoldMode::Reject), "scope.operations[0]"),
        (hold(scope("no site", &[]), HoldMode::Reject), "scope.site"),
        (hold(share(0.0), HoldMode::Reject), "scope.user_percentage"),
        (
            hold(HoldScope { operations: vec![Operation::Query.into()], ..share(5.0) }, HoldMode::Reject),
            "scope.user_percentage",
        ),
    ] {
        let status = operator.place_hold(wrong.clone()).await.unwrap_err();
        let details = status.get_error_details();
        let fields: Vec<_> =
            details.bad_request().unwrap().field_violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!((status.code(), fields), (Code::InvalidArgument, vec![field]), "{wrong:?}");
    }
    let dry = PlaceHoldRequest { dry_run: true, ..good() };
    let told = operator.place_hold(dry).await.unwrap().into_inner();
    assert_eq!(told.hold.unwrap().hold.unwrap().id, "");
    assert_eq!(told.impact.map(|impact| (impact.active_sites, impact.pending)), Some((1, 0)));
    assert!(holds(&mut operator).await.is_empty());
    applied(&mut client, set("u", [("plan", text("pro"))])).await;

    let waits = PlaceHoldRequest {
        wait_drained: Some(prost_types::Duration { seconds: 10, nanos: 0 }),
        ..hold(scope(SITE, &[]), HoldMode::Observe)
    };
    let observed = placed(&mut operator, waits).await.hold.unwrap();
    assert_eq!((observed.in_flight, observed.drained_at.is_some()), (0, true));
    applied(&mut client, set("u", [("plan", text("max"))])).await;
    assert_eq!(holds(&mut operator).await[0].observed, 1);

    for (id, code, expected) in
        [("hold-7", Code::NotFound, "HOLD_NOT_FOUND"), ("seven", Code::InvalidArgument, "INVALID_FIELD")]
    {
        let status = operator.release_hold(ending(id)).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (code, expected));
    }
    let old = proto::ReleaseHoldRequest { if_version: Some(7), ..ending("hold-1") };
    let status = operator.release_hold(old).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Aborted, "VERSION_MISMATCH"));
    let longer = proto::ExtendHoldRequest {
        hold_id: "hold-1".into(),
        expiry: Some(proto::extend_hold_request::Expiry::Never(())),
        reason: "longer".into(),
        owner: "ann".into(),
        if_version: Some(1),
    };
    let extended = operator.extend_hold(longer).await.unwrap().into_inner().hold.unwrap();
    let hold = extended.hold.unwrap();
    assert_eq!((extended.durable, extended.time_left, hold.version, hold.expires_at), (true, None, 2, None));
    server.stop();
}

#[tokio::test]
async fn users_are_let_back_in_step_by_step() {
    let home = Home::new();
    let server = home.start();
    let (mut client, mut operator) = (server.client().await, operator(&server).await);
    let users: Vec<String> = (0..60).map(|n| format!("user-{n}")).collect();
    let mut last = place(&mut operator, hold(scope(SITE, &[]), HoldMode::Defer)).await;
    for user in &users {
        deferred(&mut client, set(user, [("plan", text("pro"))])).await;
    }
    let mut held = users.clone();
    for (step, percent) in [60.0, 20.0].into_iter().enumerate() {
        let smaller = HoldScope { user_percentage: Some(percent), ..scope(SITE, &[]) };
        let smaller = place(&mut operator, hold(smaller, HoldMode::Defer)).await;
        let released = release(&mut operator, &last).await as usize;
        last = smaller;
        let mut still = Vec::new();
        for user in &users {
            let receipt = identify(&mut client, add(user, "steps", 1.0)).await.unwrap();
            match receipt.outcome() {
                Outcome::Deferred => still.push(user.clone()),
                outcome => assert_eq!(outcome, Outcome::Applied),
            }
        }
        assert!(still.iter().all(|user| held.contains(user)), "nobody is held back who was not before");
        assert!(!still.is_empty() && still.len() < held.len(), "{} of {}", still.len(), held.len());
        // Each had one entry at first, and one more with each step.
        assert_eq!(released, (held.len() - still.len()) * (step + 1));
        held = still;
    }
    release(&mut operator, &last).await;
    for user in &users {
        applied(&mut client, add(user, "steps", 1.0)).await;
        assert_eq!(get(&mut client, SITE, user).await.unwrap().attributes["steps"], number(3.0));
    }
    server.stop();
}

#[tokio::test]
async fn holds_and_what_waits_survive_any_end() {
    let home = Home::new();
    for kill in [true, false] {
        let server = home.start();
        let (mut client, mut operator) = (server.client().await, operator(&server).await);
        if kill {
            place(&mut operator, hold(scope(SITE, &[]), HoldMode::Defer)).await;
            place(&mut operator, hold(scope("other", &[]), HoldMode::Reject)).await;
            let ended = place(&mut operator, hold(scope("third", &[]), HoldMode::Reject)).await;
            release(&mut operator, &ended).await;
        }
        deferred(&mut client, add("u", "n", 1.0)).await;
        server.end(kill);
    }
    let server = home.start();
    let (mut client, mut operator) = (server.client().await, operator(&server).await);
    let found = holds(&mut operator).await;
    let ids: Vec<_> = found.iter().map(|status| status.hold.as_ref().unwrap().id.as_str()).collect();
    assert_eq!(ids, ["hold-1", "hold-2"]);
    assert!(found.iter().all(|status| status.durable && status.time_left.is_some()));
    let profile = get(&mut client, SITE, "u").await.unwrap();
    assert_eq!((profile.attributes["n"].clone(), profile.pending.unwrap().count), (number(2.0), 2));
    assert_eq!(reason(&identify(&mut client, at_site("other", "u")).await.unwrap_err()), "WRITES_HELD");
    applied(&mut client, at_site("third", "u")).await;
    assert_eq!(release(&mut operator, "hold-1").await, 2);
    assert_eq!(applied(&mut client, add("u", "n", 1.0)).await.version, Some(3));
    server.stop();
}

#[tokio::test]
async fn a_backlog_of_a_hundred_thousand_is_applied_under_live_traffic() {
    const USERS: usize = 25_000;
    const EACH: usize = 4;
    let home = Home::new();
    let server = home.start();
    let (mut client, mut operator) = (server.client().await, operator(&server).await);
    let id = place(&mut operator, hold(scope(SITE, &[]), HoldMode::Defer)).await;
    for _ in 0..EACH {
        for first in (0..USERS).step_by(1_000) {
            let requests = (first..first + 1_000).map(|n| add(&format!("user-{n}"), "n", 1.0)).collect();
            let answer = client.identify_many(proto::IdentifyManyRequest { requests }).await.unwrap();
            assert_eq!(answer.into_inner().failed, 0);
        }
    }
    assert_eq!(release(&mut operator, &id).await, (USERS * EACH) as u64);
    // A site that was never held back does not wait for the others.
    for n in 0..100 {
        applied(&mut client, at_site("other", &format!("user-{n}"))).await;
    }
    // New writes of users with a backlog come behind it.
    let live: Vec<usize> = (0..USERS).step_by(50).collect();
    for n in &live {
        let request = add(&format!("user-{n}"), "n", 1.0);
        let receipt = identify(&mut client, journaled(request)).await.unwrap();
        assert_eq!(receipt.outcome(), Outcome::Deferred);
    }
    let mut statuses =
        operator.watch_status(proto::WatchStatusRequest::default()).await.unwrap().into_inner();
    let status = loop {
        let status = statuses.message().await.unwrap().unwrap().status.unwrap();
        if status.backlog.as_ref().is_some_and(|backlog| backlog.entries == 0) {
            break status;
        }
    };
    assert!(status.breakers.iter().all(|breaker| breaker.trips == 0), "{:?}", status.breakers);
    for n in (0..USERS).step_by(25) {
        let profile = get(&mut client, SITE, &format!("user-{n}")).await.unwrap();
        let visits = if n % 50 == 0 { EACH + 1 } else { EACH };
        assert_eq!((profile.attributes["n"].clone(), profile.pending), (number(visits as f64), None));
        assert_eq!(profile.version, visits as u64);
    }
    server.stop();
}

#[tokio::test]
async fn a_delete_that_is_held_back_happens_in_its_place() {
    let home = Home::new();
    let server = home.start();
    let (mut client, mut operator) = (server.client().await, operator(&server).await);
    applied(&mut client, set("u", [("old", text("gone"))])).await;
    let id = place(&mut operator, hold(scope(SITE, &[Operation::Delete]), HoldMode::Defer)).await;
    let erased = client.delete_profile(delete("u")).await.unwrap().into_inner().receipt.unwrap();
    assert_eq!(erased.outcome(), Outcome::Deferred);
    // Writes as such are not held back, but this one is of the same user.
    let later = deferred(&mut client, journaled(set("u", [("new", text("stays"))]))).await;
    applied(&mut client, set("v", [("new", text("stays"))])).await;
    assert_eq!(write_state(&mut client, &later).await.state(), WriteState::Pending);
    let profile = get(&mut client, SITE, "u").await.unwrap();
    assert_eq!(profile.attributes.keys().collect::<Vec<_>>(), ["new"]);
    assert_eq!(profile.pending.unwrap().count, 2);
    assert_eq!(release(&mut operator, &id).await, 1, "the delete; the other one waited behind it");
    let receipt = applied(&mut client, set("u", [("newer", text("too"))])).await;
    assert_eq!(receipt.version, Some(4), "written, erased, written, written");
    let profile = get(&mut client, SITE, "u").await.unwrap();
    assert_eq!(profile.attributes.keys().collect::<Vec<_>>(), ["new", "newer"]);
    server.stop();
}

#[tokio::test]
async fn a_server_may_start_with_everything_held() {
    let home = Home::new().set("control.start_held=true");
    for _ in 0..2 {
        let server = home.start();
        let mut client = server.client().await;
        deferred(&mut client, add("u", "n", 1.0)).await;
        server.stop();
    }
    let server = home.start();
    let (mut client, mut operator) = (server.client().await, operator(&server).await);
    assert_eq!(holds(&mut operator).await.len(), 1);
    assert_eq!(release(&mut operator, "hold-1").await, 2);
    assert_eq!(applied(&mut client, add("u", "n", 1.0)).await.version, Some(3));
    server.stop();
}

#[tokio::test]
async fn holds_that_cannot_be_read_hold_everything_until_they_are_given_up() {
    let home = Home::new();
    let server = home.start();
    place(&mut operator(&server).await, hold(scope("other", &[]), HoldMode::Reject)).await;
    server.stop();
    let log = home.path("control/audit.log");
    let mut bytes = std::fs::read(&log).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&log, bytes).unwrap();

    let server = home.start();
    let (mut client, mut operator) = (server.client().await, operator(&server).await);
    deferred(&mut client, add("u", "n", 1.0)).await;
    deferred(&mut client, at_site("other", "u")).await;
    let found = holds(&mut operator).await.remove(0);
    assert_eq!((found.hold.unwrap().id.as_str(), found.time_left), ("holds-unreadable", None));
    let status = operator.release_hold(ending("holds-unreadable")).await.unwrap_err();
    assert_eq!(reason(&status), "INVALID_FIELD");
    let recover = proto::ReleaseHoldRequest { recover: true, ..ending("holds-unreadable") };
    let recovered = operator.release_hold(recover).await.unwrap().into_inner();
    assert_eq!((recovered.durable, recovered.released), (true, 2));
    applied(&mut client, add("u", "n", 1.0)).await;
    assert!(home.path("control/audit.unreadable-1").exists());
    server.stop();
    let server = home.start();
    applied(&mut server.client().await, add("u", "n", 1.0)).await;
    server.stop();
}

/// Runs a command for operators; answers its exit code and what it said.
fn command(server: &Server, words: &[&str]) -> (Option<i32>, String) {
    let mut command = program();
    command.args(words).args(["--addr", &server.operations.to_string()]);
    let done = command.env("STEADFAST_OWNER", "ann").output().unwrap();
    let said = [done.stdout, done.stderr].concat();
    (done.status.code(), String::from_utf8(said).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_do_it_all_from_the_command_line() {
    let home = Home::new();
    let server = home.start();
    let mut client = server.client().await;
    applied(&mut client, set("u", [("plan", text("free"))])).await;
    let run = |words: &[&str]| {
        let (code, said) = command(&server, words);
        assert_eq!(code, Some(0), "{words:?}: {said}");
        said
    };
    let place = ["hold", "--site", SITE, "--mode", "defer", "--reason", "new disk", "--for", "30m"];
    let said = run(&[&place[..], &["--dry-run"]].concat());
    assert!(said.contains("would place: DEFER site acme, IDENTIFY+DELETE, for 30 min"), "{said}");
    assert!(run(&["holds"]).contains("no holds"));
    let said = run(&[&place[..], &["--wait-drained", "5s"]].concat());
    assert!(said.contains("hold-1 is in force"), "{said}");
    deferred(&mut client, add("u", "n", 1.0)).await;
    let said = run(&["holds", "--site", SITE]);
    assert!(said.contains("hold-1") && said.contains("new disk") && said.contains("ann"), "{said}");
    let status = run(&["status"]);
    assert!(status.contains("hold-1"), "{status}");
    run(&["hold", "extend", "hold-1", "--for", "2h", "--reason", "not done yet"]);
    let said = run(&["release", "hold-1", "--reason", "done", "--dry-run"]);
    assert!(said.contains("would release hold-1: 1 entries"), "{said}");
    let said = run(&["release", "hold-1", "--reason", "done", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((json["durable"].as_bool(), json["released"].as_u64()), (Some(true), Some(1)));
    applied(&mut client, add("u", "n", 1.0)).await;
    let said = run(&["hold", "history", "--limit", "2"]);
    assert!(said.contains("released") && said.contains("extended") && !said.contains("placed"), "{said}");
    let (code, said) = command(&server, &["release", "hold-1", "--reason", "again"]);
    assert_eq!(code, Some(66), "{said}");
    let (code, said) = command(&server, &["hold", "recover", "--reason", "nothing is unreadable"]);
    assert_eq!(code, Some(66), "{said}");
    let (code, said) = command(&server, &["hold", "--mode", "defer"]);
    assert_eq!(code, Some(2), "{said}");
    server.stop();
}
