//! Compares DIDs. Two texts may name the same DID.

use std::borrow::Cow;

use super::peer::short_form;

/// Returns the form in which DIDs are compared: the short form of a did:peer:4, and percent-encodings with capital letters
/// (RFC 3986 section 6.2.2.1). `did:web:a.example%3a8080` is the same DID as `did:web:a.example%3A8080`.
pub(crate) fn canonical_did(did: &str) -> Cow<'_, str> {
    with_capital_escapes(short_form(did).unwrap_or(did))
}

/// Whether two texts name the same DID: their canonical forms are equal.
pub(crate) fn is_same_did(a: &str, b: &str) -> bool {
    // The long form of a did:peer:4 is hashed only for another did:peer:4.
    let is_peer_4 = |did: &str| did.starts_with("did:peer:4");
    match (is_peer_4(a), is_peer_4(b)) {
        _ if a == b => true,
        (true, true) => canonical_did(a) == canonical_did(b),
        (false, false) => a.len() == b.len() && capital_escapes(a).eq(capital_escapes(b)),
        _ => false,
    }
}

/// Returns a DID with its percent-encodings in capital letters.
pub(super) fn with_capital_escapes(did: &str) -> Cow<'_, str> {
    if !did.contains('%') || capital_escapes(did).eq(did.chars()) {
        return Cow::Borrowed(did);
    }
    Cow::Owned(capital_escapes(did).collect())
}

/// The characters of a DID, with those of percent-encodings in capital letters.
fn capital_escapes(did: &str) -> impl Iterator<Item = char> {
    let mut digits: u8 = 0;
    did.chars().map(move |letter| {
        let is_digit = digits > 0;
        digits = if letter == '%' { 2 } else { digits.saturating_sub(1) };
        if is_digit { letter.to_ascii_uppercase() } else { letter }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_compared_without_case() {
        for (a, b) in [
            ("did:web:a.example%3a8080", "did:web:a.example%3A8080"),
            ("did:web:a.example:%e7%94%A8", "did:web:a.example:%E7%94%a8"),
            ("did:webvh:Qm:a.example%3a1:b", "did:webvh:Qm:a.example%3A1:b"),
        ] {
            assert!(is_same_did(a, b) && is_same_did(b, a), "{a} {b}");
            assert_eq!(canonical_did(a), canonical_did(b));
        }
        for (a, b) in [
            ("did:web:a.example%3A8080", "did:web:a.example%3A8081"),
            ("did:web:A.example", "did:web:a.example"),
            ("did:web:a.example:b", "did:web:a.example:%62"),
            ("did:web:a.example%3a8080", "did:web:a.example%3A80800"),
            ("did:web:a.example:%e7b", "did:web:a.example:%E7B"),
            ("did:web:a.example%3A1", "did:peer:4zQmExample%3A1"),
        ] {
            assert!(!is_same_did(a, b), "{a} {b}");
        }
        // A text that is no DID does not panic.
        for text in ["%", "%a", "a%b\u{e4}", "%\u{20ac}x", ""] {
            assert!(canonical_did(text).len() == text.len(), "{text}");
        }
    }
}
