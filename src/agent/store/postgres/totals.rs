//! The sums that the limits are compared with, in memory.
//!
//! In SQLite triggers keep them in rows. Here every commit would write the same rows, and each change leaves a dead copy of its
//! row until PostgreSQL's vacuum. So a store counts what there is when it joins, and adds what each transaction has changed: its
//! own after the commit, and those of other nodes from the log.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What is counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Counter {
    /// All pending envelopes.
    Pending,
    /// The pending envelopes for one of our DIDs.
    PendingFor(String),
    /// The pending envelopes whose sender could not be resolved.
    Unresolved,
    /// Those of them for one of our DIDs.
    UnresolvedFor(String),
    /// The pending envelopes that take the share of a known peer, by the key of its connection.
    NamedBy(String),
    /// All unacknowledged deliveries.
    Unread,
    /// Those of strangers.
    UnreadOfStrangers,
    /// Those of one sender; empty for all that are not authenticated.
    UnreadFrom(String),
    /// All messages that wait to be sent.
    Unsent,
    /// Those for one peer.
    UnsentTo(String),
    /// Those that one node sends to one peer. Not counted by an agent that has the database for itself.
    UnsentBy(i64, String),
    /// The automatic replies to strangers that wait to be sent.
    StrangerReplies,
    /// The marks of strangers' messages.
    StrangerMarks,
    /// The records about strangers.
    StrangerRecords,
}

/// How many there are, and their bytes; or a change of both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(i64, i64)", into = "(i64, i64)")]
pub(super) struct Count {
    pub number: i64,
    pub bytes: i64,
}

impl From<(i64, i64)> for Count {
    fn from((number, bytes): (i64, i64)) -> Self {
        Self { number, bytes }
    }
}

impl From<Count> for (i64, i64) {
    fn from(Count { number, bytes }: Count) -> Self {
        (number, bytes)
    }
}

impl Count {
    pub fn of(number: i64, bytes: i64) -> Self {
        Self { number, bytes }
    }

    pub fn number(self) -> u64 {
        u64::try_from(self.number).unwrap_or(0)
    }

    pub fn bytes(self) -> u64 {
        u64::try_from(self.bytes).unwrap_or(0)
    }

    pub fn plus(self, other: Self) -> Self {
        Self { number: self.number + other.number, bytes: self.bytes + other.bytes }
    }

    pub fn minus(self, other: Self) -> Self {
        self.plus(Self { number: -other.number, bytes: -other.bytes })
    }
}

/// Counts, or changes of counts. A count of zero has no entry, so that there are no more entries than rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(Value, Count)>", into = "Vec<(Counter, Count)>")]
pub(super) struct Counts(HashMap<Counter, Count>);

impl From<Vec<(Value, Count)>> for Counts {
    /// Leaves out the counters of a later release, which have no limit in this one.
    fn from(counts: Vec<(Value, Count)>) -> Self {
        let known =
            counts.into_iter().filter_map(|(counter, count)| Some((serde_json::from_value(counter).ok()?, count)));
        Self(known.collect())
    }
}

impl From<Counts> for Vec<(Counter, Count)> {
    fn from(counts: Counts) -> Self {
        counts.0.into_iter().collect()
    }
}

impl Counts {
    pub fn get(&self, counter: &Counter) -> Count {
        self.0.get(counter).copied().unwrap_or_default()
    }

    pub fn add(&mut self, counter: Counter, change: Count) {
        let count = self.get(&counter).plus(change);
        match count == Count::default() {
            true => drop(self.0.remove(&counter)),
            false => drop(self.0.insert(counter, count)),
        }
    }

    pub fn extend(&mut self, changes: Self) {
        for (counter, change) in changes.0 {
            self.add(counter, change);
        }
    }
}

/// The counts of the committed state.
#[derive(Default)]
pub(super) struct Totals(Mutex<Counts>);

impl Totals {
    pub fn get(&self, counter: &Counter) -> Count {
        self.lock().get(counter)
    }

    /// Adds the changes of a committed transaction.
    pub fn commit(&self, changes: Counts) {
        self.lock().extend(changes);
    }

    /// Replaces all counts by those of a new count.
    pub fn replace(&self, counts: Counts) {
        *self.lock() = counts;
    }

    /// Returns the peers with waiting messages: all of them, or those of one node.
    pub fn waiting_peers(&self, node: Option<i64>) -> Vec<String> {
        let counts = self.lock();
        let peers = counts.0.keys().filter_map(|counter| match (counter, node) {
            (Counter::UnsentTo(peer), None) => Some(peer.clone()),
            (Counter::UnsentBy(by, peer), Some(node)) if *by == node => Some(peer.clone()),
            _ => None,
        });
        peers.collect()
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
