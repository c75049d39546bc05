//! Signature verification (RFC 7515 section 5.2), with public keys only.

use p256::ecdsa::signature::Verifier;

use super::CheckFailed;
use crate::keys::{Curve, PublicKey};

/// Verifies a 64-byte signature over `input` with the algorithm of the key's curve ([`Curve::signature_algorithm`]).
///
/// Ed25519 is verified strictly: with the equation without the cofactor (RFC 8032 section 5.1.7), and with no R of
/// small order. ES256 accepts a high s, because a test vector of DIDComm v2.1 has one (appendix C.2). ES256K accepts a
/// high s too: many libraries refuse it, but some peers send it.
///
/// # Errors
/// If the signature is wrong, or the curve is not for signatures.
pub fn verify(key: &PublicKey, input: &[u8], signature: &[u8]) -> Result<(), CheckFailed> {
    match key.curve() {
        Curve::Ed25519 => {
            let point = key.as_bytes().try_into().map_err(|_| CheckFailed)?;
            let key = ed25519_dalek::VerifyingKey::from_bytes(point).map_err(|_| CheckFailed)?;
            let signature = ed25519_dalek::Signature::from_slice(signature).map_err(|_| CheckFailed)?;
            key.verify_strict(input, &signature).map_err(|_| CheckFailed)
        }
        Curve::P256 => {
            let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(key.as_bytes()).map_err(|_| CheckFailed)?;
            let signature = p256::ecdsa::Signature::from_slice(signature).map_err(|_| CheckFailed)?;
            key.verify(input, &signature).map_err(|_| CheckFailed)
        }
        Curve::Secp256k1 => {
            let key = k256::ecdsa::VerifyingKey::from_sec1_bytes(key.as_bytes()).map_err(|_| CheckFailed)?;
            let signature = k256::ecdsa::Signature::from_slice(signature).map_err(|_| CheckFailed)?;
            key.verify(input, &signature.normalize_s()).map_err(|_| CheckFailed)
        }
        Curve::X25519 | Curve::P384 | Curve::P521 => Err(CheckFailed),
    }
}
