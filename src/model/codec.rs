//! How entries and records are written down: one format byte, then postcard
//! (<https://postcard.jamesmunns.com/wire-format>). Whoever stores the bytes guards them by a checksum;
//! decoding trusts nothing all the same.

use serde::Serialize;
use serde::de::DeserializeOwned;

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
    let (found, body) = bytes.split_first().ok_or(DecodeError::Empty)?;
    if *found != format {
        return Err(DecodeError::Format { found: *found, expected: format });
    }
    let (value, rest) = postcard::take_from_bytes(body).map_err(DecodeError::Malformed)?;
    if rest.is_empty() { Ok(value) } else { Err(DecodeError::TrailingBytes(rest.len())) }
}

/// A journal entry's payload.
pub fn encode_entry(entry: &Entry) -> Vec<u8> {
    encode(ENTRY_FORMAT, entry)
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
    use crate::model::{Command, Site};

    fn entry() -> Entry {
        let command = Command::SetAttributeState { name: "plan".into(), disabled: true, indexed: false };
        Entry { site: Site::new("shop"), command }
    }

    #[test]
    fn an_entry_reads_back() {
        assert_eq!(decode_entry(&encode_entry(&entry())), Ok(entry()));
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
