//! The secrets of one message: content key, key-encryption key and shared secrets. Each is wiped from memory when it is
//! dropped, and `Debug` does not show it.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

/// The key that encrypts the content of a message: 64 bytes for A256CBC-HS512, otherwise 32.
#[derive(Clone)]
pub struct Cek(Zeroizing<Vec<u8>>);

/// In constant time for keys of one length.
impl PartialEq for Cek {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Cek {}

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
///
/// The bytes are on the heap: a value that is moved would leave a copy of inline bytes behind.
#[derive(Clone)]
pub struct Kek(Box<[u8; 32]>);

impl Kek {
    /// A key from the output of a KDF.
    pub fn new(bytes: [u8; 32]) -> Self {
        let bytes = Zeroizing::new(bytes);
        Self::written_by(|kek| kek.copy_from_slice(&*bytes))
    }

    /// A key that `write` writes in place.
    pub(crate) fn written_by(write: impl FnOnce(&mut [u8; 32])) -> Self {
        let mut kek = Self(Box::new([0; 32]));
        write(&mut kek.0);
        kek
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Drop for Kek {
    fn drop(&mut self) {
        self.0.zeroize();
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
