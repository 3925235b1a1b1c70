//! Faults injected into a running server by its operator, as services meet them over gRPC.

use std::time::{Duration, Instant};

use steadfast::proto::operator_service_client::OperatorServiceClient;
use steadfast::proto::{
    self, BreakerOperation, BreakerOverrideMode, BreakerScope, BreakerState, ClearFaultsRequest, Fault,
    FaultPlace, InjectFaultRequest, Outcome, OverrideBreakerRequest, SetReplayPaceRequest, StoreCall,
    WatchStatusRequest, fault::Effect, set_replay_pace_request::Pace,
};
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

use crate::support::{self, Client, Home, SITE, Server, info, reason, set, text};

/// A server whose store fails when its operator says so.
pub struct Day {
    pub server: Server,
    pub client: Client,
    pub operator: OperatorServiceClient<Channel>,
}

/// Nothing is deferred because of the time that it takes.
pub async fn begin() -> (Home, Day) {
    let home = Home::new().set("server.fault_injection=true");
    let day = Day::on(&home).await;
    (home, day)
}

pub fn fault(place: FaultPlace, call: StoreCall, site: &str, effect: Effect) -> Fault {
    Fault {
        place: place.into(),
        calls: vec![call.into()],
        site: site.into(),
        effect: Some(effect),
        ..Fault::default()
    }
}

impl Day {
    pub async fn on(home: &Home) -> Self {
        let server = home.start();
        let client = server.client().await;
        let operator = OperatorServiceClient::new(support::channel(server.operations).await);
        Self { server, client, operator }
    }

    pub async fn break_with(&mut self, fault: Fault) -> String {
        let request = InjectFaultRequest { fault: Some(fault) };
        self.operator.inject_fault(request).await.unwrap().into_inner().fault.unwrap().id
    }

    async fn inject(&mut self, place: FaultPlace, call: StoreCall, site: &str, effect: Effect) -> String {
        self.break_with(fault(place, call, site, effect)).await
    }

    /// Ends all faults; answers how many calls they struck.
    pub async fn clear(&mut self) -> u64 {
        let cleared = self.operator.clear_faults(ClearFaultsRequest::default()).await.unwrap();
        cleared.into_inner().faults.iter().map(|fault| fault.struck).sum()
    }

    /// Until the breaker is in this state; a site's breaker that is not told of is closed.
    pub async fn until(&mut self, operation: BreakerOperation, site: &str, state: BreakerState) {
        let interval = prost_types::Duration { seconds: 0, nanos: 100_000_000 };
        let request = WatchStatusRequest { interval: Some(interval), ..WatchStatusRequest::default() };
        let mut watch = self.operator.watch_status(request).await.unwrap().into_inner();
        loop {
            let status = watch.message().await.unwrap().unwrap().status.unwrap();
            let found = status.breakers.iter().find(|breaker| {
                breaker.scope.as_ref().is_some_and(|of| of.operation() == operation && of.site == site)
            });
            let now = found.map_or(BreakerState::Closed, proto::BreakerStatus::state);
            if now == state {
                return;
            }
        }
    }

    /// Until all that was kept has been applied.
    pub async fn until_nothing_waits(&mut self) {
        let request = WatchStatusRequest::default();
        let mut watch = self.operator.watch_status(request).await.unwrap().into_inner();
        loop {
            let status = watch.message().await.unwrap().unwrap().status.unwrap();
            if status.backlog.is_some_and(|backlog| backlog.entries == 0) {
                return;
            }
        }
    }

    /// A write that must be answered within `deadline`.
    pub async fn write(&self, site: &str, user: &str, deadline: Duration) -> Result<Outcome, tonic::Status> {
        let mut request = Request::new(set(user, [("plan", text("pro"))]));
        request.get_mut().site = site.into();
        request.set_timeout(deadline);
        let answer = self.client.clone().identify(request).await?;
        Ok(answer.into_inner().receipt.unwrap().outcome())
    }

    pub async fn get(&self, site: &str, user: &str) -> Result<proto::Profile, tonic::Status> {
        let request =
            proto::GetProfileRequest { site: site.into(), user: user.into(), include_occurred_at: false };
        Ok(self.client.clone().get_profile(request).await?.into_inner().profile.unwrap())
    }
}

pub const LONG: Duration = Duration::from_mins(1);

