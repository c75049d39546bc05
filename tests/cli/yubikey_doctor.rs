//! `claviger token doctor` on virtual YubiKeys behind the real pcscd.

use std::fs;

use claviger_virtual_yubikey::{
    Firmware, VirtualYubiKey,
    pcscd::{PORT, Pcscd, is_here, until},
    reader::ReaderConnection,
};
use serde_json::{Value, json};

use crate::{
    yubikey::{Desk, PIN, alone, change_pin, stderr_of},
    yubikey_report::problem,
};

const SERIAL: u32 = 12_345_678;

/// The members of a finding with this ID; empty if there is none.
fn finding(document: &Value, id: &str) -> Value {
    let findings = document["findings"].as_array().unwrap();
    findings.iter().find(|finding| finding["id"] == id).cloned().unwrap_or_default()
}

/// The report of the only token.
fn examined(desk: &Desk<'_>, words: &str) -> Value {
    let documents = desk.json(&format!("token doctor {words}"));
    assert_eq!(documents.as_array().unwrap().len(), 1);
    documents[0].clone()
}

#[test]
fn a_yubikey_is_measured_in_an_empty_slot_and_its_report_has_nothing_of_its_own() {
    let _alone = alone();
    if !is_here() {
        return;
    }
    for firmware in [Firmware::V5_7_1, Firmware::V5_4_3] {
        let folder = tempfile::tempdir().unwrap();
        let desk = Desk(folder.path());
        let _pcscd = Pcscd::start();
        let card = VirtualYubiKey::new(firmware, SERIAL);
        change_pin(&card);
        let reader = ReaderConnection::plug_in(&card, PORT);
        let token = format!("[[token]]\nname = \"desk\"\nuri = \"yubikey:serial={SERIAL}?pin-source=file:pin\"\n");
        fs::write(folder.path().join("pin"), PIN).unwrap();
        fs::write(folder.path().join("claviger.toml"), format!("state_dir = \"state\"\n{token}")).unwrap();
        until("the YubiKey is in its reader", || desk.json("token list")[0]["error"].is_null());
        desk.json("key generate --token desk --alg P-256 --name salary --slot 95");
        let keys = || desk.json("key list");
        let before = keys();
        is_measured(&desk, &card, firmware);
        assert_eq!(keys(), before);
        a_removed_yubikey_names_the_slot(&desk, &card, &reader);
        assert_eq!(keys(), before);
        assert_eq!((card.counts().wrong_pins, card.pin_tries_left()), (0, 3));
        let everything = fs::read_to_string(folder.path().join("output.log")).unwrap();
        assert!(!everything.contains(PIN));
    }
}

