//! Key agreement: ECDH in the token, then KDF and key wrap, in the token or in this process according to
//! the custody tier.
//!
//! | tier | the token does | what leaves the token |
//! |---|---|---|
//! | `KekInToken` | ECDH, Concat KDF, AES key wrap | the content key |
//! | `KekInProcess` | ECDH, SHA-256 over Z | the KEK |
//! | `SharedSecretInProcess` | ECDH | Z |
//!
//! The Zs of our key and a peer's key is always the same. In the first two tiers it is cached in the token as a
//! sensitive session object: a message from a known sender then costs one derivation, and a message to a known
//! recipient none. This process never keeps a Zs, since anyone who has it can forge messages from that peer to us.

mod derive;
mod in_process;
mod in_token;
mod shared_secret;

use super::{ckr::CallResult, session::OpenSession};
use crate::{
    crypto::{Cek, EncryptedKey, KdfInfo},
    keys::PublicKey,
    secrets::{Custody, TokenError, UnwrapRequest, WrapRequest},
};

use derive::TokenSession;
pub(super) use derive::{AgreementKey, AgreementMethod, Driver, UNDER_TEST};

/// Unwraps a content key: ECDH with `epk` (for ECDH-1PU also with the sender's key), then KDF and key unwrap.
pub(super) fn unwrap(
    driver: Driver<'_>,
    session: &mut OpenSession,
    key: AgreementKey<'_>,
    request: &UnwrapRequest,
) -> CallResult<Cek> {
    let sender = request.sender.as_ref();
    if sender.is_some() {
        check_authcrypt(key)?;
    }
    let info = KdfInfo { apu: &request.apu, apv: &request.apv, tag: sender.map(|sender| sender.tag.as_slice()) };
    let sender = sender.map(|sender| &sender.key);
    let OpenSession { handle, zs_cache, .. } = session;
    let token = TokenSession { driver, session: handle };
    let (epk, wrapped) = (&request.epk, &request.encrypted_key);
    match key.method.custody {
        Custody::SharedSecretInProcess => shared_secret::unwrap(token, key, epk, sender, &info, wrapped),
        Custody::KekInProcess => {
            token.with_zs(key, sender, zs_cache, |zs| in_process::unwrap(token, key, epk, zs, &info, wrapped))
        }
        Custody::KekInToken => {
            token.with_zs(key, sender, zs_cache, |zs| in_token::unwrap(token, key, epk, zs, &info, wrapped))
        }
    }
}

/// Wraps a content key for each recipient: ECDH with the recipient's key gives Zs, then KDF over Ze and Zs, then key
/// wrap. Returns the wrapped keys in the order of the request.
pub(super) fn wrap(
    driver: Driver<'_>,
    session: &mut OpenSession,
    key: AgreementKey<'_>,
    request: &WrapRequest,
) -> CallResult<Vec<EncryptedKey>> {
    check_authcrypt(key)?;
    let info = KdfInfo { apu: &request.apu, apv: &request.apv, tag: Some(&request.tag) };
    let OpenSession { handle, zs_cache, .. } = session;
    let token = TokenSession { driver, session: handle };
    if request.recipients.iter().any(|(recipient, _)| zs_cache.contains(key.number, recipient)) {
        token.check_key_exists(key, zs_cache)?;
    }
    // The content key goes into the token once for all recipients.
    let cek = match key.method.custody {
        Custody::KekInToken => Some(in_token::put_cek(token, &request.cek)?),
        _ => None,
    };
    let wrap_one = |(recipient, ze): &(PublicKey, _)| match &cek {
        Some(cek) => token.with_zs(key, Some(recipient), zs_cache, |zs| in_token::wrap(token, ze, zs, &info, cek)),
        None if key.method.custody == Custody::KekInProcess => {
            token.with_zs(key, Some(recipient), zs_cache, |zs| in_process::wrap(token, ze, zs, &info, &request.cek))
        }
        None => shared_secret::wrap(token, key, recipient, ze, &info, &request.cek),
    };
    request.recipients.iter().map(wrap_one).collect()
}

/// Fails for a key with which the token does ECDH-ES only.
fn check_authcrypt(key: AgreementKey<'_>) -> Result<(), TokenError> {
    match key.method.authcrypt {
        true => Ok(()),
        false => Err(TokenError::Unsupported(format!("ECDH-1PU with the key {}: it does ECDH-ES only", key.public))),
    }
}
