//! The open connections of peers on which messages may go back to these peers (extension `return_route`).

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{Duration, timeout},
};

/// How long a reserved route holds up the peer's messages.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a peer may take to read a message on its connection.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Which messages may go back on the connection that a message arrived on (header `return_route`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReturnRoute {
    /// Every message for the sender of that message.
    All,
    /// Messages of one thread.
    Thread(String),
}

/// The return routes, by peer.
#[derive(Default)]
pub struct ReturnRoutes {
    by_peer: Mutex<HashMap<String, Vec<Route>>>,
    next_id: AtomicU64,
    /// Signals that a reserved route was opened or closed.
    settled: Notify,
}

/// A return route to a peer.
struct Route {
    id: u64,
    /// A route is reserved until the message that asks for it is handled. Then it is opened or closed.
    is_open: bool,
    allows: ReturnRoute,
    connection: mpsc::Sender<ReturnMessage>,
}

/// A packed message that goes back on a connection.
pub struct ReturnMessage {
    /// The message.
    pub packed: String,
    /// Receives whether the message was written to the connection and flushed. Closed if it was not.
    pub written: oneshot::Sender<bool>,
}

/// Keeps a return route. Dropping the guard closes the route.
pub struct RouteGuard {
    routes: Arc<ReturnRoutes>,
    peer: String,
    id: u64,
}

/// Room for one message on a connection. A connection has few.
pub struct ReturnSlot(mpsc::OwnedPermit<ReturnMessage>);

impl ReturnRoutes {
    /// Reserves a route to a peer that has authenticated itself on the connection. Nothing is sent on the route before
    /// [`RouteGuard::open`]. A connection has at most one route for each peer.
    pub fn reserve(
        self: &Arc<Self>,
        peer: &str,
        allows: ReturnRoute,
        connection: mpsc::Sender<ReturnMessage>,
    ) -> RouteGuard {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.lock().entry(peer.to_owned()).or_default().push(Route { id, is_open: false, allows, connection });
        RouteGuard { routes: self.clone(), peer: peer.to_owned(), id }
    }

    /// Returns once no route to the peer is reserved any more, at the latest after [`SETTLE_TIMEOUT`]. A reply to the
    /// message that asks for the route must not be sent elsewhere a moment before the route opens.
    pub async fn settled(&self, peer: &str) {
        let is_settled = || self.lock().get(peer).is_none_or(|routes| routes.iter().all(|route| route.is_open));
        let all_settled = async {
            loop {
                let settled = self.settled.notified();
                if is_settled() {
                    return;
                }
                settled.await;
            }
        };
        let _ = timeout(SETTLE_TIMEOUT, all_settled).await;
    }

    /// Whether a message of this thread has a route to the peer.
    pub fn has_route(&self, peer: &str, thread: &str) -> bool {
        self.find(peer, thread).is_some()
    }

    /// Whether there is any route to the peer.
    pub fn has_any_route(&self, peer: &str) -> bool {
        self.lock().get(peer).is_some_and(|routes| routes.iter().any(Route::is_usable))
    }

    /// The peers to which there is any route.
    pub fn peers(&self) -> Vec<String> {
        let routes = self.lock();
        let usable = routes.iter().filter(|(_, routes)| routes.iter().any(Route::is_usable));
        usable.map(|(peer, _)| peer.clone()).collect()
    }

    /// Waits for room for a message on the newest route to the peer that allows its thread. `None` if there is no route,
    /// if it ends meanwhile, or if the peer does not read for [`WRITE_TIMEOUT`].
    pub async fn slot(&self, peer: &str, thread: &str) -> Option<ReturnSlot> {
        let connection = self.find(peer, thread)?;
        let slot = timeout(WRITE_TIMEOUT, connection.reserve_owned()).await.ok()?.ok()?;
        Some(ReturnSlot(slot))
    }

