//! The proof that keys may enter a DID document: see [`prove_keys`].

use super::{
    error::TokenError,
    held_key::HeldKey,
    key_use::KeyUse,
    purpose::Purpose,
    request::UnwrapRequest,
    token::{Custodian, Token},
};
use crate::{
    crypto::{self, Cek, ContentEncryption, EphemeralKey, KdfInfo},
    keys::PublicKey,
};

/// Proves that each of these keys may enter a DID document with this use. Returns the keys as the token describes them,
/// in the same order.
///
/// Whoever may write to a token can store any public key beside a private key, and with many modules that takes no PIN.
/// So neither the token's list nor a key's attributes prove anything. For each key:
///
/// - the token serves the key: it is sensitive and not extractable, or the configuration excepts it;
/// - for key agreement, the token does ECDH-1PU with it (by the test when the key was found), and unwraps a content key
///   that was wrapped in software with a fresh ephemeral key;
/// - for signing, the token signs a fresh text, and the signature is verified in software.
///
/// Both answers are right only if the private key belongs to the public key. A key that asks for a PIN or a touch asks
/// for it here too.
///
/// # Errors
/// [`TokenError::KeyGone`] if the token has no such key; [`TokenError::Unprotected`] and [`TokenError::Unproved`] if the
/// key must not enter a document; and the errors of the operations.
pub fn prove_keys(token: &dyn Custodian, keys: &[(PublicKey, KeyUse)]) -> Result<Vec<HeldKey>, TokenError> {
    let inventory = token.inventory()?;
    let prove = |(key, usage): &(PublicKey, KeyUse)| {
        let same = inventory.iter().filter(|held| held.public == *key);
        let held = same.max_by_key(|held| held.refused.is_none()).ok_or(TokenError::KeyGone)?;
        held.check_served()?;
        if usage.allows_key_agreement() {
            if held.anoncrypt_only {
                return Err(unproved(key, "the token opens only anoncrypt with it, and peers send authcrypt too"));
            }
            prove_agreement(token, key)?;
        }
        if usage.allows_signing() {
            prove_signing(token, key)?;
        }
        Ok(held.clone())
    };
    keys.iter().map(prove).collect()
}

/// Proves that the token has the private half, and that the half agrees on keys.
fn prove_agreement(token: &dyn Token, key: &PublicKey) -> Result<(), TokenError> {
    let ephemeral = EphemeralKey::generate(key.curve())
        .ok_or_else(|| unproved(key, &format!("no key on {} agrees on keys", key.curve())))?;
    let ze = ephemeral.agree(key).ok_or_else(|| unproved(key, "it is on another curve"))?;
    let apv = b"claviger key test".to_vec();
    let kek = crypto::concat_kdf(&[&ze], &KdfInfo { apu: b"", apv: &apv, tag: None });
    let cek = Cek::generate(ContentEncryption::A256Gcm);
    let encrypted_key = crypto::wrap_key(&kek, &cek);
    let request = UnwrapRequest { epk: ephemeral.public().clone(), sender: None, apu: Vec::new(), apv, encrypted_key };
    match token.unwrap_cek(key, &request, &Purpose::KeyTest) {
        Ok(unwrapped) if unwrapped == cek => Ok(()),
        Ok(_) | Err(TokenError::Unwrap | TokenError::Refused(_)) => {
            Err(unproved(key, "its private half in the token is another key's, or does not agree on keys"))
        }
        Err(TokenError::Unsupported(reason)) => Err(unproved(key, &reason)),
        Err(error) => Err(error),
    }
}

/// Proves that the token has the private half, and that the half signs.
fn prove_signing(token: &dyn Token, key: &PublicKey) -> Result<(), TokenError> {
    // Fresh, so that no earlier signature can be the answer. No signing input of a JWS or a did:webvh begins so.
    let text = format!("claviger key test {}", uuid::Uuid::new_v4());
    match token.sign(key, text.as_bytes(), &Purpose::KeyTest) {
        Ok(signature) if crypto::verify(key, text.as_bytes(), &signature).is_ok() => Ok(()),
        Ok(_) | Err(TokenError::KnownAnswer(_)) => {
            Err(unproved(key, "the token's signature does not verify: its private half in the token is another key's"))
        }
        Err(TokenError::Unsupported(reason)) => Err(unproved(key, &reason)),
        Err(error) => Err(error),
    }
}

fn unproved(key: &PublicKey, reason: &str) -> TokenError {
    TokenError::Unproved { key: key.to_multikey(), reason: reason.to_owned() }
}
