use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::*;
use crate::fs::FaultyFs;
use crate::model::Site;

pub(super) const DIR: &str = "/control";

/// Two clocks moved by hand.
#[derive(Clone, Copy)]
pub(super) struct Clocks(pub Now);

impl Clocks {
    pub(super) fn new() -> Self {
        Self(Now { instant: Instant::now(), wall: EventTime::MIN.plus(Duration::from_secs(1 << 20)) })
    }

    pub(super) fn pass(&mut self, by: Duration) -> Now {
        self.0.instant += by;
        self.0.wall = self.0.wall.plus(by);
        self.0
    }
}

pub(super) fn open(fs: &FaultyFs, now: Now) -> (Arc<KillSwitch>, Scribe) {
    KillSwitch::open(Arc::new(fs.clone()), Path::new(DIR), now).unwrap()
}

pub(super) fn scope(site: Option<&str>, operations: Operations) -> Scope {
    Scope { site: site.map(Site::new), share: None, operations }
}

pub(super) fn new_hold(site: Option<&str>, mode: Mode) -> NewHold {
    NewHold {
        scope: scope(site, Operations::WRITES),
        mode,
        reason: "the disk is being replaced".into(),
        owner: "ann".into(),
        ticket: String::new(),
        lasting: Lasting::Default,
    }
}

pub(super) fn who() -> Who {
    Who { owner: "bob".into(), reason: "done".into() }
}

/// Lets the scribe do all that is ordered, and says what became of the last order.
pub(super) fn persisted(scribe: &mut Scribe, persisting: Persisting) -> Persisted {
    while scribe.step() {}
    persisting.now().unwrap()
}

pub(super) fn names(switch: &KillSwitch, now: Now) -> Vec<String> {
    switch.list(now).iter().map(|status| status.hold.id.to_string()).collect()
}

pub(super) enum Said {
    Pass,
    Defer,
    Refuse,
}

pub(super) fn ask(
    switch: &KillSwitch,
    site: &str,
    operation: Operation,
    user: u64,
) -> (Said, Option<Ticket>) {
    match switch.admit(&Site::new(site), operation, &|test| test(user)) {
        Admission::Pass(ticket) => (Said::Pass, Some(ticket)),
        Admission::Defer(ticket, _) => (Said::Defer, Some(ticket)),
        Admission::Refuse(_) => (Said::Refuse, None),
    }
}

pub(super) fn is_deferred(switch: &KillSwitch, site: &str) -> bool {
    matches!(ask(switch, site, Operation::Identify, 0), (Said::Defer, _))
}
