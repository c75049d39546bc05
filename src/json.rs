//! Parses JSON of strangers with a bound on its values.
//!
//! A JSON value takes 70 to 250 bytes of memory, even if its text is one digit. So the number of values bounds the
//! memory, and the length of the text does not. The values are counted while the tree is built, and parsing ends at the
//! first value too many. `serde_json` bounds the depth: it refuses more than 128 levels.

use std::{cell::Cell, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, map::Entry};

/// What to do with a member whose name an earlier member of the same object has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duplicates {
    /// The text is refused. Parsers differ in which of the members they use, and attacks exploit the difference.
    Refused,
    /// The last one is used, as by `serde_json`.
    LastWins,
}

/// Parses JSON with at most `max_values` values. The values of objects and arrays count, and these themselves; names of
/// members do not.
///
/// # Errors
/// The parser's error. It says so if there are too many values, or a member is given twice.
pub(crate) fn parse(bytes: &[u8], max_values: usize, duplicates: Duplicates) -> Result<Value, serde_json::Error> {
    let left = Cell::new(max_values);
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Bounded { left: &left, max_values, duplicates }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// Deserializes an object within another value, with at most 20,000 values.
///
/// # Errors
/// If it is no object, or has more values.
#[cfg(feature = "agent")]
pub(crate) fn bounded_object<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map<String, Value>, D::Error> {
    const MAX_VALUES: usize = 20_000;
    let left = Cell::new(MAX_VALUES);
    let bounded = Bounded { left: &left, max_values: MAX_VALUES, duplicates: Duplicates::LastWins };
    match bounded.deserialize(deserializer)? {
        Value::Object(members) => Ok(members),
        _ => Err(D::Error::custom("it is not an object")),
    }
}

/// Counts the values of a tree, the tree itself included.
pub(crate) fn count_values(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count_values).sum(),
        Value::Object(members) => members.values().map(count_values).sum(),
        _ => 0,
    }
}

/// Builds a value, and counts it.
#[derive(Clone, Copy)]
struct Bounded<'a> {
    left: &'a Cell<usize>,
    max_values: usize,
    duplicates: Duplicates,
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.left.get().checked_sub(1) {
            Some(left) => self.left.set(left),
            None => {
                return Err(D::Error::custom(format_args!("it has more than {} values", self.max_values)));
            }
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            array.push(item);
        }
        Ok(array.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(self)?;
            match map.entry(name) {
                Entry::Vacant(entry) => drop(entry.insert(value)),
                Entry::Occupied(mut entry) if self.duplicates == Duplicates::LastWins => drop(entry.insert(value)),
                Entry::Occupied(entry) => {
                    let name: String = entry.key().chars().take(100).collect();
                    return Err(A::Error::custom(format_args!("the member {name:?} is given twice")));
                }
            }
        }
        Ok(map.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_are_refused_at_every_depth() {
        let parse = |text: &str| parse(text.as_bytes(), 100, Duplicates::Refused);
        assert!(parse(r#"{"a":{"b":[{"c":1,"d":2.5,"e":null,"f":true,"g":-1}]}}"#).is_ok());
        for bad in [r#"{"a":1,"a":1}"#, r#"{"a":{"b":1,"b":2}}"#, r#"{"a":[{"b":1,"b":2}]}"#, r#"{"a":1,"\u0061":1}"#] {
            assert!(parse(bad).unwrap_err().to_string().contains("is given twice"), "{bad}");
        }
        for bad in ["", "{", "{}x", "[1,]"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_last_duplicate_wins_if_allowed() {
        let text = r#"{"a":1,"b":2,"a":{"c":3}}"#;
        let parsed = parse(text.as_bytes(), 100, Duplicates::LastWins).unwrap();
        assert_eq!(parsed, serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn values_are_counted_and_bounded() {
        for (text, values) in [("1", 1), ("[]", 1), ("[1,2,{}]", 4), (r#"{"a":[{"b":null}],"c":"d"}"#, 5)] {
            let parsed = parse(text.as_bytes(), values, Duplicates::Refused).unwrap();
            assert_eq!(count_values(&parsed), values, "{text}");
            let error = parse(text.as_bytes(), values - 1, Duplicates::Refused).unwrap_err();
            assert!(error.to_string().contains("values"), "{error}");
        }
        // Nothing is read beyond the first value too many.
        assert!(parse(b"[1,2,!", 2, Duplicates::Refused).unwrap_err().to_string().contains("more than 2 values"));
    }

    #[test]
    fn depth_is_bounded() {
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse(deep(120).as_bytes(), 1000, Duplicates::Refused).is_ok());
        assert!(parse(deep(130).as_bytes(), 1000, Duplicates::Refused).is_err());
    }
}
