//! Overrides of breakers survive what operators expect them to survive, and all that operators order shows in the
//! incident that it overlaps with.

use std::sync::Arc;
use std::time::Duration;

use steadfast::app::{Core, Layers};
use steadfast::breaker::{self, Event, Listener};
use steadfast::clock::{Clock as _, ManualClock, SystemClock};
use steadfast::command::breakers::{
    BreakerMode, BreakerOperation, BreakerOrder, BreakerScope, BreakerState, Breakers as _,
};
use steadfast::config::Config;
use steadfast::proto::operator_service_client::OperatorServiceClient;
use steadfast::proto::{
    self, BreakerOverrideMode, GetIncidentRequest, GetStatusRequest, HoldEventKind, IncidentEventKind,
    Outcome, OverrideBreakerRequest, OverrideBreakerResponse, fault::Effect, hold_event::Subject,
    override_breaker_request::Expiry,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::support::{self, Home, SITE, Server, applied, identify, reason, set, text};

const LONG: Duration = Duration::from_mins(1);

type Operator = OperatorServiceClient<Channel>;

async fn operator(server: &Server) -> Operator {
    OperatorServiceClient::new(support::channel(server.operations).await)
}

fn scope(operation: proto::BreakerOperation) -> proto::BreakerScope {
    proto::BreakerScope { operation: operation.into(), site: String::new() }
}

async fn order(
    operator: &mut Operator,
    operation: proto::BreakerOperation,
    mode: BreakerOverrideMode,
) -> Result<OverrideBreakerResponse, Status> {
    let request = OverrideBreakerRequest {
        scope: Some(scope(operation)),
        mode: mode.into(),
        reason: "the disk is being replaced".into(),
        owner: "ann".into(),
        ticket: "OPS-7".into(),
        expiry: (mode != BreakerOverrideMode::Auto).then_some(Expiry::Never(())),
    };
    Ok(operator.override_breaker(request).await?.into_inner())
}

async fn breaker(operator: &mut Operator, operation: proto::BreakerOperation) -> proto::BreakerStatus {
    let status = operator.get_status(GetStatusRequest::default()).await.unwrap().into_inner().status.unwrap();
    status.breakers.into_iter().find(|breaker| breaker.scope == Some(scope(operation))).unwrap()
}

async fn history(operator: &mut Operator) -> Vec<(HoldEventKind, String, BreakerOverrideMode)> {
    let request = proto::ListHoldEventsRequest::default();
    let events = operator.list_hold_events(request).await.unwrap().into_inner().events;
    let told = events.into_iter().filter_map(|event| match &event.subject {
        Some(Subject::BreakerOverride(over)) => Some((event.kind(), event.owner.clone(), over.mode())),
        _ => None,
    });
    told.collect()
}

#[tokio::test]
async fn an_override_that_was_answered_as_durable_is_there_after_a_kill() {
    use BreakerOverrideMode::{Auto, ForceOpen, Observe};
    use proto::BreakerOperation::{Apply, Query};
    let home = Home::new();
    let server = home.start();
    let mut ops = operator(&server).await;
    let placed = order(&mut ops, Apply, ForceOpen).await.unwrap();
    assert!(placed.durable);
    assert_eq!(placed.breaker.unwrap().state(), proto::BreakerState::Open);
    assert!(order(&mut ops, Query, Observe).await.unwrap().durable);
    server.kill();

    let server = home.start();
    let (mut ops, mut client) = (operator(&server).await, server.client().await);
    let receipt = identify(&mut client, set("u", [("plan", text("pro"))])).await.unwrap();
    assert_eq!(receipt.outcome(), Outcome::Deferred, "from the first request on");
    let apply = breaker(&mut ops, Apply).await;
    let over = apply.operator_override.clone().unwrap();
    assert_eq!((apply.state(), over.mode()), (proto::BreakerState::Open, ForceOpen));
    assert_eq!((over.owner.as_str(), over.ticket.as_str()), ("ann", "OPS-7"));
    assert_eq!(breaker(&mut ops, Query).await.operator_override.unwrap().mode(), Observe);
    let cleared = order(&mut ops, Apply, Auto).await.unwrap();
    assert!(cleared.durable && cleared.breaker.unwrap().operator_override.is_none());
    server.kill();

    let server = home.start();
    let (mut ops, mut client) = (operator(&server).await, server.client().await);
    applied(&mut client, set("u", [("plan", text("free"))])).await;
    assert_eq!(breaker(&mut ops, Apply).await.operator_override, None);
    assert_eq!(breaker(&mut ops, Query).await.operator_override.unwrap().mode(), Observe);
    let told = history(&mut ops).await;
    let ann = |kind, mode| (kind, "ann".to_owned(), mode);
    let (placed, released) = (HoldEventKind::Placed, HoldEventKind::Released);
    assert_eq!(told, [ann(released, ForceOpen), ann(placed, Observe), ann(placed, ForceOpen)]);
    server.stop();
}

#[tokio::test]
async fn what_an_unreadable_audit_log_said_of_overrides_is_not_guessed() {
    use BreakerOverrideMode::{Auto, ForceClosed, ForceOpen};
    use proto::BreakerOperation::Load;
    let home = Home::new();
    let server = home.start();
    let mut ops = operator(&server).await;
    assert!(order(&mut ops, Load, ForceOpen).await.unwrap().durable);
    server.kill();
    let log = home.path("control/audit.log");
    let mut bytes = std::fs::read(&log).unwrap();
    bytes[100] ^= 0xff;
    std::fs::write(&log, bytes).unwrap();

    let server = home.start();
    let mut ops = operator(&server).await;
    assert_eq!(breaker(&mut ops, Load).await.operator_override, None);
    let placed = order(&mut ops, Load, ForceClosed).await.unwrap();
    assert!(!placed.durable);
    assert_eq!(placed.breaker.unwrap().operator_override.unwrap().mode(), ForceClosed);
    let refused = order(&mut ops, Load, Auto).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "HOLDS_UNREADABLE"));
    let recovered = proto::ReleaseHoldRequest {
        hold_id: "holds-unreadable".into(),
        reason: "we know what was held".into(),
        owner: "ann".into(),
        recover: true,
        ..Default::default()
    };
    assert!(ops.release_hold(recovered).await.unwrap().into_inner().durable);
    server.kill();
    let server = home.start();
    let mut ops = operator(&server).await;
    assert_eq!(breaker(&mut ops, Load).await.operator_override.unwrap().mode(), ForceClosed);
    assert!(order(&mut ops, Load, Auto).await.unwrap().durable);
    server.stop();
}

