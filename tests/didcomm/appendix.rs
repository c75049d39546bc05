//! The appendix of DIDComm Messaging v2.1: every message of `tests/vectors/didcomm-v2.1/index.json` has the layers, the
//! provenance and the plaintext that the index says.

use std::{fs, path::Path};

use crate::support::RecordingResolver;
use claviger::{
    did::{Document, Relationship},
    didcomm::{Error, Identities, Layer, Message, Provenance, UnpackOptions, Warning},
    secrets::Keyring,
};
use claviger_testkit::{Counts, SoftToken};
use serde_json::{Value, json};

// Conformance 6, 9, 34, 35, 36, 40, 41, 42, 48, 51; section 14.
#[tokio::test]
async fn every_message_has_the_expected_layers() {
    let resolver = resolver();
    let (token, bob) = bob(|_| true).await;
    for entry in index() {
        let before = token.counts();
        let (message, provenance) = unpack(&entry, &resolver, &bob, &UnpackOptions::default()).await.unwrap();
        let name = &entry["file"];
        assert_eq!(serde_json::to_value(&message).unwrap(), read(entry["plaintext"].as_str().unwrap()), "{name}");
        assert_eq!(proved(&provenance), entry["provenance"], "{name}");

        let expected = entry["layers"].as_array().unwrap();
        assert_eq!(provenance.layers.len(), expected.len(), "{name}");
        for (layer, expected) in provenance.layers.iter().zip(expected) {
            check_layer(layer, expected, &bob);
        }
        assert_eq!(token.counts() - before, cost(expected), "{name}");

        let stacked = match entry["envelope"].as_str().unwrap() {
            "allowed" => None,
            "discouraged" => Some(Warning::DiscouragedNesting),
            "forbidden" => Some(Warning::ForbiddenNesting),
            other => panic!("{name}: {other}"),
        };
        let nesting = [Warning::DiscouragedNesting, Warning::ForbiddenNesting];
        let warned = provenance.warnings.iter().copied().find(|warning| nesting.contains(warning));
        assert_eq!(warned, stacked, "{name}");
        assert!(provenance.warnings.contains(&Warning::Expired), "{name}: it expired in 2018");
    }
}

/// Each recipient can decrypt with its key alone, and each of Bob's nine keys is used.
#[tokio::test]
async fn every_recipient_can_decrypt_alone() {
    let resolver = resolver();
    let mut opened = 0;
    for entry in index() {
        let Some(recipients) = entry["layers"][0]["recipients"].as_array() else { continue };
        for kid in recipients {
            let (_, bob) = bob(|key| key == kid.as_str().unwrap()).await;
            let (_, provenance) = unpack(&entry, &resolver, &bob, &UnpackOptions::default()).await.unwrap();
            assert_eq!(&kid_of(&provenance.layers[0]), kid, "{}", entry["file"]);
            opened += 1;
        }
    }
    assert_eq!(opened, 3 + 2 + 2 + 3 + 2 + 2);
}

// Conformance 7, 8, 9.
#[tokio::test]
async fn strict_nesting_refuses_forbidden_layers() {
    let resolver = resolver();
    let (_, bob) = bob(|_| true).await;
    let strict = UnpackOptions { strict_nesting: true, ..Default::default() };
    for entry in index() {
        let opened = unpack(&entry, &resolver, &bob, &strict).await;
        match entry["envelope"].as_str().unwrap() {
            "allowed" => assert!(opened.is_ok(), "{}", entry["file"]),
            _ => assert!(matches!(opened, Err(Error::ForbiddenNesting { outer: "authcrypt", inner: "signed" }))),
        }
    }
}

