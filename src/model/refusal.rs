//! Why an accepted write could not be applied.

use serde::{Deserialize, Serialize};

/// Decided when the write meets its profile; the write is kept on the refused list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// `if_version` did not match.
    #[error("the profile has version {current}, not the one that the write asked for")]
    VersionMismatch {
        /// The version it has; 0: there is no profile.
        current: u64,
    },
    /// A list would have more than 100 items.
    #[error("the list {name:?} would have more than 100 items")]
    ListTooLong {
        /// The attribute.
        name: Box<str>,
    },
    /// A sum would not be finite.
    #[error("the number {name:?} would overflow")]
    NumberOverflow {
        /// The attribute.
        name: Box<str>,
    },
    /// The profile would be larger than 64 KiB.
    #[error("the profile would be larger than 64 KiB")]
    ProfileTooLarge,
    /// The attribute holds another type (only by way of damage or an older version's data).
    #[error("the attribute {name:?} holds another type")]
    TypeMismatch {
        /// The attribute.
        name: Box<str>,
    },
}
