//! Streams: results, faults, ends, and clients that do not read.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tonic::Code;

use super::*;

fn item(sequence: u64, user: &str) -> proto::IdentifyStreamRequest {
    proto::IdentifyStreamRequest { sequence, request: Some(identify(user)) }
}

/// A stream of requests that the test feeds.
fn feed<T>() -> (mpsc::UnboundedSender<T>, impl tokio_stream::Stream<Item = T> + Send + 'static)
where
    T: Send + 'static,
{
    let (sender, mut receiver) = mpsc::unbounded_channel();
    (sender, futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx)))
}

#[tokio::test]
async fn items_are_answered_each() {
    let server = server(by_name(), |_| {}).await;
    let users = ["u1", "full", "null", "u2"];
    let requests: Vec<_> = (10..).zip(users).map(|(sequence, user)| item(sequence, user)).collect();
    let empty = proto::IdentifyStreamRequest { sequence: 14, request: None };
    let requests = tokio_stream::iter(requests.into_iter().chain([empty]));
    let answers = server.client().await.identify_stream(requests).await.unwrap().into_inner();
    let answers: Vec<_> = answers.map(Result::unwrap).collect().await;
    let mut told: Vec<_> = answers
        .into_iter()
        .map(|answer| match answer.result.unwrap().result.unwrap() {
            proto::write_result::Result::Receipt(_) => (answer.sequence, String::new()),
            proto::write_result::Result::Error(error) => (answer.sequence, error.reason),
        })
        .collect();
    told.sort();
    let reasons = ["", "JOURNAL_FULL", "INVALID_FIELD", "", "INVALID_FIELD"].map(str::to_owned);
    assert_eq!(told, (10..).zip(reasons).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_slow_item_does_not_hold_back_the_others() {
    let (script, mut gates) = gated();
    let server = server(script, |_| {}).await;
    let (requests, stream) = feed();
    requests.send(item(1, "u1")).unwrap();
    requests.send(item(2, "u2")).unwrap();
    let mut answers = server.client().await.identify_stream(stream).await.unwrap().into_inner();
    let first = gates.recv().await.unwrap();
    gates.recv().await.unwrap().send(()).unwrap();
    assert_eq!(answers.next().await.unwrap().unwrap().sequence, 2);
    first.send(()).unwrap();
    assert_eq!(answers.next().await.unwrap().unwrap().sequence, 1);
    drop(requests);
    assert!(answers.next().await.is_none());
}

#[tokio::test]
async fn no_more_is_read_than_may_be_unanswered() {
    let (script, mut gates) = gated();
    let server = server(script, |_| {}).await;
    let requests = tokio_stream::iter((0..1_500).map(|sequence| item(sequence, "u1")));
    let mut answers = server.client().await.identify_stream(requests).await.unwrap().into_inner();
    let mut open = Vec::new();
    for _ in 0..1_000 {
        open.push(gates.recv().await.unwrap());
    }
    // One answer makes room for one request.
    assert!(gates.try_recv().is_err());
    for gate in open {
        gate.send(()).unwrap();
    }
    for _ in 0..500 {
        gates.recv().await.unwrap().send(()).unwrap();
    }
    let mut answered = 0;
    while let Some(answer) = answers.next().await {
        answer.unwrap();
        answered += 1;
    }
    assert_eq!(answered, 1_500);
}

#[tokio::test]
async fn a_drain_answers_what_was_read() {
    let (script, mut gates) = gated();
    let mut server = server(script, |_| {}).await;
    let (requests, stream) = feed();
    requests.send(item(1, "u1")).unwrap();
    let mut answers = server.client().await.identify_stream(stream).await.unwrap().into_inner();
    let gate = gates.recv().await.unwrap();
    let drained = server.drain();
    gate.send(()).unwrap();
    assert_eq!(answers.next().await.unwrap().unwrap().sequence, 1);
    let status = answers.next().await.unwrap().unwrap_err();
    assert_eq!((status.code(), info(&status).0.as_str()), (Code::Unavailable, "DRAINING"));
    drained.await.unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_read_is_given_up() {
    let taken = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&taken);
    let script: Script = Arc::new(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        Box::pin(ready(Ok(applied())))
    });
    let server = server(script, |settings| {
        settings.unread_timeout = millis(50);
        settings.send_buffer = config::ByteSize(16 << 10);
    })
    .await;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", server.data)).unwrap();
    let endpoint = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    let mut client = AttributeServiceClient::new(endpoint.connect().await.unwrap());
    // The client's side of the stream ends only when the server ends it.
    let (ended, end) = tokio::sync::oneshot::channel::<()>();
    let mut sequence = 0;
    let endless = futures_util::stream::poll_fn(move |_| {
        let _held = &ended;
        sequence += 1;
        std::task::Poll::Ready(Some(item(sequence, "u1")))
    });
    let mut answers = client.identify_stream(endless).await.unwrap().into_inner();
    end.await.unwrap_err();
    // It stopped taking writes long before.
    assert!(taken.load(Ordering::Relaxed) < 1_000_000);
    let status = loop {
        if let Err(status) = answers.next().await.unwrap() {
            break status;
        }
    };
    assert!(matches!(status.code(), Code::ResourceExhausted | Code::Cancelled), "{status:?}");
}

#[tokio::test]
async fn an_export_can_go_on_from_its_token() {
    let server = server(by_name(), |_| {}).await;
    let mut client = server.client().await;
    let request =
        |token: &str| proto::ExportProfilesRequest { site: "acme".into(), resume_token: token.into() };
    let answers = client.export_profiles(request("")).await.unwrap().into_inner();
    let tokens: Vec<_> = answers.map(|answer| answer.unwrap().resume_token).collect().await;
    // The place before the site's first profile.
    assert_eq!(tokens, ["0061636d6500", "0061636d6500"]);
    let answers = client.export_profiles(request("0061636d6500")).await.unwrap().into_inner();
    assert_eq!(answers.collect::<Vec<_>>().await.len(), 1);
    let status = client.export_profiles(request("xyz")).await.unwrap_err();
    assert_eq!((status.code(), info(&status).0.as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
}

#[tokio::test]
async fn an_import_reports_each_record() {
    let server = server(by_name(), |_| {}).await;
    let mut client = server.client().await;
    let record = |number, user: &str| proto::ImportRecord {
        number,
        user: user.into(),
        attributes: identify(user).attributes,
        ..Default::default()
    };
    let batch = |site: &str, token: &str, records| proto::ImportProfilesRequest {
        site: site.into(),
        resume_token: token.into(),
        records,
    };
    let batches = vec![
        batch("acme", "t1", vec![record(1, "u1"), record(2, "full"), record(3, "null")]),
        batch("", "t2", vec![record(4, "u1")]),
        batch("other", "t3", vec![record(5, "u1")]),
    ];
    let mut answers = client.import_profiles(tokio_stream::iter(batches)).await.unwrap().into_inner();
    let first = answers.next().await.unwrap().unwrap();
    assert_eq!((first.resume_token.as_str(), first.kept), ("t1", 1));
    let errors: Vec<_> =
        first.errors.into_iter().map(|error| (error.number, error.error.unwrap().reason)).collect();
    assert_eq!(errors, [(2, "JOURNAL_FULL".to_owned()), (3, "INVALID_FIELD".to_owned())]);
    let second = answers.next().await.unwrap().unwrap();
    assert_eq!((second.resume_token.as_str(), second.kept), ("t2", 1));
    let status = answers.next().await.unwrap().unwrap_err();
    assert_eq!((status.code(), info(&status).0.as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
}
