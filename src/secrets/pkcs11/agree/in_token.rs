//! `KekInToken`: Concat KDF and key unwrap in the token too; the content key comes out. Kryoptic 1.5.4 does this.
//!
//! ECDH-ES is one step, as CKD_SHA256_KDF_SP800 with OtherInfo for its shared data is JOSE's Concat KDF. ECDH-1PU hashes
//! two secrets, so it is put together: 00000001 || Ze || Zs || OtherInfo, then CKM_SHA256_KEY_DERIVATION (PKCS#11 v3.1
//! sections 6.22 and 6.43). Every intermediate is sensitive and not extractable.

use cryptoki::{
    mechanism::{Mechanism, elliptic_curve::EcKdf, misc::KeyDerivationStringData},
    object::{Attribute, KeyType, ObjectClass, ObjectHandle},
};
use zeroize::{Zeroize, Zeroizing};

use super::{Device, OurKey, TRIES, is_vague};
use crate::{
    crypto::{Cek, EncryptedKey, KdfInfo, SharedSecret},
    keys::PublicKey,
    secrets::{
        TokenError,
        pkcs11::{
            ckr::{During, Fault, Kind, Outcome},
            object::{Object, SeenBy, readable, sensitive},
        },
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
    let kek = match zs {
        None => token.derive(
            key,
            epk,
            EcKdf::sha256_sp800(&info.other_info()),
            sensitive(KeyType::AES, Some(32), SeenBy::LoggedIn),
        )?,
        Some(zs) => {
            let ze = token.derive_sensitive(key, epk, key.method.fleeting)?;
            let z = join(token, Mechanism::ConcatenateBaseAndKey(zs), ze.handle())?;
            let start = 1u32.to_be_bytes();
            let started =
                join(token, Mechanism::ConcatenateDataAndBase(KeyDerivationStringData::new(&start)), z.handle())?;
            hash(token, started.handle(), info)?
        }
    };
    get_cek(token, &kek, wrapped)
}

pub(super) fn wrap(
    token: Device<'_>,
    ze: &SharedSecret,
    zs: Option<ObjectHandle>,
    info: &KdfInfo<'_>,
    cek: &Object<'_>,
) -> Outcome<EncryptedKey> {
    let zs = zs.ok_or(TokenError::Unsupported("a wrap without a sender's key".into()))?;
    let start = round_and(ze);
    let started = join(token, Mechanism::ConcatenateDataAndBase(KeyDerivationStringData::new(&start)), zs)?;
    let kek = hash(token, started.handle(), info)?;
    token.session.wrap_key(&Mechanism::AesKeyWrap, kek.handle(), cek.handle()).during("C_WrapKey")
}

/// 00000001 || Ze: what stands before Zs.
pub(super) fn round_and(ze: &SharedSecret) -> Zeroizing<Vec<u8>> {
    let mut start = Zeroizing::new(Vec::with_capacity(4 + ze.as_bytes().len()));
    start.extend_from_slice(&1u32.to_be_bytes());
    start.extend_from_slice(ze.as_bytes());
    start
}

fn join<'s>(token: Device<'s>, mechanism: Mechanism<'_>, base: ObjectHandle) -> Outcome<Object<'s>> {
    // Without a length: the whole of both parts.
    let template = token.driver.profile.omit.secret.from(sensitive(KeyType::GENERIC_SECRET, None, SeenBy::LoggedIn));
    let handle = token.session.derive_key(&mechanism, base, &template).during("C_DeriveKey")?;
    Ok(Object::new(token.session, handle))
}

/// Puts OtherInfo behind, hashes, and makes the KEK of it.
fn hash<'s>(token: Device<'s>, base: ObjectHandle, info: &KdfInfo<'_>) -> Outcome<Object<'s>> {
    let other_info = info.other_info();
    let data = KeyDerivationStringData::new(&other_info);
    let input = join(token, Mechanism::ConcatenateBaseAndData(data), base)?;
    let template = token.driver.profile.omit.secret.from(sensitive(KeyType::AES, Some(32), SeenBy::LoggedIn));
    let kek = token.driver.raw.sha256_key_derivation(token.session, input.handle(), &template).during("C_DeriveKey")?;
    Ok(Object::new(token.session, kek))
}

/// Unwraps the content key in the token and reads it.
fn get_cek(token: Device<'_>, kek: &Object<'_>, wrapped: &[u8]) -> Outcome<Cek> {
    let length = wrapped.len().saturating_sub(8);
    if ![32, 64].contains(&length) {
        return Err(TokenError::Unwrap.into());
    }
    // C_UnwrapKey takes no CKA_VALUE_LEN: the length is that of what was wrapped (PKCS#11 v3.1 section 6.13.4).
    let template: Vec<_> = token
        .driver
        .profile
        .omit
        .secret
        .from(readable(length, SeenBy::LoggedIn))
        .into_iter()
        .filter(|attribute| !matches!(attribute, Attribute::ValueLen(_)))
        .collect();
    let ask = || {
        let cek = token.session.unwrap_key(&Mechanism::AesKeyWrap, kek.handle(), wrapped, &template);
        cek.during("C_UnwrapKey")
    };
    // The KEK has just been made, so it is the wrapped key that is wrong, however the module puts it; unless the token
    // was sick for a moment.
    let answer = (1..TRIES).map(|_| ask()).find(|answer| !is_vague(answer)).unwrap_or_else(ask);
    let cek = answer.map_err(|fault| match fault.kind() {
        Some(Kind::Peer | Kind::Input | Kind::Vague | Kind::Unsupported) => Fault::Token(TokenError::Unwrap),
        _ => fault,
    })?;
    let cek = Object::new(token.session, cek);
    let mut value = vec![0; length];
    match token.driver.raw.read_value(token.session, cek.handle(), &mut value) {
        Ok(()) => Ok(Cek::new(value)),
        Err(error) => {
            value.zeroize();
            Err(error).during("C_GetAttributeValue")
        }
    }
}

/// A content key as an object that C_WrapKey takes. It is ours already, in the clear: nothing is lost if it can be read.
pub(super) fn put_cek<'s>(token: Device<'s>, cek: &Cek) -> Outcome<Object<'s>> {
    let mut template = token.driver.profile.omit.secret.from(vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
        Attribute::Value(cek.as_bytes().to_vec()),
    ]);
    let created = token.session.create_object(&template).during("C_CreateObject");
    if let Some(Attribute::Value(value)) = template.last_mut() {
        value.zeroize();
    }
    Ok(Object::new(token.session, created?))
}
