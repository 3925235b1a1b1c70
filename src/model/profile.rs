//! What the store keeps for one user.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::ids::NodeId;
use super::time::EventTime;
use super::value::Value;

/// The attributes of one user on one site, with all that is needed to judge the next write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// The position of the write that created the profile. Stable; the attribute index speaks of it.
    pub number: u64,
    /// Rises by 1 with each applied write.
    pub version: u64,
    /// When the write that created it was accepted.
    pub created_at: EventTime,
    /// When the write that changed it last was accepted.
    pub updated_at: EventTime,
    /// The attributes that have a value, by name.
    pub attributes: Vec<Attribute>,
    /// Attributes unset lately, by name: they keep older sets out.
    pub unset: Vec<Unset>,
    /// The delete that this profile was made anew after, for 30 days: it keeps older writes out.
    pub erased: Option<Erasure>,
    /// The last applied position of each node.
    pub applied: Applied,
    /// The last few request ids, oldest first.
    pub recent: Vec<RecentRequest>,
}

/// One attribute that has a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribute {
    /// Its name.
    pub name: Box<str>,
    /// Its value.
    pub value: Value,
    /// When it was set, by event time.
    pub occurred_at: EventTime,
}

/// An attribute that was unset: a tombstone without a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unset {
    /// Its name.
    pub name: Box<str>,
    /// When it was unset, by event time.
    pub occurred_at: EventTime,
    /// When that was accepted; the tombstone lives 30 days from here.
    pub accepted_at: EventTime,
}

/// That there was a profile before this one, and when it was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erasure {
    /// When it was deleted, by event time.
    pub occurred_at: EventTime,
    /// When that was accepted; it counts for 30 days from here.
    pub accepted_at: EventTime,
}

/// The last applied position of each node that has written here: replay skips what is not beyond it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied(SmallVec<[(NodeId, u64); 1]>);

impl Applied {
    /// The last applied position of `node`; 0 if none.
    pub fn of(&self, node: NodeId) -> u64 {
        self.0.iter().find(|(n, _)| *n == node).map_or(0, |(_, number)| *number)
    }

    /// Notes that `number` of `node` has been applied.
    pub fn advance(&mut self, node: NodeId, number: u64) {
        match self.0.iter_mut().find(|(n, _)| *n == node) {
            Some((_, last)) => *last = (*last).max(number),
            None => self.0.push((node, number)),
        }
    }
}

/// A request id that was applied to this profile: hashes only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecentRequest {
    /// Hash of the request id.
    pub id: u64,
    /// Hash of the write, to tell a retry from another write under the same id.
    pub payload: u64,
    /// The version that it made.
    pub version: u64,
    /// When it was accepted.
    pub accepted_at: EventTime,
}

/// What is left of a deleted profile: no values and no user id (it is kept under a hash of the user).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grave {
    /// The version of the delete; a profile made anew continues from here.
    pub version: u64,
    /// When the user was deleted, by event time: writes with an older one stay out.
    pub occurred_at: EventTime,
    /// When the delete was accepted; the grave lives 30 days from here.
    pub accepted_at: EventTime,
    /// The last applied position of each node.
    pub applied: Applied,
    /// The last few request ids, oldest first.
    pub recent: Vec<RecentRequest>,
}

/// What the store has under one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// A profile.
    Live(Profile),
    /// A deleted one.
    Deleted(Grave),
}

impl Record {
    /// The last applied position of each node.
    pub fn applied(&self) -> &Applied {
        match self {
            Self::Live(profile) => &profile.applied,
            Self::Deleted(grave) => &grave.applied,
        }
    }

    /// The version.
    pub fn version(&self) -> u64 {
        match self {
            Self::Live(profile) => profile.version,
            Self::Deleted(grave) => grave.version,
        }
    }

    /// The last few request ids, oldest first.
    pub fn recent(&self) -> &[RecentRequest] {
        match self {
            Self::Live(profile) => &profile.recent,
            Self::Deleted(grave) => &grave.recent,
        }
    }

    /// The profile, unless it is deleted.
    pub fn live(&self) -> Option<&Profile> {
        match self {
            Self::Live(profile) => Some(profile),
            Self::Deleted(_) => None,
        }
    }
}

impl Profile {
    /// The attribute called `name`.
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.binary_search_by(|a| (*a.name).cmp(name)).ok().and_then(|at| self.attributes.get(at))
    }
}

/// The size of `attributes` that the limit of a profile speaks of: names and values in bytes, and 16
/// bytes for each attribute and 4 for each item of a list. It does not depend on how a record is stored,
/// so that a new encoding cannot refuse what an old one took.
pub fn attributes_size(attributes: &[Attribute]) -> usize {
    attributes.iter().map(|a| 16 + a.name.len() + value_size(&a.value)).sum()
}

fn value_size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Number(_) => 8,
        Value::Bool(_) => 1,
        Value::Time(_) => 12,
        Value::List(items) => items.iter().map(|item| 4 + item.len()).sum(),
    }
}
