//! The three content encryptions of DIDComm v2.1 (section "Curves and Content Encryption Algorithms").

use std::{fmt, str::FromStr};

use aes::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit, block_padding::Pkcs7};
use aes_gcm::{
    Aes256Gcm,
    aead::{AeadInOut, KeyInit},
};
use chacha20poly1305::XChaCha20Poly1305;
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha512;
use subtle::ConstantTimeEq;

use super::{CheckFailed, random::fill_random, secret::Cek, stack::with_wiped_stack};

/// A content encryption, the `enc` of a JWE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ContentEncryption {
    /// AES-256-CBC with HMAC-SHA-512 (RFC 7518 section 5.2.5). This is the only content encryption that
    /// authcrypt allows.
    #[serde(rename = "A256CBC-HS512")]
    A256CbcHs512,
    /// AES-256-GCM (RFC 7518 section 5.3).
    #[serde(rename = "A256GCM")]
    A256Gcm,
    /// XChaCha20-Poly1305 (draft-amringer-jose-chacha-02).
    #[serde(rename = "XC20P")]
    Xc20P,
}

/// Encrypted content.
#[derive(Debug, Clone)]
pub struct EncryptedContent {
    /// The nonce: 16, 12 or 24 bytes.
    pub iv: Vec<u8>,
    /// The ciphertext. It is as long as the plaintext; A256CBC-HS512 adds 1 to 16 bytes of padding.
    pub ciphertext: Vec<u8>,
    /// The authentication tag: 32 bytes for A256CBC-HS512, otherwise 16.
    pub tag: Vec<u8>,
}

impl Cek {
    /// Generates a content key with randomness from the operating system.
    pub fn generate(enc: ContentEncryption) -> Self {
        let mut bytes = vec![0; enc.key_length()];
        fill_random(&mut bytes);
        Self::new(bytes)
    }
}

impl ContentEncryption {
    /// All content encryptions.
    pub const ALL: [Self; 3] = [Self::A256CbcHs512, Self::A256Gcm, Self::Xc20P];

    /// The value of `enc` in a header.
    pub fn name(self) -> &'static str {
        match self {
            Self::A256CbcHs512 => "A256CBC-HS512",
            Self::A256Gcm => "A256GCM",
            Self::Xc20P => "XC20P",
        }
    }

    /// The length of the content key in bytes.
    pub fn key_length(self) -> usize {
        match self {
            Self::A256CbcHs512 => 64,
            Self::A256Gcm | Self::Xc20P => 32,
        }
    }

    /// The length of the nonce in bytes.
    pub fn iv_length(self) -> usize {
        match self {
            Self::A256CbcHs512 => 16,
            Self::A256Gcm => 12,
            Self::Xc20P => 24,
        }
    }

    /// The length of the authentication tag in bytes.
    pub fn tag_length(self) -> usize {
        match self {
            Self::A256CbcHs512 => 32,
            Self::A256Gcm | Self::Xc20P => 16,
        }
    }

    /// Encrypts `plaintext` with a fresh random nonce. The tag authenticates `aad` and the ciphertext.
    ///
    /// # Panics
    /// If `cek` is not [`key_length`](Self::key_length) bytes long.
    pub fn seal(self, cek: &Cek, aad: &[u8], plaintext: &[u8]) -> EncryptedContent {
        let mut iv = vec![0; self.iv_length()];
        fill_random(&mut iv);
        let (ciphertext, tag) = with_wiped_stack(|| match self {
            Self::A256CbcHs512 => {
                let (mac_key, enc_key) = halves(cek);
                let cipher = cbc::Encryptor::<aes::Aes256>::new_from_slices(enc_key, &iv).expect("32 and 16 bytes");
                let ciphertext = cipher.encrypt_padded_vec::<Pkcs7>(plaintext);
                let tag = hs512_tag(mac_key, aad, &iv, &ciphertext).to_vec();
                (ciphertext, tag)
            }
            Self::A256Gcm => aead_seal::<Aes256Gcm>(cek, &iv, aad, plaintext),
            Self::Xc20P => aead_seal::<XChaCha20Poly1305>(cek, &iv, aad, plaintext),
        });
        EncryptedContent { iv, ciphertext, tag }
    }

    /// Checks the tag in constant time, then decrypts. Returns the plaintext.
    ///
    /// # Errors
    /// If a length or the tag is wrong. The error does not say which.
    pub fn open(self, cek: &Cek, aad: &[u8], iv: &[u8], ciphertext: &[u8], tag: &[u8]) -> Result<Vec<u8>, CheckFailed> {
        if cek.as_bytes().len() != self.key_length() || iv.len() != self.iv_length() {
            return Err(CheckFailed);
        }
        with_wiped_stack(|| match self {
            Self::A256CbcHs512 => {
                let (mac_key, enc_key) = halves(cek);
                if !bool::from(hs512_tag(mac_key, aad, iv, ciphertext).ct_eq(tag)) {
                    return Err(CheckFailed);
                }
                let cipher = cbc::Decryptor::<aes::Aes256>::new_from_slices(enc_key, iv).map_err(|_| CheckFailed)?;
                cipher.decrypt_padded_vec::<Pkcs7>(ciphertext).map_err(|_| CheckFailed)
            }
            Self::A256Gcm => aead_open::<Aes256Gcm>(cek, iv, aad, ciphertext, tag),
            Self::Xc20P => aead_open::<XChaCha20Poly1305>(cek, iv, aad, ciphertext, tag),
        })
    }
}

