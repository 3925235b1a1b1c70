//! Figures for people: bytes, lengths of time, counts, rates. Short enough for a table.

use std::time::Duration;

use indicatif::HumanCount;

/// `1.2 GiB`.
pub fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut amount = bytes as f64;
    let mut unit = 0;
    while amount >= 1000.0 && unit + 1 < units.len() {
        amount /= 1024.0;
        unit += 1;
    }
    let name = units.get(unit).unwrap_or(&"");
    if unit == 0 || amount >= 100.0 { format!("{amount:.0} {name}") } else { format!("{amount:.1} {name}") }
}

/// `1,234,567`.
pub fn count(count: u64) -> String {
    HumanCount(count).to_string()
}

/// `0`, `0.3`, `12`, `1,234`: per second.
pub fn rate(rate: f64) -> String {
    if rate > 0.0 && rate < 9.95 { format!("{rate:.1}") } else { count(rate.round().max(0.0) as u64) }
}

/// `850 us`, `1.2 ms`, `3.4 s`, `12 min`, `3 h 12 min`, `5 d 3 h`.
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs_f64();
    let whole = span.as_secs();
    match whole {
        _ if seconds < 0.001 => format!("{:.0} us", seconds * 1e6),
        _ if seconds < 0.01 => format!("{:.1} ms", seconds * 1e3),
        _ if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        _ if seconds < 10.0 => format!("{seconds:.1} s"),
        0..120 => format!("{whole} s"),
        120..7_200 => format!("{} min", whole / 60),
        7_200..172_800 => format!("{} h {} min", whole / 3600, whole / 60 % 60),
        _ => format!("{} d {} h", whole / 86_400, whole / 3600 % 24),
    }
}

/// A protobuf duration; one that is negative or absent is none.
pub fn proto_span(given: Option<&prost_types::Duration>) -> Option<Duration> {
    given.and_then(|given| Duration::try_from(*given).ok())
}

/// The same for people, `-` if there is none.
pub fn span_or_dash(given: Option<&prost_types::Duration>) -> String {
    proto_span(given).map_or_else(|| "-".to_owned(), span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        for (given, text) in [(0, "0 B"), (999, "999 B"), (1_000, "1.0 KiB"), (1 << 30, "1.0 GiB")] {
            assert_eq!(bytes(given), text);
        }
        assert_eq!(bytes(u64::MAX), "16777216 TiB");
        for (given, text) in [(0.0, "0"), (0.25, "0.2"), (9.96, "10"), (1234.4, "1,234")] {
            assert_eq!(rate(given), text);
        }
        for (millis, text) in [
            (0, "0 us"),
            (1, "1.0 ms"),
            (250, "250 ms"),
            (1_500, "1.5 s"),
            (90_000, "90 s"),
            (120_000, "2 min"),
            (11_520_000, "3 h 12 min"),
            (442_800_000, "5 d 3 h"),
        ] {
            assert_eq!(span(Duration::from_millis(millis)), text);
        }
    }
}
