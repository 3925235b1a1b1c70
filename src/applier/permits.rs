//! Who may keep the applier from lanes: breakers, holds, operators.

use std::time::Duration;

use crate::model::Site;
use crate::store::watch::BoxedWatch;

/// Leave for one turn of a lane.
pub struct Leave {
    /// Entries that the turn may have, at least 1.
    pub entries: usize,
    /// Whether it is to show that the store is well again: it should be of users on whom nothing has failed.
    pub probe: bool,
    /// To be carried with the turn's commit.
    pub watch: Option<BoxedWatch>,
}

/// A lane that gets no turn now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// When to ask again.
    pub again: Duration,
    /// Nothing of it is applied at present; otherwise it is only to go slowly.
    pub left_alone: bool,
}

/// Decides which lanes get turns. Asked on the way of each write and each turn, so it must answer at once.
pub trait Permits: Send + Sync + 'static {
    /// Whether the lane of `site` is left alone at present, and when to ask again. Changes nothing.
    fn left_alone(&self, site: &Site) -> Option<Duration>;

    /// Leave for a turn of `site`, in which `waiting` entries wait and which may take `most` of them.
    fn ask(&self, site: &Site, waiting: usize, most: usize) -> Result<Leave, Wait>;
}

/// Keeps nobody from anything.
impl Permits for () {
    fn left_alone(&self, _: &Site) -> Option<Duration> {
        None
    }

    fn ask(&self, _: &Site, _: usize, most: usize) -> Result<Leave, Wait> {
        Ok(Leave { entries: most, probe: false, watch: None })
    }
}
