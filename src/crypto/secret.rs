//! The secrets of one message: content key, key-encryption key and shared secrets. Each is wiped from memory when it is
//! dropped, and `Debug` does not show it.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// The key that encrypts the content of a message: 64 bytes for A256CBC-HS512, otherwise 32.
#[derive(Clone, PartialEq, Eq)]
pub struct Cek(Zeroizing<Vec<u8>>);

impl Cek {
    /// A content key from its raw bytes. The length is not checked.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A key-encryption key for A256KW: 32 bytes.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Kek([u8; 32]);

impl Kek {
    /// A key from the output of a KDF.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The result of one Diffie-Hellman key agreement, Ze or Zs: 32 to 66 bytes.
#[derive(Clone)]
pub struct SharedSecret(Zeroizing<Vec<u8>>);

impl SharedSecret {
    /// A shared secret from the x coordinate of a point, at full length. The length is not checked.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A content key that is wrapped under a KEK: eight bytes longer than the content key. It is not secret.
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
