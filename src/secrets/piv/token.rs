//! A YubiKey as a token.

use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use super::{
    algorithm::{Firmware, identifier},
    apdu::{Fault, Outcome},
    card::{Card, Metadata, PinPolicy, TouchPolicy, Tries},
    certificate,
    management::ManagementKey,
    operate,
    options::OpenOptions,
    slot::Slot,
    touch::Touches,
    transport::{Exchange, Readers, Transport},
    unlock::{Door, Tried, Try},
    uri::Uri,
};
use crate::{
    crypto::{Cek, EncryptedKey},
    keys::{Curve, PublicKey},
    secrets::{
        Custodian, Custody, HeldKey, ImportKey, KeyUse, NewKey, Origin, Token, TokenError, TokenInfo, Unwrap, Wrap,
        pin::{Guard, PinMemory, PinState},
    },
};

/// Where a new key goes, and what it wants of a person.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place {
    /// The slot; the first retired one that is empty if not said.
    pub slot: Option<Slot>,
    /// Whether what is in the slot may be overwritten.
    pub force: bool,
    /// When it wants the PIN.
    pub pin: PinPolicy,
    /// When it wants a touch.
    pub touch: TouchPolicy,
}

/// A key in a slot.
#[derive(Debug, Clone)]
pub(super) struct SlotKey {
    pub(super) slot: Slot,
    pub(super) algorithm: u8,
    pub(super) pin: PinPolicy,
    pub(super) touch: TouchPolicy,
    pub(super) held: HeldKey,
}

/// A YubiKey.
pub struct YubiKey {
    name: Arc<str>,
    pub(super) uri: Uri,
    pub(super) options: OpenOptions,
    readers: Box<dyn Readers>,
    /// Which card it is, once it was seen: another one is never taken for it.
    serial: u32,
    pub(super) firmware: Firmware,
    guard: Option<Guard>,
    state: Mutex<State>,
    info: RwLock<TokenInfo>,
}

/// One thread speaks to the card at a time.
#[derive(Default)]
pub(super) struct State {
    link: Option<Box<dyn Transport>>,
    pub(super) keys: Vec<SlotKey>,
    /// Of the PIN, where there is no guard, and of typed ones.
    memory: Option<PinMemory>,
}

/// A step towards an operation.
enum Step<T> {
    Done(T),
    WantsPin(Tries),
}

/// A card that may be used.
pub(super) struct Unlocked<'c, 'x> {
    pub(super) card: &'c mut Card<'x>,
    /// For a key that wants the PIN before each use: what verifies it, and whether that was done just now.
    each: Option<&'c Try<'c>>,
    fresh: bool,
}

impl<'x> Unlocked<'_, 'x> {
    /// The card, ready for one use of the key.
    pub(super) fn once(&mut self) -> Outcome<&mut Card<'x>> {
        if let Some(pin) = self.each
            && !std::mem::replace(&mut self.fresh, false)
        {
            pin.again(self.card)?;
        }
        Ok(self.card)
    }
}

impl YubiKey {
    pub(super) fn open(uri: Uri, options: OpenOptions, readers: Box<dyn Readers>) -> Result<Self, TokenError> {
        let mut link = readers.connect(uri.serial)?;
        let mut seen = None;
        link.transaction(&mut |exchange| seen = Some(Card::select(exchange).map(|card| (card.serial, card.firmware))))?;
        let (serial, firmware) =
            seen.unwrap_or_else(|| Err(TokenError::Away("the card did not answer".into()).into()))?;
        if firmware < Firmware::METADATA {
            return Err(TokenError::Unsupported(format!(
                "the YubiKey {serial} has firmware {firmware}; from {} on it says what its slots hold",
                Firmware::METADATA
            )));
        }
        let info = TokenInfo {
            label: format!("YubiKey {serial}"),
            serial: serial.to_string(),
            manufacturer: "Yubico".into(),
            model: "YubiKey PIV".into(),
            firmware: firmware.to_string(),
        };
        let token = Self {
            name: options.name.as_deref().unwrap_or(&info.label).into(),
            guard: options.pin_guard.as_deref().map(|folder| Guard::new(folder, &info)),
            serial,
            firmware,
            state: Mutex::new(State { link: Some(link), ..State::default() }),
            info: RwLock::new(info),
            uri,
            readers,
            options,
        };
        let keys = token.read_slots(&mut token.lock_state())?;
        token.lock_state().keys = keys;
        if token.options.vouched {
            token.unlock()?;
        }
        Ok(token)
    }

