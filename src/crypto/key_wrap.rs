//! A256KW: AES key wrap (RFC 3394) under a 256-bit KEK.

use aes::cipher::KeyInit;
use aes_kw::KwAes256;

use super::{
    CheckFailed,
    secret::{Cek, EncryptedKey, Kek},
    stack::with_wiped_stack,
};

/// Wraps a content key. The result is eight bytes longer than the key.
///
/// # Panics
/// If the length of `cek` is not a multiple of eight bytes.
pub fn wrap_key(kek: &Kek, cek: &Cek) -> EncryptedKey {
    let mut out = vec![0; cek.as_bytes().len() + 8];
    with_wiped_stack(|| KwAes256::new(kek.as_bytes().into()).wrap_key(cek.as_bytes(), &mut out).map(drop))
        .expect("a content key is a multiple of eight bytes and the buffer eight bytes longer");
    out
}

/// Unwraps a content key. Only the content keys of DIDComm are accepted, which have 32 or 64 bytes. So `encrypted_key`
/// must have 40 or 72 bytes.
///
/// # Errors
/// If the length is wrong, or the key was not wrapped under `kek`.
pub fn unwrap_key(kek: &Kek, encrypted_key: &[u8]) -> Result<Cek, CheckFailed> {
    if ![40, 72].contains(&encrypted_key.len()) {
        return Err(CheckFailed);
    }
    let mut out = zeroize::Zeroizing::new(vec![0; encrypted_key.len() - 8]);
    with_wiped_stack(|| KwAes256::new(kek.as_bytes().into()).unwrap_key(encrypted_key, &mut out).map(drop))
        .map_err(|_| CheckFailed)?;
    Ok(Cek::new(std::mem::take(&mut *out)))
}
