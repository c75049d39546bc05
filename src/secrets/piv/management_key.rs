//! The management key, which a card requires for making, importing and deleting keys.

use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit, array::Array};
use zeroize::Zeroizing;

use crate::secrets::TokenError;

/// The factory key of every YubiKey: a Triple-DES key before firmware 5.7, an AES-192 key from 5.7 on.
const FACTORY: [u8; 24] = [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8];

/// A management key.
pub(super) struct ManagementKey(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for ManagementKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ManagementKey(redacted)")
    }
}

/// Encrypts or decrypts one block with the cipher of a PIV algorithm identifier.
macro_rules! block {
    ($key:expr, $algorithm:expr, $block:expr, $run:ident) => {{
        macro_rules! with {
            ($cipher:ty) => {{
                let cipher = <$cipher>::new_from_slice($key).map_err(|_| wrong_length())?;
                let mut block = Zeroizing::new($block.to_vec());
                let array = Array::try_from(&block[..]).map_err(|_| wrong_length())?;
                let mut array = array;
                cipher.$run(&mut array);
                block.copy_from_slice(&array);
                Ok(block)
            }};
        }
        match $algorithm {
            0x03 => with!(des::TdesEde3),
            0x08 => with!(aes::Aes128),
            0x0a => with!(aes::Aes192),
            0x0c => with!(aes::Aes256),
            other => Err(TokenError::Unsupported(format!("a management key with the algorithm {other:02X}"))),
        }
    }};
}

impl ManagementKey {
    /// A key of 16, 24 or 32 bytes.
    ///
    /// # Errors
    /// [`TokenError::Config`] for any other length.
    pub(super) fn new(key: Zeroizing<Vec<u8>>) -> Result<Self, TokenError> {
        if [16, 24, 32].contains(&key.len()) { Ok(Self(key)) } else { Err(wrong_length()) }
    }

    /// The factory key.
    pub(super) fn factory() -> Self {
        Self(Zeroizing::new(FACTORY.to_vec()))
    }

    /// A new random key of 24 bytes, which is the key length of Triple-DES and of AES-192.
    pub(super) fn random() -> Result<Self, TokenError> {
        random(24).map(|key| Self(Zeroizing::new(key)))
    }

    /// A key that the card stores.
    pub(super) fn from_card(key: &[u8]) -> Self {
        Self(Zeroizing::new(key.to_vec()))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Encrypts one block with the cipher of the PIV algorithm identifier `algorithm`. Fails with
    /// [`TokenError::Config`] if `input` is not one block, or the key does not fit the cipher.
    pub(super) fn encrypt(&self, algorithm: u8, input: &[u8]) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        block!(&self.0, algorithm, input, encrypt_block)
    }

    /// Decrypts one block. See [`encrypt`](Self::encrypt).
    pub(super) fn decrypt(&self, algorithm: u8, input: &[u8]) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        block!(&self.0, algorithm, input, decrypt_block)
    }

    /// Random bytes for the card to encrypt.
    pub(super) fn challenge(length: usize) -> Result<Vec<u8>, TokenError> {
        random(length)
    }

    /// The error for a card that has another key.
    pub(super) fn refused(&self) -> TokenError {
        TokenError::Config("the card has another management key".into())
    }
}

fn random(length: usize) -> Result<Vec<u8>, TokenError> {
    let mut bytes = vec![0; length];
    getrandom::fill(&mut bytes)
        .map_err(|error| TokenError::Device { operation: "getrandom".into(), reason: error.to_string() })?;
    Ok(bytes)
}

fn wrong_length() -> TokenError {
    TokenError::Config("the management key, or the card's challenge for it, has the wrong length".into())
}
