//! The key under which plaintext lies in the store, itself wrapped for our keys in the tokens.
//!
//! It is a content key of XC20P, whose nonces are long enough to be random for ever. It is kept as an authcrypt message of 32
//! bytes would be, once for each of our key agreement keys, from that key to itself. So any one of the tokens opens it, who
//! has the disk has nothing, and who writes to the disk cannot have us seal with a key of his own: the sender's key is one that
//! the token holds, and not one that a document on the disk calls ours.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    crypto::{Cek, ContentEncryption},
    jose::{self, Envelope, JoseError, Limits, Recipient},
    keys::PublicKey,
    secrets::{Context, Secrets},
};

const ENC: ContentEncryption = ContentEncryption::Xc20P;
/// The form of what is sealed.
const VERSION: u8 = 1;

/// Seals what lies in the store.
#[derive(Clone)]
pub struct StoreKey(Cek);

/// A store key, wrapped: one JWE for each key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedKey {
    wrapped: Vec<String>,
}

/// Something in the store is not what was sealed there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what lies in the store was not sealed there under this key")]
pub struct NotSealedHere;

impl StoreKey {
    /// A new one.
    pub fn generate() -> Self {
        Self(Cek::generate(ENC))
    }

    /// Wraps it for one of our keys, whose token has to be ready.
    ///
    /// # Errors
    /// Those of [`jose::authcrypt`].
    async fn wrap(&self, key: &PublicKey, secrets: &(impl Secrets + ?Sized)) -> Result<String, JoseError> {
        let kid = key.to_string();
        let itself = [Recipient { kid: &kid, key }];
        jose::authcrypt(self.0.as_bytes(), &kid, key, &itself, secrets, &Context::default()).await
    }

    /// Seals what stands at a place, of which it is proof: nothing can be moved to another.
    pub fn seal(&self, place: &str, plaintext: &[u8]) -> Vec<u8> {
        let sealed = ENC.seal(&self.0, place.as_bytes(), plaintext);
        [&[VERSION][..], &sealed.iv, &sealed.tag, &sealed.ciphertext].concat()
    }

    /// Opens what stands at a place.
    ///
    /// # Errors
    /// If it was not sealed there, or not under this key.
    pub fn open(&self, place: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, NotSealedHere> {
        let rest = sealed.strip_prefix(&[VERSION]).ok_or(NotSealedHere)?;
        let (iv, rest) = rest.split_at_checked(ENC.iv_length()).ok_or(NotSealedHere)?;
        let (tag, ciphertext) = rest.split_at_checked(ENC.tag_length()).ok_or(NotSealedHere)?;
        let opened = ENC.open(&self.0, place.as_bytes(), iv, ciphertext, tag);
        opened.map(Zeroizing::new).map_err(|_| NotSealedHere)
    }
}

impl WrappedKey {
    /// The keys that open it.
    pub fn keys(&self) -> Vec<PublicKey> {
        self.wrapped.iter().filter_map(|jwe| sender(jwe)).collect()
    }

    /// Has it opened by one key more.
    ///
    /// # Errors
    /// Those of [`jose::authcrypt`].
    pub async fn add(
        &mut self,
        store_key: &StoreKey,
        key: &PublicKey,
        secrets: &(impl Secrets + ?Sized),
    ) -> Result<(), JoseError> {
        self.wrapped.push(store_key.wrap(key, secrets).await?);
        Ok(())
    }

    /// Has it opened by one key less.
    pub fn remove(&mut self, key: &PublicKey) {
        self.wrapped.retain(|jwe| sender(jwe).as_ref() != Some(key));
    }

    /// Has a token open it: the first key that does. Only what one of our keys has wrapped is opened.
    ///
    /// # Errors
    /// The last failure, if all fail; [`JoseError::NoRecipient`] if no token holds any of its keys.
    pub async fn open(&self, secrets: &(impl Secrets + ?Sized)) -> Result<StoreKey, JoseError> {
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

/// The key that has wrapped it.
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
    fn what_is_sealed_opens_at_its_place_only() {
        let key = StoreKey::generate();
        let sealed = key.seal("delivery:1", b"lunch?");
        assert!(!sealed.windows(6).any(|window| window == b"lunch?"));
        assert_eq!(key.open("delivery:1", &sealed).unwrap().as_slice(), b"lunch?");
        assert_eq!(key.open("delivery:2", &sealed), Err(NotSealedHere));
        assert_eq!(StoreKey::generate().open("delivery:1", &sealed), Err(NotSealedHere));
        for cut in 0..sealed.len() {
            assert_eq!(key.open("delivery:1", &sealed[..cut]), Err(NotSealedHere));
        }
    }
}
