//! Connections that are made before there is something to send on them.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use super::target::Origin;

/// The connections that wait for their request.
pub(super) struct ReadyConnections<C>(Arc<Shared<C>>);

struct Shared<C> {
    waiting: Mutex<Vec<(u64, Origin, C)>>,
    next_id: AtomicU64,
}

/// Keeps a connection open until a request uses it. Dropping this closes the connection, unless a request took it.
#[must_use = "the connection is closed when this is dropped"]
pub(super) struct ReadyConnection<C> {
    shared: Arc<Shared<C>>,
    id: u64,
}

impl<C> Default for ReadyConnections<C> {
    fn default() -> Self {
        Self(Arc::new(Shared { waiting: Mutex::default(), next_id: AtomicU64::default() }))
    }
}

impl<C> Clone for ReadyConnections<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<C> ReadyConnections<C> {
    /// Keeps a connection for the next request to its origin.
    pub(super) fn keep(&self, origin: Origin, connection: C) -> ReadyConnection<C> {
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        self.0.waiting().push((id, origin, connection));
        ReadyConnection { shared: self.0.clone(), id }
    }

    /// Takes a connection to this origin, if there is one.
    pub(super) fn take(&self, origin: &Origin) -> Option<C> {
        let mut waiting = self.0.waiting();
        let position = waiting.iter().position(|(_, of, _)| of == origin)?;
        Some(waiting.swap_remove(position).2)
    }
}

impl<C> Shared<C> {
    fn waiting(&self) -> MutexGuard<'_, Vec<(u64, Origin, C)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C> Drop for ReadyConnection<C> {
    fn drop(&mut self) {
        let unused = {
            let mut waiting = self.shared.waiting();
            waiting.iter().position(|(id, ..)| *id == self.id).map(|position| waiting.swap_remove(position))
        };
        drop(unused);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::target::Target;

    #[test]
    fn a_connection_is_taken_once_or_closed() {
        let origin = |url: &str| Target::parse(url).unwrap().origin();
        let (here, there) = (origin("https://a.example"), origin("https://b.example"));
        let ready = ReadyConnections::default();
        let connection = Arc::new(());
        let kept = ready.keep(here.clone(), connection.clone());
        assert!(ready.take(&there).is_none());
        assert!(ready.take(&here).is_some());
        assert!(ready.take(&here).is_none());
        drop(kept);
        let kept = ready.keep(here.clone(), connection.clone());
        drop(kept);
        assert!(ready.take(&here).is_none());
        assert_eq!(Arc::strong_count(&connection), 1);
    }
}
