//! How far the store has come.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ids::Site;

/// How far the store has come through the journal. Everything at or before `applied_to` has been dealt
/// with, except what lagging sites hold at or behind their own mark.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LowWater {
    /// The last position that was looked at.
    pub applied_to: u64,
    /// The oldest waiting position of each site that has one at or before `applied_to`.
    pub lagging: BTreeMap<Site, u64>,
}

impl LowWater {
    /// Whether the entry at `position` of `site` may still have to be applied.
    pub fn may_wait(&self, site: &str, position: u64) -> bool {
        position > self.applied_to || self.lagging.get(site).is_some_and(|first| position >= *first)
    }

    /// Where a replay must start to see every entry that may wait.
    pub fn replay_from(&self) -> u64 {
        self.lagging.values().copied().fold(self.applied_to + 1, u64::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lags_is_replayed_and_the_rest_is_not() {
        let slow = Site::new("slow");
        let low = LowWater { applied_to: 10, lagging: BTreeMap::from([(slow, 4)]) };
        assert_eq!(low.replay_from(), 4);
        assert!(!low.may_wait("slow", 3) && low.may_wait("slow", 4) && low.may_wait("slow", 11));
        assert!(!low.may_wait("fast", 4) && !low.may_wait("fast", 10) && low.may_wait("fast", 11));
        assert_eq!(LowWater::default().replay_from(), 1);
    }
}
