//! Parses JSON of strangers with a bound on its values.
//!
//! A JSON value takes 70 to 250 bytes of memory, even if its text is one digit. So the number of values bounds the
//! memory, and the length of the text does not. The values are counted while the tree is built, and parsing ends at the
//! first value too many. `serde_json` bounds the depth: it refuses more than 128 levels.
//!
//! With the feature `exact-numbers`, numbers keep all their digits. Without it, a number that is neither a 64-bit integer
//! nor a double is rounded to a double, or refused if it is larger than any.

use std::{cell::Cell, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value, map::Entry};

/// The start of the names under which `serde_json` hides its own values in a map. Members of strangers must not have such
/// a name: `serde_json` would read them as a number or as JSON text.
const PRIVATE: &str = "$serde_json::private::";
/// The name of a map's only member if the map is a number (feature `arbitrary_precision` of `serde_json`, which another
/// crate of the program may have turned on).
const PRIVATE_NUMBER: &str = "$serde_json::private::Number";

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
    parse_with(bytes, Bounded { left: &left, max_values, duplicates, only_doubles: false })
}

/// Parses JSON that is hashed in its canonical form, which has doubles only (RFC 8785 section 3.2.2.3). The last one of
/// several members with one name is used.
///
/// # Errors
/// Those of [`parse`], and a number that is larger than any double.
pub(crate) fn parse_for_hash(bytes: &[u8], max_values: usize) -> Result<Value, serde_json::Error> {
    let left = Cell::new(max_values);
    parse_with(bytes, Bounded { left: &left, max_values, duplicates: Duplicates::LastWins, only_doubles: true })
}

fn parse_with(bytes: &[u8], bounded: Bounded<'_>) -> Result<Value, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = bounded.deserialize(&mut deserializer)?;
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
    let bounded =
        Bounded { left: &left, max_values: MAX_VALUES, duplicates: Duplicates::LastWins, only_doubles: false };
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
    /// Refuses numbers that are larger than any double.
    only_doubles: bool,
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

    fn visit_i128<E: Error>(self, value: i128) -> Result<Value, E> {
        Number::from_i128(value).map(Value::Number).ok_or_else(|| E::custom("a number is out of range"))
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<Value, E> {
        Number::from_u128(value).map(Value::Number).ok_or_else(|| E::custom("a number is out of range"))
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
            if name.starts_with(PRIVATE) {
                let number = (name == PRIVATE_NUMBER && map.is_empty()).then(|| members.next_value_seed(NumberText));
                return match number {
                    Some(Ok(number)) if self.only_doubles && number.as_f64().is_none() => {
                        Err(A::Error::custom("a number is out of range"))
                    }
                    Some(Ok(number)) => Ok(number.into()),
                    _ => {
                        Err(A::Error::custom(format_args!("a member whose name begins with {PRIVATE} is not allowed")))
                    }
                };
            }
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

/// Reads the text of a number. `serde_json` passes it as an owned text, and a text of the JSON as a borrowed one. So no
/// stranger's object passes for a number.
struct NumberText;

impl<'de> DeserializeSeed<'de> for NumberText {
    type Value = Number;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Number, D::Error> {
        deserializer.deserialize_string(self)
    }
}

impl Visitor<'_> for NumberText {
    type Value = Number;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number that serde_json has read")
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Number, E> {
        Err(E::custom("it is a text of the JSON"))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Number, E> {
        text.parse().map_err(E::custom)
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

    /// `serde_json` itself would read the first of these as the number 1, and the third as an array.
    #[test]
    fn names_that_serde_json_reserves_are_refused() {
        for text in [
            r#"{"$serde_json::private::Number":"1"}"#,
            r#"{"$serde_json::private::Numb\u0065r":"\u0031"}"#,
            r#"{"$serde_json::private::RawValue":"[1,2,3]"}"#,
            r#"{"a":[{"b":1,"$serde_json::private::Number":"1"}]}"#,
            r#"{"$serde_json::private::Number":{"$serde_json::private::Number":"1"}}"#,
        ] {
            for duplicates in [Duplicates::Refused, Duplicates::LastWins] {
                let error = parse(text.as_bytes(), 100, duplicates).unwrap_err();
                assert!(error.to_string().contains("is not allowed"), "{text}: {error}");
            }
        }
    }

    #[cfg(feature = "exact-numbers")]
    #[test]
    fn numbers_keep_their_digits_and_count_as_one_value() {
        for text in ["[123456789012345678901,-0,0.10,3.14159265358979323846,1e+400,-1.50E-7]", "-0.0"] {
            let values = text.split(',').count() + usize::from(text.starts_with('['));
            let parsed = parse(text.as_bytes(), values, Duplicates::Refused).unwrap();
            assert_eq!(parsed.to_string(), text.replace('E', "e"));
            assert_eq!(count_values(&parsed), values);
            assert!(parse(text.as_bytes(), values - 1, Duplicates::Refused).is_err());
        }
    }

    #[test]
    fn hashed_numbers_are_doubles() {
        assert!(parse_for_hash(br#"{"a":[123456789012345678901,1.50,1e308]}"#, 100).is_ok());
        for text in ["1e400", "[-1e400]", r#"{"a":{"b":1e309}}"#] {
            assert!(parse_for_hash(text.as_bytes(), 100).unwrap_err().to_string().contains("out of range"), "{text}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse(deep(120).as_bytes(), 1000, Duplicates::Refused).is_ok());
        assert!(parse(deep(130).as_bytes(), 1000, Duplicates::Refused).is_err());
    }
}
