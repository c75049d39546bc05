//! Keys that a check makes and deletes again, even if it panics.

use std::sync::atomic::{AtomicU64, Ordering};

use claviger::{
    keys::{Curve, PublicKey},
    secrets::{Custodian, HeldKey, KeyUse, NewKey, TokenError},
};

use crate::PrivateKey;

/// A key in the token. Dropping this value deletes the key.
pub(super) struct Temporary<'a> {
    token: &'a dyn Custodian,
    pub(super) held: HeldKey,
}

impl<'a> Temporary<'a> {
    /// Makes a key in the token that may do everything its curve can.
    pub(super) fn generate(token: &'a dyn Custodian, curve: Curve) -> Self {
        let key = NewKey { curve, usage: KeyUse::of(curve), label: Some(fresh_label().into()) };
        Self::generate_as(token, &key)
    }

    pub(super) fn generate_as(token: &'a dyn Custodian, key: &NewKey) -> Self {
        let held = token.generate(key).unwrap_or_else(|error| panic!("generate on {}: {error}", key.curve));
        Self { token, held }
    }

    /// Imports a key that may do everything its curve can.
    pub(super) fn import(token: &'a dyn Custodian, key: &PrivateKey) -> Self {
        let curve = key.public().curve();
        let import = key.to_import(KeyUse::of(curve), Some(&fresh_label()));
        let held = token.import(import).unwrap_or_else(|error| panic!("import on {curve}: {error}"));
        Self { token, held }
    }

    pub(super) fn public(&self) -> &PublicKey {
        &self.held.public
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        match self.token.delete(&self.held.public) {
            // The check may have deleted the key itself.
            Ok(()) | Err(TokenError::KeyGone) => {}
            Err(error) if std::thread::panicking() => eprintln!("delete {}: {error}", self.held.public),
            Err(error) => panic!("delete {}: {error}", self.held.public),
        }
    }
}

/// A label that no other key has.
pub(super) fn fresh_label() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("suite {} {}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