#[tokio::test]
async fn a_hanging_writer_is_heard_as_deferred_before_any_deadline() {
    let (_home, mut day) = begin().await;
    assert_eq!(day.write(SITE, "before", LONG).await.unwrap(), Outcome::Applied);
    day.inject(FaultPlace::Thread, StoreCall::Commit, "", Effect::Hang(())).await;
    // In time, although nothing has been noticed yet: a kept write must not look like one that was lost. (The disk
    // of a busy machine may be late; the answer is then that nothing is known.)
    let mut deferred = 0;
    for n in 0..10 {
        match day.write(SITE, &format!("early{n}"), Duration::from_millis(100)).await {
            Ok(outcome) => {
                assert_eq!(outcome, Outcome::Deferred);
                deferred += 1;
            }
            // The client's own clock says the same with another word.
            Err(status) => {
                assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
            }
        }
    }
    assert!(deferred > 0);
    day.until(BreakerOperation::Apply, "", BreakerState::Open).await;
    for n in 0..20 {
        let outcome = day.write(&format!("site{}", n % 4), &format!("u{n}"), LONG).await.unwrap();
        assert_eq!(outcome, Outcome::Deferred);
    }
    assert_eq!(day.get("site3", "u19").await.unwrap().pending.unwrap().count, 1);
    assert_eq!(day.clear().await, 1);
    day.until(BreakerOperation::Apply, "", BreakerState::Closed).await;
    assert_eq!(day.write(SITE, "after", LONG).await.unwrap(), Outcome::Applied);
    day.server.stop();
}

#[tokio::test]
async fn reads_of_a_sick_site_are_refused_as_its_own_and_those_of_a_sick_store_as_the_nodes() {
    let (_home, mut day) = begin().await;
    for (site, code, scope) in [("sick", Code::FailedPrecondition, "site"), ("", Code::Unavailable, "store")]
    {
        let place = if site.is_empty() { FaultPlace::Thread } else { FaultPlace::Await };
        day.inject(place, StoreCall::Load, site, Effect::Hang(())).await;
        let asked = if site.is_empty() { "any" } else { site };
        let hung = tokio::spawn({
            let client = day.client.clone();
            let request =
                proto::GetProfileRequest { site: asked.into(), user: "u".into(), ..Default::default() };
            async move { client.clone().get_profile(request).await }
        });
        day.until(BreakerOperation::Load, site, BreakerState::Open).await;
        let refused = day.get(asked, "v").await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (code, "BREAKER_OPEN"), "{refused:?}");
        assert_eq!(info(&refused).1.get("scope").map(String::as_str), Some(scope));
        if !site.is_empty() {
            assert_eq!(reason(&day.get("well", "v").await.unwrap_err()), "PROFILE_NOT_FOUND");
            assert_eq!(day.write("well", "v2", LONG).await.unwrap(), Outcome::Applied);
        }
        day.clear().await;
        assert_eq!(reason(&hung.await.unwrap().unwrap_err()), "PROFILE_NOT_FOUND");
        day.until(BreakerOperation::Load, site, BreakerState::Closed).await;
    }
    day.server.stop();
}

#[tokio::test]
async fn operators_open_breakers_and_set_the_pace() {
    let (_home, mut day) = begin().await;
    let order = |mode: BreakerOverrideMode| OverrideBreakerRequest {
        scope: Some(BreakerScope { operation: BreakerOperation::Apply.into(), site: String::new() }),
        mode: mode.into(),
        reason: "the disk is being replaced".into(),
        owner: "ops".into(),
        ..OverrideBreakerRequest::default()
    };
    let opened = day.operator.override_breaker(order(BreakerOverrideMode::ForceOpen)).await.unwrap();
    let opened = opened.into_inner().breaker.unwrap();
    assert_eq!(opened.state(), BreakerState::Open);
    assert_eq!(opened.operator_override.unwrap().reason, "the disk is being replaced");
    assert_eq!(day.write(SITE, "u", LONG).await.unwrap(), Outcome::Deferred);
    day.operator.override_breaker(order(BreakerOverrideMode::Auto)).await.unwrap();
    day.until(BreakerOperation::Apply, "", BreakerState::Closed).await;

    let pace = |pace: Pace| SetReplayPaceRequest {
        pace: Some(pace),
        reason: "a look".into(),
        owner: "ops".into(),
        ..SetReplayPaceRequest::default()
    };
    let set = day.operator.set_replay_pace(pace(Pace::Paused(()))).await.unwrap().into_inner();
    assert_eq!(set.pace.unwrap().entries_per_second, Some(0));
    assert_eq!(day.write(SITE, "v", LONG).await.unwrap(), Outcome::Deferred);
    let status = day.operator.get_status(proto::GetStatusRequest::default()).await.unwrap();
    let status = status.into_inner().status.unwrap();
    assert!(status.why.iter().any(|why| why.contains("paused by ops: a look")), "{:?}", status.why);
    day.operator.set_replay_pace(pace(Pace::Automatic(()))).await.unwrap();
    assert_eq!(day.write(SITE, "v2", LONG).await.unwrap(), Outcome::Applied);

    let mut nameless = order(BreakerOverrideMode::ForceOpen);
    nameless.reason = String::new();
    let refused = day.operator.override_breaker(nameless).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
    day.server.stop();
}

