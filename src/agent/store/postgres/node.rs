//! This agent among the nodes that share the database.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::readiness::{Readiness, Shown};
use crate::agent::store::node::{Hint, HintListener};

/// How long a node may be without its lock before it has ended: after a failure of the server it needs a moment to connect
/// again. Shorter than the time between two beats.
const WITHOUT_LOCK: Duration = Duration::from_millis(1500);

/// How often the node that leads looks for what waits where it cannot be done.
const HAND_OVER_INTERVAL: Duration = Duration::from_secs(10);

/// This agent: a node, or the only agent of the database.
pub(super) struct Node {
    /// `None` if the agent has the database for itself.
    name: Option<String>,
    /// The number in the table `nodes`; 0 before the agent has joined.
    number: AtomicI64,
    /// How many transactions were begun.
    batches: AtomicI64,
    /// The last entry of the log that was read.
    heard: AtomicI64,
    /// The nodes whose work nobody has taken over, this one among them.
    nodes: Mutex<Vec<i64>>,
    /// The nodes without a lock at the last beat, and since when.
    unlocked: Mutex<Vec<(i64, Instant)>>,
    /// Whether the lease was over when the last transaction began.
    was_late: AtomicBool,
    /// What the tokens of this node have ready, as the agent wants it shown.
    ready: Mutex<Vec<i64>>,
    /// What the tokens of all nodes have ready.
    readiness: Mutex<Readiness>,
    /// When this node last had what waits handed over, at a beat.
    handed_over: Mutex<Option<Instant>>,
    leads: watch::Sender<bool>,
    listener: Mutex<Option<HintListener>>,
}

impl Node {
    pub fn new(name: Option<&str>) -> Self {
        Self {
            name: name.map(str::to_owned),
            number: AtomicI64::new(0),
            batches: AtomicI64::new(0),
            heard: AtomicI64::new(0),
            nodes: Mutex::default(),
            unlocked: Mutex::default(),
            was_late: AtomicBool::new(false),
            ready: Mutex::default(),
            readiness: Mutex::default(),
            handed_over: Mutex::default(),
            // The only agent leads, whether the database can be reached or not.
            leads: watch::Sender::new(name.is_none()),
            listener: Mutex::default(),
        }
    }

    /// The name of the node; empty if the agent has the database for itself.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    /// Whether other agents may use the database.
    pub fn is_shared(&self) -> bool {
        self.name.is_some()
    }

    pub fn number(&self) -> i64 {
        self.number.load(Ordering::Relaxed)
    }

    /// The number of the node whose work this agent does; `None` if it does all work.
    pub fn worker(&self) -> Option<i64> {
        self.is_shared().then(|| self.number())
    }

