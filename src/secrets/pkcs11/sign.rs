//! Signing with EdDSA, ES256 and ES256K.

use cryptoki::{
    mechanism::{
        Mechanism,
        eddsa::{EddsaParams, EddsaSignatureScheme},
    },
    object::ObjectHandle,
    session::Session,
};
use sha2::{Digest, Sha256};

use super::ckr::{CallResult, During};
use crate::{
    keys::{PublicKey, SignatureAlgorithm},
    secrets::TokenError,
};

/// A signature of 64 bytes over `input`, with the algorithm of the key's curve.
pub(super) fn sign(session: &Session, public: &PublicKey, private: ObjectHandle, input: &[u8]) -> CallResult<Vec<u8>> {
    let algorithm = public.curve().signature_algorithm();
    let signature = match algorithm {
        // The whole input goes to the token, since Ed25519 has no prehash. Only `Pure` is memory-safe in cryptoki 0.12:
        // the other schemes point to parameters that are freed before the call.
        Some(SignatureAlgorithm::EdDsa) => {
            let mechanism = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure));
            session.sign(&mechanism, private, input).during("C_Sign")?
        }
        // The hash is computed here, and CKM_ECDSA signs it: SoftHSM 2.6.1 has no CKM_ECDSA_SHA256.
        Some(SignatureAlgorithm::Es256 | SignatureAlgorithm::Es256k) => {
            session.sign(&Mechanism::Ecdsa, private, &Sha256::digest(input)).during("C_Sign")?
        }
        None => return Err(TokenError::Unsupported(format!("{} keys do not sign", public.curve())).into()),
    };
    if signature.len() != SignatureAlgorithm::LENGTH {
        return Err(
            TokenError::KnownAnswer(format!("the token returned a signature of {} bytes", signature.len())).into()
        );
    }
    match algorithm {
        Some(SignatureAlgorithm::Es256k) => normalize_s(&signature),
        _ => Ok(signature),
    }
}

/// Normalises s to its low form: tokens return either form, and implementations of secp256k1 refuse a high s.
fn normalize_s(signature: &[u8]) -> CallResult<Vec<u8>> {
    let signature = k256::ecdsa::Signature::from_slice(signature)
        .map_err(|_| TokenError::KnownAnswer("the token returned an ES256K signature out of range".into()))?;
    Ok(signature.normalize_s().to_vec())
}
