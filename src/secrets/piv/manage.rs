//! Who makes, imports, deletes and attests the keys of a YubiKey.

use zeroize::Zeroizing;

use super::{
    algorithm::{Firmware, identifier},
    apdu::Outcome,
    card::Card,
    certificate,
    management::ManagementKey,
    token::{SlotKey, State, YubiKey},
};
use crate::{
    keys::{Curve, PublicKey},
    secrets::{
        Custodian, HeldKey, ImportKey, KeyUse, NewKey, Origin, PinPolicy, Place, Slot, Token, TokenError, TouchPolicy,
    },
};

impl YubiKey {
    /// Does something with the management key proved.
    fn managed<T>(
        &self,
        state: &mut State,
        given: Option<ManagementKey>,
        mut work: impl FnMut(&mut Card<'_>) -> Outcome<T>,
    ) -> Result<T, TokenError> {
        let info = self.info_now();
        self.door(&info).check_lock(state.memory.as_ref())?;
        // What another thread asks for is not what a PIN is wanted for here.
        state.purpose = None;
        let factory = given.is_none() && self.transaction(state, |card| card.has_factory_management_key())?;
        if factory && !std::mem::replace(&mut state.warned, true) {
            tracing::warn!(
                token = self.name(),
                "the card has the management key that every YubiKey comes with: `claviger token init` changes it on a card \
                 without keys, else `ykman piv access change-management-key --generate --protect`"
            );
        }
        let key = given.or_else(|| factory.then(ManagementKey::factory));
        let policy = if key.is_some() { PinPolicy::Never } else { PinPolicy::Once };
        self.unlocked(
            state,
            policy,
            false,
            |_| Ok(()),
            |unlocked| {
                let card = &mut *unlocked.card;
                let done = match &key {
                    Some(key) => card.authenticate(key),
                    None => match ManagementKey::protected(card)? {
                        Some(key) => card.authenticate(&key),
                        None => Err(TokenError::Config(
                            "the card has a management key of its own, and does not keep it behind its PIN: give it \
                             with --management-key"
                                .into(),
                        )
                        .into()),
                    },
                }
                .and_then(|()| work(card));
                // Nobody finds the card with its management key proved.
                forget(card);
                done
            },
        )
    }

    fn made(&self, state: &mut State, made: Option<SlotKey>) -> Result<HeldKey, TokenError> {
        let key = made.ok_or_else(|| TokenError::KnownAnswer("a key was made and is not there".into()))?;
        state.keys.retain(|it| it.slot != key.slot);
        state.keys.push(key.clone());
        // A touch for what was there is none for this.
        self.touches().forget(key.slot);
        Ok(key.held)
    }

    fn algorithm(&self, curve: Curve, usage: KeyUse) -> Result<u8, TokenError> {
        if !usage.fits(curve) {
            return Err(TokenError::Unsupported(format!("{curve} keys do not serve {usage:?}")));
        }
        identifier(curve, self.firmware)
    }

    /// Empties a slot.
    fn empty(&self, card: &mut Card<'_>, slot: Slot, curve: Curve, algorithm: u8) -> Outcome<()> {
        if self.firmware >= Firmware::CURVE_25519 {
            card.delete(slot)?;
            return card.put_certificate(slot, &[]);
        }
        // Firmware before 5.7 cannot delete: the key is overwritten by one that no one has use for.
        let nobody = card.generate(slot, curve, algorithm, PinPolicy::Always, TouchPolicy::Always)?;
        card.put_certificate(slot, &certificate::deleted(&nobody)?)
    }
}

/// Has the card forget what was proved to it. What was done is done, if that fails.
pub(super) fn forget(card: &mut Card<'_>) {
    if let Err(fault) = card.deselect() {
        tracing::warn!(error = %TokenError::from(fault), "the card may still have its management key proved: unplug it");
    }
}

/// A slot that may be written: neither key nor certificate is lost unawares. `only` is the one that the token's URI names.
fn free(card: &mut Card<'_>, place: Place, only: Option<Slot>) -> Outcome<Slot> {
    if let (Some(slot), Some(only)) = (place.slot, only)
        && slot != only
    {
        return Err(TokenError::Config(format!("the URI names the slot {only} alone, and {slot} is another")).into());
    }
    if let Some(slot) = place.slot.or(only) {
        if place.force || is_free(card, slot)? {
            return Ok(slot);
        }
        let said = format!("slot {slot} is not empty: use --force to overwrite it");
        return Err(TokenError::Config(said).into());
    }
    for slot in Slot::retired() {
        if is_free(card, slot)? {
            return Ok(slot);
        }
    }
    Err(TokenError::Config("every retired slot of the card, 82 to 95, has a key or a certificate".into()).into())
}

/// Whether a slot has neither key nor certificate, or a key that was deleted.
pub(super) fn is_free(card: &mut Card<'_>, slot: Slot) -> Outcome<bool> {
    let (metadata, object) = (card.metadata(slot)?, card.certificate(slot)?);
    let Some(object) = object else { return Ok(metadata.is_none()) };
    let public = metadata.and_then(|metadata| metadata.public);
    Ok(public.and_then(|public| certificate::read(&object, &public)).is_some_and(|note| note.deleted))
}

impl Custodian for YubiKey {
    fn generate(&self, key: &NewKey) -> Result<HeldKey, TokenError> {
        self.generate_in(key, Place::default())
    }

