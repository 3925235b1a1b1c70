//! A few kilobytes of neighbouring index entries, packed.
//!
//! Entries lie in order of value, each as `shared | length | suffix | numbers`: how many bytes of the
//! value it shares with the one before it (one byte), the rest (one byte of length), then the profile
//! numbers in LEB128: how many, the first, and the distance from each to the next. A count of 0 says that
//! they are in a bitmap elsewhere. Values have at most 255 bytes.
//!
//! An ordered map with one allocation for each value would take three to five times the memory.

use smallvec::SmallVec;

/// A block with more bytes than this is split.
const MAX_BYTES: usize = 1536;
/// A block with fewer joins its neighbour, if both then fill at most `JOINED_BYTES`.
const MIN_BYTES: usize = 384;
const JOINED_BYTES: usize = 1152;
/// Room for growth: more wastes memory, less copies more often.
const SLACK: usize = 96;
/// A value with more profiles than this has a bitmap.
pub const INLINE_NUMBERS: usize = 48;

/// A value's bytes while they are at hand.
pub type KeyBuffer = SmallVec<[u8; 96]>;
/// Profile numbers in order.
pub type Numbers = SmallVec<[u64; INLINE_NUMBERS]>;

/// What became of a change.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// Done.
    Done,
    /// There was nothing to do.
    Nothing,
    /// The value's numbers are in its bitmap, which the caller has to change.
    InBitmap,
    /// The value has too many numbers for a block: these now belong into its bitmap.
    ToBitmap(Vec<u64>),
}

/// See the module.
#[derive(Debug, Default)]
pub struct Block(Vec<u8>);

impl Block {
    /// Bytes that it takes, the spare ones included.
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// Whether it should be split.
    pub fn is_large(&self) -> bool {
        self.0.len() > MAX_BYTES
    }

    /// Whether it is small enough to join `other`.
    pub fn may_join(&self, other: &Self) -> bool {
        self.0.len() < MIN_BYTES && self.0.len() + other.0.len() <= JOINED_BYTES
    }

    /// Adds `number` to the value `key`.
    pub fn insert(&mut self, key: &[u8], number: u64) -> Change {
        let spot = self.seek(key);
        if spot.found {
            return match read_numbers(&self.0, spot.at.posting) {
                None => Change::InBitmap,
                Some(mut numbers) => match numbers.binary_search(&number) {
                    Ok(_) => Change::Nothing,
                    Err(at) => {
                        numbers.insert(at, number);
                        if numbers.len() > INLINE_NUMBERS {
                            self.replace(spot.at.posting, spot.at.end, &posting_bytes(&[]));
                            return Change::ToBitmap(numbers.to_vec());
                        }
                        self.replace(spot.at.posting, spot.at.end, &posting_bytes(&numbers));
                        Change::Done
                    }
                },
            };
        }
        let mut bytes = header(spot.shared, key.get(spot.shared..).unwrap_or_default());
        bytes.extend_from_slice(&posting_bytes(&[number]));
        let next = spot.at;
        if next.entry == next.end {
            self.replace(next.entry, next.entry, &bytes);
            return Change::Done;
        }
        // The one behind it now follows the new value, with which it may share more.
        let more = spot.next_shared.saturating_sub(next.shared);
        let suffix = self.0.get(next.entry + 2 + more..next.posting).unwrap_or_default();
        bytes.extend_from_slice(&header(next.shared + more, suffix));
        self.replace(next.entry, next.posting, &bytes);
        Change::Done
    }

    /// Takes `number` from the value `key`.
    pub fn remove(&mut self, key: &[u8], number: u64) -> Change {
        let spot = self.seek(key);
        if !spot.found {
            return Change::Nothing;
        }
        let Some(mut numbers) = read_numbers(&self.0, spot.at.posting) else { return Change::InBitmap };
        let Ok(at) = numbers.binary_search(&number) else { return Change::Nothing };
        numbers.remove(at);
        self.set_numbers(&spot.at, &numbers);
        Change::Done
    }

