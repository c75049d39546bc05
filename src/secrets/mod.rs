//! The seam: every operation with a long-term private key in the program.
//!
//! [`Secrets`] is what the layers above see. [`Token`] is one device, blocking; [`Custodian`] makes, imports and deletes
//! its keys. [`Keyring`] implements `Secrets` over any number of tokens. No method of `Secrets` or `Token` takes or
//! returns a long-term private key, nor a Z or a KEK made with one.
//!
//! A key is its public half: nothing here knows a DID.

mod error;
mod failover;
mod import;
#[cfg(feature = "keeper")]
pub mod keeper;
mod keyring;
mod late;
#[cfg(any(feature = "pkcs11", feature = "yubikey"))]
pub mod pin;
#[cfg(feature = "yubikey")]
pub mod piv;
#[cfg(feature = "pkcs11")]
pub mod pkcs11;
mod place;
mod policy;
mod purpose;
mod signing;
mod token;

pub use error::{Cause, SecretsError, TokenError};
pub use failover::Several;
pub use import::ImportError;
pub use keyring::{Keyring, KeyringBuilder, TokenStatus};
pub use late::Late;
pub use place::{PinPolicy, Place, Slot, TouchPolicy};
pub use policy::{Allow, Policy};
pub use purpose::Purpose;
pub use signing::{Claims, Signature, ToSign};
pub use token::{Custodian, ImportKey, KeyUse, NewKey, Token, TokenInfo};

use std::{collections::HashMap, fmt, ops::Deref, str::FromStr, sync::Arc, time::Instant};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    crypto::{Cek, EncryptedKey, SharedSecret},
    keys::PublicKey,
};

/// Every operation with a long-term private key. No method takes or returns one, nor a Z or a KEK made with one.
///
/// Asking for a key has three outcomes: [`SecretsError::NotHeld`], any other error (held, and it failed), and done.
///
/// Dropping a returned future abandons its request: one that no token has begun is not performed.
#[async_trait]
pub trait Secrets: Send + Sync {
    /// What is held, now and as it changes.
    fn keys(&self) -> watch::Receiver<HeldKeys>;

    /// A signature in JOSE form, over an input that the callee builds from what is to be signed.
    async fn sign(&self, key: &PublicKey, what: &ToSign<'_>, cx: &Context) -> Result<Signature, SecretsError>;

    /// The content key of a received JWE. One call does ECDH, KDF and key unwrap.
    async fn unwrap_cek(&self, key: &PublicKey, request: &Unwrap, cx: &Context) -> Result<Cek, SecretsError>;

    /// The content key wrapped for every recipient of an authcrypt JWE, in their order, in one call.
    async fn wrap_cek(&self, key: &PublicKey, request: &Wrap, cx: &Context) -> Result<Vec<EncryptedKey>, SecretsError>;
}

#[async_trait]
impl<S: Secrets + ?Sized> Secrets for Arc<S> {
    fn keys(&self) -> watch::Receiver<HeldKeys> {
        (**self).keys()
    }

    async fn sign(&self, key: &PublicKey, what: &ToSign<'_>, cx: &Context) -> Result<Signature, SecretsError> {
        (**self).sign(key, what, cx).await
    }

    async fn unwrap_cek(&self, key: &PublicKey, request: &Unwrap, cx: &Context) -> Result<Cek, SecretsError> {
        (**self).unwrap_cek(key, request, cx).await
    }

    async fn wrap_cek(&self, key: &PublicKey, request: &Wrap, cx: &Context) -> Result<Vec<EncryptedKey>, SecretsError> {
        (**self).wrap_cek(key, request, cx).await
    }
}

/// A received content key and what its KEK is made from.
#[derive(Debug, Clone)]
pub struct Unwrap {
    /// The message's ephemeral key, on the recipient key's curve.
    pub epk: PublicKey,
    /// The sender's key and the content's tag for ECDH-1PU; none for ECDH-ES.
    pub sender: Option<Sender>,
    /// PartyUInfo, decoded.
    pub apu: Vec<u8>,
    /// PartyVInfo, decoded.
    pub apv: Vec<u8>,
    /// The wrapped content key: 40 or 72 bytes.
    pub encrypted_key: EncryptedKey,
}

/// What ECDH-1PU adds to ECDH-ES.
#[derive(Debug, Clone)]
pub struct Sender {
    /// The sender's static key.
    pub key: PublicKey,
    /// The content's authentication tag, which enters the KDF (draft-madden-jose-ecdh-1pu-04 section 2.3).
    pub tag: Vec<u8>,
}

/// A content key to wrap for the recipients of an authcrypt message.
#[derive(Debug, Clone)]
pub struct Wrap {
    /// The content key.
    pub cek: Cek,
    /// PartyUInfo, decoded.
    pub apu: Vec<u8>,
    /// PartyVInfo, decoded.
    pub apv: Vec<u8>,
    /// The content's authentication tag.
    pub tag: Vec<u8>,
    /// Each recipient, on the sender key's curve, with the Ze of the message's ephemeral key and it.
    pub recipients: Vec<(PublicKey, SharedSecret)>,
}

/// For whom and until when an operation is done.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// The key id under which the key was asked for, as the caller says: it stands in the audit.
    pub kid: Option<Arc<str>>,
    /// The `id` of the message, when it is known: it stands in the log and the audit.
    pub message_id: Option<Arc<str>>,
    /// The DID at the other end, as the message or the caller says: a person who is asked for a PIN or a touch is told it.
    pub peer: Option<Arc<str>>,
    /// An operation that has not begun by then is not begun.
    pub deadline: Option<Instant>,
}

