//! What happens with tokens and PINs.

use std::process::Stdio;

use crate::support::{Home, PIN, SO_PIN, plaintext, softhsm};

#[test]
fn a_wrong_pin_is_tried_once_and_then_not_until_a_person_vouches() {
    let Some(home) = Home::with_token() else { return };
    home.write("user.pin", "wrong");
    assert_eq!(home.run("--json key list").error(3), "pin-refused");
    home.write("user.pin", PIN);
    // SoftHSM says that a wrong PIN was given; the right one is not tried either.
    assert_eq!(home.run("--json key list").error(3), "pin-refused");
    let listed = home.run("--json token list").json();
    assert_eq!((&listed[0]["pin"], &listed[0]["keys"]), (&"count-low".into(), &serde_json::Value::Null));
    assert_eq!(listed[0]["error"]["code"], "pin-refused");
    home.run("token unlock soft").done();
    home.run("key list").done();
}

#[test]
fn an_absent_token_is_told_with_those_that_are_there() {
    let Some(home) = Home::with_token() else { return };
    let config = std::fs::read_to_string(home.path().join("claviger.toml")).unwrap();
    home.write("claviger.toml", &config.replace("token=soft", "token=lost"));
    let ran = home.run("--json key list");
    assert_eq!(ran.error(3), "token-absent");
    assert!(ran.stderr().contains("soft"), "{}", ran.stderr());
}

#[test]
fn a_token_with_keys_is_not_initialised_again() {
    let Some(home) = Home::with_token() else { return };
    home.run("key generate --token soft --alg X25519 --name mine").done();
    assert_eq!(home.run("--json token init soft --so-pin-source file:so.pin").error(1), "not-initialised");
    assert_eq!(
        home.run("--json token init soft --so-pin-source file:so.pin --erase other").error(1),
        "not-initialised"
    );
    assert_eq!(home.run("--json key list").json()[0]["name"], "mine");
    home.run("token init soft --so-pin-source file:so.pin --erase soft").done();
    assert_eq!(home.run("--json key list").json(), serde_json::json!([]));
}

#[test]
fn deleting_asks() {
    let Some(home) = Home::with_token() else { return };
    home.run("key generate --token soft --alg P-256 --name mine").done();
    for answer in ["", "n\n", "\n", "maybe\n"] {
        let ran = home.feed("key delete mine", answer);
        assert_eq!(ran.status(), 1, "{answer:?}");
        assert!(ran.stderr().contains("[y/N]"));
    }
    assert_eq!(home.run("--json key list").json().as_array().unwrap().len(), 1);
    home.feed("key delete mine", "y\n").done();
    assert_eq!(home.run("--json key list").json(), serde_json::json!([]));
}

#[test]
fn no_pin_is_ever_printed() {
    let Some(home) = Home::with_token() else { return };
    let did = home.did("--method peer:2 -vvv");
    let message = plaintext(Some(&did), Some(&did), "x");
    let mut said = String::new();
    let packed = home.feed(&format!("-vvv pack --sign-by {did} --from {did} --to {did}"), &message);
    for ran in [
        home.feed("-vvv unpack", packed.done()),
        home.run("-vvv token list"),
        home.run("-vvv token doctor soft --make-keys"),
        home.run("-vvv key list"),
        home.run("-vvv token init soft --so-pin-source file:so.pin --erase soft"),
        packed,
    ] {
        said += ran.stdout();
        said += ran.stderr();
    }
    // In the URI itself, which is warned of, and wrong.
    let config = std::fs::read_to_string(home.path().join("claviger.toml")).unwrap();
    let in_uri = |pin: &str| config.replace("pin-source=file:user.pin", &format!("pin-value={pin}"));
    for pin in [PIN, "another-p1n-of-4711"] {
        home.write("claviger.toml", &in_uri(pin));
        let ran = home.run("-vvv key list");
        assert!(ran.stderr().contains("pin-value"), "{}", ran.stderr());
        said += ran.stderr();
    }
    for pin in [PIN, SO_PIN, "4711"] {
        assert!(!said.contains(pin), "{said}");
    }
}

#[test]
fn the_doctor_says_what_each_algorithm_is_good_for() {
    let Some(home) = Home::with_token() else { return };
    let report = home.run("--json token doctor --make-keys soft").json();
    let verdicts: Vec<(&str, &str)> = report[0]["algorithms"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["algorithm"].as_str().unwrap(), it["verdict"].as_str().unwrap()))
        .collect();
    let expected = [
        ("X25519", "authcrypt"),
        ("P-256", "authcrypt"),
        ("P-384", "authcrypt"),
        ("P-521", "authcrypt"),
        ("Ed25519", "sign-only"),
        ("secp256k1", "sign-only"),
    ];
    assert_eq!(verdicts, expected);
    assert_eq!(home.run("--json key list").json(), serde_json::json!([]), "the keys of the test are gone");
    let uri = format!("pkcs11:token=soft?module-path={}&pin-source=file:user.pin", softhsm().unwrap().display());
    home.write("claviger.toml", "");
    assert_eq!(home.run(&format!("--json token doctor --uri {uri}")).json()[0]["token"]["label"], "soft");
}

#[test]
fn a_custody_below_the_minimum_is_refused_at_start() {
    let Some(home) = Home::with_token() else { return };
    let did = home.did("--method peer:2");
    home.configure(&softhsm().unwrap(), "minimum_custody = \"kek-in-token\"\n");
    let message = plaintext(Some(&did), Some(&did), "x");
    assert_eq!(home.feed(&format!("--json pack --from {did} --to {did}"), &message).error(1), "custody-too-low");
    home.configure(&softhsm().unwrap(), "minimum_custody = \"kek-in-process\"\nallow = [\"unwrap\"]\n");
    assert_eq!(home.feed(&format!("--json pack --from {did} --to {did}"), &message).error(1), "not-allowed");
    assert_eq!(home.feed(&format!("--json pack --sign-by {did}"), &message).error(1), "not-allowed");
}

/// A reader that goes away is no fault, and no panic.
#[test]
fn a_closed_pipe() {
    let home = Home::new();
    for words in [&["man"][..], &["completions", "bash"], &["--help"], &["demo"]] {
        if words == ["demo"] && softhsm().is_none() {
            continue;
        }
        let mut command = home.command(env!("CARGO_BIN_EXE_claviger"));
        command.args(words).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{words:?}");
    }
}

/// Two tokens: the one that does not hold the key is not opened once the key is found, and passed over if it is away.
#[test]
fn only_the_tokens_that_are_needed_are_opened() {
    let Some(home) = Home::with_token() else { return };
    let did = home.did("--method peer:2 --token soft");
    let module = softhsm().unwrap();
    let other = |name: &str| {
        let module = module.display();
        format!(
            "[[token]]\nname = {name:?}\nuri = \"pkcs11:token={name}?module-path={module}&pin-source=file:none.pin\"\n"
        )
    };
    let own = std::fs::read_to_string(home.path().join("claviger.toml")).unwrap();
    let (state, own) = own.split_at(own.find("[[token]]").unwrap());
    let message = plaintext(Some(&did), Some(&did), "x");
    for config in [format!("{state}{own}{}", other("behind")), format!("{state}{}{own}", other("before"))] {
        home.write("claviger.toml", &config);
        let packed = home.feed(&format!("pack --from {did} --sign-by {did} --to {did}"), &message);
        home.feed("unpack", packed.done()).json();
        assert_eq!(home.run("--json key list").error(3), "token-absent", "this needs them all");
        assert_eq!(home.run("--json key generate --alg P-256").error(2), "token-unnamed");
    }
}
