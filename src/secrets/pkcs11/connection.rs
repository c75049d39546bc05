//! The connection to one token: where it is, and its sessions, opened, logged in and leased.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use cryptoki::slot::Slot;

use super::{
    agree::Driver,
    ckr::{CallError, CallResult, During, FailureKind},
    lock_watch::LockWatch,
    login::{Login, is_logged_in},
    module::Module,
    options::OpenOptions,
    profile::Profile,
    session::{OpenSession, SessionLease, SessionPool},
    slot_token::SlotToken,
    uri::Uri,
};
use crate::secrets::{TokenError, TokenInfo, mutex::lock, pin::PinRecordState};

/// One token behind a module.
pub(super) struct Connection {
    pub(super) name: Arc<str>,
    pub(super) uri: Uri,
    pub(super) options: OpenOptions,
    /// The device's profile, overridden by the options.
    pub(super) profile: Profile,
    pub(super) module: Arc<Module>,
    /// The slot that holds the token, and the token's description. Slots may be renumbered, so each new session looks
    /// for the token again.
    current_slot: Mutex<(Slot, SlotToken)>,
    pool: SessionPool,
    /// How many Zs each session keeps in the token. Halved when the token has no memory left.
    kept_secrets: AtomicUsize,
    lock_watch: LockWatch,
}

impl Connection {
    /// Loads the module, finds the token, and opens a first session that is logged in.
    pub(super) fn open(uri: Uri, options: OpenOptions) -> Result<Self, TokenError> {
        let module = Module::for_uri(&uri, options.base_dir.as_deref())?;
        let current_slot = module.find_token(&uri)?;
        let profile = options.profile_for(&module.manufacturer, &current_slot.1.info)?;
        let name = options.name.clone().unwrap_or_else(|| current_slot.1.info.label.clone());
        if !uri.unused.is_empty() {
            tracing::warn!(token = name, attributes = uri.unused.join(", "), "attributes of the URI have no effect");
        }
        let confirmed = options.confirmed;
        let connection = Self {
            name: name.into(),
            pool: SessionPool::new(profile.sessions.usual),
            kept_secrets: AtomicUsize::new(profile.agreement.kept_secrets),
            uri,
            module,
            current_slot: Mutex::new(current_slot),
            lock_watch: LockWatch::new(),
            options,
            profile,
        };
        connection.pool.lease().put(connection.connect(false, confirmed)?);
        Ok(connection)
    }

    pub(super) fn info(&self) -> TokenInfo {
        lock(&self.current_slot).1.info.clone()
    }

    /// The slot in which the token was found last.
    pub(super) fn slot(&self) -> Slot {
        lock(&self.current_slot).0
    }

    pub(super) fn login_required(&self) -> bool {
        lock(&self.current_slot).1.login_required
    }

