//! What operators see and do, over real gRPC.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use steadfast::app::{App, Layers};
use steadfast::config::Config;
use steadfast::proto::operator_service_client::OperatorServiceClient;
use steadfast::proto::*;
use steadfast::serve::Listeners;
use steadfast::store::faulty::{Fault as StoreFault, FaultKind, FaultLevel, Faults, FaultyStore};
use steadfast::store::{Operation as StoreOperation, Store};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use crate::support::*;

type Operators = OperatorServiceClient<Channel>;

async fn operators(address: SocketAddr) -> Operators {
    OperatorServiceClient::new(channel(address).await)
}

async fn status(operators: &mut Operators) -> NodeStatus {
    operators.get_status(GetStatusRequest::default()).await.unwrap().into_inner().status.unwrap()
}

/// The first status of a stream that is as wanted.
async fn status_that(operators: &mut Operators, wanted: impl Fn(&NodeStatus) -> bool) -> NodeStatus {
    let interval = Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 });
    let request = WatchStatusRequest { interval, ..Default::default() };
    let mut statuses = operators.watch_status(request).await.unwrap().into_inner();
    loop {
        let status = statuses.message().await.unwrap().unwrap().status.unwrap();
        if wanted(&status) {
            return status;
        }
    }
}

fn fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    violations.into_iter().map(|violation| violation.field).collect()
}

fn who() -> (String, String) {
    ("carol".to_owned(), "a test".to_owned())
}

#[tokio::test]
async fn the_status_tells_what_happens() {
    let home = Home::new();
    let server = home.start();
    let (mut client, mut operators) = (server.client().await, operators(server.operations).await);
    let before = status(&mut operators).await;
    assert_eq!((before.state(), before.why.len()), (ServingState::Serving, 0), "{before:?}");
    let receipt = applied(&mut client, set("u", [("plan", text("pro"))])).await;
    applied(&mut client, set("v", [("plan", text("free"))])).await;
    assert!(get(&mut client, SITE, "u").await.is_some());
    let told = status(&mut operators).await;
    assert_eq!(told.node, receipt.position.as_ref().unwrap().node);
    let journal = told.journal.as_ref().unwrap();
    assert_eq!((journal.state(), journal.last_position), (JournalState::Ok, 2));
    assert!(journal.used_bytes > 0 && journal.limit_bytes > journal.used_bytes && journal.segments > 0);
    let rate = |operation: Operation| {
        told.operations.iter().find(|told| told.operation() == operation).unwrap().requests_per_second
    };
    assert!(rate(Operation::Identify) > 0.0 && rate(Operation::Get) > 0.0 && rate(Operation::Delete) == 0.0);
    assert_eq!((told.sites_known, told.sites_with_pending, told.connections), (1, 0, 1));
    let store = told.store.as_ref().unwrap();
    assert_eq!((store.state(), store.profiles, store.hung_threads), (StoreState::Serving, 2, 0));
    assert!(store.commits.as_ref().unwrap().p99.is_some());
    let restart = told.restart.as_ref().unwrap();
    assert!(restart.safe && restart.message.starts_with("restart is safe: 0 pending"), "{restart:?}");
    let site = GetStatusRequest { site: SITE.into(), max_sites: 1 };
    let site = operators.get_status(site).await.unwrap().into_inner().status.unwrap().sites;
    assert_eq!((site.len(), site[0].site.as_str()), (1, SITE));
    server.stop();
}

