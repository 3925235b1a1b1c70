//! The store: what has been applied. One trait, kept small enough for a distributed engine to honour,
//! and the embedded backend.
//!
//! The contract: all or nothing per profile; a reader never misses a profile through the index (insert
//! the new entry, put the profile, remove the old entry) and checks what it loads.

#[cfg(test)]
pub mod conformance;
pub mod faulty;
pub mod generations;
pub mod index;
pub mod keys;
pub mod metered;
pub mod note;
pub mod service;
pub mod sled;
pub mod switch;
pub mod watch;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::{Entry, EventTime, ProfileKey, Record, Refusal, Site, User, Value, ValueType};

/// What a store call returns.
pub type StoreFuture<T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>>;

/// A backend.
pub trait Store: Send + Sync + 'static {
    /// What this backend promises.
    fn declaration(&self) -> Declaration;

    /// The records under `keys`, in their order; `None` where there is nothing.
    fn load(&self, purpose: Purpose, keys: Vec<ProfileKey>) -> StoreFuture<Vec<Option<Arc<Record>>>>;

    /// Applies one site's changes: refused records first, then registry, then graves, then profiles with the index
    /// changes that they imply. Each profile is all or nothing.
    fn commit(&self, commit: SiteCommit) -> StoreFuture<Committed>;

    /// Index entries of one attribute in order of value, then profile number.
    fn scan_index(&self, scan: IndexScan) -> StoreFuture<IndexPage>;

    /// All records in the store's own order: profiles, then graves, then refused, then registry. A
    /// profile has precedence over a grave of its user: an older grave may lie behind a profile that
    /// was made anew, and a scan that goes on while writes do may meet both.
    fn scan_records(&self, after: Option<RecordCursor>, limit: usize) -> StoreFuture<RecordPage>;

    /// One refused record.
    fn load_refused(&self, site: Site, position: u64) -> StoreFuture<Option<RefusedRecord>>;

    /// Writes out what is buffered; answers how far.
    fn flush(&self) -> StoreFuture<Flushed>;
}

/// On whose behalf a load is made; each purpose has threads of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// A read of profiles by key.
    Get,
    /// A query or an export.
    Query,
    /// The applier.
    Apply,
}

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// [`Store::load`].
    Load(Purpose),
    /// [`Store::commit`].
    Commit,
    /// [`Store::scan_index`].
    ScanIndex,
    /// [`Store::scan_records`].
    ScanRecords,
    /// [`Store::load_refused`].
    LoadRefused,
    /// [`Store::flush`].
    Flush,
    /// A backend's own: a part of its index being built.
    BuildIndex,
    /// A backend's own: it looks after itself.
    Upkeep,
}

impl Operation {
    /// Whether it leaves the store as it is.
    pub fn only_reads(self) -> bool {
        !matches!(self, Self::Commit | Self::Flush | Self::BuildIndex | Self::Upkeep)
    }
}

/// One call, as decorators and backends speak of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The generation of the store that runs it.
    pub generation: u64,
    /// What it does.
    pub operation: Operation,
    /// The tenant, if it is about one.
    pub site: Option<Site>,
}

/// Asked on a backend's own thread when it begins a call: the place to inject faults that the whole
/// store feels. What blocks here blocks the thread.
pub trait WorkerHook: Send + Sync + 'static {
    /// An error, or a panic, takes the place of the call.
    fn before(&self, call: &Call) -> Result<(), StoreError>;
}

/// What a backend promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declaration {
    /// A commit survives a power cut by itself. Otherwise the store is rebuilt from the journal.
    pub durable: bool,
    /// A fault of one site leaves the others alone.
    pub isolates_sites: bool,
    /// Nobody else writes to it, so that what a cache holds is true.
    pub exclusive: bool,
}

/// One site's changes, applied together (each profile by itself).
#[derive(Clone, Debug)]
pub struct SiteCommit {
    /// The tenant.
    pub site: Site,
    /// Refused entries to keep; put before any profile.
    pub refused: Vec<RefusedRecord>,
    /// Positions of refused entries to forget.
    pub forget_refused: Vec<u64>,
    /// New or changed attributes of the registry.
    pub registry: Vec<AttributeInfo>,
    /// Deleted profiles by the 128-bit hash of their user, put as they are: a rebuild knows no more of them.
    pub graves: Vec<([u8; 16], Arc<Record>)>,
    /// At most one per user.
    pub profiles: Vec<ProfilePut>,
    /// The highest journal position that this commit applies.
    pub last_position: u64,
}

impl SiteCommit {
    /// A commit that changes nothing yet.
    pub fn of(site: Site) -> Self {
        Self {
            site,
            refused: Vec::new(),
            forget_refused: Vec::new(),
            registry: Vec::new(),
            graves: Vec::new(),
            profiles: Vec::new(),
            last_position: 0,
        }
    }
}

/// The new record of one user.
#[derive(Clone, Debug)]
pub struct ProfilePut {
    /// The user.
    pub user: User,
    /// What the store must hold now, checked where the commit executes; the index follows from the two.
    pub before: Option<Arc<Record>>,
    /// What it shall hold.
    pub after: Arc<Record>,
}

/// Answer to a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The commit's number: +1 with each.
    pub commit_number: u64,
}

/// Answer to a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flushed {
    /// Every commit up to this one has been handed to the operating system.
    pub commit_number: u64,
}

