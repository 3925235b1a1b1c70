//! What operators order in a running node: overrides of breakers are obeyed, kept and taken up again, and every
//! order is told to the incidents that it overlaps with.
//!
//! What is in force, and until when, is for the kill switch's audit log to say; the breakers are brought in line
//! with it after each change.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::clock::Clock;
use crate::command::breakers::{
    BreakerMode, BreakerOperation, BreakerOrder, BreakerOverride, BreakerRefused, BreakerScope,
    BreakerStatus, Breakers, Pace, PaceStatus,
};
use crate::command::operate::Cause;
use crate::guard::Guard;
use crate::incident::{self, Incidents};
use crate::kill_switch::audit::{EventKind, Override, Subject};
use crate::kill_switch::hold::Expiry;
use crate::kill_switch::{self, HoldError, KillSwitch, Now, Persisting, Who};

/// Takes orders about breakers and paces.
pub struct Orders {
    switch: Arc<KillSwitch>,
    clock: Arc<dyn Clock>,
    obedience: Arc<Obedience>,
}

/// Does what is ordered, and tells of it.
struct Obedience {
    guard: Arc<Guard>,
    incidents: Incidents,
    /// One change after the other, so that the last word counts.
    turn: Mutex<()>,
}

impl Orders {
    /// Has the breakers obey the overrides that are in force, and all that come.
    pub fn connect(
        switch: &Arc<KillSwitch>,
        guard: &Arc<Guard>,
        incidents: &Incidents,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        let obedience = Arc::new(Obedience {
            guard: Arc::clone(guard),
            incidents: incidents.clone(),
            turn: Mutex::default(),
        });
        let obeying = Arc::clone(&obedience);
        switch.on_changed(Box::new(move |switch, kind, subject, who| {
            obeying.changed(switch, kind, subject, who);
        }));
        let orders = Self { switch: Arc::clone(switch), clock: Arc::clone(clock), obedience };
        // Those of the last run; one that is placed, or ends, meanwhile is obeyed twice.
        for (over, left) in switch.overrides(orders.now()) {
            let Override { site, operation, mode, owner, reason, .. } = &over;
            tracing::warn!(?site, operation, mode, owner, reason, ?left, "an override is in force again");
            orders.obedience.obey(switch, &over, &Who::default());
        }
        orders
    }

    fn now(&self) -> Now {
        Now { instant: Instant::now(), wall: self.clock.now() }
    }
}

impl Obedience {
    fn changed(&self, switch: &KillSwitch, kind: EventKind, subject: &Subject, who: &Who) {
        let did = match kind {
            EventKind::Placed => "placed",
            EventKind::Extended => "given another expiry",
            EventKind::Released => "ended",
            EventKind::Expired => "ended by its time",
            EventKind::Recovered => "ended, with the unreadable log set aside,",
            // Nothing changes yet.
            EventKind::Expiring => return,
        };
        let by =
            if who.owner.is_empty() { String::new() } else { format!(" by {}: {}", who.owner, who.reason) };
        match subject {
            Subject::Hold(hold) => {
                let mode = format!("{:?}", hold.mode).to_uppercase();
                let message = format!("Hold {} ({mode}, {}) {did}{by}", hold.id, hold.scope);
                self.incidents.hold(concerned(&hold.scope), message);
            }
            Subject::Override(over) => {
                self.obey(switch, over, who);
                let mode = over.mode.to_uppercase();
                let of = over.site.as_ref().map_or_else(String::new, |site| format!("/{site}"));
                let message = format!("Override of breaker {}{of} ({mode}) {did}{by}", over.operation);
                let operation = incident::Operation::named(&over.operation);
                self.incidents.hold(incident::Scope { operation, site: over.site.clone() }, message);
            }
        }
    }

    /// Brings the breaker that `about` is about in line with what is in force.
    fn obey(&self, switch: &KillSwitch, about: &Override, who: &Who) {
        let Some(operation) = BreakerOperation::named(&about.operation) else {
            tracing::error!(operation = about.operation, "an override of an unknown breaker has no effect");
            return;
        };
        let scope = BreakerScope { operation, site: about.site.clone() };
        let _turn = self.turn.lock();
        let present = switch.override_on(about.site.as_ref(), &about.operation);
        let order = present.as_ref().and_then(|over| ordered(&scope, over));
        let cause = if who.owner.is_empty() {
            Cause { owner: "steadfast".to_owned(), reason: "its time is over".to_owned() }
        } else {
            Cause { owner: who.owner.clone(), reason: who.reason.clone() }
        };
        self.guard.obey(&scope, order, &cause);
    }
}

