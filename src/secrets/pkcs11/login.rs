//! The one login. Its state belongs to the process and the token, not to a session (PKCS#11 v3.1 section 5.6.7).
//!
//! A wrong PIN is tried once. A token that counts tries, or one whose PIN was refused here, gets no PIN until a person
//! has vouched for it.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{LazyLock, Mutex},
};

use cryptoki::{
    error::{Error, RvError},
    session::{Session, SessionState, UserType},
};

use super::{
    OpenOptions, PinPrompt, PinState, SeenToken, Uri,
    ckr::{During, Fault, Outcome},
    module::Module,
};
use crate::secrets::TokenError;

/// A token in this process: a module, a serial number and a label, since some tokens have all zeros for a serial.
type Identity = (PathBuf, String, String);

#[derive(Default)]
struct Login {
    /// We logged in, so CKR_USER_ALREADY_LOGGED_IN is our own doing.
    ours: bool,
    /// The token refused the PIN.
    refused: bool,
}

static LOGINS: LazyLock<Mutex<HashMap<Identity, Login>>> = LazyLock::new(Mutex::default);

/// Whether a session sees private objects. One that does not finds none, without an error.
pub(super) fn is_logged_in(session: &Session) -> Outcome<bool> {
    let state = session.get_session_info().during("C_GetSessionInfo")?.session_state();
    Ok(matches!(state, SessionState::RoUser | SessionState::RwUser))
}

/// Logs in, unless the process is. `vouched`: a person says that the PIN is right now.
pub(super) fn log_in(
    module: &Module,
    token: &SeenToken,
    session: &Session,
    uri: &Uri,
    options: &OpenOptions,
    vouched: bool,
) -> Outcome<()> {
    let label = &token.info.label;
    let pin_error = |reason: String| Fault::Token(TokenError::Pin(reason));
    // Held through C_Login, so that two sessions cannot both try a wrong PIN.
    let mut logins = LOGINS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let identity = (module.path.clone(), token.info.serial.clone(), label.clone());
    let login = logins.entry(identity).or_default();

    if !token.login_required && !token.pin_set || login.ours && is_logged_in(session)? {
        return Ok(());
    }
    if login.refused && !vouched {
        return Err(pin_error(format!(
            "the token {label:?} refused its PIN, which is not tried again until a person vouches for it"
        )));
    }
    match token.pin {
        PinState::Locked => return Err(pin_error(format!("the PIN of the token {label:?} is locked"))),
        PinState::CountLow | PinState::FinalTry if !vouched => {
            let tries = if token.pin == PinState::FinalTry { "has one try left" } else { "has been refused before" };
            return Err(pin_error(format!(
                "the PIN of the token {label:?} {tries} (somewhere, since it was last right); \
                 it is not tried until a person vouches for it"
            )));
        }
        _ => {}
    }
    let result = if token.own_pin_pad {
        session.login(UserType::User, None)
    } else {
        let prompt = PinPrompt { label: label.clone(), serial: token.info.serial.clone(), state: token.pin };
        let pin = options.pin.read(uri, options.base_dir.as_deref(), options.prompt.as_ref(), &prompt)?;
        session.login(UserType::User, Some(pin.secret()))
    };
    match result {
        Ok(()) => {
            *login = Login { ours: true, refused: false };
            Ok(())
        }
        Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) if login.ours => Ok(()),
        Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Err(pin_error(format!(
            "something else in this process is logged in to the token {label:?}: its PIN was not proved to be ours"
        ))),
        Err(Error::Pkcs11(RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange, _)) => {
            login.refused = true;
            Err(pin_error(format!(
                "the token {label:?} refused its PIN; it is not tried again until a person vouches for it"
            )))
        }
        Err(Error::Pkcs11(RvError::PinLocked, _)) => {
            login.refused = true;
            Err(pin_error(format!("the PIN of the token {label:?} is locked")))
        }
        Err(error) => Err(error).during("C_Login"),
    }
}
