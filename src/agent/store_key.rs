//! The store key, which encrypts the content of the store, and its wrapping by our keys in the tokens.
//!
//! The store key is a content key of XC20P, whose nonces are long enough to be chosen at random for any number of
//! values. The 32 bytes of the store key are stored as an authcrypt message, once for each of our key agreement keys,
//! from that key to itself. Any one of the tokens can unwrap it. A copy of the disk alone reveals no content. An
//! attacker who can write to the disk cannot substitute a store key: the sender of the JWE must be a key that a token
//! holds. A key in a document on the disk is not enough.

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

/// A wrapped store key: one JWE for each of our keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedStoreKey {
    wrapped: Vec<String>,
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

    /// Wraps the store key for one of our keys, whose token must be ready.
    ///
    /// # Errors
    /// The errors of [`jose::authcrypt`].
    async fn wrap(&self, key: &PublicKey, secrets: &(impl Secrets + ?Sized)) -> Result<String, JoseError> {
        let kid = key.to_string();
        let recipients = [Recipient { kid: &kid, key }];
        jose::authcrypt(self.0.as_bytes(), &kid, key, &recipients, secrets, &Context::default()).await
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
        self.wrapped.iter().filter_map(|jwe| sender(jwe)).collect()
    }

    /// Wraps the store key for one more key.
    ///
    /// # Errors
    /// The errors of [`jose::authcrypt`].
    pub async fn add(
        &mut self,
        store_key: &StoreKey,
        key: &PublicKey,
        secrets: &(impl Secrets + ?Sized),
    ) -> Result<(), JoseError> {
        self.wrapped.push(store_key.wrap(key, secrets).await?);
        Ok(())
    }

    /// Removes the copy of the store key that is wrapped for this key.
    pub fn remove(&mut self, key: &PublicKey) {
        self.wrapped.retain(|jwe| sender(jwe).as_ref() != Some(key));
    }

    /// Has a token unwrap the store key, with the first key that can. A JWE whose sender is not a key in a token is
    /// ignored.
    ///
    /// # Errors
    /// The last failure if all keys fail; [`JoseError::NoRecipient`] if no token holds any of the keys.
    pub async fn unwrap(&self, secrets: &(impl Secrets + ?Sized)) -> Result<StoreKey, JoseError> {
        let held = secrets.keys().borrow().clone();
        let mut failure = JoseError::NoRecipient;
        for wrapped in &self.wrapped {
            let Some(key) = sender(wrapped).filter(|key| held.get(key).is_some()) else { continue };
            let Envelope::Encrypted(jwe) = Envelope::parse(wrapped.as_bytes(), &Limits::default())? else { continue };
            match jwe.decrypt(&key.to_string(), &key, Some(&key), secrets, &Context::default()).await {
                Ok(key) => return Ok(StoreKey(Cek::new(key))),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

/// Returns the key that wrapped the store key in this JWE.
fn sender(jwe: &str) -> Option<PublicKey> {
    match Envelope::parse(jwe.as_bytes(), &Limits::default()).ok()? {
        Envelope::Encrypted(jwe) => PublicKey::from_multikey(jwe.sender_kid()?).ok(),
        _ => None,
    }
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
