//! Reads times and whole numbers that peers wrote.
//!
//! The specification has whole numbers of seconds since 1970 (v2.1 "Message Headers"). Peers also write `1700000000.0` and
//! RFC 3339 texts. Each form has one meaning, so all are read. Those with more than one, such as a number in a string, are
//! not.

use std::time::UNIX_EPOCH;

use serde_json::{Number, Value};

/// How far the clock of a peer may differ from ours, in seconds: five minutes.
pub(crate) const MAX_CLOCK_SKEW_SECONDS: u32 = 5 * 60;
/// The number up to which a double has every whole number: 2^53.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// Reads a time, in seconds since 1970 (UTC).
///
/// # Errors
/// What the value is instead, in the words of JSON.
pub(super) fn time(value: &Value) -> Result<u64, &'static str> {
    match value {
        Value::String(text) => rfc3339(text).ok_or("a string that is no RFC 3339 time in UTC"),
        other => whole_number(other),
    }
}

/// Reads a whole number. `5.0` and `0.5e1` are whole, since JSON has one kind of number (RFC 8259 section 6).
///
/// # Errors
/// What the value is instead, in the words of JSON.
pub(super) fn whole_number(value: &Value) -> Result<u64, &'static str> {
    match value {
        Value::Number(number) => whole(number),
        other => Err(kind(other)),
    }
}

fn whole(number: &Number) -> Result<u64, &'static str> {
    match (number.as_u64(), number.as_f64()) {
        (Some(whole), _) => Ok(whole),
        (None, Some(number)) if number < 0.0 => Err("a negative number"),
        (None, Some(number)) if number.fract() != 0.0 => Err("a number that is not whole"),
        (None, Some(number)) if number <= MAX_EXACT => Ok(number as u64),
        _ => Err("a number that is too large"),
    }
}

/// Reads a time in UTC (RFC 3339 section 5.6). A fraction of a second is dropped.
fn rfc3339(text: &str) -> Option<u64> {
    let utc = text.strip_suffix("+00:00").map(|text| format!("{text}Z"));
    let time = humantime::parse_rfc3339(utc.as_deref().unwrap_or(text)).ok()?;
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

/// Reads the NumericDate of a JWT, in seconds since 1970 (UTC): a number that may have a fraction and be negative (RFC
/// 7519 section 2).
///
/// # Errors
/// What the value is instead, in the words of JSON.
pub(super) fn numeric_date(value: &Value) -> Result<f64, &'static str> {
    match value {
        Value::Number(number) => match number.as_f64() {
            Some(seconds) if seconds.abs() <= MAX_EXACT => Ok(seconds),
            _ => Err("a number that is too large"),
        },
        other => Err(kind(other)),
    }
}

/// The type of a JSON value (RFC 8259 section 3).
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