#[tokio::test]
async fn bad_requests_name_the_field() {
    let home = Home::new();
    let server = home.start();
    let mut operators = operators(server.operations).await;
    let (owner, reason) = who();
    let mut wrong: BTreeMap<&str, Vec<Status>> = BTreeMap::new();
    let mut note = |field, status: Status| wrong.entry(field).or_default().push(status);
    let site = || SITE.to_owned();

    for (field, request) in [
        ("max_sites", GetStatusRequest { max_sites: 1001, ..Default::default() }),
        ("max_sites", GetStatusRequest { max_sites: -1, ..Default::default() }),
        ("site", GetStatusRequest { site: "a b".into(), ..Default::default() }),
    ] {
        note(field, operators.get_status(request).await.unwrap_err());
    }
    let interval = |seconds| WatchStatusRequest {
        interval: Some(prost_types::Duration { seconds, nanos: 0 }),
        ..Default::default()
    };
    for seconds in [0, 61, -1] {
        note("interval", operators.watch_status(interval(seconds)).await.unwrap_err());
    }
    let quota = Some(set_quota_request::Quota::LimitBytes(1 << 30));
    let good = SetQuotaRequest { site: site(), quota, reason: reason.clone(), owner: owner.clone() };
    for (field, request) in [
        ("quota", SetQuotaRequest { quota: None, ..good.clone() }),
        (
            "limit_bytes",
            SetQuotaRequest { quota: Some(set_quota_request::Quota::LimitBytes(1)), ..good.clone() },
        ),
        ("reason", SetQuotaRequest { reason: "  ".into(), ..good.clone() }),
        ("reason", SetQuotaRequest { reason: "x".repeat(1001), ..good.clone() }),
        ("owner", SetQuotaRequest { owner: String::new(), ..good.clone() }),
        ("owner", SetQuotaRequest { owner: "a\u{7}".into(), ..good.clone() }),
    ] {
        note(field, operators.set_quota(request).await.unwrap_err());
    }
    let missing = operators.set_quota(SetQuotaRequest { site: "nobody".into(), ..good }).await.unwrap_err();
    assert_eq!((missing.code(), reason_of(&missing)), (Code::NotFound, "SITE_UNKNOWN".to_owned()));
    for directory in ["relative", "/a/../b"] {
        let request = TakeSnapshotRequest { backup_directory: directory.into(), owner: owner.clone() };
        note("backup_directory", operators.take_snapshot(request).await.unwrap_err());
        let (reason, owner) = (reason.clone(), owner.clone());
        let request = RebuildStoreRequest { directory: directory.into(), reason, owner };
        note("directory", operators.rebuild_store(request).await.unwrap_err());
    }
    let hand_over = |node: &str| HandOverRequest {
        node: node.into(),
        drain_timeout: Some(prost_types::Duration { seconds: 61, nanos: 0 }),
        ..Default::default()
    };
    note("node", operators.hand_over(hand_over("x")).await.unwrap_err());
    note("drain_timeout", operators.hand_over(hand_over("0000000000000001")).await.unwrap_err());
    let (reason_, owner_) = (reason.clone(), owner.clone());
    let other = HandOverRequest {
        node: "0000000000000001".into(),
        drain_timeout: None,
        reason: reason_,
        owner: owner_,
    };
    assert_eq!(reason_of(&operators.hand_over(other).await.unwrap_err()), "OTHER_NODE");
    let good = SetAttributeStateRequest {
        site: site(),
        name: "plan".into(),
        state: AttributeState::Disabled.into(),
        indexed: None,
        reason: reason.clone(),
        owner: owner.clone(),
    };
    for (field, request) in [
        ("site", SetAttributeStateRequest { site: String::new(), ..good.clone() }),
        ("name", SetAttributeStateRequest { name: String::new(), ..good.clone() }),
        ("name", SetAttributeStateRequest { name: "x".repeat(100_000), ..good.clone() }),
        ("state", SetAttributeStateRequest { state: 99, ..good.clone() }),
        ("reason", SetAttributeStateRequest { reason: String::new(), ..good.clone() }),
    ] {
        note(field, operators.set_attribute_state(request).await.unwrap_err());
    }
    let unknown = operators.set_attribute_state(good).await.unwrap_err();
    assert_eq!((unknown.code(), reason_of(&unknown)), (Code::NotFound, "ATTRIBUTE_UNKNOWN".to_owned()));
    for (field, request) in [
        ("page_size", ListRefusedRequest { page_size: 1001, ..Default::default() }),
        ("page_token", ListRefusedRequest { page_token: "x".into(), ..Default::default() }),
        ("site", ListRefusedRequest { user: "u".into(), ..Default::default() }),
    ] {
        note(field, operators.list_refused(request).await.unwrap_err());
    }
    let position = Position { node: "0000000000000001".into(), number: 1 };
    let good = ResolveRefusedRequest {
        site: site(),
        positions: vec![position.clone()],
        action: RefusedAction::Retry.into(),
        reason,
        owner,
    };
    let bad = Position { node: "x".into(), number: 1 };
    for (field, request) in [
        ("site", ResolveRefusedRequest { site: String::new(), ..good.clone() }),
        ("positions", ResolveRefusedRequest { positions: Vec::new(), ..good.clone() }),
        ("positions", ResolveRefusedRequest { positions: vec![position; 1001], ..good.clone() }),
        ("positions[0].node", ResolveRefusedRequest { positions: vec![bad], ..good.clone() }),
        ("action", ResolveRefusedRequest { action: 0, ..good.clone() }),
        ("action", ResolveRefusedRequest { action: 9, ..good }),
    ] {
        note(field, operators.resolve_refused(request).await.unwrap_err());
    }
    for (field, refused) in &wrong {
        for status in refused {
            assert_eq!(
                (status.code(), fields(status)),
                (Code::InvalidArgument, vec![(*field).to_owned()]),
                "{status:?}"
            );
        }
    }
    server.stop();
}

