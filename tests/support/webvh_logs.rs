//! Makes valid and invalid logs of did:webvh.

use claviger::{
    crypto::{canonical_json, document_hash, proof_input},
    keys::{Curve, PublicKey},
};
use ed25519_dalek::{Signer, SigningKey};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A key that may sign entries.
pub fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

/// The public key as a multikey, as the parameters of a log contain it.
pub fn multikey(key: &SigningKey) -> String {
    PublicKey::from_bytes(Curve::Ed25519, key.verifying_key().as_bytes()).unwrap().to_multikey()
}

/// A multihash of SHA-256.
pub fn hash(text: &str) -> String {
    let mut multihash = vec![0x12, 32];
    multihash.extend_from_slice(&Sha256::digest(text));
    bs58::encode(multihash).into_string()
}

/// A proof over a document.
pub fn proof(document: &Value, key: &SigningKey) -> Value {
    proof_for(document, key, "assertionMethod")
}

/// A proof for this purpose.
pub fn proof_for(document: &Value, key: &SigningKey, purpose: &str) -> Value {
    let multikey = multikey(key);
    let mut proof = json!({
        "type": "DataIntegrityProof",
        "cryptosuite": "eddsa-jcs-2022",
        "verificationMethod": format!("did:key:{multikey}#{multikey}"),
        "created": "2024-01-01T00:00:00Z",
        "proofPurpose": purpose,
    });
    let signature = key.sign(&proof_input(&proof, &document_hash(document)));
    proof["proofValue"] = format!("z{}", bs58::encode(signature.to_bytes()).into_string()).into();
    proof
}

/// A log under construction.
#[derive(Clone)]
pub struct Log {
    pub scid: String,
    pub entries: Vec<Value>,
}

impl Log {
    /// A log whose first entry is signed by `signer`, for a host and optionally a path. `change` modifies the entry
    /// before it is hashed. At that time the entry has `{SCID}` in the place of the SCID.
    pub fn new(place: &str, signer: &SigningKey, change: impl FnOnce(&mut Value)) -> Self {
        let mut entry = json!({
            "versionId": "{SCID}",
            "versionTime": "2024-01-01T00:00:00Z",
            "parameters": { "scid": "{SCID}", "method": "did:webvh:1.0", "updateKeys": [multikey(signer)] },
            "state": { "@context": ["https://www.w3.org/ns/did/v1"], "id": format!("did:webvh:{{SCID}}:{place}") },
        });
        change(&mut entry);
        let scid = hash(&canonical_json(&entry));
        let entry = serde_json::from_str(&entry.to_string().replace("{SCID}", &scid)).unwrap();
        let mut log = Self { scid, entries: Vec::new() };
        log.push(entry, signer);
        log
    }

    /// Adds an entry that is equal to the last one, except for `change`.
    pub fn and(mut self, signer: &SigningKey, change: impl FnOnce(&mut Value)) -> Self {
        let mut entry = self.entries.last().unwrap().clone();
        entry.as_object_mut().unwrap().remove("proof");
        entry["versionTime"] = format!("2024-01-{:02}T00:00:00Z", 1 + self.entries.len()).into();
        entry["parameters"] = json!({});
        change(&mut entry);
        self.push(entry, signer);
        self
    }

    fn push(&mut self, mut entry: Value, signer: &SigningKey) {
        let previous = self.entries.last().map_or(self.scid.clone().into(), |last| last["versionId"].clone());
        entry["versionId"] = previous;
        entry["versionId"] = format!("{}-{}", self.entries.len() + 1, hash(&canonical_json(&entry))).into();
        entry["proof"] = json!([proof(&entry, signer)]);
        self.entries.push(entry);
    }

    /// Changes an entry after it was signed.
    pub fn but(mut self, number: usize, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.entries[number - 1]);
        self
    }

    /// The newest name of the DID.
    pub fn did(&self) -> String {
        self.entries.last().unwrap()["state"]["id"].as_str().unwrap().to_owned()
    }

    /// The id of a version, counted from 1.
    pub fn version(&self, number: usize) -> String {
        self.entries[number - 1]["versionId"].as_str().unwrap().to_owned()
    }

    pub fn text(&self) -> String {
        self.entries.iter().map(|entry| format!("{entry}\n")).collect()
    }
}
