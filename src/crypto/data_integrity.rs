//! The input of Data Integrity signatures with the cryptosuite eddsa-jcs-2022 (W3C "Data Integrity EdDSA Cryptosuites"
//! section 3.3).

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::canonical::canonical_json;

/// The cryptosuite's name in a proof.
pub const CRYPTOSUITE: &str = "eddsa-jcs-2022";

/// Returns a proof without `proofValue`, in the form that did:webvh demands. `multikey` is the signer's public key, and
/// `created` is a time in RFC 3339.
pub fn proof_options(multikey: &str, created: &str) -> Value {
    json!({
        "type": "DataIntegrityProof",
        "cryptosuite": CRYPTOSUITE,
        "verificationMethod": format!("did:key:{multikey}#{multikey}"),
        "created": created,
        "proofPurpose": "assertionMethod",
    })
}

/// The SHA-256 hash of a document's canonical JSON.
pub fn document_hash(document: &Value) -> [u8; 32] {
    Sha256::digest(canonical_json(document)).into()
}

/// The bytes to sign: the hash of the proof without `proofValue`, then the hash of the document (section 3.3.4).
pub fn proof_input(proof_without_value: &Value, document_hash: &[u8; 32]) -> [u8; 64] {
    let mut input = [0; 64];
    input[..32].copy_from_slice(&Sha256::digest(canonical_json(proof_without_value)));
    input[32..].copy_from_slice(document_hash);
    input
}