fn reason_of(status: &Status) -> String {
    reason(status)
}

/// A token file that only its owner may read.
fn token_file(home: &Home, text: &str) -> PathBuf {
    let path = home.path("tokens");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value: MetadataValue<_> = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

#[tokio::test]
async fn operators_are_known_by_their_tokens() {
    let home = Home::new();
    let path = token_file(&home, "alice:0123456789abcdef\nbob:fedcba9876543210\n");
    let home = home.set(&format!("server.operations_tokens={}", path.display()));
    let server = home.start();
    let mut operators = operators(server.operations).await;
    let none = operators.get_status(GetStatusRequest::default()).await.unwrap_err();
    let wrong = with_token(GetStatusRequest::default(), "0123456789abcdeX");
    let wrong = operators.get_status(wrong).await.unwrap_err();
    for status in [none, wrong] {
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "UNAUTHENTICATED"));
    }
    operators.get_status(with_token(GetStatusRequest::default(), "fedcba9876543210")).await.unwrap();
    // Whoever asks for health needs none, and neither does who writes.
    let mut health = HealthClient::new(channel(server.operations).await);
    health.check(HealthCheckRequest { service: String::new() }).await.unwrap();
    let mut client = server.client().await;
    applied(&mut client, set("u", [("plan", text("pro"))])).await;
    // The token's name is the owner.
    let request = SetAttributeStateRequest {
        site: SITE.into(),
        name: "plan".into(),
        state: AttributeState::Disabled.into(),
        reason: "a test".into(),
        ..Default::default()
    };
    operators.set_attribute_state(with_token(request, "0123456789abcdef")).await.unwrap();
    server.wait_for("owner=\"alice\"");
    server.stop();
}

#[test]
fn without_knowing_who_calls_the_operations_listener_stays_at_home() {
    let home = Home::new();
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    let open: SocketAddr = ([0, 0, 0, 0], 0).into();
    let refused = Home::run(home.command_at(home.dir(), any, open)).err().unwrap();
    assert!(refused.said.contains("server.operations_tokens"), "{}", refused.said);
    let path = token_file(&home, "alice:0123456789abcdef\n");
    let home = home.set(&format!("server.operations_tokens={}", path.display()));
    Home::run(home.command_at(home.dir(), any, open)).unwrap().kill();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let refused = home.try_start().err().unwrap();
    assert!(
        refused.said.contains("chmod o-rwx") && !refused.said.contains("0123456789abcdef"),
        "{}",
        refused.said
    );
}

#[tokio::test]
async fn a_disabled_attribute_stays_so_and_its_writes_say_so() {
    let home = Home::new();
    let server = home.start();
    let (mut client, mut operators) = (server.client().await, operators(server.operations).await);
    applied(&mut client, set("u", [("plan", text("pro")), ("seats", number(1.0))])).await;
    let request = |state: AttributeState, indexed| SetAttributeStateRequest {
        site: SITE.into(),
        name: "plan".into(),
        state: state.into(),
        indexed,
        reason: who().1,
        owner: who().0,
    };
    let disable = request(AttributeState::Disabled, Some(false));
    let answer = operators.set_attribute_state(disable.clone()).await.unwrap().into_inner();
    let attribute = answer.attribute.unwrap();
    assert_eq!((attribute.state(), attribute.indexed), (AttributeState::Disabled, false));
    assert!(answer.position.is_some());
    // It holds from then on, and again after a restart.
    let receipt = applied(&mut client, set("u", [("plan", text("free")), ("seats", number(2.0))])).await;
    assert_eq!(receipt.notes[0].name, "plan");
    let again = operators.set_attribute_state(disable).await.unwrap().into_inner();
    assert_eq!(again.position, None);
    server.kill();
    let server = home.start();
    let (mut client, mut operators) = (server.client().await, self::operators(server.operations).await);
    let receipt = applied(&mut client, set("u", [("plan", text("free")), ("seats", number(3.0))])).await;
    assert_eq!(receipt.notes.len(), 1);
    let profile = get(&mut client, SITE, "u").await.unwrap();
    assert_eq!(profile.attributes["plan"], text("pro"));
    operators.set_attribute_state(request(AttributeState::Enabled, None)).await.unwrap();
    applied(&mut client, set("u", [("plan", text("free"))])).await;
    server.stop();
}

