//! Initialising a token: its label, its security officer's PIN, its user's PIN.

use std::path::PathBuf;

use cryptoki::{object::Attribute, session::UserType, slot::Slot};

use super::{Pin, SeenToken, ckr::During, module::Module};
use crate::secrets::TokenError;

/// A token to initialise.
#[derive(Debug, Clone)]
pub struct InitToken {
    /// The module's file.
    pub module: PathBuf,
    /// The slot; none for the one slot with a token that is not initialised.
    pub slot_id: Option<u64>,
    /// The new label: 1 to 32 bytes of UTF-8.
    pub label: String,
    /// The security officer's PIN: the new one, or the present one of a token that is initialised already.
    pub so_pin: Pin,
    /// The user's new PIN.
    pub user_pin: Pin,
    /// The label of the token that may be erased.
    pub erase: Option<String>,
}

/// Initialises a token and sets its user's PIN. **What it held is gone.**
///
/// A token that is initialised already is refused if it holds, or may hold, anything (its private objects cannot be seen
/// without its user's PIN, so one that has such a PIN may hold keys) unless [`InitToken::erase`] is its label.
///
/// # Errors
/// [`TokenError::Config`] for a wrong label, slot or `erase`, [`TokenError::Pin`] if a PIN is refused,
/// [`TokenError::Away`] if there is no such slot with a token.
pub fn init_token(request: &InitToken) -> Result<SeenToken, TokenError> {
    let label = &request.label;
    if label.is_empty() || label.len() > 32 || label.trim_end() != label || label.contains('\0') {
        return Err(TokenError::Config(format!(
            "{label:?} is no label of a token: 1 to 32 bytes, no blank at the end"
        )));
    }
    let module = Module::load(&request.module, None)?;
    let (slot, token) = choose(&module, request.slot_id)?;
    check_empty(&module, slot, &token, request.erase.as_deref())?;

    let context = &module.context;
    context.init_token(slot, request.so_pin.secret(), label).during("C_InitToken")?;
    // The list makes SoftHSM look again: it opens a new slot behind the one that was filled.
    let slot =
        module.tokens()?.into_iter().find(|(_, seen)| seen.slot_id == token.slot_id && seen.info.label == *label);
    let (slot, _) = slot.ok_or_else(|| TokenError::Away(format!("the token {label:?} vanished after C_InitToken")))?;
    let session = context.open_rw_session(slot).during("C_OpenSession")?;
    session.login(UserType::So, Some(request.so_pin.secret())).during("C_Login")?;
    let set = session.init_pin(request.user_pin.secret()).during("C_InitPIN");
    // The security officer's login would keep everyone else of this process out.
    let out = session.logout().during("C_Logout");
    set.and(out)?;
    drop(session);
    let tokens = module.tokens()?.into_iter().map(|(_, token)| token);
    let mut made = tokens.filter(|seen| seen.slot_id == token.slot_id);
    made.next().ok_or_else(|| TokenError::Away(format!("the token {label:?} vanished after C_InitPIN")))
}

fn choose(module: &Module, slot_id: Option<u64>) -> Result<(Slot, SeenToken), TokenError> {
    let tokens = module.tokens()?;
    if let Some(slot_id) = slot_id {
        let chosen = tokens.into_iter().find(|(_, token)| token.slot_id == slot_id);
        return chosen.ok_or_else(|| TokenError::Away(format!("there is no token in slot {slot_id}")));
    }
    let mut empty = tokens.into_iter().filter(|(_, token)| !token.initialized);
    match (empty.next(), empty.next()) {
        (Some(chosen), None) => Ok(chosen),
        (None, _) => Err(TokenError::Config("every token is initialised already: name one by its slot id".into())),
        (Some(_), Some(_)) => {
            Err(TokenError::Config("several tokens are not initialised: name one by its slot id".into()))
        }
    }
}

fn check_empty(module: &Module, slot: Slot, token: &SeenToken, erase: Option<&str>) -> Result<(), TokenError> {
    let label = &token.info.label;
    match erase {
        Some(erase) if token.initialized && erase == label => return Ok(()),
        Some(erase) => {
            return Err(TokenError::Config(format!(
                "the token in slot {slot} is {label:?}, not {erase:?}: nothing erased"
            )));
        }
        None if !token.initialized => return Ok(()),
        None => {}
    }
    let session = module.context.open_ro_session(slot).during("C_OpenSession")?;
    let visible = session.find_objects(&[Attribute::Token(true)]).during("C_FindObjects")?.len();
    if token.pin_set || visible > 0 {
        return Err(TokenError::Config(format!(
            "the token {label:?} in slot {slot} is initialised and may hold keys: say its label to erase it"
        )));
    }
    Ok(())
}
