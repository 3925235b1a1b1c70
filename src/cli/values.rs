//! Attribute values as JSON, and back. The same shape everywhere: on the command line, in `--json` output, in
//! export and import.
//!
//! | type   | JSON                               |
//! |--------|------------------------------------|
//! | string | `"pro"`                            |
//! | number | `12` (exactly a double, otherwise refused) |
//! | bool   | `true`                             |
//! | time   | `{"time": "2020-04-10T00:00:00Z"}` |
//! | list   | `["a", "b"]`                       |

use prost_types::Timestamp;
use serde_json::Value as Json;

use super::{numbers, times};
use crate::proto::value::Kind;
use crate::proto::{StringList, Value, ValueType};

/// What a JSON value says, as a typed value. `null` is none. The error is a reason for people.
pub fn from_json(json: &Json) -> Result<Kind, String> {
    match json {
        Json::String(text) => Ok(Kind::StringValue(text.clone())),
        Json::Bool(flag) => Ok(Kind::BoolValue(*flag)),
        Json::Number(number) => {
            let text = number.to_string();
            numbers::parse_exact(&text).map(Kind::NumberValue).ok_or_else(|| {
                format!("the number {text} cannot be kept exactly (a double has about 16 digits): make it a string")
            })
        }
        Json::Array(items) => {
            let values: Option<Vec<String>> =
                items.iter().map(|item| item.as_str().map(str::to_owned)).collect();
            let values = values.ok_or("a list holds strings only")?;
            Ok(Kind::ListValue(StringList { values }))
        }
        Json::Object(fields) => match (fields.len(), fields.get("time")) {
            (1, Some(Json::String(text))) => time(text).map(Kind::TimeValue),
            _ => Err("an object is only a time: {\"time\": \"2020-04-10T00:00:00Z\"}".to_owned()),
        },
        Json::Null => Err("null is no value".to_owned()),
    }
}

/// A time of the text, or a reason for people.
pub fn time(text: &str) -> Result<Timestamp, String> {
    times::parse(text).map_err(|error| format!("{text:?}: {error}"))
}

/// A value as JSON. The error says what is wrong with it: only a server that breaks its own rules sends such.
pub fn to_json(value: &Value) -> Result<Json, String> {
    match &value.kind {
        Some(Kind::StringValue(text)) => Ok(Json::String(text.clone())),
        Some(Kind::NumberValue(number)) => number_json(*number),
        Some(Kind::BoolValue(flag)) => Ok(Json::Bool(*flag)),
        Some(Kind::TimeValue(time)) => Ok(serde_json::json!({ "time": time_text(time)? })),
        Some(Kind::ListValue(list)) => Ok(Json::from(list.values.clone())),
        None => Err("a value without a kind".to_owned()),
    }
}

/// A timestamp as text.
pub fn time_text(time: &Timestamp) -> Result<String, String> {
    times::format(time)
        .ok_or_else(|| format!("a timestamp out of range ({} s, {} ns)", time.seconds, time.nanos))
}

fn number_json(number: f64) -> Result<Json, String> {
    let text = numbers::format(number);
    // Through its text: serde_json would write 12 as 12.0.
    serde_json::from_str(&text).map_err(|_| format!("a number that is not finite ({number})"))
}

/// A value on one line for people: strings as they are (control characters escaped), lists with commas.
pub fn to_text(value: &Value) -> Result<String, String> {
    Ok(match &value.kind {
        Some(Kind::StringValue(text)) => printable(text),
        Some(Kind::NumberValue(number)) => numbers::format(*number),
        Some(Kind::BoolValue(flag)) => flag.to_string(),
        Some(Kind::TimeValue(time)) => time_text(time)?,
        Some(Kind::ListValue(list)) => {
            serde_json::to_string(&list.values).map_err(|error| error.to_string())?
        }
        None => return Err("a value without a kind".to_owned()),
    })
}

/// The text without anything that would move a terminal's cursor or change its colours.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// The type of a kind.
pub fn type_of(kind: &Kind) -> ValueType {
    match kind {
        Kind::StringValue(_) => ValueType::String,
        Kind::NumberValue(_) => ValueType::Number,
        Kind::BoolValue(_) => ValueType::Bool,
        Kind::TimeValue(_) => ValueType::Time,
        Kind::ListValue(_) => ValueType::List,
    }
}

/// The word for a type.
pub fn type_name(kind: ValueType) -> &'static str {
    match kind {
        ValueType::Unspecified => "unknown",
        ValueType::String => "string",
        ValueType::Number => "number",
        ValueType::Bool => "bool",
        ValueType::Time => "time",
        ValueType::List => "list",
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Any value that the service accepts, and strings that look like other types.
    pub(crate) fn any_value() -> impl Strategy<Value = Value> {
        let text = prop_oneof![
            ".{0,40}",
            "[0-9]{17}",
            "0[0-9]{4}",
            Just("true".to_owned()),
            Just(String::new()),
            Just("2020-04-10".to_owned()),
            "[\",\\n\\r\\\\ \\t\u{feff}]{0,9}"
        ];
        let number = proptest::num::f64::NORMAL
            | proptest::num::f64::SUBNORMAL
            | proptest::num::f64::ZERO
            | proptest::num::f64::NEGATIVE;
        let number = prop_oneof![
            number.prop_filter("finite", |n| n.is_finite()),
            (-1_000_000..1_000_000_i32).prop_map(f64::from)
        ];
        let kind = prop_oneof![
            text.clone().prop_map(Kind::StringValue),
            number.prop_map(Kind::NumberValue),
            any::<bool>().prop_map(Kind::BoolValue),
            any_time().prop_map(Kind::TimeValue),
            proptest::collection::vec(text, 0..5).prop_map(|values| Kind::ListValue(StringList { values })),
        ];
        kind.prop_map(|kind| Value { kind: Some(kind) })
    }

    pub(crate) fn any_time() -> impl Strategy<Value = Timestamp> {
        (-62_135_596_800..=253_402_300_799_i64, 0..1_000_000_000_i32)
            .prop_map(|(seconds, nanos)| Timestamp { seconds, nanos })
    }

    #[test]
    fn shapes_are_stable() {
        let json = |text| serde_json::from_str::<Json>(text).unwrap();
        for text in
            [r#""pro""#, "12", "0.1", "true", r#"{"time":"2020-04-10T00:00:00Z"}"#, r#"["a","b"]"#, "[]"]
        {
            let value = Value { kind: Some(from_json(&json(text)).unwrap()) };
            assert_eq!(to_json(&value).unwrap().to_string(), text);
        }
        for text in ["null", "[1]", "{}", r#"{"time":1}"#, "12345678901234567", r#"{"time":"x"}"#, "1e999"] {
            assert!(from_json(&json(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn a_terminal_is_not_steered() {
        assert_eq!(printable("a\u{1b}[31m\nb"), "a\\u{1b}[31m\\nb");
    }

    proptest! {
        #[test]
        fn every_value_comes_back(value in any_value()) {
            let text = to_json(&value).unwrap().to_string();
            let json: Json = serde_json::from_str(&text).unwrap();
            let back = from_json(&json).unwrap();
            if let (Kind::NumberValue(a), Some(Kind::NumberValue(b))) = (&back, &value.kind) {
                prop_assert_eq!(a.to_bits(), b.to_bits());
            }
            prop_assert_eq!(Some(back), value.kind);
        }
    }
}
