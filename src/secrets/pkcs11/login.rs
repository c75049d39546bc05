//! C_Login. The login is a state of the process and the token, not of a session (PKCS#11 v3.1 section 5.6.7).
//!
//! The rules that keep a wrong PIN from being tried twice are in [`pin`](crate::secrets::pin). This file provides what
//! is PKCS#11's own: one login for the process, the flags of CK_TOKEN_INFO, and what the return values of C_Login mean.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use cryptoki::{
    error::{Error, RvError},
    session::{Session, SessionState, UserType},
};

use super::{
    ckr::{CallResult, During, FailureKind},
    module::Module,
    options::OpenOptions,
    profile::Profile,
    slot_token::SlotToken,
    uri::Uri,
};
use crate::secrets::{
    TokenError,
    mutex::lock,
    person::while_asked,
    pin::{PinAccess, PinAttempt, PinGuard, PinOutcome, PinRecord, PinRecordState, PinState, TriesLeft},
};

/// Identifies a token in this process: module, serial number and label. The label is needed since some tokens have a
/// serial number of zeros.
type TokenIdentity = (PathBuf, String, String);

#[derive(Default)]
struct LoginState {
    /// Whether this program logged in. If it did, CKR_USER_ALREADY_LOGGED_IN does not mean that other code of the
    /// process logged in.
    logged_in: bool,
    /// The record of PIN attempts if there is no guard, and of PINs that a person typed.
    process_record: Option<PinRecord>,
}

static LOGINS: LazyLock<Mutex<HashMap<TokenIdentity, Arc<Mutex<LoginState>>>>> = LazyLock::new(Mutex::default);

/// Whether a session is logged in. A session that is not logged in finds no private objects, and reports no error.
pub(super) fn is_logged_in(session: &Session) -> CallResult<bool> {
    let state = session.get_session_info().during("C_GetSessionInfo")?.session_state();
    Ok(matches!(state, SessionState::RoUser | SessionState::RwUser))
}

/// A token and how to log in to it.
pub(super) struct Login<'a> {
    module: &'a Module,
    token: &'a SlotToken,
    uri: &'a Uri,
    options: &'a OpenOptions,
    guard: Option<PinGuard>,
    /// Whether the token reports a wrong PIN in the flags of CK_TOKEN_INFO.
    reports_wrong_pin: bool,
    /// What a person does about a locked PIN.
    when_locked: String,
}

impl<'a> Login<'a> {
    pub(super) fn new(module: &'a Module, token: &'a SlotToken, uri: &'a Uri, options: &'a OpenOptions) -> Self {
        let guard = options.guard(&token.info);
        Self { module, token, uri, options, guard, reports_wrong_pin: false, when_locked: String::new() }
    }

    /// Uses what the token's profile says about its PIN.
    pub(super) fn with_profile(self, profile: &Profile) -> Self {
        let when_locked = profile.new_pin(&self.module.path.to_string_lossy(), &self.token.info.label);
        Self { reports_wrong_pin: profile.reports_wrong_pin, when_locked, ..self }
    }

    /// Logs in, unless the process is logged in already. Returns whether this call logged in.
    ///
    /// `confirmed` means that a person says the PIN is correct.
    pub(super) fn log_in(&self, session: &Session, confirmed: bool) -> CallResult<bool> {
        if !self.token.login_required && !self.token.pin_set {
            return Ok(false);
        }
        // Held during C_Login, so that two sessions cannot both try a wrong PIN.
        let state = self.state();
        let state = &mut *lock(&state);
        let pin = self.pin_access();
        let recorded = pin.record(state.process_record.as_ref(), confirmed)?.state;
        if state.logged_in && is_logged_in(session)? {
            let in_doubt = confirmed && matches!(recorded, PinRecordState::Refused | PinRecordState::Trying);
            if recorded != PinRecordState::LockedByPerson && !in_doubt {
                return Ok(false);
            }
            // Another program has locked the token, and this one has not noticed yet; or the PIN was refused since, and
            // a person wants to know whether it is correct now.
            state.logged_in = false;
            session.logout().during("C_Logout")?;
        }
        let attempt = pin.prepare(&mut state.process_record, confirmed, None, || self.tries_left())?;
        let entered_by_person = !attempt.is_recorded_by_guard();
        let (outcome, result) = self.present(session, &attempt, state.logged_in);
        state.logged_in = result.is_ok();
        let is_accepted = matches!(outcome, PinOutcome::Accepted);
        let (result, recorded) = pin.conclude(&mut state.process_record, attempt, outcome, result);
        // The error of C_Login says more than that of the record.
        result?;
        if confirmed && is_accepted && entered_by_person {
            pin.clear_guard()?;
        }
        recorded?;
        Ok(true)
    }

    /// Reads CK_TOKEN_INFO again, and returns what its flags say about the tries left.
    fn tries_left(&self) -> Result<TriesLeft, TokenError> {
        let state = self.module.find_token(self.uri)?.1.pin;
        Ok(TriesLeft { state, count: None, warning: None })
    }

