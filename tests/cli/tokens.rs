//! Tokens, keys and PINs on the command line.

use std::{fs, os::unix::fs::symlink, process::Stdio};

use claviger_fault_module::Shim;
use serde_json::{Value, json};

use crate::home::{Home, PIN, SO_PIN, plaintext, softhsm_module};

#[test]
fn a_wrong_pin_is_tried_once_until_a_person_acts() {
    let Some(home) = Home::with_token() else { return };
    home.run("key list").success();
    home.write("user.pin", "wrong");
    for _ in 0..3 {
        assert_eq!(home.run("--json key list").error(3), "pin-refused");
    }
    let ran = home.run("--json token list");
    let listed = ran.json();
    assert_eq!((&listed[0]["pin"], &listed[0]["keys"]), (&"count-low".into(), &Value::Null));
    assert_eq!(listed[0]["error"]["code"], "pin-refused");
    assert_eq!(listed[0]["last_try"], "refused");
    assert!(ran.stderr().contains("THE PIN OF soft WAS REFUSED"), "{}", ran.stderr());
    assert!(home.run("token list").success().contains("REFUSED"));
    // A changed source is tried once, and so is a PIN that a person confirms with `token unlock`.
    home.write("user.pin", PIN);
    home.run("key list").success();
    assert_eq!(home.run("--json token list").json()[0]["last_try"], "accepted");
    home.write("user.pin", "wrong");
    assert_eq!(home.run("--json token unlock soft").error(3), "pin-refused");
    home.write("user.pin", PIN);
    home.run("token unlock soft").success();
    home.run("key list").success();
}