    pub(super) fn driver(&self) -> Driver<'_> {
        Driver { raw: &self.module.raw, profile: &self.profile }
    }

    /// A lease with an open session. If the token grants no more sessions, waits for one that is returned.
    pub(super) fn lease(&self) -> CallResult<SessionLease<'_>> {
        let lease = self.pool.lease();
        if lease.session.is_some() { Ok(lease) } else { self.open_in(lease) }
    }

    /// Asks an idle session whether the token is still there, with `ask`. No session is opened, and no PIN is presented.
    /// Returns `Ok` without a question if no session is open, or each is in use.
    pub(super) fn probe(&self, ask: impl FnOnce(&OpenSession) -> CallResult<()>) -> CallResult<()> {
        self.check_not_locked_by_person()?;
        let lease = self.pool.lease_idle();
        let Some(session) = lease.as_ref().and_then(|lease| lease.session.as_ref()) else { return Ok(()) };
        let is_there = match self.login_required() && !is_logged_in(&session.handle)? {
            true => Err(CallError::logged_out()),
            false => ask(session),
        };
        match is_there {
            // The next operation asks the person for the PIN. Until then it is enough that the token is there.
            Err(error) if error.may_succeed_in_new_session() && self.asks_a_person() => {
                self.module.find_token(&self.uri)?;
                Ok(())
            }
            result => result,
        }
    }

    /// Whether a person is asked for the PIN, or enters it on the token's own pad.
    fn asks_a_person(&self) -> bool {
        let has_pin_pad = lock(&self.current_slot).1.has_pin_pad;
        has_pin_pad || self.options.pin.asks_a_person(self.uri.pin(), self.options.prompt.as_ref())
    }

    /// Opens a session in a lease that has none.
    pub(super) fn open_in<'p>(&'p self, mut lease: SessionLease<'p>) -> CallResult<SessionLease<'p>> {
        match self.open_session(false) {
            Ok(session) => {
                lease.put(session);
                Ok(lease)
            }
            Err(error) if error.kind() == Some(FailureKind::Exhausted) => {
                drop(lease);
                self.pool.lease_open().ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Opens a session that is logged in, to read or to write.
    pub(super) fn open_session(&self, writing: bool) -> CallResult<OpenSession> {
        match self.connect(writing, false) {
            // The token grants no more sessions. A reader waits for a session of the pool. A writer needs a session of
            // its own, so the idle sessions of the pool are closed.
            Err(error) if error.kind() == Some(FailureKind::Exhausted) && writing && self.pool.close_idle() => {
                self.connect(writing, false)
            }
            opened => opened,
        }
    }

    fn connect(&self, writing: bool, confirmed: bool) -> CallResult<OpenSession> {
        // The token may be in another slot now. The lock is not held during the login, which may take long.
        let current_slot = self.module.find_token(&self.uri)?;
        lock(&self.current_slot).clone_from(&current_slot);
        let (slot, token) = current_slot;
        let context = &self.module.context;
        let session = if writing { context.open_rw_session(slot) } else { context.open_ro_session(slot) };
        let session = session.during("C_OpenSession")?;
        let new_login = self.login(&token).log_in(&session, confirmed)?;
        Ok(OpenSession::new(session, self.kept_secrets.load(Ordering::Relaxed), new_login))
    }

    /// Destroys the Zs that this session and the idle ones keep in the token, after the token had no memory left for
    /// another object. From now on each session keeps half as many. Returns whether any was destroyed.
    pub(super) fn free_memory(&self, session: &mut OpenSession) -> bool {
        let kept = self.kept_secrets.load(Ordering::Relaxed) / 2;
        // In use by another thread: that session does the same when it fails.
        let had_any = session.zs_cache.shrink(kept, &session.handle) | self.pool.shrink_caches(kept);
        if had_any {
            self.kept_secrets.store(kept, Ordering::Relaxed);
            let token = &*self.name;
            tracing::warn!(token, kept, "token has no memory left; it keeps fewer shared secrets from now on");
        }
        had_any
    }

    fn login<'a>(&'a self, token: &'a SlotToken) -> Login<'a> {
        Login::new(&self.module, token, &self.uri, &self.options).with_profile(&self.profile)
    }

    /// Logs out all sessions of this process and closes the idle ones of the pool. Those in use end with
    /// their operations.
    fn log_out(&self) -> CallResult<()> {
        let (slot, token) = lock(&self.current_slot).clone();
        let result = match self.module.context.open_ro_session(slot).during("C_OpenSession") {
            Ok(session) => self.login(&token).log_out(&session),
            Err(error) => Err(error),
        };
        self.pool.close_idle();
        result
    }

    /// Locks the token for every program that shares the PIN guard, and logs out.
    pub(super) fn lock_token(&self) -> Result<(), TokenError> {
        let (_, token) = lock(&self.current_slot).clone();
        self.login(&token).record_locked_by_person()?;
        self.lock_watch.set_locked(true);
        Ok(self.log_out()?)
    }

    /// Logs in with a PIN that a person has confirmed.
    pub(super) fn unlock_token(&self) -> Result<(), TokenError> {
        let session = self.connect(false, true)?;
        self.lock_watch.set_locked(false);
        // The session is kept: the login ends with the last session.
        self.pool.lease().put(session);
        Ok(())
    }

    /// Checks that no person has locked the token, through this program or another. A lock by another program is
    /// noticed within about a second.
    pub(super) fn check_not_locked_by_person(&self) -> CallResult<()> {
        if self.options.pin_guard.is_some() && self.lock_watch.is_check_due() {
            self.read_guard();
        }
        if self.lock_watch.is_locked() {
            let (_, token) = lock(&self.current_slot).clone();
            return Err(self.login(&token).locked_by_person_error().into());
        }
        Ok(())
    }

    fn read_guard(&self) {
        match self.options.guard(&self.info()).map(|guard| guard.read()) {
            Some(Ok(record)) => {
                let locked = record.state == PinRecordState::LockedByPerson;
                if locked && !self.lock_watch.set_locked(true) {
                    tracing::warn!(token = %self.name, "token locked by a person; logging out");
                    if let Err(error) = self.log_out() {
                        tracing::error!(token = %self.name, %error, "logout failed");
                    }
                } else if !locked {
                    self.lock_watch.set_locked(false);
                }
            }
            // No PIN is tried while the record cannot be read. The present login stays.
            Some(Err(error)) => tracing::warn!(token = %self.name, %error, "PIN guard cannot be read"),
            None => {}
        }
    }
}
