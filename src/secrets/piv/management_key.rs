//! The management key, which a card requires for making, importing and deleting keys.

use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit, array::Array};
use zeroize::Zeroizing;

use crate::{crypto::with_wiped_stack, secrets::TokenError};

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
                let array = <&mut Array<_, _>>::try_from(&mut block[..]).map_err(|_| wrong_length())?;
                cipher.$run(array);
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
        with_wiped_stack(|| block!(&self.0, algorithm, input, encrypt_block))
    }

    /// Decrypts one block. See [`encrypt`](Self::encrypt).
    pub(super) fn decrypt(&self, algorithm: u8, input: &[u8]) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        with_wiped_stack(|| block!(&self.0, algorithm, input, decrypt_block))
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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::crypto::remains_of;

    /// The key schedule of a cipher begins with the key, and a block is the answer to the card's challenge.
    #[test]
    fn neither_the_key_nor_a_block_remains_on_the_stack() {
        for (algorithm, key_length, block_length) in [(0x03, 24, 8), (0x08, 16, 16), (0x0a, 24, 16), (0x0c, 32, 16)] {
            let bytes = |length: u8, first: u8| Zeroizing::new((first..first + length).collect::<Vec<_>>());
            let key = ManagementKey::new(bytes(key_length, 0x41)).unwrap();
            let input = bytes(block_length, 0x91);
            let encrypted = key.encrypt(algorithm, &input).unwrap();
            assert_eq!(key.decrypt(algorithm, &encrypted).unwrap(), input);
            let works: [&(dyn Fn() + Sync); 2] = [&|| drop(key.encrypt(algorithm, &input).unwrap()), &|| {
                drop(key.decrypt(algorithm, &encrypted).unwrap())
            }];
            for work in works {
                assert_eq!(remains_of(key.as_bytes(), work), BTreeSet::new(), "{algorithm:02x}");
                assert_eq!(remains_of(&input, work), BTreeSet::new(), "{algorithm:02x}");
            }
        }
    }
}
