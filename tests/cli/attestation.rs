//! `claviger attestation verify`: what the receiver of an attestation is told.

use crate::home::Home;

fn vector(name: &str) -> String {
    let file = format!("{}/tests/vectors/attestation/{name}.pem", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(file).unwrap()
}

/// A folder with attestations: of a YubiKey, and of an authority of one's own with its root in another file.
fn home() -> Home {
    let home = Home::new();
    home.write("yubikey.pem", &vector("yubikey-5.4.3"));
    let own = vector("own-p384-sha256");
    let root = own.rfind("-----BEGIN").unwrap();
    home.write("own.pem", &own[..root]);
    home.write("root.pem", &own[root..]);
    home
}

#[test]
fn an_attestation_says_what_it_proves_and_what_it_does_not() {
    let home = home();
    let read = home.run("--json attestation verify yubikey.pem").json();
    let text = |member: &str| read[member].as_str().unwrap_or_default().to_owned();
    let members = ["algorithm", "serial", "firmware", "form", "slot", "pin_policy", "touch_policy", "root"];
    assert_eq!(
        members.map(text),
        ["P-384", "25515003", "5.4.3", "USB-C, FIPS", "9c", "always", "never", "Yubico PIV Root CA Serial 263751"]
    );
    assert!(read["made_in_device"] == true && read["root_is_yubicos"] == true && read["did"].is_null());
    let ids = |read: &serde_json::Value| -> Vec<String> {
        let limits = read["not_proved"].as_array().unwrap().iter();
        limits.map(|limit| limit["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&read), ["belonging", "possession", "person", "time", "side-channel", "shared-secret"]);

    let printed = home.run("attestation verify yubikey.pem").success().to_owned();
    for words in [
        "Proved, by Yubico's root certificate \"Yubico PIV Root CA Serial 263751\":",
        "was made in the YubiKey with the serial number 25515003 (firmware 5.4.3, USB-C, FIPS).",
        "Its use needs the PIN always and a touch never; these policies cannot be changed.",
        "Not proved:",
        "Whose key it is",
        "YSA-2024-03",
    ] {
        assert!(printed.contains(words), "{words}: {printed}");
    }
    // As `cat` joins two files whose last lines have no end; from standard input.
    let joined = home.run_with_stdin("--json attestation verify -", &vector("yubikey-5.4.3-crlf")).json();
    assert_eq!(joined["serial"], "28751259");

    let own = home.run("--json attestation verify own.pem --root root.pem").json();
    assert!(own["root_is_yubicos"] == false && own["firmware"] == "5.7.1");
    assert_eq!(ids(&own), ["yubikey", "belonging", "possession", "person", "time", "shared-secret"]);
    let own = home.run("attestation verify own.pem --root root.pem").success().to_owned();
    assert!(own.contains("Stated by the owner of the root certificate \"Example root, p384-sha256\""), "{own}");
}

#[test]
fn the_attested_key_is_compared_with_a_key_or_a_did() {
    let home = home();
    let verify = |more: &str| home.run(&format!("--json attestation verify yubikey.pem {more}"));
    let attested = verify("").json();
    let key = attested["key"].as_str().unwrap();
    let did = format!("did:key:{key}");
    for name in [key, attested["thumbprint"].as_str().unwrap(), &format!("{did}#{key}")] {
        let read = verify(&format!("--key {name}")).json();
        assert!(read["not_proved"].as_array().unwrap().iter().all(|limit| limit["id"] != "belonging"), "{name}");
    }
    let read = verify(&format!("--did {did}")).json();
    assert_eq!((read["did"].as_str(), read["other_methods"].as_array().unwrap().len()), (Some(&*did), 0));
    assert_eq!(read["methods"][0]["id"], format!("{did}#{key}"));
    let relationships = read["methods"][0]["relationships"].as_array().unwrap();
    assert!(relationships.contains(&"authentication".into()) && relationships.contains(&"keyAgreement".into()));

    // A document with the attested key and another one.
    let other = home.run("--json attestation verify own.pem --root root.pem").json();
    let other = other["key"].as_str().unwrap();
    let both = format!("did:peer:2.V{key}.E{other}");
    let read = verify(&format!("--did {both}")).json();
    assert_eq!(read["methods"][0]["relationships"], serde_json::json!(["authentication"]));
    assert_eq!(read["other_methods"], serde_json::json!([format!("{both}#key-2")]));
    let printed = home.run(&format!("attestation verify yubikey.pem --did {both}")).success().to_owned();
    assert!(
        printed.contains(&format!("The document of the DID has this key as {both}#key-1, for authentication.")),
        "{printed}"
    );
    assert!(printed.contains(&format!("Anything about the other keys of the DID: {both}#key-2.")), "{printed}");

    for named in [
        format!("--key {other}"),
        format!("--key did:key:{other}#{other}"),
        format!("--key {both}#key-2"),
        format!("--did did:key:{other}"),
        format!("--key {}", "A".repeat(43)),
    ] {
        assert_eq!(verify(&named).error(1), "attestation-refused", "{named}");
    }
    assert_eq!(verify("--key writing").error(2), "bad-key-name");
    assert_eq!(verify(&format!("--did {did}#{key}")).error(2), "bad-did");
    assert_eq!(verify(&format!("--did {did} --key {key}")).error(2), "bad-arguments");
    assert_eq!(verify("--did did:web:example.org --offline").error(1), "did-unavailable");
}

#[test]
fn hostile_files_are_refused_in_words() {
    let home = home();
    let own = vector("own-p384-sha256");
    let parts: Vec<_> = own.split_inclusive("-----END CERTIFICATE-----\n").collect();
    for (content, words) in [
        (String::new(), "the file has no certificate in PEM"),
        ("-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n".to_owned(), "is not well-formed PEM"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n".to_owned(), "is not well-formed PEM"),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(),
            "a certificate is not well-formed",
        ),
        ("x".repeat(2 * 1024 * 1024), "the file has more than 1 MiB"),
        (parts[0].repeat(400), "more than 10 certificates or 64 KiB"),
        ([parts[1], parts[0]].concat(), "the attestation of the key must come first"),
        (parts[0].to_owned(), "the issuer of a certificate is missing, or is no trusted root"),
        (parts[..2].concat().replacen('M', "N", 2), "error:"),
    ] {
        let output = home.run_with_stdin("attestation verify - --root root.pem", &content);
        assert!(output.status() == 1 && output.stderr().contains(words), "{words}: {}", output.stderr());
    }
    let untrusted = home.run("attestation verify own.pem").stderr().to_owned();
    assert!(untrusted.contains("no trusted root") && untrusted.contains("--root FILE"), "{untrusted}");
    assert_eq!(home.run("--json attestation verify nowhere.pem").error(1), "io");
    assert_eq!(home.run("--json attestation verify own.pem --root claviger").error(1), "io");
    home.write("no-root.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    assert_eq!(home.run("--json attestation verify own.pem --root no-root.pem").error(2), "bad-certificate");
}