    /// Calls C_Login. `logged_in` means that this program has logged in before.
    fn present(&self, session: &Session, attempt: &PinAttempt<'_>, logged_in: bool) -> (PinOutcome, CallResult<()>) {
        let log_in = || session.login(UserType::User, attempt.pin().map(|pin| pin.secret()));
        // Without a PIN, the token asks a person on its own pad.
        let result = if attempt.pin().is_none() { while_asked(Duration::MAX, log_in) } else { log_in() };
        let error = match result {
            Ok(()) => return (PinOutcome::Accepted, Ok(())),
            Err(error) => error,
        };
        if let Error::Pkcs11(RvError::UserAlreadyLoggedIn, _) = error {
            let result = if logged_in { Ok(()) } else { Err(self.foreign_login().into()) };
            return (PinOutcome::NotPresented, result);
        }
        let is_unnamed = matches!(error, Error::Pkcs11(RvError::VendorDefined(_) | RvError::UnknownErrorCode(_), _));
        let code = error.to_string();
        let locked = matches!(error, Error::Pkcs11(RvError::PinLocked, _));
        let error = Err::<(), _>(error).during("C_Login").expect_err("it is an error");
        let outcome = match error.kind() {
            Some(FailureKind::Pin) => PinOutcome::Refused { locked, reason: error.to_string() },
            Some(FailureKind::Ambiguous) => self.judge(session, attempt, is_unnamed, code),
            _ => PinOutcome::NotPresented,
        };
        (outcome, Err(error))
    }

    /// What a failure of C_Login means whose code names no PIN. `is_unnamed` means that the specification does not name
    /// the code either: it may be a vendor's code for a wrong PIN.
    ///
    /// | after the failure | the PIN |
    /// |---|---|
    /// | CK_TOKEN_INFO reports fewer tries than before | was refused |
    /// | it reports as many, and by its profile this token reports each wrong PIN | was not checked |
    /// | the token accepted this source before, and the code is one of the specification's | was not checked: for a wrong PIN there is CKR_PIN_INCORRECT |
    /// | the token accepted this source before, and does not answer a call that needs no login | was not checked: the device is not reachable |
    /// | anything else | the result is unknown, and the rules of `pin/record.rs` apply |
    fn judge(&self, session: &Session, attempt: &PinAttempt<'_>, is_unnamed: bool, code: String) -> PinOutcome {
        let now = self.module.find_token(self.uri).map(|(_, token)| token.pin);
        let is_as_before = match now {
            Ok(now) if now > attempt.reported() => {
                return PinOutcome::Refused { locked: now == PinState::Locked, reason: code };
            }
            Ok(now) => now == PinState::Ready,
            Err(_) => false,
        };
        if is_as_before && self.reports_wrong_pin {
            return PinOutcome::NotPresented;
        }
        let is_reachable = || {
            let error = session.generate_random_slice(&mut [0; 8]).during("C_GenerateRandom").err();
            let kind = error.and_then(|error| error.kind());
            !matches!(kind, Some(FailureKind::Ambiguous | FailureKind::Lost | FailureKind::Gone))
        };
        if attempt.was_accepted_before() && (!is_unnamed || now.is_err() || !is_reachable()) {
            return PinOutcome::NotPresented;
        }
        PinOutcome::Unknown
    }

    fn foreign_login(&self) -> TokenError {
        TokenError::Pin(format!(
            "another part of this process is logged in to the token {:?}, so its PIN could not be checked",
            self.token.info.label
        ))
    }

    /// Logs the process out, whichever session it logged in with.
    pub(super) fn log_out(&self, session: &Session) -> CallResult<()> {
        lock(&self.state()).logged_in = false;
        match session.logout().during("C_Logout") {
            Err(error) if error.is_session_or_token_lost() => Ok(()),
            result => result,
        }
    }

    /// Records that a person locked the token. No program that shares the guard then uses the PIN until a person
    /// unlocks the token.
    pub(super) fn record_locked_by_person(&self) -> Result<(), TokenError> {
        if self.guard.is_some() {
            // The login state is not locked: another thread may hold it while a person enters the PIN.
            return self.pin_access().record_locked_by_person(&mut None);
        }
        self.pin_access().record_locked_by_person(&mut lock(&self.state()).process_record)
    }

    /// The error for a token that a person has locked.
    pub(super) fn locked_by_person_error(&self) -> TokenError {
        self.pin_access().locked_by_person_error()
    }

    fn pin_access(&self) -> PinAccess<'_> {
        PinAccess {
            info: &self.token.info,
            name: self.options.name.as_deref(),
            source: &self.options.pin,
            uri: self.uri.pin(),
            base_dir: self.options.base_dir.as_deref(),
            prompt: self.options.prompt.as_ref(),
            has_pin_pad: self.token.has_pin_pad,
            when_locked: &self.when_locked,
            guard: self.guard.as_ref(),
        }
    }

    fn state(&self) -> Arc<Mutex<LoginState>> {
        let info = &self.token.info;
        let identity = (self.module.path.clone(), info.serial.clone(), info.label.clone());
        lock(&LOGINS).entry(identity).or_default().clone()
    }
}
