//! The ephemeral key pair of one message (RFC 7518 section 4.6).
//!
//! Packing a message costs one key generation, and one key agreement for each recipient. `aws-lc-rs` computes both: on
//! P-256, AWS-LC takes a third of the time that RustCrypto takes (docs/performance.md). AWS-LC also wipes the memory
//! that it frees.

use aws_lc_rs::agreement::{self, Algorithm, PrivateKey, UnparsedPublicKey};

use super::secret::SharedSecret;
use crate::keys::{Curve, PublicKey};

/// A key pair for one message, dropped once the message is encrypted.
pub struct EphemeralKey {
    private: PrivateKey,
    public: PublicKey,
}

impl EphemeralKey {
    /// Generates a key pair. Returns `None` if the curve is not for key agreement.
    ///
    /// # Panics
    /// If the operating system has no randomness.
    pub fn generate(curve: Curve) -> Option<Self> {
        let algorithm = algorithm(curve)?;
        // This fails only if the operating system has no randomness. No cryptography can go on then.
        let private = PrivateKey::generate(algorithm).expect("the operating system has randomness");
        let point = private.compute_public_key().expect("a private key has a public one");
        let public = PublicKey::from_bytes(curve, point.as_ref()).expect("a generated point is valid");
        Some(Self { private, public })
    }

    /// The public half, which is the `epk` of the message.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Computes Ze, the shared secret with a recipient's key. Returns `None` if the recipient's key is on
    /// another curve.
    pub fn agree(&self, recipient: &PublicKey) -> Option<SharedSecret> {
        if recipient.curve() != self.public.curve() {
            return None;
        }
        let peer = UnparsedPublicKey::new(algorithm(recipient.curve())?, recipient.as_bytes());
        agreement::agree(&self.private, peer, (), |z| Ok(SharedSecret::new(z.to_vec()))).ok()
    }
}

fn algorithm(curve: Curve) -> Option<&'static Algorithm> {
    match curve {
        Curve::X25519 => Some(&agreement::X25519),
        Curve::P256 => Some(&agreement::ECDH_P256),
        Curve::P384 => Some(&agreement::ECDH_P384),
        Curve::P521 => Some(&agreement::ECDH_P521),
        Curve::Ed25519 | Curve::Secp256k1 => None,
    }
}
