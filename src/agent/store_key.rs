//! The store key, which encrypts the content of the store, and its wrapping by our keys in the tokens.
//!
//! The store key is a content key of XC20P, whose nonces are long enough to be chosen at random for any number of
//! values. The 32 bytes of the store key are stored as an authcrypt message, once for each of our key agreement keys,
//! from that key to itself. Any one of the tokens can unwrap it. A copy of the disk alone reveals no content. An
//! attacker who can write to the disk cannot substitute a store key: the sender of the JWE must be a key that a token
//! holds. A key in a document on the disk is not enough.
//!
//! Nodes with an HSM each have no key in common. The configuration of each names the keys of the others ([`TrustedKeys`]): for
//! these keys it wraps the store key from a key of its own, and from these keys it accepts a store key.

use std::collections::HashSet;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::{
    crypto::{Cek, ContentEncryption},
    encoding::to_base64url,
    jose::{self, Envelope, JoseError, Limits, Recipient},
    keys::PublicKey,
    secrets::{Context, Secrets},
};

/// The content encryption under the store key.
const ENC: ContentEncryption = ContentEncryption::Xc20P;
/// The version of the sealed form, its first byte.
const VERSION: u8 = 1;

/// The key that encrypts the content of the store.
#[derive(Clone)]
pub struct StoreKey(Cek);

/// A wrapped store key: one JWE for each key that can unwrap it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedStoreKey {
    wrapped: Vec<String>,
}

/// The key agreement keys that tokens of other nodes hold, and that the configuration names: `keys` in `[store]`. A key of our
/// own among them changes nothing, so that all nodes may have the same list.
pub type TrustedKeys = [PublicKey];

/// Whose JWE this is, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ends {
    sender: PublicKey,
    recipient: PublicKey,
}

/// The error for a value that was not sealed for the place where it is opened, or not under this key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the value was not sealed for this place, or not under this key")]
pub struct UnsealError;

impl StoreKey {
    /// Generates a store key.
    pub fn generate() -> Self {
        Self(Cek::generate(ENC))
    }

    /// Wraps the store key for a key, from one of our keys, whose token must be ready.
    ///
    /// # Errors
    /// The errors of [`jose::authcrypt`].
    async fn wrap(&self, ends: &Ends, secrets: &(impl Secrets + ?Sized)) -> Result<String, JoseError> {
        let Ends { sender, recipient } = ends;
        let (skid, kid) = (sender.to_string(), recipient.to_string());
        let recipients = [Recipient { kid: &kid, key: recipient }];
        jose::authcrypt(self.0.as_bytes(), &skid, sender, &recipients, secrets, &Context::default()).await
    }

    /// Seals a value for a place. A value that is moved to another place does not open. Returns the version byte, the
    /// nonce, the tag and the ciphertext, joined.
    pub fn seal(&self, place: &str, plaintext: &[u8]) -> Vec<u8> {
        let sealed = ENC.seal(&self.0, place.as_bytes(), plaintext);
        [&[VERSION][..], &sealed.iv, &sealed.tag, &sealed.ciphertext].concat()
    }

    /// Returns a name for a text that only the store key can compute: HMAC-SHA256 in base64url.
    pub fn hidden_name(&self, kind: &str, text: &str) -> String {
        let mut mac =
            <Hmac<Sha256> as KeyInit>::new_from_slice(self.0.as_bytes()).expect("HMAC takes keys of any length");
        for part in ["claviger hidden name", kind, text] {
            mac.update(part.as_bytes());
            mac.update(&[0]);
        }
        to_base64url(mac.finalize().into_bytes())
    }

    /// Opens the value of a place.
    ///
    /// # Errors
    /// If the value was not sealed for this place, or not under this key.
    pub fn open(&self, place: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, UnsealError> {
        let rest = sealed.strip_prefix(&[VERSION]).ok_or(UnsealError)?;
        let (iv, rest) = rest.split_at_checked(ENC.iv_length()).ok_or(UnsealError)?;
        let (tag, ciphertext) = rest.split_at_checked(ENC.tag_length()).ok_or(UnsealError)?;
        let opened = ENC.open(&self.0, place.as_bytes(), iv, ciphertext, tag);
        opened.map(Zeroizing::new).map_err(|_| UnsealError)
    }
}

impl WrappedStoreKey {
    /// Returns the keys that the store key is wrapped for.
    pub fn keys(&self) -> Vec<PublicKey> {
        self.ends().map(|ends| ends.recipient).collect()
    }

    /// Whether the store key is wrapped for one of our keys, by that key.
    pub fn has_own(&self, key: &PublicKey) -> bool {
        self.ends().any(|ends| ends.sender == *key && ends.recipient == *key)
    }

    /// Wraps the store key for one more of our keys, from that key to itself.
    ///
    /// # Errors
    /// The errors of [`jose::authcrypt`].
    pub async fn add(
        &mut self,
        store_key: &StoreKey,
        key: &PublicKey,
        secrets: &(impl Secrets + ?Sized),
    ) -> Result<(), JoseError> {
        self.wrap(store_key, Ends { sender: key.clone(), recipient: key.clone() }, secrets).await
    }

