//! A token that is opened when it becomes available.

use std::sync::{Arc, Mutex, RwLock};

use zeroize::Zeroizing;

use super::{
    error::TokenError,
    held_key::{HeldKey, UnpairedKey},
    import::ImportKey,
    mutex::lock,
    purpose::Purpose,
    request::{UnwrapRequest, WrapRequest},
    slot::{Slot, SlotOptions},
    token::{Custodian, NewKey, Token, TokenInfo},
};
use crate::{
    crypto::{Cek, EncryptedKey},
    keys::PublicKey,
};

/// A token that may be absent at first. [`Token::keys`] opens it.
///
/// A keyring that allows absent tokens calls `keys` until it succeeds, and so opens the token as soon as it is there.
pub struct LazyToken {
    name: String,
    concurrency: usize,
    /// Whether the token has a module, which may work again only in a new process.
    has_module: bool,
    open: Box<Open>,
    token: RwLock<Option<Arc<dyn Custodian>>>,
    /// Held while the token is being opened, which may wait for a person. Methods that must not wait do not lock it.
    opening: Mutex<()>,
}

/// Opens a token. The argument is true if a person has confirmed its PIN.
type Open = dyn Fn(bool) -> Result<Arc<dyn Custodian>, TokenError> + Send + Sync;

impl LazyToken {
    /// A token that the configuration calls `name`. Until it is open, its concurrency is `concurrency`.
    ///
    /// `open` opens the token; its argument is true if a person has confirmed the PIN.
    pub fn new(
        name: impl Into<String>,
        concurrency: usize,
        open: impl Fn(bool) -> Result<Arc<dyn Custodian>, TokenError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            concurrency,
            has_module: true,
            open: Box::new(open),
            token: RwLock::default(),
            opening: Mutex::default(),
        }
    }

    /// Says that the token has no module: a new process would not see it sooner.
    pub fn without_module(self) -> Self {
        Self { has_module: false, ..self }
    }

    /// The token, if it was opened before.
    fn token(&self) -> Result<Arc<dyn Custodian>, TokenError> {
        let token = self.token.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        token.ok_or_else(|| TokenError::Away(format!("the token {:?} has not been available yet", self.name)))
    }

    /// The token. Opens it if it was not opened before.
    fn open_token(&self, pin_confirmed: bool) -> Result<Arc<dyn Custodian>, TokenError> {
        let _opening = lock(&self.opening);
        if let Ok(token) = self.token() {
            return Ok(token);
        }
        let token = (self.open)(pin_confirmed)?;
        *self.token.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(token.clone());
        Ok(token)
    }
}

impl Token for LazyToken {
    fn name(&self) -> &str {
        &self.name
    }

    fn info(&self) -> TokenInfo {
        self.token().map(|token| token.info()).unwrap_or_default()
    }

    fn concurrency(&self) -> usize {
        self.token().map_or(self.concurrency, |token| token.concurrency())
    }

    /// Before the token was opened, true if it has a module: a module may look for tokens only once, as SoftHSM 2.6.1 does.
    fn needs_new_process_after_absence(&self) -> bool {
        self.token().map_or(self.has_module, |token| token.needs_new_process_after_absence())
    }

    fn may_need_new_process(&self) -> bool {
        self.token().map_or(self.has_module, |token| token.may_need_new_process())
    }

    fn is_exhausted(&self) -> bool {
        self.token().is_ok_and(|token| token.is_exhausted())
    }

    /// A token that was not opened yet is not opened.
    fn probe(&self) -> Result<(), TokenError> {
        self.token().map_or(Ok(()), |token| token.probe())
    }

    fn keys(&self) -> Result<Vec<HeldKey>, TokenError> {
        self.open_token(false)?.keys()
    }

    fn refused_keys(&self) -> Vec<HeldKey> {
        self.token().map(|token| token.refused_keys()).unwrap_or_default()
    }

    fn sign(&self, key: &PublicKey, input: &[u8], purpose: &Purpose) -> Result<Vec<u8>, TokenError> {
        self.token()?.sign(key, input, purpose)
    }

    fn unwrap_cek(&self, key: &PublicKey, request: &UnwrapRequest, purpose: &Purpose) -> Result<Cek, TokenError> {
        self.token()?.unwrap_cek(key, request, purpose)
    }

    fn wrap_cek(
        &self,
        key: &PublicKey,
        request: &WrapRequest,
        purpose: &Purpose,
    ) -> Result<Vec<EncryptedKey>, TokenError> {
        self.token()?.wrap_cek(key, request, purpose)
    }
}

impl Custodian for LazyToken {
    fn generate(&self, key: &NewKey) -> Result<HeldKey, TokenError> {
        self.open_token(false)?.generate(key)
    }

    fn generate_in_slot(&self, key: &NewKey, options: SlotOptions) -> Result<HeldKey, TokenError> {
        self.open_token(false)?.generate_in_slot(key, options)
    }

    fn import(&self, key: ImportKey) -> Result<HeldKey, TokenError> {
        self.open_token(false)?.import(key)
    }

    fn delete(&self, key: &PublicKey) -> Result<(), TokenError> {
        self.open_token(false)?.delete(key)
    }

    fn delete_in_slot(&self, key: &PublicKey, slot: Option<Slot>) -> Result<(), TokenError> {
        self.open_token(false)?.delete_in_slot(key, slot)
    }

    fn inventory(&self) -> Result<Vec<HeldKey>, TokenError> {
        self.open_token(false)?.inventory()
    }

    fn unpaired_keys(&self) -> Vec<UnpairedKey> {
        self.token().map(|token| token.unpaired_keys()).unwrap_or_default()
    }

    fn attest(&self, key: &PublicKey) -> Result<Vec<Vec<u8>>, TokenError> {
        self.open_token(false)?.attest(key)
    }

    fn set_management_key(&self, key: Zeroizing<Vec<u8>>) -> Result<(), TokenError> {
        self.open_token(false)?.set_management_key(key)
    }

    fn lock(&self) -> Result<(), TokenError> {
        self.open_token(false)?.lock()
    }

    fn unlock(&self) -> Result<(), TokenError> {
        match self.token() {
            Ok(token) => token.unlock(),
            Err(_) => self.open_token(true).map(drop),
        }
    }
}
