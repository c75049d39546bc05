//! The open connections of peers on which messages may go back to these peers (extension `return_route`).

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::{mpsc, oneshot};

/// Which messages may go back on the connection that a message arrived on (header `return_route`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReturnRoute {
    /// Every message for the sender of that message.
    All,
    /// Messages of one thread.
    Thread(String),
}

/// The open return routes, by peer.
#[derive(Default)]
pub struct ReturnRoutes {
    by_peer: Mutex<HashMap<String, Vec<Route>>>,
    next_id: AtomicU64,
}

/// An open return route to a peer.
struct Route {
    id: u64,
    allows: ReturnRoute,
    connection: mpsc::Sender<ReturnMessage>,
}

/// A packed message that goes back on a connection.
pub struct ReturnMessage {
    /// The message.
    pub packed: String,
    /// Receives whether the message was written to the connection.
    pub written: oneshot::Sender<bool>,
}

/// Keeps a return route open. Dropping the guard closes the route.
pub struct RouteGuard {
    routes: Arc<ReturnRoutes>,
    peer: String,
    id: u64,
}

impl ReturnRoutes {
    /// Opens a route to a peer that has authenticated itself on the connection. A connection opens at most one route
    /// for each peer.
    pub fn open(
        self: &Arc<Self>,
        peer: &str,
        allows: ReturnRoute,
        connection: mpsc::Sender<ReturnMessage>,
    ) -> RouteGuard {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.lock().entry(peer.to_owned()).or_default().push(Route { id, allows, connection });
        RouteGuard { routes: self.clone(), peer: peer.to_owned(), id }
    }

    /// Whether a message of this thread has a route to the peer.
    pub fn has_route(&self, peer: &str, thread: &str) -> bool {
        self.find(peer, thread).is_some()
    }

    /// Whether there is any route to the peer.
    pub fn has_any_route(&self, peer: &str) -> bool {
        self.lock().get(peer).is_some_and(|routes| routes.iter().any(|route| !route.connection.is_closed()))
    }

    /// Sends a packed message to the peer on the newest route that allows its thread. Returns whether it was written.
    pub async fn send(&self, peer: &str, thread: &str, packed: &str) -> bool {
        let Some(connection) = self.find(peer, thread) else { return false };
        let (written, is_written) = oneshot::channel();
        let message = ReturnMessage { packed: packed.to_owned(), written };
        connection.send(message).await.is_ok() && is_written.await.unwrap_or(false)
    }

    fn find(&self, peer: &str, thread: &str) -> Option<mpsc::Sender<ReturnMessage>> {
        let routes = self.lock();
        let is_allowed = |route: &&Route| match &route.allows {
            ReturnRoute::All => true,
            ReturnRoute::Thread(only) => only == thread,
        };
        let open = routes.get(peer)?.iter().rev().filter(|route| !route.connection.is_closed());
        open.filter(is_allowed).map(|route| route.connection.clone()).next()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Vec<Route>>> {
        self.by_peer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RouteGuard {
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
