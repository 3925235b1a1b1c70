//! What the applier hears when it asks for turns.

use std::time::{Duration, Instant};

use super::resume::Asked;
use super::{Guard, Operation, classify};
use crate::applier::{Leave, Permits, Wait};
use crate::breaker::{Reason, Role};
use crate::model::Site;
use crate::store::StoreError;

/// A lane asks again after at most so long: an operator may have said something meanwhile.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// And while probes are wanted, after so long: there is one at a time, and the next should follow soon.
const PROBE_AGAIN: Duration = Duration::from_millis(25);

/// While too much is not flushed.
const FLUSH_AGAIN: Duration = Duration::from_millis(50);

impl Guard {
    /// `unflushed` tells how many bytes are in the store and not flushed; said once.
    pub fn watch_unflushed(&self, unflushed: impl Fn() -> u64 + Send + Sync + 'static) {
        if self.unflushed.set(Box::new(unflushed)).is_err() {
            tracing::error!("what is not flushed is watched already");
        }
    }

    fn has_flushed_enough(&self) -> bool {
        self.unflushed.get().is_none_or(|unflushed| unflushed() <= self.unflushed_limit)
    }
}

impl Permits for Guard {
    fn left_alone(&self, site: &Site) -> Option<Duration> {
        if self.paces.paused(site) {
            return Some(ASK_AGAIN);
        }
        if !self.events.open(Operation::Apply).withholds(site) {
            return None;
        }
        Some(if self.events.any_half_open() { PROBE_AGAIN } else { ASK_AGAIN })
    }

    fn ask(&self, site: &Site, waiting: usize, most: usize) -> Result<Leave, Wait> {
        self.ask_at(site, waiting, most, Instant::now())
    }
}

impl Guard {
    /// Leave for a turn, asked for at `now`.
    pub(super) fn ask_at(
        &self,
        site: &Site,
        waiting: usize,
        most: usize,
        now: Instant,
    ) -> Result<Leave, Wait> {
        if !self.has_flushed_enough() {
            return Err(Wait { again: FLUSH_AGAIN, left_alone: false });
        }
        let left_alone = self.paces.paused(site);
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        let paced = self.paces.turn(site, most, now);
        let most = paced.map_err(|again| Wait { again, left_alone })?;
        let pace = |scope: Option<&Site>| self.paces.pace(scope);
        let asked = Asked { site, waiting, now, pace: &pace, slow: &|| self.slow_verdicts() };
        let slowly = self.resumes.turn(&asked, most);
        let most = slowly.map_err(|again| Wait { again: again.min(ASK_AGAIN), left_alone: false })?;
        let scope = self.scope(Operation::Apply, Some(site));
        let most = scope.turn().map_or(most, |turn| most.min(turn)).max(1);
        let entries = most.min(u32::try_from(waiting).unwrap_or(u32::MAX)).max(1);
        let followed = self.admit(Operation::Apply, Some(site), Role::Background, entries);
        let followed = followed.map_err(|refused| wait(&refused))?;
        self.paces.charge(site, entries);
        self.resumes.charge(site, entries, pace);
        let probe = followed.is_probe();
        Ok(Leave { entries: entries as usize, probe, watch: Some(followed.watch()) })
    }
}

fn wait(refused: &StoreError) -> Wait {
    match refused {
        StoreError::Withheld { state, retry_after, .. } => {
            let again = if *state == classify::state(Reason::Probing) { PROBE_AGAIN } else { ASK_AGAIN };
            let left_alone = *state != classify::state(Reason::Paced);
            Wait { again: (*retry_after).min(again), left_alone }
        }
        _ => Wait { again: ASK_AGAIN, left_alone: false },
    }
}
