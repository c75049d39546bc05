//! [`Custodian`] for YubiKeys: making, importing, deleting and attesting keys, locking and unlocking.

use std::time::Instant;

use zeroize::Zeroizing;

use super::{
    algorithm::{Firmware, algorithm_of},
    apdu::CardResult,
    card::{Card, MANAGEMENT, ManagementKeySource},
    certificate,
    device::{SlotKey, State, YubiKey},
    key_history,
    management_key::ManagementKey,
    touch::{CACHED_TOUCH, TouchPrompt},
    unlock::PinNeed,
};
use crate::{
    keys::{Curve, PublicKey},
    secrets::{
        Custodian, HeldKey, ImportKey, KeyUse, NewKey, Origin, PinPolicy, Purpose, Slot, SlotOptions, Token,
        TokenError, TouchPolicy,
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
            key_history::update(card, slot);
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
            key_history::update(card, slot);
            self.read_slot(card, slot)
        })?;
        self.add_key(state, made)
    }

    fn delete(&self, key: &PublicKey) -> Result<(), TokenError> {
        self.delete_in_slot(key, None)
    }

    fn delete_in_slot(&self, key: &PublicKey, slot: Option<Slot>) -> Result<(), TokenError> {
        let state = &mut *self.lock_state();
        let management_key = state.management_key.take();
        let is_meant = |it: &SlotKey| it.held.public == *key && slot.is_none_or(|slot| slot == it.slot);
        let found = self.read_slots(state)?.into_iter().find(is_meant).ok_or(TokenError::KeyGone)?;
        self.with_management_key(state, management_key, |card| {
            // Another program may have changed the slot while a person typed the PIN.
            if card.metadata(found.slot)?.and_then(|metadata| metadata.public).as_ref() != Some(key) {
                return Err(TokenError::KeyGone.into());
            }
            self.clear_slot(card, found.slot, key.curve(), found.algorithm)?;
            key_history::update(card, found.slot);
            Ok(())
        })?;
        state.keys.retain(|it| it.slot != found.slot);
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
        self.log_out(state)
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
    pub(super) fn with_management_key<T>(
        &self,
        state: &mut State,
        given: Option<ManagementKey>,
        mut work: impl FnMut(&mut Card<'_>) -> CardResult<T>,
    ) -> Result<T, TokenError> {
        let info = self.current_info();
        self.pin_access(&info).check_not_locked_by_person(state.process_record.as_ref())?;
        let management =
            self.transaction(state, |card| Ok((card.management_key_info()?, card.management_key_source()?)))?;
        let is_factory = given.is_none() && management.0.is_factory;
        if given.is_none() && !is_factory {
            check_is_stored(management.1)?;
        }
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
                    Some(key) => self.authenticate(card, key),
                    None => match card.stored_management_key()? {
                        Some(key) => self.authenticate(card, &key),
                        None => Err(TokenError::Config(
                            "the card says that it stores its management key behind its PIN, and does not: give the \
                             key with --management-key"
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

    /// Authenticates with the management key. If the key needs a touch, a person is prompted for it.
    pub(super) fn authenticate(&self, card: &mut Card<'_>, key: &ManagementKey) -> CardResult<()> {
        let info = card.management_key_info()?;
        let is_needed = match info.touch {
            TouchPolicy::Never => false,
            TouchPolicy::Always => true,
            TouchPolicy::Cached => !self.touches().was_touched_within(MANAGEMENT, CACHED_TOUCH),
        };
        if !is_needed {
            return card.authenticate(info, key);
        }
        let purpose = Some(Purpose::KeyChange);
        let prompt = TouchPrompt { serial: self.serial, number: 1, of: 1, is_reminder: false, purpose };
        let result = self.touches().prompt_during(prompt, || card.authenticate(info, key));
        if result.is_ok() {
            self.touches().record(MANAGEMENT, Instant::now());
        }
        result
    }

    /// Adds a new key to the known keys.
    fn add_key(&self, state: &mut State, made: Option<SlotKey>) -> Result<HeldKey, TokenError> {
        let key = made.ok_or_else(|| TokenError::KnownAnswer("the new key is not in its slot".into()))?;
        state.keys.retain(|it| it.slot != key.slot);
        state.keys.push(key.clone());
        // A touch for the slot's former key does not count for this one.
        self.touches().forget(key.slot.number());
        Ok(key.held)
    }

    fn algorithm(&self, curve: Curve, usage: KeyUse) -> Result<u8, TokenError> {
        if !usage.fits(curve) {
            return Err(TokenError::Unsupported(format!("a {curve} key cannot be used for {usage:?}")));
        }
        algorithm_of(curve, self.firmware)
    }

    pub(super) fn clear_slot(&self, card: &mut Card<'_>, slot: Slot, curve: Curve, algorithm: u8) -> CardResult<()> {
        if self.firmware >= Firmware::CURVE_25519 {
            card.delete(slot)?;
            return card.put_certificate(slot, &[]);
        }
        // Firmware before 5.7 cannot delete a key. It is overwritten with a key that nobody uses, marked as deleted.
        let unused = card.generate(slot, curve, algorithm, PinPolicy::Always, TouchPolicy::Always)?;
        card.put_certificate(slot, &certificate::write_deleted(&unused)?)
    }
}

/// Checks that the card stores its management key behind its PIN. Called before the PIN is asked for.
///
/// # Errors
/// [`TokenError::Config`] says what to do.
pub(super) fn check_is_stored(source: ManagementKeySource) -> Result<(), TokenError> {
    let reason = match source {
        ManagementKeySource::Stored => return Ok(()),
        ManagementKeySource::DerivedFromPin => {
            "the card's management key is derived from its PIN, which Yubico's tools did in former times and Claviger does \
             not do: `ykman piv access change-management-key --generate --protect` replaces it by a random key behind the \
             PIN"
        }
        ManagementKeySource::Unknown => {
            "the card has a management key of its own and does not store it behind its PIN: give it with \
             --management-key"
        }
    };
    Err(TokenError::Config(reason.into()))
}

/// The need for the PIN of a change of the card itself. `confirmed` means that a person says the PIN is correct.
fn change_of_card(policy: PinPolicy, confirmed: bool) -> PinNeed<'static> {
    static KEY_CHANGE: Purpose = Purpose::KeyChange;
    let purpose = if confirmed { None } else { Some(&KEY_CHANGE) };
    PinNeed { policy, confirmed, purpose, may_begin_without_pin: false }
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

/// Whether a slot holds neither key nor certificate, or a key that is marked as deleted, or such a mark alone.
pub(super) fn is_slot_free(card: &mut Card<'_>, slot: Slot) -> CardResult<bool> {
    let (metadata, object) = (card.metadata(slot)?, card.certificate(slot)?);
    Ok(match (metadata, object) {
        (metadata, None) => metadata.is_none(),
        // The card was removed after the key was deleted, and before the mark was.
        (None, Some(object)) => certificate::marks_deleted(&object),
        (Some(metadata), Some(object)) => {
            let described = metadata.public.and_then(|public| certificate::read(&object, &public));
            described.is_some_and(|description| description.deleted)
        }
    })
}
