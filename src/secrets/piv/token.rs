//! A YubiKey as a token.

use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use super::{
    algorithm::Firmware,
    apdu::{Fault, Outcome},
    attestation,
    card::{Card, Metadata, Reference, Tries},
    certificate,
    form::Form,
    management::ManagementKey,
    operate,
    options::OpenOptions,
    touch::Touches,
    transport::{Exchange, Readers, Transport},
    unlock::{Door, Tried, Try},
    uri::Uri,
};
use crate::{
    crypto::{Cek, EncryptedKey},
    keys::PublicKey,
    secrets::{
        Custodian, Custody, HeldKey, KeyUse, Origin, PinPolicy, Purpose, Slot, Token, TokenError, TokenInfo,
        TouchPolicy, Unwrap, Wrap,
        pin::{Guard, PinMemory, PinState},
    },
};

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
    pub(super) memory: Option<PinMemory>,
    /// For the next change, from a person.
    pub(super) management_key: Option<ManagementKey>,
    /// What the operation at hand is for.
    pub(super) purpose: Option<Purpose>,
    /// Whether it was said that the management key is the factory's.
    pub(super) warned: bool,
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
            longest_eddsa: Some(operate::LONGEST_EDDSA),
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

    pub(super) fn info_now(&self) -> TokenInfo {
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
    pub(super) fn unlocked<T>(
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
            card.tries(Reference::Pin).map(Step::WantsPin)
        })?;
        let tries = match step {
            Step::Done(done) => return Ok(done),
            Step::WantsPin(tries) => tries,
        };
        let tried = door.prepare(&mut state.memory, tries, vouched, state.purpose.clone())?;
        let mut outcome = Tried::Not;
        let result = self.transaction(state, |card| {
            first(card)?;
            if !tried.fits(card.tries(Reference::Pin)?) {
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

    pub(super) fn door<'a>(&'a self, info: &'a TokenInfo) -> Door<'a> {
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
        let note = card.certificate(slot)?.and_then(|object| certificate::read(&object, &public));
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
            slot: Some(slot),
            ..HeldKey::new(public, self.name.clone(), usage)
        };
        Ok(Some(SlotKey { slot, algorithm, pin, touch, held }))
    }

    /// Does something with a key that may do it.
    fn operation<T>(
        &self,
        key: &PublicKey,
        may: impl Fn(KeyUse) -> bool,
        work: impl FnOnce(&mut State, &SlotKey) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        let state = &mut *self.lock_state();
        let found = state.keys.iter().find(|it| it.held.public == *key).ok_or(TokenError::KeyGone).cloned();
        let done = found.and_then(|found| match may(found.held.usage) {
            true => work(state, &found),
            false => Err(TokenError::Unsupported("the key was not made for this".into())),
        });
        // It was for this one.
        state.purpose = None;
        done
    }

    /// What the card says of its PIN, and how many tries that has left.
    ///
    /// # Errors
    /// [`TokenError::Away`] if the card is not there.
    pub fn pin_state(&self) -> Result<(PinState, u8), TokenError> {
        let tries = self.transaction(&mut self.lock_state(), |card| card.tries(Reference::Pin))?;
        Ok((tries.state(), tries.left))
    }

    /// What the card looks like; none unless it holds a key that was made in it, whose attestation says so. To ask the card
    /// itself would take another applet, and have it forget that its PIN was verified.
    ///
    /// # Errors
    /// [`TokenError::Away`] if the card is not there.
    pub fn form(&self) -> Result<Option<Form>, TokenError> {
        let state = &mut *self.lock_state();
        let keys = self.read_slots(state)?;
        let Some(made) = keys.iter().find(|key| key.held.origin == Origin::Generated) else { return Ok(None) };
        let (own, _) = self.transaction(state, |card| card.attest(made.slot))?;
        Ok(attestation::form(&own))
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

    fn is_for(&self, purpose: &Purpose) {
        self.lock_state().purpose = Some(purpose.clone());
    }

    fn sign(&self, key: &PublicKey, input: &[u8]) -> Result<Vec<u8>, TokenError> {
        self.operation(key, KeyUse::signs, |state, key| operate::sign(self, state, key, input))
    }

    fn unwrap_cek(&self, key: &PublicKey, request: &Unwrap) -> Result<Cek, TokenError> {
        self.operation(key, KeyUse::agrees, |state, key| operate::unwrap(self, state, key, request))
    }

    fn wrap_cek(&self, key: &PublicKey, request: &Wrap) -> Result<Vec<EncryptedKey>, TokenError> {
        self.operation(key, KeyUse::agrees, |state, key| operate::wrap(self, state, key, request))
    }
}
