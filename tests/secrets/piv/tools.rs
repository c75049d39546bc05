//! Other programs use keys that Claviger makes: yubico-piv-tool, OpenSC and Yubico's PKCS#11 module, through the
//! real pcscd.
//!
//! Debian 12 has version 2.2.0 of Yubico's tools, which supports neither curve 25519 nor the AES management key of
//! firmware 5.7. With it the test uses a card of firmware 5.4.3 only, and prints that.

use std::{fs, path::PathBuf, process::Command};

use base64::{Engine, engine::general_purpose::STANDARD};

use claviger::{
    keys::{Curve, PublicKey},
    secrets::{
        Custodian, KeyUse, NewKey, Purpose, SlotOptions, Token,
        pin::{Pin, PinSource},
        piv::{self, PcscReaders, YubiKey},
        pkcs11,
    },
};
use claviger_testkit::{
    PrivateKey,
    reference::{Parties, fresh_cek, message_to},
};
use claviger_virtual_yubikey::{
    Firmware, VirtualYubiKey,
    pcscd::{PORT, Pcscd, is_here, until},
    reader::ReaderConnection,
};

use super::pcscd_lock;

const PIN: &str = "123456";

/// SubjectPublicKeyInfo of a P-256 key (RFC 5480 section 2), without the 65 bytes of the point at its end.
const P256_KEY: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// The first version of Yubico's tools that supports firmware 5.7.
const NEW: (u32, u32) = (2, 5);

#[test]
fn other_programs() {
    let _alone = pcscd_lock();
    let Some(module) = tools().filter(|_| is_here()) else { return };
    let version = version(&run("yubico-piv-tool", &["--version"]));
    let mut firmwares = vec![Firmware::V5_4_3];
    if version >= NEW {
        firmwares.push(Firmware::V5_7_1);
    } else {
        println!("yubico-piv-tool {version:?} is too old for firmware 5.7: tested with 5.4.3 only");
    }
    let _pcscd = Pcscd::start();
    for firmware in firmwares {
        let card = VirtualYubiKey::new(firmware, 4444);
        let _reader = ReaderConnection::plug_in(&card, PORT);
        let yubikey = open();
        let p256 = make_key(&yubikey, Curve::P256, "9d");
        let p384 = make_key(&yubikey, Curve::P384, "82");
        // Not the next slot: OpenSC passes over those between.
        make_key(&yubikey, Curve::P256, "85");
        other_tools_read(&p256);
        ykcs11_derives_the_same_secrets(&module, &yubikey, &p256, &p384);
    }
}

/// Yubico's tool and OpenSC read the keys and their certificates.
fn other_tools_read(key: &PublicKey) {
    let status = run("yubico-piv-tool", &["-a", "status"]);
    for slot in ["Slot 9d:", "Slot 82:"] {
        let (_, slot_status) = status.split_once(slot).unwrap_or_else(|| panic!("{slot} {status}"));
        let lines: Vec<&str> = slot_status.lines().skip(1).take(2).map(str::trim).collect();
        assert!(lines[0].starts_with("Algorithm:\tECCP") && lines[1] == "Subject DN:\tCN=ours", "{status}");
    }
    assert!(status.contains("Serial Number:\t4444") && status.contains("PIN tries left:\t3"), "{status}");
    let certificate = pem(&run("yubico-piv-tool", &["-a", "read-certificate", "-s", "9d"]));
    assert!(certificate.windows(key.as_bytes().len()).any(|part| part == key.as_bytes()));

    assert!(run("opensc-tool", &["--name"]).contains("Personal Identity Verification Card"));
    let listed = run("pkcs15-tool", &["--list-public-keys"]);
    assert!(listed.contains("Public EC Key [KEY MAN pubkey]") && listed.contains("verify, derive"), "{listed}");
    // OpenSC finds the keys of retired slots through the Key History object. It counts the slots from 1.
    for slot in ["Retired KEY MAN 1", "Retired KEY MAN 4"] {
        assert!(listed.contains(slot), "{slot}: {listed}");
    }
    // OpenSC uses id 03 for slot 9d.
    assert!(pem(&run("pkcs15-tool", &["--read-public-key", "03"])).ends_with(key.as_bytes()));
}

