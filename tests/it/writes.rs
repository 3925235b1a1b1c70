//! Single writes: what they do, what is refused and how it is said.

use steadfast::proto::attribute_change::Change;
use steadfast::proto::{self, Outcome, RefusalReason, WriteState};
use tonic::Code;

use crate::support::*;

/// 2020-04-10, and later ones.
const THEN: i64 = 1_586_476_800;

fn at(mut request: proto::IdentifyRequest, seconds: i64) -> proto::IdentifyRequest {
    request.occurred_at = Some(timestamp(seconds, 0));
    request
}

fn with_id(mut request: proto::IdentifyRequest, id: &str) -> proto::IdentifyRequest {
    request.request_id = id.into();
    request
}

fn if_version(mut request: proto::IdentifyRequest, version: u64) -> proto::IdentifyRequest {
    request.if_version = Some(version);
    request
}

fn changes(user: &str, changes: Vec<(&str, Change)>) -> proto::IdentifyRequest {
    let changes = changes
        .into_iter()
        .map(|(name, change)| proto::AttributeChange { name: name.into(), change: Some(change) })
        .collect();
    proto::IdentifyRequest { site: SITE.into(), user: user.into(), changes, ..Default::default() }
}

#[tokio::test]
async fn every_kind_of_value_and_change() {
    let home = Home::new();
    let server = home.start();
    let mut client = server.client().await;
    let values = || {
        set(
            "zoë 🦀",
            [
                ("plan", text("")),
                ("größe", text("ß".repeat(200))),
                ("seats", number(-0.1)),
                ("trial", truth(false)),
                ("signed_up", time(THEN, 999_999_999)),
                ("born", time(-62_135_596_800, 0)),
                ("tags", list(&["a", "", "a"])),
                ("none", list(&[])),
            ],
        )
    };
    let receipt = applied(&mut client, at(values(), THEN)).await;
    assert_eq!((receipt.version, receipt.position.is_some()), (Some(1), true));
    let profile = get(&mut client, SITE, "zoë 🦀").await.unwrap();
    assert_eq!(profile.attributes, values().attributes);
    assert_eq!((profile.version, profile.pending), (1, None));
    assert_eq!(profile.created_at, profile.updated_at);
    assert!(profile.occurred_at.keys().eq(profile.attributes.keys()));
    assert!(profile.occurred_at.values().all(|time| *time == timestamp(THEN, 0)));

    let again = identify(&mut client, at(values(), THEN)).await.unwrap();
    assert_eq!((again.outcome(), again.version, again.position), (Outcome::Unchanged, Some(1), None));

    let step = |list: Vec<(&'static str, Change)>| changes("u", list);
    let items = |items: &[&str]| strings(items);
    applied(&mut client, step(vec![("n", Change::Add(1.5)), ("l", Change::Append(items(&["a", "b"])))]))
        .await;
    applied(&mut client, step(vec![("n", Change::Add(2.0)), ("l", Change::Union(items(&["b", "c"])))])).await;
    applied(&mut client, step(vec![("l", Change::Remove(items(&["a"]))), ("s", Change::SetOnce(text("x")))]))
        .await;
    let fourth = step(vec![("s", Change::SetOnce(text("y"))), ("n", Change::Unset(()))]);
    applied(&mut client, fourth).await;
    let profile = get(&mut client, SITE, "u").await.unwrap();
    let expected = set("u", [("l", list(&["b", "c"])), ("s", text("x"))]).attributes;
    assert_eq!((profile.attributes, profile.version), (expected, 4));
}

#[tokio::test]
async fn event_time_wins_and_what_is_erased_stays_out() {
    let home = Home::new();
    let server = home.start();
    let mut client = server.client().await;
    applied(&mut client, at(set("u", [("plan", text("pro"))]), THEN)).await;
    let older = identify(&mut client, at(set("u", [("plan", text("free"))]), THEN - 1)).await.unwrap();
    assert_eq!((older.outcome(), older.version), (Outcome::Unchanged, Some(1)));
    let stale =
        proto::AttributeNote { name: "plan".into(), reason: proto::attribute_note::Reason::Stale.into() };
    assert_eq!(older.notes, std::slice::from_ref(&stale));
    // Of equal times the later arrival wins; something beside a stale change is applied.
    applied(&mut client, at(set("u", [("plan", text("team"))]), THEN)).await;
    let both = set("u", [("plan", text("free")), ("x", truth(true))]);
    assert_eq!(applied(&mut client, at(both, THEN - 1)).await.notes, [stale]);

    let erased = client.delete_profile(delete("u")).await.unwrap().into_inner().receipt.unwrap();
    assert_eq!((erased.outcome(), erased.version), (Outcome::Applied, Some(4)));
    assert_eq!(get(&mut client, SITE, "u").await, None);
    let late = identify(&mut client, at(set("u", [("plan", text("pro"))]), THEN)).await.unwrap();
    assert_eq!(late.outcome(), Outcome::Unchanged);
    assert_eq!(get(&mut client, SITE, "u").await, None);
    let again = applied(&mut client, set("u", [("plan", text("new"))])).await;
    assert_eq!(again.version, Some(5));
    assert_eq!(
        get(&mut client, SITE, "u").await.unwrap().attributes,
        set("u", [("plan", text("new"))]).attributes
    );

    let nothing = client.delete_profile(delete("nobody")).await.unwrap().into_inner().receipt.unwrap();
    assert_eq!((nothing.outcome(), nothing.version), (Outcome::Unchanged, None));
}

type Spoil = Box<dyn Fn(&mut proto::IdentifyRequest)>;

fn spoilt(
    reason: &'static str,
    field: &'static str,
    spoil: impl Fn(&mut proto::IdentifyRequest) + 'static,
) -> (&'static str, &'static str, Spoil) {
    (reason, field, Box::new(spoil))
}

fn put(request: &mut proto::IdentifyRequest, name: &str, value: proto::Value) {
    request.attributes.insert(name.to_owned(), value);
}

fn push(request: &mut proto::IdentifyRequest, name: &str, change: Option<Change>) {
    request.changes.push(proto::AttributeChange { name: name.into(), change });
}

#[tokio::test]
async fn what_is_malformed_is_named() {
    let cases = [
        spoilt("INVALID_FIELD", "site", |r| r.site = String::new()),
        spoilt("INVALID_FIELD", "site", |r| r.site = "a b".into()),
        spoilt("LIMIT_EXCEEDED", "site", |r| r.site = "s".repeat(65)),
        spoilt("INVALID_FIELD", "user", |r| r.user = String::new()),
        spoilt("INVALID_FIELD", "user", |r| r.user = " null ".into()),
        spoilt("INVALID_FIELD", "user", |r| r.user = "[object Object]".into()),
        spoilt("LIMIT_EXCEEDED", "user", |r| r.user = "u".repeat(257)),
        spoilt("INVALID_FIELD", "changes", |r| r.attributes.clear()),
        spoilt("INVALID_FIELD", "attributes[\"x\"]", |r| put(r, "x", proto::Value { kind: None })),
        spoilt("INVALID_FIELD", "attributes[\"x\"].number_value", |r| put(r, "x", number(f64::NAN))),
        spoilt("INVALID_FIELD", "attributes[\"x\"].number_value", |r| put(r, "x", number(f64::INFINITY))),
        spoilt("INVALID_FIELD", "attributes[\"x\"].time_value", |r| put(r, "x", time(253_402_300_800, 0))),
        spoilt("INVALID_FIELD", "attributes[\"x\"].time_value", |r| put(r, "x", time(0, 1_000_000_000))),
        spoilt("INVALID_FIELD", "attributes[\"x\"].time_value", |r| put(r, "x", time(0, -1))),
        spoilt("LIMIT_EXCEEDED", "attributes[\"x\"].string_value", |r| put(r, "x", text("ß".repeat(201)))),
        spoilt("LIMIT_EXCEEDED", "attributes[\"x\"].list_value", |r| put(r, "x", list(&["i"; 101]))),
        spoilt("LIMIT_EXCEEDED", "attributes[\"x\"].list_value.values[1]", |r| {
            put(r, "x", list(&["i", &"i".repeat(201)]));
        }),
        spoilt("INVALID_FIELD", "changes[0]", |r| push(r, "x", None)),
        spoilt("INVALID_FIELD", "changes[0].set", |r| {
            push(r, "x", Some(Change::Set(proto::Value { kind: None })));
        }),
        spoilt("INVALID_FIELD", "changes[0].add", |r| push(r, "x", Some(Change::Add(f64::NEG_INFINITY)))),
        spoilt("INVALID_FIELD", "changes[0].name", |r| push(r, "plan", Some(Change::Unset(())))),
        spoilt("INVALID_FIELD", "changes[1].name", |r| {
            push(r, "x", Some(Change::Add(1.0)));
            push(r, "x", Some(Change::Add(1.0)));
        }),
        spoilt("INVALID_FIELD", "changes[0].name", |r| push(r, "", Some(Change::Add(1.0)))),
        spoilt("LIMIT_EXCEEDED", "changes[0].name", |r| push(r, &"ñ".repeat(51), Some(Change::Add(1.0)))),
        spoilt("LIMIT_EXCEEDED", "changes", |r| {
            for n in 0..100 {
                push(r, &format!("x{n}"), Some(Change::Add(1.0)));
            }
        }),
        spoilt("INVALID_FIELD", "occurred_at", |r| r.occurred_at = Some(timestamp(0, 0))),
        spoilt("INVALID_FIELD", "occurred_at", |r| r.occurred_at = Some(timestamp(946_684_799, 0))),
        spoilt("INVALID_FIELD", "occurred_at", |r| r.occurred_at = Some(timestamp(4_102_444_800, 0))),
        spoilt("INVALID_FIELD", "occurred_at", |r| r.occurred_at = Some(timestamp(i64::MAX, 0))),
        spoilt("INVALID_FIELD", "occurred_at", |r| r.occurred_at = Some(timestamp(THEN, -1))),
        spoilt("LIMIT_EXCEEDED", "request_id", |r| r.request_id = "r".repeat(65)),
        spoilt("INVALID_FIELD", "wait", |r| r.wait = 3),
        spoilt("INVALID_FIELD", "wait", |r| r.wait = -1),
        spoilt("INVALID_FIELD", "if_version", |r| {
            r.if_version = Some(1);
            r.wait = proto::Wait::Journaled.into();
        }),
    ];
    let home = Home::new();
    let server = home.start();
    let mut client = server.client().await;
    for (expected, field, spoil) in cases {
        let mut request = set("u", [("plan", text("pro"))]);
        spoil(&mut request);
        let status = identify(&mut client, request).await.expect_err(field);
        assert_refused(&status, Code::InvalidArgument, expected, field);
    }
    assert_eq!(get(&mut client, SITE, "u").await, None);

    let never = proto::DeleteProfileRequest { if_version: Some(0), ..delete("u") };
    assert_refused(
        &client.delete_profile(never).await.unwrap_err(),
        Code::InvalidArgument,
        "INVALID_FIELD",
        "if_version",
    );
    let early = proto::DeleteProfileRequest { occurred_at: Some(timestamp(1, 0)), ..delete("u") };
    assert_refused(
        &client.delete_profile(early).await.unwrap_err(),
        Code::InvalidArgument,
        "INVALID_FIELD",
        "occurred_at",
    );
}

#[tokio::test]
async fn what_is_just_within_the_limits_is_accepted() {
    let home = Home::new();
    let server = home.start();
    let mut client = server.client().await;
    let mut request = set(&"ü".repeat(128), [("plan", text("🦀".repeat(200)))]);
    request.site = "s".repeat(64);
    request.request_id = "r".repeat(64);
    request.occurred_at = Some(timestamp(946_684_800, 0));
    for n in 1..100 {
        let name = format!("{n:0>2}{}", "ñ".repeat(48));
        push(&mut request, &name, Some(Change::Set(list(&["i"]))));
    }
    applied(&mut client, request.clone()).await;
    assert_eq!(get(&mut client, &request.site, &request.user).await.unwrap().attributes.len(), 100);
    let mut full = set("v", [("plan", text("x"))]);
    full.changes = request.changes.clone();
    full.changes[0].change = Some(Change::Set(list(&["i"; 100])));
    applied(&mut client, full).await;

    // The site has its 100 attributes; an unset of another one names nothing new.
    let over = proto::IdentifyRequest { site: request.site.clone(), ..add("w", "one_more", 1.0) };
    assert_refused(
        &identify(&mut client, over).await.unwrap_err(),
        Code::InvalidArgument,
        "LIMIT_EXCEEDED",
        "changes[0]",
    );
    let known =
        client.list_attributes(proto::ListAttributesRequest { site: request.site.clone() }).await.unwrap();
    assert_eq!(known.into_inner().attributes.len(), 100);
    assert_eq!(get(&mut client, &request.site, "w").await, None);
}

#[tokio::test]
async fn the_first_use_of_a_name_fixes_its_type() {
    let home = Home::new();
    let server = home.start();
    let mut client = server.client().await;
    applied(&mut client, set("u", [("seats", number(1.0)), ("plan", text("pro"))])).await;
    let wrong = identify(&mut client, set("v", [("seats", text("1"))])).await.unwrap_err();
    assert_refused(&wrong, Code::InvalidArgument, "TYPE_MISMATCH", "attributes[\"seats\"]");
    let wrong =
        identify(&mut client, change("v", "plan", Change::Append(strings(&["a"])))).await.unwrap_err();
    assert_refused(&wrong, Code::InvalidArgument, "TYPE_MISMATCH", "changes[0]");
    let elsewhere = proto::IdentifyRequest { site: "other".into(), ..set("v", [("seats", text("1"))]) };
    applied(&mut client, elsewhere).await;

    let listed = client
        .list_attributes(proto::ListAttributesRequest { site: SITE.into() })
        .await
        .unwrap()
        .into_inner();
    let types: Vec<_> =
        listed.attributes.iter().map(|a| (a.name.as_str(), a.r#type(), a.state(), a.indexed)).collect();
    let enabled = proto::AttributeState::Enabled;
    assert_eq!(
        types,
        [
            ("plan", proto::ValueType::String, enabled, true),
            ("seats", proto::ValueType::Number, enabled, true)
        ]
    );
    assert!(listed.attributes.iter().all(|attribute| attribute.first_seen.is_some()));
    let nobody =
        client.list_attributes(proto::ListAttributesRequest { site: "nobody".into() }).await.unwrap();
    assert_eq!(nobody.into_inner().attributes, []);
}

#[tokio::test]
async fn conditions_are_met_or_refused() {
    let home = Home::new();
    let server = home.start();
    let mut client = server.client().await;
    let write = |value: &str, version| if_version(set("u", [("plan", text(value))]), version);
    applied(&mut client, write("a", 0)).await;
    applied(&mut client, write("b", 1)).await;
    for version in [0, 1, 3] {
        let status = identify(&mut client, write("c", version)).await.unwrap_err();
        assert_refused(&status, Code::Aborted, "VERSION_MISMATCH", "");
        assert_eq!(info(&status).1["current_version"], "2");
    }
    // With an id it takes the way through the journal, and a retry hears the same again, also later.
    let conditional = with_id(write("c", 1), "r1");
    let first = identify(&mut client, conditional.clone()).await.unwrap_err();
    assert_refused(&first, Code::Aborted, "VERSION_MISMATCH", "");
    applied(&mut client, write("d", 2)).await;
    let second = identify(&mut client, conditional).await.unwrap_err();
    assert_eq!(info(&first), info(&second));
    let place = info(&first).1["position"].clone();
    let (node, place) = place.split_once('/').unwrap();
    let receipt = proto::Receipt {
        position: Some(proto::Position { node: node.into(), number: place.parse().unwrap() }),
        ..Default::default()
    };
    let state = write_state(&mut client, &receipt).await;
    assert_eq!((state.state(), state.refusal()), (WriteState::Refused, RefusalReason::VersionMismatch));

    let wrong = proto::DeleteProfileRequest { if_version: Some(9), ..delete("u") };
    assert_refused(&client.delete_profile(wrong).await.unwrap_err(), Code::Aborted, "VERSION_MISMATCH", "");
    let right = proto::DeleteProfileRequest { if_version: Some(3), ..delete("u") };
    client.delete_profile(right).await.unwrap();
    applied(&mut client, write("e", 0)).await;
}

#[tokio::test]
async fn a_request_id_counts_once() {
    let home = Home::new();
    let server = home.start();
    let mut client = server.client().await;
    let first = applied(&mut client, with_id(add("u", "visits", 1.0), "r1")).await;
    applied(&mut client, with_id(add("u", "visits", 1.0), "r2")).await;
    let again = identify(&mut client, with_id(add("u", "visits", 1.0), "r1")).await.unwrap();
    assert_eq!((again.outcome(), again.version), (Outcome::Duplicate, Some(1)));
    assert_eq!(again.position, first.position);
    let reused = identify(&mut client, with_id(add("u", "visits", 2.0), "r1")).await.unwrap_err();
    assert_refused(&reused, Code::InvalidArgument, "REQUEST_ID_REUSED", "request_id");
    let reused = identify(&mut client, with_id(add("v", "visits", 1.0), "r1")).await.unwrap_err();
    assert_refused(&reused, Code::InvalidArgument, "REQUEST_ID_REUSED", "request_id");
    let elsewhere = proto::IdentifyRequest { site: "other".into(), ..with_id(add("u", "visits", 1.0), "r1") };
    applied(&mut client, elsewhere).await;
    let visits = &get(&mut client, SITE, "u").await.unwrap().attributes["visits"];
    assert_eq!(*visits, number(2.0));

    let erase = proto::DeleteProfileRequest { request_id: "r3".into(), ..delete("u") };
    let erased = client.delete_profile(erase.clone()).await.unwrap().into_inner().receipt.unwrap();
    applied(&mut client, add("u", "visits", 5.0)).await;
    let retried = client.delete_profile(erase).await.unwrap().into_inner().receipt.unwrap();
    assert_eq!((retried.outcome(), retried.position), (Outcome::Duplicate, erased.position));
    assert!(get(&mut client, SITE, "u").await.is_some());
}

#[tokio::test]
async fn a_deferred_write_can_be_followed() {
    let home = Home::new();
    let server = home.start();
    let mut client = server.client().await;
    let mut request = set("u", [("plan", text("pro"))]);
    request.wait = proto::Wait::Journaled.into();
    let deferred = identify(&mut client, request).await.unwrap();
    assert_eq!((deferred.outcome(), deferred.version), (Outcome::Deferred, None));
    // What is pending is laid on top: it can be read at once.
    let profile = get(&mut client, SITE, "u").await.unwrap();
    assert_eq!(profile.attributes["plan"], text("pro"));
    // A user's writes are applied in order.
    applied(&mut client, add("u", "visits", 1.0)).await;
    assert_eq!(write_state(&mut client, &deferred).await.state(), WriteState::Applied);

    let mut position = deferred.position.unwrap();
    let ask =
        |position: proto::Position| proto::GetWriteRequest { site: SITE.into(), position: Some(position) };
    position.number += 1000;
    let status = client.get_write(ask(position.clone())).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "POSITION_UNKNOWN"));
    let elsewhere = proto::Position { node: "0".repeat(position.node.len()), number: 1 };
    let status = client.get_write(ask(elsewhere)).await.unwrap_err();
    assert_eq!(reason(&status), "POSITION_UNKNOWN");
    let status = client.get_write(ask(proto::Position { node: "?".into(), number: 1 })).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
    let none = proto::GetWriteRequest { site: SITE.into(), position: None };
    assert_eq!(reason(&client.get_write(none).await.unwrap_err()), "INVALID_FIELD");
}

#[tokio::test]
async fn what_does_not_fit_the_profile_is_refused_when_its_turn_comes() {
    let home = Home::new();
    let server = home.start();
    let mut client = server.client().await;
    let sixty = || Change::Append(strings(&["x"; 60]));
    applied(&mut client, change("u", "l", sixty())).await;
    let status = identify(&mut client, change("u", "l", sixty())).await.unwrap_err();
    assert_refused(&status, Code::InvalidArgument, "LIMIT_EXCEEDED", "changes[0]");
    applied(&mut client, add("u", "n", f64::MAX)).await;
    let status = identify(&mut client, add("u", "n", f64::MAX)).await.unwrap_err();
    assert_refused(&status, Code::InvalidArgument, "LIMIT_EXCEEDED", "changes[0]");

    let long = "y".repeat(200);
    let items = vec![long.as_str(); 100];
    let too_much =
        || set("w", [("a", list(&items)), ("b", list(&items)), ("c", list(&items)), ("d", list(&items))]);
    let status = identify(&mut client, too_much()).await.unwrap_err();
    assert_refused(&status, Code::InvalidArgument, "LIMIT_EXCEEDED", "attributes");

    let mut journaled = too_much();
    journaled.wait = proto::Wait::Journaled.into();
    let deferred = identify(&mut client, journaled).await.unwrap();
    assert_eq!(deferred.outcome(), Outcome::Deferred);
    let status = identify(&mut client, too_much()).await.unwrap_err();
    assert_refused(&status, Code::InvalidArgument, "LIMIT_EXCEEDED", "attributes");
    let state = write_state(&mut client, &deferred).await;
    assert_eq!((state.state(), state.refusal()), (WriteState::Refused, RefusalReason::ProfileTooLarge));
    assert!(!state.message.is_empty());

    // There is no profile, but there is content of the user's: erasure takes it along.
    client.delete_profile(delete("w")).await.unwrap();
    assert_ne!(write_state(&mut client, &deferred).await.state(), WriteState::Refused);
}