impl Context {
    /// The same, for a key that was asked for under this id.
    pub fn for_kid(&self, kid: &str) -> Self {
        Self { kid: Some(kid.into()), ..self.clone() }
    }
}

/// A key that a token holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeldKey {
    /// The public half, which names it.
    pub public: PublicKey,
    /// The name a person gave it, as the token keeps it.
    pub label: Option<String>,
    /// The token's name.
    pub token: Arc<str>,
    /// What the token lets it do.
    pub usage: KeyUse,
    /// Where the token's results stand in the clear; none for a key that only signs.
    pub custody: Option<Custody>,
    /// Where it was made.
    pub origin: Origin,
    /// Whether it is sensitive and not extractable, as the token says.
    pub protected: bool,
    /// Whether it was sensitive all its life (CKA_ALWAYS_SENSITIVE); none if the token does not say.
    pub always_sensitive: Option<bool>,
    /// Whether it was never extractable (CKA_NEVER_EXTRACTABLE); none if the token does not say.
    pub never_extractable: Option<bool>,
    /// Whether it can be used now.
    pub state: KeyState,
    /// Whether an operation asks a person for a PIN.
    pub asks_pin: bool,
    /// Whether an operation asks a person for a touch.
    pub asks_touch: bool,
    /// The slot it is in, of a token that has some.
    pub slot: Option<Slot>,
}

impl HeldKey {
    /// A ready, protected key of unknown origin that asks for nothing; for those who write a token.
    pub fn new(public: PublicKey, token: impl Into<Arc<str>>, usage: KeyUse) -> Self {
        Self {
            public,
            label: None,
            token: token.into(),
            usage,
            custody: None,
            origin: Origin::Unknown,
            protected: true,
            always_sensitive: None,
            never_extractable: None,
            state: KeyState::Ready,
            asks_pin: false,
            asks_touch: false,
            slot: None,
        }
    }
}

/// The keys that are held: a list in configured order, and an index by public half.
#[derive(Debug, Clone, Default)]
pub struct HeldKeys(Arc<(Vec<HeldKey>, HashMap<PublicKey, usize>)>);

impl HeldKeys {
    /// The held key with this public half; of several the first that is ready, or else the first.
    pub fn get(&self, key: &PublicKey) -> Option<&HeldKey> {
        self.0.1.get(key).map(|&index| &self.0.0[index])
    }
}

impl From<Vec<HeldKey>> for HeldKeys {
    fn from(keys: Vec<HeldKey>) -> Self {
        let mut index = HashMap::new();
        for (position, key) in keys.iter().enumerate() {
            let best = index.entry(key.public.clone()).or_insert(position);
            if keys[*best].state != KeyState::Ready && key.state == KeyState::Ready {
                *best = position;
            }
        }
        Self(Arc::new((keys, index)))
    }
}

impl Deref for HeldKeys {
    type Target = [HeldKey];

    fn deref(&self) -> &[HeldKey] {
        &self.0.0
    }
}

/// How far a shared secret of ours comes out of a token, worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Custody {
    /// Z is read out, used and wiped in the process that has the token.
    SharedSecretInProcess,
    /// Z stays in the token, which hashes it; the KEK comes out.
    KekInProcess,
    /// Z and KEK stay in the token, which unwraps the content key.
    KekInToken,
}

impl Custody {
    /// All tiers, worst first.
    pub const ALL: [Self; 3] = [Self::SharedSecretInProcess, Self::KekInProcess, Self::KekInToken];

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::SharedSecretInProcess => "shared-secret-in-process",
            Self::KekInProcess => "kek-in-process",
            Self::KekInToken => "kek-in-token",
        }
    }
}

impl fmt::Display for Custody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Custody {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|tier| tier.name() == name).ok_or_else(|| {
            format!("{name:?} is no custody tier: shared-secret-in-process, kek-in-process or kek-in-token")
        })
    }
}

/// Where a private key was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// In the token (PKCS#11 CKA_LOCAL).
    Generated,
    /// Outside: it existed in the clear once, and can never be proved gone.
    Imported,
    /// The token does not say.
    Unknown,
}

/// Whether a key can be used now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyState {
    /// It can.
    Ready,
    /// Its token is gone.
    Away,
    /// Its token wants a PIN that a person must vouch for.
    Locked,
}
