//! The pool of sessions. Each operation uses one session.
//!
//! Each session caches its own Zs objects (Zs is the shared secret of our static key and a peer's static key in
//! ECDH-1PU). A session object is destroyed with the session that made it, so an object that all sessions shared could
//! disappear while another session uses it, and finding it would need a lock. As a consequence, with N sessions, a
//! sender costs up to N derivations before all sessions know its Zs.

use std::{
    collections::HashMap,
    sync::{Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use cryptoki::{object::ObjectHandle, session::Session};

use super::object::SessionObject;
use crate::keys::PublicKey;

/// The version of a token's key set. What a session caches belongs to one version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct KeySetVersion {
    /// The number of searches; 0 before the first one.
    pub(super) searches: u64,
    /// The number of keys that this program has made or deleted. The result of a search during which this changed is
    /// not used.
    pub(super) changes: u64,
}

/// A session that is logged in, with what it caches.
pub(super) struct OpenSession {
    /// The session's handle. Dropping it closes the session.
    pub(super) handle: Session,
    pub(super) zs_cache: ZsCache,
    /// The key set that the cache belongs to.
    pub(super) key_set_version: KeySetVersion,
    /// Whether opening this session logged the process in. If so, older object handles may be invalid (SoftHSM 2.6.1).
    pub(super) new_login: bool,
}

impl OpenSession {
    pub(super) fn new(handle: Session, cached_secrets: usize, new_login: bool) -> Self {
        Self { handle, zs_cache: ZsCache::new(cached_secrets), key_set_version: KeySetVersion::default(), new_login }
    }

    /// Empties the cache if it belongs to another version of the key set.
    pub(super) fn use_key_set(&mut self, version: KeySetVersion) {
        if self.key_set_version != version {
            self.zs_cache.clear(&self.handle);
            self.key_set_version = version;
        }
    }
}

/// A fixed number of sessions. They are opened when they are needed.
pub(super) struct SessionPool {
    state: Mutex<PoolState>,
    returned: Condvar,
}

struct PoolState {
    /// The sessions that no operation uses. None is a session that is not open yet.
    idle: Vec<Option<OpenSession>>,
    /// The number of open sessions in use.
    in_use: usize,
}

impl SessionPool {
    pub(super) fn new(sessions: usize) -> Self {
        let idle = std::iter::repeat_with(|| None).take(sessions.max(1)).collect();
        Self { state: Mutex::new(PoolState { idle, in_use: 0 }), returned: Condvar::new() }
    }

    /// Waits until a session is idle, and leases it. Prefers open sessions, and of these the one used last, whose cache
    /// is most likely to help.
    pub(super) fn lease(&self) -> SessionLease<'_> {
        let mut state = self.state();
        loop {
            let open = state.idle.iter().rposition(Option::is_some);
            if let Some(position) = open.or(state.idle.len().checked_sub(1)) {
                let session = state.idle.swap_remove(position);
                state.in_use += usize::from(session.is_some());
                return SessionLease { pool: self, counted: session.is_some(), session };
            }
            state = self.wait(state);
        }
    }

    /// Leases an open session that no operation uses. Returns `None` at once if there is none.
    pub(super) fn lease_idle(&self) -> Option<SessionLease<'_>> {
        let mut state = self.state();
        let position = state.idle.iter().rposition(Option::is_some)?;
        let session = state.idle.swap_remove(position);
        state.in_use += 1;
        Some(SessionLease { pool: self, counted: true, session })
    }

    /// Leases an open session, and waits for one as long as any is in use. Returns `None` if no session is open. For a
    /// token that grants no more sessions.
    pub(super) fn lease_open(&self) -> Option<SessionLease<'_>> {
        let mut state = self.state();
        loop {
            if let Some(position) = state.idle.iter().rposition(Option::is_some) {
                let session = state.idle.swap_remove(position);
                state.in_use += 1;
                return Some(SessionLease { pool: self, counted: true, session });
            }
            if state.in_use == 0 {
                return None;
            }
            state = self.wait(state);
        }
    }

    /// Closes the idle sessions. Returns whether there were any.
    pub(super) fn close_idle(&self) -> bool {
        let mut state = self.state();
        let closed: Vec<_> = state.idle.iter_mut().filter_map(Option::take).collect();
        // The lock is released first: a module may be slow to close a session.
        drop(state);
        !closed.is_empty()
    }

    /// Destroys the cached objects of the idle sessions. Each session caches at most `capacity` from now on. Returns
    /// whether there were any.
    pub(super) fn shrink_caches(&self, capacity: usize) -> bool {
        let mut had_any = false;
        for session in self.state().idle.iter_mut().flatten() {
            had_any |= session.zs_cache.shrink(capacity, &session.handle);
        }
        had_any
    }

    fn state(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn wait<'p>(&self, state: MutexGuard<'p, PoolState>) -> MutexGuard<'p, PoolState> {
        self.returned.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A session of the pool, for one operation. It returns to the pool when this is dropped.
