//! `KekInProcess`: the token hashes Z (C_DigestKey), the KEK comes out. SoftHSM 2.6.1 does this.

use cryptoki::{mechanism::Mechanism, object::ObjectHandle};
use zeroize::Zeroizing;

use super::{Device, OurKey};
use crate::{
    crypto::{self, Cek, EncryptedKey, KdfInfo, Kek, SharedSecret},
    keys::PublicKey,
    secrets::{
        TokenError,
        pkcs11::ckr::{During, Outcome},
    },
};

pub(super) fn unwrap(
    token: Device<'_>,
    key: OurKey<'_>,
    epk: &PublicKey,
    zs: Option<ObjectHandle>,
    info: &KdfInfo<'_>,
    wrapped: &[u8],
) -> Outcome<Cek> {
    let ze = token.derive_sensitive(key, epk, key.method.fleeting)?;
    let kek = kek(token, &1u32.to_be_bytes(), [Some(ze.handle()), zs], info)?;
    Ok(crypto::unwrap_key(&kek, wrapped).map_err(|_| TokenError::Unwrap)?)
}

pub(super) fn wrap(
    token: Device<'_>,
    ze: &SharedSecret,
    zs: Option<ObjectHandle>,
    info: &KdfInfo<'_>,
    cek: &Cek,
) -> Outcome<EncryptedKey> {
    let kek = kek(token, &super::in_token::round_and(ze), [None, zs], info)?;
    Ok(crypto::wrap_key(&kek, cek))
}

/// SHA-256 of a prefix, secrets in the token and OtherInfo.
fn kek(token: Device<'_>, prefix: &[u8], secrets: [Option<ObjectHandle>; 2], info: &KdfInfo<'_>) -> Outcome<Kek> {
    let Device { session, driver } = token;
    session.digest_init(&Mechanism::Sha256).during("C_DigestInit")?;
    let mut digest = Zeroizing::new([0; 32]);
    let hash = || {
        session.digest_update(prefix).during("C_DigestUpdate")?;
        secrets.into_iter().flatten().try_for_each(|z| session.digest_key(z).during("C_DigestKey"))?;
        session.digest_update(&info.other_info()).during("C_DigestUpdate")
    };
    let hashed = hash();
    // Also after a failure: a digest left open would make the session's next one fail.
    let ended = driver.raw.digest_final(session, &mut digest).during("C_DigestFinal");
    hashed.and(ended)?;
    Ok(Kek::new(*digest))
}
