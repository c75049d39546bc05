//! Unpacks the messages of the appendix of DIDComm v2.1 with the command line. All private keys are in a SoftHSM token.

use std::{fs, path::PathBuf};

use serde_json::Value;

use crate::home::{Home, softhsm_module};

fn vectors() -> PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/didcomm-v2.1").into()
}

fn read(name: &str) -> Value {
    serde_json::from_slice(&fs::read(vectors().join(name)).unwrap()).unwrap()
}

/// A home whose token holds the keys of Alice and Bob, with their documents.
fn home() -> Option<Home> {
    let home = Home::with_token()?;
    let documents = vectors().join("documents");
    home.configure(&softhsm_module()?, &format!("[did]\ndocuments = [{:?}]\n", documents.display().to_string()));
    for name in ["alice", "bob"] {
        let file = vectors().join("secrets").join(format!("{name}.json"));
        let ran = home.run(&format!("--json key import --token soft --jwk {}", file.display()));
        let imported = ran.json();
        let keys = read(&format!("secrets/{name}.json"));
        assert_eq!(imported.as_array().unwrap().len(), keys.as_array().unwrap().len());
        for (imported, key) in imported.as_array().unwrap().iter().zip(keys.as_array().unwrap()) {
            assert_eq!(imported["origin"], "imported");
            // In Bob's keys, the member is named "kid ", with a trailing space.
            assert_eq!(imported["name"], *key.get("kid").or(key.get("kid ")).unwrap());
            assert_eq!(imported["jwk"]["x"], key["x"]);
        }
    }
    Some(home)
}

#[test]
fn each_message_of_the_appendix_unpacks_with_a_token() {
    let Some(home) = home() else { return };
    let index = read("index.json");
    let messages = index["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 10);
    for expected in messages {
        let file = expected["file"].as_str().unwrap();
        let packed = fs::read_to_string(vectors().join(file)).unwrap();
        let unpacked = home.run_with_stdin("unpack", &packed).json();

        assert_eq!(unpacked["message"], read(expected["plaintext"].as_str().unwrap()), "{file}");
        let provenance = &unpacked["provenance"];
        for (member, expected_member) in [
            ("encrypted", "encrypted"),
            ("authenticated", "authenticated"),
            ("anonymous_sender", "sender_hidden"),
            ("non_repudiation", "non_repudiable"),
        ] {
            assert_eq!(provenance[member], expected["provenance"][expected_member], "{file}: {member}");
        }
        assert_eq!(provenance["from_prior"], Value::Null, "{file}");
        let layers = provenance["layers"].as_array().unwrap();
        let expected_layers = expected["layers"].as_array().unwrap();
        assert_eq!(layers.len(), expected_layers.len(), "{file}");
        for (layer, expected_layer) in layers.iter().zip(expected_layers) {
            check_layer(file, layer, expected_layer);
        }
        let warned = |warning: &str| provenance["warnings"].as_array().unwrap().iter().any(|it| it == warning);
        assert_eq!(warned("discouraged-nesting"), expected["envelope"] == "discouraged", "{file}");
        assert_eq!(warned("forbidden-nesting"), expected["envelope"] == "forbidden", "{file}");
        assert!(!warned("not-addressed-to-us"), "{file}");
    }
}

fn check_layer(file: &str, layer: &Value, expected_layer: &Value) {
    assert_eq!(layer["envelope"], expected_layer["kind"], "{file}");
    for member in ["alg", "enc", "skid", "recipients"] {
        if let Some(value) = expected_layer.get(member) {
            assert_eq!(layer[member], *value, "{file}: {member}");
        }
    }
    if expected_layer["kind"] == "signed" {
        assert_eq!(layer["kid"], expected_layer["kid"], "{file}");
        return;
    }
    assert!(expected_layer["recipients"].as_array().unwrap().contains(&layer["kid"]), "{file}: {}", layer["kid"]);
    assert_eq!(layer["custody"], "kek-in-process", "{file}: SoftHSM 2.6.1 digests the shared secret itself");
}

#[test]
fn the_messages_unpack_as_lines_beside_a_malformed_one() {
    let Some(home) = home() else { return };
    let index = read("index.json");
    let mut lines = String::new();
    for message in index["messages"].as_array().unwrap() {
        lines += &format!("{}\n", read(message["file"].as_str().unwrap()));
    }
    let bad = lines.replacen('\n', "\n{\"ciphertext\":1}\n", 1);
    let ran = home.run_with_stdin("unpack --lines", &bad);
    assert_eq!(ran.status(), 1);
    let results: Vec<Value> = ran.stdout().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(results.len(), 11);
    for (index, result) in results.iter().enumerate() {
        if index == 1 {
            assert_eq!(result["error"]["code"], "envelope-malformed");
        } else {
            assert!(result["message"]["id"].is_string() && result["provenance"]["layers"].is_array(), "{result}");
        }
    }
    assert_eq!(home.run_with_stdin("unpack --lines", &lines).status(), 0);
}

#[test]
fn a_key_has_four_names_and_is_imported_once() {
    let Some(home) = home() else { return };
    let keys = home.run("--json key list").json();
    let named = |kid: &str| keys.as_array().unwrap().iter().find(|key| key["name"] == kid).unwrap().clone();
    let p384 = named("did:example:bob#key-p384-1");
    assert_eq!(p384["dids"], serde_json::json!(["did:example:bob#key-p384-1"]));
    assert_eq!((&p384["use"], &p384["algorithm"]), (&"agreement".into(), &"P-384".into()));

    let file = vectors().join("secrets/bob.json");
    assert_eq!(home.run(&format!("--json key import --jwk {}", file.display())).error(1), "not-imported");

    let delete = |name: &str| home.run(&format!("--json key delete --yes {name}")).json()["deleted"]["key"].clone();
    let p521 = named("did:example:bob#key-p521-1");
    let x25519 = named("did:example:bob#key-x25519-1");
    assert_eq!(delete("did:example:bob#key-p384-1"), p384["key"]);
    assert_eq!(delete(p521["key"].as_str().unwrap()), p521["key"]);
    assert_eq!(delete(x25519["thumbprint"].as_str().unwrap()), x25519["key"]);
    assert_eq!(home.run("--json key delete --yes did:example:bob#key-p384-1").error(1), "key-unknown");
    let left = home.run("--json key list").json();
    assert_eq!(left.as_array().unwrap().len(), keys.as_array().unwrap().len() - 3);
}
