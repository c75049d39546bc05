//! `KekInToken`: Concat KDF and key unwrap are done in the token too, and the content key leaves it. Kryoptic 1.5.4 can
//! do this.
//!
//! ECDH-ES is one step: CKD_SHA256_KDF_SP800 with OtherInfo as its shared data is JOSE's Concat KDF. ECDH-1PU
//! hashes two secrets, so its KDF input is concatenated in the token: 00000001 || Ze || Zs || OtherInfo, then
//! CKM_SHA256_KEY_DERIVATION (PKCS#11 v3.1 sections 6.22 and 6.43). Every intermediate object is sensitive and
//! not extractable.

use cryptoki::{
    mechanism::{Mechanism, elliptic_curve::EcKdf, misc::KeyDerivationStringData},
    object::{Attribute, KeyType, ObjectClass, ObjectHandle},
};
use zeroize::{Zeroize, Zeroizing};

use super::derive::{AgreementKey, TokenSession, repeat_refused};
use crate::{
    crypto::{Cek, ContentEncryption, EncryptedKey, KdfInfo, SharedSecret},
    keys::PublicKey,
    secrets::{
        TokenError,
        pkcs11::{
            ckr::{CallResult, During},
            object::{SessionObject, Visibility, readable, sensitive},
        },
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
    let kek = match zs {
        None => token.derive(
            key,
            epk,
            EcKdf::sha256_sp800(&info.other_info()),
            sensitive(KeyType::AES, Some(32), Visibility::LoggedIn),
        )?,
        Some(zs) => {
            let ze = token.derive_sensitive(key, epk, key.method.ze_visibility)?;
            let z = concatenate(token, Mechanism::ConcatenateBaseAndKey(zs), ze.handle())?;
            let start = 1u32.to_be_bytes();
            let started = concatenate(
                token,
                Mechanism::ConcatenateDataAndBase(KeyDerivationStringData::new(&start)),
                z.handle(),
            )?;
            derive_kek(token, started.handle(), info)?
        }
    };
    unwrap_cek(token, &kek, wrapped)
}

/// Wraps a content key for the recipient to whom `ze` and `zs` belong. `cek` is the object of [`put_cek`].
pub(super) fn wrap(
    token: TokenSession<'_>,
    ze: &SharedSecret,
    zs: Option<ObjectHandle>,
    info: &KdfInfo<'_>,
    cek: &SessionObject<'_>,
) -> CallResult<EncryptedKey> {
    let zs = zs.ok_or(TokenError::Unsupported("wrapping without the sender's key".into()))?;
    let start = first_kdf_input(ze);
    let started = concatenate(token, Mechanism::ConcatenateDataAndBase(KeyDerivationStringData::new(&start)), zs)?;
    let kek = derive_kek(token, started.handle(), info)?;
    token.session.wrap_key(&Mechanism::AesKeyWrap, kek.handle(), cek.handle()).during("C_WrapKey")
}

/// 00000001 || Ze: the part of the KDF input before Zs.
pub(super) fn first_kdf_input(ze: &SharedSecret) -> Zeroizing<Vec<u8>> {
    let mut start = Zeroizing::new(Vec::with_capacity(4 + ze.as_bytes().len()));
    start.extend_from_slice(&1u32.to_be_bytes());
    start.extend_from_slice(ze.as_bytes());
    start
}

fn concatenate<'s>(
    token: TokenSession<'s>,
    mechanism: Mechanism<'_>,
    base: ObjectHandle,
) -> CallResult<SessionObject<'s>> {
    // The template has no length, so that both parts are taken as a whole.
    let template =
        token.driver.profile.omit.secret.remove_from(sensitive(KeyType::GENERIC_SECRET, None, Visibility::LoggedIn));
    let handle = token.session.derive_key(&mechanism, base, &template).during("C_DeriveKey")?;
    Ok(SessionObject::new(token.session, handle))
}

/// Derives the KEK: appends OtherInfo to the value of `base`, and hashes the result.
fn derive_kek<'s>(token: TokenSession<'s>, base: ObjectHandle, info: &KdfInfo<'_>) -> CallResult<SessionObject<'s>> {
    let other_info = info.other_info();
    let data = KeyDerivationStringData::new(&other_info);
    let input = concatenate(token, Mechanism::ConcatenateBaseAndData(data), base)?;
    let template =
        token.driver.profile.omit.secret.remove_from(sensitive(KeyType::AES, Some(32), Visibility::LoggedIn));
    let kek = token.driver.raw.sha256_key_derivation(token.session, input.handle(), &template).during("C_DeriveKey")?;
    Ok(SessionObject::new(token.session, kek))
}

/// Unwraps the content key in the token and reads it.
///
/// If the token refuses, it must wrap a random key with the same KEK, and unwrap it again. Otherwise the token is at
/// fault, and the result is its error, whatever the code.
fn unwrap_cek(token: TokenSession<'_>, kek: &SessionObject<'_>, wrapped: &[u8]) -> CallResult<Cek> {
    if ![40, 72].contains(&wrapped.len()) {
        return Err(TokenError::Unwrap.into());
    }
    match unwrap_and_read(token, kek, wrapped) {
        Err(error) if error.may_be_about_input() => {
            if let Some(answer) = repeat_refused(|| unwrap_and_read(token, kek, wrapped)) {
                return answer;
            }
            let random = Cek::generate(ContentEncryption::A256Gcm);
            let key = put_cek(token, &random)?;
            let wrapped = token.session.wrap_key(&Mechanism::AesKeyWrap, kek.handle(), key.handle());
            let works = wrapped.during("C_WrapKey").and_then(|wrapped| unwrap_and_read(token, kek, &wrapped));
            Err(if works.is_ok_and(|read| read == random) { TokenError::Unwrap.into() } else { error })
        }
        answer => answer,
    }
}

fn unwrap_and_read(token: TokenSession<'_>, kek: &SessionObject<'_>, wrapped: &[u8]) -> CallResult<Cek> {
    let length = wrapped.len().saturating_sub(8);
    // C_UnwrapKey takes no CKA_VALUE_LEN: the length is that of what was wrapped (PKCS#11 v3.1 section 6.13.4).
    let template: Vec<_> = token
        .driver
        .profile
        .omit
        .secret
        .remove_from(readable(length, Visibility::LoggedIn))
        .into_iter()
        .filter(|attribute| !matches!(attribute, Attribute::ValueLen(_)))
        .collect();
    let cek = token.session.unwrap_key(&Mechanism::AesKeyWrap, kek.handle(), wrapped, &template);
    let cek = SessionObject::new(token.session, cek.during("C_UnwrapKey")?);
    let mut value = vec![0; length];
    match token.driver.raw.read_value(token.session, cek.handle(), &mut value) {
        Ok(()) => Ok(Cek::new(value)),
        Err(error) => {
            value.zeroize();
            Err(error).during("C_GetAttributeValue")
        }
    }
}

/// A content key as a session object for C_WrapKey. It may be readable, since this process has it in the clear already.
pub(super) fn put_cek<'s>(token: TokenSession<'s>, cek: &Cek) -> CallResult<SessionObject<'s>> {
    let mut template = token.driver.profile.omit.secret.remove_from(vec![
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
    Ok(SessionObject::new(token.session, created?))
}
