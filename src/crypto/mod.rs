//! Cryptographic functions without state: Concat KDF, AES key wrap, content encryption, signature verification,
//! ephemeral keys, canonical JSON, and the input of Data Integrity proofs.
//!
//! This module uses no long-term private key. Its only private key is the [`EphemeralKey`] of a message.

mod canonical;
mod content;
mod data_integrity;
mod ephemeral;
mod kdf;
mod key_wrap;
mod random;
mod secret;
mod stack;
mod verify;

pub use canonical::canonical_json;
pub use content::{ContentEncryption, EncryptedContent};
pub use data_integrity::{CRYPTOSUITE, document_hash, proof_input, proof_options};
pub use ephemeral::EphemeralKey;
pub use kdf::{KdfInfo, concat_kdf};
pub use key_wrap::{unwrap_key, wrap_key};
pub use secret::{Cek, EncryptedKey, Kek, SharedSecret};
pub use verify::verify;

#[cfg(all(test, target_os = "linux", feature = "yubikey"))]
pub(crate) use stack::testing::remains_of;
#[cfg(any(feature = "pkcs11", feature = "yubikey"))]
pub(crate) use stack::with_wiped_stack;

/// A ciphertext, a wrapped key or a signature is invalid. The error does not say which check failed, since that would
/// help an attacker (RFC 7516 section 11.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cryptographic check failed")]
pub struct CheckFailed;
