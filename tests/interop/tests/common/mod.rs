//! Alice and Bob of the specification's appendix, as `didcomm` peers.

// Each test program uses a part of this module.
#![allow(dead_code)]

use std::path::PathBuf;

use claviger_interop::Peer;
use claviger_interop::didcomm::Message;
use serde_json::{Value, json};

pub const ALICE: &str = "did:example:alice";
pub const BOB: &str = "did:example:bob";

pub fn alice() -> Peer {
    Peer::new(documents(), keys("alice"))
}

pub fn bob() -> Peer {
    Peer::new(documents(), keys("bob"))
}

pub fn documents() -> Vec<Value> {
    vec![vector("documents/alice.json"), vector("documents/bob.json")]
}

pub fn keys(of: &str) -> Vec<Value> {
    match vector(&format!("secrets/{of}.json")) {
        Value::Array(keys) => keys,
        other => panic!("secrets are an array, not {other}"),
    }
}

/// A file of `tests/vectors/didcomm-v2.1`.
pub fn vector(path: &str) -> Value {
    serde_json::from_str(&vector_text(path)).unwrap()
}

pub fn vector_text(path: &str) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../vectors/didcomm-v2.1");
    std::fs::read_to_string(root.join(path)).unwrap()
}

pub fn lunch() -> Message {
    Message::build(
        "lunch-1".to_owned(),
        "https://example.com/protocols/lets_do_lunch/1.0/proposal".to_owned(),
        json!({ "place": "the old mill" }),
    )
    .from(ALICE.to_owned())
    .to(BOB.to_owned())
    .finalize()
}