    fn find(&self, peer: &str, thread: &str) -> Option<mpsc::Sender<ReturnMessage>> {
        let routes = self.lock();
        let is_allowed = |route: &&Route| match &route.allows {
            ReturnRoute::All => true,
            ReturnRoute::Thread(only) => only == thread,
        };
        let open = routes.get(peer)?.iter().rev().filter(|route| route.is_usable());
        open.filter(is_allowed).map(|route| route.connection.clone()).next()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Vec<Route>>> {
        self.by_peer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReturnSlot {
    /// Hands a packed message to the connection at once. The future is whether it was written to the connection and
    /// flushed within [`WRITE_TIMEOUT`]. If not, the peer may have it all the same.
    pub fn send(self, packed: String) -> impl Future<Output = bool> {
        let (written, is_written) = oneshot::channel();
        self.0.send(ReturnMessage { packed, written });
        async { matches!(timeout(WRITE_TIMEOUT, is_written).await, Ok(Ok(true))) }
    }
}

impl Route {
    fn is_usable(&self) -> bool {
        self.is_open && !self.connection.is_closed()
    }
}

impl RouteGuard {
    /// The id of the route, which no other route has.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Opens the route.
    pub fn open(&self) {
        if let Some(routes) = self.routes.lock().get_mut(&self.peer) {
            routes.iter_mut().filter(|route| route.id == self.id).for_each(|route| route.is_open = true);
        }
        self.routes.settled.notify_waiters();
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
        drop(routes);
        self.routes.settled.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_reserved_route_carries_nothing_until_it_opens() {
        let routes = Arc::new(ReturnRoutes::default());
        let (connection, mut messages) = mpsc::channel(1);
        let route = routes.reserve("alice", ReturnRoute::Thread("a".to_owned()), connection);
        assert!(!routes.has_route("alice", "a") && !routes.has_any_route("alice") && routes.peers().is_empty());
        assert!(routes.slot("alice", "a").await.is_none());
        let opening = async {
            tokio::task::yield_now().await;
            route.open();
        };
        tokio::join!(routes.settled("alice"), opening);
        assert!(routes.has_route("alice", "a") && !routes.has_route("alice", "b"));
        assert_eq!(routes.peers(), ["alice"]);
        let writing = async {
            let message = messages.recv().await.unwrap();
            assert_eq!(message.packed, "hello");
            // The connection ends before the message is written.
            drop(message.written);
        };
        let slot = routes.slot("alice", "a").await.unwrap();
        let (written, ()) = tokio::join!(slot.send("hello".to_owned()), writing);
        assert!(!written);
        drop(route);
        routes.settled("alice").await;
        assert!(!routes.has_any_route("alice") && routes.lock().is_empty());
    }

    /// Who waits for a peer that does not read has no message yet, and learns that the connection has ended.
    #[tokio::test]
    async fn a_connection_has_room_for_few_messages() {
        let routes = Arc::new(ReturnRoutes::default());
        let (connection, mut messages) = mpsc::channel(2);
        let (alice, bob) = (
            routes.reserve("alice", ReturnRoute::All, connection.clone()),
            routes.reserve("bob", ReturnRoute::All, connection),
        );
        alice.open();
        bob.open();
        let held = [routes.slot("alice", "a").await.unwrap(), routes.slot("bob", "a").await.unwrap()];
        let mut waiting = Box::pin(routes.slot("bob", "a"));
        assert!((&mut waiting).now_or_never().is_none());
        let [first, second] = held;
        drop(second);
        let third = (&mut waiting).now_or_never().flatten().unwrap();
        let written = first.send("hello".to_owned());
        messages.recv().await.unwrap().written.send(true).unwrap();
        assert!(written.await);
        let fourth = routes.slot("alice", "a").await.unwrap();
        let mut waiting = Box::pin(routes.slot("alice", "a"));
        assert!((&mut waiting).now_or_never().is_none());
        drop(messages);
        assert!(waiting.await.is_none());
        drop((fourth, alice, bob));
        assert!(!third.send("lost".to_owned()).await);
    }
}