/// Each secret of appendix A has its public key in a document of appendix B.
#[tokio::test]
async fn the_secrets_belong_to_the_documents() {
    let (token, bob) = bob(|_| true).await;
    assert_eq!(bob.documents().count(), 1);
    for secret in read("secrets/bob.json").as_array().unwrap() {
        let kid = secret["kid "].as_str().expect("the specification's name, with its space");
        assert!(bob.key(kid, Relationship::KeyAgreement).is_some(), "{kid}");
    }
    assert_eq!(token.counts(), Counts::default());

    let token = SoftToken::new("alice");
    for secret in read("secrets/alice.json").as_array().unwrap() {
        token.import_jwk(secret).unwrap();
    }
    crate::support::identities(&token, [document("alice")]).await;
}

async fn unpack(
    entry: &Value,
    resolver: &RecordingResolver,
    bob: &Identities,
    options: &UnpackOptions,
) -> Result<(Message, Provenance), Error> {
    let packed = fs::read_to_string(path(entry["file"].as_str().unwrap())).unwrap();
    Message::unpack(&packed, resolver, bob, options).await
}

fn check_layer(layer: &Layer, expected: &Value, bob: &Identities) {
    let shown = match layer {
        Layer::Anoncrypt { alg, enc, recipients, .. } => {
            json!({"kind": "anoncrypt", "alg": alg, "enc": enc, "recipients": recipients})
        }
        Layer::Authcrypt { alg, enc, recipients, skid, .. } => {
            json!({"kind": "authcrypt", "alg": alg, "enc": enc, "recipients": recipients, "skid": skid})
        }
        Layer::Signed { alg, kid, .. } => json!({"kind": "signed", "alg": alg, "kid": kid}),
        other => panic!("{other:?}"),
    };
    for (member, value) in shown.as_object().unwrap() {
        assert_eq!(value, &expected[member], "{member}");
    }
    if let Some(curve) = expected.get("curve") {
        let key = &bob.key(&kid_of(layer), Relationship::KeyAgreement).unwrap().key;
        assert_eq!(key.curve().name(), curve);
    }
}

fn kid_of(layer: &Layer) -> String {
    match layer {
        Layer::Anoncrypt { kid, .. } | Layer::Authcrypt { kid, .. } | Layer::Signed { kid, .. } => kid.clone(),
        other => panic!("{other:?}"),
    }
}

fn proved(provenance: &Provenance) -> Value {
    json!({
        "encrypted": provenance.encrypted,
        "authenticated": provenance.authenticated,
        "non_repudiable": provenance.non_repudiation,
        "sender_hidden": provenance.anonymous_sender,
    })
}

/// Anoncrypt costs one derivation, authcrypt two, and a signature none.
fn cost(layers: &[Value]) -> Counts {
    let count = |kind: &str| layers.iter().filter(|layer| layer["kind"] == kind).count() as u64;
    let (anoncrypt, authcrypt) = (count("anoncrypt"), count("authcrypt"));
    Counts { derivations: anoncrypt + 2 * authcrypt, unwraps: anoncrypt + authcrypt, ..Counts::default() }
}

/// Bob with some of his keys.
async fn bob(wanted: impl Fn(&str) -> bool) -> (SoftToken, Identities) {
    let token = SoftToken::new("bob");
    for secret in read("secrets/bob.json").as_array().unwrap() {
        if wanted(secret["kid "].as_str().unwrap()) {
            token.import_jwk(secret).unwrap();
        }
    }
    let keyring = Keyring::start([token.clone()]).await.unwrap();
    (token, Identities::with_missing_keys(keyring, [document("bob")]).0)
}

fn resolver() -> RecordingResolver {
    RecordingResolver::with([document("alice")])
}

fn document(name: &str) -> Document {
    Document::from_value(read(&format!("documents/{name}.json"))).unwrap()
}

fn index() -> Vec<Value> {
    let messages = read("index.json")["messages"].as_array().unwrap().clone();
    assert_eq!(messages.len(), 10);
    messages
}

fn read(file: &str) -> Value {
    serde_json::from_slice(&fs::read(path(file)).unwrap()).unwrap()
}

fn path(file: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/didcomm-v2.1").join(file)
}
