//! The secrets of one message, each wiped when it is dropped and never printed.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::ContentEncryption;

/// The key that encrypts a message's content: 64 bytes for A256CBC-HS512, else 32.
#[derive(Clone, PartialEq, Eq)]
pub struct Cek(Zeroizing<Vec<u8>>);

impl Cek {
    /// A fresh one from the operating system's generator.
    pub fn generate(enc: ContentEncryption) -> Self {
        let mut bytes = Zeroizing::new(vec![0; enc.key_length()]);
        super::ephemeral::fill_random(&mut bytes);
        Self(bytes)
    }

    /// One from bytes that a token unwrapped.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A key-encryption key of A256KW: 32 bytes.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Kek([u8; 32]);

impl Kek {
    /// One from the output of a KDF.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The result of one Diffie-Hellman: Ze or Zs, 32 to 66 bytes.
#[derive(Clone)]
pub struct SharedSecret(Zeroizing<Vec<u8>>);

impl SharedSecret {
    /// One from the bytes of a point's x coordinate, at full length.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A content key wrapped under a KEK: eight bytes longer than the key. Not a secret.
pub type EncryptedKey = Vec<u8>;

macro_rules! redacted {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(redacted)"))
            }
        }
    )*};
}
redacted!(Cek, Kek, SharedSecret);
