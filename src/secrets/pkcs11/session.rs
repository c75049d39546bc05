//! The pool of sessions. One operation has one session, with the Zs that are kept in it.
//!
//! Each session keeps its own Zs: a session object is destroyed with the session that made it, so a Zs shared by all
//! would vanish under the others, and finding it would want a lock. The price is that with N sessions a known sender
//! costs up to N derivations once.

use std::{
    collections::HashMap,
    sync::{Condvar, Mutex},
};

use cryptoki::{object::ObjectHandle, session::Session};

use super::{object::Object, token::Epoch};
use crate::keys::PublicKey;

/// A session and what is kept in it.
pub(super) struct Live {
    pub(super) session: Session,
    pub(super) kept: Kept,
    /// Of which keys it is.
    pub(super) epoch: Epoch,
}

/// The sessions that are idle, as many as are allowed; one that is none is yet to be opened.
pub(super) struct Pool {
    idle: Mutex<Vec<Option<Live>>>,
    returned: Condvar,
}

impl Pool {
    pub(super) fn new(sessions: usize) -> Self {
        let idle = std::iter::repeat_with(|| None).take(sessions.max(1)).collect();
        Self { idle: Mutex::new(idle), returned: Condvar::new() }
    }

    /// A place in the pool, waited for. The last one used comes first: its kept Zs are the likeliest.
    pub(super) fn lease(&self) -> Lease<'_> {
        let mut idle = self.idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        loop {
            if let Some(live) = idle.pop() {
                return Lease { pool: self, live };
            }
            idle = self.returned.wait(idle).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }
}

/// A place in the pool for the time of one operation.
pub(super) struct Lease<'p> {
    pool: &'p Pool,
    pub(super) live: Option<Live>,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let mut idle = self.pool.idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        idle.push(self.live.take());
        self.pool.returned.notify_one();
    }
}

/// The Zs that a session keeps in the token, never more than its bound; the one unused for longest goes first.
pub(super) struct Kept {
    bound: usize,
    tick: u64,
    /// By our key's number and the peer's key: the handle, and when it was last used.
    objects: HashMap<(u64, PublicKey), (ObjectHandle, u64)>,
}

impl Kept {
    pub(super) fn new(bound: usize) -> Self {
        Self { bound, tick: 0, objects: HashMap::new() }
    }

    pub(super) fn find(&mut self, key: u64, peer: &PublicKey) -> Option<ObjectHandle> {
        self.tick += 1;
        let (handle, used) = self.objects.get_mut(&(key, peer.clone()))?;
        *used = self.tick;
        Some(*handle)
    }

    /// Keeps an object of this session, and destroys another if there are too many.
    pub(super) fn keep(&mut self, key: u64, peer: &PublicKey, object: Object<'_>, session: &Session) {
        if self.bound == 0 {
            return;
        }
        if self.objects.len() >= self.bound {
            let oldest = self.objects.iter().min_by_key(|(_, (_, used))| *used).map(|(name, _)| name.clone());
            if let Some((handle, _)) = oldest.and_then(|name| self.objects.remove(&name)) {
                drop(Object::new(session, handle));
            }
        }
        self.tick += 1;
        if let Some((old, _)) = self.objects.insert((key, peer.clone()), (object.keep(), self.tick)) {
            drop(Object::new(session, old));
        }
    }

    /// Destroys all of them.
    pub(super) fn clear(&mut self, session: &Session) {
        for (_, (handle, _)) in self.objects.drain() {
            drop(Object::new(session, handle));
        }
    }
}
