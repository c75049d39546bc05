//! Data Integrity proofs, as did:webvh has them (its "Authorized Keys"; W3C "Verifiable Credential Data Integrity" 1.0).

use serde_json::{Map, Value};

use crate::{
    crypto::{self, CRYPTOSUITE, proof_input},
    did::key,
    keys::{Curve, PublicKey},
};

/// What is wrong with a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofFault {
    /// There is none.
    #[error("is missing")]
    Missing,
    /// There are more than are verified.
    #[error("is one of more than ten")]
    TooMany,
    /// A member is absent, or not what the method demands.
    #[error("has a {0} that did:webvh does not have")]
    Member(&'static str),
    /// Its key is none that may change the DID.
    #[error("is by a key that may not change the DID")]
    Key,
    /// Its signature is not that of its key.
    #[error("has a signature that is not its key's")]
    Signature,
}

/// A proof whose members were looked at, and whose signature was not.
pub(super) struct Proof {
    /// The multikey it names.
    pub multikey: String,
    key: PublicKey,
    options: Value,
    signature: Vec<u8>,
}

impl Proof {
    pub fn read(proof: &Value) -> Result<Self, ProofFault> {
        use ProofFault::Member;
        let mut options = proof.as_object().ok_or(ProofFault::Missing)?.clone();
        let is = |options: &Map<String, Value>, name: &'static str, value: &str| match options.get(name) {
            Some(found) if found == value => Ok(()),
            _ => Err(Member(name)),
        };
        is(&options, "type", "DataIntegrityProof")?;
        is(&options, "cryptosuite", CRYPTOSUITE)?;
        is(&options, "proofPurpose", "assertionMethod")?;
        // It would have to be the document's (section 3.3.2 of the cryptosuites), and a log entry has none.
        if options.contains_key("@context") {
            return Err(Member("@context"));
        }
        let multikey = options.get("verificationMethod").and_then(Value::as_str).and_then(multikey);
        let multikey = multikey.ok_or(Member("verificationMethod"))?.to_owned();
        let key = key_of(&multikey).filter(|key| key.curve() == Curve::Ed25519).ok_or(Member("verificationMethod"))?;
        let signature = options.shift_remove("proofValue");
        let signature =
            signature.as_ref().and_then(Value::as_str).and_then(signature_of).ok_or(Member("proofValue"))?;
        Ok(Self { multikey, key, options: options.into(), signature })
    }

    /// Whether it is its key's signature over the document with this hash.
    pub fn verify(&self, document_hash: &[u8; 32]) -> Result<(), ProofFault> {
        let input = proof_input(&self.options, document_hash);
        crypto::verify(&self.key, &input, &self.signature).map_err(|_| ProofFault::Signature)
    }
}

/// The key that a multikey is, if it is the one way to write it.
pub(super) fn key_of(multikey: &str) -> Option<PublicKey> {
    key::canonical(multikey).ok()
}

/// The multikey of a verification method: a did:key's only one, whose fragment is the key once more. Nothing is resolved.
fn multikey(method: &str) -> Option<&str> {
    let (body, fragment) = method.strip_prefix("did:key:")?.split_once('#')?;
    (body == fragment).then_some(body)
}

fn signature_of(value: &str) -> Option<Vec<u8>> {
    let base58 = value.strip_prefix('z').filter(|base58| base58.len() <= 88)?;
    bs58::decode(base58).into_vec().ok().filter(|signature| signature.len() == 64)
}
