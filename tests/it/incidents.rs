//! Incidents, from the first evidence to the page that an operator reads.

use std::time::Duration;

use steadfast::app::App;
use steadfast::config::Config;
use steadfast::incident::{Breaker, Change, Evidence, Operation, Rule, Scope, Transition};
use steadfast::proto::attribute_service_client::AttributeServiceClient;
use steadfast::proto::operator_service_client::OperatorServiceClient;
use steadfast::proto::{
    GetIncidentRequest, GetStatusRequest, Incident, IncidentEventKind, IncidentState, ListIncidentsRequest,
    TripRule,
};
use tonic::Code;
use tonic::transport::Channel;

use crate::support::*;

fn breaker(to: Breaker) -> Transition {
    let evidence = Evidence {
        rule: (to == Breaker::Open).then_some(Rule::Stall),
        since: Duration::from_millis(760),
        oldest: Some(Duration::from_millis(760)),
        ..Evidence::default()
    };
    let scope = Scope::store(Operation::Apply);
    Transition { scope, change: Change::Breaker(to), message: format!("{to:?}"), evidence: Some(evidence) }
}

async fn incident(operators: &mut OperatorServiceClient<Channel>, number: u64) -> Option<Incident> {
    let answer = operators.get_incident(GetIncidentRequest { number }).await;
    answer.ok().map(|answer| answer.into_inner().incident.unwrap())
}

async fn list(operators: &mut OperatorServiceClient<Channel>, request: ListIncidentsRequest) -> Vec<u64> {
    let answer = operators.list_incidents(request).await.unwrap().into_inner();
    answer.incidents.iter().map(|incident| incident.number).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incident_is_recorded_proved_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::ephemeral(dir.path());
    config.writes.reply_after.0 = Duration::from_secs(30);
    let started = config.clone();
    let app = tokio::task::spawn_blocking(move || App::start(&started).unwrap()).await.unwrap();
    let mut client = AttributeServiceClient::new(channel(app.data_address).await);
    let mut operators = OperatorServiceClient::new(channel(app.operations_address).await);
    applied(&mut client, set("before", [("plan", text("pro"))])).await;

    app.core().incidents.report(breaker(Breaker::Open));
    // Its sums begin when it has been recorded.
    while incident(&mut operators, 1).await.is_none_or(|incident| incident.accounts.is_none()) {}
    for n in 0..20 {
        applied(&mut client, set(&format!("u{n}"), [("plan", text("pro"))])).await;
    }
    let status =
        operators.get_status(GetStatusRequest::default()).await.unwrap().into_inner().status.unwrap();
    assert_eq!(status.incidents.len(), 1);
    assert_eq!(status.incidents[0].state(), IncidentState::Mitigated);
    app.core().incidents.report(breaker(Breaker::Closed));
    let resolved = loop {
        let incident = incident(&mut operators, 1).await.unwrap();
        if incident.state() == IncidentState::Resolved {
            break incident;
        }
    };
    let accounts = resolved.accounts.as_ref().unwrap();
    assert!(accounts.balanced, "{accounts:?}");
    assert_eq!((accounts.accepted, accounts.applied, accounts.pending), (20, 20, 0));
    assert_eq!((accounts.first_position, accounts.last_position), (Some(2), Some(21)));
    let detect = resolved.time_to_detect.as_ref().unwrap();
    assert_eq!((detect.seconds, detect.nanos), (0, 760_000_000));
    let kinds: Vec<_> = resolved.events.iter().map(steadfast::proto::IncidentEvent::kind).collect();
    use IncidentEventKind as Kind;
    assert_eq!(kinds, [Kind::Breaker, Kind::Breaker, Kind::State]);
    assert_eq!(resolved.events[0].evidence.as_ref().unwrap().rule(), TripRule::Stall);

    app.core().incidents.report(breaker(Breaker::Open));
    app.core().incidents.report(breaker(Breaker::Closed));
    while incident(&mut operators, 2).await.is_none_or(|second| second.state() != IncidentState::Resolved) {}
    let all = ListIncidentsRequest::default;
    assert_eq!(list(&mut operators, all()).await, [2, 1]);
    assert_eq!(list(&mut operators, ListIncidentsRequest { page_size: 1, ..all() }).await, [2]);
    let second = ListIncidentsRequest { page_token: "2".to_owned(), ..all() };
    assert_eq!(list(&mut operators, second).await, [1]);
    let open = ListIncidentsRequest { state: IncidentState::Mitigated.into(), ..all() };
    assert!(list(&mut operators, open).await.is_empty());
    let later = ListIncidentsRequest { since: Some(timestamp(4_000_000_000, 0)), ..all() };
    assert!(list(&mut operators, later).await.is_empty());
    for wrong in [
        ListIncidentsRequest { page_token: "x".to_owned(), ..all() },
        ListIncidentsRequest { page_size: 1001, ..all() },
        ListIncidentsRequest { state: 77, ..all() },
    ] {
        assert_eq!(operators.list_incidents(wrong).await.unwrap_err().code(), Code::InvalidArgument);
    }
    let unknown = operators.get_incident(GetIncidentRequest { number: 9 }).await.unwrap_err();
    assert_eq!((unknown.code(), reason(&unknown).as_str()), (Code::NotFound, "INCIDENT_NOT_FOUND"));

    // A restart knows them.
    tokio::task::spawn_blocking(move || app.drain().unwrap()).await.unwrap();
    let app = tokio::task::spawn_blocking(move || App::start(&config).unwrap()).await.unwrap();
    let mut operators = OperatorServiceClient::new(channel(app.operations_address).await);
    assert_eq!(list(&mut operators, all()).await, [2, 1]);
    let again = incident(&mut operators, 1).await.unwrap();
    assert_eq!((&again.events, &again.accounts), (&resolved.events, &resolved.accounts));

    // And so does the command line.
    let address = format!("http://{}", app.operations_address);
    let said = |args: Vec<&'static str>| {
        let address = address.clone();
        tokio::task::spawn_blocking(move || {
            let output = program().args(args).args(["--addr", &address]).output().unwrap();
            (output.status.code(), String::from_utf8(output.stdout).unwrap())
        })
    };
    let (code, page) = said(vec!["incident", "show", "1"]).await.unwrap();
    assert_eq!(code, Some(0));
    assert!(page.starts_with("# Incident 1: Writes to the store stalled\n"), "{page}");
    assert!(page.contains("20 = 20 + 0 + 0 + 0 + 0. **Nothing was lost.**"), "{page}");
    let (_, json) = said(vec!["incident", "show", "1", "--format", "json"]).await.unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["accounts"]["accepted"], 20);
    let (_, table) = said(vec!["incidents"]).await.unwrap();
    assert_eq!(table.lines().count(), 3, "{table}");
    assert_eq!(said(vec!["incident", "show", "9"]).await.unwrap().0, Some(66));
    tokio::task::spawn_blocking(move || app.drain().unwrap()).await.unwrap();
}
