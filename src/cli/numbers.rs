//! Numbers as text: exact, or not at all.

/// Beyond this, neighbouring whole numbers are one double: 2^53.
const WHOLE_LIMIT: f64 = 9_007_199_254_740_992.0;

/// A double as people and JSON write it: `12`, `0.1`, `1e300`. Read back it is the same double, `-0` included.
pub fn format(number: f64) -> String {
    if number.abs() < WHOLE_LIMIT && number.fract() == 0.0 {
        return format!("{number}");
    }
    // Shortest digits that read back as the same double; an exponent only where there would be many zeros.
    if (1e-5..1e17).contains(&number.abs()) { format!("{number}") } else { format!("{number:e}") }
}

/// A cell that reads as a number and back as the same text: `12`, `-0.5`; not `02139`, `1e5`, `+1`, `1.50`, `-0`,
/// and no whole number of 2^53 or more (ids of 17 digits are text).
pub fn parse_plain(text: &str) -> Option<f64> {
    let number: f64 = text.parse().ok()?;
    let plain = number.is_finite()
        && !(number == 0.0 && number.is_sign_negative())
        && (number.fract() != 0.0 || number.abs() < WHOLE_LIMIT)
        && format!("{number}") == text;
    plain.then_some(number)
}

/// A number in any decimal notation; `None` if it is none, or not finite.
pub fn parse_any(text: &str) -> Option<f64> {
    let decimal = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'));
    text.parse().ok().filter(|number: &f64| decimal && number.is_finite())
}

/// A number in JSON's notation whose decimal value a double keeps: `1e5`, `1.50`, `0.1`; not `12345678901234567`.
pub fn parse_exact(text: &str) -> Option<f64> {
    let number = parse_any(text)?;
    (significant(text)? == significant(&format!("{number:e}"))?).then_some(number)
}

/// Sign, digits without outer zeros, and the exponent of a decimal number: equal for equal values.
fn significant(text: &str) -> Option<(bool, String, i64)> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let mut exponent: i64 = exponent.parse().ok()?;
    let (negative, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, mantissa.strip_prefix('+').unwrap_or(mantissa)),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let trimmed = digits.trim_end_matches('0');
    exponent =
        exponent.checked_sub(fraction.len() as i64)?.checked_add((digits.len() - trimmed.len()) as i64)?;
    let trimmed = trimmed.trim_start_matches('0');
    if trimmed.is_empty() {
        exponent = 0;
    }
    Some((negative, trimmed.to_owned(), exponent))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_cells_are_numbers_only_if_they_round_trip() {
        for (text, number) in [
            ("0", 0.0),
            ("12", 12.0),
            ("-0.5", -0.5),
            ("3.25", 3.25),
            ("9007199254740991", 9_007_199_254_740_991.0),
        ] {
            assert_eq!(parse_plain(text), Some(number), "{text}");
        }
        for text in [
            "02139",
            "1e5",
            "+1",
            " 1",
            "1 ",
            "1.50",
            ".5",
            "5.",
            "-0",
            "NaN",
            "inf",
            "",
            "12345678901234567",
            "10000000000000000",
            "9007199254740992",
            "1,5",
            "0x10",
            "1_000",
            "0.1234567890123456789",
        ] {
            assert_eq!(parse_plain(text), None, "{text}");
        }
    }

    #[test]
    fn json_numbers_must_be_exact() {
        for (text, number) in
            [("1e5", 1e5), ("1.50", 1.5), ("0.1", 0.1), ("-0.0", -0.0), ("1E-7", 1e-7), ("100", 100.0)]
        {
            assert_eq!(parse_exact(text).map(f64::to_bits), Some(f64::to_bits(number)), "{text}");
        }
        for text in [
            "12345678901234567",
            "0.1234567890123456789",
            "1e400",
            "1e-400",
            "1e99999999999999999999",
            "x",
            "NaN",
        ] {
            assert_eq!(parse_exact(text), None, "{text}");
        }
    }

    #[test]
    fn numbers_read_well() {
        for (number, text) in
            [(12.0, "12"), (0.1, "0.1"), (-3.5, "-3.5"), (1e300, "1e300"), (1e-9, "1e-9"), (-0.0, "-0")]
        {
            assert_eq!(format(number), text);
        }
    }

    proptest! {
        #[test]
        fn every_double_comes_back(number in proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL | proptest::num::f64::ZERO) {
            prop_assert_eq!(parse_exact(&format(number)).map(f64::to_bits), Some(number.to_bits()));
        }

        #[test]
        fn plain_means_the_same_text(number in any::<f64>(), whole in any::<i64>()) {
            for text in [format!("{number}"), format!("{whole}")] {
                if let Some(read) = parse_plain(&text) {
                    prop_assert_eq!(format!("{}", read), text);
                }
            }
        }
    }
}