#[tokio::test]
async fn a_quota_is_set_and_given_back() {
    let home = Home::new();
    let server = home.start();
    let (mut client, mut operators) = (server.client().await, operators(server.operations).await);
    applied(&mut client, set("u", [("plan", text("pro"))])).await;
    let request = |site: &str, quota| SetQuotaRequest {
        site: site.into(),
        quota: Some(quota),
        reason: who().1,
        owner: who().0,
    };
    for site in [SITE, ""] {
        let bytes = set_quota_request::Quota::LimitBytes(1 << 30);
        let set = operators.set_quota(request(site, bytes)).await.unwrap().into_inner().quota.unwrap();
        assert_eq!((set.limit_bytes, set.overridden, set.site.as_str()), (1 << 30, true, site));
    }
    assert_eq!(status(&mut operators).await.journal.unwrap().limit_bytes, 1 << 30);
    let too_much = request(SITE, set_quota_request::Quota::LimitBytes(2 << 30));
    assert_eq!(fields(&operators.set_quota(too_much).await.unwrap_err()), ["limit_bytes"]);
    for (site, configured) in [(SITE, 2 << 30), ("", 8 << 30)] {
        let back = operators.set_quota(request(site, set_quota_request::Quota::Configured(()))).await;
        let back = back.unwrap().into_inner().quota.unwrap();
        assert_eq!((back.limit_bytes, back.overridden), (configured, false));
    }
    server.stop();
}

