//! The one login. Its state belongs to the process and the token, not to a session (PKCS#11 v3.1 section 5.6.7).
//!
//! A wrong PIN is tried once. A token that counts tries, or one whose PIN was refused, gets no PIN until a person has
//! acted: the rules stand in `pin/guard.rs`. Without a folder for the guard this process alone remembers; with
//! one, a PIN that a person types is remembered by this process all the same, since the person is there each time.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, LazyLock, Mutex},
};

use cryptoki::{
    error::{Error, RvError},
    session::{Session, SessionState, UserType},
};

use super::{
    OpenOptions, SeenToken, Uri,
    ckr::{During, Fault, Kind, Outcome},
    module::Module,
    token::lock,
};
use crate::secrets::{
    TokenError,
    pin::{Guard, Held, PinMemory, PinOutcome, PinPrompt, Refusal, SourceId},
};

/// A token in this process: a module, a serial number and a label, since some tokens have all zeros for a serial.
type Identity = (PathBuf, String, String);

#[derive(Default)]
struct Login {
    /// We logged in, so CKR_USER_ALREADY_LOGGED_IN is our own doing.
    ours: bool,
    /// What this process remembers; of typed PINs, and of all where there is no guard.
    memory: Option<PinMemory>,
}

static LOGINS: LazyLock<Mutex<HashMap<Identity, Arc<Mutex<Login>>>>> = LazyLock::new(Mutex::default);

/// Whether a session sees private objects. One that does not finds none, without an error.
pub(super) fn is_logged_in(session: &Session) -> Outcome<bool> {
    let state = session.get_session_info().during("C_GetSessionInfo")?.session_state();
    Ok(matches!(state, SessionState::RoUser | SessionState::RwUser))
}

/// A token and how it is logged in to.
pub(super) struct Door<'a> {
    pub(super) module: &'a Module,
    pub(super) token: &'a SeenToken,
    pub(super) uri: &'a Uri,
    pub(super) options: &'a OpenOptions,
}