    pub(super) fn lock_state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn info_now(&self) -> TokenInfo {
        self.info.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Does something in one transaction, on this card and no other. A link that was lost before anything was asked is made
    /// again once; what was asked is never asked twice here.
    pub(super) fn transaction<T>(
        &self,
        state: &mut State,
        mut work: impl FnMut(&mut Card<'_>) -> Outcome<T>,
    ) -> Result<T, TokenError> {
        loop {
            let (mut link, new) = match state.link.take() {
                Some(link) => (link, false),
                None => (self.readers.connect(Some(self.serial))?, true),
            };
            let mut asked = false;
            let mut result = None;
            let mut within = |exchange: &mut dyn Exchange| {
                result = Some(Card::select(exchange).and_then(|mut card| {
                    if card.serial != self.serial {
                        let said = format!("insert the YubiKey with serial {} (here is {})", self.serial, card.serial);
                        return Err(TokenError::Away(said).into());
                    }
                    asked = true;
                    work(&mut card)
                }));
            };
            let began = link.transaction(&mut within);
            let lost = match (began, result) {
                (Ok(()), Some(Ok(done))) => {
                    state.link = Some(link);
                    return Ok(done);
                }
                (Ok(()), Some(Err(Fault::Lost(error)))) => error,
                (Ok(()), Some(Err(fault))) => {
                    state.link = Some(link);
                    return Err(fault.into());
                }
                (Err(error), _) => error,
                (Ok(()), None) => return Err(TokenError::Away("the card did not answer".into())),
            };
            // The link is let go: whatever is wrong with it, the next one is new.
            if asked || new {
                return Err(lost.into());
            }
        }
    }

    /// Does something with a key, its PIN verified if it wants one. A slot that has another key by now costs neither a PIN
    /// nor a touch: what that one answers is not taken for ours.
    pub(super) fn using<T>(
        &self,
        state: &mut State,
        key: &SlotKey,
        work: impl FnMut(&mut Unlocked<'_, '_>) -> Outcome<T>,
    ) -> Result<T, TokenError> {
        let is_there = |card: &mut Card<'_>| match card.metadata(key.slot)?.and_then(|metadata| metadata.public) {
            Some(public) if public == key.held.public => Ok(()),
            _ => Err(TokenError::KeyGone.into()),
        };
        self.unlocked(state, key.pin, false, is_there, work)
    }

    /// Does something with the PIN verified, if it is wanted; `first` is looked at before, in the same transaction.
    fn unlocked<T>(
        &self,
        state: &mut State,
        policy: PinPolicy,
        vouched: bool,
        first: impl Fn(&mut Card<'_>) -> Outcome<()>,
        mut work: impl FnMut(&mut Unlocked<'_, '_>) -> Outcome<T>,
    ) -> Result<T, TokenError> {
        let info = self.info_now();
        let door = self.door(&info);
        if policy != PinPolicy::Never && !vouched {
            door.check_lock(state.memory.as_ref())?;
        }
        let step = self.transaction(state, |card| {
            first(card)?;
            if policy == PinPolicy::Never || (policy == PinPolicy::Once && !vouched && card.is_verified()?) {
                return work(&mut Unlocked { card, each: None, fresh: false }).map(Step::Done);
            }
            card.tries().map(Step::WantsPin)
        })?;
        let tries = match step {
            Step::Done(done) => return Ok(done),
            Step::WantsPin(tries) => tries,
        };
        let tried = door.prepare(&mut state.memory, tries, vouched)?;
        let mut outcome = Tried::Not;
        let result = self.transaction(state, |card| {
            first(card)?;
            if !tried.fits(card.tries()?) {
                let reason = "another program tried a PIN just now: try again".into();
                return Err(TokenError::Device { operation: "VERIFY".into(), reason }.into());
            }
            let (came, verified) = tried.verify(card);
            outcome = came;
            verified?;
            let each = (policy == PinPolicy::Always).then_some(&tried);
            work(&mut Unlocked { card, each, fresh: true })
        });
        door.conclude(&mut state.memory, tried, outcome)?;
        result
    }

    fn door<'a>(&'a self, info: &'a TokenInfo) -> Door<'a> {
        Door {
            info,
            name: &self.name,
            source: &self.options.pin,
            in_uri: self.uri.pin(),
            base: self.options.base_dir.as_deref(),
            prompt: self.options.prompt.as_ref(),
            guard: self.guard.as_ref(),
        }
    }

    /// Whether a person is asked for the PIN.
    pub(super) fn asks_a_person(&self) -> bool {
        self.options.pin.asks(self.uri.pin(), self.options.prompt.as_ref())
    }

    /// Tells a person that touches are wanted.
    pub(super) fn touches(&self) -> &Touches {
        &self.options.touches
    }

    pub(super) fn serial(&self) -> u32 {
        self.serial
    }

    /// The keys in the slots, as the card has them now.
    pub(super) fn read_slots(&self, state: &mut State) -> Result<Vec<SlotKey>, TokenError> {
        let slots = Slot::all().filter(|slot| self.uri.slot.is_none_or(|only| only == *slot));
        let slots: Vec<Slot> = slots.collect();
        self.transaction(state, |card| {
            let mut keys = Vec::new();
            for slot in &slots {
                if let Some(key) = self.slot_key(card, *slot)? {
                    keys.push(key);
                }
            }
            Ok(keys)
        })
    }

    /// The key in a slot, if there is one that this program has a use for.
    pub(super) fn slot_key(&self, card: &mut Card<'_>, slot: Slot) -> Outcome<Option<SlotKey>> {
        let Some(Metadata { public: Some(public), algorithm, pin, touch, origin }) = card.metadata(slot)? else {
            return Ok(None);
        };
        let note = card.object(&slot.object())?.and_then(|object| certificate::read(&object, &public));
        if note.as_ref().is_some_and(|note| note.deleted) {
            return Ok(None);
        }
        let usage = note.as_ref().map_or(KeyUse::of(public.curve()), |note| note.usage);
        let held = HeldKey {
            label: note.and_then(|note| note.label),
            custody: usage.agrees().then_some(Custody::SharedSecretInProcess),
            origin,
            // A card has no command that reads a private key.
            always_sensitive: Some(origin == Origin::Generated),
            never_extractable: Some(origin == Origin::Generated),
            asks_pin: pin == PinPolicy::Always || (pin == PinPolicy::Once && self.asks_a_person()),
            asks_touch: touch != TouchPolicy::Never,
            ..HeldKey::new(public, self.name.clone(), usage)
        };
        Ok(Some(SlotKey { slot, algorithm, pin, touch, held }))
    }

    /// The key for an operation.
    fn find(&self, state: &State, key: &PublicKey, may: impl Fn(KeyUse) -> bool) -> Result<SlotKey, TokenError> {
        let found = state.keys.iter().find(|it| it.held.public == *key).ok_or(TokenError::KeyGone)?;
        if !may(found.held.usage) {
            return Err(TokenError::Unsupported("the key was not made for this".into()));
        }
        Ok(found.clone())
    }

    /// Does something with the management key proved.
    fn managed<T>(
        &self,
        state: &mut State,
        mut work: impl FnMut(&mut Card<'_>) -> Outcome<T>,
    ) -> Result<T, TokenError> {
        let given = self.options.management_key.clone();
        let factory = self.transaction(state, |card| card.has_factory_management_key())?;
        let (key, policy) = match (given, factory) {
            (Some(key), _) => (Some(key), PinPolicy::Never),
            (None, true) => {
                tracing::warn!(
                    token = &*self.name,
                    "the card has the management key that every YubiKey comes with: `ykman piv access change-management-key --generate \
                     --protect` changes it"
                );
                (Some(Arc::new(ManagementKey::factory())), PinPolicy::Never)
            }
            (None, false) => (None, PinPolicy::Once),
        };
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
                            "the card has a management key of its own, and does not keep it behind its PIN: give it"
                                .into(),
                        )
                        .into()),
                    },
                }
                .and_then(|()| work(card));
                // Nobody finds the card with its management key proved.
                card.deselect()?;
                done
            },
        )
    }

    /// What the card says of the tries that its PIN has left.
    ///
    /// # Errors
    /// [`TokenError::Away`] if the card is not there.
    pub fn pin_state(&self) -> Result<PinState, TokenError> {
        self.transaction(&mut self.lock_state(), |card| card.tries()).map(Tries::state)
    }

    /// A key pair made in a slot.
    ///
    /// # Errors
    /// [`TokenError::Unsupported`] if the firmware has no such key, [`TokenError::Config`] if the slot is not empty.
    pub fn generate_in(&self, key: &NewKey, place: Place) -> Result<HeldKey, TokenError> {
        let algorithm = self.algorithm(key.curve, key.usage)?;
        let state = &mut *self.lock_state();
        let made = self.managed(state, |card| {
            let slot = self.free(card, place)?;
            let public = card.generate(slot, key.curve, algorithm, place.pin, place.touch)?;
            card.put_object(&slot.object(), &certificate::write(&public, key.label.as_ref(), key.usage)?)?;
            self.slot_key(card, slot)
        })?;
        self.made(state, made)
    }

    /// A key pair from outside, put into a slot.
    ///
    /// # Errors
    /// As of [`generate_in`](Self::generate_in); [`TokenError::KnownAnswer`] if the halves do not match.
    pub fn import_in(&self, key: ImportKey, place: Place) -> Result<HeldKey, TokenError> {
        let curve = key.public.curve();
        let algorithm = self.algorithm(curve, key.usage)?;
        let state = &mut *self.lock_state();
        if self.read_slots(state)?.iter().any(|it| it.held.public == key.public) {
            return Err(TokenError::Config("the key is on the card already".into()));
        }
        let made = self.managed(state, |card| {
            let slot = self.free(card, place)?;
            card.import(slot, curve, algorithm, &key.private, place.pin, place.touch)?;
            if card.metadata(slot)?.and_then(|metadata| metadata.public).as_ref() != Some(&key.public) {
                self.empty(card, slot, curve, algorithm)?;
                return Err(TokenError::KnownAnswer("the private half is not that of the public one".into()).into());
            }
            card.put_object(&slot.object(), &certificate::write(&key.public, key.label.as_ref(), key.usage)?)?;
            self.slot_key(card, slot)
        })?;
        self.made(state, made)
    }

    /// What the card says of a key that was made in it: the attestation certificate of its slot, and that of the key
    /// F9 which signed it, both DER (<https://docs.yubico.com/yesdk/users-manual/application-piv/attestation.html>).
    /// They show the card's serial number.
    ///
    /// # Errors
    /// [`TokenError::KeyGone`] if the key is not there, [`TokenError::Unsupported`] if it was not made in the card.
    pub fn attest(&self, key: &PublicKey) -> Result<(Vec<u8>, Vec<u8>), TokenError> {
        let state = &mut *self.lock_state();
        let found = self.read_slots(state)?.into_iter().find(|it| it.held.public == *key);
        let found = found.ok_or(TokenError::KeyGone)?;
        if found.held.origin == Origin::Imported {
            let said = "a key that was imported has no attestation: it existed outside";
            return Err(TokenError::Unsupported(said.into()));
        }
        self.transaction(state, |card| card.attest(found.slot))
    }

    fn made(&self, state: &mut State, made: Option<SlotKey>) -> Result<HeldKey, TokenError> {
        let key = made.ok_or_else(|| TokenError::KnownAnswer("a key was made and is not there".into()))?;
        state.keys.retain(|it| it.slot != key.slot);
        state.keys.push(key.clone());
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
            return card.put_object(&slot.object(), &[]);
        }
        // Firmware before 5.7 cannot delete: the key is overwritten by one that no one has use for.
        let nobody = card.generate(slot, curve, algorithm, PinPolicy::Always, TouchPolicy::Always)?;
        card.put_object(&slot.object(), &certificate::deleted(&nobody)?)
    }

    /// A slot that may be written: neither key nor certificate is lost unawares.
    fn free(&self, card: &mut Card<'_>, place: Place) -> Outcome<Slot> {
        let mut is_free = |slot: Slot| -> Outcome<bool> {
            let (metadata, object) = (card.metadata(slot)?, card.object(&slot.object())?);
            let deleted = |object: &[u8]| {
                let public = metadata.as_ref().and_then(|metadata| metadata.public.as_ref());
                public.and_then(|public| certificate::read(object, public)).is_some_and(|note| note.deleted)
            };
            Ok(match &object {
                Some(object) => deleted(object),
                None => metadata.is_none(),
            })
        };
        if let Some(slot) = place.slot {
            if place.force || is_free(slot)? {
                return Ok(slot);
            }
            let said = format!("slot {slot} is not empty: use --force to overwrite it");
            return Err(TokenError::Config(said).into());
        }
        for slot in Slot::retired() {
            if is_free(slot)? {
                return Ok(slot);
            }
        }
        Err(TokenError::Config("every retired slot of the card, 82 to 95, has a key or a certificate".into()).into())
    }
}

