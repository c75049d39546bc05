//! Connections that peers hold open, on which messages may go back to them (extension `return_route`).

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::{mpsc, oneshot};

use super::inbox::ReturnRoute;

/// The open ways back, by peer.
#[derive(Default)]
pub struct Routes {
    by_peer: Mutex<HashMap<String, Vec<Route>>>,
    next: AtomicU64,
}

struct Route {
    id: u64,
    what: ReturnRoute,
    sender: mpsc::Sender<Returning>,
}

/// A packed message on its way back, and where it is told that it was written.
pub struct Returning {
    /// The message.
    pub packed: String,
    /// Whether the connection took it.
    pub written: oneshot::Sender<bool>,
}

/// A way back, open as long as this lives.
pub struct OpenRoute {
    routes: Arc<Routes>,
    peer: String,
    id: u64,
}

impl Routes {
    /// Opens a way to a peer, which has proved who it is on that connection. Of one connection there is one for each peer.
    pub fn open(self: &Arc<Self>, peer: &str, what: ReturnRoute, sender: mpsc::Sender<Returning>) -> OpenRoute {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().entry(peer.to_owned()).or_default().push(Route { id, what, sender });
        OpenRoute { routes: self.clone(), peer: peer.to_owned(), id }
    }

    /// Whether there is a way to a peer for a message of this thread.
    pub fn leads_to(&self, peer: &str, thread: &str) -> bool {
        self.find(peer, thread).is_some()
    }

    /// Whether there is any way to a peer.
    pub fn leads_anywhere(&self, peer: &str) -> bool {
        self.lock().get(peer).is_some_and(|open| open.iter().any(|route| !route.sender.is_closed()))
    }

    /// Sends a message back, on the newest connection that takes it. False if none did.
    pub async fn send(&self, peer: &str, thread: &str, packed: &str) -> bool {
        let Some(sender) = self.find(peer, thread) else { return false };
        let (written, told) = oneshot::channel();
        let returning = Returning { packed: packed.to_owned(), written };
        sender.send(returning).await.is_ok() && told.await.unwrap_or(false)
    }

    fn find(&self, peer: &str, thread: &str) -> Option<mpsc::Sender<Returning>> {
        let routes = self.lock();
        let fits = |route: &&Route| match &route.what {
            ReturnRoute::All => true,
            ReturnRoute::Thread(only) => only == thread,
        };
        let open = routes.get(peer)?.iter().rev().filter(|route| !route.sender.is_closed());
        open.filter(fits).map(|route| route.sender.clone()).next()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Vec<Route>>> {
        self.by_peer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenRoute {
    fn drop(&mut self) {
        let mut routes = self.routes.lock();
        if let Some(open) = routes.get_mut(&self.peer) {
            open.retain(|route| route.id != self.id);
            if open.is_empty() {
                routes.remove(&self.peer);
            }
        }
    }
}