/// Yubico's module derives the same secrets as Claviger with the same keys.
fn ykcs11_derives_the_same_secrets(module: &str, yubikey: &YubiKey, p256: &PublicKey, p384: &PublicKey) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    // ykcs11 2.2.0 reports a P-256 key as a signing key, so ECDH is called directly.
    let peer = PrivateKey::generate(Curve::P256);
    fs::write(path("peer"), [&P256_KEY, peer.public().as_bytes()].concat()).unwrap();
    let arguments = ["--module", module, "--login", "--pin", PIN, "--derive", "-m", "ECDH1-DERIVE", "--id", "03"];
    run("pkcs11-tool", &[&arguments[..], &["--input-file", &path("peer"), "--output-file", &path("z")]].concat());
    let z = fs::read(path("z")).unwrap();
    assert_eq!(z, peer.agree(p256).unwrap().as_bytes(), "ykcs11 and the peer derive the same Z");

    let options = pkcs11::OpenOptions::new().pin(PinSource::value(Pin::new(PIN)));
    let ykcs11 = options.open(&format!("pkcs11:?module-path={module}")).expect("ykcs11 opens");
    ykcs11.keys().expect("it shows the keys");
    for (key, tokens) in [(p384, &[&ykcs11 as &dyn Token, yubikey][..]), (p256, &[yubikey])] {
        let (cek, sender) = (fresh_cek(), PrivateKey::generate(key.curve()));
        let message = message_to(key, Some(&sender), &cek, &Parties::example());
        for token in tokens {
            assert_eq!(
                token.unwrap_cek(key, &message, &Purpose::KeyTest).unwrap(),
                cek,
                "{} by {}",
                key.curve(),
                token.name()
            );
        }
    }
}

/// The path of Yubico's module, if it and the tools are installed.
fn tools() -> Option<String> {
    let is_installed = |program: &str| Command::new(program).arg("--help").output().is_ok();
    let tools = ["yubico-piv-tool", "opensc-tool", "pkcs15-tool", "pkcs11-tool"].into_iter().all(is_installed);
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let module = folders.map(|folder| folder.path().join("libykcs11.so")).find(|path: &PathBuf| path.is_file());
    let module = module.filter(|_| tools).and_then(|path| path.to_str().map(str::to_owned));
    if module.is_none() {
        let missing = "missing: apt-get install yubico-piv-tool ykcs11 opensc";
        assert!(std::env::var_os("CLAVIGER_REQUIRE_TOKENS").is_none(), "{missing}");
        eprintln!("skipped: {missing}");
    }
    module
}

/// Major and minor version from "yubico-piv-tool 2.2.0".
fn version(output: &str) -> (u32, u32) {
    let numbers: Vec<u32> =
        output.trim().rsplit(' ').next().unwrap().split('.').filter_map(|number| number.parse().ok()).collect();
    (numbers[0], numbers[1])
}

/// The content of the only PEM block.
fn pem(output: &str) -> Vec<u8> {
    let lines = output.lines().skip_while(|line| !line.starts_with("-----BEGIN")).skip(1);
    let text: String = lines.take_while(|line| !line.starts_with("-----END")).collect();
    STANDARD.decode(text).unwrap_or_else(|error| panic!("{error}: {output}"))
}

fn open() -> YubiKey {
    let open = || piv::OpenOptions::new().pin(PinSource::value(Pin::new(PIN))).open("yubikey:serial=4444", PcscReaders);
    let mut opened = None;
    until("the card is in its reader", || {
        opened = open().ok();
        opened.is_some()
    });
    opened.unwrap()
}

fn make_key(token: &YubiKey, curve: Curve, slot: &str) -> PublicKey {
    let options = SlotOptions { slot: Some(slot.parse().unwrap()), ..SlotOptions::default() };
    token
        .generate_in_slot(&NewKey { curve, usage: KeyUse::of(curve), label: Some("ours".into()) }, options)
        .unwrap()
        .public
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    text
}
