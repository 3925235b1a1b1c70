//! The trees of one generation and what lies in them.
//!
//! | tree | key | value |
//! |---|---|---|
//! | `profiles` | site \0 user | a live record |
//! | `graves` | site \0 128-bit hash of the user | a deleted record |
//! | `numbers` | profile number, big-endian | the profile's key |
//! | `refused` | site \0 position, big-endian | a refused record |
//! | `registry` | site \0 attribute | an attribute |
//! | `meta` | `mark` | how far the generation has come |
//!
//! **A profile has precedence over a grave of its user.** A delete puts the grave, then removes the
//! profile; a profile made anew leaves the old grave where it is. So a reader that looks for the profile
//! first and for the grave second always finds one of them, and a scan in that order, however long it
//! takes, never misses both. A crash between the two steps of a delete leaves the live profile in front
//! of the grave; the mark has not counted that commit, so the delete is replayed and, the profile not
//! having seen its position, done again.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{NodeId, ProfileKey, Record, Site, codec};
use crate::store::{AttributeInfo, RefusedRecord, StoreError, keys};

const MARK: &[u8] = b"mark";

/// How often sled writes out by itself. Without it, it never reclaims space.
const FLUSH_EVERY: Duration = Duration::from_millis(500);

/// Values of a proof: as large as sled keeps among the others.
const SCRATCH_VALUE: usize = 64 << 10;

/// How far a generation has come; the last thing that each commit writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Whose journal was applied.
    pub node: NodeId,
    /// +1 with each commit.
    pub commit_number: u64,
    /// The highest journal position that has been applied.
    pub last_position: u64,
    /// Live profiles; after a crash it may be off by those of one commit.
    pub profiles: u64,
}

/// The open trees.
pub struct Trees {
    db: sled::Db,
    pub profiles: sled::Tree,
    pub graves: sled::Tree,
    pub numbers: sled::Tree,
    pub refused: sled::Tree,
    pub registry: sled::Tree,
    meta: sled::Tree,
}

impl Trees {
    /// Opens or creates the trees in `dir`. sled panics on some kinds of damage; callers catch it.
    pub fn open(dir: &Path, cache_capacity: u64) -> Result<Self, StoreError> {
        let db = sled::Config::default()
            .path(dir)
            .cache_capacity(cache_capacity)
            .flush_every_ms(Some(u64::try_from(FLUSH_EVERY.as_millis()).unwrap_or(u64::MAX)))
            .mode(sled::Mode::HighThroughput)
            .open()?;
        Ok(Self {
            profiles: db.open_tree("profiles")?,
            graves: db.open_tree("graves")?,
            numbers: db.open_tree("numbers")?,
            refused: db.open_tree("refused")?,
            registry: db.open_tree("registry")?,
            meta: db.open_tree("meta")?,
            db,
        })
    }

    /// The mark; none in a generation without commits.
    pub fn mark(&self) -> Result<Option<Mark>, StoreError> {
        self.meta.get(MARK)?.map(|bytes| keys::decode(&bytes)).transpose()
    }

    /// Writes the mark.
    pub fn put_mark(&self, mark: &Mark) -> Result<(), StoreError> {
        self.meta.insert(MARK, keys::encode(mark))?;
        Ok(())
    }

    /// Hands everything written so far to the operating system. Does not sync.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.db.flush()?;
        Ok(())
    }

    /// Bytes that all trees take on disk.
    pub fn disk_bytes(&self) -> Result<u64, StoreError> {
        Ok(self.db.size_on_disk()?)
    }

    /// Puts `bytes` of scratch, writes them out, reads them back and removes them.
    pub fn prove(&self, bytes: usize) -> Result<(), StoreError> {
        let scratch = self.db.open_tree("scratch")?;
        let value: Vec<u8> = (0..SCRATCH_VALUE).map(|n| n as u8).collect();
        let count = (bytes / SCRATCH_VALUE) as u64;
        for n in 0..count {
            scratch.insert(n.to_be_bytes(), value.as_slice())?;
        }
        self.flush()?;
        for n in 0..count {
            if scratch.get(n.to_be_bytes())?.as_deref() != Some(value.as_slice()) {
                return Err(StoreError::Corrupt("what was put is not there".to_owned()));
            }
        }
        drop(scratch);
        self.db.drop_tree("scratch")?;
        Ok(())
    }

    /// What is stored for one user.
    pub fn load(&self, key: &ProfileKey) -> Result<Option<Record>, StoreError> {
        if let Some(bytes) = self.profiles.get(keys::profile(&key.site, &key.user))? {
            return decode_live(&bytes).map(Some);
        }
        self.graves.get(keys::grave(&key.site, &key.user))?.map(|b| decode_grave(&b)).transpose()
    }

    /// One refused record.
    pub fn load_refused(&self, site: &Site, position: u64) -> Result<Option<RefusedRecord>, StoreError> {
        self.refused.get(keys::refused(site, position))?.map(|b| keys::decode(&b)).transpose()
    }

    /// All refused records: read once at open.
    pub fn load_all_refused(&self) -> Result<Vec<RefusedRecord>, StoreError> {
        self.refused.iter().map(|item| keys::decode(&item?.1)).collect()
    }

    /// The whole registry: read once at open, kept in memory by its users.
    pub fn load_registry(&self) -> Result<Vec<(Site, AttributeInfo)>, StoreError> {
        self.registry
            .iter()
            .map(|item| {
                let (key, value) = item?;
                Ok((keys::split(&key)?.0, keys::decode(&value)?))
            })
            .collect()
    }
}

/// A record of the profiles tree.
pub fn decode_live(bytes: &[u8]) -> Result<Record, StoreError> {
    match decode_record(bytes)? {
        record @ Record::Live(_) => Ok(record),
        Record::Deleted(_) => Err(StoreError::Corrupt("a grave among the profiles".to_owned())),
    }
}

/// A record of the graves tree.
pub fn decode_grave(bytes: &[u8]) -> Result<Record, StoreError> {
    match decode_record(bytes)? {
        record @ Record::Deleted(_) => Ok(record),
        Record::Live(_) => Err(StoreError::Corrupt("a profile among the graves".to_owned())),
    }
}

/// A record of either.
pub fn decode_record(bytes: &[u8]) -> Result<Record, StoreError> {
    codec::decode_record(bytes).map_err(|e| StoreError::Corrupt(e.to_string()))
}

impl From<sled::Error> for StoreError {
    fn from(error: sled::Error) -> Self {
        match error {
            // What sled calls a bug of its own is met after damage too; a new generation cures both.
            sled::Error::Corruption { .. } | sled::Error::ReportableBug(_) => {
                Self::Corrupt(error.to_string())
            }
            // Shorter than what it holds: it was cut.
            sled::Error::Io(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => {
                Self::Corrupt(io.to_string())
            }
            other => Self::Io(other.to_string()),
        }
    }
}
