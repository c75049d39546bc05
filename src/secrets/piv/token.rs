//! A YubiKey as a [`Token`]: which operation uses which key.

use super::{
    device::{SlotKey, State, YubiKey},
    operate,
    options::OpenOptions,
    transport::Readers,
    uri::UriError,
};
use crate::{
    crypto::{Cek, EncryptedKey},
    keys::PublicKey,
    secrets::{Custodian, HeldKey, KeyUse, Purpose, Token, TokenError, TokenInfo, UnwrapRequest, WrapRequest},
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
        let uri = uri.parse().map_err(|error: UriError| TokenError::Config(format!("the YubiKey's URI: {error}")))?;
        let confirmed = self.confirmed;
        let token = YubiKey::connect(uri, self, Box::new(readers))?;
        if confirmed {
            token.unlock()?;
        }
        Ok(token)
    }
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
