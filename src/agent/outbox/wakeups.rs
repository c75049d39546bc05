//! The peers that have a task in the outbox, and the wakeups of these tasks.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::agent::store::types::Change;

/// Wakes the tasks of the outbox when a commit adds messages. Any part of the agent may commit, so this type does not
/// depend on the rest of the outbox.
#[derive(Default)]
pub struct PeerWakeups {
    /// The peers with a task, and the notifier that wakes each task.
    tasks: Mutex<HashMap<String, Arc<Notify>>>,
    /// The peers that need a task.
    new: Mutex<Vec<String>>,
    /// Signals that there are new peers.
    added: Notify,
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
            self.new.lock().unwrap_or_else(PoisonError::into_inner).push(peer.to_owned());
            self.added.notify_one();
        }
    }

    /// Wakes a peer's task, if it has a task. Returns whether it has.
    pub fn wake_task(&self, peer: &str) -> bool {
        let tasks = self.tasks();
        tasks.get(peer).inspect(|wakeup| wakeup.notify_one()).is_some()
    }

    /// Whether a peer has a task, that is whether messages wait for the peer.
    pub fn has_task(&self, peer: &str) -> bool {
        self.tasks().contains_key(peer)
    }

    /// Takes the peers that need a task, each with the notifier that wakes the new task. If a peer has a task by now,
    /// that task is woken instead.
    pub(super) fn take_new(&self) -> Vec<(String, Arc<Notify>)> {
        let new = std::mem::take(&mut *self.new.lock().unwrap_or_else(PoisonError::into_inner));
        let mut started = Vec::new();
        for peer in new {
            match self.tasks().entry(peer.clone()) {
                Entry::Occupied(entry) => entry.get().notify_one(),
                Entry::Vacant(entry) => {
                    let wakeup = Arc::new(Notify::new());
                    entry.insert(wakeup.clone());
                    started.push((peer, wakeup));
                }
            }
        }
        started
    }

    /// Returns once a peer needs a task.
    pub(super) async fn added(&self) {
        self.added.notified().await;
    }

    /// Forgets the task of a peer, because the task ends.
    pub(super) fn remove(&self, peer: &str) {
        self.tasks().remove(peer);
    }

    fn tasks(&self) -> MutexGuard<'_, HashMap<String, Arc<Notify>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
