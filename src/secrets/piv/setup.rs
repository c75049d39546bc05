//! Sets up a new YubiKey: replaces the factory PIN, the factory PUK and the factory management key.

use super::{
    algorithm::Firmware,
    apdu::{CardError, CardResult, Status},
    card::{Card, Reference, padded},
    device::YubiKey,
    manage::{check_is_stored, forget_authentication, is_slot_free},
    management_key::ManagementKey,
    unlock::WHEN_LOCKED,
};
use crate::secrets::{Slot, Token, TokenError, pin::Pin};

/// The PIN of every YubiKey from the factory.
const FACTORY_PIN: &str = "123456";
/// The PUK of every YubiKey from the factory.
const FACTORY_PUK: &str = "12345678";

/// Which codes of a card, besides the PIN, are still those of the factory.
struct FactoryCodes {
    management_key: bool,
    puk: bool,
}

impl YubiKey {
    /// Checks that the card may be set up: it has the factory PIN and holds no key.
    ///
    /// # Errors
    /// [`TokenError::Config`] says why the card may not be set up.
    pub fn check_fresh(&self) -> Result<(), TokenError> {
        self.transaction(&mut self.lock_state(), check_factory_state).map(drop)
    }

    /// Sets a PIN and a PUK of 6 to 8 characters on a card without keys, and a random management key that the card
    /// stores behind the PIN, like `ykman piv access change-management-key --generate --protect`.
    ///
    /// The PIN is set last, so that an interrupted set-up can be repeated. A PUK that was set before stays. Returns
    /// whether `puk` is the card's PUK now.
    ///
    /// # Errors
    /// [`TokenError::Config`] if the card holds keys or has a PIN of its own; [`TokenError::Pin`] if the card cannot
    /// take the new PIN or PUK.
    pub fn set_up(&self, pin: &Pin, puk: &Pin) -> Result<bool, TokenError> {
        for (code, factory, name) in [(pin, FACTORY_PIN, "PIN"), (puk, FACTORY_PUK, "PUK")] {
            padded(code, name)?;
            if *code == Pin::new(factory) {
                return Err(TokenError::Pin(format!(
                    "this {name} is the factory {name} of every YubiKey: choose another"
                )));
            }
        }
        let state = &mut *self.lock_state();
        let puk_is_set = self.transaction(state, |card| {
            let codes = check_factory_state(card)?;
            let result = self.change_codes(card, &codes, pin, puk);
            forget_authentication(card);
            result.map(|()| codes.puk)
        })?;
        if let Err(error) = self.pin_access(&self.info()).clear(&mut state.process_record) {
            tracing::warn!(
                token = self.name(),
                %error,
                "card is set up, but the record of earlier PIN attempts is not cleared"
            );
        }
        Ok(puk_is_set)
    }

    fn change_codes(&self, card: &mut Card<'_>, codes: &FactoryCodes, pin: &Pin, puk: &Pin) -> CardResult<()> {
        let factory_pin = Pin::new(FACTORY_PIN);
        card.verify(&factory_pin)?;
        if codes.management_key {
            let key = ManagementKey::random()?;
            self.authenticate(card, &ManagementKey::factory())?;
            // The key is stored before it is set. Otherwise an interruption could leave the card with a management key
            // that nobody knows.
            card.store_management_key(&key)?;
            let algorithm = if self.firmware >= Firmware::AES { 0x0a } else { 0x03 };
            card.set_management_key(algorithm, &key)?;
        }
        let stored = card.stored_management_key()?.ok_or_else(|| {
            TokenError::KnownAnswer("the card does not return the management key that was stored on it".into())
        })?;
        self.authenticate(card, &stored)?;
        if codes.puk {
            card.change(Reference::Puk, &Pin::new(FACTORY_PUK), puk).map_err(explain_refusal)?;
        }
        card.change(Reference::Pin, &factory_pin, pin).map_err(explain_refusal)
    }
}

/// Fails unless the card holds no key and has the factory PIN.
fn check_factory_state(card: &mut Card<'_>) -> CardResult<FactoryCodes> {
    let not_fresh = |reason: String| Err(TokenError::Config(reason).into());
    for slot in Slot::all() {
        if !is_slot_free(card, slot)? {
            return not_fresh(format!("the card holds keys or certificates: slot {slot} is not empty"));
        }
    }
    let (pin, puk) = (card.tries(Reference::Pin)?, card.tries(Reference::Puk)?);
    if !pin.is_factory {
        return not_fresh("the card has a PIN of its own already: it is in use, and can be used as it is".into());
    }
    // A set-up needs both codes, and would stop half-way.
    if puk.left == 0 {
        let also = if pin.left == 0 { "its PIN and its PUK are locked" } else { "its PUK is locked" };
        return not_fresh(format!(
            "{also}: the card holds no keys, and `ykman piv reset` gives it its factory settings"
        ));
    }
    if pin.left == 0 {
        return not_fresh(format!("its PIN is locked: {}", WHEN_LOCKED));
    }
    let codes = FactoryCodes { management_key: card.management_key_info()?.is_factory, puk: puk.is_factory };
    if !codes.management_key {
        check_is_stored(card.management_key_source()?)?;
    }
    Ok(codes)
}

/// Explains the status of a card that refuses simple PINs.
fn explain_refusal(error: CardError) -> CardError {
    match error {
        error if error.is(Status::CONDITIONS) => {
            TokenError::Pin("the card refuses the new PIN or PUK as too simple: its PIN complexity rule is on".into())
                .into()
        }
        error => error,
    }
}
