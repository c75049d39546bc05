//! The JSON Canonicalization Scheme (RFC 8785): one text for each JSON value, for hashes and signatures.
//!
//! Strangers write the input, so the time must depend on its length only. The crate `serde_json_canonicalizer` is not
//! used, because its time also grows with the nesting depth. `tests/crypto/canonical_json.rs` compares the results of
//! this file with those of that crate.

use serde_json::Value;

/// Writes a value as canonical JSON. Numbers are rounded to doubles, as RFC 8785 demands. A number that is larger than any
/// double, for which the RFC has no form, is written as it is.
pub fn canonical_json(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text);
    text
}

/// Writes a value. The recursion is as deep as the value is nested; `serde_json` parses at most 128 levels.
fn write(value: &Value, text: &mut String) {
    match value {
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write(item, text);
            }
            text.push(']');
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            // Members are sorted by UTF-16 code units (section 3.2.3). This order differs from that of
            // Unicode code points.
            members.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            text.push('{');
            for (index, (name, value)) in members.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                text.push_str(&quoted(name));
                text.push(':');
                write(value, text);
            }
            text.push('}');
        }
        Value::Number(number) => text.push_str(&match number.as_f64() {
            Some(double) => ecmascript_number(double),
            None => number.to_string(),
        }),
        Value::String(string) => text.push_str(&quoted(string)),
        Value::Null | Value::Bool(_) => text.push_str(&value.to_string()),
    }
}

/// Writes a string. `serde_json` escapes exactly the characters that section 3.2.2.2 demands, in the same way.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string is JSON")
}

/// Writes a number as ECMAScript does (section 3.2.2.3; ECMA-262 Number::toString).
fn ecmascript_number(number: f64) -> String {
    if number == 0.0 {
        return "0".to_owned();
    }
    let scientific = shortest_digits(number.abs());
    let (mantissa, exponent) = scientific.split_once('e').expect("`{:e}` writes an exponent");
    let digits = mantissa.replace('.', "");
    let exponent: i32 = exponent.parse().expect("`{:e}` writes a number there");
    // The position of the decimal point among the digits.
    let point = exponent + 1;
    let zeros = |count: i32| "0".repeat(count as usize);
    let length = digits.len() as i32;
    let unsigned = match point {
        point if length <= point && point <= 21 => digits + &zeros(point - length),
        1..=21 => format!("{}.{}", &digits[..point as usize], &digits[point as usize..]),
        -5..=0 => format!("0.{}{digits}", zeros(-point)),
        _ => format!("{mantissa}e{exponent:+}"),
    };
    if number < 0.0 { format!("-{unsigned}") } else { unsigned }
}

/// Returns the shortest decimal that parses to this number, in scientific notation. Among equally short decimals,
/// ECMAScript and Rust take the nearest to the number. Between two that are equally near, ECMAScript takes the one with
/// an even last digit. Rust takes the greater, unless the number of digits is given.
fn shortest_digits(number: f64) -> String {
    let greater = format!("{number:e}");
    let digits = greater.bytes().take_while(|byte| *byte != b'e').filter(u8::is_ascii_digit).count();
    let even = format!("{number:.*e}", digits - 1);
    if even.parse() == Ok(number) { even } else { greater }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8785 appendix B.
    #[test]
    fn numbers() {
        for (bits, text) in [
            (0x0000000000000000, "0"),
            (0x8000000000000000, "0"),
            (0x0000000000000001, "5e-324"),
            (0x8000000000000001, "-5e-324"),
            (0x7fefffffffffffff, "1.7976931348623157e+308"),
            (0xffefffffffffffff, "-1.7976931348623157e+308"),
            (0x4340000000000000, "9007199254740992"),
            (0xc340000000000000, "-9007199254740992"),
            (0x4430000000000000, "295147905179352830000"),
            (0x44b52d02c7e14af5, "9.999999999999997e+22"),
            (0x44b52d02c7e14af6, "1e+23"),
            (0x44b52d02c7e14af7, "1.0000000000000001e+23"),
            (0x444b1ae4d6e2ef4e, "999999999999999700000"),
            (0x444b1ae4d6e2ef4f, "999999999999999900000"),
            (0x444b1ae4d6e2ef50, "1e+21"),
            (0x3eb0c6f7a0b5ed8c, "9.999999999999997e-7"),
            (0x3eb0c6f7a0b5ed8d, "0.000001"),
            (0x41b3de4355555553, "333333333.3333332"),
            (0x41b3de4355555554, "333333333.33333325"),
            (0x41b3de4355555555, "333333333.3333333"),
            (0x41b3de4355555556, "333333333.3333334"),
            (0x41b3de4355555557, "333333333.33333343"),
            (0xbecbf647612f3696, "-0.0000033333333333333333"),
            (0x43143ff3c1cb0959, "1424953923781206.2"),
        ] {
            assert_eq!(ecmascript_number(f64::from_bits(bits)), text);
            // The text parses to the same number.
            let read: Value = serde_json::from_str(text).unwrap();
            assert_eq!(read.as_f64().map(f64::to_bits), Some(if text == "0" { 0 } else { bits }), "{text}");
        }
    }

    /// RFC 8785 sections 3.2.2 and 3.2.3.
    #[test]
    fn strings_and_members() {
        let value = r#"{
            "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
            "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
            "literals": [null, true, false]
        }"#;
        let canonical = r#"{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}"#;
        assert_eq!(canonical_json(&serde_json::from_str(value).unwrap()), canonical);
        let value = r#"{"\u20ac": "Euro Sign", "\r": "Carriage Return", "\ufb33": "Hebrew Letter Dalet With Dagesh",
            "1": "One", "\ud83d\ude00": "Emoji: Grinning Face", "\u0080": "Control", "\u00f6": "Latin Small Letter O With Diaeresis"}"#;
        let canonical = canonical_json(&serde_json::from_str(value).unwrap());
        let positions =
            ["Carriage", "One", "Control", "Latin", "Euro", "Emoji", "Hebrew"].map(|it| canonical.find(it).unwrap());
        assert!(positions.is_sorted(), "{canonical}");
    }
}
