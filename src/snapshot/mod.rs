//! Snapshots: verified copies of all records, from which (with the journal after them) a store can be built.
//!
//! # Files
//! `snapshot-N` in the snapshots' directory; the journal's manifest names the one that counts. While one is
//! written it is called `snapshot-N.tmp`. Written front to back and never changed. All numbers are
//! little-endian.
//!
//! - **Header**, 80 bytes: `STDFSNAP`, format u32, zeros, node u64, number u64, start position u64, the store's
//!   commit number u64, when it was begun u64 (ns since 1970), zeros, CRC-32C u32.
//! - **Sections** in this order, each of any number of blocks: profiles, graves, refused entries, attributes of
//!   the registries, request ids that are done and in their window, the waiting set.
//! - **Footer**, 232 bytes: `SnFt`, format u32, per section: offset, blocks, records, raw bytes (u64 each);
//!   waiting positions u64, the footer's own offset u64, CRC-32C u32 of all before the footer, CRC-32C u32 of the
//!   footer, `STDFSEND`.
//!
//! A block is about 256 KiB of records, compressed by itself (zstd):
//!
//! | bytes | what |
//! |---|---|
//! | 4 | `SnBk` |
//! | 1 + 1 + 2 | kind, format of the records, zeros |
//! | 4 + 4 + 4 | records, their bytes, their bytes compressed |
//! | 8 | number of the block in the file, from 0 |
//! | 4 | CRC-32C of the compressed bytes |
//! | 4 | CRC-32C of the above |
//! | | compressed: per record its length u32 and its bytes |
//!
//! The checksums of blocks and footer start from one of node and number. A record has the bytes that the store
//! keeps (a format byte, then postcard); profiles, graves and attributes have their key in front (length u16,
//! `site \0 rest`). The waiting set is written as runs: distance from the end of the one before, length.
//!
//! Another format number, of the file or of a record, is refused with advice, not guessed at.
//!
//! # What a snapshot means
//! It begins at a position S, the first of a journal segment. The **waiting set** is what was accepted before S
//! and not applied then. The records are copied while writes go on; each is at least as new as S demands, and
//! knows the last position that it has applied. A store with the same content is had by taking the records and
//! applying, in order of position, the entries of the waiting set and all from S on, each skipped where the
//! record is beyond it.

pub mod backup;
mod due;
mod error;
mod format;
mod owner;
mod pace;
mod reader;
mod records;
mod take;
mod tasks;
#[cfg(test)]
mod tests;
mod waiters;
mod waiting;
mod writer;

use std::path::Path;

use crate::fs::Fs;
use crate::journal::{IoFailure, SnapshotRef};

pub use error::SnapshotError;
pub use format::{FORMAT, Header};
pub use reader::{Counts, Items, SnapshotReader};
pub use take::{Host, InUse, Source, TakeError, Taken};
pub use tasks::{SnapshotOptions, Snapshots, SnapshotterError, start};
pub use waiting::Waiting;
pub use writer::{SnapshotWriter, Written};

/// The name of the snapshot with this number.
pub fn file_name(number: u64) -> String {
    format!("snapshot-{number:010}")
}

fn temporary(number: u64) -> String {
    format!("{}.tmp", file_name(number))
}

/// The number in a snapshot's file name, of a complete one or one that was being written.
fn number_of(name: &str) -> Option<u64> {
    let number = name.strip_prefix("snapshot-")?;
    number.strip_suffix(".tmp").unwrap_or(number).parse().ok()
}

fn list(fs: &dyn Fs, dir: &Path) -> Result<Vec<String>, IoFailure> {
    let failed = |operation| move |source| IoFailure { operation, file: dir.to_owned(), source };
    fs.create_dir_all(dir).map_err(failed("create"))?;
    fs.list(dir).map_err(failed("list"))
}

/// Removes all snapshots in `dir` but the one that the journal's manifest names: older ones, and what was left
/// by one that was interrupted. Makes the directory if need be.
pub fn sweep(fs: &dyn Fs, dir: &Path, current: Option<&SnapshotRef>) -> Result<(), SnapshotError> {
    let mut removed = false;
    for name in list(fs, dir)? {
        if number_of(&name).is_some() && current.is_none_or(|current| current.name != name) {
            let file = dir.join(&name);
            fs.remove(&file).map_err(|source| IoFailure { operation: "remove", file, source })?;
            removed = true;
        }
    }
    if removed {
        fs.sync_dir(dir).map_err(|source| IoFailure { operation: "sync", file: dir.to_owned(), source })?;
    }
    Ok(())
}

/// A number that no snapshot has had that may still be met.
fn next_number(fs: &dyn Fs, dir: &Path, current: Option<&SnapshotRef>) -> Result<u64, SnapshotError> {
    let named = current.and_then(|current| number_of(&current.name));
    let found = list(fs, dir)?.iter().filter_map(|name| number_of(name)).max();
    Ok(named.max(found).unwrap_or(0).saturating_add(1))
}