/// Hears of what is ordered.
struct Tell(UnboundedSender<BreakerOverrideHeard>);

type BreakerOverrideHeard = (String, breaker::Mode, String);

impl Listener for Tell {
    fn event(&self, event: &Event) {
        if let Event::Overridden { scope, order } = event {
            // The test may be over.
            let _ = self.0.send((scope.to_string(), order.mode, order.owner.clone()));
        }
    }
}

struct Node {
    core: Core,
    heard: UnboundedReceiver<BreakerOverrideHeard>,
}

fn open(dir: &std::path::Path, clock: &Arc<ManualClock>) -> Node {
    let mut config = Config::ephemeral(dir);
    config.journal.segment.0 = 4 << 20;
    config.server.drain_timeout.0 = Duration::from_millis(100);
    let clock = Arc::<ManualClock>::clone(clock);
    let core = Core::open_layered(&config, clock, &Layers::default()).unwrap();
    let (sender, heard) = unbounded_channel();
    core.guard.events().attach(Tell(sender));
    Node { core, heard }
}

impl Node {
    async fn order(&self, mode: BreakerMode, lasts: Option<Duration>) -> bool {
        let scope = BreakerScope { operation: BreakerOperation::Query, site: None };
        let (reason, owner, ticket) = ("a test".to_owned(), "ann".to_owned(), String::new());
        let order = BreakerOrder { scope, mode, reason, owner, ticket, lasts };
        self.core.orders.order(order).unwrap().within(LONG).await.durable
    }

    fn state(&self) -> (BreakerState, bool) {
        let query = BreakerScope { operation: BreakerOperation::Query, site: None };
        let told = self.core.orders.breaker(&query);
        (told.state, told.ordered.is_some())
    }
}

#[tokio::test]
async fn an_override_ends_by_its_time_here_and_across_a_restart_whatever_is_done_to_the_clock() {
    const HOUR: Duration = Duration::from_hours(1);
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(SystemClock.now()));
    let mut node = open(dir.path(), &clock);
    // While the process runs the clock that nobody sets counts.
    assert!(node.order(BreakerMode::ForceOpen, Some(HOUR)).await);
    clock.advance(10 * HOUR);
    assert_eq!(node.state(), (BreakerState::Open, true), "a jump of the wall clock ends nothing");
    assert!(node.order(BreakerMode::ForceOpen, Some(Duration::from_millis(1))).await);
    loop {
        let (scope, mode, owner) = node.heard.recv().await.unwrap();
        assert_eq!(scope, "query");
        if mode == breaker::Mode::Auto {
            assert_eq!(owner, "steadfast");
            break;
        }
    }
    assert!(!node.state().1);
    assert!(node.order(BreakerMode::ForceOpen, Some(HOUR)).await);
    node.core.close(LONG).unwrap();

    clock.advance(HOUR / 2);
    let mut node = open(dir.path(), &clock);
    assert_eq!(node.state(), (BreakerState::Open, true));
    node.core.close(LONG).unwrap();
    clock.advance(HOUR / 2);
    let mut node = open(dir.path(), &clock);
    assert_eq!(node.state(), (BreakerState::Closed, false), "its time was over before the start");
    node.core.close(LONG).unwrap();
}

