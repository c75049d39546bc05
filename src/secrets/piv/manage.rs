//! [`Custodian`] for YubiKeys: making, importing, deleting and attesting keys, locking and unlocking.

use zeroize::Zeroizing;

use super::{
    algorithm::{Firmware, algorithm_of},
    apdu::CardResult,
    card::Card,
    certificate,
    device::{SlotKey, State, YubiKey},
    management_key::ManagementKey,
    unlock::PinNeed,
};
use crate::{
    keys::{Curve, PublicKey},
    secrets::{
        Custodian, HeldKey, ImportKey, KeyUse, NewKey, Origin, PinPolicy, Slot, SlotOptions, Token, TokenError,
        TouchPolicy,
    },
};

impl Custodian for YubiKey {
    fn generate(&self, key: &NewKey) -> Result<HeldKey, TokenError> {
        self.generate_in_slot(key, SlotOptions::default())
    }

    fn generate_in_slot(&self, key: &NewKey, options: SlotOptions) -> Result<HeldKey, TokenError> {
        let state = &mut *self.lock_state();
        let management_key = state.management_key.take();
        let algorithm = self.algorithm(key.curve, key.usage)?;
        certificate::check_label(key.label.as_deref())?;
        let (pin, touch) = (options.pin.unwrap_or_default(), options.touch.unwrap_or_default());
        let made = self.with_management_key(state, management_key, |card| {
            let slot = choose_slot(card, options, self.uri.slot)?;
            let public = card.generate(slot, key.curve, algorithm, pin, touch)?;
            card.put_certificate(slot, &certificate::write(&public, key.label.as_ref(), key.usage)?)?;
            self.read_slot(card, slot)
        })?;
        self.add_key(state, made)
    }

    fn import(&self, key: ImportKey) -> Result<HeldKey, TokenError> {
        let state = &mut *self.lock_state();
        let management_key = state.management_key.take();
        let curve = key.public.curve();
        let algorithm = self.algorithm(curve, key.usage)?;
        certificate::check_label(key.label.as_deref())?;
        if self.read_slots(state)?.iter().any(|it| it.held.public == key.public) {
            return Err(TokenError::Config("the card holds the key already".into()));
        }
        let made = self.with_management_key(state, management_key, |card| {
            let slot = choose_slot(card, SlotOptions::default(), self.uri.slot)?;
            card.import(slot, curve, algorithm, &key.private, PinPolicy::default(), TouchPolicy::default())?;
            if card.metadata(slot)?.and_then(|metadata| metadata.public).as_ref() != Some(&key.public) {
                self.clear_slot(card, slot, curve, algorithm)?;
                return Err(TokenError::KnownAnswer("the private key does not belong to the public key".into()).into());
            }
            card.put_certificate(slot, &certificate::write(&key.public, key.label.as_ref(), key.usage)?)?;
            self.read_slot(card, slot)
        })?;
        self.add_key(state, made)
    }

    fn delete(&self, key: &PublicKey) -> Result<(), TokenError> {
        let state = &mut *self.lock_state();
        let management_key = state.management_key.take();
        let found = self.read_slots(state)?.into_iter().find(|it| it.held.public == *key);
        let found = found.ok_or(TokenError::KeyGone)?;
        let (slot, curve) = (found.slot, key.curve());
        self.with_management_key(state, management_key, |card| self.clear_slot(card, slot, curve, found.algorithm))?;
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
            let reason = "an imported key has no attestation: it existed outside the card";
            return Err(TokenError::Unsupported(reason.into()));
        }
        self.transaction(state, |card| card.attest(found.slot)).map(|(statement, signer)| vec![statement, signer])
    }

    fn set_management_key(&self, key: Zeroizing<Vec<u8>>) -> Result<(), TokenError> {
        self.lock_state().management_key = Some(ManagementKey::new(key)?);
        Ok(())
    }

    fn lock(&self) -> Result<(), TokenError> {
        let state = &mut *self.lock_state();
        self.pin_access(&self.current_info()).record_locked_by_person(&mut state.process_record)?;
        match self.transaction(state, |card| card.log_out()) {
            // A card that was removed forgets that its PIN was verified.
            Err(TokenError::Away(_)) => Ok(()),
            result => result,
        }
    }

    fn unlock(&self) -> Result<(), TokenError> {
        let state = &mut *self.lock_state();
        self.with_pin_verified(state, change_of_card(PinPolicy::Once, true), |_| Ok(()), |_| Ok(()))?;
        // The guard has recorded a PIN from another source itself.
        if !self.asks_a_person_for_pin() {
            return Ok(());
        }
        self.pin_access(&self.current_info()).clear(&mut state.process_record)
    }
}

