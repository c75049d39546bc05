//! A YubiKey: the identity of its card, and the transactions in which every command runs.

use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use super::{
    algorithm::{Firmware, MAX_EDDSA_INPUT},
    apdu::{CardError, CardResult},
    attestation,
    card::{Card, Metadata, Reference},
    certificate,
    form_factor::FormFactor,
    management_key::ManagementKey,
    options::OpenOptions,
    touch::Touches,
    transport::{CardTransaction, Readers, Transport, TransportError},
    uri::Uri,
};
use crate::secrets::{
    Custody, HeldKey, KeyUse, Origin, PinPolicy, Slot, TokenError, TokenInfo, TouchPolicy,
    pin::{PinGuard, PinRecord, PinState},
};

/// A YubiKey.
pub struct YubiKey {
    pub(super) name: Arc<str>,
    pub(super) uri: Uri,
    pub(super) options: OpenOptions,
    readers: Box<dyn Readers>,
    /// The serial number of the card that was opened. Another card is never used in its place.
    pub(super) serial: u32,
    pub(super) firmware: Firmware,
    pub(super) guard: Option<PinGuard>,
    state: Mutex<State>,
    info: RwLock<TokenInfo>,
}

/// The state that only the thread that uses the card may change.
#[derive(Default)]
pub(super) struct State {
    transport: Option<Box<dyn Transport>>,
    pub(super) keys: Vec<SlotKey>,
    /// The record of PIN attempts if there is no guard, and of PINs that a person typed.
    pub(super) process_record: Option<PinRecord>,
    /// The management key that a person gave for the next change.
    pub(super) management_key: Option<ManagementKey>,
    /// Whether the warning about the factory management key was logged.
    pub(super) warned_of_factory_key: bool,
}

/// A key in a slot.
#[derive(Debug, Clone)]
pub(super) struct SlotKey {
    pub(super) slot: Slot,
    pub(super) algorithm: u8,
    /// For a program that presents the PIN: a fingerprint instead is not asked for.
    pub(super) pin: PinPolicy,
    pub(super) touch: TouchPolicy,
    pub(super) held: HeldKey,
}

/// The description of a YubiKey, without its firmware.
pub(super) fn describe(serial: u32) -> TokenInfo {
    TokenInfo {
        label: format!("YubiKey {serial}"),
        serial: serial.to_string(),
        manufacturer: "Yubico".into(),
        model: "YubiKey PIV".into(),
        firmware: String::new(),
        longest_eddsa: Some(MAX_EDDSA_INPUT),
    }
}

impl YubiKey {
    /// Connects to the card and reads its slots. No PIN is needed for that.
    pub(super) fn connect(uri: Uri, options: OpenOptions, readers: Box<dyn Readers>) -> Result<Self, TokenError> {
        let mut transport = readers.connect(uri.serial)?;
        let mut selected = None;
        transport.transaction(&mut |card| {
            selected = Some(Card::select(card).map(|card| (card.serial, card.firmware)));
        })?;
        let (serial, firmware) =
            selected.unwrap_or_else(|| Err(TokenError::Away("the card did not answer".into()).into()))?;
        if firmware < Firmware::METADATA {
            return Err(TokenError::Unsupported(format!(
                "the YubiKey {serial} has firmware {firmware}; firmware {} or later is needed to read its slots",
                Firmware::METADATA
            )));
        }
        let info = TokenInfo { firmware: firmware.to_string(), ..describe(serial) };
        let token = Self {
            name: options.name.as_deref().unwrap_or(&info.label).into(),
            guard: options.pin_guard.as_deref().map(|folder| PinGuard::new(folder, &info)),
            serial,
            firmware,
            state: Mutex::new(State { transport: Some(transport), ..State::default() }),
            info: RwLock::new(info),
            uri,
            readers,
            options,
        };
        let keys = token.read_slots(&mut token.lock_state())?;
        token.lock_state().keys = keys;
        Ok(token)
    }