impl Door<'_> {
    /// Logs in, unless the process is; whether it did. `vouched`: a person says that the PIN is right now.
    pub(super) fn log_in(&self, session: &Session, vouched: bool) -> Outcome<bool> {
        if !self.token.login_required && !self.token.pin_set {
            return Ok(false);
        }
        // Held through C_Login, so that two sessions cannot both try a wrong PIN.
        let login = self.login();
        let mut login = lock(&login);
        let login = &mut *login;
        let guard = self.options.guard(&self.token.info);
        let remembered = match &guard {
            Some(guard) => guard.read_if(vouched)?,
            None => self.own_memory(login),
        };
        if login.ours && is_logged_in(session)? {
            let doubted = vouched && matches!(remembered.state, PinOutcome::Refused | PinOutcome::Trying);
            if remembered.state != PinOutcome::Locked && !doubted {
                return Ok(false);
            }
            // Locked by another program, and not noticed yet; or refused since, and now a person wants to know.
            login.ours = false;
            session.logout().during("C_Logout")?;
        }
        let found = if self.token.own_pin_pad {
            None
        } else {
            let (base, ask) = (self.options.base_dir.as_deref(), self.options.prompt.as_ref());
            Some(self.options.pin.find(self.uri.pin(), base, ask, &self.token.info.label)?)
        };
        let source = found.as_ref().map_or(Ok(SourceId::Person), |found| found.id())?;

        // For all programs, or for this one.
        let held = guard.as_ref().filter(|_| source != SourceId::Person).map(Guard::hold).transpose()?;
        let before = match &held {
            // Another program may have tried in the meantime.
            Some(held) => held.read_if(vouched)?,
            None if remembered.state == PinOutcome::Locked && !vouched => return self.refuse(Refusal::ByPerson),
            None => self.own_memory(login),
        };
        // As the token says it now that no one else is trying.
        let shown = self.module.find(self.uri)?.1.pin;
        let trying = match before.trying(&source, shown, vouched) {
            Ok(trying) => trying,
            Err(refusal) => return self.refuse(refusal),
        };
        let info = &self.token.info;
        let (label, serial) = (info.label.clone(), info.serial.clone());
        let prompt = PinPrompt { label, serial, state: shown, tries_left: None, purpose: None };
        let pin = found.map(|found| found.read(&prompt)).transpose()?;
        remember(login, held.as_ref(), &trying)?;
        let result = session.login(UserType::User, pin.as_ref().map(|pin| pin.secret()));
        drop(pin);
        let (after, result) = self.conclude(login.ours, before, trying, result);
        login.ours = result.is_ok();
        let remembered = remember(login, held.as_ref(), &after);
        if let (Some(guard), None, Ok(()), true) = (&guard, &held, &result, vouched) {
            let held = guard.hold()?;
            held.write(&held.read_if(true)?.cleared())?;
        }
        result.and(remembered.map_err(Fault::from)).map(|()| true)
    }

    /// What is to be remembered after C_Login, and what is to be said.
    fn conclude(
        &self,
        ours: bool,
        before: PinMemory,
        trying: PinMemory,
        result: Result<(), Error>,
    ) -> (PinMemory, Outcome<()>) {
        let label = &self.token.info.label;
        let Err(error) = result else { return (trying.accepted(), Ok(())) };
        if let Error::Pkcs11(RvError::UserAlreadyLoggedIn, _) = error {
            let theirs = || {
                Err(pin_error(format!(
                    "something else in this process is logged in to the token {label:?}: its PIN was not proved to be ours"
                )))
            };
            return (before, if ours { Ok(()) } else { theirs() });
        }
        let unnamed = matches!(error, Error::Pkcs11(RvError::VendorDefined(_) | RvError::UnknownErrorCode(_), _));
        let locked = matches!(error, Error::Pkcs11(RvError::PinLocked, _));
        let fault = Err::<(), _>(error).during("C_Login").expect_err("it is an error");
        match fault.kind() {
            Some(Kind::Pin) => {
                tracing::error!(token = label, %fault, "THE PIN WAS REFUSED; it is not tried again until a person acts");
                let refusal = if locked { Refusal::Locked } else { Refusal::Refused };
                (trying.refused(), self.refuse(refusal))
            }
            // It may mean that the PIN was wrong. One that the token took before is tried again when the token is
            // better: a device that is away may say nothing else.
            Some(Kind::Vague) if unnamed || !trying.known_good() => (trying, Err(fault)),
            _ => (before, Err(fault)),
        }
    }

    /// Forgets the login: the process is logged out, whoever opened the sessions.
    pub(super) fn log_out(&self, session: &Session) -> Outcome<()> {
        let login = self.login();
        lock(&login).ours = false;
        match session.logout().during("C_Logout") {
            Err(fault) if fault.no_answer() => Ok(()),
            result => result,
        }
    }

    /// Has no program use the PIN until a person unlocks the token.
    pub(super) fn mark_locked(&self) -> Result<(), TokenError> {
        match self.options.guard(&self.token.info) {
            Some(guard) => {
                let held = guard.hold()?;
                held.write(&held.read_if(true)?.locked())
            }
            None => {
                let login = self.login();
                let mut login = lock(&login);
                login.memory = Some(self.own_memory(&login).locked());
                Ok(())
            }
        }
    }

    /// That the PIN is not used.
    pub(super) fn refuse<T>(&self, refusal: Refusal) -> Outcome<T> {
        Err(Fault::Token(refusal.of(&self.token.info.label, self.options.name.as_deref())))
    }

    fn login(&self) -> Arc<Mutex<Login>> {
        let info = &self.token.info;
        let identity = (self.module.path.clone(), info.serial.clone(), info.label.clone());
        lock(&LOGINS).entry(identity).or_default().clone()
    }

    fn own_memory(&self, login: &Login) -> PinMemory {
        login.memory.clone().unwrap_or_else(|| PinMemory::new(&self.token.info))
    }
}

fn remember(login: &mut Login, held: Option<&Held<'_>>, memory: &PinMemory) -> Result<(), TokenError> {
    match held {
        Some(held) => held.write(memory),
        None => {
            login.memory = Some(memory.clone());
            Ok(())
        }
    }
}

fn pin_error(reason: String) -> Fault {
    Fault::Token(TokenError::Pin(reason))
}
