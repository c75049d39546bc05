//! The key pair of one message (RFC 7518 section 4.6: fresh for each). Its private half is the only one in the crate.
//!
//! On `aws-lc-rs`: every message that is packed pays for these two operations, and on P-256 they take it a third of what
//! RustCrypto's constant-time arithmetic takes (docs/performance.md). AWS-LC wipes what it frees.

use aws_lc_rs::agreement::{self, Algorithm, PrivateKey, UnparsedPublicKey};

use super::SharedSecret;
use crate::keys::{Curve, PublicKey};

/// A key pair that lives as long as one message is made.
pub struct EphemeralKey {
    private: PrivateKey,
    public: PublicKey,
}

impl EphemeralKey {
    /// A fresh pair on a curve that agrees on keys; none for the others.
    pub fn generate(curve: Curve) -> Option<Self> {
        let algorithm = algorithm(curve)?;
        // It fails only without randomness, which is no state to go on in.
        let private = PrivateKey::generate(algorithm).expect("the operating system has randomness");
        let point = private.compute_public_key().expect("a private key has a public one");
        let public = PublicKey::from_bytes(curve, point.as_ref()).expect("a generated point is valid");
        Some(Self { private, public })
    }

    /// The public half: the message's `epk`.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Ze with a recipient's key; none if that is on another curve.
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

/// Fills from the operating system's generator.
pub(super) fn fill_random(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the operating system has randomness");
}