    /// Puts `numbers` in place of what the value `key` has; without numbers the value goes.
    pub fn set_numbers_at(&mut self, key: &[u8], numbers: &[u64]) {
        let spot = self.seek(key);
        if spot.found {
            self.set_numbers(&spot.at, numbers);
        }
    }

    fn set_numbers(&mut self, at: &Place, numbers: &[u64]) {
        if !numbers.is_empty() {
            self.replace(at.posting, at.end, &posting_bytes(numbers));
            return;
        }
        if let Some(next) = Place::read(&self.0, at.end) {
            // The one behind it may have shared bytes with the value that goes, but not with the one before.
            let lost = next.shared.saturating_sub(at.shared);
            let mut suffix =
                KeyBuffer::from_slice(self.0.get(at.entry + 2..at.entry + 2 + lost).unwrap_or_default());
            suffix.extend_from_slice(self.0.get(next.entry + 2..next.posting).unwrap_or_default());
            self.replace(at.entry, next.posting, &header(next.shared - lost, &suffix));
        } else {
            self.0.truncate(at.entry);
        }
        if self.0.capacity() > self.0.len() + 4 * SLACK {
            self.0.shrink_to(self.0.len() + SLACK);
        }
    }

    /// Finds `key`, or where it belongs, without putting any value together: a value that shares more
    /// with the one before than `key` does is smaller like it, one that shares less is greater.
    fn seek(&self, key: &[u8]) -> Spot {
        let (mut from, mut shared) = (0, 0);
        while let Some(at) = Place::read(&self.0, from) {
            from = at.end;
            if at.shared > shared {
                continue;
            }
            if at.shared < shared {
                let next_shared = at.shared;
                return Spot { at, found: false, shared, next_shared };
            }
            let suffix = self.0.get(at.entry + 2..at.posting).unwrap_or_default();
            let rest = key.get(shared..).unwrap_or_default();
            let common = suffix.iter().zip(rest).take_while(|(a, b)| a == b).count();
            match suffix.get(common).cmp(&rest.get(common)) {
                std::cmp::Ordering::Less => shared += common,
                order => {
                    return Spot { at, found: order.is_eq(), shared, next_shared: shared + common };
                }
            }
        }
        let end = self.0.len();
        let at = Place { entry: end, shared: 0, posting: end, end };
        Spot { at, found: false, shared, next_shared: 0 }
    }

    /// Cuts it in two; answers the second half and its first value. None if it has a single entry.
    /// `keep_full`: leaves all but the last entry in the first half, for values that come in order.
    pub fn split(&mut self, keep_full: bool) -> Option<(Box<[u8]>, Self)> {
        let mut walk = Walk::new(&self.0);
        while walk.advance() {
            let cut = if keep_full { walk.at.end == self.0.len() } else { walk.at.end > self.0.len() / 2 };
            if cut && walk.at.entry > 0 {
                let mut right = header(0, &walk.key).to_vec();
                right.extend_from_slice(self.0.get(walk.at.posting..).unwrap_or_default());
                let (key, entry) = (Box::from(&*walk.key), walk.at.entry);
                self.0.truncate(entry);
                self.0.shrink_to(entry + if keep_full { 0 } else { SLACK });
                return Some((key, Self(right)));
            }
        }
        None
    }

    /// Takes over the entries of the block that follows.
    pub fn join(&mut self, next: &Self) {
        let mut last = Walk::new(&self.0);
        while last.advance() {}
        let mut first = Walk::new(&next.0);
        if first.advance() {
            let shared = last.key.iter().zip(&first.key).take_while(|(a, b)| a == b).count();
            let bytes = header(shared, first.key.get(shared..).unwrap_or_default());
            let rest = next.0.get(first.at.posting..).unwrap_or_default();
            self.0.reserve_exact(bytes.len() + rest.len());
            self.0.extend_from_slice(&bytes);
            self.0.extend_from_slice(rest);
        }
    }

