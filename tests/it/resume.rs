//! What a hold has let go is applied at a rising rate, which operators can set and pause, and which is told.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use steadfast::app::{Core, Layers};
use steadfast::clock::{Clock as _, ManualClock, SystemClock};
use steadfast::command::breakers::{Breakers as _, Pace, PaceStatus};
use steadfast::command::operate::HoldDesk;
use steadfast::command::{Outcome, Wait, WriteRequest};
use steadfast::config::Config;
use steadfast::kill_switch::{Lasting, Mode, NewHold, Operation, Operations, Scope, UserShare, Who};
use steadfast::model::{AttributeChange, Change, ChangeKind, ProfileKey, Site, User, Write};
use steadfast::proto::operator_service_client::OperatorServiceClient;
use steadfast::proto::{self, BacklogState, GetStatusRequest, set_replay_pace_request};
use tower::Service as _;

use crate::support::{self, Home, SITE, channel};

const LONG: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

struct Node {
    core: Core,
    desk: Arc<dyn HoldDesk>,
}

fn open(dir: &Path, clock: &Arc<ManualClock>) -> Node {
    let mut config = Config::ephemeral(dir);
    config.journal.segment.0 = 4 << 20;
    config.writes.reply_after.0 = LONG;
    config.server.drain_timeout.0 = Duration::from_millis(100);
    let clock = Arc::<ManualClock>::clone(clock);
    let core = Core::open_layered(&config, clock, &Layers::default()).unwrap();
    let desk = core.hold_desk();
    Node { core, desk }
}

fn add(site: &str, user: &str) -> WriteRequest {
    let change = AttributeChange { name: "visits".into(), change: Change::Add(1.0), occurred_at: None };
    WriteRequest {
        site: Site::new(site),
        write: Write {
            user: User::new(user),
            request_id: None,
            occurred_at: None,
            if_version: None,
            kind: ChangeKind::Identify(vec![change]),
        },
        wait: Wait::Applied,
        deadline: Instant::now() + 2 * LONG,
        may_load: true,
    }
}

impl Node {
    async fn hold(&self, scope: Scope) -> steadfast::kill_switch::HoldId {
        let (reason, owner, ticket) = ("a test".to_owned(), "ann".to_owned(), String::new());
        let lasting = Lasting::For(HOUR);
        let new = NewHold { scope, mode: Mode::Defer, reason, owner, ticket, lasting };
        let (placed, persisting) = self.desk.switch().place(new, self.desk.now()).unwrap();
        assert!(persisting.within(LONG).await.durable);
        placed.hold.id
    }

    async fn release(&self, id: steadfast::kill_switch::HoldId) -> u64 {
        let who = Who { owner: "bob".into(), reason: "over".into() };
        let (_, persisting) = self.desk.switch().release(id, who, None, false, self.desk.now()).unwrap();
        let persisted = persisting.within(LONG).await;
        assert!(persisted.durable);
        persisted.released
    }

    /// A write of each of these users of `site`, which all must have this outcome.
    async fn write(&self, site: &str, users: impl IntoIterator<Item = usize>, outcome: Outcome) {
        let mut stack = self.core.writes();
        let begun: Vec<_> = users.into_iter().map(|n| stack.call(add(site, &format!("u{n}")))).collect();
        for write in begun {
            assert_eq!(write.await.unwrap().outcome, outcome);
        }
    }

    fn waiting(&self, site: &str) -> usize {
        self.core.shared.sites.get(&Site::new(site)).map_or(0, |site| site.lane.lock().waiting())
    }

    fn resuming(&self, site: &str) -> bool {
        self.core.guard.resuming(Some(&Site::new(site))).is_some()
    }

    fn pace(&self, site: &str, pace: Pace) {
        let (reason, owner) = ("a test".to_owned(), "ops".to_owned());
        self.core.orders.set_pace(PaceStatus { site: Some(Site::new(site)), pace, reason, owner }).unwrap();
    }

    async fn until(&self, what: impl Fn(&Self) -> bool) {
        let give_up = Instant::now() + 2 * LONG;
        while !what(self) {
            assert!(Instant::now() < give_up, "it does not happen");
            tokio::task::yield_now().await;
        }
    }
}

fn begin() -> (tempfile::TempDir, Arc<ManualClock>, Node) {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(SystemClock.now()));
    let node = open(dir.path(), &clock);
    (dir, clock, node)
}

fn site(name: &str) -> Scope {
    Scope { site: Some(Site::new(name)), ..Scope::ALL_WRITES }
}

#[tokio::test]
async fn a_release_goes_by_the_pace_and_neighbours_go_on() {
    const HELD: usize = 1_500;
    let (_dir, _clock, mut node) = begin();
    let id = node.hold(site("held")).await;
    node.write("held", 0..HELD, Outcome::Deferred).await;
    node.pace("held", Pace::Paused);
    assert_eq!(node.release(id).await, HELD as u64);
    assert!(node.resuming("held"));
    // Time enough for whatever would go on.
    node.write("live", 0..200, Outcome::Applied).await;
    assert!(!node.resuming("live"));
    assert_eq!(node.waiting("held"), HELD, "nothing of it while it is paused");
    node.pace("held", Pace::Automatic);
    // Behind what waits, however far that has come.
    node.write("held", HELD..HELD + 5, Outcome::Applied).await;
    node.until(|node| node.waiting("held") == 0).await;
    node.write("held", HELD + 5..HELD + 6, Outcome::Applied).await;
    node.core.close(LONG).unwrap();
}

