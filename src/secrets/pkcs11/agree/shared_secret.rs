//! `SharedSecretInProcess`: Z is read from the token, used and erased. Every token with ECDH can do this.

use cryptoki::mechanism::elliptic_curve::EcKdf;
use zeroize::Zeroize;

use super::derive::{AgreementKey, TokenSession};
use crate::{
    crypto::{self, Cek, EncryptedKey, KdfInfo, SharedSecret},
    keys::PublicKey,
    secrets::{
        TokenError,
        pkcs11::{
            ckr::{CallResult, During},
            object::readable,
        },
    },
};

/// Unwraps the content key `wrapped`. `sender` is the sender's key for ECDH-1PU, and none for ECDH-ES.
pub(super) fn unwrap(
    token: TokenSession<'_>,
    key: AgreementKey<'_>,
    epk: &PublicKey,
    sender: Option<&PublicKey>,
    info: &KdfInfo<'_>,
    wrapped: &[u8],
) -> CallResult<Cek> {
    let ze = read_z(token, key, epk)?;
    let zs = sender.map(|sender| read_z(token, key, sender)).transpose()?;
    let z: Vec<_> = [&ze].into_iter().chain(&zs).collect();
    Ok(crypto::unwrap_key(&crypto::concat_kdf(&z, info), wrapped).map_err(|_| TokenError::Unwrap)?)
}

/// Wraps a content key for one recipient. `ze` belongs to that recipient.
pub(super) fn wrap(
    token: TokenSession<'_>,
    key: AgreementKey<'_>,
    recipient: &PublicKey,
    ze: &SharedSecret,
    info: &KdfInfo<'_>,
    cek: &Cek,
) -> CallResult<EncryptedKey> {
    let zs = read_z(token, key, recipient)?;
    Ok(crypto::wrap_key(&crypto::concat_kdf(&[ze, &zs], info), cek))
}

/// Derives Z of our key and a peer's key in the token, and reads it.
fn read_z(token: TokenSession<'_>, key: AgreementKey<'_>, peer: &PublicKey) -> CallResult<SharedSecret> {
    let length = peer.curve().coordinate_length();
    let object = token.derive(key, peer, EcKdf::null(), readable(length, key.method.ze_visibility))?;
    let mut z = vec![0; length];
    match token.driver.raw.read_value(token.session, object.handle(), &mut z) {
        Ok(()) => Ok(SharedSecret::new(z)),
        Err(error) => {
            z.zeroize();
            Err(error).during("C_GetAttributeValue")
        }
    }
}
