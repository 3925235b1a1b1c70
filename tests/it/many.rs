//! Many writes in a call, and streams of them.

use std::collections::BTreeMap;

use steadfast::proto::{self, Outcome, write_result::Result as Told};
use tokio_stream::StreamExt as _;
use tonic::{Code, Status};

use crate::support::*;

async fn many(
    client: &mut Client,
    requests: Vec<proto::IdentifyRequest>,
) -> Result<proto::IdentifyManyResponse, Status> {
    Ok(client.identify_many(proto::IdentifyManyRequest { requests }).await?.into_inner())
}

fn outcome(result: &proto::WriteResult) -> String {
    match result.result.as_ref().unwrap() {
        Told::Receipt(receipt) => receipt.outcome().as_str_name().to_owned(),
        Told::Error(error) => {
            assert_eq!(error.metadata["kept"], "no");
            assert!(!error.message.is_empty());
            format!("{} {}", error.reason, error.field)
        }
    }
}

#[tokio::test]
async fn each_item_has_its_own_result() {
    let home = Home::new();
    let server = home.start();
    let mut client = server.client().await;
    applied(&mut client, set("a", [("plan", text("pro"))])).await;
    let mut wrong_site = set("a", [("plan", text("x"))]);
    wrong_site.site = "?".into();
    let response = many(
        &mut client,
        vec![
            add("a", "visits", 1.0),
            set("a", [("plan", number(1.0))]),
            wrong_site,
            add("a", "visits", 1.0),
            set("b", [("plan", text("free"))]),
            set("b", [("plan", text("free"))]),
            set("", [("plan", text("free"))]),
        ],
    )
    .await
    .unwrap();
    let outcomes: Vec<String> = response.results.iter().map(outcome).collect();
    let expected = [
        "OUTCOME_APPLIED",
        "TYPE_MISMATCH attributes[\"plan\"]",
        "INVALID_FIELD site",
        "OUTCOME_APPLIED",
        "OUTCOME_APPLIED",
        "OUTCOME_UNCHANGED",
        "INVALID_FIELD user",
    ];
    assert_eq!((outcomes.as_slice(), response.failed), (expected.map(str::to_owned).as_slice(), 3));
    assert_eq!(get(&mut client, SITE, "a").await.unwrap().attributes["visits"], number(2.0));
}

#[tokio::test]
async fn a_call_fails_as_a_whole_only_for_one_reason() {
    let home = Home::new();
    let server = home.start();
    let mut client = server.client().await;
    let bad = || set("null", [("plan", text("x"))]);
    let status = many(&mut client, vec![bad(), bad()]).await.unwrap_err();
    assert_refused(&status, Code::InvalidArgument, "INVALID_FIELD", "requests[0].user");
    let mut long = set("u", [("plan", text("x"))]);
    long.site = "s".repeat(65);
    let response = many(&mut client, vec![bad(), long]).await.unwrap();
    assert_eq!(response.failed, 2);

    let status = many(&mut client, Vec::new()).await.unwrap_err();
    assert_refused(&status, Code::InvalidArgument, "INVALID_FIELD", "requests");
    let too_many = (0..1001).map(|n| add(&format!("u{n}"), "n", 1.0)).collect();
    let status = many(&mut client, too_many).await.unwrap_err();
    assert_refused(&status, Code::InvalidArgument, "LIMIT_EXCEEDED", "requests");
    let mut journaled = add("u", "n", 1.0);
    journaled.wait = proto::Wait::Journaled.into();
    let status = many(&mut client, vec![add("u", "n", 1.0), journaled.clone()]).await.unwrap_err();
    assert_refused(&status, Code::InvalidArgument, "INVALID_FIELD", "requests[1].wait");
    let mut unknown = journaled.clone();
    unknown.wait = 7;
    let status = many(&mut client, vec![journaled.clone(), unknown]).await.unwrap_err();
    assert_refused(&status, Code::InvalidArgument, "INVALID_FIELD", "requests[1].wait");
    assert_eq!(get(&mut client, SITE, "u").await, None);

    let response = many(&mut client, vec![journaled; 1000]).await.unwrap();
    assert!(response.results.iter().all(|result| outcome(result) == "OUTCOME_DEFERRED"));
    applied(&mut client, add("u", "n", 1.0)).await;
    assert_eq!(get(&mut client, SITE, "u").await.unwrap().attributes["n"], number(1001.0));
}

#[tokio::test]
async fn a_stream_keeps_the_order_of_each_user() {
    const USERS: u64 = 40;
    const EACH: u64 = 100;
    let home = Home::new();
    let server = home.start();
    let mut client = server.client().await;
    let (sender, requests) = tokio::sync::mpsc::channel(16);
    // More than may be unanswered, sent as fast as the server reads.
    let sending = tokio::spawn(async move {
        for sequence in 0..USERS * EACH {
            let user = format!("u{}", sequence % USERS);
            let mut request = set(&user, [("last", number(sequence as f64))]);
            request.changes = add(&user, "count", 1.0).changes;
            let request = Some(request);
            sender.send(proto::IdentifyStreamRequest { sequence, request }).await.unwrap();
        }
    });
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut answers = client.identify_stream(requests).await.unwrap().into_inner();
    let mut versions: BTreeMap<u64, u64> = BTreeMap::new();
    while let Some(answer) = answers.message().await.unwrap() {
        let Some(Told::Receipt(receipt)) = answer.result.unwrap().result else { panic!("an error") };
        assert_eq!(receipt.outcome(), Outcome::Applied);
        assert_eq!(versions.insert(answer.sequence, receipt.version.unwrap()), None);
    }
    sending.await.unwrap();
    // Of each user the first was version 1, the second version 2, and so on.
    assert_eq!(versions.len() as u64, USERS * EACH);
    for (sequence, version) in versions {
        assert_eq!(version, sequence / USERS + 1, "{sequence}");
    }
    for user in 0..USERS {
        let profile = get(&mut client, SITE, &format!("u{user}")).await.unwrap();
        assert_eq!(profile.attributes["last"], number((USERS * (EACH - 1) + user) as f64));
        assert_eq!(profile.attributes["count"], number(EACH as f64));
    }
}

#[tokio::test]
async fn errors_of_items_do_not_end_a_stream() {
    let home = Home::new();
    let server = home.start();
    let mut client = server.client().await;
    let requests = [
        None,
        Some(set("null", [("plan", text("x"))])),
        Some(add("u", "n", f64::NAN)),
        Some(add("u", "n", 1.0)),
        Some(proto::IdentifyRequest { wait: proto::Wait::Journaled.into(), ..add("u", "n", 1.0) }),
    ];
    let requests: Vec<_> =
        requests.into_iter().map(|request| proto::IdentifyStreamRequest { sequence: 7, request }).collect();
    let answers = client.identify_stream(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let mut told: Vec<String> = answers
        .map(|answer| {
            let answer = answer.unwrap();
            assert_eq!(answer.sequence, 7);
            outcome(&answer.result.unwrap())
        })
        .collect()
        .await;
    told.sort();
    assert_eq!(
        told,
        [
            "INVALID_FIELD changes[0].add",
            "INVALID_FIELD request",
            "INVALID_FIELD user",
            "OUTCOME_APPLIED",
            "OUTCOME_DEFERRED"
        ]
    );
}