impl YubiKey {
    /// Runs `work` after authentication with the management key. That is `given` if a person gave a key, or else the
    /// factory key if the card has it, or else the key that the card stores behind its PIN.
    fn with_management_key<T>(
        &self,
        state: &mut State,
        given: Option<ManagementKey>,
        mut work: impl FnMut(&mut Card<'_>) -> CardResult<T>,
    ) -> Result<T, TokenError> {
        let info = self.current_info();
        self.pin_access(&info).check_not_locked_by_person(state.process_record.as_ref())?;
        let is_factory = given.is_none() && self.transaction(state, |card| card.has_factory_management_key())?;
        if is_factory && !std::mem::replace(&mut state.warned_of_factory_key, true) {
            tracing::warn!(
                token = self.name(),
                "card has the factory management key; `claviger token init` changes it on a card without keys, \
                 otherwise use `ykman piv access change-management-key --generate --protect`"
            );
        }
        let key = given.or_else(|| is_factory.then(ManagementKey::factory));
        let policy = if key.is_some() { PinPolicy::Never } else { PinPolicy::Once };
        self.with_pin_verified(
            state,
            change_of_card(policy, false),
            |_| Ok(()),
            |unlocked| {
                let card = &mut *unlocked.card;
                let result = match &key {
                    Some(key) => card.authenticate(key),
                    None => match card.stored_management_key()? {
                        Some(key) => card.authenticate(&key),
                        None => Err(TokenError::Config(
                            "the card has a management key of its own and does not store it behind its PIN: give it \
                             with --management-key"
                                .into(),
                        )
                        .into()),
                    },
                }
                .and_then(|()| work(card));
                // No other program must find the card authenticated.
                forget_authentication(card);
                result
            },
        )
    }

    /// Adds a new key to the known keys.
    fn add_key(&self, state: &mut State, made: Option<SlotKey>) -> Result<HeldKey, TokenError> {
        let key = made.ok_or_else(|| TokenError::KnownAnswer("the new key is not in its slot".into()))?;
        state.keys.retain(|it| it.slot != key.slot);
        state.keys.push(key.clone());
        // A touch for the slot's former key does not count for this one.
        self.touches().forget(key.slot);
        Ok(key.held)
    }

    fn algorithm(&self, curve: Curve, usage: KeyUse) -> Result<u8, TokenError> {
        if !usage.fits(curve) {
            return Err(TokenError::Unsupported(format!("a {curve} key cannot be used for {usage:?}")));
        }
        algorithm_of(curve, self.firmware)
    }

    fn clear_slot(&self, card: &mut Card<'_>, slot: Slot, curve: Curve, algorithm: u8) -> CardResult<()> {
        if self.firmware >= Firmware::CURVE_25519 {
            card.delete(slot)?;
            return card.put_certificate(slot, &[]);
        }
        // Firmware before 5.7 cannot delete a key. It is overwritten with a key that nobody uses, marked as deleted.
        let unused = card.generate(slot, curve, algorithm, PinPolicy::Always, TouchPolicy::Always)?;
        card.put_certificate(slot, &certificate::write_deleted(&unused)?)
    }
}

/// The need for the PIN of a change of the card itself. `confirmed` means that a person says the PIN is correct.
fn change_of_card(policy: PinPolicy, confirmed: bool) -> PinNeed<'static> {
    PinNeed { policy, confirmed, purpose: None, may_begin_without_pin: false }
}

/// Makes the card forget the authentication with the management key. If that fails, the changes that were made stay.
pub(super) fn forget_authentication(card: &mut Card<'_>) {
    if let Err(error) = card.deselect() {
        let error = TokenError::from(error);
        tracing::warn!(%error, "card may still be authenticated with its management key; unplug it");
    }
}

/// Chooses a slot to write to. A slot that holds a key or a certificate is chosen only with `force`. `only` is the slot
/// that the token's URI names.
fn choose_slot(card: &mut Card<'_>, options: SlotOptions, only: Option<Slot>) -> CardResult<Slot> {
    if let (Some(slot), Some(only)) = (options.slot, only)
        && slot != only
    {
        return Err(TokenError::Config(format!("the URI names slot {only} only, so {slot} cannot be used")).into());
    }
    if let Some(slot) = options.slot.or(only) {
        if options.force || is_slot_free(card, slot)? {
            return Ok(slot);
        }
        let reason = format!("slot {slot} is not empty: use --force to overwrite it");
        return Err(TokenError::Config(reason).into());
    }
    for slot in Slot::retired() {
        if is_slot_free(card, slot)? {
            return Ok(slot);
        }
    }
    Err(TokenError::Config("each of the retired slots 82 to 95 holds a key or a certificate".into()).into())
}

/// Whether a slot holds neither key nor certificate, or a key that is marked as deleted.
pub(super) fn is_slot_free(card: &mut Card<'_>, slot: Slot) -> CardResult<bool> {
    let (metadata, object) = (card.metadata(slot)?, card.certificate(slot)?);
    let Some(object) = object else { return Ok(metadata.is_none()) };
    let public = metadata.and_then(|metadata| metadata.public);
    Ok(public.and_then(|public| certificate::read(&object, &public)).is_some_and(|description| description.deleted))
}
