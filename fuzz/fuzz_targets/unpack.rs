//! Unpacking as Bob of the specification's appendix, whose keys and messages are public.
//!
//! The input is tried unchanged; with the base64 parts of JOSE as JSON, so that the fuzzer can change them; and as the
//! content of envelopes with valid tags and signatures, which no mutation could produce.
#![no_main]

use std::{cell::LazyCell, str};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use claviger::{
    crypto::ContentEncryption,
    did::{Document, LocalResolver, Relationship},
    didcomm::{Identities, Message, UnpackOptions},
    jose::{self, Recipient},
    secrets::{Context, Keyring, Purpose, Token},
};
use claviger_testkit::SoftToken;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

macro_rules! vector {
    ($path:literal) => {
        serde_json::from_str::<Value>(include_str!(concat!("../../tests/vectors/didcomm-v2.1/", $path))).unwrap()
    };
}

const TO: &str = "did:example:bob#key-x25519-1";
const SKID: &str = "did:example:alice#key-x25519-1";
const SIGNER: &str = "did:example:alice#key-1";

struct World {
    runtime: Runtime,
    resolver: LocalResolver,
    alice: Identities,
    alices_token: SoftToken,
    bob: Identities,
}

thread_local! {
    static WORLD: LazyCell<World> = LazyCell::new(World::new);
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = str::from_utf8(bytes) else { return };
    WORLD.with(|world| {
        world.unpack(text);
        let Ok(value) = serde_json::from_str::<Value>(text) else { return };
        if let Some(encoded) = with_encoded_parts(&value) {
            world.unpack(&encoded.to_string());
        }
        if value.is_object() {
            world.unpack(&world.anoncrypt(text));
            world.unpack(&world.authcrypt(text));
            world.unpack(&world.signed(text));
        }
    });
});

impl World {
    fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        let documents = [vector!("documents/alice.json"), vector!("documents/bob.json")];
        let [alice, bob] = documents.map(|document| Document::from_value(document).unwrap());
        let identities = |name, secrets: Value, document: &Document| {
            let token = SoftToken::new(name);
            for secret in secrets.as_array().unwrap() {
                token.import_jwk(secret).unwrap();
            }
            let keyring = runtime.block_on(Keyring::start([token.clone()])).unwrap();
            let identities = runtime.block_on(Identities::new(keyring, [document.clone()])).unwrap();
            (token, identities)
        };
        let (alices_token, alices) = identities("alice", vector!("secrets/alice.json"), &alice);
        let (_, bobs) = identities("bob", vector!("secrets/bob.json"), &bob);
        let resolver = LocalResolver::new().with_documents([alice, bob]);
        Self { runtime, resolver, alice: alices, alices_token, bob: bobs }
    }

    fn unpack(&self, packed: &str) {
        let options = UnpackOptions::default();
        let unpacking = Message::unpack(packed, &self.resolver, &self.bob, &options);
        if let Ok((message, provenance)) = self.runtime.block_on(unpacking) {
            // Bob can resolve Alice only, so nobody else can be authenticated.
            assert!(!provenance.authenticated || message.from.as_deref() == Some("did:example:alice"));
            message.to_json();
        }
    }

    fn anoncrypt(&self, content: &str) -> String {
        let key = &self.bob.key(TO, Relationship::KeyAgreement).unwrap().key;
        jose::anoncrypt(content.as_bytes(), ContentEncryption::Xc20P, &[Recipient { kid: TO, key }]).unwrap()
    }

    fn authcrypt(&self, content: &str) -> String {
        let sender = &self.alice.key(SKID, Relationship::KeyAgreement).unwrap().key;
        let key = &self.bob.key(TO, Relationship::KeyAgreement).unwrap().key;
        let (to, cx) = ([Recipient { kid: TO, key }], Context::default());
        let packed = jose::authcrypt(content.as_bytes(), SKID, sender, &to, self.alice.secrets(), &cx);
        self.runtime.block_on(packed).unwrap()
    }

    fn signed(&self, content: &str) -> String {
        let key = &self.alice.key(SIGNER, Relationship::Authentication).unwrap().key;
        let (protected, payload) = (b64(r#"{"alg":"EdDSA"}"#), b64(content));
        let signature =
            self.alices_token.sign(key, format!("{protected}.{payload}").as_bytes(), &Purpose::KeyTest).unwrap();
        let signer = json!({"protected": protected, "signature": b64(signature), "header": {"kid": SIGNER}});
        json!({"payload": payload, "signatures": [signer]}).to_string()
    }
}

/// Encodes `protected` and `payload` of an envelope in base64, where they are JSON objects.
fn with_encoded_parts(value: &Value) -> Option<Value> {
    let mut folded = value.clone();
    let mut changed = false;
    for pointer in ["/protected", "/payload", "/signatures/0/protected"] {
        if let Some(part) = folded.pointer_mut(pointer).filter(|part| part.is_object()) {
            *part = b64(part.to_string()).into();
            changed = true;
        }
    }
    changed.then_some(folded)
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
