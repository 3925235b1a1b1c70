//! Acceptance: from a valid write to the promise that it is kept.
//!
//! [`Accept`] is the write stack's innermost service. What does not need the profile is decided here:
//! attribute types and their number, request ids, quotas, and whether a write would change nothing. Then
//! the write is registered in its site's lane and handed to the journal in one step, under the lane's
//! lock: that is its place in the order.

mod requests;
mod service;
mod sink;
mod ticket;

use std::sync::Arc;

use crate::model::{Entry, EventTime};
use crate::sites::SiteState;

pub use requests::{DoneId, RequestKey, Requests, Seen};
pub use service::{Accept, AcceptOptions, ENTRY_OVERHEAD, LeftAlone, Shared, Usage};
pub use sink::{BatchStamp, HotMemory, HotShare, JournalSink};
pub use ticket::{End, Heard, Ticket, Verdict};

/// An entry on its way: registered in its lane, then durable, then applied.
#[derive(Debug)]
pub struct Pending {
    /// Its site.
    pub site: Arc<SiteState>,
    /// The hash of its user; of nobody for entries about the site itself.
    pub user: u64,
    /// What is asked for.
    pub entry: Arc<Entry>,
    /// Its size in the journal.
    pub bytes: u32,
    /// When it was accepted; set when it is durable.
    pub accepted_at: std::sync::OnceLock<EventTime>,
    /// Who waits for it.
    pub ticket: Arc<Ticket>,
    /// Its share of the memory for waiting entries.
    pub memory: HotShare,
}
