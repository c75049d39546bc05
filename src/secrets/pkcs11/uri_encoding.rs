//! Percent-encoding in `pkcs11:` URIs (RFC 7512 section 2.3).

use percent_encoding::{AsciiSet, CONTROLS};

/// The characters that need no encoding in a value (RFC 7512 section 2.3, `pk11-path-res-avail` and RFC 3986
/// `unreserved`). The query allows `more` characters; `&` is allowed in the path only.
const PLAIN: &str = "-._~:[]@!$'()*+,=";

/// Percent-decoding that refuses characters which RFC 7512 wants encoded.
/// `percent_encoding::percent_decode` accepts them.
pub(super) fn decode(value: &str, more: &str) -> Option<Vec<u8>> {
    let mut bytes = value.bytes();
    let mut decoded = Vec::with_capacity(value.len());
    while let Some(byte) = bytes.next() {
        let plain = byte.is_ascii_alphanumeric()
            || PLAIN.as_bytes().contains(&byte)
            || more.as_bytes().contains(&byte)
            || (more.is_empty() && byte == b'&');
        match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                decoded.push((high * 16 + low) as u8);
            }
            _ if plain => decoded.push(byte),
            _ => return None,
        }
    }
    Some(decoded)
}

/// The characters to encode: all but `unreserved`. In the query, `/` and `:` are not encoded either, so that people
/// can read paths.
pub(super) const IN_PATH: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'$')
    .add(b'%')
    .add(b'&')
    .add(b'\'')
    .add(b'(')
    .add(b')')
    .add(b'*')
    .add(b'+')
    .add(b',')
    .add(b'/')
    .add(b':')
    .add(b';')
    .add(b'<')
    .add(b'=')
    .add(b'>')
    .add(b'?')
    .add(b'@')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}')
    .add(b'!');
pub(super) const IN_QUERY: &AsciiSet = &IN_PATH.remove(b'/').remove(b':');
