//! The command line with a YubiKey: a virtual one, behind the real pcscd.
#![cfg(all(feature = "cli", feature = "yubikey"))]

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use claviger_virtual_yubikey::{
    Firmware, VirtualYubiKey,
    pcscd::{PORT, Pcscd, is_here, until},
    reader::InReader,
};
use serde_json::Value;

const PIN: &str = "471108";
const MESSAGE: &str = r#"{"id":"1","type":"https://example.org/lunch/1.0/proposal","body":{"at":"noon"}}"#;

#[test]
fn a_desk() {
    if is_here() {
        at_the_desk();
    }
}

fn at_the_desk() {
    let folder = tempfile::tempdir().unwrap();
    let desk = Desk(folder.path());
    fs::write(folder.path().join("pin"), PIN).unwrap();
    let token = |name: &str, serial: u32| {
        format!("[[token]]\nname = \"{name}\"\nuri = \"yubikey:serial={serial}?pin-source=file:pin\"\n")
    };
    let configuration = format!("state_dir = \"state\"\n{}{}", token("desk", 1111), token("old", 2222));
    fs::write(folder.path().join("claviger.toml"), configuration).unwrap();

    // Without the service it is said what is missing, and what to do.
    let output = desk.run("key list --token desk", "");
    assert_eq!(output.status.code(), Some(3));
    assert!(said(&output).contains("install and start pcscd"), "{}", said(&output));

    let _pcscd = Pcscd::start();
    let cards = [(Firmware::V5_7_1, 1111), (Firmware::V5_4_3, 2222)].map(|(firmware, serial)| {
        let card = VirtualYubiKey::new(firmware, serial);
        change_pin(&card);
        card
    });
    let new = InReader::plug_in(&cards[0], PORT);
    let _old = InReader::plug_in(&cards[1], PORT + 1);
    until("both are in their readers", || {
        let rows = desk.json("token list");
        rows.as_array().unwrap().iter().all(|row| row["error"].is_null())
    });

    let rows = desk.json("token list");
    let told = |row: usize, member: &str| rows[row][member].clone();
    assert_eq!([told(0, "serial"), told(0, "firmware"), told(0, "pin")], ["1111", "5.7.1", "ready"]);
    assert_eq!([told(1, "serial"), told(1, "firmware"), told(1, "pin")], ["2222", "5.4.3", "ready"]);
    assert_eq!(rows[0]["keys"], 0);

    // Curve 25519 where the firmware has it, else P-256.
    for (name, agreement) in [("desk", "X25519"), ("old", "P-256")] {
        let made = desk.json(&format!("did create --method peer:2 --token {name}"));
        let did = made["did"].as_str().unwrap();
        let algorithms: Vec<&str> =
            made["keys"].as_array().unwrap().iter().filter_map(|key| key["algorithm"].as_str()).collect();
        assert!(algorithms.contains(&agreement), "{made}");
        let packed = desk.run(&format!("pack --to {did} --from {did}"), MESSAGE);
        assert!(packed.status.success(), "{}", said(&packed));
        let packed = String::from_utf8(packed.stdout).unwrap();
        let unpacked = desk.run("-vvv unpack", &packed);
        assert!(unpacked.status.success(), "{}", said(&unpacked));
        let unpacked: Value = serde_json::from_slice(&unpacked.stdout).unwrap();
        assert_eq!(unpacked["message"]["body"]["at"], "noon");
        assert_eq!(unpacked["provenance"]["authenticated"], true);
        assert_eq!(unpacked["provenance"]["layers"][0]["custody"], "shared-secret-in-process");
        if name == "old" {
            continue;
        }
        // Unplugged: which one is wanted is said, and the message waits with its owner.
        new.unplug(true);
        until("the reader is empty", || desk.run("key list --token desk", "").status.code() == Some(3));
        let waits = desk.run("unpack", &packed);
        assert_eq!(waits.status.code(), Some(3), "{}", said(&waits));
        assert!(said(&waits).contains("insert the YubiKey with serial 1111"), "{}", said(&waits));
        new.unplug(false);
        until("it is back", || desk.run("unpack", &packed).status.success());
        // Locked and unlocked, by way of the guard.
        assert!(desk.run("token lock desk", "").status.success());
        assert_eq!(desk.run("unpack", &packed).status.code(), Some(3));
        let unlocked = desk.run("token unlock desk", "");
        assert!(unlocked.status.success(), "{}", said(&unlocked));
        assert!(desk.run("unpack", &packed).status.success());
    }

    let error = desk.run("key generate --token old --alg X25519", "");
    assert!(said(&error).contains("firmware 5.4.3 has no X25519: use P-256"), "{}", said(&error));

    // A wrong PIN costs one try, however often it is asked for; nothing of it is said.
    cards[0].reset();
    fs::write(folder.path().join("pin"), "081547").unwrap();
    let before = cards[0].counts();
    for _ in 0..3 {
        let output = desk.run("-vvv key list --token desk", "");
        assert!(!said(&output).contains("081547"));
        let did = desk.run("-vvv unpack", "{}");
        assert!(!said(&did).contains("081547"));
    }
    let packed = desk.run("did create --method peer:2 --token desk", "");
    assert!(!said(&packed).contains("081547"));
    let after = cards[0].counts();
    assert_eq!((after.wrong_pins - before.wrong_pins, after.verifies - before.verifies), (1, 1));

    let everything = fs::read_to_string(folder.path().join("said")).unwrap();
    assert!(everything.len() > 1000 && !everything.contains(PIN) && !everything.contains("081547"));
}

/// A card whose PIN a person has chosen.
fn change_pin(card: &VirtualYubiKey) {
    card.transmit(&[0, 0xa4, 4, 0, 5, 0xa0, 0, 0, 3, 8]).unwrap();
    let mut change = vec![0, 0x24, 0, 0x80, 16];
    for pin in ["123456", PIN] {
        change.extend(pin.bytes().chain([0xff; 2]));
    }
    assert_eq!(card.transmit(&change).unwrap(), [0x90, 0x00]);
    card.reset();
}

/// A folder with a configuration.
struct Desk<'a>(&'a Path);

impl Desk<'_> {
    /// `claviger` with words that are separated by blanks. All that it says is kept.
    fn run(&self, words: &str, stdin: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_claviger"));
        command.env_clear().env("HOME", self.0).current_dir(self.0).args(words.split_whitespace());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // It may end without reading.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        let output = child.wait_with_output().unwrap();
        let mut said = fs::OpenOptions::new().append(true).create(true).open(self.0.join("said")).unwrap();
        said.write_all(&output.stdout).and_then(|()| said.write_all(&output.stderr)).unwrap();
        output
    }

    fn json(&self, words: &str) -> Value {
        let output = self.run(&format!("--json {words}"), "");
        assert!(output.status.success(), "{words}: {}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
