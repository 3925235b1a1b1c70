//! What a hold can be about: sites, users, operations.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::{ChangeKind, Command, Entry, Site};

/// What services do, as holds see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// Identify in all its forms, and imports.
    Identify,
    /// Deletes.
    Delete,
    /// Queries, counts, exports.
    Query,
    /// Reads of single users, and everything else that reads.
    Get,
}

impl Operation {
    /// All of them, in the order of [`Self::index`].
    pub const ALL: [Self; 4] = [Self::Identify, Self::Delete, Self::Query, Self::Get];

    /// What an entry does to its user; none for entries about the site itself.
    pub fn of(entry: &Entry) -> Option<Self> {
        match &entry.command {
            Command::Write(write) => Some(match &write.kind {
                ChangeKind::Identify(_) => Self::Identify,
                ChangeKind::Delete => Self::Delete,
            }),
            Command::SetAttributeState { .. } | Command::DiscardRefused { .. } => None,
        }
    }

    /// Its place in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Whether it changes data.
    pub const fn is_write(self) -> bool {
        matches!(self, Self::Identify | Self::Delete)
    }

    /// As operators write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Identify => "IDENTIFY",
            Self::Delete => "DELETE",
            Self::Query => "QUERY",
            Self::Get => "GET",
        }
    }
}

/// Some operations.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<Operation>", into = "Vec<Operation>")]
pub struct Operations(u8);

impl Operations {
    /// None.
    pub const NONE: Self = Self(0);
    /// `IDENTIFY` and `DELETE`.
    pub const WRITES: Self = Self(0b0011);

    /// These and `operation`.
    #[must_use]
    pub const fn with(self, operation: Operation) -> Self {
        Self(self.0 | 1 << operation.index())
    }

    /// Whether `operation` is one of them.
    pub const fn has(self, operation: Operation) -> bool {
        self.0 & (1 << operation.index()) != 0
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether both have one in common.
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Each once, in a fixed order.
    pub fn iter(self) -> impl Iterator<Item = Operation> {
        Operation::ALL.into_iter().filter(move |operation| self.has(*operation))
    }
}

impl FromIterator<Operation> for Operations {
    fn from_iter<I: IntoIterator<Item = Operation>>(operations: I) -> Self {
        operations.into_iter().fold(Self::NONE, Self::with)
    }
}

impl From<Vec<Operation>> for Operations {
    fn from(operations: Vec<Operation>) -> Self {
        operations.into_iter().collect()
    }
}

impl From<Operations> for Vec<Operation> {
    fn from(operations: Operations) -> Self {
        operations.iter().collect()
    }
}

impl fmt::Debug for Operations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// A share of the users, above 0 and below 100 percent. The same users are in it for every hold, and a
/// smaller share is part of a larger one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct UserShare {
    percent: f64,
}

impl UserShare {
    /// The share, or why there is none such; `None` for all users.
    pub fn new(percent: f64) -> Result<Option<Self>, &'static str> {
        if !(percent > 0.0 && percent <= 100.0) {
            return Err("must be above 0 and at most 100");
        }
        Ok((percent < 100.0).then_some(Self { percent }))
    }

    /// As it was given.
    pub fn percent(self) -> f64 {
        self.percent
    }

    /// Whether the user with this hash ([`ProfileKey::hash64`](crate::model::ProfileKey::hash64)) is in it.
    pub fn contains(self, user: u64) -> bool {
        // 2^64; a conversion that does not fit takes the largest number.
        user < (self.percent / 100.0 * 18_446_744_073_709_551_616.0) as u64
    }
}

/// What a hold stops.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scope {
    /// The tenant; none: the whole node.
    pub site: Option<Site>,
    /// Only some of the users; none: all.
    pub share: Option<UserShare>,
    /// Which operations; at least one.
    pub operations: Operations,
}

impl Scope {
    /// The writes of the whole node.
    pub const ALL_WRITES: Self = Self { site: None, share: None, operations: Operations::WRITES };

    /// Whether it has all users of all sites.
    pub fn is_whole_node(&self) -> bool {
        self.site.is_none() && self.share.is_none()
    }

    /// Whether it concerns `site` at all.
    pub fn concerns(&self, site: &Site) -> bool {
        self.site.as_ref().is_none_or(|own| own == site)
    }

    /// Whether some request could be in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let same_site = match (&self.site, &other.site) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        same_site && self.operations.meets(other.operations)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.site {
            Some(site) => write!(f, "site {site}")?,
            None => f.write_str("whole node")?,
        }
        if let Some(share) = self.share {
            write!(f, ", {} % of the users", share.percent)?;
        }
        for (at, operation) in self.operations.iter().enumerate() {
            write!(f, "{}{}", if at == 0 { ", " } else { "+" }, operation.name())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_nested_and_as_large_as_they_say() {
        assert_eq!(UserShare::new(100.0), Ok(None));
        for wrong in [0.0, -1.0, 100.1, f64::NAN, f64::INFINITY] {
            assert!(UserShare::new(wrong).is_err(), "{wrong}");
        }
        let share = |percent| UserShare::new(percent).unwrap().unwrap();
        let user = |n: u64| crate::model::ids::user_hash("site", &n.to_string());
        let inside = |percent| (0..10_000).filter(|n| share(percent).contains(user(*n))).count();
        assert!((2_300..2_700).contains(&inside(25.0)), "{}", inside(25.0));
        assert!((0..1_000).all(|n| !share(10.0).contains(user(n)) || share(10.5).contains(user(n))));
        assert!(share(99.999_999_999).contains(u64::MAX / 2));
    }
}