/// An override as breakers see it; none if this program does not know what it asks for.
fn ordered(scope: &BreakerScope, over: &Override) -> Option<BreakerOverride> {
    let Some(mode) = BreakerMode::named(&over.mode) else {
        tracing::error!(mode = over.mode, "an override that asks for something unknown has no effect");
        return None;
    };
    Some(BreakerOverride {
        order: BreakerOrder {
            scope: scope.clone(),
            mode,
            reason: over.reason.clone(),
            owner: over.owner.clone(),
            ticket: over.ticket.clone(),
            lasts: over.expiry.map(|expiry| expiry.lasts),
        },
        created_at: over.created_at,
        expires_at: over.expiry.map(|expiry| expiry.at),
    })
}

/// What of the store a hold concerns.
fn concerned(scope: &kill_switch::Scope) -> incident::Scope {
    let mut operations = scope.operations.iter().map(|operation| match operation {
        kill_switch::Operation::Identify | kill_switch::Operation::Delete => incident::Operation::Apply,
        kill_switch::Operation::Get => incident::Operation::Load,
        kill_switch::Operation::Query => incident::Operation::Query,
    });
    let first = operations.next();
    let operation = first.filter(|first| operations.all(|other| other == *first));
    incident::Scope { operation, site: scope.site.clone() }
}

impl From<HoldError> for BreakerRefused {
    fn from(error: HoldError) -> Self {
        match error {
            HoldError::TooMany { .. } => Self::TooMany(error.to_string()),
            HoldError::Unreadable => Self::Unreadable,
            HoldError::Invalid(_) | HoldError::NotFound { .. } | HoldError::VersionMismatch { .. } => {
                Self::Invalid(error.to_string())
            }
        }
    }
}

impl Breakers for Orders {
    fn order(&self, order: BreakerOrder) -> Result<Persisting, BreakerRefused> {
        let BreakerOrder { scope, mode, reason, owner, ticket, lasts } = order;
        let (site, operation) = (scope.site, scope.operation.as_str());
        let now = self.now();
        let is_there = || self.switch.override_on(site.as_ref(), operation).is_some();
        // One that was placed while sites were kept apart can be ended at any time.
        if site.is_some() && !self.obedience.guard.keeps_sites_apart() && !is_there() {
            return Err(BreakerRefused::NoSites);
        }
        if mode == BreakerMode::Auto {
            let who = Who { owner, reason };
            return Ok(self.switch.clear_override(site.as_ref(), operation, who, now)?);
        }
        let over = Override {
            site,
            operation: operation.to_owned(),
            mode: mode.as_str().to_owned(),
            reason,
            owner,
            ticket,
            created_at: now.wall,
            expiry: lasts.map(|lasts| Expiry::after(lasts, now.wall)),
        };
        Ok(self.switch.place_override(over, now)?)
    }

    fn breaker(&self, scope: &BreakerScope) -> BreakerStatus {
        self.obedience.guard.status_of(scope)
    }

    fn set_pace(&self, pace: PaceStatus) -> Result<PaceStatus, BreakerRefused> {
        let (owner, reason, site) = (pace.owner.clone(), pace.reason.clone(), pace.site.clone());
        let set = self.obedience.guard.set_pace(pace)?;
        let what = match set.pace {
            Pace::Automatic => "as fast as it goes".to_owned(),
            Pace::PerSecond(rate) => format!("at most {rate} entries/s"),
            Pace::Paused => "paused".to_owned(),
        };
        let message = format!("The pace of the applier was set to {what} by {owner}: {reason}");
        let scope = incident::Scope { operation: Some(incident::Operation::Apply), site };
        self.obedience.incidents.hold(scope, message);
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kill_switch::{Operation, Operations};

    #[test]
    fn a_hold_concerns_what_its_operations_need_of_the_store() {
        let of = |operations: &[Operation]| {
            let operations: Operations = operations.iter().copied().collect();
            concerned(&kill_switch::Scope { site: None, share: None, operations }).operation
        };
        use Operation::{Delete, Get, Identify, Query};
        assert_eq!(of(&[Identify, Delete]), Some(incident::Operation::Apply));
        assert_eq!(of(&[Get]), Some(incident::Operation::Load));
        assert_eq!(of(&[Query]), Some(incident::Operation::Query));
        assert_eq!(of(&[Delete, Get]), None, "of everything");
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for operation in [BreakerOperation::Apply, BreakerOperation::Load, BreakerOperation::Query] {
            assert_eq!(BreakerOperation::named(operation.as_str()), Some(operation));
        }
        for mode in
            [BreakerMode::Auto, BreakerMode::ForceOpen, BreakerMode::ForceClosed, BreakerMode::Observe]
        {
            assert_eq!(BreakerMode::named(mode.as_str()), Some(mode));
        }
        assert_eq!((BreakerOperation::named("disk"), BreakerMode::named("ajar")), (None, None));
    }
}
