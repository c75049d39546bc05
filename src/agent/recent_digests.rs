//! Remembers the digests of what came lately, within a bound.

use std::{collections::HashSet, mem};

/// The beginnings of digests, in two generations. A full one replaces the older one.
pub(super) struct RecentDigests {
    max: usize,
    older: HashSet<u64>,
    newer: HashSet<u64>,
}

impl RecentDigests {
    /// Remembers the latest `max` digests at least, and twice as many at most. Each takes about 20 bytes.
    pub fn new(max: usize) -> Self {
        Self { max, older: HashSet::new(), newer: HashSet::new() }
    }

    /// Returns whether the digest is new.
    pub fn insert(&mut self, beginning: u64) -> bool {
        if self.newer.len() >= self.max {
            self.older = mem::take(&mut self.newer);
        }
        !self.older.contains(&beginning) && self.newer.insert(beginning)
    }

    pub fn contains(&self, beginning: u64) -> bool {
        self.newer.contains(&beginning) || self.older.contains(&beginning)
    }

    /// Adds digests from before the others.
    pub fn add_older(&mut self, beginnings: impl IntoIterator<Item = u64>) {
        self.older.extend(beginnings);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_remembered_for_a_generation_at_least() {
        const MAX: usize = 1000;
        let mut digests = RecentDigests::new(MAX);
        digests.add_older([0]);
        assert!(digests.contains(0) && !digests.insert(0));
        assert!(digests.insert(1) && !digests.insert(1) && digests.contains(1));
        let mut next = 2..;
        let mut fill = |digests: &mut RecentDigests| {
            while digests.newer.len() < MAX {
                assert!(digests.insert(next.next().unwrap()));
            }
        };
        fill(&mut digests);
        assert!(!digests.insert(1), "in the older generation");
        fill(&mut digests);
        let count = digests.older.len() + digests.newer.len();
        assert!(digests.insert(1) && count == 2 * MAX, "{count}");
    }
}