#[tokio::test]
async fn a_journal_whose_disk_stalls_says_so_and_goes_on_when_it_is_over() {
    let (_home, mut day) = begin().await;
    assert_eq!(day.write(SITE, "before", LONG).await.unwrap(), Outcome::Applied);
    let stall = |effect: Effect| InjectFaultRequest {
        fault: Some(Fault {
            place: FaultPlace::JournalSync.into(),
            effect: Some(effect),
            ..Fault::default()
        }),
    };
    for (field, wrong) in [
        ("fault.effect", stall(Effect::Panic(()))),
        ("fault.effect", stall(Effect::Error("EIO".into()))),
        ("fault.place", {
            let mut of_site = stall(longer(600));
            of_site.fault.as_mut().unwrap().site = SITE.into();
            of_site
        }),
    ] {
        let refused = day.operator.inject_fault(wrong).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        let violation = refused.get_error_details().bad_request().unwrap().field_violations[0].clone();
        assert_eq!(violation.field, field);
    }

    let injected = day.operator.inject_fault(stall(longer(600))).await.unwrap().into_inner();
    assert_eq!(injected.fault.unwrap().place(), FaultPlace::JournalSync);
    let hung = tokio::spawn({
        let client = day.client.clone();
        async move { client.clone().identify(set("hung", [("plan", text("pro"))])).await }
    });
    // Until it has taken a second nobody can know whether a write is kept; then new ones are refused at once.
    let began = Instant::now();
    let refused = loop {
        let refused = day.write(SITE, "early", Duration::from_millis(200)).await.unwrap_err();
        if reason_of(&refused) == "JOURNAL_STALLED" {
            break refused;
        }
        assert!(
            matches!(refused.code(), Code::DeadlineExceeded | Code::Cancelled | Code::ResourceExhausted),
            "{refused:?}"
        );
        assert!(began.elapsed() < LONG, "it is never told: {refused:?}");
    };
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(info(&refused).1.get("kept").map(String::as_str), Some("no"));
    assert_eq!(day.get(SITE, "before").await.unwrap().version, 1, "what is there is served");
    let status = day.operator.get_status(proto::GetStatusRequest::default()).await.unwrap();
    let told = status.into_inner().status.unwrap().faults;
    assert_eq!((told.len(), told[0].place()), (1, FaultPlace::JournalSync));

    // What hangs goes on at once.
    day.clear().await;
    assert_eq!(hung.await.unwrap().unwrap().into_inner().receipt.unwrap().outcome(), Outcome::Applied);
    assert_eq!(day.write(SITE, "after", LONG).await.unwrap(), Outcome::Applied);
    // A disk that is only slow.
    let slow = Effect::Delay(prost_types::Duration { seconds: 0, nanos: 50_000_000 });
    day.operator.inject_fault(stall(slow)).await.unwrap();
    let began = Instant::now();
    assert_eq!(day.write(SITE, "slow", LONG).await.unwrap(), Outcome::Applied);
    assert!(began.elapsed() >= Duration::from_millis(50));
    day.clear().await;
    day.server.stop();
}

/// So many seconds longer.
fn longer(seconds: i64) -> Effect {
    Effect::Delay(prost_types::Duration { seconds, nanos: 0 })
}

/// The reason in an error's details; empty for one of the client's own.
fn reason_of(status: &tonic::Status) -> String {
    let details = status.get_error_details();
    details.error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

#[tokio::test]
async fn without_being_asked_for_at_start_no_fault_is_injected() {
    let home = Home::new();
    let server = home.start();
    let mut operator = OperatorServiceClient::new(support::channel(server.operations).await);
    let refused = operator.inject_fault(InjectFaultRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    server.stop();
}
