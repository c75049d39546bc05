//! What a mediator has delivered in a session, to tell what is new from what is repeated.

use std::collections::HashSet;

use sha2::{Digest, Sha256};

/// The most messages that are remembered. Then all are forgotten, and a repetition is taken for new once.
const MAX_REMEMBERED: usize = 10_000;

type Digests = HashSet<[u8; 32]>;

/// The digests of delivered messages, and of the ids under which they were acknowledged.
#[derive(Default)]
pub(super) struct Delivered {
    contents: Digests,
    acknowledged: Digests,
    /// Whether each message is acknowledged by itself, because the mediator has repeated acknowledged ones.
    pub one_by_one: bool,
}

impl Delivered {
    /// Remembers a message. Returns whether it was not delivered before.
    pub fn add(&mut self, packed: &[u8]) -> bool {
        insert(&mut self.contents, packed)
    }

    /// Remembers that a message was acknowledged.
    pub fn add_acknowledged(&mut self, id: &str) {
        insert(&mut self.acknowledged, id.as_bytes());
    }

    /// Whether a message with this id was acknowledged before.
    pub fn is_acknowledged(&self, id: &str) -> bool {
        self.acknowledged.contains(&digest(id.as_bytes()))
    }
}

fn insert(digests: &mut Digests, bytes: &[u8]) -> bool {
    if digests.len() >= MAX_REMEMBERED {
        digests.clear();
    }
    digests.insert(digest(bytes))
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repetition_is_not_new() {
        let mut delivered = Delivered::default();
        assert!(delivered.add(b"a") && delivered.add(b"b") && !delivered.add(b"a"));
        assert!(!delivered.is_acknowledged("1"));
        delivered.add_acknowledged("1");
        assert!(delivered.is_acknowledged("1") && !delivered.is_acknowledged("2"));
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut delivered = Delivered::default();
        for number in 0..MAX_REMEMBERED + 5 {
            assert!(delivered.add(&number.to_be_bytes()));
        }
        assert_eq!(delivered.contents.len(), 5);
    }
}
