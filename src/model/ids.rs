//! Names of things: sites, users, nodes, positions.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A tenant. Cheap to clone; validated where it enters (1-64 of `[A-Za-z0-9._-]`).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Site(Arc<str>);

/// A user of one site: an id chosen by the site, 1-256 bytes of UTF-8.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct User(Arc<str>);

macro_rules! name_type {
    ($name:ident) => {
        impl $name {
            /// Wraps a name that has been validated, or comes from our own files.
            pub fn new(name: impl Into<Arc<str>>) -> Self {
                Self(name.into())
            }
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}
name_type!(Site);
name_type!(User);

/// Which profile: one user on one site.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProfileKey {
    /// The tenant.
    pub site: Site,
    /// The user.
    pub user: User,
}

impl ProfileKey {
    /// The key of `user` on `site`.
    pub fn new(site: Site, user: User) -> Self {
        Self { site, user }
    }

    /// A hash of site and user that is the same in every process and version: it decides order chains,
    /// graves and who belongs to a share of the users.
    pub fn hash64(&self) -> u64 {
        user_hash(self.site.as_str(), self.user.as_str())
    }
}

/// See [`ProfileKey::hash64`].
pub fn user_hash(site: &str, user: &str) -> u64 {
    // The site's hash is the seed, so that ("a", "bc") and ("ab", "c") differ.
    xxhash_rust::xxh3::xxh3_64_with_seed(user.as_bytes(), xxhash_rust::xxh3::xxh3_64(site.as_bytes()))
}

/// A journal's identity: random, made when the journal directory is first used.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl std::str::FromStr for NodeId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Self)
    }
}

/// A place in one node's journal. Numbers start at 1, rise in order of acceptance over all sites, may
/// have gaps, and are never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// The node that accepted the entry.
    pub node: NodeId,
    /// The entry's number there.
    pub number: u64,
}
