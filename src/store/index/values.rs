//! The entries of one attribute: (value, profile number) in order.

use std::collections::BTreeMap;
use std::ops::Bound;

use hashbrown::HashMap;
use roaring::RoaringTreemap;

use super::block::{Block, Change, INLINE_NUMBERS, Numbers};
use crate::store::IndexKey;

/// A bitmap with fewer numbers than this goes back into its block.
const BITMAP_MIN: u64 = INLINE_NUMBERS as u64 / 3;
/// What a block takes beside its bytes: its place in the map, its first value, the allocator's share.
const BLOCK_OVERHEAD: usize = 112;
/// What a bitmap takes beside its containers: its place in the map, its value, a container list.
const BITMAP_OVERHEAD: usize = 512;
/// A bitmap is measured anew after so many changes.
const MEASURE_EVERY: u32 = 1024;

/// One value's bitmap.
struct Heavy {
    numbers: RoaringTreemap,
    bytes: usize,
    changes: u32,
}

/// Where a scan begins and ends. The two values of an open range may stand for several texts that were
/// cut: who asks passes `Included` for them.
pub struct Range<'a> {
    /// From this value.
    pub from: Bound<&'a [u8]>,
    /// To this value.
    pub to: Bound<&'a [u8]>,
    /// Only values that start so.
    pub prefix: &'a [u8],
    /// Only what lies behind this entry.
    pub after: Option<&'a IndexKey>,
}

/// See the module.
#[derive(Default)]
pub struct Values {
    // By a value that is not greater than the block's first: the first block has the empty one.
    blocks: BTreeMap<Box<[u8]>, Block>,
    heavy: HashMap<Box<[u8]>, Heavy>,
    bytes: usize,
    entries: u64,
}

impl Values {
    /// Bytes that it takes, by the account of this module.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many pairs of value and profile.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Adds an entry.
    pub fn insert(&mut self, key: &[u8], number: u64) {
        if self.blocks.is_empty() {
            self.blocks.insert(Box::default(), Block::default());
            self.bytes += BLOCK_OVERHEAD;
        }
        let upto = (Bound::Unbounded, Bound::Included(key));
        let Some((fence, block)) = self.blocks.range_mut::<[u8], _>(upto).next_back() else { return };
        let before = block.capacity();
        let change = block.insert(key, number);
        let split_at = block.is_large().then(|| fence.clone());
        self.bytes = self.bytes + block.capacity() - before;
        match change {
            Change::Nothing => return,
            Change::Done => self.entries += 1,
            Change::InBitmap => {
                if let Some(heavy) = self.heavy.get_mut(key)
                    && heavy.numbers.insert(number)
                {
                    self.entries += 1;
                    self.bytes = heavy.changed(self.bytes);
                }
            }
            Change::ToBitmap(numbers) => {
                self.entries += 1;
                let heavy = Heavy::new(&numbers);
                self.bytes += heavy.bytes + key.len();
                self.heavy.insert(key.into(), heavy);
            }
        }
        if let Some(fence) = split_at {
            self.split(&fence);
        }
    }

    /// Removes an entry.
    pub fn remove(&mut self, key: &[u8], number: u64) {
        let upto = (Bound::Unbounded, Bound::Included(key));
        let Some((fence, block)) = self.blocks.range_mut::<[u8], _>(upto).next_back() else { return };
        let before = block.capacity();
        match block.remove(key, number) {
            Change::Done => self.entries -= 1,
            Change::InBitmap => {
                let Some(heavy) = self.heavy.get_mut(key) else { return };
                if !heavy.numbers.remove(number) {
                    return;
                }
                self.entries -= 1;
                self.bytes = heavy.changed(self.bytes);
                if heavy.numbers.len() >= BITMAP_MIN {
                    return;
                }
                let numbers: Numbers = heavy.numbers.iter().collect();
                block.set_numbers_at(key, &numbers);
                self.bytes = self.bytes.saturating_sub(heavy.bytes + key.len());
                self.heavy.remove(key);
            }
            Change::Nothing | Change::ToBitmap(_) => return,
        }
        self.bytes = self.bytes + block.capacity() - before;
        let fence = fence.clone();
        self.join_with_next(&fence);
    }

    /// Appends to `found` the entries of `range` in order, until it has `limit`; whether there may be
    /// more.
    pub fn scan(&self, range: &Range<'_>, limit: usize, found: &mut Vec<IndexKey>) -> bool {
        let mut start = match range.from {
            Bound::Included(key) | Bound::Excluded(key) => key,
            Bound::Unbounded => &[],
        };
        start = start.max(range.prefix);
        if let Some(after) = range.after {
            start = start.max(&after.value);
        }
        let upto = (Bound::Unbounded, Bound::Included(start));
        let Some((fence, _)) = self.blocks.range::<[u8], _>(upto).next_back() else { return false };
        for block in self.blocks.range::<[u8], _>((Bound::Included(&**fence), Bound::Unbounded)) {
            let mut walk = block.1.walk();
            while walk.advance() {
                let key = &*walk.key;
                if key < start || range.from == Bound::Excluded(key) {
                    continue;
                }
                let past = match range.to {
                    Bound::Included(to) => key > to,
                    Bound::Excluded(to) => key >= to,
                    Bound::Unbounded => false,
                };
                if past || !key.starts_with(range.prefix) {
                    return false;
                }
                // Numbers from this one on.
                let first = match range.after {
                    Some(after) if *after.value == *key => match after.number.checked_add(1) {
                        Some(first) => first,
                        None => continue,
                    },
                    _ => 0,
                };
                let mut push = |number| {
                    let room = found.len() < limit;
                    if room {
                        found.push(IndexKey { value: key.into(), number });
                    }
                    room
                };
                let all = match walk.numbers() {
                    Some(numbers) => numbers.into_iter().filter(|n| *n >= first).all(&mut push),
                    None => self.heavy.get(key).is_none_or(|heavy| {
                        let mut numbers = heavy.numbers.iter();
                        numbers.advance_to(first);
                        numbers.all(&mut push)
                    }),
                };
                if !all {
                    return true;
                }
            }
        }
        false
    }

