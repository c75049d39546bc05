//! What a person is told of an operation, who is asked for a PIN or a touch.

use std::{fmt, sync::Arc};

use super::Allow;

/// What an operation is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purpose {
    /// What is done.
    pub operation: Allow,
    /// The DID at the other end: who a message says that it is from, which nobody has proved by then, or whom it is for.
    pub peer: Option<Arc<str>>,
}

/// A DID of a did:peer:4 may have thousands of characters: so many of its first ones are shown, and so many of its last.
const HEAD: usize = 24;
const TAIL: usize = 8;

/// Fits behind "the PIN is wanted" and "touch the key".
impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peer = self.peer.as_deref().map(shortened);
        match (self.operation, peer) {
            (Allow::Unwrap, Some(peer)) => write!(f, "to read a message that says it is from {peer}"),
            (Allow::Unwrap, None) => f.write_str("to read a message that does not say who it is from"),
            (Allow::Wrap, Some(peer)) => write!(f, "to send a message to {peer}"),
            (Allow::Wrap, None) => f.write_str("to send a message"),
            (Allow::SignMessage, Some(peer)) => write!(f, "to sign a message to {peer}"),
            (Allow::SignMessage, None) => f.write_str("to sign a message"),
            (Allow::SignFromPrior, _) => f.write_str("to sign that a DID moves to another"),
            (Allow::SignWebvhEntry, _) => f.write_str("to sign what a DID is from now on"),
        }
    }
}

/// A stranger wrote it: its length is bounded, and nothing of it moves a terminal's cursor.
fn shortened(did: &str) -> String {
    let did: Vec<char> = did.chars().filter(|letter| !letter.is_control()).collect();
    if did.len() <= HEAD + TAIL + 3 {
        return did.into_iter().collect();
    }
    let (head, tail) = (&did[..HEAD], &did[did.len() - TAIL..]);
    format!("{}...{}", head.iter().collect::<String>(), tail.iter().collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_reads() {
        let purpose = |operation, peer: Option<&str>| Purpose { operation, peer: peer.map(Into::into) }.to_string();
        assert_eq!(
            purpose(Allow::Unwrap, Some("did:example:alice")),
            "to read a message that says it is from did:example:alice"
        );
        let long = format!("did:peer:4{}", "z".repeat(5000));
        assert!(purpose(Allow::Wrap, Some(&long)).len() < 80);
        assert!(!purpose(Allow::SignMessage, Some("did:x:\u{1b}[2J\n")).contains(['\u{1b}', '\n']));
        for operation in Allow::ALL {
            assert!(purpose(operation, None).starts_with("to "));
        }
    }
}
