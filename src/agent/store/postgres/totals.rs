//! The sums that the limits are compared with, in memory.
//!
//! In SQLite triggers keep them in rows. Here every commit would write the same rows, and each change leaves a dead copy of its
//! row until PostgreSQL's vacuum. So the store that owns the database counts what there is when it takes ownership, and adds
//! what each transaction has changed after its commit.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
};

/// What is counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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
    /// The automatic replies to strangers that wait to be sent.
    StrangerReplies,
    /// The marks of strangers' messages.
    StrangerMarks,
    /// The records about strangers.
    StrangerRecords,
}

/// How many there are, and their bytes; or a change of both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub number: i64,
    pub bytes: i64,
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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Counts(HashMap<Counter, Count>);

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

    /// Returns the peers with waiting messages.
    pub fn waiting_peers(&self) -> Vec<String> {
        let counts = self.lock();
        counts
            .0
            .keys()
            .filter_map(|counter| if let Counter::UnsentTo(peer) = counter { Some(peer.clone()) } else { None })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
