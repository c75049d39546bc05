//! A token that has locked its PIN. The error has the command that sets a new one, and the command works.

use std::{fs, path::Path, process::Command};

use claviger::secrets::{
    Custodian, TokenError,
    pkcs11::{OpenOptions, Pin, PinSource, Profile},
};

use crate::support::{Module, with_fresh_token_and};

const WRONG: &str = "87654321";
const FIRST: &str = "first-pin-314";
const NEW: &str = "new-pin-2718";
const OFFICER: &str = "officer-pin-161";

/// Makes a Kryoptic token of its own in the folder, whose security officer's PIN is known. Returns its variable.
fn with_known_officer(folder: &Path) -> Vec<(String, String)> {
    let config = folder.join("officer.toml");
    let database = folder.join("officer.sql");
    fs::write(&config, format!("[[slots]]\nslot = 0\ndbtype = \"sqlite\"\ndbargs = {database:?}\n")).unwrap();
    let module = Module::Kryoptic.path().expect("the module of this test");
    for words in [
        &["--init-token", "--slot", "0", "--label", "demo", "--so-pin", OFFICER][..],
        &[
            "--init-pin",
            "--token-label",
            "demo",
            "--login",
            "--login-type",
            "so",
            "--so-pin",
            OFFICER,
            "--new-pin",
            FIRST,
        ],
    ] {
        let mut command = Command::new("pkcs11-tool");
        let output = command.env("KRYOPTIC_CONF", &config).arg("--module").arg(&module).args(words).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    vec![("KRYOPTIC_CONF".to_owned(), config.display().to_string())]
}

/// Kryoptic locks its PIN after some wrong ones. `pkcs11-tool` sets a new one, as the error says.
#[test]
fn the_error_of_a_locked_pin_has_the_command_that_sets_a_new_one() {
    with_fresh_token_and(Module::Kryoptic, with_known_officer, |fresh| {
        let uri = format!("pkcs11:token=demo?module-path={}", fresh.module.display());
        let open = |pin: &str| OpenOptions::new().pin(PinSource::value(Pin::new(pin))).pin_confirmed(true).open(&uri);
        assert_eq!(open(FIRST).expect("the first PIN is right").inventory().unwrap(), []);
        let message = (0..20).find_map(|_| match open(WRONG).err() {
            Some(TokenError::Pin(message)) if message.contains("is locked") => Some(message),
            Some(TokenError::Pin(_)) => None,
            other => panic!("{other:?}"),
        });
        let message = message.expect("the token locks its PIN");
        let command = message.split('`').nth(1).expect("a command");
        assert!(command.starts_with("pkcs11-tool --module "), "{message}");
        let output =
            Command::new("bash").args(["-c", &format!("{command} --so-pin {OFFICER} --new-pin {NEW}")]).output();
        let output = output.expect("bash runs");
        assert!(output.status.success(), "{output:?}");
        // In another process: this one's module does not see that the PIN is not locked any more.
        let mut command = Command::new("pkcs11-tool");
        command.arg("--module").arg(&fresh.module).args(["--token-label", "demo", "--login", "--pin", NEW, "-O"]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    });
}

/// docs/operations.md has the command for each device that has a profile.
#[test]
fn each_device_has_a_command_for_a_locked_pin() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/operations.md")).unwrap();
    for name in Profile::names(None).unwrap() {
        let profile = Profile::named(&name, None).unwrap();
        let row = format!("| {} (`hsm-config/{name}.md`) | {} |", profile.device(), profile.new_pin("MODULE", "LABEL"));
        assert!(page.contains(&row), "docs/operations.md lacks {row}");
    }
    let unknown = Profile::default().new_pin("/opt/a b/lib.so", "it's");
    assert!(unknown.contains(r"--module '/opt/a b/lib.so' --token-label 'it'\''s'"), "{unknown}");
}
