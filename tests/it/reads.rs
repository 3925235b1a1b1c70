//! Reads of several profiles, and what is not built.

use steadfast::proto;
use tonic::{Code, Status};

use crate::support::*;

fn batch(users: Vec<String>) -> proto::BatchGetProfilesRequest {
    proto::BatchGetProfilesRequest { site: SITE.into(), users, include_occurred_at: false }
}

fn strings_of(users: &[&str]) -> Vec<String> {
    users.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn a_batch_says_what_there_is_and_what_there_is_not() {
    let home = Home::new();
    let server = home.start();
    let mut client = server.client().await;
    for user in ["a", "b"] {
        applied(&mut client, set(user, [("plan", text(user))])).await;
    }
    let asked = batch(strings_of(&["x", "b", "a", "b", "y"]));
    let response = client.batch_get_profiles(asked).await.unwrap().into_inner();
    let found: Vec<_> = response.profiles.iter().map(|profile| profile.user.as_str()).collect();
    assert_eq!((found, response.missing), (vec!["b", "a"], strings_of(&["x", "y"])));
    assert_eq!(response.unprocessed, strings_of(&[]));
    assert!(response.profiles.iter().all(|profile| profile.occurred_at.is_empty()));

    for (users, reason_, field) in [
        (vec![], "INVALID_FIELD", "users"),
        (vec!["u".to_owned(); 101], "LIMIT_EXCEEDED", "users"),
        (strings_of(&["a", ""]), "INVALID_FIELD", "users[1]"),
    ] {
        let status = client.batch_get_profiles(batch(users)).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, reason_));
        assert_eq!(field_of(&status), field);
    }
    let nobody =
        proto::GetProfileRequest { site: SITE.into(), user: "undefined".into(), ..Default::default() };
    assert_eq!(field_of(&client.get_profile(nobody).await.unwrap_err()), "user");
    assert_eq!(get(&mut client, "elsewhere", "a").await, None);
}

fn field_of(status: &Status) -> String {
    use tonic_types::StatusExt as _;
    status.get_details_bad_request().unwrap().field_violations[0].field.clone()
}

#[tokio::test]
async fn what_does_not_fit_an_answer_is_named() {
    const USERS: usize = 60;
    let home = Home::new();
    let server = home.start();
    let mut client = server.client().await;
    let long = "y".repeat(200);
    let items = vec![long.as_str(); 100];
    let users: Vec<String> = (0..USERS).map(|n| format!("u{n}")).collect();
    for user in &users {
        applied(&mut client, set(user, [("a", list(&items)), ("b", list(&items)), ("c", list(&items))]))
            .await;
    }
    let mut left = users.clone();
    let mut read = Vec::new();
    let mut calls = 0;
    while !left.is_empty() {
        let response = client.batch_get_profiles(batch(left)).await.unwrap().into_inner();
        assert!(!response.profiles.is_empty() && response.missing.is_empty());
        read.extend(response.profiles.into_iter().map(|profile| profile.user));
        left = response.unprocessed;
        calls += 1;
    }
    assert_eq!((read, calls), (users, 2));
}

#[tokio::test]
async fn what_is_not_built_says_so() {
    let home = Home::new();
    let server = home.start();
    let mut client = server.client().await;
    let refusals = [
        client.query_profiles(proto::QueryProfilesRequest::default()).await.unwrap_err(),
        client.count_profiles(proto::CountProfilesRequest::default()).await.unwrap_err(),
        client.explain_query(proto::ExplainQueryRequest::default()).await.unwrap_err(),
        client.match_profile(proto::MatchProfileRequest::default()).await.unwrap_err(),
    ];
    for status in refusals {
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unimplemented, "NOT_SUPPORTED"));
    }
}