    /// Wraps the store key for the trusted keys that have no copy yet which their nodes accept, from one of our ready keys on
    /// the same curve. Removes the copies of keys that are no longer trusted: those for which one of our keys has wrapped it,
    /// and that no token here holds. Returns what could not be wrapped, and why.
    pub async fn share(
        &mut self,
        store_key: &StoreKey,
        ready: &HashSet<&PublicKey>,
        trusted: &TrustedKeys,
        secrets: &(impl Secrets + ?Sized),
    ) -> Vec<(PublicKey, String)> {
        let held = secrets.keys().borrow().clone();
        let is_ours = |key: &PublicKey| held.get(key).is_some();
        let distrusted =
            |ends: &Ends| is_ours(&ends.sender) && !is_ours(&ends.recipient) && !trusted.contains(&ends.recipient);
        let distrusted: Vec<_> = self.ends().filter(distrusted).map(|ends| ends.recipient).collect();
        self.wrapped.retain(|jwe| ends(jwe).is_none_or(|ends| !distrusted.contains(&ends.recipient)));
        let mut failed = Vec::new();
        for key in trusted.iter().filter(|key| !is_ours(key)) {
            let is_accepted = |ends: Ends| ends.recipient == *key && (ends.sender == *key || is_ours(&ends.sender));
            if self.ends().any(is_accepted) {
                continue;
            }
            let Some(sender) = ready.iter().find(|own| own.curve() == key.curve()) else {
                let why = format!("no token here has a key agreement key on its curve, {}, ready", key.curve().name());
                failed.push((key.clone(), why));
                continue;
            };
            let ends = Ends { sender: (*sender).clone(), recipient: key.clone() };
            if let Err(error) = self.wrap(store_key, ends, secrets).await {
                failed.push((key.clone(), error.to_string()));
            }
        }
        failed
    }

    async fn wrap(
        &mut self,
        store_key: &StoreKey,
        ends: Ends,
        secrets: &(impl Secrets + ?Sized),
    ) -> Result<(), JoseError> {
        self.wrapped.push(store_key.wrap(&ends, secrets).await?);
        Ok(())
    }

    /// Removes the copies of the store key that are wrapped for this key or by it.
    pub fn remove(&mut self, key: &PublicKey) {
        self.wrapped.retain(|jwe| ends(jwe).is_none_or(|ends| ends.sender != *key && ends.recipient != *key));
    }

    /// Has a token unwrap the store key, with the first key that can. A JWE whose sender is neither a key in a token nor a
    /// trusted key is ignored.
    ///
    /// # Errors
    /// The last failure if all keys fail; [`JoseError::NoRecipient`] if no token holds any of the keys.
    pub async fn unwrap(
        &self,
        trusted: &TrustedKeys,
        secrets: &(impl Secrets + ?Sized),
    ) -> Result<StoreKey, JoseError> {
        let held = secrets.keys().borrow().clone();
        let mut failure = JoseError::NoRecipient;
        for wrapped in &self.wrapped {
            let Some(Ends { sender, recipient }) = ends(wrapped) else { continue };
            let is_accepted = held.get(&sender).is_some() || trusted.contains(&sender);
            if held.get(&recipient).is_none() || !is_accepted {
                continue;
            }
            let Envelope::Encrypted(jwe) = Envelope::parse(wrapped.as_bytes(), &Limits::default())? else { continue };
            let kid = recipient.to_string();
            match jwe.decrypt(&kid, &recipient, Some(&sender), secrets, &Context::default()).await {
                Ok(key) if key.len() == ENC.key_length() => return Ok(StoreKey(Cek::new(key))),
                Ok(_) => failure = JoseError::InvalidMember("ciphertext"),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn ends(&self) -> impl Iterator<Item = Ends> + '_ {
        self.wrapped.iter().filter_map(|jwe| ends(jwe))
    }
}

/// Returns the key that wrapped the store key in this JWE, and the one that it is wrapped for.
fn ends(jwe: &str) -> Option<Ends> {
    let Envelope::Encrypted(jwe) = Envelope::parse(jwe.as_bytes(), &Limits::default()).ok()? else { return None };
    let key = |kid: &str| PublicKey::from_multikey(kid).ok();
    Some(Ends { sender: key(jwe.sender_kid()?)?, recipient: key(jwe.recipient_kids().next()?)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_value_opens_at_its_place_only() {
        let key = StoreKey::generate();
        let sealed = key.seal("delivery:1", b"lunch?");
        assert!(!sealed.windows(6).any(|window| window == b"lunch?"));
        assert_eq!(key.open("delivery:1", &sealed).unwrap().as_slice(), b"lunch?");
        assert_eq!(key.open("delivery:2", &sealed), Err(UnsealError));
        assert_eq!(StoreKey::generate().open("delivery:1", &sealed), Err(UnsealError));
        for cut in 0..sealed.len() {
            assert_eq!(key.open("delivery:1", &sealed[..cut]), Err(UnsealError));
        }
    }
}
