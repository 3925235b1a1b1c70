//! Sizes and lengths of time as people write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of bytes: `"256 MiB"`, `"1.5 GB"` or a plain number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A length of time: `"250 ms"`, `"1.5 s"`, `"10 min"`. A bare number is refused: its unit would be a guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// Units in nanoseconds; the first name of each is the one that is printed.
const SPANS: [(&[&str], u64); 7] = [
    (&["d", "day", "days"], 86_400_000_000_000),
    (&["h", "hour", "hours"], 3_600_000_000_000),
    (&["min", "m", "minute", "minutes"], 60_000_000_000),
    (&["s", "sec", "second", "seconds"], 1_000_000_000),
    (&["ms"], 1_000_000),
    (&["us"], 1_000),
    (&["ns"], 1),
];

/// Why a size or a length of time could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not {what}")]
pub struct ValueError {
    given: String,
    what: &'static str,
}

/// A number and the unit after it.
fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    Some((number.parse().ok()?, unit.trim()))
}

fn scaled(number: f64, unit: u64) -> Option<u64> {
    let value = number * unit as f64;
    // Beyond 2^53 a double no longer holds every integer; no setting is that large.
    (value <= 9_007_199_254_740_992.0 && (value.fract() == 0.0)).then_some(value as u64)
}

impl FromStr for ByteSize {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (number, unit) = split(text)?;
            let unit = if unit.is_empty() {
                1
            } else {
                SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1
            };
            scaled(number, unit).map(Self)
        };
        parse().ok_or_else(|| ValueError {
            given: text.to_owned(),
            what: "a size: write it like \"256 MiB\", \"4 kB\" or a number of bytes",
        })
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = SIZES.iter().find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit));
        match exact {
            Some((name, unit)) => write!(f, "{} {name}", self.0 / unit),
            None => write!(f, "{} B", self.0),
        }
    }
}

impl FromStr for Span {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (number, unit) = split(text)?;
            let unit = SPANS.iter().find(|(names, _)| names.contains(&unit))?.1;
            scaled(number, unit).map(|nanos| Self(Duration::from_nanos(nanos)))
        };
        parse().ok_or_else(|| ValueError {
            given: text.to_owned(),
            what: "a length of time with its unit: write it like \"250 ms\", \"30 s\" or \"10 min\"",
        })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX);
        let exact = SPANS.iter().find(|(_, unit)| nanos >= *unit && nanos.is_multiple_of(*unit));
        match exact {
            Some((names, unit)) => write!(f, "{} {}", nanos / unit, names.first().unwrap_or(&"")),
            None => write!(f, "{nanos} ns"),
        }
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Given {
            Number(u64),
            Text(String),
        }
        match Given::deserialize(deserializer) {
            Ok(Given::Number(bytes)) => Ok(Self(bytes)),
            Ok(Given::Text(text)) => text.parse().map_err(de::Error::custom),
            Err(_) => Err(de::Error::custom("expected a size like \"256 MiB\" or a number of bytes")),
        }
    }
}
impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Given {
            Text(String),
        }
        match Given::deserialize(deserializer) {
            Ok(Given::Text(text)) => text.parse().map_err(de::Error::custom),
            Err(_) => Err(de::Error::custom(
                "expected a length of time with its unit, like \"250 ms\" or \"10 min\"",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_printed() {
        for (text, bytes) in [
            ("256 MiB", 256 << 20),
            ("4kB", 4000),
            ("17", 17),
            ("1.5 GiB", 3 << 29),
            ("0", 0),
            ("8 gib", 8 << 30),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "MiB", "1.2.3 B", "-1", "4 parsecs", "99999999 TiB", "1e3", "0.3 B"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        for size in [ByteSize(0), ByteSize(1), ByteSize(4 << 20), ByteSize(1000), ByteSize(1025)] {
            assert_eq!(size.to_string().parse(), Ok(size));
        }
    }

    #[test]
    fn spans_are_read_and_printed() {
        for (text, millis) in [("250 ms", 250), ("1.5s", 1500), ("10 min", 600_000), ("2 h", 7_200_000)] {
            assert_eq!(text.parse(), Ok(Span(Duration::from_millis(millis))), "{text}");
        }
        for text in ["", "10", "ms", "-1 s", "3 fortnights"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
        for millis in [0, 1, 250, 1500, 60_000, 90_000] {
            let span = Span(Duration::from_millis(millis));
            assert_eq!(span.to_string().parse(), Ok(span));
        }
    }
}