    /// The entries in order.
    pub fn walk(&self) -> Walk<'_> {
        Walk::new(&self.0)
    }

    fn replace(&mut self, from: usize, to: usize, with: &[u8]) {
        let grown = (self.0.len() + with.len()).saturating_sub(to - from);
        if grown > self.0.capacity() {
            self.0.reserve_exact(grown - self.0.len() + SLACK);
        }
        self.0.splice(from..to, with.iter().copied());
    }
}

/// Where the parts of an entry begin.
struct Place {
    entry: usize,
    /// How many bytes it shares with the value before it.
    shared: usize,
    posting: usize,
    /// Where the next entry begins.
    end: usize,
}

/// Where a value is or belongs.
struct Spot {
    /// Its entry or the one that it belongs before; at the end an empty one.
    at: Place,
    found: bool,
    /// How many bytes the value shares with the one before it.
    shared: usize,
    /// How many it shares with the one at `at`.
    next_shared: usize,
}

impl Place {
    fn read(bytes: &[u8], entry: usize) -> Option<Self> {
        let Some(&[shared, length]) = bytes.get(entry..entry + 2) else { return None };
        let posting = entry + 2 + usize::from(length);
        let mut end = posting;
        for _ in 0..read_number(bytes, &mut end) {
            skip_number(bytes, &mut end);
        }
        Some(Self { entry, shared: usize::from(shared), posting, end })
    }
}

/// Steps through a block's entries.
pub struct Walk<'a> {
    bytes: &'a [u8],
    /// The current value.
    pub key: KeyBuffer,
    at: Place,
}

impl<'a> Walk<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, key: KeyBuffer::new(), at: Place { entry: 0, shared: 0, posting: 0, end: 0 } }
    }

    /// Goes to the next entry; false behind the last.
    pub fn advance(&mut self) -> bool {
        let Some(at) = Place::read(self.bytes, self.at.end) else { return false };
        self.key.truncate(at.shared);
        self.key.extend_from_slice(self.bytes.get(at.entry + 2..at.posting).unwrap_or_default());
        self.at = at;
        true
    }

    /// The current value's numbers; none: they are in its bitmap.
    pub fn numbers(&self) -> Option<Numbers> {
        read_numbers(self.bytes, self.at.posting)
    }
}

fn header(shared: usize, suffix: &[u8]) -> KeyBuffer {
    let mut bytes = KeyBuffer::new();
    bytes.push(shared as u8);
    bytes.push(suffix.len() as u8);
    bytes.extend_from_slice(suffix);
    bytes
}

fn read_numbers(bytes: &[u8], posting: usize) -> Option<Numbers> {
    let mut at = posting;
    let count = read_number(bytes, &mut at);
    let mut last = 0;
    let numbers: Numbers = (0..count)
        .map(|_| {
            last += read_number(bytes, &mut at);
            last
        })
        .collect();
    (!numbers.is_empty()).then_some(numbers)
}

fn posting_bytes(numbers: &[u64]) -> SmallVec<[u8; 64]> {
    let mut bytes = SmallVec::new();
    write_number(&mut bytes, numbers.len() as u64);
    let mut last = 0;
    for number in numbers {
        write_number(&mut bytes, number - last);
        last = *number;
    }
    bytes
}

fn write_number(bytes: &mut SmallVec<[u8; 64]>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn read_number(bytes: &[u8], at: &mut usize) -> u64 {
    let (mut number, mut shift) = (0, 0);
    while let Some(byte) = bytes.get(*at) {
        *at += 1;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
        shift += 7;
    }
    number
}

fn skip_number(bytes: &[u8], at: &mut usize) {
    while let Some(byte) = bytes.get(*at) {
        *at += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
}