/// The name of a token may have blanks. The command that the error names can be pasted into a shell.
#[test]
fn the_command_of_an_error_works() {
    let Some(home) = Home::with_token() else { return };
    let config = fs::read_to_string(home.path().join("claviger.toml")).unwrap();
    home.write("claviger.toml", &config.replace("name = \"soft\"", "name = \"it's mine\""));
    home.write("user.pin", "wrong");
    let refused = home.run("--json key list");
    assert_eq!(refused.error(3), "pin-refused");
    let failure: Value = serde_json::from_str(refused.stderr().lines().last().unwrap()).unwrap();
    let message = failure["error"]["message"].as_str().unwrap();
    let command = message.split('`').nth(1).unwrap_or_else(|| panic!("no command: {message}"));
    home.write("user.pin", PIN);
    let output = home.command("sh").args(["-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_locked_token_is_not_used_until_it_is_unlocked() {
    let Some(home) = Home::with_token() else { return };
    home.run("key generate --token soft --alg X25519 --name mine").success();
    assert_eq!(home.run("--json token lock soft").json(), json!({ "locked": "soft" }));
    home.run("token lock soft").success();
    let ran = home.run("--json key list");
    assert_eq!(ran.error(3), "pin-refused");
    assert!(ran.stderr().contains("claviger token unlock soft"), "{}", ran.stderr());
    // A changed file does not undo `token lock`.
    home.write("user.pin", PIN);
    assert_eq!(home.run("--json key list").error(3), "pin-refused");
    let listed = home.run("token list");
    assert!(listed.success().contains("LOCKED-HERE") && listed.stderr().contains("claviger token unlock soft"));
    assert_eq!(home.run("--json token unlock soft").json(), json!({ "unlocked": "soft" }));
    assert_eq!(home.run("--json key list").json()[0]["name"], "mine");
    assert_eq!(home.run("--json token lock nobody").error(2), "token-unknown");
}

/// The list shows the attributes that the token reports, and the command warns of an imported key.
#[test]
fn key_list_shows_where_a_key_was_made() {
    let Some(home) = Home::with_token() else { return };
    home.run("key generate --token soft --alg P-256 --name made").success();
    let ran = home.run("--json key list");
    let key = &ran.json()[0];
    assert_eq!(
        (&key["origin"], &key["always_sensitive"], &key["never_extractable"]),
        (&"generated".into(), &true.into(), &true.into())
    );
    assert_eq!(ran.stderr(), "");
    // RFC 8037, appendix A.1.
    home.write(
        "key.jwk",
        r#"{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
            "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"brought"}"#,
    );
    home.run("key import --token soft --jwk key.jwk").success();
    let ran = home.run("--json key list");
    let keys = ran.json();
    let brought = keys.as_array().unwrap().iter().find(|key| key["name"] != "made").unwrap();
    assert_eq!(
        (&brought["origin"], &brought["always_sensitive"], &brought["never_extractable"]),
        (&"imported".into(), &false.into(), &false.into())
    );
    let warnings: Vec<_> = ran.stderr().lines().collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("existed outside the token") && !warnings[0].contains("made,"), "{warnings:?}");
}

#[test]
fn the_error_for_an_absent_token_names_the_present_ones() {
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
    home.run("key generate --token soft --alg X25519 --name mine").success();
    assert_eq!(home.run("--json token init soft --so-pin-source file:so.pin").error(1), "not-initialised");
    assert_eq!(
        home.run("--json token init soft --so-pin-source file:so.pin --erase other").error(1),
        "not-initialised"
    );
    assert_eq!(home.run("--json key list").json()[0]["name"], "mine");
    home.run("token init soft --so-pin-source file:so.pin --erase soft").success();
    assert_eq!(home.run("--json key list").json(), serde_json::json!([]));
}

#[test]
fn key_delete_asks_for_confirmation() {
    let Some(home) = Home::with_token() else { return };
    home.run("key generate --token soft --alg P-256 --name mine").success();
    for answer in ["", "n\n", "\n", "maybe\n"] {
        let ran = home.run_with_stdin("key delete mine", answer);
        assert_eq!(ran.status(), 1, "{answer:?}");
        assert!(ran.stderr().contains("[y/N]"));
    }
    assert_eq!(home.run("--json key list").json().as_array().unwrap().len(), 1);
    home.run_with_stdin("key delete mine", "y\n").success();
    assert_eq!(home.run("--json key list").json(), serde_json::json!([]));
}

#[test]
fn no_pin_is_printed() {
    let Some(home) = Home::with_token() else { return };
    let did = home.create_did("--method peer:2 -vvv");
    let message = plaintext(Some(&did), Some(&did), "x");
    let mut output = String::new();
    let packed = home.run_with_stdin(&format!("-vvv pack --sign-by {did} --from {did} --to {did}"), &message);
    for ran in [
        home.run_with_stdin("-vvv unpack", packed.success()),
        home.run("-vvv token list"),
        home.run("-vvv token doctor soft"),
        home.run("-vvv key list"),
        home.run("-vvv token init soft --so-pin-source file:so.pin --erase soft"),
        packed,
    ] {
        output += ran.stdout();
        output += ran.stderr();
    }
    // A PIN in the URI, which causes a warning: the correct one, and a wrong one.
    let config = std::fs::read_to_string(home.path().join("claviger.toml")).unwrap();
    let in_uri = |pin: &str| config.replace("pin-source=file:user.pin", &format!("pin-value={pin}"));
    for pin in [PIN, "another-p1n-of-4711"] {
        home.write("claviger.toml", &in_uri(pin));
        let ran = home.run("-vvv key list");
        assert!(ran.stderr().contains("pin-value"), "{}", ran.stderr());
        output += ran.stderr();
    }
    for pin in [PIN, SO_PIN, "4711"] {
        assert!(!output.contains(pin), "{output}");
    }
}

#[test]
fn a_custody_below_the_minimum_is_refused_at_start() {
    let Some(home) = Home::with_token() else { return };
    let did = home.create_did("--method peer:2");
    home.configure(&softhsm_module().unwrap(), "minimum_custody = \"kek-in-token\"\n");
    let message = plaintext(Some(&did), Some(&did), "x");
    assert_eq!(
        home.run_with_stdin(&format!("--json pack --from {did} --to {did}"), &message).error(1),
        "custody-too-low"
    );
    home.configure(&softhsm_module().unwrap(), "minimum_custody = \"kek-in-process\"\nallow = [\"unwrap\"]\n");
    assert_eq!(home.run_with_stdin(&format!("--json pack --from {did} --to {did}"), &message).error(1), "not-allowed");
    assert_eq!(home.run_with_stdin(&format!("--json pack --sign-by {did}"), &message).error(1), "not-allowed");
}

/// A reader that closes the pipe causes neither an error nor a panic.
#[test]
fn a_closed_stdout_is_no_failure() {
    let home = Home::new();
    for words in [&["man"][..], &["completions", "bash"], &["--help"], &["demo"]] {
        if words == ["demo"] && softhsm_module().is_none() {
            continue;
        }
        let mut command = home.command(&claviger_testkit::program!());
        command.args(words).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{words:?}");
    }
}

/// One of two tokens is absent and does not hold the key. It is not opened if the key was found before, and is
/// skipped otherwise.
#[test]
fn only_needed_tokens_are_opened() {
    let Some(home) = Home::with_token() else { return };
    let did = home.create_did("--method peer:2 --token soft");
    let module = softhsm_module().unwrap();
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
        let packed = home.run_with_stdin(&format!("pack --from {did} --sign-by {did} --to {did}"), &message);
        home.run_with_stdin("unpack", packed.success()).json();
        // `key list` needs all tokens: it lists the keys of the present one, and fails for the absent one.
        let ran = home.run("--json key list");
        let listed: Value = serde_json::from_str(ran.stdout()).unwrap();
        assert_eq!((ran.status(), listed.as_array().unwrap().len()), (3, 2));
        assert!(ran.stderr().lines().last().unwrap().contains("\"token-absent\""), "{}", ran.stderr());
        assert_eq!(home.run("--json key generate --alg P-256").error(2), "token-unnamed");
    }
}