    /// Returns the number of the next transaction.
    pub fn next_batch(&self) -> i64 {
        self.batches.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub fn heard(&self) -> i64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Notes that the log was read, or written by this node, up to an entry.
    pub fn has_heard(&self, entry: i64) {
        self.heard.fetch_max(entry, Ordering::Relaxed);
    }

    /// The agent has joined. What the others have done before was not heard.
    pub fn joined(&self, number: i64, heard: i64) {
        self.number.store(number, Ordering::Relaxed);
        self.heard.store(heard, Ordering::Relaxed);
    }

    /// The nodes whose work nobody has taken over, this one among them.
    pub fn nodes(&self) -> Vec<i64> {
        self.lock_nodes().clone()
    }

    /// Notes a node that has written into the log. It may have joined since the last transaction of this one.
    pub fn has_heard_of(&self, node: i64) {
        let mut nodes = self.lock_nodes();
        if let Err(place) = nodes.binary_search(&node) {
            nodes.insert(place, node);
        }
    }

    /// Notes the nodes: those whose work nobody has taken over, and those of them that live, both in the order of their numbers.
    pub fn note_nodes(&self, nodes: Vec<i64>, living: &[i64]) {
        *self.lock_nodes() = nodes;
        self.was_late.store(!living.contains(&self.number()), Ordering::Relaxed);
        let leads = self.readiness().note_living(living) == Some(self.number());
        self.leads.send_if_modified(|now| std::mem::replace(now, leads) != leads);
    }

    /// Sets what the tokens of this node have ready, as the others are to see it.
    pub fn set_ready(&self, ready: &[i64]) {
        *self.ready.lock().unwrap_or_else(PoisonError::into_inner) = ready.to_vec();
    }

    /// What the tokens of this node have ready.
    pub fn ready(&self) -> Vec<i64> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it is known what the nodes show in these versions.
    pub fn knows_ready(&self, nodes: &[i64], versions: &[i64]) -> bool {
        self.readiness().is_of(nodes, versions)
    }

    /// Notes what all nodes show.
    pub fn note_ready(&self, all: Vec<Shown>) {
        self.readiness().replace(all);
    }

    /// Notes what this node shows from now on.
    pub fn note_own_ready(&self, shown: Shown) {
        self.readiness().insert(shown);
    }

    /// The node that works on something for which one of these is needed: this one, unless it has none of them ready and another
    /// one has. `None` if the agent has the database for itself.
    pub fn worker_for(&self, needed: &[i64]) -> Option<i64> {
        let this = self.worker()?;
        Some(self.readiness().taker(this, needed).unwrap_or(this))
    }

    /// Whether this node leads, and has what waits handed over again: it has not for a while.
    pub fn is_hand_over_due(&self, now: Instant) -> bool {
        let mut handed_over = self.handed_over.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = handed_over.is_none_or(|last| now.saturating_duration_since(last) >= HAND_OVER_INTERVAL);
        let is_due = is_due && *self.leads.borrow();
        if is_due {
            *handed_over = Some(now);
        }
        is_due
    }

    fn readiness(&self) -> MutexGuard<'_, Readiness> {
        self.readiness.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the lease was over when the last transaction began.
    pub fn was_late(&self) -> bool {
        self.was_late.load(Ordering::Relaxed)
    }

    /// Notes the nodes without a lock. Returns those that have had none for a while. The beat before may have been a moment
    /// ago, since there is one whenever a node leaves.
    pub fn unlocked_again(&self, unlocked: &[i64], now: Instant) -> Vec<i64> {
        let mut before = self.unlocked.lock().unwrap_or_else(PoisonError::into_inner);
        let since = |node| before.iter().find(|(other, _)| *other == node).map_or(now, |(_, since)| *since);
        let all: Vec<_> = unlocked.iter().map(|node| (*node, since(*node))).collect();
        *before = all;
        let again = before.iter().filter(|(_, since)| now.saturating_duration_since(*since) >= WITHOUT_LOCK);
        again.map(|(node, _)| *node).collect()
    }

    /// The connection is lost: others may lead by now.
    pub fn lost(&self) {
        if self.is_shared() {
            self.leads.send_if_modified(std::mem::take);
        }
    }

    /// Whether this node leads.
    pub fn leads(&self) -> watch::Receiver<bool> {
        self.leads.subscribe()
    }

    pub fn listen(&self, listener: HintListener) {
        *self.listener.lock().unwrap_or_else(PoisonError::into_inner) = Some(listener);
    }

    /// Gives the agent hints.
    pub fn tell(&self, hints: &[Hint]) {
        let listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listener) = listener.as_ref().filter(|_| !hints.is_empty()) {
            listener(hints);
        }
    }

    fn lock_nodes(&self) -> MutexGuard<'_, Vec<i64>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two beats may follow one another at once.
    #[test]
    fn a_node_may_be_without_its_lock_for_a_moment() {
        let (node, now) = (Node::new(Some("a")), Instant::now());
        assert!(node.unlocked_again(&[7], now).is_empty());
        assert!(node.unlocked_again(&[7, 8], now + WITHOUT_LOCK / 2).is_empty());
        assert_eq!(node.unlocked_again(&[7, 8], now + WITHOUT_LOCK), [7]);
        assert!(node.unlocked_again(&[], now + WITHOUT_LOCK).is_empty());
        assert!(node.unlocked_again(&[7], now + 2 * WITHOUT_LOCK).is_empty());
    }

    #[test]
    fn a_node_that_writes_is_known_until_the_nodes_are_read() {
        let node = Node::new(Some("a"));
        node.note_nodes(vec![3, 7], &[3, 7]);
        [5, 7, 9].into_iter().for_each(|other| node.has_heard_of(other));
        assert_eq!(node.nodes(), [3, 5, 7, 9]);
        node.note_nodes(vec![7, 9], &[7, 9]);
        assert_eq!(node.nodes(), [7, 9]);
    }
}
