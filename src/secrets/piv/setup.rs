//! A YubiKey as it comes from the factory gets a PIN, a PUK and a management key of its own.

use super::{
    algorithm::Firmware,
    apdu::{Fault, Outcome, Status},
    card::{Card, Reference, padded},
    manage::{forget, is_free},
    management::ManagementKey,
    token::YubiKey,
};
use crate::secrets::{Slot, Token, TokenError, pin::Pin};

/// What every YubiKey comes with.
const FACTORY_PIN: &str = "123456";
const FACTORY_PUK: &str = "12345678";

/// What of a card is still the factory's, beside its PIN.
struct Fresh {
    management_key: bool,
    puk: bool,
}

impl YubiKey {
    /// Whether the card may be set up: its PIN is the one that every YubiKey comes with, and it holds no key.
    ///
    /// # Errors
    /// [`TokenError::Config`] if not.
    pub fn check_fresh(&self) -> Result<(), TokenError> {
        self.transaction(&mut self.lock_state(), look).map(drop)
    }

    /// Gives a card without keys a PIN and a PUK of 6 to 8 characters, and a random management key that the card keeps
    /// behind the PIN, as `ykman piv access change-management-key --generate --protect` does.
    ///
    /// The PIN comes last, so that what was cut short can be done again. A PUK that was set by then stays: whether this one
    /// is the card's now is returned.
    ///
    /// # Errors
    /// [`TokenError::Config`] if the card holds keys or has a PIN of its own; [`TokenError::Pin`] if the new ones cannot be.
    pub fn set_up(&self, pin: &Pin, puk: &Pin) -> Result<bool, TokenError> {
        for (code, factory, name) in [(pin, FACTORY_PIN, "PIN"), (puk, FACTORY_PUK, "PUK")] {
            padded(code, name)?;
            if *code == Pin::new(factory) {
                return Err(TokenError::Pin(format!("this {name} is the one that every YubiKey comes with")));
            }
        }
        let state = &mut *self.lock_state();
        let puk_is_set = self.transaction(state, |card| {
            let fresh = look(card)?;
            let done = self.change_all(card, &fresh, pin, puk);
            forget(card);
            done.map(|()| fresh.puk)
        })?;
        if let Err(error) = self.door(&self.info()).clear(&mut state.memory) {
            tracing::warn!(token = self.name(), %error, "the card is set up; that its PIN was refused before is still remembered");
        }
        Ok(puk_is_set)
    }

    fn change_all(&self, card: &mut Card<'_>, fresh: &Fresh, pin: &Pin, puk: &Pin) -> Outcome<()> {
        let factory_pin = Pin::new(FACTORY_PIN);
        card.verify(&factory_pin)?;
        if fresh.management_key {
            let key = ManagementKey::random()?;
            card.authenticate(&ManagementKey::factory())?;
            // Kept before it is the card's: one that nobody knows would be lost.
            key.protect(card)?;
            let algorithm = if self.firmware >= Firmware::AES { 0x0a } else { 0x03 };
            card.set_management_key(algorithm, &key)?;
        }
        let kept = ManagementKey::protected(card)?.ok_or_else(|| {
            TokenError::KnownAnswer("the management key was written behind the PIN and is not there".into())
        })?;
        card.authenticate(&kept)?;
        if fresh.puk {
            card.change(Reference::Puk, &Pin::new(FACTORY_PUK), puk).map_err(refused)?;
        }
        card.change(Reference::Pin, &factory_pin, pin).map_err(refused)
    }
}

fn look(card: &mut Card<'_>) -> Outcome<Fresh> {
    let not = |said: String| Err(TokenError::Config(said).into());
    for slot in Slot::all() {
        if !is_free(card, slot)? {
            return not(format!("it holds keys or certificates: slot {slot} is not empty"));
        }
    }
    if !card.tries(Reference::Pin)?.factory {
        return not("it has a PIN of its own already: it is in use, and can be used as it is".into());
    }
    let fresh = Fresh { management_key: card.has_factory_management_key()?, puk: card.tries(Reference::Puk)?.factory };
    if !fresh.management_key && !ManagementKey::is_protected(card)? {
        return not("it has a management key of its own, which is not kept behind its PIN".into());
    }
    Ok(fresh)
}

/// A card may have rules of its own for a PIN.
fn refused(fault: Fault) -> Fault {
    match fault {
        fault if fault.is(Status::CONDITIONS) => {
            TokenError::Pin("the card refuses the new PIN or PUK as too simple (its PIN complexity is on)".into())
                .into()
        }
        fault => fault,
    }
}
