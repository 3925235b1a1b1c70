//! How large things may be.
//!
//! [`Limits`] are checked when a write is accepted and may be configured. The constants belong to the
//! format: they decide what an accepted write means, so that every node and every replay must agree.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Items of a list, at most.
pub const LIST_ITEMS: usize = 100;

/// A profile's attributes, at most, as [`attributes_size`](super::profile::attributes_size) measures them.
pub const PROFILE_BYTES: usize = 64 * 1024;

/// How long a delete and an unset keep older writes out, by the time of acceptance.
pub const TOMBSTONE_LIFE: Duration = Duration::from_hours(30 * 24);

/// Unset attributes that a profile remembers. Beyond it the one accepted first is forgotten.
pub const UNSET_KEPT: usize = 32;

/// Request ids that a profile remembers.
pub const RECENT_KEPT: usize = 8;

/// How long a profile knows a request id, by the time of acceptance.
pub const RECENT_LIFE: Duration = Duration::from_mins(10);

/// How far ahead of the clock an event time may be. It is then taken as the time of acceptance.
pub const AHEAD: Duration = Duration::from_mins(5);

/// What is checked when a write is accepted. More is refused, never truncated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Characters of a site's name.
    pub site_chars: usize,
    /// Bytes of a user's id.
    pub user_bytes: usize,
    /// Characters (Unicode scalar values) of an attribute's name.
    pub attribute_name_chars: usize,
    /// Characters (Unicode scalar values) of a string and of each item of a list.
    pub string_chars: usize,
    /// Changes of one write.
    pub changes_per_write: usize,
    /// Attributes that a site may have.
    pub attributes_per_site: usize,
    /// Bytes of a request id. They are kept as hashes: the bound is for the journal's sake.
    pub request_id_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            site_chars: 64,
            user_bytes: 256,
            attribute_name_chars: 50,
            string_chars: 200,
            changes_per_write: 100,
            attributes_per_site: 100,
            request_id_bytes: 64,
        }
    }
}
