//! Values as bytes whose order is the order of the values: what the attribute index is sorted by.
//!
//! A key is a type tag and then: text by its first 64 bytes of UTF-8; numbers by IEEE 754 order with `-0`
//! equal to `0` (all bits flipped if negative, else the sign); times by seconds, then nanoseconds; false
//! before true. Lists have no order: each item has a key of its own, that of a string.

use smallvec::SmallVec;

use super::time::Instant;
use super::value::Value;

/// Bytes of a text that its key holds. Two texts that only differ behind them have the same key.
pub const TEXT_PREFIX: usize = 64;

const BOOL: u8 = 1;
const NUMBER: u8 = 2;
const TIME: u8 = 3;
const TEXT: u8 = 4;

/// The keys under which a value is indexed: one, or one for each different item of a list.
pub fn index_keys(value: &Value) -> SmallVec<[Box<[u8]>; 1]> {
    match value {
        Value::List(items) => {
            let mut keys: SmallVec<[Box<[u8]>; 1]> = items.iter().map(|item| text_key(item)).collect();
            keys.sort_unstable();
            keys.dedup();
            keys
        }
        Value::String(text) => SmallVec::from_buf([text_key(text)]),
        Value::Number(number) => SmallVec::from_buf([number_key(*number)]),
        Value::Bool(truth) => SmallVec::from_buf([Box::from([BOOL, u8::from(*truth)])]),
        Value::Time(time) => SmallVec::from_buf([time_key(*time)]),
    }
}

/// The key to compare index entries with; none for a list, which has no order.
pub fn order_key(value: &Value) -> Option<Box<[u8]>> {
    match value {
        Value::List(_) => None,
        _ => index_keys(value).into_iter().next(),
    }
}

/// The key of a text or of a list's item. The keys of all texts that start with `text` start with it.
pub fn text_key(text: &str) -> Box<[u8]> {
    std::iter::once(TEXT).chain(text.bytes().take(TEXT_PREFIX)).collect()
}

/// Whether only one value can have this key. A text as long as the prefix may go on.
pub fn is_exact(key: &[u8]) -> bool {
    key.first() != Some(&TEXT) || key.len() <= TEXT_PREFIX
}

fn number_key(number: f64) -> Box<[u8]> {
    // Turns -0 into 0.
    let bits = (number + 0.0).to_bits();
    let ordered = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
    tagged(NUMBER, &ordered.to_be_bytes())
}

fn time_key(time: Instant) -> Box<[u8]> {
    let seconds = time.seconds.cast_unsigned() ^ 1 << 63;
    tagged(TIME, &[seconds.to_be_bytes().as_slice(), &time.nanos.to_be_bytes()].concat())
}

fn tagged(tag: u8, bytes: &[u8]) -> Box<[u8]> {
    std::iter::once(tag).chain(bytes.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use proptest::prelude::*;

    use super::*;

    fn key(value: &Value) -> Box<[u8]> {
        order_key(value).unwrap()
    }

    fn text(text: &str) -> Value {
        Value::String(text.into())
    }

    #[test]
    fn minus_zero_is_zero() {
        assert_eq!(key(&Value::Number(-0.0)), key(&Value::Number(0.0)));
        assert!(is_exact(&key(&Value::Number(0.0))));
    }

    #[test]
    fn long_texts_are_cut_and_say_so() {
        let long = "x".repeat(TEXT_PREFIX);
        assert_eq!(key(&text(&long)), key(&text(&format!("{long}y"))));
        assert!(!is_exact(&key(&text(&long))));
        assert!(is_exact(&key(&text(&long[1..]))));
    }

    #[test]
    fn a_list_has_a_key_for_each_item_and_no_order() {
        let list = Value::List(["b".into(), "a".into(), "b".into()].into());
        assert_eq!(index_keys(&list).as_slice(), [text_key("a"), text_key("b")]);
        assert_eq!(order_key(&list), None);
        assert!(index_keys(&Value::List([].into())).is_empty());
    }

    proptest! {
        #[test]
        fn numbers_keep_their_order(a in any::<f64>(), b in any::<f64>()) {
            prop_assume!(!a.is_nan() && !b.is_nan());
            let order = a.partial_cmp(&b).unwrap();
            prop_assert_eq!(key(&Value::Number(a)).cmp(&key(&Value::Number(b))), order);
        }

        #[test]
        fn times_keep_their_order(a in any::<(i64, u32)>(), b in any::<(i64, u32)>(), same in any::<bool>()) {
            let b = if same { (a.0, b.1) } else { b };
            let key = |(seconds, nanos)| key(&Value::Time(Instant { seconds, nanos }));
            prop_assert_eq!(key(a).cmp(&key(b)), a.cmp(&b));
        }

        #[test]
        fn texts_keep_their_order_as_far_as_they_are_kept(a in "[a-c\u{e4}\u{1F600}]{0,80}", b in "[a-c\u{e4}]{0,80}") {
            let by_key = key(&text(&a)).cmp(&key(&text(&b)));
            if by_key == Ordering::Equal {
                prop_assert!(a == b || !is_exact(&text_key(&a)));
            } else {
                prop_assert_eq!(by_key, a.as_bytes().cmp(b.as_bytes()));
            }
            let longer = [a.as_str(), b.as_str()].concat();
            prop_assert!(text_key(&longer).starts_with(&text_key(&a)));
        }
    }
}
