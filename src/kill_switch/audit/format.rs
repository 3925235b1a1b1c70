//! Records in bytes.

use serde::{Deserialize, Serialize};

use super::{Event, State};

/// Records are whole blocks, the unit that disks write.
pub const BLOCK: usize = 512;
const HEADER: usize = 32;
const MAGIC: &[u8] = b"SFA1 ";
/// Bytes of the header that its checksum is of.
const CHECKED: usize = 23;
/// The longest record: the state, with as many and as long holds as there may be.
const RECORD_LIMIT: usize = 32 << 20;

/// One record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Record {
    /// What was in force when the file was begun; so many past events follow.
    State {
        /// It.
        state: State,
        /// How many.
        past: usize,
    },
    /// An event that the state has in it already.
    Past(Event),
    /// An event that changes the state.
    Event(Event),
}

/// Writes `record` to the end of `into`.
pub fn encode(record: &Record, into: &mut Vec<u8>) -> Result<(), String> {
    let json = serde_json::to_vec(record).map_err(|error| error.to_string())?;
    let total = (HEADER + json.len() + 1).next_multiple_of(BLOCK);
    if total > RECORD_LIMIT {
        return Err(format!("a record of {total} bytes is longer than {RECORD_LIMIT}"));
    }
    let mut body = json;
    body.resize(total - HEADER - 1, b' ');
    body.push(b'\n');
    let checked = format!("SFA1 {:08x} {:08x} ", body.len(), crc32c::crc32c(&body));
    debug_assert_eq!(checked.len(), CHECKED);
    into.extend_from_slice(checked.as_bytes());
    into.extend_from_slice(format!("{:08x} ", crc32c::crc32c(checked.as_bytes())).as_bytes());
    into.extend_from_slice(&body);
    Ok(())
}

/// What is at one place of a file.
#[derive(Debug)]
pub enum Next {
    /// A record, and where the next one begins.
    Record(Box<Record>, usize),
    /// Nothing more.
    End,
    /// A record whose write was not finished, and nothing after it.
    Torn,
    /// Something else than was written.
    Damaged(String),
}

struct Header {
    body: usize,
    crc: u32,
}

fn header(bytes: &[u8]) -> Result<Header, &'static str> {
    let whole = bytes.get(..HEADER).ok_or("it is too short")?;
    let (checked, crc) = whole.split_at(CHECKED);
    let fields = checked.strip_prefix(MAGIC).ok_or("it does not begin as a record does")?;
    let hex = |bytes: Option<&[u8]>| {
        let text = bytes.and_then(|bytes| std::str::from_utf8(bytes).ok())?;
        // `from_str_radix` takes signs and capitals.
        let plain = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        u32::from_str_radix(text, 16).ok().filter(|_| plain)
    };
    if hex(crc.get(..8)) != Some(crc32c::crc32c(checked)) || crc.get(8) != Some(&b' ') {
        return Err("its header does not match its checksum");
    }
    let length = hex(fields.get(..8)).ok_or("its length is no number")?;
    let crc = hex(fields.get(9..17)).ok_or("its checksum is no number")?;
    let body = length as usize;
    if !(HEADER + body).is_multiple_of(BLOCK) || HEADER + body > RECORD_LIMIT {
        return Err("its length cannot be");
    }
    Ok(Header { body, crc })
}

/// The body of a record that is whole.
fn body(rest: &[u8]) -> Result<&[u8], &'static str> {
    let header = header(rest)?;
    let body = rest.get(HEADER..HEADER + header.body).ok_or("it ends too early")?;
    if crc32c::crc32c(body) == header.crc { Ok(body) } else { Err("it does not match its checksum") }
}

/// Reads what is at `offset`, which is where a record ended.
pub fn next(bytes: &[u8], offset: usize) -> Next {
    let rest = bytes.get(offset..).unwrap_or_default();
    if rest.is_empty() {
        return Next::End;
    }
    match body(rest) {
        Ok(body) => match serde_json::from_slice(body) {
            Ok(record) => Next::Record(Box::new(record), offset + HEADER + body.len()),
            Err(error) => Next::Damaged(format!("it is of another version ({error})")),
        },
        Err(_) if is_torn(rest) => Next::Torn,
        Err(problem) => Next::Damaged(problem.to_owned()),
    }
}

/// Whether a write that was not finished can have left this: a disk writes whole blocks, in any order, and
/// a process that dies leaves the beginning. Nothing is written before the record before it is synced, so
/// nothing can follow.
fn is_torn(rest: &[u8]) -> bool {
    let zeros = |block: &[u8]| block.iter().all(|byte| *byte == 0);
    let blocks = rest.chunks_exact(BLOCK);
    if blocks.clone().skip(1).any(|block| header(block).is_ok()) {
        return false;
    }
    match header(rest) {
        Ok(header) => {
            let total = HEADER + header.body;
            rest.len() < total || (rest.len() == total && blocks.clone().any(zeros))
        }
        Err(_) => rest.len() < BLOCK || rest.get(..BLOCK).is_some_and(zeros),
    }
}