    fn split(&mut self, fence: &[u8]) {
        let is_last = self.blocks.last_key_value().is_some_and(|(last, _)| **last == *fence);
        let Some(block) = self.blocks.get_mut(fence) else { return };
        let before = block.capacity();
        if let Some((key, right)) = block.split(is_last) {
            self.bytes = self.bytes + block.capacity() + right.capacity() + BLOCK_OVERHEAD - before;
            self.blocks.insert(key, right);
        }
    }

    fn join_with_next(&mut self, fence: &[u8]) {
        let behind = (Bound::Excluded(fence), Bound::Unbounded);
        let Some((next_fence, next)) = self.blocks.range::<[u8], _>(behind).next() else { return };
        if !self.blocks.get(fence).is_some_and(|block| block.may_join(next)) {
            return;
        }
        let next_fence = next_fence.clone();
        let Some(next) = self.blocks.remove(&next_fence) else { return };
        let Some(block) = self.blocks.get_mut(fence) else { return };
        let before = block.capacity() + next.capacity() + BLOCK_OVERHEAD;
        block.join(&next);
        self.bytes = (self.bytes + block.capacity()).saturating_sub(before);
    }
}

impl Heavy {
    fn new(numbers: &[u64]) -> Self {
        let numbers: RoaringTreemap = numbers.iter().copied().collect();
        let bytes = measure(&numbers);
        Self { numbers, bytes, changes: 0 }
    }

    /// Counts a change; answers the total `bytes` with this bitmap's part measured anew when it is due.
    fn changed(&mut self, bytes: usize) -> usize {
        self.changes += 1;
        if self.changes < MEASURE_EVERY {
            return bytes;
        }
        self.changes = 0;
        let before = std::mem::replace(&mut self.bytes, measure(&self.numbers));
        (bytes + self.bytes).saturating_sub(before)
    }
}

/// Its containers grow by doubling, so on average a third more than what they hold.
fn measure(numbers: &RoaringTreemap) -> usize {
    numbers.serialized_size() * 4 / 3 + BITMAP_OVERHEAD
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn all(values: &Values, range: &Range<'_>, page: usize) -> Vec<(Box<[u8]>, u64)> {
        let mut found: Vec<IndexKey> = Vec::new();
        loop {
            let mut part = Vec::new();
            let last = found.last().cloned();
            let range = Range { after: last.as_ref(), ..*range };
            let more = values.scan(&range, page, &mut part);
            assert!(part.len() <= page && (!more || part.len() == page));
            found.extend(part);
            if !more {
                return found.into_iter().map(|key| (key.value, key.number)).collect();
            }
        }
    }

    const EVERYTHING: Range<'static> =
        Range { from: Bound::Unbounded, to: Bound::Unbounded, prefix: &[], after: None };

    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            proptest::collection::vec(0_u8..3, 0..5),
            proptest::collection::vec(any::<u8>(), 60..66),
            Just(b"often".to_vec()),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_is_an_ordered_set(
            steps in proptest::collection::vec((key(), 0_u64..200, 0_u32..5), 0..1500),
            from in key(), to in key(), page in 1_usize..50,
        ) {
            let (mut values, mut naive) = (Values::default(), BTreeSet::new());
            for (key, number, kind) in steps {
                if kind == 0 {
                    values.remove(&key, number);
                    naive.remove(&(Box::from(key), number));
                } else {
                    values.insert(&key, number);
                    naive.insert((Box::from(key), number));
                }
                prop_assert_eq!(values.entries(), naive.len() as u64);
            }
            prop_assert_eq!(all(&values, &EVERYTHING, page), naive.iter().cloned().collect::<Vec<_>>());
            let range = Range { from: Bound::Excluded(&from), to: Bound::Excluded(&to), ..EVERYTHING };
            let expected: Vec<_> =
                naive.iter().filter(|(k, _)| **k > *from && **k < *to).cloned().collect();
            prop_assert_eq!(all(&values, &range, page), expected);
            let range = Range { prefix: &from, ..EVERYTHING };
            let expected: Vec<_> = naive.iter().filter(|(k, _)| k.starts_with(&from)).cloned().collect();
            prop_assert_eq!(all(&values, &range, page), expected);
            for (key, number) in naive {
                values.remove(&key, number);
            }
            prop_assert_eq!(values.entries(), 0);
            // What is left is a block or two.
            prop_assert!(values.bytes() < 8192, "{} bytes", values.bytes());
        }
    }

    #[test]
    fn many_different_values_take_little_memory() {
        let mut values = Values::default();
        let count = 50_000_u64;
        for n in 0..count {
            // In no order, as addresses come.
            let n = n.wrapping_mul(7919) % count;
            values.insert(format!("user{n}@mail.example.org").as_bytes(), n * 3);
        }
        assert_eq!(values.entries(), count);
        let each = values.bytes() as u64 / count;
        assert!(each < 40, "{each} bytes each");
    }

    #[test]
    fn a_value_of_many_profiles_takes_two_bytes_each() {
        let mut values = Values::default();
        for n in 0..100_000 {
            values.insert(b"pro", n * 10);
        }
        assert!(values.bytes() < 320_000, "{} bytes", values.bytes());
        for n in 0..100_000 {
            values.remove(b"pro", n * 10);
        }
        assert!(values.bytes() < 1024, "{} bytes", values.bytes());
    }
}
