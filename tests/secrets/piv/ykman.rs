//! ykman 5.9.2, Yubico's tool in Python, and Claviger use the same virtual YubiKey through the real pcscd: keys, metadata,
//! certificates, attestations, ECDH and signatures, in both directions.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use claviger::{
    keys::{Curve, PublicKey},
    secrets::{
        Custodian, HeldKey, KeyUse, NewKey, Origin, Purpose, SlotOptions, Token, TouchPolicy,
        pin::{Pin, PinSource},
        piv::{Attestation, OpenOptions, PcscReaders, YubiKey},
    },
};
use claviger_testkit::{
    PrivateKey,
    reference::{Parties, fresh_cek, message_to},
};
use claviger_virtual_yubikey::{
    Firmware, Touch, VirtualYubiKey,
    pcscd::{PORT, Pcscd, is_here, until},
    reader::ReaderConnection,
};
use p256::ecdsa::signature::Verifier;
use serde_json::{Value, json};

use super::pcscd_lock;

const PIN: &str = "123456";
const SERIAL: u32 = 5555;
/// The management key of the factory.
const MANAGEMENT_KEY: &str = "010203040506070801020304050607080102030405060708";

#[test]
fn ykman_and_claviger_use_the_same_keys() {
    let _alone = pcscd_lock();
    if !is_here() {
        return;
    }
    let ykman = Ykman::install();
    let _pcscd = Pcscd::start();
    for firmware in [Firmware::V5_4_3, Firmware::V5_7_1] {
        let card = VirtualYubiKey::new(firmware, SERIAL);
        let _reader = ReaderConnection::plug_in(&card, PORT);
        let curves: &[Curve] = match firmware {
            Firmware::V5_4_3 => &[Curve::P256, Curve::P384],
            _ => &[Curve::P256, Curve::P384, Curve::X25519, Curve::Ed25519],
        };
        let ours: Vec<HeldKey> = {
            let yubikey = open();
            curves.iter().map(|curve| make_key(&yubikey, *curve, TouchPolicy::Never)).collect()
        };
        ykman.uses(&ours, &card);
        if firmware == Firmware::V5_7_1 {
            claviger_uses_keys_of_ykman(&ykman, curves, &ours);
            touches_are_withheld_from_both(&ykman, &card);
            ykman.run(&["piv", "reset", "--force"]);
            assert!(open().inventory().unwrap().is_empty());
        }
    }
}

/// ykman's keys: one with a compressed certificate, the others without one.
fn claviger_uses_keys_of_ykman(ykman: &Ykman, curves: &[Curve], ours: &[HeldKey]) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (public, certificate) = (path("public.pem"), path("certificate.pem"));
    let secrets = ["--pin", PIN, "--management-key", MANAGEMENT_KEY];
    let run = |words: &[&str], more: &[&str]| ykman.run(&[words, &secrets, more].concat());
    run(&["piv", "keys", "generate"], &["--algorithm", "ECCP256", "9a", &public]);
    run(&["piv", "certificates", "generate"], &["--subject", "theirs", "9a", &public]);
    ykman.run(&["piv", "certificates", "export", "9a", &certificate]);
    run(&["piv", "certificates", "import"], &["--compress", "9a", &certificate]);
    let slots = (0x90..).map(|slot| format!("{slot:x}"));
    let commands = slots.zip(curves).map(|(slot, curve)| json!(["generate", slot, algorithm(*curve)])).collect();
    let generated = ykman.piv(commands);

    let yubikey = open();
    let found = yubikey.inventory().unwrap();
    assert_eq!(found.len(), ours.len() + 1 + generated.len());
    let labelled = found.iter().find(|held| held.slot.unwrap().number() == 0x9a).unwrap();
    assert_eq!((labelled.label.as_deref(), labelled.origin), (Some("theirs"), Origin::Generated));
    for public in &generated {
        assert!(found.iter().any(|held| *public == hex(held.public.as_bytes())), "{public}");
    }
    for held in found.iter().filter(|held| !ours.iter().any(|own| own.public == held.public)) {
        let key = &held.public;
        if signs(key.curve()) {
            assert!(is_signature_of(key, b"a message", &yubikey.sign(key, b"a message", &Purpose::KeyTest).unwrap()));
        }
        if let Some(sender) = peer_of(key.curve()) {
            let cek = fresh_cek();
            let message = message_to(key, Some(&sender), &cek, &Parties::example());
            assert_eq!(yubikey.unwrap_cek(key, &message, &Purpose::KeyTest).unwrap(), cek, "{key}");
        }
    }
}

/// A key that needs a touch refuses both programs if none comes.
fn touches_are_withheld_from_both(ykman: &Ykman, card: &VirtualYubiKey) {
    let held = make_key(&open(), Curve::P256, TouchPolicy::Always);
    let slot = held.slot.unwrap().to_string();
    let sign = || ykman.piv(vec![json!(["sign", slot, hex(b"a message")])]).remove(0);
    card.faults().touch_timeout(Duration::from_millis(300));
    card.faults().touch(Touch::Never);
    assert_eq!(sign(), json!({ "sw": "6982" }));
    let refused = open().sign(&held.public, b"a message", &Purpose::KeyTest).unwrap_err();
    assert!(refused.to_string().contains("touch"), "{refused}");
    card.faults().touch(Touch::After(Duration::ZERO));
    assert!(is_signature_of(&held.public, b"a message", &from_hex(sign().as_str().unwrap())));
}

/// ykman and its library, in a virtual environment of their own.
struct Ykman(PathBuf);

