//! What the journal keeps: entries, and what they ask for.

use serde::{Deserialize, Serialize};

use super::ids::{ProfileKey, Site, User};
use super::time::EventTime;
use super::value::Value;

/// One journal entry. Where it stands (its position) and when it was accepted are told by the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The tenant.
    pub site: Site,
    /// What is asked for.
    pub command: Command,
}

/// Everything that changes data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// A write or a delete of one user.
    Write(Write),
    /// A new state of one attribute of the site's registry.
    SetAttributeState {
        /// The attribute.
        name: Box<str>,
        /// Whether writes of it are ignored.
        disabled: bool,
        /// Whether it may be indexed.
        indexed: bool,
    },
    /// An operator's decision that a refused entry is done with.
    DiscardRefused {
        /// The refused entry's position.
        position: u64,
    },
}

/// One write of one user: all of its changes or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// The user.
    pub user: User,
    /// Makes a retry safe.
    pub request_id: Option<Box<str>>,
    /// When it happened; absent: when it was accepted.
    pub occurred_at: Option<EventTime>,
    /// Only if the profile has this version; 0: only if there is none.
    pub if_version: Option<u64>,
    /// What to change.
    pub kind: ChangeKind,
}

/// The two kinds of write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChangeKind {
    /// Changes of single attributes; no name twice.
    Identify(Vec<AttributeChange>),
    /// Erases the profile.
    Delete,
}

/// One change of one attribute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttributeChange {
    /// The attribute's name.
    pub name: Box<str>,
    /// What to do.
    pub change: Change,
    /// When this one happened, if it differs from the write's (imports keep it per attribute).
    pub occurred_at: Option<EventTime>,
}

/// What to do with one attribute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// Set, unless an event with a later time did so.
    Set(Value),
    /// Set only if there is no value.
    SetOnce(Value),
    /// Remove the value.
    Unset,
    /// Add to a number, from 0 if there is none.
    Add(f64),
    /// Append to a list.
    Append(Box<[Box<str>]>),
    /// Add those that the list has not.
    Union(Box<[Box<str>]>),
    /// Remove from a list.
    Remove(Box<[Box<str>]>),
}
impl Eq for Change {}

impl Entry {
    /// The profile that this entry is about; none for entries about the site itself.
    pub fn profile_key(&self) -> Option<ProfileKey> {
        match &self.command {
            Command::Write(write) => Some(ProfileKey::new(self.site.clone(), write.user.clone())),
            Command::SetAttributeState { .. } | Command::DiscardRefused { .. } => None,
        }
    }
}

/// Attributes of a write that were not changed, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notes {
    /// A later event had set them.
    pub stale: Vec<Box<str>>,
    /// They are disabled.
    pub disabled: Vec<Box<str>>,
}
