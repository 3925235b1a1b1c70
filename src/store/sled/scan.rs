//! The walk over all records, page by page.

use std::ops::Bound;
use std::sync::Arc;

use super::trees::{Trees, decode_grave, decode_live};
use crate::store::{RecordCursor, RecordPage, StoreError, StoredItem, keys};

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
