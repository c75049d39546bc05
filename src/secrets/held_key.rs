//! The keys that tokens hold, and whether each can be used now.

use std::{collections::HashMap, ops::Deref, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    custody::Custody,
    error::{Cause, TokenError},
    key_use::KeyUse,
    slot::Slot,
};
use crate::keys::PublicKey;

/// A key that a token holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeldKey {
    /// The public half. It identifies the key.
    pub public: PublicKey,
    /// The label that the token stores with the key.
    pub label: Option<String>,
    /// The token's name in the configuration.
    pub token: Arc<str>,
    /// What the token lets the key do.
    pub usage: KeyUse,
    /// The custody tier of key agreements with the key; `None` for a key that only signs.
    pub custody: Option<Custody>,
    /// Whether the token opens only anoncrypt (ECDH-ES) with the key. Such a key enters no DID document, since peers
    /// would also send authcrypt (ECDH-1PU).
    pub anoncrypt_only: bool,
    /// Where the private key was made.
    pub origin: Origin,
    /// Whether the token says that the key is sensitive and not extractable.
    pub protected: bool,
    /// Whether the key was always sensitive (CKA_ALWAYS_SENSITIVE); `None` if the token does not say.
    pub always_sensitive: Option<bool>,
    /// Whether the key was never extractable (CKA_NEVER_EXTRACTABLE); `None` if the token does not say.
    pub never_extractable: Option<bool>,
    /// Whether the key can be used now.
    pub state: KeyState,
    /// Whether each operation asks a person for a PIN.
    pub asks_pin: bool,
    /// Whether an operation may ask a person for a touch.
    pub asks_touch: bool,
    /// The key's slot, if the token has slots.
    pub slot: Option<Slot>,
    /// Why the token does not serve the key: its halves do not belong together, it cannot do what its attributes say,
    /// or it is not protected. `None` for a key that is served. [`Token::keys`](super::Token::keys) lists only those.
    pub refused: Option<Arc<str>>,
}

impl HeldKey {
    /// A ready, protected key of unknown origin that asks for neither PIN nor touch. For implementations
    /// of [`Token`](super::Token).
    pub fn new(public: PublicKey, token: impl Into<Arc<str>>, usage: KeyUse) -> Self {
        Self {
            public,
            label: None,
            token: token.into(),
            usage,
            custody: None,
            anoncrypt_only: false,
            origin: Origin::Unknown,
            protected: true,
            always_sensitive: None,
            never_extractable: None,
            state: KeyState::Ready,
            asks_pin: false,
            asks_touch: false,
            slot: None,
            refused: None,
        }
    }

    /// Checks that the token serves the key.
    ///
    /// # Errors
    /// [`TokenError::Unprotected`] or [`TokenError::Unproved`] says why not.
    pub fn check_served(&self) -> Result<(), TokenError> {
        match &self.refused {
            None => Ok(()),
            Some(_) if !self.protected => Err(TokenError::Unprotected(self.public.to_multikey())),
            Some(reason) => {
                Err(TokenError::Unproved { key: self.public.to_multikey(), reason: reason.as_ref().to_owned() })
            }
        }
    }

    /// Whether an operation may ask a person for a PIN or a touch.
    pub fn asks_person(&self) -> bool {
        self.asks_pin || self.asks_touch
    }
}

/// A private key that a token holds and does not serve, because its public half is not known. No DID can name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct UnpairedKey {
    /// The label that the token stores with the key.
    pub label: Option<String>,
    /// The curve's name, or what the token says about the curve.
    pub curve: String,
    /// Why the key is not served, and what to do about it.
    pub reason: String,
}

/// The keys that tokens hold: a list in configured order, with an index by public half.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeldKeys(Arc<KeyList>);

#[derive(Debug, Default, PartialEq)]
struct KeyList {
    keys: Vec<HeldKey>,
    by_public: HashMap<PublicKey, usize>,
    refused: Vec<HeldKey>,
    is_complete: bool,
}

impl HeldKeys {
    /// Whether both are the same list: not only equal, but one a clone of the other.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The keys of tokens, with the pairs that the tokens hold and do not serve. `is_complete` says whether every token
    /// has shown its keys.
    pub fn new(keys: Vec<HeldKey>, refused: Vec<HeldKey>, is_complete: bool) -> Self {
        let mut by_public = HashMap::new();
        for (position, key) in keys.iter().enumerate() {
            let best = by_public.entry(key.public.clone()).or_insert(position);
            if keys[*best].state != KeyState::Ready && key.state == KeyState::Ready {
                *best = position;
            }
        }
        Self(Arc::new(KeyList { keys, by_public, refused, is_complete }))
    }

    /// The held key with this public half. If several tokens hold the key, returns the first that is ready, or
    /// else the first.
    pub fn get(&self, key: &PublicKey) -> Option<&HeldKey> {
        self.0.by_public.get(key).map(|&index| &self.0.keys[index])
    }

    /// The pairs that a token holds and does not serve. [`HeldKey::refused`] says why.
    pub fn refused(&self) -> &[HeldKey] {
        &self.0.refused
    }

    /// Whether every token has shown its keys since the start, so that no token holds a key that is not listed. The keys
    /// of a token that is away now are listed if it was there before.
    pub fn is_complete(&self) -> bool {
        self.0.is_complete
    }

    /// The same keys in other states.
    #[cfg(feature = "keeper")]
    pub(in crate::secrets) fn with_states(&self, state: impl Fn(&HeldKey) -> KeyState) -> Self {
        let keys = self.iter().map(|held| HeldKey { state: state(held), ..held.clone() }).collect();
        Self::new(keys, self.0.refused.clone(), self.0.is_complete)
    }
}

/// Some keys; others may be held too.
impl From<Vec<HeldKey>> for HeldKeys {
    fn from(keys: Vec<HeldKey>) -> Self {
        Self::new(keys, Vec::new(), false)
    }
}

impl Deref for HeldKeys {
    type Target = [HeldKey];

    fn deref(&self) -> &[HeldKey] {
        &self.0.keys
    }
}

/// Where a private key was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// In the token (PKCS#11 CKA_LOCAL).
    Generated,
    /// Outside the token. It existed in the clear once, and a copy may still exist.
    Imported,
    /// The token does not say.
    Unknown,
}

/// Whether a key can be used now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyState {
    /// The key can be used.
    Ready,
    /// The key's token is out of service.
    Away,
    /// The PIN of the key's token is absent, wrong or locked. A person must act.
    Locked,
}

impl KeyState {
    /// The state of a token's keys while the token is out of service because of `error`.
    pub(in crate::secrets) fn after(error: &TokenError) -> Self {
        if error.cause() == Cause::Pin { Self::Locked } else { Self::Away }
    }
}
