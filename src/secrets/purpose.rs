//! The purpose of an operation, as text for a person who is asked for a PIN or a touch.

use std::{fmt, sync::Arc};

use super::policy::KeyOperation;

/// What an operation is for. Its text (`Display`) completes "the PIN is needed" and "touch the key".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// An operation that a message or a DID needs.
    Operation {
        /// The operation.
        operation: KeyOperation,
        /// The DID at the other end: the recipient, or the sender that a received message claims, which is not
        /// verified yet.
        peer: Option<Arc<str>>,
    },
    /// A test of the key itself.
    KeyTest,
    /// Making, importing or deleting a key.
    KeyChange,
}

/// How many characters of a long DID are shown at its start. A did:peer:4 DID may have thousands.
const SHOWN_AT_START: usize = 24;
/// How many characters of a long DID are shown at its end.
const SHOWN_AT_END: usize = 8;

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (operation, peer) = match self {
            Self::Operation { operation, peer } => (operation, peer),
            Self::KeyTest => return f.write_str("to test the key"),
            Self::KeyChange => return f.write_str("to change its keys"),
        };
        match (operation, peer.as_deref().map(shortened)) {
            (KeyOperation::Unwrap, Some(peer)) => write!(f, "to read a message that says it is from {peer}"),
            (KeyOperation::Unwrap, None) => f.write_str("to read a message that does not say who it is from"),
            (KeyOperation::Wrap, Some(peer)) => write!(f, "to send a message to {peer}"),
            (KeyOperation::Wrap, None) => f.write_str("to send a message"),
            (KeyOperation::SignMessage, Some(peer)) => write!(f, "to sign a message to {peer}"),
            (KeyOperation::SignMessage, None) => f.write_str("to sign a message"),
            (KeyOperation::SignFromPrior, _) => f.write_str("to sign a DID rotation"),
            (KeyOperation::SignWebvhEntry, _) => f.write_str("to sign a change of a DID's document"),
        }
    }
}

/// A DID for display, with a bounded length and without control characters: the peer chose the DID, and it must not
/// move a terminal's cursor.
fn shortened(did: &str) -> String {
    let did: Vec<char> = did.chars().filter(|letter| !letter.is_control()).collect();
    if did.len() <= SHOWN_AT_START + SHOWN_AT_END + 3 {
        return did.into_iter().collect();
    }
    let (start, end) = (&did[..SHOWN_AT_START], &did[did.len() - SHOWN_AT_END..]);
    format!("{}...{}", start.iter().collect::<String>(), end.iter().collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_names_the_peer_and_is_safe_to_print() {
        let text =
            |operation, peer: Option<&str>| Purpose::Operation { operation, peer: peer.map(Into::into) }.to_string();
        assert_eq!(
            text(KeyOperation::Unwrap, Some("did:example:alice")),
            "to read a message that says it is from did:example:alice"
        );
        let long = format!("did:peer:4{}", "z".repeat(5000));
        assert!(text(KeyOperation::Wrap, Some(&long)).len() < 80);
        assert!(!text(KeyOperation::SignMessage, Some("did:x:\u{1b}[2J\n")).contains(['\u{1b}', '\n']));
        for operation in KeyOperation::ALL {
            assert!(text(operation, None).starts_with("to "));
        }
        assert_eq!(Purpose::KeyTest.to_string(), "to test the key");
    }
}
