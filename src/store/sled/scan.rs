//! The walks over all records and along the index, page by page.

use std::ops::Bound;
use std::sync::Arc;

use super::trees::{Trees, decode_grave, decode_live};
use crate::model::ProfileKey;
use crate::store::index::AttributeIndex;
use crate::store::{IndexKey, IndexPage, IndexScan, RecordCursor, RecordPage, StoreError, StoredItem, keys};

/// The trees in the order in which they are walked. Profiles come before graves: see [`super::trees`].
const PARTS: u8 = 4;

/// The page behind `after`, of at most `limit` records (at least 1).
pub fn page(trees: &Trees, after: Option<&RecordCursor>, limit: usize) -> Result<RecordPage, StoreError> {
    let limit = limit.max(1);
    let (mut part, mut behind) = match after.map(|cursor| cursor.0.split_first()) {
        None => (0, None),
        Some(Some((part, key))) if *part < PARTS => (*part, Some(key.to_vec())),
        Some(_) => return Err(StoreError::Corrupt("a cursor that is none of ours".to_owned())),
    };
    let mut items = Vec::new();
    while part < PARTS {
        let tree = match part {
            0 => &trees.profiles,
            1 => &trees.graves,
            2 => &trees.refused,
            _ => &trees.registry,
        };
        let from = behind.take().map_or(Bound::Unbounded, Bound::Excluded);
        for entry in tree.range::<Vec<u8>, _>((from, Bound::Unbounded)) {
            let (key, value) = entry?;
            items.push(item(part, &key, &value)?);
            if items.len() == limit {
                let mut cursor = vec![part];
                cursor.extend_from_slice(&key);
                return Ok(RecordPage { items, next: Some(RecordCursor(cursor)) });
            }
        }
        part += 1;
    }
    Ok(RecordPage { items, next: None })
}

/// The entries of `scan` whose numbers lead to a profile; at most its limit (at least 1).
pub fn index_page(trees: &Trees, index: &AttributeIndex, scan: &IndexScan) -> Result<IndexPage, StoreError> {
    let limit = scan.limit.max(1);
    let mut entries: Vec<(IndexKey, ProfileKey)> = Vec::new();
    let mut after = scan.after.clone();
    loop {
        let (found, more) = index.scan(scan, after.as_ref(), limit - entries.len())?;
        if let Some(last) = found.last() {
            after = Some(last.clone());
        }
        for key in found {
            // No profile: it is being made, or has just been deleted.
            if let Some(profile) = trees.numbers.get(key.number.to_be_bytes())? {
                entries.push((key, keys::split_profile(&profile)?));
            }
        }
        if !more || entries.len() >= limit {
            return Ok(IndexPage { entries, more });
        }
    }
}

fn item(part: u8, key: &[u8], value: &[u8]) -> Result<StoredItem, StoreError> {
    Ok(match part {
        0 => StoredItem::Profile { key: keys::split_profile(key)?, record: Arc::new(decode_live(value)?) },
        1 => {
            let (site, hash) = keys::split(key)?;
            let user_hash =
                hash.try_into().map_err(|_| StoreError::Corrupt("a grave under a short hash".to_owned()))?;
            StoredItem::Grave { site, user_hash, record: Arc::new(decode_grave(value)?) }
        }
        2 => StoredItem::Refused(keys::decode(value)?),
        _ => StoredItem::Attribute { site: keys::split(key)?.0, info: keys::decode(value)? },
    })
}