#[tokio::test]
async fn what_operators_order_shows_in_the_incident_that_it_overlaps() {
    let home = Home::new().set("server.fault_injection=true");
    let server = home.start();
    let (mut client, mut ops) = (server.client().await, operator(&server).await);
    applied(&mut client, set("u", [("plan", text("free"))])).await;
    // No incident: a hold opens none.
    let hold = |site: &str, lasts: i64| proto::PlaceHoldRequest {
        scope: Some(proto::HoldScope { site: site.into(), ..Default::default() }),
        mode: proto::HoldMode::Defer.into(),
        reason: "to be safe".into(),
        owner: "ann".into(),
        expiry: Some(proto::place_hold_request::Expiry::ExpiresIn(prost_types::Duration {
            seconds: 0,
            nanos: i32::try_from(lasts).unwrap(),
        })),
        ..Default::default()
    };
    let before = ops.place_hold(hold("early", 900_000_000)).await.unwrap().into_inner();
    let before = before.hold.unwrap().hold.unwrap().id;
    let release = |id: &str| proto::ReleaseHoldRequest {
        hold_id: id.into(),
        reason: "no more".into(),
        owner: "bob".into(),
        ..Default::default()
    };
    ops.release_hold(release(&before)).await.unwrap();
    assert!(ops.get_incident(GetIncidentRequest { number: 1 }).await.is_err());

    let fault = proto::Fault {
        place: proto::FaultPlace::Thread.into(),
        calls: vec![proto::StoreCall::Commit.into()],
        effect: Some(Effect::Hang(())),
        ..Default::default()
    };
    ops.inject_fault(proto::InjectFaultRequest { fault: Some(fault) }).await.unwrap();
    let mut begun = client.clone();
    let hung =
        tokio::spawn(async move { identify(&mut begun, set("u", [("plan", text("pro"))])).await.unwrap() });
    let whole = |incident: proto::Incident| incident.scopes.iter().any(|scope| scope.site.is_empty());
    while !ops
        .get_incident(GetIncidentRequest { number: 1 })
        .await
        .is_ok_and(|answer| whole(answer.into_inner().incident.unwrap()))
    {}

    let placed = ops.place_hold(hold(SITE, 999_000_000)).await.unwrap().into_inner();
    let id = placed.hold.unwrap().hold.unwrap().id;
    let longer = proto::ExtendHoldRequest {
        hold_id: id.clone(),
        reason: "longer".into(),
        owner: "bob".into(),
        expiry: Some(proto::extend_hold_request::Expiry::Never(())),
        ..Default::default()
    };
    ops.extend_hold(longer).await.unwrap();
    ops.release_hold(release(&id)).await.unwrap();
    ops.place_hold(hold("brief", 1_000_000)).await.unwrap();
    order(&mut ops, proto::BreakerOperation::Apply, BreakerOverrideMode::ForceOpen).await.unwrap();
    order(&mut ops, proto::BreakerOperation::Query, BreakerOverrideMode::Observe).await.unwrap();
    order(&mut ops, proto::BreakerOperation::Apply, BreakerOverrideMode::Auto).await.unwrap();
    let pace = proto::SetReplayPaceRequest {
        site: SITE.into(),
        reason: "slowly".into(),
        owner: "ann".into(),
        pace: Some(proto::set_replay_pace_request::Pace::EntriesPerSecond(500)),
    };
    ops.set_replay_pace(pace).await.unwrap();
    let quota = proto::SetQuotaRequest {
        site: SITE.into(),
        quota: Some(proto::set_quota_request::Quota::LimitBytes(64 << 20)),
        reason: "room".into(),
        owner: "ann".into(),
    };
    ops.set_quota(quota).await.unwrap();
    let expected = [
        "Hold hold-2 (DEFER, site acme, IDENTIFY+DELETE) placed by ann: to be safe",
        "Hold hold-2 (DEFER, site acme, IDENTIFY+DELETE) given another expiry by bob: longer",
        "Hold hold-2 (DEFER, site acme, IDENTIFY+DELETE) ended by bob: no more",
        "Hold hold-3 (DEFER, site brief, IDENTIFY+DELETE) placed by ann: to be safe",
        "Hold hold-3 (DEFER, site brief, IDENTIFY+DELETE) ended by its time",
        "Override of breaker apply (FORCE_OPEN) placed by ann: the disk is being replaced",
        "Override of breaker apply (FORCE_OPEN) ended by ann: the disk is being replaced",
        "The pace of the applier was set to at most 500 entries/s by ann: slowly",
        "The journal's quota of acme was set to 64 MiB by ann: room",
    ];
    loop {
        let incident = ops.get_incident(GetIncidentRequest { number: 1 }).await.unwrap();
        let events = incident.into_inner().incident.unwrap().events;
        let told: Vec<_> = events
            .iter()
            .filter(|event| event.kind() == IncidentEventKind::Hold)
            .map(|event| event.message.as_str())
            .collect();
        assert!(told.iter().all(|message| expected.contains(message)), "{told:#?}");
        if told.len() == expected.len() {
            break;
        }
    }
    assert!(ops.get_incident(GetIncidentRequest { number: 2 }).await.is_err(), "nothing else was trouble");
    ops.clear_faults(proto::ClearFaultsRequest::default()).await.unwrap();
    hung.await.unwrap();
    server.stop();
}
