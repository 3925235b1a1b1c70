//! Types from cells: what every cell of a column can be without losing anything.

use std::collections::BTreeMap;

use crate::cli::values::{printable, type_name, type_of};
use crate::cli::{numbers, times, values};
use crate::proto::value::Kind;
use crate::proto::{StringList, ValueType};

use super::row::Cell;

/// What is known of a column when all its cells were seen.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// Cells with something in them.
    pub filled: u64,
    /// The first few of them, shortened, for people.
    pub examples: Vec<String>,
    /// Where each type was first seen that a JSON value says it is; or for text, where each type that it might have
    /// been was first ruled out.
    seen: BTreeMap<&'static str, (u64, ValueType)>,
    ruled_out: BTreeMap<&'static str, (u64, String)>,
    text: bool,
}

/// The types that text is tried for, in this order.
const GUESSES: [ValueType; 3] = [ValueType::Number, ValueType::Bool, ValueType::Time];

const EXAMPLES: usize = 3;

impl Evidence {
    /// Takes a cell into account.
    pub fn see(&mut self, line: u64, cell: &Cell) {
        self.filled += 1;
        let shown = match cell {
            Cell::Text(text) => shorten(text),
            Cell::Json(json) => shorten(&json.to_string()),
        };
        if self.examples.len() < EXAMPLES && !self.examples.contains(&shown) {
            self.examples.push(shown.clone());
        }
        match cell {
            Cell::Text(text) => {
                self.text = true;
                for guess in GUESSES {
                    let name = type_name(guess);
                    if !self.ruled_out.contains_key(name) && !fits(text, guess) {
                        self.ruled_out.insert(name, (line, shown.clone()));
                    }
                }
            }
            Cell::Json(json) => {
                if let Ok(kind) = values::from_json(json) {
                    let kind = type_of(&kind);
                    self.seen.entry(type_name(kind)).or_insert((line, kind));
                }
            }
        }
    }

    /// The type; `None` for a column without any cell. The error says which cells disagree.
    pub fn infer(&self) -> Result<Option<ValueType>, String> {
        if self.text {
            let guess = GUESSES.into_iter().find(|guess| !self.ruled_out.contains_key(type_name(*guess)));
            return Ok(Some(guess.unwrap_or(ValueType::String)));
        }
        let mut seen = self.seen.iter();
        match (seen.next(), seen.next()) {
            (Some((_, (_, kind))), None) => Ok(Some(*kind)),
            (Some((one, (line, _))), Some((other, (other_line, _)))) => {
                Err(format!("line {line} has a {one}, line {other_line} a {other}"))
            }
            (None, _) => Ok(None),
        }
    }

    /// The cell that ruled `kind` out, for people.
    pub fn against(&self, kind: ValueType) -> Option<String> {
        self.ruled_out.get(type_name(kind)).map(|(line, cell)| format!("line {line}: {cell}"))
    }
}

/// A cell as a table or message shows it.
pub fn shorten(text: &str) -> String {
    const WIDTH: usize = 24;
    let printable = printable(text);
    if printable.chars().count() <= WIDTH {
        return printable;
    }
    let mut short: String = printable.chars().take(WIDTH - 1).collect();
    short.push('…');
    short
}

fn fits(text: &str, kind: ValueType) -> bool {
    match kind {
        ValueType::Number => numbers::parse_plain(text).is_some(),
        ValueType::Bool => matches!(text, "true" | "false"),
        ValueType::Time => times::parse(text).is_ok(),
        _ => true,
    }
}

/// The cell as a value of `kind`. For types that were inferred this cannot fail; for types that were asked for it reads
/// generously: any decimal number, `true`/`false` in any case, `yes`/`no`, `1`/`0`. `separator` splits text into a list.
pub fn convert(cell: &Cell, kind: ValueType, separator: Option<&str>) -> Result<Kind, String> {
    let text = match cell {
        Cell::Text(text) => text.clone(),
        Cell::Json(json) => match (json, kind) {
            (serde_json::Value::String(text), _) => text.clone(),
            (serde_json::Value::Number(number), ValueType::String) => number.to_string(),
            (serde_json::Value::Bool(flag), ValueType::String) => flag.to_string(),
            _ => {
                let value = values::from_json(json)?;
                return if type_of(&value) == kind { Ok(value) } else { Err(not_a(kind, &json.to_string())) };
            }
        },
    };
    let value = match kind {
        ValueType::String => Some(Kind::StringValue(text.clone())),
        ValueType::Number => numbers::parse_any(&text).map(Kind::NumberValue),
        ValueType::Bool => match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "1" => Some(Kind::BoolValue(true)),
            "false" | "no" | "0" => Some(Kind::BoolValue(false)),
            _ => None,
        },
        ValueType::Time => times::parse(&text).ok().map(Kind::TimeValue),
        ValueType::List => separator.map(|separator| {
            Kind::ListValue(StringList { values: text.split(separator).map(str::to_owned).collect() })
        }),
        ValueType::Unspecified => None,
    };
    value.ok_or_else(|| not_a(kind, &text))
}

