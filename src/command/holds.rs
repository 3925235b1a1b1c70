//! Writes and reads as holds meet them, and what operators ask for about holds.

use std::time::Duration;

use super::{ReadError, ReadRequest, Wait, WriteError, WriteRequest};
use crate::kill_switch::{
    Held, HoldId, HoldStatus, KillSwitch, NewHold, Now, Operation, Scope, Subject, View,
};
use crate::model::{ChangeKind, ProfileKey, Site};

/// When a conditional write may be tried again if its hold does not end by itself.
const TRY_AGAIN: Duration = Duration::from_mins(1);

impl From<Box<Held>> for WriteError {
    fn from(held: Box<Held>) -> Self {
        Self::WritesHeld(held)
    }
}

impl From<Box<Held>> for ReadError {
    fn from(held: Box<Held>) -> Self {
        Self::ReadsHeld(held)
    }
}

impl Subject for WriteRequest {
    type Error = WriteError;

    fn site(&self) -> Option<&Site> {
        Some(&self.site)
    }

    fn operation(&self) -> Operation {
        match &self.write.kind {
            ChangeKind::Identify(_) => Operation::Identify,
            ChangeKind::Delete => Operation::Delete,
        }
    }

    fn any_user(&self, test: &dyn Fn(u64) -> bool) -> bool {
        test(ProfileKey::new(self.site.clone(), self.write.user.clone()).hash64())
    }

    /// It is answered as soon as it is durable, without a look at the store.
    fn defer(&mut self, left: Option<Duration>) -> Result<(), WriteError> {
        // Together with `JOURNALED` a condition is a mistake, and told as such further in.
        if self.write.if_version.is_some() && self.wait == Wait::Applied {
            return Err(WriteError::ConditionNeedsStore { retry_after: left.unwrap_or(TRY_AGAIN) });
        }
        self.wait = Wait::Journaled;
        self.may_load = false;
        Ok(())
    }
}

impl Subject for ReadRequest {
    type Error = ReadError;

    fn site(&self) -> Option<&Site> {
        self.keys.first().map(|key| &key.site)
    }

    fn operation(&self) -> Operation {
        Operation::Get
    }

    /// A batch with one user who is held back is held back as a whole.
    fn any_user(&self, test: &dyn Fn(u64) -> bool) -> bool {
        self.keys.iter().any(|key| test(key.hash64()))
    }

    /// A read cannot wait, and no hold asks it to.
    fn defer(&mut self, _: Option<Duration>) -> Result<(), ReadError> {
        Ok(())
    }
}

/// What placing a hold touches.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HoldImpact {
    /// Sites in its scope that were written to in the last minute.
    pub active_sites: u64,
    /// Requests of its scope per second, over the last minute.
    pub requests_per_second: f64,
    /// Requests of its scope under way.
    pub in_flight: u64,
    /// Entries of its scope that wait to be applied.
    pub pending: u64,
    /// Time until the journal is full if the present rate of writes is deferred; none: not foreseeable.
    pub time_to_full: Option<Duration>,
    /// Holds whose scope overlaps.
    pub overlapping: Vec<HoldId>,
}

/// Places, changes and releases holds, and knows what they touch.
pub trait HoldDesk: Send + Sync + 'static {
    /// Where they are.
    fn switch(&self) -> &KillSwitch;
    /// Both clocks.
    fn now(&self) -> Now;
    /// What a hold touches.
    fn impact(&self, new: &NewHold) -> HoldImpact;
    /// Entries of `scope` that wait by `before` and would not by `after`.
    fn let_go(&self, scope: &Scope, before: &View, after: &View) -> u64;
    /// The holds in force, oldest first.
    fn list(&self) -> Vec<HoldStatus> {
        self.switch().list(self.now())
    }
}