/// Splits a content key into the MAC key and the encryption key (RFC 7518 section 5.2.2.1).
fn halves(cek: &Cek) -> (&[u8], &[u8]) {
    cek.as_bytes().split_at(32)
}

/// The first half of the HMAC over AAD, IV, ciphertext, and the length of the AAD in bits.
fn hs512_tag(mac_key: &[u8], aad: &[u8], iv: &[u8], ciphertext: &[u8]) -> [u8; 32] {
    let mut mac = <Hmac<Sha512> as KeyInit>::new_from_slice(mac_key).expect("HMAC takes a key of any length");
    mac.update(aad);
    mac.update(iv);
    mac.update(ciphertext);
    mac.update(&(aad.len() as u64 * 8).to_be_bytes());
    let full = mac.finalize().into_bytes();
    full[..32].try_into().expect("the first half of 64 bytes")
}

fn aead_seal<A: AeadInOut + KeyInit>(cek: &Cek, iv: &[u8], aad: &[u8], plaintext: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let cipher = A::new_from_slice(cek.as_bytes()).expect("a content key of this encryption's length");
    let mut buffer = plaintext.to_vec();
    let tag = cipher
        .encrypt_inout_detached(iv.try_into().expect("a nonce of its length"), aad, buffer.as_mut_slice().into())
        .expect("a message is far below the limit of 64 GiB");
    (buffer, tag.to_vec())
}

fn aead_open<A: AeadInOut + KeyInit>(
    cek: &Cek,
    iv: &[u8],
    aad: &[u8],
    ciphertext: &[u8],
    tag: &[u8],
) -> Result<Vec<u8>, CheckFailed> {
    let cipher = A::new_from_slice(cek.as_bytes()).map_err(|_| CheckFailed)?;
    let mut buffer = ciphertext.to_vec();
    let iv = iv.try_into().map_err(|_| CheckFailed)?;
    let tag = tag.try_into().map_err(|_| CheckFailed)?;
    cipher.decrypt_inout_detached(iv, aad, buffer.as_mut_slice().into(), tag).map_err(|_| CheckFailed)?;
    Ok(buffer)
}

impl fmt::Display for ContentEncryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name is not one of the three content encryptions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a content encryption of DIDComm: A256CBC-HS512, A256GCM or XC20P")]
pub struct UnknownEncryption(pub String);

impl FromStr for ContentEncryption {
    type Err = UnknownEncryption;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|enc| enc.name() == name).ok_or_else(|| UnknownEncryption(name.to_owned()))
    }
}
