//! The outbox: what is in it is sent, or it is said why not.
//!
//! Each peer for whom something waits has a task of its own: one that is dead delays nobody else. The tasks are made from
//! the store at the start, and when something is put there.

mod by_http;
mod pack;
mod peer;
mod transport;

pub(super) use pack::NotPacked;
pub use transport::{SendError, Transport, Transports};

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore, watch},
    task::JoinSet,
};

use super::{
    books::Books,
    inbox::Inbox,
    metrics::Metrics,
    ours::Ours,
    routes::Routes,
    store::{Change, Millis},
    told_to_end,
};
use crate::did::Resolver;

/// How the outbox works.
#[derive(Debug, Clone)]
pub struct OutboxOptions {
    /// How long a message is tried that does not say when it expires, in milliseconds: 7 days.
    pub life: Millis,
    /// Messages that are sent to one peer at once: 4.
    pub at_once: usize,
    /// Messages that are sent at once in all: 256.
    pub in_all: usize,
    /// The pause before the second try is up to this long, and doubles: 1 second.
    pub first_pause: Duration,
    /// No pause is longer: 10 minutes.
    pub longest_pause: Duration,
}

impl Default for OutboxOptions {
    fn default() -> Self {
        Self {
            life: 7 * 24 * 60 * 60 * 1000,
            at_once: 4,
            in_all: 256,
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(600),
        }
    }
}

/// Sends what the store keeps for it.
pub struct Outbox {
    books: Arc<Books>,
    ours: Arc<Ours>,
    resolver: Arc<dyn Resolver>,
    routes: Arc<Routes>,
    transports: Transports,
    metrics: Arc<Metrics>,
    options: OutboxOptions,
    /// The peers that have a task, and its bell.
    peers: Mutex<HashMap<String, Arc<Notify>>>,
    /// Peers that are to have one.
    new: Mutex<Vec<String>>,
    bell: Notify,
    in_all: Semaphore,
    /// Where what comes back goes.
    inbox: OnceLock<Weak<Inbox>>,
}

impl Outbox {
    /// One that has not begun to work.
    pub(super) fn new(
        books: Arc<Books>,
        ours: Arc<Ours>,
        resolver: Arc<dyn Resolver>,
        routes: Arc<Routes>,
        transports: Transports,
        metrics: Arc<Metrics>,
        options: OutboxOptions,
    ) -> Self {
        let in_all = Semaphore::new(options.in_all);
        Self {
            books,
            ours,
            resolver,
            routes,
            transports,
            metrics,
            options,
            peers: Mutex::default(),
            new: Mutex::default(),
            bell: Notify::new(),
            in_all,
            inbox: OnceLock::new(),
        }
    }

    /// What comes back on a connection goes there.
    pub(super) fn hears(&self, inbox: Weak<Inbox>) {
        // Said once, when the agent is put together.
        let _ = self.inbox.set(inbox);
    }

    /// Something was put there: its peers are served.
    pub fn notice(&self, changes: &[Change]) {
        for change in changes {
            if let Change::Send(outgoing) = change {
                self.wake(&outgoing.peer);
            }
        }
    }

    /// Something waits for a peer, or there is a way to it now.
    pub fn wake(&self, peer: &str) {
        if let Some(bell) = self.peers().get(peer) {
            bell.notify_one();
            return;
        }
        self.new.lock().unwrap_or_else(PoisonError::into_inner).push(peer.to_owned());
        self.bell.notify_one();
    }

    /// There is a way to a peer: if something waits for it, it is tried now.
    pub fn wake_waiting(&self, peer: &str) {
        if let Some(bell) = self.peers().get(peer) {
            bell.notify_one();
        }
    }

    /// Whether something waits for a peer.
    pub fn serves(&self, peer: &str) -> bool {
        self.peers().contains_key(peer)
    }

    /// Works until `shutdown` says so, and then ends what was begun.
    pub async fn work(self: Arc<Self>, mut shutdown: watch::Receiver<bool>) {
        let mut tasks = JoinSet::new();
        // Sealed until a token is ready.
        tokio::select! {
            () = self.books.unlocked() => {}
            () = told_to_end(&mut shutdown) => return,
        }
        loop {
            match self.books.store().peers().await {
                Ok(peers) => break peers.iter().for_each(|peer| self.wake(peer)),
                Err(error) => tracing::warn!(%error, "the outbox cannot be read, and is read again"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        loop {
            let new = std::mem::take(&mut *self.new.lock().unwrap_or_else(PoisonError::into_inner));
            for peer in new {
                let bell = Arc::new(Notify::new());
                match self.peers().entry(peer.clone()) {
                    Entry::Occupied(entry) => {
                        entry.get().notify_one();
                        continue;
                    }
                    Entry::Vacant(entry) => entry.insert(bell.clone()),
                };
                tasks.spawn(self.clone().serve(peer, bell, shutdown.clone()));
            }
            tokio::select! {
                () = told_to_end(&mut shutdown) => break,
                () = self.bell.notified() => {}
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a task of the outbox ended by a fault of this program");
                    }
                }
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<String, Arc<Notify>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
