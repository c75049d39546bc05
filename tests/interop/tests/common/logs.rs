//! Logs of did:webvh, signed and served in memory.

use async_trait::async_trait;
use claviger::{
    crypto::{document_hash, proof_input, proof_options},
    did::{Fetch, FetchError, FetchResponse, webvh::EntryDraft},
};
use claviger_testkit::PrivateKey;
use serde_json::Value;

/// A server with one log, at the only path that the tests use.
pub struct Has(pub String);

#[async_trait]
impl Fetch for Has {
    async fn fetch(&self, url: &str, _: &str, _: usize) -> Result<FetchResponse, FetchError> {
        assert_eq!(url, "https://example.com:8443/a/b/did.jsonl");
        Ok(FetchResponse { status: 200, body: self.0.clone().into_bytes() })
    }
}

/// The log line of a draft, signed in memory as a token would sign it.
pub fn signed(draft: EntryDraft, key: &PrivateKey) -> String {
    let entry: Value = serde_json::from_str(&draft.entry()).unwrap();
    let multikey = key.public().to_multikey();
    let proof = proof_options(&multikey, entry["versionTime"].as_str().unwrap());
    let signature = key.sign(&proof_input(&proof, &document_hash(&entry))).unwrap();
    draft.with_proof(&proof.to_string(), &signature).unwrap()
}
