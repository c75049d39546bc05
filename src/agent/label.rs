//! The label of a peer: the name that a person has given it. A label is never sent to anyone.
//!
//! One peer has a label at most, and no two peers have the same one, whatever the case of its letters. So a label names a
//! peer like an address. What a peer calls itself is another text, and is never looked up.

use serde::{Deserialize, Serialize};

use super::{protocol::RecordType, sealed_store::SealedStore, store::StoreError};

/// The longest label, in characters.
const MAX_CHARS: usize = 64;

/// The name that a person has given a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label(String);

/// Why a text cannot be a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLabel {
    /// It has no character that can be seen.
    #[error("a label has at least one letter")]
    Empty,
    /// It is too long.
    #[error("a label has at most {MAX_CHARS} characters")]
    TooLong,
    /// It has a control character, or a character that changes the direction of the text or is not seen.
    #[error("a label has no control characters, and none that change the direction of the text")]
    Control,
    /// It could be taken for a DID.
    #[error("a label does not begin with \"did:\"")]
    Did,
}

impl Label {
    /// Reads a label. White space at both ends is removed, and other white space becomes one space.
    ///
    /// # Errors
    /// [`InvalidLabel`] if the text cannot be a label.
    pub fn parse(text: &str) -> Result<Self, InvalidLabel> {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let folded = fold(&text);
        if text.chars().any(is_misleading) {
            return Err(InvalidLabel::Control);
        }
        if folded.is_empty() {
            return Err(InvalidLabel::Empty);
        }
        if text.chars().count() > MAX_CHARS {
            return Err(InvalidLabel::TooLong);
        }
        if folded.starts_with("did:") {
            return Err(InvalidLabel::Did);
        }
        Ok(Self(text))
    }

    /// The label as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Returns the form in which labels are compared: in lower case, with single spaces, and without the joiners of scripts such
/// as Persian.
pub(super) fn fold(label: &str) -> String {
    let joined = label.split_whitespace().collect::<Vec<_>>().join(" ");
    joined.chars().filter(|letter| !matches!(letter, '\u{200c}' | '\u{200d}')).flat_map(char::to_lowercase).collect()
}

/// Whether a character can hide or reorder text: a control character, a line separator, or a format character (general
/// category Cf) other than the two joiners that some scripts and emoji need.
pub fn is_misleading(letter: char) -> bool {
    letter.is_control()
        || matches!(letter,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// The peers that have a label, by the label. The key of the record hides the label. More than one peer has the same label only
/// if an older release has written them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LabelHolders {
    /// The DIDs of the peers when the label was given. A peer may have rotated since, or lost the label.
    pub peers: Vec<String>,
}

impl RecordType for LabelHolders {
    const KIND: &'static str = "label";
}

impl LabelHolders {
    /// Returns the key of the record for a label.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] while the store is sealed.
    pub fn key(store: &SealedStore, label: &str) -> Result<String, StoreError> {
        store.hidden_key(Self::KIND, &fold(label))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read() {
        for (text, label) in [
            ("Alice", "Alice"),
            ("  Alice \u{a0} B.  ", "Alice B."),
            ("Zoë 👩\u{200d}💻", "Zoë 👩\u{200d}💻"),
            ("می\u{200c}خواهم", "می\u{200c}خواهم"),
        ] {
            assert_eq!(Label::parse(text).unwrap().as_str(), label);
        }
        for (text, error) in [
            ("", InvalidLabel::Empty),
            (" \u{200d} ", InvalidLabel::Empty),
            ("Al\u{1b}[2Jice", InvalidLabel::Control),
            ("\u{202e}ecilA", InvalidLabel::Control),
            ("Al\u{200b}ice", InvalidLabel::Control),
            ("Alice\u{e0041}", InvalidLabel::Control),
            ("did:web:example.com", InvalidLabel::Did),
            ("D\u{200d}ID:x", InvalidLabel::Did),
        ] {
            assert_eq!(Label::parse(text), Err(error), "{text:?}");
        }
        assert!(Label::parse(&"x".repeat(64)).is_ok());
        assert_eq!(Label::parse(&"x".repeat(65)), Err(InvalidLabel::TooLong));
    }

    #[test]
    fn labels_are_compared_without_case_and_joiners() {
        assert_eq!(fold("  ALICE   b"), fold("Alice B"));
        assert_eq!(fold("Al\u{200c}ice"), fold("alice"));
        assert_ne!(fold("Alice"), fold("Alice B"));
    }
}
