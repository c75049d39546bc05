//! The pool of sessions. One operation has one session, with the Zs that are kept in it.
//!
//! Each session keeps its own Zs: a session object is destroyed with the session that made it, so a Zs shared by all
//! would vanish under the others, and finding it would want a lock. The price is that with N sessions a known sender
//! costs up to N derivations once.

use std::{
    collections::HashMap,
    sync::{Condvar, Mutex, MutexGuard},
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
    /// It was logged in to anew: handles of private objects that were found before may be no more (SoftHSM 2.6.1).
    pub(super) new_login: bool,
}

/// The sessions, as many as are allowed; one that is none is yet to be opened.
pub(super) struct Pool {
    places: Mutex<Places>,
    returned: Condvar,
}

struct Places {
    idle: Vec<Option<Live>>,
    /// How many sessions are at work.
    working: usize,
}

impl Pool {
    pub(super) fn new(sessions: usize) -> Self {
        let idle = std::iter::repeat_with(|| None).take(sessions.max(1)).collect();
        Self { places: Mutex::new(Places { idle, working: 0 }), returned: Condvar::new() }
    }

    /// A place in the pool, waited for. An open session comes before one that is yet to be opened, and of those the one
    /// used last: its kept Zs are the likeliest.
    pub(super) fn lease(&self) -> Lease<'_> {
        let mut places = self.places();
        loop {
            let open = places.idle.iter().rposition(Option::is_some);
            if let Some(position) = open.or(places.idle.len().checked_sub(1)) {
                let live = places.idle.swap_remove(position);
                places.working += usize::from(live.is_some());
                return Lease { pool: self, counted: live.is_some(), live };
            }
            places = self.wait(places);
        }
    }

    /// An open session, waited for as long as there is one at work. For when the token gives no more of them.
    pub(super) fn lease_open(&self) -> Option<Lease<'_>> {
        let mut places = self.places();
        loop {
            if let Some(position) = places.idle.iter().rposition(Option::is_some) {
                let live = places.idle.swap_remove(position);
                places.working += 1;
                return Some(Lease { pool: self, counted: true, live });
            }
            if places.working == 0 {
                return None;
            }
            places = self.wait(places);
        }
    }

    /// Closes the sessions that are idle; whether there were any.
    pub(super) fn close_idle(&self) -> bool {
        let mut places = self.places();
        let closed: Vec<_> = places.idle.iter_mut().filter_map(Option::take).collect();
        // A module may take its time to close one.
        drop(places);
        !closed.is_empty()
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn wait<'p>(&self, places: MutexGuard<'p, Places>) -> MutexGuard<'p, Places> {
        self.returned.wait(places).unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A place in the pool for the time of one operation.
pub(super) struct Lease<'p> {
    pool: &'p Pool,
    /// Among those at work.
    counted: bool,
    pub(super) live: Option<Live>,
}

impl Lease<'_> {
    /// Puts a session here that was opened now.
    pub(super) fn put(&mut self, live: Live) -> &mut Live {
        if !std::mem::replace(&mut self.counted, true) {
            self.pool.places().working += 1;
        }
        self.live.insert(live)
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let mut places = self.pool.places();
        places.idle.push(self.live.take());
        places.working -= usize::from(self.counted);
        // Not all who wait take any place.
        self.pool.returned.notify_all();
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
