//! What is asked of the store as a tower service: the applier and the readers call it, and layers such as the breaker
//! go around. Commits are asked for by [`SiteCommit`](super::SiteCommit) itself.

use super::Purpose;
use crate::model::ProfileKey;

/// A load of some records of one site.
#[derive(Clone, Debug)]
pub struct Load {
    /// On whose behalf.
    pub purpose: Purpose,
    /// Which, all of one site.
    pub keys: Vec<ProfileKey>,
}