fn is_measured(desk: &Desk<'_>, card: &VirtualYubiKey, firmware: Firmware) {
    let (deletes, version) = match firmware {
        Firmware::V5_4_3 => (false, "5.4.3"),
        _ => (true, "5.7.1"),
    };
    // By itself the command makes no key: it needs no management key.
    let operations = card.counts().operations;
    let document = examined(desk, "");
    assert_eq!((&document["keys"], &document["slot"], &document["error"]), (&json!(1), &Value::Null, &Value::Null));
    assert_eq!((&document["token"]["firmware"], &document["form"]), (&json!(version), &json!("USB-A")));
    assert_eq!(document["pin"], json!({ "state": "ready", "tries": 3, "last_try": "accepted" }));
    assert_eq!(finding(&document, "not-measured")["level"], "note");
    assert!(document["algorithms"].is_null() && card.counts().operations > operations);
    let printed = desk.run("token doctor desk", "");
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(
        printed.contains("serial 12345678, firmware") && printed.ends_with("Nothing in the YubiKey was changed.\n")
    );

    // A slot that holds a key is never used.
    let refused = desk.run("--json token doctor desk --slot 95", "");
    assert_eq!(refused.status.code(), Some(2));
    let document: Value = serde_json::from_slice(&refused.stdout).unwrap();
    let reason = finding(&document[0], "not-measured");
    assert_eq!(reason["level"], "warning");
    assert!(reason["message"].as_str().unwrap().contains("slot 95 is not empty"), "{reason}");
    let refused = desk.run("token doctor desk --report device.json", "");
    assert!(stderr_of(&refused).contains("--yes writes it without asking"), "{}", stderr_of(&refused));
    // The management key is for throw-away keys only, and is not read without them.
    let refused = desk.run("token doctor desk --management-key file:none", "");
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr_of(&refused).contains("--report or --slot"), "{}", stderr_of(&refused));
    let path = desk.0.join("device.json");
    if !deletes {
        let refused = desk.run("token doctor desk --report device.json --yes", "");
        assert_eq!(refused.status.code(), Some(2));
        assert!(stderr_of(&refused).contains("firmware 5.4.3 cannot delete a key"), "{}", stderr_of(&refused));
    }
    assert!(!path.exists());

    let slot = if deletes { "" } else { "--slot 94" };
    let measured = examined(desk, &format!("desk --report device.json --yes {slot}"));
    assert_eq!((&measured["slot"], &measured["error"]), (&json!("94"), &Value::Null));
    let written = fs::read_to_string(&path).unwrap();
    let mut report: Value = serde_json::from_str(&written).unwrap();
    assert_eq!(report["yubikey"], json!({ "firmware": version, "form": "USB-A", "made_by_yubico": false }));
    assert_eq!(report["algorithms"], measured["algorithms"]);
    let verdicts: Vec<_> =
        report["algorithms"].as_array().unwrap().iter().map(|row| [&row["algorithm"], &row["verdict"]]).collect();
    assert!(verdicts.contains(&[&json!("P-256"), &json!("authcrypt")]));
    assert_eq!(verdicts.contains(&[&json!("Ed25519"), &json!("sign-only")]), deletes);
    assert_eq!(verdicts.len(), if deletes { 4 } else { 2 });
    assert_eq!(finding(&measured, "no-x25519").is_null(), deletes);
    assert_eq!(finding(&measured, "not-made-by-yubico")["level"], "warning");

    // It is a virtual card's report, and so it is not one of a device.
    let name = format!("yubikey-{version}");
    assert!(problem(&name, &report).unwrap().contains("virtual card"));
    report["yubikey"]["made_by_yubico"] = json!(true);
    assert_eq!(problem(&name, &report), None);
    for own in ["12345678", "salary", "desk", PIN, "state"] {
        let word = |text: &str| text.split(|letter: char| !letter.is_ascii_alphanumeric()).any(|it| it == own);
        assert!(!word(&written), "{own}: {written}");
    }
    // What the test of the folder refuses.
    assert!(problem("yubikey-5.7.2", &report).is_some());
    for (member, value) in [("serial", json!(1)), ("claviger", json!("12345678")), ("format", json!(2))] {
        let mut wrong = report.clone();
        wrong[member] = value;
        assert!(problem(&name, &wrong).is_some(), "{member}");
    }

    // What was found is printed even if the file cannot be written.
    let refused = desk.run("--json token doctor desk --slot 94 --report none/device.json --yes", "");
    assert_eq!(refused.status.code(), Some(1));
    let document: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!((&document[0]["slot"], &document[0]["error"]), (&json!("94"), &Value::Null));
    assert!(stderr_of(&refused).contains("none/device.json"), "{}", stderr_of(&refused));

    // Without a terminal, a person sees a table and the other results.
    let printed = desk.run("token doctor desk --slot 94", "");
    let printed = String::from_utf8(printed.stdout).unwrap();
    let last = match deletes {
        true => "Throw-away keys were made in slot 94, and deleted. Nothing else was changed.\n",
        false => {
            "Throw-away keys were made in slot 94, which keeps one that is marked as deleted. Nothing else was changed.\n"
        }
    };
    assert!(printed.ends_with(last), "{printed}");
    for words in ["ATTESTED", "PIN policies: never, once, always; touch policies: never, cached, always", "3052 bytes"]
    {
        assert!(printed.contains(words), "{words}: {printed}");
    }
}

/// The YubiKey is removed while it is measured.
fn a_removed_yubikey_names_the_slot(desk: &Desk<'_>, card: &VirtualYubiKey, reader: &ReaderConnection) {
    let apdus = card.counts().apdus;
    examined(desk, "desk --slot 94");
    let whole = card.counts().apdus - apdus;
    card.faults().unplug_after(whole / 2);
    let removed = std::thread::scope(|scope| {
        let doctor = scope.spawn(|| desk.run("--json token doctor desk --slot 94", ""));
        until("half of the test is done", || !card.faults().is_plugged_in());
        reader.unplug(true);
        doctor.join().unwrap()
    });
    reader.unplug(false);
    assert!(!removed.status.success());
    let document: Value = serde_json::from_slice(&removed.stdout).unwrap();
    assert_eq!(document[0]["token"]["serial"], SERIAL.to_string());
    let finding = finding(&document[0], "not-measured");
    assert!(finding["message"].as_str().unwrap().contains("slot 94 may keep one of them"), "{finding}");
    assert!(finding["hint"].as_str().unwrap().contains("`claviger key delete`"), "{finding}");
    until("the YubiKey is ready again", || desk.json("token list")[0]["error"].is_null());
    // The slot counts as empty.
    assert_eq!(examined(desk, "desk --slot 94")["slot"], "94");
}