    /// Waits until no other thread uses the card.
    pub(super) fn lock_state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn current_info(&self) -> TokenInfo {
        self.info.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Runs `work` in one transaction, on this card and no other.
    ///
    /// A connection that was lost before `work` began is opened again once. `work` itself is never run again.
    pub(super) fn transaction<T>(
        &self,
        state: &mut State,
        mut work: impl FnMut(&mut Card<'_>) -> CardResult<T>,
    ) -> Result<T, TokenError> {
        loop {
            let (mut transport, is_new) = match state.transport.take() {
                Some(transport) => (transport, false),
                None => (self.reconnect()?, true),
            };
            let mut work_began = false;
            let mut result = None;
            let mut within = |transaction: &mut dyn CardTransaction| {
                result = Some(Card::select(transaction).and_then(|mut card| {
                    if card.serial != self.serial {
                        let reason = format!("insert the YubiKey with serial {} (found {})", self.serial, card.serial);
                        return Err(TokenError::Away(reason).into());
                    }
                    work_began = true;
                    work(&mut card)
                }));
            };
            let transacted = transport.transaction(&mut within);
            let lost = match (transacted, result) {
                (Ok(()), Some(Ok(done))) => {
                    state.transport = Some(transport);
                    return Ok(done);
                }
                (Ok(()), Some(Err(CardError::Transport(error)))) => error,
                (Ok(()), Some(Err(error))) => {
                    state.transport = Some(transport);
                    return Err(error.into());
                }
                (Err(error), _) => error,
                (Ok(()), None) => return Err(TokenError::Away("the card did not answer".into())),
            };
            // The transport is dropped, whatever was wrong with it. The next transaction connects again. Another program
            // that uses the card was waited for already.
            if work_began || is_new || matches!(lost, TransportError::InUse(_)) {
                return Err(lost.into());
            }
        }
    }

    /// Checks that the card is still inserted, unless another thread uses it. Nothing is sent to the card.
    pub(super) fn check_inserted(&self) -> Result<(), TokenError> {
        let Ok(state) = self.state.try_lock() else { return Ok(()) };
        // Without a connection, the next operation connects.
        match &state.transport {
            Some(transport) => Ok(transport.check_inserted()?),
            None => Ok(()),
        }
    }

    /// Connects to the card again. It was served before, so what makes it unusable now may pass.
    fn reconnect(&self) -> Result<Box<dyn Transport>, TokenError> {
        self.readers.connect(Some(self.serial)).map_err(|error| match error {
            TransportError::Unusable(reason) => TokenError::Away(reason),
            error => error.into(),
        })
    }

    /// Makes the card forget that its PIN was verified. A card that was removed has forgotten it.
    ///
    /// # Errors
    /// [`TokenError::Away`] if the card is inserted and another program uses it: its PIN may still be verified.
    pub(super) fn log_out(&self, state: &mut State) -> Result<(), TokenError> {
        let reason = match self.transaction(state, |card| card.log_out()) {
            Err(TokenError::Away(reason)) => reason,
            result => return result,
        };
        match self.readers.connect(Some(self.serial)) {
            Err(TransportError::Away(_)) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => Err(TokenError::Away(reason)),
        }
    }

    /// Reads the keys in the slots from the card.
    pub(super) fn read_slots(&self, state: &mut State) -> Result<Vec<SlotKey>, TokenError> {
        let slots: Vec<Slot> = Slot::all().filter(|slot| self.uri.slot.is_none_or(|only| only == *slot)).collect();
        self.transaction(state, |card| {
            let mut keys = Vec::new();
            for slot in &slots {
                if let Some(key) = self.read_slot(card, *slot)? {
                    keys.push(key);
                }
            }
            Ok(keys)
        })
    }

    /// Reads the key in a slot from the card; none if the slot is empty or its key is of a kind that this program does
    /// not use.
    pub(super) fn read_slot(&self, card: &mut Card<'_>, slot: Slot) -> CardResult<Option<SlotKey>> {
        let Some(Metadata { public: Some(public), algorithm, pin, touch, origin }) = card.metadata(slot)? else {
            return Ok(None);
        };
        let pin = pin.by_pin();
        let description = card.certificate(slot)?.and_then(|object| certificate::read(&object, &public));
        if description.as_ref().is_some_and(|description| description.deleted) {
            return Ok(None);
        }
        let usage = description.as_ref().map_or(KeyUse::of(public.curve()), |description| description.usage);
        let held = HeldKey {
            label: description.and_then(|description| description.label),
            custody: usage.allows_key_agreement().then_some(Custody::SharedSecretInProcess),
            origin,
            // A card has no command that reads a private key.
            always_sensitive: Some(origin == Origin::Generated),
            never_extractable: Some(origin == Origin::Generated),
            asks_pin: pin == PinPolicy::Always || (pin == PinPolicy::Once && self.asks_a_person_for_pin()),
            asks_touch: touch != TouchPolicy::Never,
            slot: Some(slot),
            ..HeldKey::new(public, self.name.clone(), usage)
        };
        Ok(Some(SlotKey { slot, algorithm, pin, touch, held }))
    }

    /// Whether the PIN comes from a person.
    pub(super) fn asks_a_person_for_pin(&self) -> bool {
        self.options.pin.asks_a_person(self.uri.pin(), self.options.prompt.as_ref())
    }

    pub(super) fn touches(&self) -> &Touches {
        &self.options.touches
    }

    /// What the card reports about its PIN, and the number of tries left.
    ///
    /// # Errors
    /// [`TokenError::Away`] if the card is not inserted.
    pub fn pin_state(&self) -> Result<(PinState, u8), TokenError> {
        let tries = self.transaction(&mut self.lock_state(), |card| card.tries(Reference::Pin))?;
        Ok((tries.state(), tries.left))
    }

    /// Makes the card forget that its PIN was verified. A later operation presents the PIN again; nothing is recorded, as
    /// [`Custodian::lock`](crate::secrets::Custodian::lock) would.
    ///
    /// # Errors
    /// [`TokenError::Device`] if the card does not answer, and [`TokenError::Away`] if another program uses it.
    pub fn forget_pin(&self) -> Result<(), TokenError> {
        self.log_out(&mut self.lock_state())
    }

    /// The YubiKey's form factor, from the attestation of a key that was generated on the card; none if the card holds
    /// no such key, or attests none because the attestation key in slot F9 was replaced.
    ///
    /// Asking the card itself would select another applet, and the card would forget that its PIN was verified.
    ///
    /// # Errors
    /// [`TokenError::Away`] if the card is not inserted.
    pub fn form_factor(&self) -> Result<Option<FormFactor>, TokenError> {
        let state = &mut *self.lock_state();
        let keys = self.read_slots(state)?;
        let Some(generated) = keys.iter().find(|key| key.held.origin == Origin::Generated) else { return Ok(None) };
        self.transaction(state, |card| match card.attest(generated.slot) {
            Ok((certificate, _)) => Ok(attestation::form_factor(&certificate)),
            Err(CardError::Status(..) | CardError::Token(_)) => Ok(None),
            Err(error) => Err(error),
        })
    }
}
