//! Initialising a token: its label, the security officer's PIN and the user PIN.

use std::path::PathBuf;

use cryptoki::{object::Attribute, session::UserType, slot::Slot};

use super::{ckr::During, module::Module, slot_token::SlotToken};
use crate::secrets::{TokenError, pin::Pin};

/// A token to initialise.
#[derive(Debug, Clone)]
pub struct InitToken {
    /// The module's file.
    pub module: PathBuf,
    /// The slot's number. None chooses the only slot with a token that is not initialised.
    pub slot_id: Option<u64>,
    /// The new label: 1 to 32 bytes of UTF-8.
    pub label: String,
    /// The security officer's PIN. If the token is initialised already, it must be the present PIN; otherwise it
    /// becomes the new PIN.
    pub so_pin: Pin,
    /// The new user PIN.
    pub user_pin: Pin,
    /// The label of the token that may be erased. If none, an initialised token that may hold objects is not erased.
    pub erase: Option<String>,
}

/// Initialises a token and sets its user PIN. **This erases all objects in the token.** Returns the description of the
/// token afterwards.
///
/// A token that is initialised already and may hold objects is refused, unless [`InitToken::erase`] is its label.
/// Private objects are invisible without the user PIN, so a token with a user PIN may hold keys.
///
/// # Errors
/// [`TokenError::Config`] for a wrong label, slot or `erase`, [`TokenError::Pin`] if a PIN is refused,
/// [`TokenError::Away`] if the slot has no token.
pub fn init_token(request: &InitToken) -> Result<SlotToken, TokenError> {
    let label = &request.label;
    if label.is_empty() || label.len() > 32 || label.trim_end() != label || label.contains('\0') {
        return Err(TokenError::Config(format!(
            "{label:?} is not a valid token label: 1 to 32 bytes, no blank at the end"
        )));
    }
    let module = Module::load(&request.module, None)?;
    let (slot, token) = choose_slot(&module, request.slot_id)?;
    check_erasable(&module, slot, &token, request.erase.as_deref())?;

    let context = &module.context;
    context.init_token(slot, request.so_pin.secret(), label).during("C_InitToken")?;
    // Listing the slots makes SoftHSM update them: after an initialisation it adds a new empty slot.
    let slot =
        module.tokens()?.into_iter().find(|(_, seen)| seen.slot_id == token.slot_id && seen.info.label == *label);
    let (slot, _) =
        slot.ok_or_else(|| TokenError::Away(format!("the token {label:?} disappeared after C_InitToken")))?;
    let session = context.open_rw_session(slot).during("C_OpenSession")?;
    session.login(UserType::So, Some(request.so_pin.secret())).during("C_Login")?;
    let set = session.init_pin(request.user_pin.secret()).during("C_InitPIN");
    // While the security officer is logged in, no other session of this process can log in.
    let logged_out = session.logout().during("C_Logout");
    set.and(logged_out)?;
    drop(session);
    let tokens = module.tokens()?.into_iter().map(|(_, token)| token);
    let mut initialized = tokens.filter(|seen| seen.slot_id == token.slot_id);
    initialized.next().ok_or_else(|| TokenError::Away(format!("the token {label:?} disappeared after C_InitPIN")))
}

fn choose_slot(module: &Module, slot_id: Option<u64>) -> Result<(Slot, SlotToken), TokenError> {
    let tokens = module.tokens()?;
    if let Some(slot_id) = slot_id {
        let chosen = tokens.into_iter().find(|(_, token)| token.slot_id == slot_id);
        return chosen.ok_or_else(|| TokenError::Away(format!("there is no token in slot {slot_id}")));
    }
    let mut empty = tokens.into_iter().filter(|(_, token)| !token.initialized);
    match (empty.next(), empty.next()) {
        (Some(chosen), None) => Ok(chosen),
        (None, _) => Err(TokenError::Config("every token is initialised already: give the slot id of one".into())),
        (Some(_), Some(_)) => {
            Err(TokenError::Config("several tokens are not initialised: give the slot id of one".into()))
        }
    }
}

fn check_erasable(module: &Module, slot: Slot, token: &SlotToken, erase: Option<&str>) -> Result<(), TokenError> {
    let label = &token.info.label;
    match erase {
        Some(erase) if token.initialized && erase == label => return Ok(()),
        Some(erase) => {
            return Err(TokenError::Config(format!(
                "the token in slot {slot} has the label {label:?}, not {erase:?}: nothing erased"
            )));
        }
        None if !token.initialized => return Ok(()),
        None => {}
    }
    let session = module.context.open_ro_session(slot).during("C_OpenSession")?;
    let visible = session.find_objects(&[Attribute::Token(true)]).during("C_FindObjects")?.len();
    if token.pin_set || visible > 0 {
        return Err(TokenError::Config(format!(
            "the token {label:?} in slot {slot} is initialised and may hold keys: give its label to erase it"
        )));
    }
    Ok(())
}
