//! Pure functions of the JOSE algorithms: Concat KDF, AES key wrap, content encryption, verification, ephemeral keys; and
//! what Data Integrity proofs sign, with the canonical JSON below it.
//!
//! Nothing here knows a long-term private key; the one private key is a message's own [`EphemeralKey`].

mod canonical;
mod content;
mod data_integrity;
mod ephemeral;
mod kdf;
mod key_wrap;
mod secret;
mod stack;
mod verify;

pub use canonical::canonical_json;
pub use content::{ContentEncryption, Sealed};
pub use data_integrity::{CRYPTOSUITE, document_hash, proof_input, proof_options};
pub use ephemeral::EphemeralKey;
pub use kdf::{KdfInfo, concat_kdf};
pub use key_wrap::{unwrap_key, wrap_key};
pub use secret::{Cek, EncryptedKey, Kek, SharedSecret};
pub use verify::verify;

/// A ciphertext, wrapped key or signature that is not what its key made. Which check failed is not told: an oracle needs
/// no more than that (RFC 7516 section 11.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cryptographic check failed")]
pub struct CheckFailed;