fn not_a(kind: ValueType, text: &str) -> String {
    format!("not a {}: {}", type_name(kind), shorten(text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn inferred(cells: &[&str]) -> ValueType {
        let mut evidence = Evidence::default();
        for (line, cell) in cells.iter().enumerate() {
            evidence.see(line as u64 + 2, &Cell::Text((*cell).to_owned()));
        }
        evidence.infer().unwrap().unwrap()
    }

    #[test]
    fn a_column_is_what_all_its_cells_are() {
        assert_eq!(inferred(&["1", "2.5", "-3"]), ValueType::Number);
        assert_eq!(inferred(&["true", "false"]), ValueType::Bool);
        assert_eq!(inferred(&["2020-04-10", "2020-04-10T12:00:00+02:00"]), ValueType::Time);
        for cells in [
            &["1", "02139"][..],
            &["12345678901234567"],
            &["1e5"],
            &["+1"],
            &[" 1"],
            &["true", "1"],
            &["True"],
            &["2020-04-10", "soon"],
            &["pro"],
        ] {
            assert_eq!(inferred(cells), ValueType::String, "{cells:?}");
        }
    }

    #[test]
    fn json_values_say_what_they_are_and_must_agree() {
        let json = |text| Cell::Json(serde_json::from_str(text).unwrap());
        let mut evidence = Evidence::default();
        assert_eq!(evidence.infer(), Ok(None));
        evidence.see(1, &json("\"12\""));
        assert_eq!(evidence.infer(), Ok(Some(ValueType::String)));
        evidence.see(4, &json("12"));
        assert_eq!(evidence.infer(), Err("line 4 has a number, line 1 a string".to_owned()));
    }

    #[test]
    fn types_asked_for_read_generously_or_say_why_not() {
        let text = |text: &str| Cell::Text(text.to_owned());
        assert_eq!(convert(&text("02139"), ValueType::Number, None), Ok(Kind::NumberValue(2139.0)));
        assert_eq!(convert(&text("YES"), ValueType::Bool, None), Ok(Kind::BoolValue(true)));
        let list = StringList { values: vec!["a".into(), " b".into()] };
        assert_eq!(convert(&text("a; b"), ValueType::List, Some(";")), Ok(Kind::ListValue(list)));
        assert_eq!(convert(&text("x"), ValueType::Number, None), Err("not a number: x".to_owned()));
        assert!(convert(&text("inf"), ValueType::Number, None).is_err());
        let json = |text| Cell::Json(serde_json::from_str(text).unwrap());
        assert_eq!(
            convert(&json("12345678901234567"), ValueType::String, None),
            Ok(Kind::StringValue("12345678901234567".into()))
        );
        assert!(convert(&json("[\"a\"]"), ValueType::String, None).is_err());
    }

    proptest! {
        #[test]
        fn inference_never_loses_anything(cells in proptest::collection::vec("[0-9.e+-]{1,20}|true|false|[0-9]{4}-[0-9]{2}-[0-9]{2}|.{0,5}", 1..5)) {
            let cells: Vec<&str> = cells.iter().map(String::as_str).collect();
            let kind = inferred(&cells);
            for cell in cells {
                match convert(&Cell::Text(cell.to_owned()), kind, None).unwrap() {
                    Kind::StringValue(text) => prop_assert_eq!(text, cell),
                    Kind::NumberValue(number) => prop_assert_eq!(format!("{number}"), cell),
                    Kind::BoolValue(flag) => prop_assert_eq!(flag.to_string(), cell),
                    Kind::TimeValue(time) => prop_assert_eq!(Ok(time), times::parse(cell)),
                    Kind::ListValue(_) => prop_assert!(false, "a list is never inferred"),
                }
            }
        }
    }
}
