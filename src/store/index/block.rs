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
const MAX_BYTES: usize = 2048;
/// A block with fewer joins its neighbour, if both then fill at most `JOINED_BYTES`.
const MIN_BYTES: usize = 512;
const JOINED_BYTES: usize = 1536;
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
        let mut walk = Walk::new(&self.0);
        match walk.seek(key) {
            Spot::Found => match walk.numbers() {
                None => Change::InBitmap,
                Some(mut numbers) => match numbers.binary_search(&number) {
                    Ok(_) => Change::Nothing,
                    Err(at) => {
                        numbers.insert(at, number);
                        let (from, to) = (walk.posting, walk.end);
                        if numbers.len() > INLINE_NUMBERS {
                            self.replace(from, to, &posting_bytes(&[]));
                            return Change::ToBitmap(numbers.to_vec());
                        }
                        self.replace(from, to, &posting_bytes(&numbers));
                        Change::Done
                    }
                },
            },
            Spot::Before => {
                let mut bytes = header(&walk.previous(), key);
                bytes.extend_from_slice(&posting_bytes(&[number]));
                bytes.extend_from_slice(&header(key, &walk.key));
                let (from, to) = (walk.entry, walk.posting);
                self.replace(from, to, &bytes);
                Change::Done
            }
            Spot::End => {
                let mut bytes = header(&walk.key, key);
                bytes.extend_from_slice(&posting_bytes(&[number]));
                let end = self.0.len();
                self.replace(end, end, &bytes);
                Change::Done
            }
        }
    }

    /// Takes `number` from the value `key`.
    pub fn remove(&mut self, key: &[u8], number: u64) -> Change {
        let mut walk = Walk::new(&self.0);
        if walk.seek(key) != Spot::Found {
            return Change::Nothing;
        }
        let Some(mut numbers) = walk.numbers() else { return Change::InBitmap };
        let Ok(at) = numbers.binary_search(&number) else { return Change::Nothing };
        numbers.remove(at);
        self.set_numbers_at(key, &numbers);
        Change::Done
    }

    /// Puts `numbers` in place of what the value `key` has; without numbers the value goes.
    pub fn set_numbers_at(&mut self, key: &[u8], numbers: &[u64]) {
        let mut walk = Walk::new(&self.0);
        if walk.seek(key) != Spot::Found {
            return;
        }
        if !numbers.is_empty() {
            let (from, to) = (walk.posting, walk.end);
            self.replace(from, to, &posting_bytes(numbers));
            return;
        }
        let (before, from) = (walk.previous(), walk.entry);
        if walk.advance() {
            let (to, bytes) = (walk.posting, header(&before, &walk.key));
            self.replace(from, to, &bytes);
        } else {
            self.0.truncate(from);
        }
        if self.0.capacity() > self.0.len() + 4 * SLACK {
            self.0.shrink_to(self.0.len() + SLACK);
        }
    }

    /// Cuts it in two; answers the second half and its first value. None if it has a single entry.
    /// `keep_full`: leaves all but the last entry in the first half, for values that come in order.
    pub fn split(&mut self, keep_full: bool) -> Option<(Box<[u8]>, Self)> {
        let mut walk = Walk::new(&self.0);
        while walk.advance() {
            let cut = if keep_full { walk.end == self.0.len() } else { walk.end > self.0.len() / 2 };
            if cut && walk.entry > 0 {
                let mut right = header(&[], &walk.key).to_vec();
                right.extend_from_slice(self.0.get(walk.posting..).unwrap_or_default());
                let (key, entry) = (Box::from(&*walk.key), walk.entry);
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
            let bytes = header(&last.key, &first.key);
            let rest = next.0.get(first.posting..).unwrap_or_default();
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

#[derive(Debug, PartialEq, Eq)]
enum Spot {
    /// The walk stands on the value.
    Found,
    /// The walk stands on the first greater one.
    Before,
    /// All are smaller.
    End,
}

/// Steps through a block's entries.
pub struct Walk<'a> {
    bytes: &'a [u8],
    /// The current value.
    pub key: KeyBuffer,
    // What the value before had behind the part that it shares with the current one.
    lost: KeyBuffer,
    shared: usize,
    // Where the current entry, its numbers and the next entry begin.
    entry: usize,
    posting: usize,
    end: usize,
}

impl<'a> Walk<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let (key, lost) = (KeyBuffer::new(), KeyBuffer::new());
        Self { bytes, key, lost, shared: 0, entry: 0, posting: 0, end: 0 }
    }

    /// Goes to the next entry; false behind the last.
    pub fn advance(&mut self) -> bool {
        let Some(&[shared, length]) = self.bytes.get(self.end..self.end + 2) else { return false };
        (self.entry, self.shared) = (self.end, usize::from(shared));
        self.lost.clear();
        self.lost.extend_from_slice(self.key.get(self.shared..).unwrap_or_default());
        self.key.truncate(self.shared);
        self.posting = self.entry + 2 + usize::from(length);
        self.key.extend_from_slice(self.bytes.get(self.entry + 2..self.posting).unwrap_or_default());
        let mut at = self.posting;
        let count = read_number(self.bytes, &mut at);
        for _ in 0..count {
            skip_number(self.bytes, &mut at);
        }
        self.end = at;
        true
    }

    /// The current value's numbers; none: they are in its bitmap.
    pub fn numbers(&self) -> Option<Numbers> {
        let mut at = self.posting;
        let count = read_number(self.bytes, &mut at);
        let mut last = 0;
        let numbers: Numbers = (0..count)
            .map(|_| {
                last += read_number(self.bytes, &mut at);
                last
            })
            .collect();
        (!numbers.is_empty()).then_some(numbers)
    }

    /// Goes to the first value that is not smaller than `key`.
    fn seek(&mut self, key: &[u8]) -> Spot {
        while self.advance() {
            match (*self.key).cmp(key) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => return Spot::Found,
                std::cmp::Ordering::Greater => return Spot::Before,
            }
        }
        Spot::End
    }

    /// The value before the current one; empty if there is none.
    fn previous(&self) -> KeyBuffer {
        let mut key = KeyBuffer::from_slice(self.key.get(..self.shared).unwrap_or_default());
        key.extend_from_slice(&self.lost);
        key
    }
}

fn header(before: &[u8], key: &[u8]) -> KeyBuffer {
    let shared = before.iter().zip(key).take_while(|(a, b)| a == b).count();
    let suffix = key.get(shared..).unwrap_or_default();
    let mut bytes = KeyBuffer::new();
    bytes.push(shared as u8);
    bytes.push(suffix.len() as u8);
    bytes.extend_from_slice(suffix);
    bytes
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
