//! The peers that have a task in the outbox, the wakeups of these tasks, and what each task waits for.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::FutureExt;
use tokio::sync::Notify;

use super::waits::Waits;
use crate::agent::store::types::Change;

/// How many messages of one peer may be asked for at once. The others are tried with them, once the peer can be reached.
const MAX_REQUESTED: usize = 100;
/// How many cancelled messages of one peer are noted. Those behind the others wait until these would have been tried again.
const MAX_CANCELLED: usize = 100;

/// Wakes the tasks of the outbox when a commit adds messages. Any part of the agent may commit, so this type does not
/// depend on the rest of the outbox.
#[derive(Default)]
pub struct PeerWakeups {
    /// The peers with a task.
    tasks: Mutex<HashMap<String, Arc<TaskSignals>>>,
    /// The peers that need a task. There may be many before the store is unlocked.
    new: Mutex<BTreeSet<String>>,
    /// Signals that there are new peers.
    added: Notify,
}

/// What a peer's task and the rest of the agent tell each other.
#[derive(Default)]
pub(super) struct TaskSignals {
    /// Wakes the task.
    pub wakeup: Notify,
    /// The messages that are to be tried now.
    requested: Mutex<Vec<String>>,
    /// The messages that were cancelled.
    cancelled: Mutex<Vec<String>>,
    /// What the messages of the peer wait for.
    waits: Mutex<Waits>,
}

impl PeerWakeups {
    /// Wakes the tasks of the peers that the committed changes send messages to.
    pub fn wake_for(&self, changes: &[Change]) {
        for change in changes {
            if let Change::Send(entry) = change {
                self.wake(&entry.peer);
            }
        }
    }

    /// Wakes a peer's task. If the peer has no task, the outbox starts one.
    pub fn wake(&self, peer: &str) {
        if !self.wake_task(peer) {
            self.peers_without_task().insert(peer.to_owned());
            self.added.notify_one();
        }
    }

    /// Wakes a peer's task, if it has a task. Returns whether it has.
    pub fn wake_task(&self, peer: &str) -> bool {
        let tasks = self.tasks();
        tasks.get(peer).inspect(|task| task.wakeup.notify_one()).is_some()
    }

    /// Asks a peer's task to try a message now.
    pub(super) fn request(&self, peer: &str, message: &str) {
        let task = self.tasks().get(peer).cloned();
        match task {
            Some(task) => task.request(message),
            // A new task tries all messages.
            None => self.wake(peer),
        }
    }

    /// Tells a peer's task, if there is one, that a message was cancelled.
    pub(super) fn cancelled(&self, peer: &str, message: &str) {
        let task = self.tasks().get(peer).cloned();
        if let Some(task) = task {
            task.note_cancelled(message);
        }
    }

    /// What the messages of a peer wait for. `None` if the peer has no task.
    pub(super) fn waits(&self, peer: &str) -> Option<Waits> {
        let task = self.tasks().get(peer).cloned()?;
        Some(task.waits.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Whether a peer has a task, that is whether messages wait for the peer.
    pub fn has_task(&self, peer: &str) -> bool {
        self.tasks().contains_key(peer)
    }

    /// Whether a peer needs a task.
    #[cfg(test)]
    pub fn has_new(&self, peer: &str) -> bool {
        self.peers_without_task().contains(peer)
    }

    /// Takes the peers that need a task, each with the signals of the new task. If a peer has a task by now, that task is
    /// woken instead.
    pub(super) fn take_new(&self) -> Vec<(String, Arc<TaskSignals>)> {
        let new = std::mem::take(&mut *self.peers_without_task());
        let mut started = Vec::new();
        for peer in new {
            match self.tasks().entry(peer.clone()) {
                Entry::Occupied(entry) => entry.get().wakeup.notify_one(),
                Entry::Vacant(entry) => {
                    let signals = Arc::<TaskSignals>::default();
                    entry.insert(signals.clone());
                    started.push((peer, signals));
                }
            }
        }
        started
    }

    /// Returns once a peer needs a task.
    pub(super) async fn added(&self) {
        self.added.notified().await;
    }

    /// Forgets the task of a peer, because the task ends. Returns false if the task was woken meanwhile: then it goes on.
    pub(super) fn remove(&self, peer: &str) -> bool {
        let mut tasks = self.tasks();
        let is_woken = tasks.get(peer).is_some_and(|task| task.take_wakeup());
        if !is_woken {
            tasks.remove(peer);
        }
        !is_woken
    }

    fn peers_without_task(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.new.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tasks(&self) -> MutexGuard<'_, HashMap<String, Arc<TaskSignals>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TaskSignals {
    fn request(&self, message: &str) {
        let mut requested = self.requested();
        if requested.len() < MAX_REQUESTED && !requested.iter().any(|other| other == message) {
            requested.push(message.to_owned());
        }
        drop(requested);
        self.wakeup.notify_one();
    }

    fn note_cancelled(&self, message: &str) {
        let mut cancelled = self.cancelled.lock().unwrap_or_else(PoisonError::into_inner);
        if cancelled.len() < MAX_CANCELLED {
            cancelled.push(message.to_owned());
        }
        drop(cancelled);
        self.wakeup.notify_one();
    }

    /// Takes the messages that were cancelled.
    pub fn take_cancelled(&self) -> Vec<String> {
        std::mem::take(&mut *self.cancelled.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the task was woken since the last call, or since it waited for that.
    pub fn take_wakeup(&self) -> bool {
        self.wakeup.notified().now_or_never().is_some()
    }

    /// Whether messages are to be tried now.
    pub fn has_requests(&self) -> bool {
        !self.requested().is_empty()
    }

    /// Takes at most `limit` of the messages that are to be tried now, those first that were asked for first.
    pub fn take_requests(&self, limit: usize) -> Vec<String> {
        let mut requested = self.requested();
        let count = requested.len().min(limit.max(1));
        requested.drain(..count).collect()
    }

    /// Shows what the messages of the peer wait for.
    pub fn show(&self, waits: Waits) {
        *self.waits.lock().unwrap_or_else(PoisonError::into_inner) = waits;
    }

    fn requested(&self) -> MutexGuard<'_, Vec<String>> {
        self.requested.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_is_woken_does_not_end() {
        let wakeups = PeerWakeups::default();
        wakeups.wake("alice");
        let started = wakeups.take_new();
        let [(_, signals)] = &*started else { panic!("one task") };
        assert!(!signals.take_wakeup());
        wakeups.wake("alice");
        assert!(!wakeups.remove("alice") && wakeups.has_task("alice"));
        assert!(wakeups.remove("alice") && !wakeups.has_task("alice"));
        wakeups.wake("alice");
        assert_eq!(wakeups.take_new().len(), 1, "the message that came after the end has a new task");
    }
}
