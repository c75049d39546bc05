//! Data Integrity proofs of did:webvh ("Authorized Keys"; W3C "Verifiable Credential Data Integrity" 1.0).

use serde_json::{Map, Value};

use super::{error::ProofFault, method_version::MethodVersion};
use crate::{
    crypto::{self, CRYPTOSUITE, proof_input},
    did::key,
    keys::{Curve, PublicKey},
};

/// A proof with valid members, whose signature is not verified yet.
pub(super) struct Proof {
    /// The multikey of the key that signed.
    pub multikey: String,
    key: PublicKey,
    options: Value,
    signature: Vec<u8>,
}

impl Proof {
    /// Reads a proof and checks its members. The proof must be by an Ed25519 key.
    pub fn read(proof: &Value, method: MethodVersion) -> Result<Self, ProofFault> {
        use ProofFault::Member;
        let mut options = proof.as_object().ok_or(ProofFault::Missing)?.clone();
        let require = |options: &Map<String, Value>, name: &'static str, value: &str| match options.get(name) {
            Some(found) if found == value => Ok(()),
            _ => Err(Member(name)),
        };
        require(&options, "type", "DataIntegrityProof")?;
        require(&options, "cryptosuite", CRYPTOSUITE)?;
        // Version 0.5 demands no purpose. Its implementations write one of these two.
        let has_older_purpose = || require(&options, "proofPurpose", "authentication").is_ok();
        if method >= MethodVersion::V1_0 || !has_older_purpose() {
            require(&options, "proofPurpose", "assertionMethod")?;
        }
        // A proof must have the `@context` of its document (section 3.3.2 of the cryptosuites), and a log
        // entry has none.
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

    /// Verifies the signature over the document with this hash.
    pub fn verify(&self, document_hash: &[u8; 32]) -> Result<(), ProofFault> {
        let input = proof_input(&self.options, document_hash);
        crypto::verify(&self.key, &input, &self.signature).map_err(|_| ProofFault::Signature)
    }
}

/// The key of a multikey. `None` if it is malformed or not canonical.
pub(super) fn key_of(multikey: &str) -> Option<PublicKey> {
    key::canonical(multikey).ok()
}

/// The multikey in the verification method of a did:key, whose fragment repeats the key. Nothing is resolved.
fn multikey(method: &str) -> Option<&str> {
    let (body, fragment) = method.strip_prefix("did:key:")?.split_once('#')?;
    (body == fragment).then_some(body)
}

fn signature_of(value: &str) -> Option<Vec<u8>> {
    let base58 = value.strip_prefix('z').filter(|base58| base58.len() <= 88)?;
    bs58::decode(base58).into_vec().ok().filter(|signature| signature.len() == 64)
}
