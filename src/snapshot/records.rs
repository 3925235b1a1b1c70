//! Records within a block: length u32, then the record. Profiles, graves and attributes are preceded by
//! their key: length u16, key.

use super::format::{Kind, MAX_RECORD};
use crate::accept::DoneId;
use crate::model::Record;
use crate::model::codec::{self, DecodeError, RECORD_FORMAT};
use crate::store::{StoredItem, keys};

/// Why bytes are no record.
#[derive(Debug)]
pub(super) enum Wrong {
    /// Of another version.
    Version(u8),
    /// Damaged.
    Problem(String),
}

impl From<String> for Wrong {
    fn from(problem: String) -> Self {
        Self::Problem(problem)
    }
}

impl From<DecodeError> for Wrong {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::Format { found, .. } => Self::Version(found),
            other => Self::Problem(other.to_string()),
        }
    }
}

impl From<crate::store::StoreError> for Wrong {
    fn from(error: crate::store::StoreError) -> Self {
        Self::Problem(error.to_string())
    }
}

/// The kind of block that an item goes into.
pub(super) fn kind_of(item: &StoredItem) -> Kind {
    match item {
        StoredItem::Profile { .. } => Kind::Profiles,
        StoredItem::Grave { .. } => Kind::Graves,
        StoredItem::Refused(_) => Kind::Refused,
        StoredItem::Attribute { .. } => Kind::Attributes,
    }
}

/// The bytes of an item.
pub(super) fn encode_item(item: &StoredItem) -> Vec<u8> {
    match item {
        StoredItem::Profile { key, record } => {
            keyed(&keys::profile(&key.site, &key.user), &codec::encode_record(record))
        }
        StoredItem::Grave { site, user_hash, record } => {
            keyed(&keys::in_site(site.as_str(), user_hash), &codec::encode_record(record))
        }
        StoredItem::Refused(record) => keys::encode(record),
        StoredItem::Attribute { site, info } => {
            keyed(&keys::in_site(site.as_str(), info.name.as_bytes()), &keys::encode(info))
        }
    }
}

fn keyed(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(2 + key.len() + value.len());
    // A site of 64 and a user of 256 bytes are the longest there are.
    bytes.extend_from_slice(&(key.len() as u16).to_le_bytes());
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(value);
    bytes
}

fn split_keyed(bytes: &[u8]) -> Result<(&[u8], &[u8]), Wrong> {
    let short = || "a record that ends in its key".to_owned();
    let (length, rest) = bytes.split_first_chunk::<2>().ok_or_else(short)?;
    Ok(rest.split_at_checked(usize::from(u16::from_le_bytes(*length))).ok_or_else(short)?)
}

/// Reads an item back.
pub(super) fn decode_item(kind: Kind, bytes: &[u8]) -> Result<StoredItem, Wrong> {
    match kind {
        Kind::Profiles => {
            let (key, value) = split_keyed(bytes)?;
            let record = codec::decode_record(value)?;
            if matches!(record, Record::Deleted(_)) {
                return Err("a grave among the profiles".to_owned().into());
            }
            Ok(StoredItem::Profile { key: keys::split_profile(key)?, record: record.into() })
        }
        Kind::Graves => {
            let (key, value) = split_keyed(bytes)?;
            let (site, hash) = keys::split(key)?;
            let user_hash = hash.try_into().map_err(|_| "a grave under a short hash".to_owned())?;
            let record = codec::decode_record(value)?;
            if matches!(record, Record::Live(_)) {
                return Err("a profile among the graves".to_owned().into());
            }
            Ok(StoredItem::Grave { site, user_hash, record: record.into() })
        }
        Kind::Refused => Ok(StoredItem::Refused(decode_small(bytes)?)),
        Kind::Attributes => {
            let (key, value) = split_keyed(bytes)?;
            Ok(StoredItem::Attribute { site: keys::split(key)?.0, info: decode_small(value)? })
        }
        Kind::RequestIds | Kind::Waiting => Err("a section without items".to_owned().into()),
    }
}

/// Reads a request id back.
pub(super) fn decode_id(bytes: &[u8]) -> Result<DoneId, Wrong> {
    decode_small(bytes)
}

/// Reads a part of the waiting set back: distances from the end of the run before, and lengths.
pub(super) fn decode_runs(bytes: &[u8]) -> Result<Vec<(u64, u64)>, Wrong> {
    decode_small(bytes)
}

fn decode_small<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Wrong> {
    // All of these have the store's format byte, which is that of records too.
    match bytes.first() {
        Some(found) if *found != RECORD_FORMAT => Err(Wrong::Version(*found)),
        _ => Ok(keys::decode(bytes)?),
    }
}

/// Puts a record at the end of a block.
pub(super) fn append(block: &mut Vec<u8>, record: &[u8]) -> Result<(), String> {
    if record.len() > MAX_RECORD {
        return Err(format!("a record of {} bytes; at most {MAX_RECORD}", record.len()));
    }
    block.extend_from_slice(&(record.len() as u32).to_le_bytes());
    block.extend_from_slice(record);
    Ok(())
}

/// Takes the next record off a block.
pub(super) fn next<'a>(block: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = block.split_first_chunk::<4>()?;
    let (record, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    *block = rest;
    Some(record)
}