    fn generate_in(&self, key: &NewKey, place: Place) -> Result<HeldKey, TokenError> {
        let state = &mut *self.lock_state();
        let given = state.management_key.take();
        let algorithm = self.algorithm(key.curve, key.usage)?;
        certificate::check_label(key.label.as_deref())?;
        let (pin, touch) = (place.pin.unwrap_or_default(), place.touch.unwrap_or_default());
        let made = self.managed(state, given, |card| {
            let slot = free(card, place, self.uri.slot)?;
            let public = card.generate(slot, key.curve, algorithm, pin, touch)?;
            card.put_certificate(slot, &certificate::write(&public, key.label.as_ref(), key.usage)?)?;
            self.slot_key(card, slot)
        })?;
        self.made(state, made)
    }

    fn import(&self, key: ImportKey) -> Result<HeldKey, TokenError> {
        let state = &mut *self.lock_state();
        let given = state.management_key.take();
        let curve = key.public.curve();
        let algorithm = self.algorithm(curve, key.usage)?;
        certificate::check_label(key.label.as_deref())?;
        if self.read_slots(state)?.iter().any(|it| it.held.public == key.public) {
            return Err(TokenError::Config("the key is on the card already".into()));
        }
        let made = self.managed(state, given, |card| {
            let slot = free(card, Place::default(), self.uri.slot)?;
            card.import(slot, curve, algorithm, &key.private, PinPolicy::default(), TouchPolicy::default())?;
            if card.metadata(slot)?.and_then(|metadata| metadata.public).as_ref() != Some(&key.public) {
                self.empty(card, slot, curve, algorithm)?;
                return Err(TokenError::KnownAnswer("the private half is not that of the public one".into()).into());
            }
            card.put_certificate(slot, &certificate::write(&key.public, key.label.as_ref(), key.usage)?)?;
            self.slot_key(card, slot)
        })?;
        self.made(state, made)
    }

    fn delete(&self, key: &PublicKey) -> Result<(), TokenError> {
        let state = &mut *self.lock_state();
        let given = state.management_key.take();
        let found = self.read_slots(state)?.into_iter().find(|it| it.held.public == *key);
        let found = found.ok_or(TokenError::KeyGone)?;
        let (slot, curve) = (found.slot, key.curve());
        self.managed(state, given, |card| self.empty(card, slot, curve, found.algorithm))?;
        state.keys.retain(|it| it.held.public != *key);
        Ok(())
    }

    fn inventory(&self) -> Result<Vec<HeldKey>, TokenError> {
        let state = &mut *self.lock_state();
        Ok(self.read_slots(state)?.into_iter().map(|key| key.held).collect())
    }

    fn attest(&self, key: &PublicKey) -> Result<Vec<Vec<u8>>, TokenError> {
        let state = &mut *self.lock_state();
        let found = self.read_slots(state)?.into_iter().find(|it| it.held.public == *key);
        let found = found.ok_or(TokenError::KeyGone)?;
        if found.held.origin == Origin::Imported {
            let said = "a key that was imported has no attestation: it existed outside";
            return Err(TokenError::Unsupported(said.into()));
        }
        self.transaction(state, |card| card.attest(found.slot)).map(|(statement, signer)| vec![statement, signer])
    }

    fn manage_with(&self, key: Zeroizing<Vec<u8>>) -> Result<(), TokenError> {
        self.lock_state().management_key = Some(ManagementKey::new(key)?);
        Ok(())
    }

    fn lock(&self) -> Result<(), TokenError> {
        let state = &mut *self.lock_state();
        self.door(&self.info_now()).mark_locked(&mut state.memory)?;
        match self.transaction(state, |card| card.log_out()) {
            // A card that is not there forgets by itself.
            Err(TokenError::Away(_)) => Ok(()),
            result => result,
        }
    }

    fn unlock(&self) -> Result<(), TokenError> {
        let state = &mut *self.lock_state();
        state.purpose = None;
        self.unlocked(state, PinPolicy::Once, true, |_| Ok(()), |_| Ok(()))?;
        self.door(&self.info_now()).clear(&mut state.memory)
    }
}
