//! Single calls: answers, errors with their details, deadlines, load.

use tonic::{Code, Request};
use tonic_types::StatusExt as _;

use super::*;

#[tokio::test]
async fn a_write_is_answered() {
    let server = server(by_name(), |_| {}).await;
    let mut client = server.client().await;
    let receipt = client.identify(identify("u1")).await.unwrap().into_inner().receipt.unwrap();
    assert_eq!(receipt.outcome(), proto::Outcome::Applied);
    assert_eq!(receipt.version, Some(1));
}

#[tokio::test]
async fn errors_carry_details() {
    let server = server(by_name(), |_| {}).await;
    let mut client = server.client().await;

    let status = client.identify(identify("full")).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(info(&status).0, "JOURNAL_FULL");
    assert!(status.get_error_details().quota_failure().is_some());

    let status = client.identify(identify("stale")).await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted);
    let (reason, metadata) = info(&status);
    assert_eq!((reason.as_str(), metadata["current_version"].as_str()), ("VERSION_MISMATCH", "4"));

    let status = client.identify(identify("undefined")).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(info(&status).1["kept"], "no");
    assert_eq!(status.get_error_details().bad_request().unwrap().field_violations[0].field, "user");

    let request = proto::GetProfileRequest { site: "acme".into(), user: "u1".into(), ..Default::default() };
    let status = client.get_profile(request).await.unwrap_err();
    assert_eq!((status.code(), info(&status).0.as_str()), (Code::NotFound, "PROFILE_NOT_FOUND"));

    let request = proto::ListAttributesRequest { site: "acme".into() };
    let status = client.list_attributes(request).await.unwrap_err();
    assert_eq!((status.code(), info(&status).0.as_str()), (Code::Unavailable, "STORE_REBUILDING"));
    assert!(status.metadata().get("grpc-retry-pushback-ms").is_some());
}

#[tokio::test]
async fn what_became_of_a_write_is_told() {
    let server = server(by_name(), |_| {}).await;
    let mut client = server.client().await;
    let position = |number| Some(proto::Position { node: "0000000000000001".into(), number });
    let ask = |number| proto::GetWriteRequest { site: "acme".into(), position: position(number) };
    let told = client.get_write(ask(7)).await.unwrap().into_inner();
    assert_eq!(told.state(), proto::WriteState::Refused);
    assert_eq!(told.refusal(), proto::RefusalReason::ProfileTooLarge);
    let status = client.get_write(ask(8)).await.unwrap_err();
    assert_eq!((status.code(), info(&status).0.as_str()), (Code::NotFound, "POSITION_UNKNOWN"));
}