impl Ykman {
    /// # Panics
    /// If it cannot be installed.
    fn install() -> Self {
        let installed = Command::new(peers().join("install")).output().expect("the script runs");
        let said = String::from_utf8_lossy(&installed.stderr);
        assert!(installed.status.success(), "ykman cannot be installed: {said}");
        Self(String::from_utf8(installed.stdout).unwrap().trim_end().into())
    }

    /// Runs a command of ykman, and returns what it prints.
    fn run(&self, arguments: &[&str]) -> String {
        let serial = SERIAL.to_string();
        output(&self.0.join("bin/ykman"), &[&["--device", &serial], arguments].concat())
    }

    /// Runs commands of `piv.py`, and returns their results.
    fn piv(&self, commands: Vec<Value>) -> Vec<Value> {
        let (program, serial, commands) =
            (peers().join("piv.py"), SERIAL.to_string(), Value::from(commands).to_string());
        let arguments = [program.to_str().unwrap(), &serial, &commands];
        serde_json::from_str(&output(&self.0.join("bin/python"), &arguments)).unwrap()
    }

    /// It shows our keys with their metadata and certificates, and has the YubiKey attest them. Its library derives the Z
    /// that the peer derives, and makes signatures that verify.
    fn uses(&self, ours: &[HeldKey], card: &VirtualYubiKey) {
        let peers: Vec<Option<PrivateKey>> = ours.iter().map(|held| peer_of(held.public.curve())).collect();
        let mut commands = vec![json!(["keys"])];
        for (held, peer) in ours.iter().zip(&peers) {
            let slot = held.slot.unwrap().to_string();
            commands.push(json!(["attest", slot]));
            commands.extend(peer.iter().map(|peer| json!(["agree", slot, hex(peer.public().as_bytes())])));
            commands.extend(signs(held.public.curve()).then(|| json!(["sign", slot, hex(b"a message")])));
        }
        let mut results = self.piv(commands).into_iter();
        let read = results.next().unwrap();
        for (held, peer) in ours.iter().zip(&peers) {
            let (public, slot, key) = (&held.public, held.slot.unwrap(), hex(held.public.as_bytes()));
            let expected = json!({
                "algorithm": algorithm(public.curve()), "origin": "generated", "pin": "ONCE", "touch": "NEVER",
                "key": key, "certificate": { "subject": "CN=ours", "key": key },
            });
            assert_eq!(read[slot.to_string()], expected);
            let mut next = || results.next().unwrap();
            let chain: Vec<String> = serde_json::from_value(next()).unwrap();
            let chain: Vec<Vec<u8>> = chain.iter().map(|der| from_hex(der)).collect();
            let attested = Attestation::verify(&chain, &[card.attestation_root()]).unwrap();
            assert_eq!((&attested.public, attested.slot, attested.serial), (public, slot, Some(SERIAL)));
            if let Some(peer) = peer {
                assert_eq!(next(), hex(peer.agree(public).unwrap().as_bytes()), "{public}");
            }
            if signs(public.curve()) {
                assert!(is_signature_of(public, b"a message", &from_hex(next().as_str().unwrap())), "{public}");
            }
        }
    }
}

/// A key of a peer, on a curve with ECDH.
fn peer_of(curve: Curve) -> Option<PrivateKey> {
    (curve != Curve::Ed25519).then(|| PrivateKey::generate(curve))
}

/// Whether a YubiKey signs messages on a curve.
fn signs(curve: Curve) -> bool {
    matches!(curve, Curve::P256 | Curve::Ed25519)
}

fn peers() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/virtual-yubikey/peers"))
}

fn open() -> YubiKey {
    let uri = format!("yubikey:serial={SERIAL}");
    let open = || OpenOptions::new().pin(PinSource::value(Pin::new(PIN))).open(&uri, PcscReaders);
    let mut opened = None;
    until("the card is in its reader", || {
        opened = open().ok();
        opened.is_some()
    });
    opened.unwrap()
}

fn make_key(token: &YubiKey, curve: Curve, touch: TouchPolicy) -> HeldKey {
    let options = SlotOptions { touch: Some(touch), ..SlotOptions::default() };
    let key = NewKey { curve, usage: KeyUse::of(curve), label: Some("ours".into()) };
    token.generate_in_slot(&key, options).unwrap()
}

/// ykman's name of a curve.
fn algorithm(curve: Curve) -> &'static str {
    match curve {
        Curve::P256 => "ECCP256",
        Curve::P384 => "ECCP384",
        Curve::X25519 => "X25519",
        Curve::Ed25519 => "ED25519",
        other => panic!("a YubiKey has no {other}"),
    }
}

/// Whether a signature is right: Ed25519, or ECDSA with SHA-256 on P-256, as `r || s` or in DER.
fn is_signature_of(key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
    if key.curve() == Curve::Ed25519 {
        let key = ed25519_dalek::VerifyingKey::try_from(key.as_bytes()).unwrap();
        return key.verify_strict(message, &signature.try_into().unwrap()).is_ok();
    }
    let parsed = p256::ecdsa::Signature::from_slice(signature).or_else(|_| p256::ecdsa::Signature::from_der(signature));
    p256::ecdsa::VerifyingKey::from_sec1_bytes(key.as_bytes()).unwrap().verify(message, &parsed.unwrap()).is_ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// Runs a program that must succeed, and returns its stdout.
fn output(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{error}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{} {arguments:?}: {stdout}{stderr}", program.display());
    stdout.into_owned()
}
