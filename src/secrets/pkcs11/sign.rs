//! EdDSA, ES256 and ES256K.

use cryptoki::{
    mechanism::{
        Mechanism,
        eddsa::{EddsaParams, EddsaSignatureScheme},
    },
    object::ObjectHandle,
    session::Session,
};
use sha2::{Digest, Sha256};

use super::ckr::{During, Outcome};
use crate::{
    keys::{PublicKey, SignatureAlgorithm},
    secrets::TokenError,
};

/// A signature of 64 bytes by the one algorithm that the key's curve has.
pub(super) fn sign(session: &Session, public: &PublicKey, private: ObjectHandle, input: &[u8]) -> Outcome<Vec<u8>> {
    let algorithm = public.curve().signature_algorithm();
    let signature = match algorithm {
        // The whole input goes to the token: Ed25519 has no prehash. Only `Pure` is sound in cryptoki 0.12: the other
        // schemes point to parameters that are gone by then.
        Some(SignatureAlgorithm::EdDsa) => {
            let mechanism = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure));
            session.sign(&mechanism, private, input).during("C_Sign")?
        }
        // SoftHSM 2.6.1 has no CKM_ECDSA_SHA256; every token that signs has CKM_ECDSA.
        Some(SignatureAlgorithm::Es256 | SignatureAlgorithm::Es256k) => {
            session.sign(&Mechanism::Ecdsa, private, &Sha256::digest(input)).during("C_Sign")?
        }
        None => return Err(TokenError::Unsupported(format!("{} does not sign", public.curve())).into()),
    };
    if signature.len() != SignatureAlgorithm::LENGTH {
        return Err(TokenError::KnownAnswer(format!("a signature of {} bytes", signature.len())).into());
    }
    match algorithm {
        Some(SignatureAlgorithm::Es256k) => low_s(&signature),
        _ => Ok(signature),
    }
}

/// Implementations of secp256k1 refuse a high s, and tokens write either.
fn low_s(signature: &[u8]) -> Outcome<Vec<u8>> {
    let signature = k256::ecdsa::Signature::from_slice(signature)
        .map_err(|_| TokenError::KnownAnswer("an ES256K signature out of range".into()))?;
    Ok(signature.normalize_s().to_vec())
}
