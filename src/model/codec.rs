//! How entries and records are written down: one format byte, then postcard
//! (<https://postcard.jamesmunns.com/wire-format>). Whoever stores the bytes guards them by a checksum;
//! decoding trusts nothing all the same.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::profile::Record;
use super::write::Entry;

/// The format byte of journal entries.
pub const ENTRY_FORMAT: u8 = 1;

/// The format byte of records.
pub const RECORD_FORMAT: u8 = 1;

/// Why bytes are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// There are none.
    #[error("nothing to decode")]
    Empty,
    /// Of a newer version, or damaged.
    #[error("format {found} is not known here (expected {expected})")]
    Format {
        /// The format byte found.
        found: u8,
        /// The one that this version writes.
        expected: u8,
    },
    /// They do not decode.
    #[error("malformed: {0}")]
    Malformed(postcard::Error),
    /// Something is left over.
    #[error("{0} bytes are left over")]
    TrailingBytes(usize),
    /// Attributes are not in order, each once.
    #[error("the attributes are not in order")]
    Unsorted,
}

/// Writes down `value` in format `format`.
pub fn encode<T: Serialize>(format: u8, value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    bytes.push(format);
    // It fails for sequences of unknown length and for a full buffer; here there are neither.
    postcard::to_extend(value, bytes).expect("plain data can be written to memory")
}

/// Reads what [`encode`] wrote. Never panics, and takes no more memory than a small multiple of the input.
pub fn decode<T: DeserializeOwned>(format: u8, bytes: &[u8]) -> Result<T, DecodeError> {
    let (value, rest) = postcard::take_from_bytes(body(format, bytes)?).map_err(DecodeError::Malformed)?;
    if rest.is_empty() { Ok(value) } else { Err(DecodeError::TrailingBytes(rest.len())) }
}

/// What follows the format byte.
fn body(format: u8, bytes: &[u8]) -> Result<&[u8], DecodeError> {
    match bytes.split_first() {
        None => Err(DecodeError::Empty),
        Some((found, body)) if *found == format => Ok(body),
        Some((found, _)) => Err(DecodeError::Format { found: *found, expected: format }),
    }
}

/// A journal entry's payload.
pub fn encode_entry(entry: &Entry) -> Vec<u8> {
    encode(ENTRY_FORMAT, entry)
}

/// What the beginning of an entry tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryHead<'a> {
    /// The tenant.
    pub site: &'a str,
    /// The request id of a write that has one.
    pub request_id: Option<&'a str>,
}

/// The beginning of [`Entry`], field for field.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    site: &'a str,
    #[serde(borrow)]
    command: CommandHead<'a>,
}

/// The beginning of [`Command`](super::Command), variant for variant.
#[derive(Deserialize)]
enum CommandHead<'a> {
    Write(#[serde(borrow)] WriteHead<'a>),
    SetAttributeState,
    DiscardRefused,
}

#[derive(Deserialize)]
struct WriteHead<'a> {
    #[serde(rename = "user", borrow)]
    _user: &'a str,
    #[serde(borrow)]
    request_id: Option<&'a str>,
}

/// Reads the beginning of an entry and nothing else of it: replay looks at many that it has no use for.
pub fn peek_entry(bytes: &[u8]) -> Result<EntryHead<'_>, DecodeError> {
    let (head, _) =
        postcard::take_from_bytes::<Head<'_>>(body(ENTRY_FORMAT, bytes)?).map_err(DecodeError::Malformed)?;
    let request_id = match head.command {
        CommandHead::Write(write) => write.request_id,
        CommandHead::SetAttributeState | CommandHead::DiscardRefused => None,
    };
    Ok(EntryHead { site: head.site, request_id })
}

/// Reads a journal entry's payload.
pub fn decode_entry(bytes: &[u8]) -> Result<Entry, DecodeError> {
    decode(ENTRY_FORMAT, bytes)
}

/// A record as the store keeps it.
pub fn encode_record(record: &Record) -> Vec<u8> {
    encode(RECORD_FORMAT, record)
}

/// Reads a record. Its attributes are looked up by binary search, so their order is checked here.
pub fn decode_record(bytes: &[u8]) -> Result<Record, DecodeError> {
    let record: Record = decode(RECORD_FORMAT, bytes)?;
    if let Record::Live(profile) = &record {
        let sorted = profile.attributes.is_sorted_by(|a, b| a.name < b.name)
            && profile.unset.is_sorted_by(|a, b| a.name < b.name);
        if !sorted {
            return Err(DecodeError::Unsorted);
        }
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::model::{ChangeKind, Command, Site, User, Write};

    fn entry() -> Entry {
        let command = Command::SetAttributeState { name: "plan".into(), disabled: true, indexed: false };
        Entry { site: Site::new("shop"), command }
    }

    #[test]
    fn an_entry_reads_back() {
        assert_eq!(decode_entry(&encode_entry(&entry())), Ok(entry()));
    }

    #[test]
    fn the_head_is_that_of_the_entry() {
        let head = |entry: &Entry| peek_entry(&encode_entry(entry)).map(|h| h.request_id.map(str::to_owned));
        assert_eq!(head(&entry()), Ok(None));
        for request_id in [None, Some("r-1")] {
            let write = Write {
                user: User::new("u"),
                request_id: request_id.map(Into::into),
                occurred_at: None,
                if_version: Some(3),
                kind: ChangeKind::Delete,
            };
            let entry = Entry { site: Site::new("shop"), command: Command::Write(write) };
            assert_eq!(head(&entry), Ok(request_id.map(str::to_owned)));
            let bytes = encode_entry(&entry);
            assert_eq!(peek_entry(&bytes).unwrap().site, "shop");
            assert_eq!(
                peek_entry(&bytes[..7]),
                Err(DecodeError::Malformed(postcard::Error::DeserializeUnexpectedEnd))
            );
        }
    }

    #[test]
    fn what_is_not_whole_is_an_error() {
        let bytes = encode_entry(&entry());
        assert_eq!(decode_entry(&[]), Err(DecodeError::Empty));
        for end in 1..bytes.len() {
            assert!(matches!(decode_entry(&bytes[..end]), Err(DecodeError::Malformed(_))), "{end}");
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert_eq!(decode_entry(&longer), Err(DecodeError::TrailingBytes(1)));
        let newer = [&[9], &bytes[1..]].concat();
        assert_eq!(decode_entry(&newer), Err(DecodeError::Format { found: 9, expected: ENTRY_FORMAT }));
    }

    #[test]
    fn the_entry_format_is_the_one_that_journals_hold() {
        assert_eq!(encode_entry(&entry()), *b"\x01\x04shop\x01\x04plan\x01\x00");
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(mut bytes in vec(any::<u8>(), 0..200), lie in any::<u32>()) {
            let _ = decode_entry(&bytes);
            let _ = decode_record(&bytes);
            if let Some(first) = bytes.first_mut() {
                *first = RECORD_FORMAT;
            }
            let _ = decode_entry(&bytes);
            let _ = decode_record(&bytes);
            // A length that is not true must not become an allocation.
            let liar = encode(RECORD_FORMAT, &(0_u8, 1_u8, 1_u8, 1_u8, 1_u8, u64::from(lie) << 20));
            prop_assert!(decode_record(&liar).is_err());
        }
    }
}