#[tokio::test]
async fn refused_entries_are_listed_retried_and_discarded() {
    let home = Home::new();
    let server = home.start();
    let (mut client, mut operators) = (server.client().await, operators(server.operations).await);
    let items: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    let items: Vec<&str> = items.iter().map(String::as_str).collect();
    applied(&mut client, set("u", [("tags", list(&items))])).await;
    let append = |item: &str| change("u", "tags", attribute_change::Change::Append(strings(&[item])));
    let mut positions = Vec::new();
    for item in ["x", "y", "z"] {
        let refused = identify(&mut client, append(item)).await.unwrap_err();
        let (node, number) =
            info(&refused).1["position"].split_once('/').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        positions.push(Position { node, number: number.parse().unwrap() });
    }
    let listed = |include_writes, page_size, page_token: String| ListRefusedRequest {
        site: SITE.into(),
        user: "u".into(),
        include_writes,
        page_size,
        page_token,
    };
    let first = operators.list_refused(listed(true, 2, String::new())).await.unwrap().into_inner();
    let rest =
        operators.list_refused(listed(false, 2, first.next_page_token.clone())).await.unwrap().into_inner();
    assert_eq!((first.entries.len(), rest.entries.len(), rest.next_page_token.as_str()), (2, 1, ""));
    let entry = &first.entries[0];
    assert_eq!((entry.user.as_str(), entry.reason(), entry.parked), ("u", RefusalReason::ListTooLong, false));
    assert!(matches!(&entry.write, Some(refused_entry::Write::Identify(write)) if write.changes.len() == 1));
    assert_eq!(rest.entries[0].write, None);

    let resolve = |positions: &[Position], action: RefusedAction| ResolveRefusedRequest {
        site: SITE.into(),
        positions: positions.to_vec(),
        action: action.into(),
        reason: who().1,
        owner: who().0,
    };
    applied(&mut client, change("u", "tags", attribute_change::Change::Remove(strings(&["0", "1"])))).await;
    let retried = operators.resolve_refused(resolve(&positions[..1], RefusedAction::Retry)).await;
    let retried = retried.unwrap().into_inner();
    let Some(write_result::Result::Receipt(receipt)) = retried.resolutions[0].result.clone().unwrap().result
    else {
        panic!("{retried:?}")
    };
    assert_eq!((retried.failed, receipt.outcome()), (0, Outcome::Applied));
    let discarded = operators.resolve_refused(resolve(&positions, RefusedAction::Discard)).await;
    let discarded = discarded.unwrap().into_inner();
    // The first one is gone already: it is not retried or discarded a second time.
    assert_eq!(discarded.failed, 1, "{discarded:?}");
    let left = operators.list_refused(listed(false, 0, String::new())).await.unwrap().into_inner();
    assert!(left.entries.is_empty(), "{left:?}");
    server.kill();
    let server = home.start();
    let (mut client, mut operators) = (server.client().await, self::operators(server.operations).await);
    let left = operators.list_refused(listed(false, 0, String::new())).await.unwrap().into_inner();
    assert!(left.entries.is_empty(), "{left:?}");
    let profile = get(&mut client, SITE, "u").await.unwrap();
    let Some(value::Kind::ListValue(tags)) = &profile.attributes["tags"].kind else { panic!() };
    assert_eq!((tags.values.len(), tags.values.last().map(String::as_str)), (99, Some("x")));
    server.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_are_answered_while_the_store_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::ephemeral(dir.path());
    config.journal.segment.0 = 4 << 20;
    config.writes.reply_after.0 = Duration::from_millis(20);
    config.server.drain_timeout.0 = Duration::from_millis(200);
    let faults = Faults::default();
    let wanted = faults.clone();
    let starting = tokio::task::spawn_blocking(move || {
        let listeners = Listeners::bind(&config.server).unwrap();
        let wrap =
            Arc::new(move |store| -> Arc<dyn Store> { Arc::new(FaultyStore::new(store, wanted.clone())) });
        App::start_with(listeners, &config, &Layers { wrap, ..Layers::default() }).unwrap()
    });
    let app = starting.await.unwrap();
    let mut client = Client::new(channel(app.data_address).await);
    let mut operators = operators(app.operations_address).await;
    faults.add(StoreFault::new(FaultKind::Hang, FaultLevel::Call).on(StoreOperation::Commit));
    for user in 0..20 {
        let receipt = identify(&mut client, set(&user.to_string(), [("plan", text("pro"))])).await.unwrap();
        assert_eq!(receipt.outcome(), Outcome::Deferred);
    }
    let late = status_that(&mut operators, |status| status.state() == ServingState::Impaired).await;
    assert_eq!(late.backlog.as_ref().unwrap().entries, 20);
    // Whichever is noticed first.
    let told = ["NOT catching up: 20", "apply breaker of site acme is open"];
    assert!(late.why.iter().any(|why| told.iter().any(|told| why.contains(told))), "{:?}", late.why);
    let mut longest = Duration::ZERO;
    for _ in 0..50 {
        let began = Instant::now();
        status(&mut operators).await;
        longest = longest.max(began.elapsed());
    }
    println!("the slowest of 50 GetStatus while the store hangs took {longest:?}");
    faults.clear();
    let well = status_that(&mut operators, |status| status.state() == ServingState::Serving).await;
    assert_eq!(well.backlog.unwrap().entries, 0);
    drop((client, operators));
    tokio::task::spawn_blocking(move || app.drain().unwrap()).await.unwrap();
}

