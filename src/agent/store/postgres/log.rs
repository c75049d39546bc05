//! What nodes tell one another: the log, with an entry for each transaction that changed something.
//!
//! The transactions of all nodes follow one another, so each node reads all entries before its next transaction, and none comes
//! late. From an entry, another node takes how the totals have changed, and the hints for its agent.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::totals::Counts;
use crate::agent::store::node::Hint;

/// The most deliveries that an entry names. With more of them, the hint for one is enough.
const MAX_DELIVERIES: usize = 100;

/// What a transaction has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Entry {
    /// How the totals have changed.
    pub counts: Counts,
    /// The ids of new deliveries.
    deliveries: Vec<String>,
    /// Whether there is a new event.
    has_event: bool,
    /// The kinds of changed records.
    kinds: BTreeSet<String>,
    /// The node that has taken over envelopes of another one.
    adopted_by: Option<i64>,
    /// The nodes that were given envelopes by others.
    given_to: BTreeSet<i64>,
    /// The nodes that send new messages, or messages that they have taken over, with the peers.
    outgoing: BTreeSet<(i64, String)>,
    /// Whether this transaction has taken over something. The agent hears of it like another one's.
    #[serde(skip)]
    has_taken: bool,
}

impl Entry {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub fn delivered(&mut self, id: &str) {
        if self.deliveries.len() < MAX_DELIVERIES {
            self.deliveries.push(id.to_owned());
        }
    }

    pub fn recorded(&mut self) {
        self.has_event = true;
    }

    pub fn changed(&mut self, kind: &str) {
        if !self.kinds.contains(kind) {
            self.kinds.insert(kind.to_owned());
        }
    }

    /// There is a new message for a peer, which a node sends.
    pub fn sent(&mut self, node: i64, peer: &str) {
        self.outgoing.insert((node, peer.to_owned()));
    }

    /// A node has taken over the messages for a peer.
    pub fn taken(&mut self, by: i64, peer: &str) {
        self.sent(by, peer);
        self.has_taken = true;
    }

    /// A node has taken over envelopes.
    pub fn adopted(&mut self, by: i64) {
        self.adopted_by = Some(by);
        self.has_taken = true;
    }

    /// Envelopes are handed over to another node, or to this one.
    pub fn given(&mut self, to: i64, is_this: bool) {
        self.given_to.insert(to);
        self.has_taken |= is_this;
    }

    /// Whether this transaction has taken over what another node had.
    pub fn has_taken(&self) -> bool {
        self.has_taken
    }

    /// What a node with this number hears from the entry.
    pub fn hints(&self, node: i64) -> Vec<Hint> {
        let outgoing =
            self.outgoing.iter().map(|(by, peer)| Hint::Outgoing { peer: peer.clone(), is_here: *by == node });
        let delivered = self.deliveries.iter().map(|id| Hint::Delivered { id: id.clone() });
        let recorded = self.has_event.then_some(Hint::Recorded);
        let changed = self.kinds.iter().map(|kind| Hint::Changed { kind: kind.clone() });
        let has_pending = self.adopted_by == Some(node) || self.given_to.contains(&node);
        let pending = has_pending.then_some(Hint::Pending);
        outgoing.chain(delivered).chain(recorded).chain(changed).chain(pending).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::store::postgres::totals::{Count, Counter};

    #[test]
    fn an_entry_survives_the_log_and_gives_hints() {
        let mut entry = Entry::default();
        assert!(entry.is_empty());
        // One was sent, and one is new: the sums tell nothing.
        entry.sent(7, "did:example:bob");
        entry.counts.add(Counter::UnsentBy(7, "did:example:eve".to_owned()), Count::of(-1, 0));
        entry.counts.add(Counter::Pending, Count::of(1, 100));
        entry.delivered("d1");
        entry.changed("blocked");
        entry.adopted(7);
        entry.given(9, false);
        let text = serde_json::to_string(&entry).unwrap();
        let read: Entry = serde_json::from_str(&text).unwrap();
        assert!(entry.has_taken() && !read.has_taken());
        assert_eq!(read, Entry { has_taken: false, ..entry });
        let outgoing = |is_here| Hint::Outgoing { peer: "did:example:bob".to_owned(), is_here };
        let (delivered, changed) =
            (Hint::Delivered { id: "d1".to_owned() }, Hint::Changed { kind: "blocked".to_owned() });
        assert_eq!(read.hints(7), [outgoing(true), delivered.clone(), changed.clone(), Hint::Pending]);
        assert_eq!(read.hints(8), [outgoing(false), delivered.clone(), changed.clone()]);
        assert_eq!(read.hints(9), [outgoing(false), delivered, changed, Hint::Pending]);
        // A later release may tell more.
        let later = r#"{"counts":[["Pending",[1,2]],["Unheard",[1,2]],[{"Unheard":"x"},[1,2]]],"more":{}}"#;
        let mut known = Counts::default();
        known.add(Counter::Pending, Count::of(1, 2));
        assert_eq!(serde_json::from_str::<Entry>(later).unwrap().counts, known);
    }
}
