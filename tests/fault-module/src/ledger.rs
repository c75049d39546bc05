//! Which sessions are open, which session objects they made, and which sessions were lost.

use std::{
    collections::{HashMap, HashSet},
    sync::{LazyLock, Mutex, MutexGuard, RwLock, RwLockReadGuard},
};

use cryptoki_sys::*;

use crate::{counts::Cell, real};

#[derive(Default)]
struct Ledger {
    /// With their slots.
    sessions: HashMap<CK_SESSION_HANDLE, CK_SLOT_ID>,
    objects: HashMap<CK_OBJECT_HANDLE, Owned>,
    /// Open when the token went away. The module's numbers may come again, for new sessions.
    lost: HashSet<CK_SESSION_HANDLE>,
}

/// A session object.
struct Owned {
    session: CK_SESSION_HANDLE,
    /// It goes with the login (PKCS#11 v3.1 section 5.6.8).
    private: bool,
}

/// Held for reading by every call: SoftHSM 2.6.1 frees a session that is closed, though another thread is in it.
static UNDER_WAY: RwLock<()> = RwLock::new(());
static LEDGER: LazyLock<Mutex<Ledger>> = LazyLock::new(Mutex::default);

pub(crate) fn under_way() -> RwLockReadGuard<'static, ()> {
    UNDER_WAY.read().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn ledger() -> MutexGuard<'static, Ledger> {
    LEDGER.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Ledger {
    fn tell(&self) {
        Cell::Sessions.set(self.sessions.len());
        Cell::Objects.set(self.objects.len());
        Cell::Peak.raise(self.objects.len());
    }
}

/// A session was opened.
pub(crate) fn opened(session: CK_SESSION_HANDLE, slot: CK_SLOT_ID) {
    let mut ledger = ledger();
    ledger.lost.remove(&session);
    ledger.sessions.insert(session, slot);
    ledger.tell();
}

/// Some sessions were closed, and their objects with them.
pub(crate) fn closed(which: impl Fn(CK_SESSION_HANDLE, CK_SLOT_ID) -> bool) {
    let mut ledger = ledger();
    ledger.sessions.retain(|session, slot| !which(*session, *slot));
    let Ledger { sessions, objects, .. } = &mut *ledger;
    objects.retain(|_, object| sessions.contains_key(&object.session));
    ledger.tell();
}

/// Whether an object is a session's, and there.
pub(crate) fn is_live(object: CK_OBJECT_HANDLE) -> bool {
    ledger().objects.contains_key(&object)
}

/// The login to a session's token ended.
pub(crate) fn logged_out(session: CK_SESSION_HANDLE) {
    let mut ledger = ledger();
    let slot = ledger.sessions.get(&session).copied();
    let Ledger { sessions, objects, .. } = &mut *ledger;
    objects.retain(|_, object| !object.private || sessions.get(&object.session).copied() != slot);
    ledger.tell();
}

/// An object was made.
pub(crate) fn made(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE, private: bool) {
    let mut ledger = ledger();
    ledger.objects.insert(object, Owned { session, private });
    ledger.tell();
}

/// An object was destroyed; one of the token's is none of ours.
pub(crate) fn destroyed(object: CK_OBJECT_HANDLE) {
    let mut ledger = ledger();
    ledger.objects.remove(&object);
    ledger.tell();
}

/// The token is away: its sessions are closed, so that nothing of them leaks, and never valid again.
pub(crate) fn lose_sessions() {
    if ledger().sessions.is_empty() {
        return;
    }
    let _alone = UNDER_WAY.write().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut ledger = ledger();
    for session in std::mem::take(&mut ledger.sessions).into_keys() {
        if let Some(close) = real::functions().C_CloseSession {
            // SAFETY: an open session, in which no call is under way.
            unsafe { close(session) };
        }
        ledger.lost.insert(session);
    }
    ledger.objects.clear();
    ledger.tell();
}

/// Whether a session was open when the token went away.
pub(crate) fn is_lost(session: CK_SESSION_HANDLE) -> bool {
    ledger().lost.contains(&session)
}