pub(super) struct SessionLease<'p> {
    pool: &'p SessionPool,
    /// Whether the session is counted as in use.
    counted: bool,
    /// None if the session is not open.
    pub(super) session: Option<OpenSession>,
}

impl SessionLease<'_> {
    /// Puts a new session into the lease.
    pub(super) fn put(&mut self, session: OpenSession) -> &mut OpenSession {
        if !std::mem::replace(&mut self.counted, true) {
            self.pool.state().in_use += 1;
        }
        self.session.insert(session)
    }
}

impl Drop for SessionLease<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        state.idle.push(self.session.take());
        state.in_use -= usize::from(self.counted);
        // Wakes all waiting threads: a thread in `lease_open` cannot use a session that is not open.
        self.pool.returned.notify_all();
    }
}

/// The Zs objects that a session caches in the token. They are sensitive session objects. If the cache is full, the
/// least recently used object is destroyed.
pub(super) struct ZsCache {
    capacity: usize,
    /// The number of uses so far. Orders the objects by their last use.
    clock: u64,
    /// The handle and the clock at the last use, by our key's number and the peer's key.
    objects: HashMap<(u64, PublicKey), (ObjectHandle, u64)>,
    /// When each of our keys was seen in the token last, by its number.
    seen: HashMap<u64, Instant>,
}

/// How long a Zs is used without a look at the key that it was derived from.
const SEEN_RECENTLY: Duration = Duration::from_secs(1);

impl ZsCache {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, clock: 0, objects: HashMap::new(), seen: HashMap::new() }
    }

    /// Whether our key with this number has been in the token within the last second.
    pub(super) fn has_seen(&self, key: u64) -> bool {
        self.seen.get(&key).is_some_and(|seen| seen.elapsed() < SEEN_RECENTLY)
    }

    /// Records that our key with this number is in the token.
    pub(super) fn saw(&mut self, key: u64) {
        self.seen.insert(key, Instant::now());
    }

    /// Whether a Zs of our key with the number `key` and of a peer's key is cached.
    pub(super) fn contains(&self, key: u64, peer: &PublicKey) -> bool {
        self.objects.contains_key(&(key, peer.clone()))
    }

    /// The cached Zs of our key with the number `key` and of a peer's key.
    pub(super) fn find(&mut self, key: u64, peer: &PublicKey) -> Option<ObjectHandle> {
        self.clock += 1;
        let (handle, used) = self.objects.get_mut(&(key, peer.clone()))?;
        *used = self.clock;
        Some(*handle)
    }

    /// Destroys the cached Zs of our key with the number `key` and of a peer's key.
    pub(super) fn remove(&mut self, key: u64, peer: &PublicKey, session: &Session) {
        if let Some((handle, _)) = self.objects.remove(&(key, peer.clone())) {
            drop(SessionObject::new(session, handle));
        }
    }

    /// Adds an object of this session, and destroys the least recently used one if the cache is full.
    pub(super) fn insert(&mut self, key: u64, peer: &PublicKey, object: SessionObject<'_>, session: &Session) {
        if self.capacity == 0 {
            return;
        }
        if self.objects.len() >= self.capacity {
            let oldest = self.objects.iter().min_by_key(|(_, (_, used))| *used).map(|(name, _)| name.clone());
            if let Some((handle, _)) = oldest.and_then(|name| self.objects.remove(&name)) {
                drop(SessionObject::new(session, handle));
            }
        }
        self.clock += 1;
        if let Some((old, _)) = self.objects.insert((key, peer.clone()), (object.into_handle(), self.clock)) {
            drop(SessionObject::new(session, old));
        }
    }

    /// Destroys all objects, and caches at most `capacity` from now on. Returns whether there were any.
    pub(super) fn shrink(&mut self, capacity: usize, session: &Session) -> bool {
        let had_any = !self.objects.is_empty();
        self.clear(session);
        self.capacity = self.capacity.min(capacity);
        had_any
    }

    /// Destroys all objects.
    pub(super) fn clear(&mut self, session: &Session) {
        self.seen.clear();
        for (_, (handle, _)) in self.objects.drain() {
            drop(SessionObject::new(session, handle));
        }
    }
}
