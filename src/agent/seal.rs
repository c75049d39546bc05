//! The key under which plaintext lies in the store, itself wrapped for our keys in the tokens.
//!
//! It is a content key of XC20P, whose nonces are long enough to be random for ever. It is kept as an authcrypt message of 32
//! bytes from us to us would be: one JWE for each curve of our key agreement keys. So any one of the tokens opens it, who has
//! the disk has nothing, and who writes to the disk cannot have us seal with a key of his own.

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

/// A store key, wrapped: one JWE for each curve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

    /// Wraps it for these keys, which are ours; those of a curve with the first of them.
    ///
    /// # Errors
    /// Those of [`jose::authcrypt`].
    pub async fn wrap(&self, keys: &[PublicKey], secrets: &(impl Secrets + ?Sized)) -> Result<WrappedKey, JoseError> {
        let mut left: Vec<(String, &PublicKey)> = keys.iter().map(|key| (key.to_string(), key)).collect();
        let mut wrapped = Vec::new();
        while let Some((skid, sender)) = left.first().cloned() {
            let (now, later): (Vec<_>, Vec<_>) = left.into_iter().partition(|(_, key)| key.curve() == sender.curve());
            let recipients: Vec<_> = now.iter().map(|(kid, key)| Recipient { kid, key }).collect();
            let cx = Context::default();
            wrapped.push(jose::authcrypt(self.0.as_bytes(), &skid, sender, &recipients, secrets, &cx).await?);
            left = later;
        }
        if wrapped.is_empty() {
            return Err(JoseError::NoRecipient);
        }
        Ok(WrappedKey { wrapped })
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
    /// The keys that can open it, as multikeys.
    pub fn keys(&self) -> Vec<String> {
        let envelopes = self.wrapped.iter().filter_map(|jwe| Envelope::parse(jwe.as_bytes(), &Limits::default()).ok());
        let kids = envelopes.flat_map(|envelope| match envelope {
            Envelope::Encrypted(jwe) => jwe.recipient_kids().map(str::to_owned).collect(),
            _ => Vec::new(),
        });
        kids.collect()
    }

    /// Has a token open it: the first key that does. Only what one of our keys has wrapped is opened.
    ///
    /// # Errors
    /// The last failure, if all fail; [`JoseError::NoRecipient`] if no token holds any of its keys.
    pub async fn open(&self, secrets: &(impl Secrets + ?Sized)) -> Result<StoreKey, JoseError> {
        let held = secrets.keys().borrow().clone();
        let mut failure = JoseError::NoRecipient;
        for jwe in &self.wrapped {
            let Envelope::Encrypted(jwe) = Envelope::parse(jwe.as_bytes(), &Limits::default())? else { continue };
            let ours = |kid: &str| PublicKey::from_multikey(kid).ok().filter(|key| held.get(key).is_some());
            let Some(sender) = jwe.sender_kid().and_then(ours) else { continue };
            for kid in jwe.recipient_kids() {
                let Some(key) = ours(kid) else { continue };
                match jwe.decrypt(kid, &key, Some(&sender), secrets, &Context::default()).await {
                    Ok(key) => return Ok(StoreKey(Cek::new(key))),
                    Err(error) => failure = error,
                }
            }
        }
        Err(failure)
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
