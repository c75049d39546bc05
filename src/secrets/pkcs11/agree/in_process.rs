//! `KekInProcess`: the token hashes Z with C_DigestKey, and the KEK leaves the token. SoftHSM 2.6.1 can do this.

use cryptoki::{mechanism::Mechanism, object::ObjectHandle};
use zeroize::Zeroizing;

use super::{
    derive::{AgreementKey, TokenSession},
    in_token::first_kdf_input,
};
use crate::{
    crypto::{self, Cek, EncryptedKey, KdfInfo, Kek, SharedSecret},
    keys::PublicKey,
    secrets::{
        TokenError,
        pkcs11::ckr::{CallResult, During},
    },
};

/// Unwraps the content key `wrapped`. `zs` is the Zs object in the token for ECDH-1PU, and none for ECDH-ES.
pub(super) fn unwrap(
    token: TokenSession<'_>,
    key: AgreementKey<'_>,
    epk: &PublicKey,
    zs: Option<ObjectHandle>,
    info: &KdfInfo<'_>,
    wrapped: &[u8],
) -> CallResult<Cek> {
    let ze = token.derive_sensitive(key, epk, key.method.ze_visibility)?;
    let kek = kek(token, &1u32.to_be_bytes(), [Some(ze.handle()), zs], info)?;
    Ok(crypto::unwrap_key(&kek, wrapped).map_err(|_| TokenError::Unwrap)?)
}

/// Wraps a content key for the recipient to whom `ze` and `zs` belong.
pub(super) fn wrap(
    token: TokenSession<'_>,
    ze: &SharedSecret,
    zs: Option<ObjectHandle>,
    info: &KdfInfo<'_>,
    cek: &Cek,
) -> CallResult<EncryptedKey> {
    let kek = kek(token, &first_kdf_input(ze), [None, zs], info)?;
    Ok(crypto::wrap_key(&kek, cek))
}

/// The KEK: SHA-256 over a prefix, secrets in the token, and OtherInfo.
fn kek(
    token: TokenSession<'_>,
    prefix: &[u8],
    secrets: [Option<ObjectHandle>; 2],
    info: &KdfInfo<'_>,
) -> CallResult<Kek> {
    let TokenSession { session, driver } = token;
    session.digest_init(&Mechanism::Sha256).during("C_DigestInit")?;
    let mut digest = Zeroizing::new([0; 32]);
    let hash = || {
        session.digest_update(prefix).during("C_DigestUpdate")?;
        secrets.into_iter().flatten().try_for_each(|z| session.digest_key(z).during("C_DigestKey"))?;
        session.digest_update(&info.other_info()).during("C_DigestUpdate")
    };
    let hashed = hash();
    // The digest is ended even after a failure: while a digest is open, the session cannot begin another.
    let ended = driver.raw.digest_final(session, &mut digest).during("C_DigestFinal");
    hashed.and(ended)?;
    Ok(Kek::written_by(|kek| kek.copy_from_slice(&*digest)))
}