#[tokio::test]
async fn what_is_not_built_says_so() {
    use crate::proto::operator_service_client::OperatorServiceClient;
    let server = server(by_name(), |_| {}).await;
    let status =
        server.client().await.query_profiles(proto::QueryProfilesRequest::default()).await.unwrap_err();
    assert_eq!((status.code(), info(&status).0.as_str()), (Code::Unimplemented, "NOT_SUPPORTED"));
    for address in [server.data, server.operations] {
        let mut operator = OperatorServiceClient::new(channel(address).await);
        let status = operator.list_holds(proto::ListHoldsRequest::default()).await.unwrap_err();
        assert_eq!((status.code(), info(&status).0.as_str()), (Code::Unimplemented, "NOT_SUPPORTED"));
    }
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused() {
    let server = server(by_name(), |settings| settings.max_message = config::ByteSize(1 << 10)).await;
    let mut client = server.client().await;
    let status = client.identify(identify(&"u".repeat(2000))).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let (reason, metadata) = info(&status);
    assert_eq!((reason.as_str(), metadata["kept"].as_str()), ("MESSAGE_TOO_LARGE", "no"));
}

#[tokio::test]
async fn headers_over_the_limit_do_not_reach_a_handler() {
    let server = server(by_name(), |settings| settings.max_headers = config::ByteSize(1 << 10)).await;
    let mut client = server.client().await;
    let mut request = Request::new(identify("u1"));
    request.metadata_mut().insert("x-padding", "x".repeat(4000).parse().unwrap());
    client.identify(request).await.unwrap_err();
    // The connection goes on.
    client.identify(identify("u1")).await.unwrap();
}

#[tokio::test]
async fn bytes_that_do_not_decode_are_malformed() {
    let server = server(by_name(), |_| {}).await;
    let mut grpc = tonic::client::Grpc::new(channel(server.data).await);
    grpc.ready().await.unwrap();
    let codec = crate::api::codec::Codec::<proto::WriteError, proto::IdentifyResponse>::default();
    let path = http::uri::PathAndQuery::from_static("/steadfast.v1.AttributeService/Identify");
    // Its first field is a number, where a site is a text.
    let message = proto::WriteError { code: 5, ..Default::default() };
    let status = grpc.unary(Request::new(message), path, codec).await.unwrap_err();
    assert_eq!((status.code(), info(&status).0.as_str()), (Code::InvalidArgument, "MALFORMED"));
}

#[tokio::test]
async fn a_request_that_does_not_arrive_is_not_waited_for() {
    let server = server(by_name(), |settings| settings.default_deadline = millis(50)).await;
    let mut grpc = tonic::client::Grpc::new(channel(server.data).await);
    grpc.ready().await.unwrap();
    let codec = crate::api::codec::Codec::<proto::IdentifyRequest, proto::IdentifyResponse>::default();
    let path = http::uri::PathAndQuery::from_static("/steadfast.v1.AttributeService/Identify");
    let never = futures_util::stream::pending::<proto::IdentifyRequest>();
    let status = grpc.client_streaming(Request::new(never), path, codec).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    let (reason, metadata) = info(&status);
    assert_eq!((reason.as_str(), metadata["kept"].as_str()), ("NOT_ACCEPTED", "no"));
}

#[tokio::test]
async fn the_stack_hears_a_deadline_that_leaves_time_for_the_answer() {
    let (sender, mut deadlines) = tokio::sync::mpsc::unbounded_channel();
    let script: Script = Arc::new(move |request| {
        sender.send(request.deadline).unwrap();
        Box::pin(ready(Err(WriteError::NotAccepted)))
    });
    let server = server(script, |_| {}).await;
    let mut request = Request::new(identify("u1"));
    request.set_timeout(Duration::from_secs(10));
    let before = std::time::Instant::now();
    let status = server.client().await.identify(request).await.unwrap_err();
    assert_eq!((status.code(), info(&status).0.as_str()), (Code::DeadlineExceeded, "NOT_ACCEPTED"));
    let deadline = deadlines.recv().await.unwrap();
    assert!(deadline >= before + Duration::from_secs(8) && deadline < before + Duration::from_secs(10));
}

#[tokio::test]
async fn an_ill_formed_deadline_is_refused() {
    let server = server(by_name(), |_| {}).await;
    let mut request = Request::new(identify("u1"));
    request.metadata_mut().insert("grpc-timeout", "soon".parse().unwrap());
    let status = server.client().await.identify(request).await.unwrap_err();
    assert_eq!((status.code(), info(&status).0.as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
}

#[tokio::test]
async fn more_calls_than_the_node_takes_are_shed() {
    let (script, mut gates) = gated();
    let server = server(script, |settings| settings.max_in_flight = 1).await;
    let mut first = server.client().await;
    let waiting = tokio::spawn(async move { first.identify(identify("u1")).await });
    let gate = gates.recv().await.unwrap();
    let status = server.client().await.identify(identify("u2")).await.unwrap_err();
    assert_eq!((status.code(), info(&status).0.as_str()), (Code::ResourceExhausted, "OVERLOADED"));
    assert_eq!(info(&status).1["kept"], "no");
    assert!(status.get_error_details().retry_info().is_some());
    gate.send(()).unwrap();
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_panic_is_one_calls_trouble() {
    let server = server(by_name(), |_| {}).await;
    let mut client = server.client().await;
    let status = client.identify(identify("panic")).await.unwrap_err();
    assert_eq!((status.code(), info(&status).0.as_str()), (Code::Internal, "INTERNAL"));
    assert_eq!(info(&status).1["kept"], "unknown");
    client.identify(identify("u1")).await.unwrap();
}

#[tokio::test]
async fn many_writes_are_answered_each() {
    let server = server(by_name(), |_| {}).await;
    let mut client = server.client().await;
    let many = |users: &[&str]| proto::IdentifyManyRequest {
        requests: users.iter().map(|user| identify(user)).collect(),
    };
    let told = client.identify_many(many(&["u1", "full", "null"])).await.unwrap().into_inner();
    assert_eq!(told.failed, 2);
    let reasons: Vec<_> = told
        .results
        .into_iter()
        .map(|result| match result.result.unwrap() {
            proto::write_result::Result::Receipt(_) => String::new(),
            proto::write_result::Result::Error(error) => format!("{} {}", error.reason, error.field),
        })
        .collect();
    assert_eq!(reasons, ["", "JOURNAL_FULL ", "INVALID_FIELD user"]);

    let status = client.identify_many(many(&["full", "full"])).await.unwrap_err();
    assert_eq!((status.code(), info(&status).0.as_str()), (Code::ResourceExhausted, "JOURNAL_FULL"));

    let mut mixed = many(&["u1", "u2"]);
    mixed.requests[1].wait = proto::Wait::Journaled.into();
    for wrong in [mixed, many(&[]), many(&["u"; 1001])] {
        let status = client.identify_many(wrong).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(info(&status).1["kept"], "no");
    }
}

#[tokio::test]
async fn profiles_that_are_not_there_are_missing() {
    let server = server(by_name(), |_| {}).await;
    let users = vec!["a".to_owned(), "b".to_owned(), "a".to_owned()];
    let request = proto::BatchGetProfilesRequest { site: "acme".into(), users, include_occurred_at: false };
    let told = server.client().await.batch_get_profiles(request).await.unwrap().into_inner();
    assert_eq!(told.missing, ["a", "b"]);
}
