//! Reads by key: the stored profile, from the cache or the store, with the user's pending writes on top.

pub mod cache;
mod overlay;
mod service;

pub use cache::ProfileCache;
pub use overlay::{EntrySource, OVERLAY_LIMIT, Stamped};
pub use service::{Read, ReadShared, of_store};