/// A DID whose document cannot be stored is not made, and the keys that were made for it are deleted.
#[test]
fn keys_of_a_did_that_cannot_be_stored_are_deleted() {
    let Some(home) = Home::with_token() else { return };
    std::fs::create_dir_all(home.path().join("state")).unwrap();
    home.write("state/documents", "a file");
    assert_eq!(home.run("--json did create --method peer:2").error(1), "io");
    assert_eq!(home.run("--json key list").json(), serde_json::json!([]));
}

/// The list asks every module of the machine, also those that do not answer or crash. Here SoftHSM is one module, and the
/// shim stands at the path of another.
#[test]
fn a_module_that_hangs_or_crashes_is_left_out_of_the_list() {
    let Some(home) = Home::with_token() else { return };
    let folder = home.path().join("lib");
    fs::create_dir_all(folder.join("softhsm")).unwrap();
    symlink(Shim::module(), folder.join("softhsm/libsofthsm2.so")).unwrap();
    let list = |order: &str| {
        home.write("fault", order);
        let mut command = home.command("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
        command.arg(r#"mount --bind "$0" /usr/local/lib && exec "$@""#).arg(&folder).arg(claviger_testkit::program!());
        command.args(["--config", "none.toml", "--json", "token", "list"]);
        let output = command.env("CLAVIGER_FAULT_CONTROL", home.path().join("fault")).output().expect("util-linux");
        let err = String::from_utf8(output.stderr).unwrap();
        let rows: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {err}"));
        let rows = rows.as_array().unwrap().iter().filter(|row| row["label"] == "soft");
        (rows.map(|row| row["module"].as_str().unwrap().to_owned()).collect::<Vec<_>>(), err)
    };
    home.write("none.toml", "");
    let (modules, err) = list("");
    assert_eq!(modules.len(), 2, "{modules:?} {err}");
    let left_out = "the PKCS#11 module /usr/local/lib/softhsm/libsofthsm2.so is left out:";
    for (order, reason) in [
        ("hang C_GetTokenInfo", "it did not list its tokens within 10 s"),
        ("crash C_GetSlotList", "the process that asked it ended without its tokens (signal"),
    ] {
        let (modules, err) = list(order);
        assert_eq!(modules.len(), 1, "{modules:?} {err}");
        assert!(err.contains(&format!("{left_out} {reason}")), "{err}");
    }
    // The other way to see the tokens of a module.
    let module = softhsm_module().unwrap();
    assert!(
        home.run_args(&["token", "list", "--module", module.to_str().unwrap()], "").success().contains("token=soft")
    );
    assert_eq!(home.run("--json token list --module fault").error(2), "token-misconfigured");
}
