//! A token that is opened when it is there.

use std::sync::{Arc, Mutex, RwLock};

use zeroize::Zeroizing;

use super::{Custodian, HeldKey, ImportKey, NewKey, Place, Purpose, Token, TokenError, TokenInfo, Unwrap, Wrap};
use crate::{
    crypto::{Cek, EncryptedKey},
    keys::PublicKey,
};

/// A token that need not be there yet: [`Token::keys`] opens it, and so a patient keyring's prober does.
pub struct Late {
    name: String,
    concurrency: usize,
    open: Box<Open>,
    token: RwLock<Option<Arc<dyn Custodian>>>,
    /// Held while it is opened, which may take as long as a person does: meanwhile it is asked what it is.
    opening: Mutex<()>,
}

/// Opens a token; if true, a person vouches for its PIN.
type Open = dyn Fn(bool) -> Result<Arc<dyn Custodian>, TokenError> + Send + Sync;

impl Late {
    /// A token by its name in the configuration, with so many operations at once, and what opens it. That is told
    /// whether a person vouches for the PIN.
    pub fn new(
        name: impl Into<String>,
        concurrency: usize,
        open: impl Fn(bool) -> Result<Arc<dyn Custodian>, TokenError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            concurrency,
            open: Box::new(open),
            token: RwLock::default(),
            opening: Mutex::default(),
        }
    }

    fn token(&self) -> Result<Arc<dyn Custodian>, TokenError> {
        let token = self.token.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        token.ok_or_else(|| TokenError::Away(format!("the token {:?} has not been there yet", self.name)))
    }

    /// The token, opened now if it was not.
    fn opened(&self, vouched: bool) -> Result<Arc<dyn Custodian>, TokenError> {
        let _opening = self.opening.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Ok(token) = self.token() {
            return Ok(token);
        }
        let opened = (self.open)(vouched)?;
        *self.token.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(opened.clone());
        Ok(opened)
    }
}

impl Token for Late {
    fn name(&self) -> &str {
        &self.name
    }

    fn info(&self) -> TokenInfo {
        self.token().map(|token| token.info()).unwrap_or_default()
    }

    fn concurrency(&self) -> usize {
        self.token().map_or(self.concurrency, |token| token.concurrency())
    }

    /// A module that never had the token may look for tokens only once, as SoftHSM 2.6.1 does.
    fn needs_new_process(&self) -> bool {
        self.token().map_or(true, |token| token.needs_new_process())
    }

    fn is_used_up(&self) -> bool {
        self.token().is_ok_and(|token| token.is_used_up())
    }

    fn is_for(&self, purpose: &Purpose) {
        if let Ok(token) = self.token() {
            token.is_for(purpose);
        }
    }

    fn keys(&self) -> Result<Vec<HeldKey>, TokenError> {
        self.opened(false)?.keys()
    }

    fn sign(&self, key: &PublicKey, input: &[u8]) -> Result<Vec<u8>, TokenError> {
        self.token()?.sign(key, input)
    }

    fn unwrap_cek(&self, key: &PublicKey, request: &Unwrap) -> Result<Cek, TokenError> {
        self.token()?.unwrap_cek(key, request)
    }

    fn wrap_cek(&self, key: &PublicKey, request: &Wrap) -> Result<Vec<EncryptedKey>, TokenError> {
        self.token()?.wrap_cek(key, request)
    }
}

impl Custodian for Late {
    fn generate(&self, key: &NewKey) -> Result<HeldKey, TokenError> {
        self.opened(false)?.generate(key)
    }

    fn generate_in(&self, key: &NewKey, place: Place) -> Result<HeldKey, TokenError> {
        self.opened(false)?.generate_in(key, place)
    }

    fn import(&self, key: ImportKey) -> Result<HeldKey, TokenError> {
        self.opened(false)?.import(key)
    }

    fn delete(&self, key: &PublicKey) -> Result<(), TokenError> {
        self.opened(false)?.delete(key)
    }

    fn inventory(&self) -> Result<Vec<HeldKey>, TokenError> {
        self.opened(false)?.inventory()
    }

    fn attest(&self, key: &PublicKey) -> Result<Vec<Vec<u8>>, TokenError> {
        self.opened(false)?.attest(key)
    }

    fn manage_with(&self, key: Zeroizing<Vec<u8>>) -> Result<(), TokenError> {
        self.opened(false)?.manage_with(key)
    }

    fn lock(&self) -> Result<(), TokenError> {
        self.opened(false)?.lock()
    }

    fn unlock(&self) -> Result<(), TokenError> {
        match self.token() {
            Ok(token) => token.unlock(),
            Err(_) => self.opened(true).map(drop),
        }
    }
}