impl Token for YubiKey {
    fn name(&self) -> &str {
        &self.name
    }

    fn info(&self) -> TokenInfo {
        self.info_now()
    }

    fn keys(&self) -> Result<Vec<HeldKey>, TokenError> {
        let state = &mut *self.lock_state();
        let keys = self.read_slots(state)?;
        for key in &keys {
            operate::prove(self, state, key)?;
        }
        state.keys = keys;
        Ok(state.keys.iter().map(|key| key.held.clone()).collect())
    }

    fn sign(&self, key: &PublicKey, input: &[u8]) -> Result<Vec<u8>, TokenError> {
        let state = &mut *self.lock_state();
        let key = self.find(state, key, KeyUse::signs)?;
        operate::sign(self, state, &key, input)
    }

    fn unwrap_cek(&self, key: &PublicKey, request: &Unwrap) -> Result<Cek, TokenError> {
        let state = &mut *self.lock_state();
        let key = self.find(state, key, KeyUse::agrees)?;
        operate::unwrap(self, state, &key, request)
    }

    fn wrap_cek(&self, key: &PublicKey, request: &Wrap) -> Result<Vec<EncryptedKey>, TokenError> {
        let state = &mut *self.lock_state();
        let key = self.find(state, key, KeyUse::agrees)?;
        operate::wrap(self, state, &key, request)
    }
}

impl Custodian for YubiKey {
    fn generate(&self, key: &NewKey) -> Result<HeldKey, TokenError> {
        self.generate_in(key, Place::default())
    }

    fn import(&self, key: ImportKey) -> Result<HeldKey, TokenError> {
        self.import_in(key, Place::default())
    }

    fn delete(&self, key: &PublicKey) -> Result<(), TokenError> {
        let state = &mut *self.lock_state();
        let found = self.read_slots(state)?.into_iter().find(|it| it.held.public == *key);
        let found = found.ok_or(TokenError::KeyGone)?;
        let (slot, curve) = (found.slot, key.curve());
        self.managed(state, |card| self.empty(card, slot, curve, found.algorithm))?;
        state.keys.retain(|it| it.held.public != *key);
        Ok(())
    }

    fn inventory(&self) -> Result<Vec<HeldKey>, TokenError> {
        let state = &mut *self.lock_state();
        Ok(self.read_slots(state)?.into_iter().map(|key| key.held).collect())
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
        self.unlocked(state, PinPolicy::Once, true, |_| Ok(()), |_| Ok(()))?;
        self.door(&self.info_now()).clear(&mut state.memory)
    }
}
