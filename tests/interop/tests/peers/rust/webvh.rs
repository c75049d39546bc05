//! didwebvh-rs.

use std::sync::Arc;

use didwebvh_rs::{Multibase, did_key::generate_did_key, prelude::*};
use serde_json::{Value, json};

use super::{text, wait};

/// The DID and its log.
pub fn create(request: &Value) -> Result<(String, String), String> {
    let update = generate_did_key(KeyType::Ed25519).unwrap().1;
    let parameters = Parameters {
        update_keys: Some(Arc::new(vec![Multibase::new(update.get_public_keymultibase().unwrap())])),
        ..Parameters::default()
    };
    let method = json!({
        "id": "{DID}#key-1",
        "type": "Multikey",
        "controller": "{DID}",
        "publicKeyMultibase": request["keys"]["X25519"]["multikey"],
    });
    let config = CreateDIDConfig::builder()
        .address("https://example.com:8443/a/b/")
        .authorization_key(update)
        .did_document(json!({ "@context": ["https://www.w3.org/ns/did/v1"], "id": "{DID}", "keyAgreement": [method] }))
        .parameters(parameters)
        .build()
        .map_err(|error| error.to_string())?;
    let created = wait(create_did(config)).map_err(|error| error.to_string())?;
    Ok((created.did().to_owned(), serde_json::to_string(created.log_entry()).unwrap()))
}

pub fn resolve(request: &Value) -> Result<Value, String> {
    let (did, log) = (text(request, "did"), text(request, "log"));
    let mut state = DIDWebVHState::default();
    let (entry, _) = wait(state.resolve_log_owned(did, log, None)).map_err(|error| error.to_string())?;
    Ok(entry.get_state().clone())
}