/// Adds 1 again and again, each with a request id, and repeats what was not answered; ends with the number of
/// acknowledged ones and the longest time between two.
async fn keep_adding(data: SocketAddr, user: String, stop: Arc<AtomicBool>) -> (u64, Duration) {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{data}")).unwrap();
    let mut client = Client::new(endpoint.connect_lazy());
    let (mut done, mut last, mut longest) = (0, Instant::now(), Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let request = IdentifyRequest { request_id: format!("{user}-{done}"), ..add(&user, "n", 1.0) };
        // The same id until it is known to be kept.
        while client.identify(request.clone()).await.is_err() {
            tokio::task::yield_now().await;
        }
        done += 1;
        longest = longest.max(last.elapsed());
        last = Instant::now();
    }
    (done, longest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_takes_over_from_another_under_load() {
    const USERS: usize = 8;
    let home = Home::new();
    let old = home.start();
    let (data, operations) = (old.data, old.operations);
    // Another journal's process is not ended by mistake.
    let stranger = tempfile::tempdir().unwrap();
    let mut command = home.command_at(stranger.path(), data, operations);
    command.arg("--take-over");
    let refused = tokio::task::spawn_blocking(move || Home::run(command)).await.unwrap();
    assert!(refused.err().unwrap().said.contains("no journal"));

    let stop = Arc::new(AtomicBool::new(false));
    let adding: Vec<_> =
        (0..USERS).map(|n| tokio::spawn(keep_adding(data, format!("user-{n}"), Arc::clone(&stop)))).collect();
    let mut operators = operators(operations).await;
    status_that(&mut operators, |status| status.journal.as_ref().unwrap().last_position > 100).await;
    drop(operators);
    let dir = home.dir().to_owned();
    let mut command = home.command_at(&dir, data, operations);
    command.arg("--take-over");
    let new = tokio::task::spawn_blocking(move || Home::run(command)).await.unwrap().unwrap();
    let (code, said) = tokio::task::spawn_blocking(move || old.ended()).await.unwrap();
    assert_eq!(code.code(), Some(0), "{said}");
    assert!(said.contains("handed over") && said.contains("store_closed=true"), "{said}");
    let mut operators = self::operators(operations).await;
    let begun = status(&mut operators).await.journal.unwrap().last_position;
    status_that(&mut operators, |status| status.journal.as_ref().unwrap().last_position > begun + 100).await;
    stop.store(true, Ordering::Relaxed);
    let mut client = new.client().await;
    let mut gap = Duration::ZERO;
    for (n, adding) in adding.into_iter().enumerate() {
        let (done, longest) = adding.await.unwrap();
        gap = gap.max(longest);
        let profile = get(&mut client, SITE, &format!("user-{n}")).await.unwrap();
        assert_eq!(profile.attributes["n"], number(done as f64), "user-{n}");
    }
    println!("the longest gap that a client saw in the take-over: {gap:?}");
    new.stop();
}

/// What the command line says, and its exit code.
async fn steadfast(operations: SocketAddr, args: &[&str]) -> (i32, String, String) {
    let mut command = program();
    command
        .args(args)
        .env("STEADFAST_OPERATIONS_ADDR", operations.to_string())
        .env("STEADFAST_OWNER", "carol");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn the_command_line_asks_and_steers() {
    let home = Home::new();
    let server = home.start();
    let mut client = server.client().await;
    applied(&mut client, set("u", [("plan", text("pro"))])).await;
    let at = server.operations;
    let (code, said, _) = steadfast(at, &["status"]).await;
    assert!(code == 0 && said.starts_with("SERVING") && said.contains("restart is safe"), "{said}");
    assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");
    let (code, said, _) = steadfast(at, &["watch", "--json", "--every", "100ms", "--count", "2"]).await;
    let states: Vec<serde_json::Value> =
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((code, states.len()), (0, 2));
    assert_eq!(states[1]["journal"]["last_position"], 1);
    let because = ["--reason", "a test"];
    for (args, part) in [
        (vec!["quota", "--site", SITE, "1 GiB"], "acme: 0 B of 1.0 GiB used (until the server restarts)"),
        (vec!["quota", "--total", "configured"], "of 8.0 GiB used (as configured)"),
        (vec!["attribute", SITE, "plan", "disable"], "plan is disabled and may be indexed  (position "),
        (vec!["attribute", SITE, "plan", "disable"], "(nothing to change)"),
        (vec!["store", "rebuild", "--wait"], "rebuilt: generation 2 has taken over"),
    ] {
        let (code, said, error) = steadfast(at, &[args.as_slice(), because.as_slice()].concat()).await;
        assert!(code == 0 && said.contains(part), "{args:?}: {said}{error}");
    }
    let (code, said, _) = steadfast(at, &["refused", "list"]).await;
    assert!(code == 0 && said.contains("none"), "{said}");
    let (code, _, error) = steadfast(at, &["attribute", SITE, "nothing", "enable", "--reason", "x"]).await;
    assert!(code == 66 && error.contains("ATTRIBUTE_UNKNOWN"), "{error}");
    // The address of services is another one.
    let (code, _, error) = steadfast(server.data, &["status"]).await;
    assert!(code == 65 && error.contains("operators call another address"), "{error}");
    server.stop();
    let (code, _, error) = steadfast(at, &["status"]).await;
    assert!(code == 75 && error.contains("is the server running"), "{error}");
}
