//! Hashes that are stored. XXH3, as specified by <https://github.com/Cyan4973/xxHash>: fast and the same
//! everywhere, not proof against an attacker, who could only confuse writes of his own site.

use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

use super::ids::{Site, User};
use super::write::{ChangeKind, Write};

/// The hash under which a profile remembers a request id.
pub fn request_hash(request_id: &str) -> u64 {
    xxh3_64(request_id.as_bytes())
}

/// The hash of a request id among those of all sites: two of a million ids collide with a chance below
/// 10^-26.
pub fn site_request_hash(site: &Site, request_id: &str) -> u128 {
    xxh3_128_with_seed(request_id.as_bytes(), xxh3_64(site.as_str().as_bytes()))
}

/// The hash of all that a write says, except its request id: it tells a retry from another write under
/// the same id. The order of the changes does not count, because the attributes of a request come in no
/// order.
pub fn payload_hash(write: &Write) -> u64 {
    let mut bytes = Vec::with_capacity(256);
    let (kind, changes) = match &write.kind {
        ChangeKind::Delete => (0_u8, 0),
        ChangeKind::Identify(changes) => {
            let mut sum = changes.len() as u64;
            for change in changes {
                bytes.clear();
                bytes = to_bytes(change, bytes);
                sum = sum.wrapping_add(xxh3_64(&bytes));
            }
            (1, sum)
        }
    };
    bytes.clear();
    xxh3_64(&to_bytes(&(&write.user, write.occurred_at, write.if_version, kind, changes), bytes))
}

/// The name of a deleted user: 128 bits of hash, so that the id itself is gone.
pub fn grave_hash(site: &Site, user: &User) -> [u8; 16] {
    xxh3_128_with_seed(user.as_str().as_bytes(), xxh3_64(site.as_str().as_bytes())).to_be_bytes()
}

fn to_bytes<T: serde::Serialize>(value: &T, into: Vec<u8>) -> Vec<u8> {
    // It fails for sequences of unknown length and for a full buffer; here there are neither.
    postcard::to_extend(value, into).expect("plain data can be written to memory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AttributeChange, Change, EventTime, Value};

    fn write(names: &[&str]) -> Write {
        let change = |name: &&str| AttributeChange {
            name: (*name).into(),
            change: Change::Set(Value::Bool(true)),
            occurred_at: None,
        };
        Write {
            user: User::new("u"),
            request_id: None,
            occurred_at: None,
            if_version: None,
            kind: ChangeKind::Identify(names.iter().map(change).collect()),
        }
    }

    #[test]
    fn the_payload_hash_ignores_the_request_id_and_the_order_of_changes() {
        let one = write(&["a", "b"]);
        let other = Write { request_id: Some("r".into()), ..write(&["b", "a"]) };
        assert_eq!(payload_hash(&one), payload_hash(&other));
    }

    #[test]
    fn the_payload_hash_sees_everything_else() {
        let one = write(&["a", "b"]);
        let hash = payload_hash(&one);
        for other in [
            write(&["a"]),
            write(&["a", "c"]),
            Write { user: User::new("v"), ..one.clone() },
            Write { occurred_at: Some(EventTime::MIN), ..one.clone() },
            Write { if_version: Some(0), ..one.clone() },
            Write { kind: ChangeKind::Delete, ..one.clone() },
        ] {
            assert_ne!(payload_hash(&other), hash, "{other:?}");
        }
    }

    #[test]
    fn hashes_are_those_that_files_hold() {
        let site = Site::new("shop");
        assert_eq!(grave_hash(&site, &User::new("u")), grave_hash(&site, &User::new("u")));
        assert_ne!(grave_hash(&site, &User::new("u")), grave_hash(&Site::new("shoq"), &User::new("u")));
        assert_ne!(site_request_hash(&site, "r"), site_request_hash(&Site::new("shoq"), "r"));
        // XXH3 of the empty input, from its specification: a changed hash would orphan stored graves.
        assert_eq!(request_hash(""), 0x2d06_8005_38d3_94c2);
    }
}
