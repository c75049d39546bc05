//! A YubiKey as a [`Token`]: which operation uses which key.

use super::{
    card::Card,
    device::{SlotKey, State, YubiKey, describe},
    operate,
    options::OpenOptions,
    transport::{Readers, Transport, TransportError},
    uri::{Uri, UriError},
};
use crate::{
    crypto::{Cek, EncryptedKey},
    keys::PublicKey,
    secrets::{
        Custodian, HeldKey, KeyUse, Purpose, Token, TokenError, TokenInfo, UnwrapRequest, WrapRequest, pin::PinGuard,
    },
};

impl OpenOptions {
    /// Opens the YubiKey that a `yubikey:` URI names. The PIN is not read yet, unless a person has confirmed
    /// it ([`pin_confirmed`](Self::pin_confirmed)).
    ///
    /// # Errors
    /// - [`TokenError::Config`]: the URI is wrong, or several YubiKeys match; the error lists them.
    /// - [`TokenError::Away`]: the YubiKey is not inserted, or the PC/SC service does not run.
    /// - [`TokenError::Unsupported`]: its firmware is older than 5.3.
    pub fn open(self, uri: &str, readers: impl Readers + 'static) -> Result<YubiKey, TokenError> {
        let uri = parse(uri)?;
        let confirmed = self.confirmed;
        let token = YubiKey::connect(uri, self, Box::new(readers))?;
        if confirmed {
            token.unlock()?;
        }
        Ok(token)
    }

    /// Locks the YubiKey that a `yubikey:` URI names: no program that shares [`pin_guard`](Self::pin_guard) uses its PIN until
    /// a person unlocks it. Then has the card forget that its PIN was verified. If the URI has the serial number, the YubiKey
    /// is locked also if it is not inserted, or if another program uses it.
    ///
    /// Returns why the card may still have its PIN verified; `None` if it has not.
    ///
    /// # Errors
    /// [`TokenError::Config`] if the URI is wrong or no folder for the guard is set, [`TokenError::Pin`] if the lock cannot be
    /// recorded. Without a serial number also those of [`open`](Self::open).
    pub fn lock(self, uri: &str, readers: impl Readers + 'static) -> Result<Option<TokenError>, TokenError> {
        let Some(folder) = self.pin_guard.clone() else {
            return Err(TokenError::Config(
                "locking a YubiKey for all programs needs the folder of the PIN guard".into(),
            ));
        };
        let uri = parse(uri)?;
        let Some(serial) = uri.serial else {
            return YubiKey::connect(uri, self, Box::new(readers))?.lock().map(|()| None);
        };
        PinGuard::new(&folder, &describe(serial)).record_locked_by_person()?;
        Ok(match readers.connect(Some(serial)) {
            // A card that was removed has forgotten its PIN.
            Err(TransportError::Away(_)) => None,
            Err(error) => Some(error.into()),
            Ok(mut card) => log_out(&mut *card).err(),
        })
    }
}

fn parse(uri: &str) -> Result<Uri, TokenError> {
    uri.parse().map_err(|error: UriError| TokenError::Config(format!("the YubiKey's URI: {error}")))
}

fn log_out(card: &mut dyn Transport) -> Result<(), TokenError> {
    let mut forgot = Ok(());
    card.transaction(&mut |transaction| forgot = Card::select(transaction).and_then(|mut card| card.log_out()))?;
    Ok(forgot?)
}

impl YubiKey {
    /// Runs `work` with a key, if `is_allowed` accepts the use that the key was made for.
    fn run_operation<T>(
        &self,
        key: &PublicKey,
        is_allowed: impl Fn(KeyUse) -> bool,
        work: impl FnOnce(&mut State, &SlotKey) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        let state = &mut *self.lock_state();
        let found = state.keys.iter().find(|it| it.held.public == *key).ok_or(TokenError::KeyGone).cloned();
        found.and_then(|found| match is_allowed(found.held.usage) {
            true => work(state, &found),
            false => Err(TokenError::Unsupported("the key was not made for this use".into())),
        })
    }
}

impl Token for YubiKey {
    fn name(&self) -> &str {
        &self.name
    }

    fn info(&self) -> TokenInfo {
        self.current_info()
    }

    /// Each connection to a card that was lost is made anew, with a new PC/SC context.
    fn may_need_new_process(&self) -> bool {
        false
    }

    /// Sends nothing to the card: on firmware 5.3.1 the question whether the PIN is verified would undo it.
    fn probe(&self) -> Result<(), TokenError> {
        self.check_inserted()
    }

    fn keys(&self) -> Result<Vec<HeldKey>, TokenError> {
        let state = &mut *self.lock_state();
        let keys = self.read_slots(state)?;
        for key in &keys {
            operate::test_key(self, state, key)?;
        }
        state.keys = keys;
        Ok(state.keys.iter().map(|key| key.held.clone()).collect())
    }

    fn sign(&self, key: &PublicKey, input: &[u8], purpose: &Purpose) -> Result<Vec<u8>, TokenError> {
        self.run_operation(key, KeyUse::allows_signing, |state, key| operate::sign(self, state, key, input, purpose))
    }

    fn unwrap_cek(&self, key: &PublicKey, request: &UnwrapRequest, purpose: &Purpose) -> Result<Cek, TokenError> {
        self.run_operation(key, KeyUse::allows_key_agreement, |state, key| {
            operate::unwrap(self, state, key, request, purpose)
        })
    }

    fn wrap_cek(
        &self,
        key: &PublicKey,
        request: &WrapRequest,
        purpose: &Purpose,
    ) -> Result<Vec<EncryptedKey>, TokenError> {
        self.run_operation(key, KeyUse::allows_key_agreement, |state, key| {
            operate::wrap(self, state, key, request, purpose)
        })
    }
}