#[tokio::test]
async fn shares_of_users_and_single_operations_are_let_in_slowly_too() {
    let (_dir, _clock, mut node) = begin();
    let share = UserShare::new(50.0).unwrap();
    let half = node.hold(Scope { share, ..site("half") }).await;
    let deletes = Operations::NONE.with(Operation::Delete);
    let erasing = node.hold(Scope { operations: deletes, ..site("erasing") }).await;
    let is_held = |n: &usize| {
        let key = ProfileKey::new(Site::new("half"), User::new(format!("u{n}")));
        share.unwrap().contains(key.hash64())
    };
    let (held, free): (Vec<usize>, Vec<usize>) = (0..1_000).partition(is_held);
    node.write("half", held.iter().copied(), Outcome::Deferred).await;
    node.write("erasing", 0..100, Outcome::Applied).await;
    for n in 0..100 {
        let mut erase = add("erasing", &format!("u{n}"));
        erase.write.kind = ChangeKind::Delete;
        assert_eq!(node.core.writes().call(erase).await.unwrap().outcome, Outcome::Deferred);
    }
    node.write("half", free.iter().copied().take(20), Outcome::Applied).await;
    for (name, id, count) in [("half", half, held.len()), ("erasing", erasing, 100)] {
        node.pace(name, Pace::Paused);
        assert_eq!(node.release(id).await, count as u64);
        assert!(node.resuming(name));
        assert_eq!(node.waiting(name), count);
        node.pace(name, Pace::Automatic);
        node.until(|node| node.waiting(name) == 0).await;
        // Nobody has to wait for anything any more.
        node.write(name, 2_000..2_001, Outcome::Applied).await;
    }
    node.core.close(LONG).unwrap();
}

#[tokio::test]
async fn a_hold_whose_time_ends_while_the_server_is_down_lets_nothing_go_as_a_flood() {
    let (dir, clock, mut node) = begin();
    node.hold(Scope::ALL_WRITES).await;
    node.write("a", 0..4_000, Outcome::Deferred).await;
    node.write("b", 0..1, Outcome::Deferred).await;
    node.core.close(LONG).unwrap();
    clock.advance(2 * HOUR);
    let mut node = open(dir.path(), &clock);
    assert!(node.desk.list().is_empty());
    assert!(node.resuming("a") && node.core.guard.resuming(None).is_some());
    node.write("new", 0..50, Outcome::Applied).await;
    node.until(|node| node.waiting("a") + node.waiting("b") == 0).await;
    node.core.close(LONG).unwrap();
}

#[tokio::test]
async fn the_status_tells_that_it_catches_up_and_how_fast() {
    const HELD: u64 = 1_200;
    let home = Home::new();
    let server = home.start();
    let mut client = server.client().await;
    let mut operator = OperatorServiceClient::new(channel(server.operations).await);
    let place = proto::PlaceHoldRequest {
        scope: Some(proto::HoldScope { site: SITE.into(), ..Default::default() }),
        mode: proto::HoldMode::Defer.into(),
        reason: "a test".into(),
        owner: "ann".into(),
        ..Default::default()
    };
    let placed = operator.place_hold(place).await.unwrap().into_inner();
    for half in 0..2 {
        let requests = (0..HELD / 2).map(|n| support::add(&format!("user-{half}-{n}"), "n", 1.0)).collect();
        let answer = client.identify_many(proto::IdentifyManyRequest { requests }).await.unwrap();
        assert_eq!(answer.into_inner().failed, 0);
    }
    let mut pace = proto::SetReplayPaceRequest {
        site: SITE.into(),
        reason: "the new disk is slow".into(),
        owner: "ann".into(),
        pace: Some(set_replay_pace_request::Pace::EntriesPerSecond(20)),
    };
    operator.set_replay_pace(pace.clone()).await.unwrap();
    let release = proto::ReleaseHoldRequest {
        hold_id: placed.hold.unwrap().hold.unwrap().id,
        reason: "over".into(),
        owner: "ann".into(),
        ..Default::default()
    };
    assert_eq!(operator.release_hold(release).await.unwrap().into_inner().released, HELD);
    let status = operator.get_status(GetStatusRequest::default()).await.unwrap();
    let status = status.into_inner().status.unwrap();
    assert_eq!(status.backlog.unwrap().state(), BacklogState::CatchingUp);
    assert!(status.why.iter().any(|why| why.contains("at a rising rate")), "{:?}", status.why);
    let site = status.sites.iter().find(|told| told.site == SITE).unwrap();
    assert_eq!(site.backlog.as_ref().unwrap().state(), BacklogState::CatchingUp);
    assert!(site.waiting_for.contains("20 entries/s"), "{}", site.waiting_for);
    pace.pace = Some(set_replay_pace_request::Pace::EntriesPerSecond(1_000_000));
    operator.set_replay_pace(pace).await.unwrap();
    support::applied(&mut client, support::add("user-0-0", "n", 1.0)).await;
    server.stop();
}
