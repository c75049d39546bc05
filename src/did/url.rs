//! The syntax of DIDs and DID URLs (DID Core 1.0 sections 3.1 and 3.2).

use std::{fmt, str::FromStr};

/// A DID URL with valid syntax: a DID, and optionally a path, a query and a fragment.
///
/// Two DID URLs are equal if their texts are equal. They are not normalised, since the rules differ
/// between DID methods.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DidUrl {
    text: String,
    /// The length of the DID, in bytes.
    did_length: usize,
    /// The position of the `#`, in bytes.
    hash: Option<usize>,
}

/// The text is not a DID URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not a DID URL (DID Core section 3)")]
pub struct DidUrlError;

impl DidUrl {
    /// Parses a DID URL.
    ///
    /// # Errors
    /// If `text` is not a DID URL. A relative reference such as `#key-1` is not a DID URL.
    pub fn parse(text: &str) -> Result<Self, DidUrlError> {
        let did_length = did_of(text).ok_or(DidUrlError)?.len();
        let hash = text.find('#');
        Ok(Self { text: text.to_owned(), did_length, hash })
    }

    /// The DID without path, query and fragment.
    pub fn did(&self) -> &str {
        &self.text[..self.did_length]
    }

    /// The fragment, without `#`.
    pub fn fragment(&self) -> Option<&str> {
        self.hash.map(|hash| &self.text[hash + 1..])
    }

    /// The whole text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for DidUrl {
    type Err = DidUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for DidUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whether `text` is a DID without path, query and fragment (DID Core section 3.1).
pub fn is_did(text: &str) -> bool {
    text.strip_prefix("did:").and_then(|rest| rest.split_once(':')).is_some_and(|(method, id)| {
        !method.is_empty()
            && method.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
            && !id.is_empty()
            && !id.ends_with(':')
            && consists_of(id, |byte| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte))
    })
}

/// Whether the document of a DID may change. A `did:key` and a `did:peer` contain their documents, or the hash of them.
pub(crate) fn is_mutable(did: &str) -> bool {
    !["did:key:", "did:peer:"].iter().any(|method| did.starts_with(method))
}

/// The DID of a DID URL. `None` if `url` is not a DID URL (DID Core section 3.2).
pub fn did_of(url: &str) -> Option<&str> {
    let (did, rest) = url.split_at(url.find(['/', '?', '#']).unwrap_or(url.len()));
    // Path, query and fragment consist of the `pchar` of RFC 3986, `/` and `?`. The first `#` begins the fragment, and
    // no other `#` may follow.
    let pchar = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?".contains(&byte);
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    (is_did(did) && consists_of(rest, pchar) && consists_of(fragment, pchar)).then_some(did)
}

/// Whether `text` consists of allowed and percent-encoded bytes only.
fn consists_of(text: &str, allowed: impl Fn(u8) -> bool) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let encoded = || (0..2).all(|_| bytes.next().is_some_and(|digit| digit.is_ascii_hexdigit()));
        if !(allowed(byte) || byte == b'%' && { encoded }()) {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_and_invalid_dids() {
        for did in ["did:example:123", "did:web:example.com%3A3000:user:alice", "did:x1::a", "did:key:z6Mk"] {
            assert!(is_did(did), "{did}");
            assert_eq!(did_of(did), Some(did));
        }
        for not in [
            "",
            "did:",
            "did:example",
            "did:example:",
            "did:Example:a",
            "DID:example:a",
            "did::a",
            "did:e:a:",
            "did:e:a b",
            "did:e:%4",
            "did:e:%zz",
            "did:e:a#b",
            "did:e:ä",
            "did:e:a=",
            " did:e:a",
        ] {
            assert!(!is_did(not), "{not}");
        }
    }

    #[test]
    fn the_parts_of_a_did_url() {
        let url = DidUrl::parse("did:e:a/path?versionId=1#key-1").unwrap();
        assert_eq!((url.did(), url.fragment()), ("did:e:a", Some("key-1")));
        let url = DidUrl::parse("did:e:a?x=/#").unwrap();
        assert_eq!((url.did(), url.fragment()), ("did:e:a", Some("")));
        assert_eq!(DidUrl::parse("did:e:a").unwrap().fragment(), None);
        for not in ["#key-1", "did:e#key-1", "did:e:a#b#c", "did:e:a#b c", "did:e:a?%0", "https://e/#a"] {
            assert_eq!(DidUrl::parse(not), Err(DidUrlError), "{not}");
        }
    }
}
