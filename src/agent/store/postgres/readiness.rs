//! What the tokens of the nodes have ready, as each of them has shown it.

use std::collections::{BTreeMap, HashSet};

use tokio_postgres::{Error, Row};

/// What the tokens of the nodes have ready.
#[derive(Default)]
pub(super) struct Readiness {
    shown: BTreeMap<i64, Shown>,
    /// The nodes whose leases are not over, in the order of their numbers.
    living: Vec<i64>,
}

/// What the tokens of a node have ready.
pub(super) struct Shown {
    pub node: i64,
    pub version: i64,
    /// The hashes of keys and DIDs. `None` if the node's release shows nothing.
    pub ready: Option<HashSet<i64>>,
    /// Whether the node's lease is not over.
    pub lives: bool,
}

impl Readiness {
    /// Whether these are the nodes, and the versions of what they show, in the order of the nodes' numbers.
    pub fn is_of(&self, nodes: &[i64], versions: &[i64]) -> bool {
        let shown = self.shown.values().map(|shown| (shown.node, shown.version));
        shown.eq(nodes.iter().copied().zip(versions.iter().copied()))
    }

    /// Replaces what is known of all nodes.
    pub fn replace(&mut self, all: Vec<Shown>) {
        self.living = all.iter().filter(|shown| shown.lives).map(|shown| shown.node).collect();
        self.shown = all.into_iter().map(|shown| (shown.node, shown)).collect();
    }

    /// Whether a node can do what another one cannot.
    pub fn differs(&self) -> bool {
        let mut ready = self.shown.values().map(|shown| &shown.ready);
        let first = ready.next();
        ready.any(|other| Some(other) != first)
    }

    /// Replaces what is known of one node.
    pub fn insert(&mut self, shown: Shown) {
        self.shown.insert(shown.node, shown);
    }

    /// Notes which nodes live, in the order of their numbers. Returns the one that leads: the oldest that has a key ready, else
    /// the oldest. With a release among them that shows nothing and knows only the latter, it is the oldest.
    pub fn note_living(&mut self, living: &[i64]) -> Option<i64> {
        self.living = living.to_vec();
        let all_show = living.iter().all(|node| self.shown.get(node).is_some_and(|shown| shown.ready.is_some()));
        let working = living.iter().find(|node| all_show && self.can(**node, &[]));
        working.or(living.first()).copied()
    }

    /// Whether a node has one of these ready, or any key if there are none. A node that shows nothing is left to itself.
    pub fn can(&self, node: i64, needed: &[i64]) -> bool {
        let Some(shown) = self.shown.get(&node) else { return false };
        shown.ready.as_ref().is_none_or(|ready| match needed.is_empty() {
            true => !ready.is_empty(),
            false => needed.iter().any(|hash| ready.contains(hash)),
        })
    }

    /// The node that takes over something from another one for which one of these is needed. `None` if that one has one of them
    /// ready, or nobody has.
    pub fn taker(&self, from: i64, needed: &[i64]) -> Option<i64> {
        if self.can(from, needed) {
            return None;
        }
        let able = |node: &i64| self.shown.get(node).is_some_and(|it| it.ready.is_some()) && self.can(*node, needed);
        let able: Vec<i64> = self.living.iter().copied().filter(|node| *node != from && able(node)).collect();
        // Not all of them give to the same one.
        let position = usize::try_from(from).unwrap_or(0).checked_rem(able.len())?;
        able.get(position).copied()
    }
}

/// Reads what the nodes show, in the order of their numbers.
pub(super) const SHOWN: &str = "SELECT number, ready_version, ready, lease > clock_timestamp() FROM nodes
    WHERE ended IS NULL ORDER BY number";

/// Returns what the rows of [`SHOWN`] tell.
pub(super) fn shown(rows: &[Row]) -> Result<Vec<Shown>, Error> {
    let shown = rows.iter().map(|row| {
        let ready = row.try_get::<_, Option<Vec<i64>>>(2)?.map(|ready| ready.into_iter().collect());
        Ok(Shown { node: row.try_get(0)?, version: row.try_get(1)?, ready, lives: row.try_get(3)? })
    });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(nodes: &[(i64, Option<&[i64]>)]) -> Readiness {
        let shown = nodes.iter().map(|(node, ready)| {
            let ready = ready.map(|ready| ready.iter().copied().collect());
            Shown { node: *node, version: 10 * node, ready, lives: true }
        });
        let mut readiness = Readiness::default();
        readiness.replace(shown.collect());
        readiness
    }

    #[test]
    fn the_oldest_node_that_can_work_leads() {
        let mut nodes = of(&[(1, Some(&[])), (2, Some(&[7])), (3, Some(&[7]))]);
        assert!(nodes.is_of(&[1, 2, 3], &[10, 20, 30]));
        assert!(!nodes.is_of(&[1, 2], &[10, 20]) && !nodes.is_of(&[1, 2, 3], &[10, 21, 30]));
        assert_eq!(nodes.note_living(&[1, 2, 3]), Some(2));
        assert_eq!(nodes.note_living(&[1, 3]), Some(3));
        assert_eq!(nodes.note_living(&[1]), Some(1));
        assert!(nodes.differs() && !of(&[(2, Some(&[7])), (3, Some(&[7]))]).differs() && !of(&[]).differs());
        assert_eq!(nodes.note_living(&[]), None);
        // An older release takes the oldest node to lead, whatever its tokens have.
        assert_eq!(of(&[(1, Some(&[])), (2, None), (3, Some(&[7]))]).note_living(&[1, 2, 3]), Some(1));
    }

    #[test]
    fn work_goes_to_a_living_node_that_has_a_key() {
        let mut nodes = of(&[(1, Some(&[5])), (2, Some(&[7, 8])), (3, Some(&[7])), (4, None), (5, Some(&[]))]);
        assert_eq!((nodes.taker(1, &[5, 8]), nodes.taker(1, &[8]), nodes.taker(1, &[9])), (None, Some(2), None));
        assert_eq!((nodes.taker(1, &[7]), nodes.taker(2, &[5]), nodes.taker(1, &[])), (Some(3), Some(1), None));
        assert_eq!((nodes.taker(4, &[7]), nodes.taker(5, &[])), (None, Some(3)), "an older release keeps what it has");
        // What a node that has ended had is given to one that can do it.
        assert_eq!(nodes.taker(9, &[8]), Some(2));
        nodes.note_living(&[1, 3, 4, 5]);
        assert_eq!((nodes.taker(1, &[8]), nodes.taker(5, &[7])), (None, Some(3)));
    }
}
