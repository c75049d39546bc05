//! Texts that stand for bytes: base64, multibase and hexadecimal. There is one reading function for each kind of text
//! that peers write, so that a spelling is read everywhere or nowhere.
//!
//! | text | function |
//! |---|---|
//! | members of a JWE, JWS, JWT or JWK | [`from_base64url`]: each byte string has exactly one spelling |
//! | attachments, the parameter `_oob`, services of a did:peer:2 | [`from_base64`]: every spelling that is in use |
//! | hashes of attachments, keys in DID documents | [`from_multibase`], [`from_base58`], [`from_hex`] |

use std::{borrow::Cow, fmt::Write};

use base64::{
    Engine, alphabet,
    engine::general_purpose::{GeneralPurpose, NO_PAD, URL_SAFE_NO_PAD},
};

/// The longest base58 text that is read, in characters. Decoding takes quadratic time.
const MAX_BASE58: usize = 200;

/// Standard base64 without padding. Bits that are left over may be set, as most decoders allow.
const LENIENT: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, NO_PAD.with_decode_allow_trailing_bits(true));

/// Writes bytes in base64url without padding (RFC 4648 section 5).
pub(crate) fn to_base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Writes JSON in base64url whose characters are letters and digits only, so that readers of standard base64 and
/// patterns for alphanumeric text take it too. `-` and `_` come from characters outside ASCII, and from `>`, `?`, `~`
/// and DEL where they are the last of three bytes. These are written as JSON escapes.
///
/// Libraries that read no `-` and `_` in a did:peer:2: peerdid 0.5.2, @aviarytech/did-peer 0.0.22, @veramo/did-provider-peer
/// 7.0.1, @credo-ts/core 0.7.0; in an invitation: @hyperledger/identus-sdk 7.0.0.
pub(crate) fn json_to_base64url(json: &str) -> String {
    let mut plain = String::with_capacity(json.len());
    for letter in json.chars() {
        let is_last = plain.len() % 3 == 2;
        if letter.is_ascii() && !(is_last && matches!(letter, '>' | '?' | '~' | '\u{7f}')) {
            plain.push(letter);
            continue;
        }
        // Such a letter is within a string, and never after a backslash.
        for unit in letter.encode_utf16(&mut [0; 2]) {
            write!(plain, "\\u{unit:04x}").expect("writing to a string cannot fail");
        }
    }
    to_base64url(plain)
}

/// Reads base64url as JOSE has it (RFC 7515 section 2): no padding, no white space, and no unused bits set at the end.
pub(crate) fn from_base64url(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// Reads base64 in every spelling: the alphabets of standard base64 and of base64url, with and without padding, broken
/// into lines, and percent-encoded.
pub(crate) fn from_base64(text: &str) -> Option<Vec<u8>> {
    // Most texts are in base64url without padding.
    if let Ok(bytes) = URL_SAFE_NO_PAD.decode(text) {
        return Some(bytes);
    }
    let mut standard = percent_decoded(text.as_bytes())?.into_owned();
    standard.retain(|byte| !byte.is_ascii_whitespace());
    while standard.last() == Some(&b'=') {
        standard.pop();
    }
    for byte in &mut standard {
        match byte {
            b'-' => *byte = b'+',
            b'_' => *byte = b'/',
            _ => {}
        }
    }
    LENIENT.decode(standard).ok()
}

/// Reads a multibase text in one of the bases that peers use: base58btc (`z`), base64url (`u`, `U`), base64 (`m`, `M`)
/// and hexadecimal (`f`, `F`).
pub(crate) fn from_multibase(text: &str) -> Option<Vec<u8>> {
    let (base, rest) = text.split_at_checked(1)?;
    match base {
        "z" => from_base58(rest),
        "u" | "U" | "m" | "M" => from_base64(rest),
        "f" | "F" => from_hex(rest),
        _ => None,
    }
}

/// Reads base58btc of at most 200 characters, without a multibase prefix.
pub(crate) fn from_base58(text: &str) -> Option<Vec<u8>> {
    if text.len() > MAX_BASE58 {
        return None;
    }
    bs58::decode(text).into_vec().ok()
}

/// Reads hexadecimal digits in either case.
pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits.chunks_exact(2).map(|pair| Some((hex_digit(pair[0])? << 4) | hex_digit(pair[1])?)).collect()
}

fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// Replaces `%` and two hexadecimal digits by the byte that they stand for (RFC 3986 section 2.1). `None` if a `%` has
/// no digits.
fn percent_decoded(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    if !text.contains(&b'%') {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(&byte) = rest.next() {
        bytes.push(match byte {
            b'%' => (hex_digit(*rest.next()?)? << 4) | hex_digit(*rest.next()?)?,
            byte => byte,
        });
    }
    Some(Cow::Owned(bytes))
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// RFC 4648 section 10, and bytes whose texts differ in the two alphabets.
    #[test]
    fn every_spelling_of_base64_is_read() {
        for (text, bytes) in [
            ("", &b""[..]),
            ("Zg==", b"f"),
            ("Zm8=", b"fo"),
            ("Zm9v", b"foo"),
            ("Zm9vYg", b"foob"),
            ("Zm9vYmE", b"fooba"),
            ("+/8=", b"\xfb\xff"),
            ("+/8", b"\xfb\xff"),
            ("-_8=", b"\xfb\xff"),
            ("-_8", b"\xfb\xff"),
            ("%2B%2f8%3D", b"\xfb\xff"),
            ("Zm9v\r\nYmFy\n", b"foobar"),
            // Bits that are left over.
            ("Zh", b"f"),
        ] {
            assert_eq!(from_base64(text).as_deref(), Some(bytes), "{text:?}");
        }
        for text in ["Z", "Zm9vY", "Zm.v", "Zg=Zg", "%", "%2", "%zz", "Zé", "Zm9v\0"] {
            assert_eq!(from_base64(text), None, "{text:?}");
        }
    }

    #[test]
    fn jose_has_one_spelling() {
        assert_eq!(from_base64url("-_8"), Some(vec![0xfb, 0xff]));
        for text in ["-_8=", "+/8", "+/8=", "-_9", "-_8\n", " -_8", "%2D_8", "A"] {
            assert_eq!(from_base64url(text), None, "{text:?}");
        }
    }

    #[test]
    fn every_base_of_multibase_is_read() {
        for text in ["zCn8eVZg", "uaGVsbG8", "UaGVsbG8=", "maGVsbG8", "MaGVsbG8=", "f68656c6C6f", "F68656C6C6F"] {
            assert_eq!(from_multibase(text).as_deref(), Some(&b"hello"[..]), "{text}");
        }
        for text in ["", "z", "z0", "f6", "fzz", "?aGVsbG8", "é"] {
            assert_eq!(from_multibase(text).filter(|bytes| !bytes.is_empty()), None, "{text:?}");
        }
        assert_eq!(from_base58(&"2".repeat(MAX_BASE58 + 1)), None);
    }

    proptest! {
        #[test]
        fn all_spellings_are_the_same_bytes(bytes: Vec<u8>) {
            for text in [
                STANDARD.encode(&bytes),
                STANDARD_NO_PAD.encode(&bytes),
                URL_SAFE.encode(&bytes),
                URL_SAFE_NO_PAD.encode(&bytes),
            ] {
                let encoded = text.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
                let lines: String = text.chars().flat_map(|letter| [letter, '\n']).collect();
                for text in [&text, &encoded, &lines] {
                    prop_assert_eq!(from_base64(text), Some(bytes.clone()));
                }
            }
            prop_assert_eq!(from_base64url(&to_base64url(&bytes)), Some(bytes));
        }

        #[test]
        fn nothing_panics(text: String, escaped in "[%A-Fa-f0-9+/=_\n-]{0,40}") {
            for text in [text, escaped] {
                let _ = (from_base64(&text), from_base64url(&text), from_multibase(&text), from_hex(&text));
            }
        }

        #[test]
        fn json_is_letters_and_digits(texts in prop::collection::vec("[a-z>?~\u{7f}\"\\\\\u{0}é\u{1F511}]{0,12}", 0..6)) {
            let value = json!({ "a": texts });
            let encoded = json_to_base64url(&value.to_string());
            prop_assert!(encoded.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{}", encoded);
            let read: Value = serde_json::from_slice(&from_base64url(&encoded).unwrap()).unwrap();
            prop_assert_eq!(read, value);
        }
    }
}
