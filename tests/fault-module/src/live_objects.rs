//! The sessions that are open, their session objects, and the sessions that were lost.

use std::{
    collections::{HashMap, HashSet},
    sync::{LazyLock, Mutex, MutexGuard, RwLock, RwLockReadGuard},
};

use cryptoki_sys::*;

use crate::{counters::Counter, real};

#[derive(Default)]
struct LiveObjects {
    /// Open sessions and their slots.
    sessions: HashMap<CK_SESSION_HANDLE, CK_SLOT_ID>,
    objects: HashMap<CK_OBJECT_HANDLE, SessionObject>,
    /// Sessions that were open when the token was removed. The module may reuse their handles for new sessions.
    lost: HashSet<CK_SESSION_HANDLE>,
}

/// A session object and its session.
struct SessionObject {
    session: CK_SESSION_HANDLE,
    /// Whether a logout destroys the object (PKCS#11 v3.1 section 5.6.8).
    private: bool,
}

/// Locked for reading during every call, and for writing while sessions are closed: SoftHSM 2.6.1 frees a session that
/// is closed even if another thread is using it.
static CALLS_IN_PROGRESS: RwLock<()> = RwLock::new(());
static LIVE_OBJECTS: LazyLock<Mutex<LiveObjects>> = LazyLock::new(Mutex::default);

/// Keeps [`lose_sessions`] from closing sessions while the guard is held.
pub(crate) fn hold_sessions() -> RwLockReadGuard<'static, ()> {
    CALLS_IN_PROGRESS.read().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn lock() -> MutexGuard<'static, LiveObjects> {
    LIVE_OBJECTS.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl LiveObjects {
    fn update_counters(&self) {
        Counter::Sessions.set(self.sessions.len());
        Counter::Objects.set(self.objects.len());
        Counter::PeakObjects.raise(self.objects.len());
    }
}

/// Records that a session was opened.
pub(crate) fn session_opened(session: CK_SESSION_HANDLE, slot: CK_SLOT_ID) {
    let mut live = lock();
    live.lost.remove(&session);
    live.sessions.insert(session, slot);
    live.update_counters();
}

/// Records that sessions were closed, which destroys their objects.
pub(crate) fn sessions_closed(which: impl Fn(CK_SESSION_HANDLE, CK_SLOT_ID) -> bool) {
    let mut live = lock();
    live.sessions.retain(|session, slot| !which(*session, *slot));
    let LiveObjects { sessions, objects, .. } = &mut *live;
    objects.retain(|_, object| sessions.contains_key(&object.session));
    live.update_counters();
}

/// Whether an object is a session object that exists.
pub(crate) fn is_live(object: CK_OBJECT_HANDLE) -> bool {
    lock().objects.contains_key(&object)
}

/// Records that the login to a session's token ended.
pub(crate) fn logged_out(session: CK_SESSION_HANDLE) {
    let mut live = lock();
    let slot = live.sessions.get(&session).copied();
    let LiveObjects { sessions, objects, .. } = &mut *live;
    objects.retain(|_, object| !object.private || sessions.get(&object.session).copied() != slot);
    live.update_counters();
}

/// Records a new session object.
pub(crate) fn object_made(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE, private: bool) {
    let mut live = lock();
    live.objects.insert(object, SessionObject { session, private });
    live.update_counters();
}

/// Records that an object was destroyed. Token objects are not counted.
pub(crate) fn object_destroyed(object: CK_OBJECT_HANDLE) {
    let mut live = lock();
    live.objects.remove(&object);
    live.update_counters();
}

/// Closes all sessions, since the token was removed. Their handles stay invalid.
pub(crate) fn lose_sessions() {
    if lock().sessions.is_empty() {
        return;
    }
    let _no_calls = CALLS_IN_PROGRESS.write().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut live = lock();
    for session in std::mem::take(&mut live.sessions).into_keys() {
        if let Some(close) = real::functions().C_CloseSession {
            // SAFETY: the session is open, and no call is using it.
            unsafe { close(session) };
        }
        live.lost.insert(session);
    }
    live.objects.clear();
    live.update_counters();
}

/// Whether a session was open when the token was removed.
pub(crate) fn is_lost(session: CK_SESSION_HANDLE) -> bool {
    lock().lost.contains(&session)
}