/// An entry that was accepted and could not be applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedRecord {
    /// Its place in the journal.
    pub position: u64,
    /// When it was accepted.
    pub accepted_at: EventTime,
    /// The entry, whole.
    pub entry: Entry,
    /// Why.
    pub reason: Refusal,
    /// Whether operators see it; version mismatches are only remembered for retries.
    pub listed: bool,
}

/// One attribute of a site's registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttributeInfo {
    /// Its name.
    pub name: Box<str>,
    /// Its type.
    pub value_type: ValueType,
    /// When the first write that used it was accepted.
    pub first_seen: EventTime,
    /// Whether it may be indexed.
    pub indexed: bool,
    /// Whether writes of it are ignored.
    pub disabled: bool,
}

/// Where a scan of records stands. Opaque.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordCursor(pub Vec<u8>);

impl RecordCursor {
    /// Where the profiles of `site` begin: the profiles of all sites are the first records of a scan, by
    /// site, then user.
    pub fn before_site(site: &Site) -> Self {
        let mut cursor = vec![0];
        cursor.extend_from_slice(&keys::in_site(site.as_str(), &[]));
        Self(cursor)
    }

    /// Whether it stands among the profiles of `site`.
    pub fn is_in(&self, site: &Site) -> bool {
        self.0.starts_with(&Self::before_site(site).0)
    }
}

/// A part of all records.
#[derive(Clone, Debug)]
pub struct RecordPage {
    /// The records.
    pub items: Vec<StoredItem>,
    /// Where to go on; none at the end.
    pub next: Option<RecordCursor>,
}

/// One record of a scan.
#[derive(Clone, Debug, PartialEq)]
pub enum StoredItem {
    /// A profile.
    Profile {
        /// Whose.
        key: ProfileKey,
        /// The profile, always `Record::Live`.
        record: Arc<Record>,
    },
    /// What is left of a deleted one; the user is known by hash only.
    Grave {
        /// The tenant.
        site: Site,
        /// 128-bit hash of the user.
        user_hash: [u8; 16],
        /// The grave, always `Record::Deleted`.
        record: Arc<Record>,
    },
    /// A refused entry.
    Refused(RefusedRecord),
    /// An attribute of the registry.
    Attribute {
        /// The tenant.
        site: Site,
        /// The attribute.
        info: AttributeInfo,
    },
}

/// A bounded walk along one attribute's index.
#[derive(Clone, Debug)]
pub struct IndexScan {
    /// The tenant.
    pub site: Site,
    /// The attribute.
    pub attribute: Box<str>,
    /// From this value; none: from the first.
    pub from: std::ops::Bound<Value>,
    /// To this value.
    pub to: std::ops::Bound<Value>,
    /// Only values that start so (strings and list items).
    pub prefix: Option<Box<str>>,
    /// Go on behind this entry.
    pub after: Option<IndexKey>,
    /// At most so many entries.
    pub limit: usize,
}

/// A place in an attribute's index: value (long strings: a bounded prefix), then profile number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IndexKey {
    /// The value in its order-keeping form.
    pub value: Box<[u8]>,
    /// The profile's number.
    pub number: u64,
}

/// Index entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexPage {
    /// Value and profile, in order. The profile may have changed since: check what is loaded.
    pub entries: Vec<(IndexKey, ProfileKey)>,
    /// Whether there may be more.
    pub more: bool,
}

/// Why a store call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The engine reported an error: a full or failing disk, for instance.
    #[error("store: {0}")]
    Io(String),
    /// A write failed, and the engine takes no more of them: the generation is to be replaced.
    #[error("store: it takes no more writes: {0}")]
    Failed(String),
    /// What was read cannot be true: this generation is not to be trusted any more.
    #[error("store: damaged: {0}")]
    Corrupt(String),
    /// The profile is not what the commit expected.
    #[error("store: the profile has changed")]
    Conflict,
    /// The pool's queue is full.
    #[error("store: too many calls are waiting")]
    Busy,
    /// The call panicked; it was caught.
    #[error("store: the call panicked: {0}")]
    Panicked(String),
    /// The attribute is not indexed: by its registry entry, or because the index is full.
    #[error("store: no index of {0:?}")]
    NotIndexed(Box<str>),
    /// The index is still being built.
    #[error("store: the index is being built: {done} of about {total} profiles")]
    IndexBuilding {
        /// Profiles done.
        done: u64,
        /// Profiles in all.
        total: u64,
    },
    /// There is no store at this moment: one is being built.
    #[error("store: it is being rebuilt: {done} of {total} done")]
    Rebuilding {
        /// Records and entries done.
        done: u64,
        /// How many there are, as far as known.
        total: u64,
    },
    /// What was asked for makes no sense.
    #[error("store: {0}")]
    Invalid(String),
    /// The store has been closed.
    #[error("store: closed")]
    Closed,
    /// The call was kept from the store, because a breaker says that it is not well.
    #[error("the breaker of {operation} is {state} {}", if *.site { "for this site" } else { "for the whole store" })]
    Withheld {
        /// Which of the store's operations.
        operation: &'static str,
        /// What keeps it: `open`, `half open` or `recovering`.
        state: &'static str,
        /// Only for the site of the call, or for all.
        site: bool,
        /// When to try again.
        retry_after: std::time::Duration,
    },
}

impl StoreError {
    /// What a caught panic said.
    pub fn panicked(panic: &(dyn std::any::Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Self::Panicked(text.unwrap_or_else(|| "no message".to_owned()))
    }
}
