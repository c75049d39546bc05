//! The traits [`Token`] and [`Custodian`]: one device, its operations, and changes to its keys.
//!
//! Calls block; [`Keyring`](super::Keyring) gives each token worker threads. To support another device, implement these
//! traits and test the implementation with the suite of `claviger-testkit`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    error::TokenError,
    held_key::{HeldKey, UnpairedKey},
    import::ImportKey,
    key_use::KeyUse,
    purpose::Purpose,
    request::{UnwrapRequest, WrapRequest},
    slot::{Slot, SlotOptions},
};
use crate::{
    crypto::{Cek, EncryptedKey},
    keys::{Curve, PublicKey},
};

/// One device and the keys in it.
///
/// The public keys of a request are valid points on the curve of `key`: [`PublicKey`] holds no other
/// points, and `Keyring` compares the curves. An operation with a key that the token does not hold fails
/// with [`TokenError::KeyGone`].
///
/// A token that asks a person for a PIN or a touch shows the `purpose` of the operation.
pub trait Token: Send + Sync {
    /// The token's name in the configuration and in errors.
    fn name(&self) -> &str;

    /// The device's description of itself, for people.
    fn info(&self) -> TokenInfo;

    /// How many operations the token performs at once. The keyring starts as many worker threads.
    fn concurrency(&self) -> usize {
        1
    }

    /// Whether a new process is known to help when the token is absent or fails: its module works again only there. If so,
    /// a keeper tries one sooner.
    fn needs_new_process_after_absence(&self) -> bool {
        false
    }

    /// Whether a new process may cure a failure that lasts. False for a token that needs no module: nothing of it stays in
    /// the process.
    fn may_need_new_process(&self) -> bool {
        true
    }

    /// Whether the token's module has used up a resource that is freed only when the process ends.
    fn is_exhausted(&self) -> bool {
        false
    }

    /// Asks the idle token whether it is still there, and whether this process is still logged in. The question is cheap
    /// and changes nothing: no PIN is presented, no person is asked, and other programs that use the device notice
    /// nothing. If it fails, the keys must be found again. Returns `Ok` without a question if the token is in use.
    fn probe(&self) -> Result<(), TokenError> {
        Ok(())
    }

    /// Finds the usable keys and tests each with a known answer. Called at start, and when the token has come back.
    fn keys(&self) -> Result<Vec<HeldKey>, TokenError>;

    /// The pairs that the last call of [`Token::keys`] found and left out. [`HeldKey::refused`] says why.
    fn refused_keys(&self) -> Vec<HeldKey> {
        Vec::new()
    }

    /// Signs the whole input. The signature has 64 bytes: Ed25519, or ECDSA `r || s` over the input's SHA-256.
    fn sign(&self, key: &PublicKey, input: &[u8], purpose: &Purpose) -> Result<Vec<u8>, TokenError>;

    /// Unwraps a content key: ECDH with `epk` (for ECDH-1PU also with the sender's key), then KDF and key unwrap. Fails
    /// with [`TokenError::Unwrap`] if the content key was not wrapped for `key`.
    fn unwrap_cek(&self, key: &PublicKey, request: &UnwrapRequest, purpose: &Purpose) -> Result<Cek, TokenError>;

    /// Wraps a content key for each recipient: ECDH with the recipient's key gives Zs, then KDF over Ze and Zs, then
    /// key wrap. Returns the wrapped keys in the order of the request.
    fn wrap_cek(
        &self,
        key: &PublicKey,
        request: &WrapRequest,
        purpose: &Purpose,
    ) -> Result<Vec<EncryptedKey>, TokenError>;
}

/// A token whose keys can be changed. Only the command line changes keys.
pub trait Custodian: Token {
    /// Makes a key pair in the token.
    fn generate(&self, key: &NewKey) -> Result<HeldKey, TokenError>;

    /// Makes a key pair in a chosen slot, with PIN and touch policies.
    fn generate_in_slot(&self, key: &NewKey, options: SlotOptions) -> Result<HeldKey, TokenError> {
        if options == SlotOptions::default() {
            return self.generate(key);
        }
        Err(TokenError::Unsupported("it has no slots, and no PIN or touch policies".into()))
    }

    /// Imports a key pair as sensitive and not extractable, and uses it once to test it.
    fn import(&self, key: ImportKey) -> Result<HeldKey, TokenError>;

    /// Deletes both halves of a key pair.
    fn delete(&self, key: &PublicKey) -> Result<(), TokenError>;

    /// Deletes the key pair in one slot. The same key in another slot stays. `None` is for tokens without slots.
    fn delete_in_slot(&self, key: &PublicKey, slot: Option<Slot>) -> Result<(), TokenError> {
        match slot {
            None => self.delete(key),
            Some(_) => Err(TokenError::Unsupported("it has no slots".into())),
        }
    }

    /// Every key pair in the token. A pair that [`Token::keys`] leaves out says why ([`HeldKey::refused`]). That a pair
    /// is listed proves nothing: see [`prove_keys`](super::prove_keys).
    fn inventory(&self) -> Result<Vec<HeldKey>, TokenError>;

    /// The private keys that the last call of [`Custodian::inventory`] found and left out, because their public halves are
    /// not known.
    fn unpaired_keys(&self) -> Vec<UnpairedKey> {
        Vec::new()
    }

    /// The proof that a key was made in the token: X.509 certificates in DER, the key's own first, each signed by the
    /// next. They may identify the device.
    fn attest(&self, _key: &PublicKey) -> Result<Vec<Vec<u8>>, TokenError> {
        Err(TokenError::Unsupported("it does not attest keys".into()))
    }

    /// Sets the management key for the next change only, for a token that needs one and does not store it.
    fn set_management_key(&self, _key: Zeroizing<Vec<u8>>) -> Result<(), TokenError> {
        Err(TokenError::Unsupported("it has no management key".into()))
    }

    /// Logs the token out now. No process that shares the PIN guard uses the PIN again until [`Custodian::unlock`].
    fn lock(&self) -> Result<(), TokenError> {
        Err(TokenError::Unsupported("it has no PIN to forget".into()))
    }

    /// Tries the PIN once, even if it was refused before or the token was locked. Call this when a person has confirmed
    /// the PIN.
    fn unlock(&self) -> Result<(), TokenError> {
        Err(TokenError::Unsupported("it has no PIN to try".into()))
    }
}

/// The device's description of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenInfo {
    /// The label that a person gave the token.
    pub label: String,
    /// The manufacturer's serial number.
    pub serial: String,
    /// The manufacturer.
    pub manufacturer: String,
    /// The model.
    pub model: String,
    /// The version of the firmware, or of the module.
    pub firmware: String,
    /// The longest input that the token signs with Ed25519, in bytes; `None` if there is no such limit.
    pub longest_eddsa: Option<usize>,
}

/// A key pair to make.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// The curve.
    pub curve: Curve,
    /// What the key may do. It must fit the curve.
    pub usage: KeyUse,
    /// A label for people.
    pub label: Option<Arc<str>>,
}
