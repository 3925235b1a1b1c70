//! Times as text: RFC 3339 dates and timestamps, to the nanosecond, over the whole range of a protobuf timestamp.

use jiff::SignedDuration;
use jiff::civil::{Date, DateTime};
use prost_types::Timestamp;

/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z in seconds since 1970: the range of google.protobuf.Timestamp.
const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// A text that is no time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// Neither a date nor a timestamp.
    #[error("not an RFC 3339 date or timestamp, such as 2020-04-10 or 2020-04-10T12:30:00Z")]
    Shape,
    /// No such day or time of day, or a year beyond 0001 to 9999.
    #[error("no such time")]
    Range,
}

fn epoch() -> Date {
    DateTime::constant(1970, 1, 1, 0, 0, 0, 0).date()
}

/// Reads a date (midnight UTC) or a timestamp with its offset. Nothing else: no local times, no week dates, at
/// most nine decimals, no leap seconds.
pub fn parse(text: &str) -> Result<Timestamp, TimeError> {
    let (date, rest) = text.split_at_checked(10).ok_or(TimeError::Shape)?;
    let (year, month, day) = three(date, '-', [4, 2, 2])?;
    let date = Date::new(narrow(year)?, narrow(month)?, narrow(day)?).map_err(|_| TimeError::Range)?;
    let mut seconds = date.duration_since(epoch()).as_secs();
    let mut nanos = 0;
    if !rest.is_empty() {
        let rest = rest.strip_prefix(['T', 't', ' ']).ok_or(TimeError::Shape)?;
        let (clock, rest) = rest.split_at_checked(8).ok_or(TimeError::Shape)?;
        let (hour, minute, second) = three(clock, ':', [2, 2, 2])?;
        if hour > 23 || minute > 59 || second > 59 {
            return Err(TimeError::Range);
        }
        let (fraction, zone) = fraction(rest)?;
        nanos = fraction;
        seconds += i64::from(hour * 3600 + minute * 60 + second) - offset(zone)?;
    }
    if SECONDS.contains(&seconds) { Ok(Timestamp { seconds, nanos }) } else { Err(TimeError::Range) }
}

/// Writes a timestamp, exactly, in UTC. `None` if it is outside of the range that a timestamp may have.
pub fn format(time: &Timestamp) -> Option<String> {
    if !SECONDS.contains(&time.seconds) || !(0..1_000_000_000).contains(&time.nanos) {
        return None;
    }
    let civil = epoch()
        .to_datetime(jiff::civil::Time::midnight())
        .checked_add(SignedDuration::from_secs(time.seconds));
    let civil = civil.ok()?;
    let mut text = format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
        civil.year(),
        civil.month(),
        civil.day(),
        civil.hour(),
        civil.minute(),
        civil.second()
    );
    if time.nanos > 0 {
        let fraction = format!(".{:09}", time.nanos);
        text.push_str(fraction.trim_end_matches('0'));
    }
    text.push('Z');
    Some(text)
}

/// Three numbers of exactly so many digits with `between` between them.
fn three(text: &str, between: char, digits: [usize; 3]) -> Result<(u32, u32, u32), TimeError> {
    let mut parts = text.split(between);
    let mut next = |len| match parts.next() {
        Some(part) if part.len() == len => number(part),
        _ => Err(TimeError::Shape),
    };
    let [first, second, third] = digits;
    let found = (next(first)?, next(second)?, next(third)?);
    if parts.next().is_some() { Err(TimeError::Shape) } else { Ok(found) }
}

fn number(digits: &str) -> Result<u32, TimeError> {
    if digits.bytes().all(|b| b.is_ascii_digit()) {
        digits.parse().map_err(|_| TimeError::Shape)
    } else {
        Err(TimeError::Shape)
    }
}

fn narrow<T: TryFrom<u32>>(number: u32) -> Result<T, TimeError> {
    T::try_from(number).map_err(|_| TimeError::Range)
}

/// Nanoseconds, and what follows them.
fn fraction(text: &str) -> Result<(i32, &str), TimeError> {
    let Some(text) = text.strip_prefix('.') else { return Ok((0, text)) };
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, zone) = text.split_at(end);
    if digits.is_empty() || digits.len() > 9 {
        return Err(TimeError::Shape);
    }
    let nanos = format!("{digits:0<9}").parse().map_err(|_| TimeError::Shape)?;
    Ok((nanos, zone))
}

/// `Z` or `+hh:mm`, in seconds east of UTC.
fn offset(zone: &str) -> Result<i64, TimeError> {
    if zone == "Z" || zone == "z" {
        return Ok(0);
    }
    let (sign, rest) = match (zone.strip_prefix('+'), zone.strip_prefix('-')) {
        (Some(rest), _) => (1, rest),
        (_, Some(rest)) => (-1, rest),
        _ => return Err(TimeError::Shape),
    };
    let (hours, minutes) = rest.split_once(':').ok_or(TimeError::Shape)?;
    if hours.len() != 2 || minutes.len() != 2 {
        return Err(TimeError::Shape);
    }
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    if hours > 23 || minutes > 59 {
        Err(TimeError::Range)
    } else {
        Ok(sign * i64::from(hours * 3600 + minutes * 60))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64, nanos: i32) -> Timestamp {
        Timestamp { seconds, nanos }
    }

    #[test]
    fn reads_dates_and_timestamps() {
        assert_eq!(parse("1970-01-01"), Ok(at(0, 0)));
        assert_eq!(parse("2020-04-10T12:30:00.25+02:00"), Ok(at(1_586_514_600, 250_000_000)));
        assert_eq!(parse("2020-04-10 10:30:00z"), Ok(at(1_586_514_600, 0)));
        assert_eq!(parse("1969-12-31T23:59:59.999999999Z"), Ok(at(-1, 999_999_999)));
        assert_eq!(parse("9999-12-31T23:59:59Z"), Ok(at(*SECONDS.end(), 0)));
        assert_eq!(parse("0001-01-01"), Ok(at(*SECONDS.start(), 0)));
    }

    #[test]
    fn refuses_what_is_no_time() {
        for text in [
            "",
            "2020",
            "20200410",
            "2020-4-10",
            "2020-04-10T12:30Z",
            "2020-04-10T12:30:00",
            "2020-04-10x",
            "2020-04-10T12:30:00.Z",
            "2020-04-10T12:30:00.1234567890Z",
            "2020-04-10T12:30:00+2:00",
            "+020-04-10",
            "2020-04-10T12:30:00Z[UTC]",
            "2020-04-10Z",
            "２０２０-04-10",
        ] {
            assert_eq!(parse(text), Err(TimeError::Shape), "{text}");
        }
        for text in [
            "2020-02-30",
            "0000-01-01",
            "2020-04-10T24:00:00Z",
            "2016-12-31T23:59:60Z",
            "0001-01-01T00:00:00+01:00",
        ] {
            assert_eq!(parse(text), Err(TimeError::Range), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_time_comes_back(seconds in SECONDS, nanos in 0..1_000_000_000_i32) {
            let time = at(seconds, nanos);
            prop_assert_eq!(parse(&format(&time).unwrap()), Ok(time));
        }

        #[test]
        fn never_panics(text in "\\PC*", near in "[0-9TZ:.+ -]{0,35}") {
            let _ = (parse(&text), parse(&near));
        }
    }
}
