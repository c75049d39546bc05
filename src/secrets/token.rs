//! One device: what it can do with the keys it holds, and who may change them.
//!
//! Plain blocking code, called on the worker threads that [`Keyring`](super::Keyring) gives each token. Both traits are
//! open: write a token of your own, and prove it with the suite of `claviger-testkit`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{HeldKey, Place, Purpose, TokenError, Unwrap, Wrap};
use crate::{
    crypto::{Cek, EncryptedKey},
    keys::{Curve, PublicKey},
};

/// One device and the keys in it.
///
/// The public keys of a request are valid points on the curve of `key`: [`PublicKey`] cannot be otherwise, and
/// `Keyring` compares the curves.
pub trait Token: Send + Sync {
    /// Its name in the configuration and in errors.
    fn name(&self) -> &str;

    /// What it is, for people.
    fn info(&self) -> TokenInfo;

    /// How many operations it takes at once; a worker thread each.
    fn concurrency(&self) -> usize {
        1
    }

    /// Whether only a new process sees it again, once it was away.
    fn needs_new_process(&self) -> bool {
        false
    }

    /// Whether its module has used up what only a new process gives back.
    fn is_used_up(&self) -> bool {
        false
    }

    /// What the next operation is for, which a token tells the person whom it asks for a PIN or a touch.
    fn is_for(&self, _purpose: &Purpose) {}

    /// The keys it holds that may be used, each proved by a known answer. Called once at start, and again when the
    /// token has come back.
    fn keys(&self) -> Result<Vec<HeldKey>, TokenError>;

    /// A signature of 64 bytes over a whole input: Ed25519, or ECDSA `r || s` over its SHA-256.
    fn sign(&self, key: &PublicKey, input: &[u8]) -> Result<Vec<u8>, TokenError>;

    /// ECDH with `epk` (and with the sender), KDF, key unwrap.
    fn unwrap_cek(&self, key: &PublicKey, request: &Unwrap) -> Result<Cek, TokenError>;

    /// For each recipient ECDH with it, KDF behind its Ze, key wrap.
    fn wrap_cek(&self, key: &PublicKey, request: &Wrap) -> Result<Vec<EncryptedKey>, TokenError>;
}

/// Who may make, import and delete a token's keys: the command line.
pub trait Custodian: Token {
    /// A key pair made in the token.
    fn generate(&self, key: &NewKey) -> Result<HeldKey, TokenError>;

    /// A key pair made in a slot of one's choice, with policies of PIN and touch.
    fn generate_in(&self, key: &NewKey, place: Place) -> Result<HeldKey, TokenError> {
        if place == Place::default() {
            return self.generate(key);
        }
        Err(TokenError::Unsupported("it has no slots, nor policies of PIN and touch".into()))
    }

    /// A key pair from outside, stored sensitive and not extractable, used once to check it.
    fn import(&self, key: ImportKey) -> Result<HeldKey, TokenError>;

    /// Deletes both halves of a key pair.
    fn delete(&self, key: &PublicKey) -> Result<(), TokenError>;

    /// Every key pair in the token, those too that the program would refuse to use.
    fn inventory(&self) -> Result<Vec<HeldKey>, TokenError>;

    /// What proves that a key was made in the token: X.509 certificates in DER, the key's own first, each signed by the
    /// next. They may tell which device it is.
    fn attest(&self, _key: &PublicKey) -> Result<Vec<Vec<u8>>, TokenError> {
        Err(TokenError::Unsupported("it attests no keys".into()))
    }

    /// The management key for the next change, of a token that wants one for changes and does not know it itself.
    fn manage_with(&self, _key: Zeroizing<Vec<u8>>) -> Result<(), TokenError> {
        Err(TokenError::Unsupported("it has no management key".into()))
    }

    /// Forgets the PIN now. It is not used again, by any process that shares the guard of PINs, until a person vouches
    /// for it.
    fn lock(&self) -> Result<(), TokenError> {
        Err(TokenError::Unsupported("it has no PIN to forget".into()))
    }

    /// A person vouches for the PIN: it is tried once, though it was refused, or the token locked, before.
    fn unlock(&self) -> Result<(), TokenError> {
        Err(TokenError::Unsupported("it has no PIN to vouch for".into()))
    }
}

/// What a token is, in its own words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenInfo {
    /// The label a person gave it.
    pub label: String,
    /// The maker's number.
    pub serial: String,
    /// Who made it.
    pub manufacturer: String,
    /// Which model.
    pub model: String,
    /// Its firmware, or the module's version.
    pub firmware: String,
    /// The longest input that it signs with Ed25519, in bytes; none if there is no such limit.
    pub longest_eddsa: Option<usize>,
}

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyUse {
    /// Key agreement only.
    Agreement,
    /// Signing only.
    Signing,
    /// Both: P-256 serves both, and a P-256 did:key needs both.
    Both,
}

impl KeyUse {
    /// The widest use a curve has.
    pub fn of(curve: Curve) -> Self {
        match (curve.agrees(), curve.signature_algorithm().is_some()) {
            (true, true) => Self::Both,
            (true, false) => Self::Agreement,
            (false, _) => Self::Signing,
        }
    }

    /// Whether it may agree on keys.
    pub fn agrees(self) -> bool {
        matches!(self, Self::Agreement | Self::Both)
    }

    /// Whether it may sign.
    pub fn signs(self) -> bool {
        matches!(self, Self::Signing | Self::Both)
    }

    /// Whether a key on the curve can be used so.
    pub fn fits(self, curve: Curve) -> bool {
        (!self.agrees() || curve.agrees()) && (!self.signs() || curve.signature_algorithm().is_some())
    }
}

/// A key pair to make.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Its curve.
    pub curve: Curve,
    /// What it may do; it must fit the curve.
    pub usage: KeyUse,
    /// A name for people.
    pub label: Option<Arc<str>>,
}

/// A key pair from outside the token.
pub struct ImportKey {
    /// Its public half.
    pub public: PublicKey,
    /// The scalar, big-endian at full length, or the 32 bytes of a 25519 key (RFC 8037 `d`).
    pub private: Zeroizing<Vec<u8>>,
    /// What it may do; it must fit the curve.
    pub usage: KeyUse,
    /// A name for people.
    pub label: Option<Arc<str>>,
}

impl std::fmt::Debug for ImportKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImportKey").field("public", &self.public).field("usage", &self.usage).finish_non_exhaustive()
    }
}
