//! The crate `yubikey` (iqlusioninc/yubikey.rs) and the program `claviger` use the same virtual YubiKeys through the real
//! pcscd: keys, metadata, certificates, attestations, ECDH and signatures, in both directions. The crate must be given the
//! PIN once each time it opens the card, and no PIN is refused.
//!
//! What the crate (0.9.0-rc.0) does in a way of its own:
//!
//! - Its self-signed certificate of an Ed25519 key is signed over SHA-512 of the certificate, which is no Ed25519 signature
//!   of it (RFC 8410). Claviger reads the certificate's name all the same, because a certificate in a slot proves nothing.
//! - `CertInfo::Gzip` sets the flag, and the certificate is written as it is. A compressed certificate is not read.
//! - `Key::list` has the keys that have a certificate, and shows those in the slots 9d and 84 again as the PIN and as the
//!   management key, whose "slots" are mapped to the same objects.
//! - A handle that is dropped resets the card, which then forgets its PIN.

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
    str::FromStr,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use claviger::{
    crypto::verify,
    keys::{Curve, PublicKey},
};
use claviger_interop::daemon::program;
use claviger_testkit::PrivateKey;
use claviger_virtual_yubikey::{
    Firmware, VirtualYubiKey,
    pcscd::{PORT, Pcscd, is_here, until},
    reader::ReaderConnection,
};
use ed25519_dalek::SigningKey;
use p256::{NistP256, ecdsa::Signature};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use x509_cert::{der::Encode, name::Name, serial_number::SerialNumber, time::Validity};
use yubikey::{
    Certificate, MgmKey, PinPolicy, Serial, TouchPolicy, YubiKey,
    certificate::{CertInfo, yubikey_signer::KeyType},
    piv::{self, AlgorithmId, Origin, RetiredSlotId, SlotAlgorithmId, SlotId},
};

const SERIAL: u32 = 5555;
const PIN: &str = "471108";
const PLAINTEXT: &str = r#"{"id":"1","type":"https://example.org/lunch/1.0/proposal","body":{"at":"noon"}}"#;

#[test]
fn the_crate_yubikey_and_claviger_use_the_same_keys() {
    if !is_here() {
        return;
    }
    let _pcscd = Pcscd::start();
    for firmware in [Firmware::V5_4_3, Firmware::V5_7_1] {
        let card = VirtualYubiKey::new(firmware, SERIAL);
        let _reader = ReaderConnection::plug_in(&card, PORT);
        let curves: &[Curve] = match firmware {
            Firmware::V5_4_3 => &[Curve::P256, Curve::P384],
            _ => &[Curve::P256, Curve::P384, Curve::X25519, Curve::Ed25519],
        };
        until("the card is in its reader", || YubiKey::open_by_serial(Serial(SERIAL)).is_ok());
        open().change_pin(b"123456", PIN.as_bytes()).unwrap();
        let desk = Desk::new(&card);
        let ours: Vec<Made> = curves.iter().map(|curve| desk.generate(*curve)).collect();
        the_crate_uses_ours(&card, &desk, &ours);
        claviger_uses_theirs(&card, &desk, &ours, curves);
        both_use_the_card_at_once(&card, &desk, &ours[0]);
        assert_eq!((card.counts().wrong_pins, card.pin_tries_left()), (0, 3));
    }
}

/// The crate shows our keys with their metadata and certificates, and has the card attest them. It derives the Z that the
/// peer derives, and makes signatures that verify.
fn the_crate_uses_ours(card: &VirtualYubiKey, desk: &Desk, ours: &[Made]) {
    let mut yubikey = open();
    let listed = piv::Key::list(&mut yubikey).unwrap();
    let slots = listed.iter().map(piv::Key::slot).filter(|slot| !matches!(slot, SlotId::Management(_)));
    let expected = [SlotId::Attestation].into_iter().chain(ours.iter().map(|made| made.slot));
    assert_eq!(slots.collect::<Vec<_>>(), expected.collect::<Vec<_>>());

    let verifies = card.counts().verifies;
    yubikey.verify_pin(PIN.as_bytes()).unwrap();
    for Made { name, public, slot } in ours {
        let (slot, curve, algorithm) = (*slot, public.curve(), algorithm(public.curve()));
        let metadata = piv::metadata(&mut yubikey, slot).unwrap();
        assert!(matches!(metadata.algorithm, SlotAlgorithmId::Asymmetric(it) if it == algorithm), "{metadata:?}");
        assert_eq!(metadata.policy, Some((PinPolicy::Once, TouchPolicy::Never)));
        assert_eq!(metadata.origin, Some(Origin::Generated));
        assert_eq!(metadata.public.unwrap().subject_public_key.raw_bytes(), public.as_bytes());
        let certificate = Certificate::read(&mut yubikey, slot).unwrap();
        assert_eq!(certificate.subject(), format!("CN={name}"));
        assert_eq!(certificate.subject_pki().subject_public_key.raw_bytes(), public.as_bytes());

        let chain = [piv::attest(&mut yubikey, slot).unwrap().to_vec(), attestation_certificate(&mut yubikey)];
        assert_eq!(desk.verify_attestation(&chain)["key"], public.to_multikey());

        if agrees(curve) {
            let peer = PrivateKey::generate(curve);
            let z = piv::decrypt_data(&mut yubikey, peer.public().as_bytes(), algorithm, slot).unwrap();
            assert_eq!(*z, peer.agree(public).unwrap().as_bytes(), "{public}");
        }
        if matches!(curve, Curve::P256 | Curve::Ed25519) {
            verify(public, b"a message", &sign(&mut yubikey, curve, slot)).unwrap();
        }
    }
    assert_eq!(card.counts().verifies, verifies + 1);
}

/// The crate generates and imports a key on each curve, and makes a certificate for one and a broken one for another.
/// Claviger lists them with their origin, has the generated ones attested, and uses them in a DID.
fn claviger_uses_theirs(card: &VirtualYubiKey, desk: &Desk, ours: &[Made], curves: &[Curve]) {
    let mut theirs: Vec<(PublicKey, Origin)> = Vec::new();
    {
        let mut yubikey = open();
        let management_key = MgmKey::get_default(&yubikey).unwrap();
        yubikey.authenticate(&management_key).unwrap();
        yubikey.verify_pin(PIN.as_bytes()).unwrap();
        let labelled = generate(&mut yubikey, SlotId::Authentication, Curve::P256, PinPolicy::Default);
        assert!(certify::<NistP256>(&mut yubikey, SlotId::Authentication, &labelled));
        // It needs the PIN for each use.
        let consenting = generate(&mut yubikey, SlotId::Signature, Curve::P256, PinPolicy::Default);
        theirs.extend([labelled, consenting].map(|public| (public, Origin::Generated)));
        for (slot, curve) in (0x8a..).step_by(2).zip(curves) {
            let generated = generate(&mut yubikey, retired(slot), *curve, PinPolicy::Once);
            if *curve == Curve::Ed25519 {
                assert!(!certify::<SigningKey>(&mut yubikey, retired(slot), &generated), "its signature is valid now");
            }
            theirs.push((generated, Origin::Generated));
            let key = PrivateKey::generate(*curve);
            import(&mut yubikey, retired(slot + 1), &key);
            theirs.push((key.public().clone(), Origin::Imported));
        }
        // The crate says that this certificate is compressed, and does not compress it.
        let certificate = Certificate::read(&mut yubikey, SlotId::Authentication).unwrap();
        certificate.write(&mut yubikey, retired(0x8a), CertInfo::Gzip).unwrap();
    }

    let rows = desk.json(&["key", "list"]);
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), ours.len() + theirs.len());
    for (public, origin) in &theirs {
        let key = public.to_multikey();
        let row = rows.iter().find(|row| row["key"] == key).unwrap_or_else(|| panic!("{key}: {rows:?}"));
        assert_eq!(row["origin"], format!("{origin:?}").to_lowercase());
        let has_name = row["slot"] == "9a" || (public.curve(), *origin) == (Curve::Ed25519, Origin::Generated);
        assert_eq!(row["name"], if has_name { "theirs".into() } else { Value::Null });
        let attested = desk.run(&["--json", "key", "attest", &key, "--root", "root.pem"], "");
        match origin {
            Origin::Generated => assert_eq!(attested.json()["key"], key),
            Origin::Imported => assert!(!attested.succeeded, "an imported key was attested"),
        }
    }

    let (mut create, mut kids) = (vec!["did", "create", "--method", "peer:2"], Vec::new());
    let multikeys: Vec<_> = theirs.iter().map(|(public, _)| (public.curve(), public.to_multikey())).collect();
    let (agree, sign): (Vec<_>, Vec<_>) = multikeys.iter().partition(|(curve, _)| agrees(*curve));
    // The keys in 9a and 9c sign, although P-256 keys of unknown use do both.
    let (sign, agree) = ([&agree[..2], &sign].concat(), &agree[2..]);
    for (option, keys) in [("--agreement", agree), ("--authentication", &sign)] {
        create.extend(keys.iter().flat_map(|(_, key)| [option, key]));
    }
    let made = desk.json(&create);
    let did = made["did"].as_str().unwrap();
    for relationship in ["keyAgreement", "authentication"] {
        for id in made["document"][relationship].as_array().unwrap() {
            let id = id.as_str().unwrap();
            let kid = if id.starts_with('#') { format!("{did}{id}") } else { id.to_owned() };
            kids.push((relationship, kid));
        }
    }
    assert_eq!(kids.len(), theirs.len());
    for (relationship, kid) in &kids {
        let packed = match *relationship {
            "keyAgreement" => desk.run(&["pack", "--to", kid, "--from", kid], PLAINTEXT).stdout(),
            _ => desk.run(&["pack", "--sign-by", kid], PLAINTEXT).stdout(),
        };
        let verifies = card.counts().verifies;
        let unpacked = desk.run(&["unpack"], &packed).json();
        assert_eq!((&unpacked["message"]["body"]["at"], &unpacked["message"]["from"]), (&"noon".into(), &did.into()));
        assert!(card.counts().verifies <= verifies + 1, "{kid}");
    }
}

/// While the crate holds the card and has verified the PIN, `claviger` uses it with no PIN or its own, and leaves it as it
/// is: the crate then signs without another VERIFY.
fn both_use_the_card_at_once(card: &VirtualYubiKey, desk: &Desk, ours: &Made) {
    let mut yubikey = open();
    yubikey.verify_pin(PIN.as_bytes()).unwrap();
    let did =
        desk.json(&["did", "create", "--method", "key", "--agreement", &ours.name, "--authentication", &ours.name]);
    let did = did["did"].as_str().unwrap();
    let packed = desk.run(&["pack", "--to", did, "--from", did], PLAINTEXT).stdout();
    assert_eq!(desk.run(&["unpack"], &packed).json()["provenance"]["authenticated"], true);
    let verifies = card.counts().verifies;
    verify(&ours.public, b"a message", &sign(&mut yubikey, Curve::P256, ours.slot)).unwrap();
    assert_eq!(card.counts().verifies, verifies);
}

/// A key that Claviger made.
struct Made {
    name: String,
    public: PublicKey,
    slot: SlotId,
}

/// The program `claviger` in a folder with a configuration for the YubiKey.
struct Desk {
    program: PathBuf,
    folder: TempDir,
}

impl Desk {
    fn new(card: &VirtualYubiKey) -> Self {
        let desk = Self { program: program(false), folder: tempfile::tempdir().unwrap() };
        let token = format!("[[token]]\nname = \"desk\"\nuri = \"yubikey:serial={SERIAL}?pin-source=file:pin\"\n");
        desk.write("claviger.toml", &format!("state_dir = \"state\"\n{token}"));
        desk.write("pin", PIN);
        desk.write("root.pem", &pem(&card.attestation_root()));
        desk
    }

    fn generate(&self, curve: Curve) -> Made {
        let name = format!("ours {curve}");
        let made = self.json(&["key", "generate", "--token", "desk", "--alg", curve.name(), "--name", &name]);
        let text = |member: &str| made[member].as_str().unwrap();
        let slot = u8::from_str_radix(text("slot"), 16).unwrap();
        Made { public: PublicKey::from_multikey(text("key")).unwrap(), slot: slot.try_into().unwrap(), name }
    }

    fn verify_attestation(&self, chain: &[Vec<u8>]) -> Value {
        self.write("chain.pem", &chain.iter().map(|der| pem(der)).collect::<String>());
        self.json(&["attestation", "verify", "chain.pem", "--root", "root.pem"])
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.folder.path().join(name), content).unwrap();
    }

    fn run(&self, arguments: &[&str], stdin: &str) -> Ran {
        let mut command = Command::new(&self.program);
        command.args(arguments).env_clear().env("HOME", self.folder.path()).current_dir(self.folder.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A command may end without reading stdin.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        let output = child.wait_with_output().unwrap();
        let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert!(!stdout.contains(PIN) && !stderr.contains(PIN), "{arguments:?} prints the PIN");
        Ran { succeeded: output.status.success(), stdout, stderr: format!("{arguments:?}: {stderr}") }
    }

    fn json(&self, arguments: &[&str]) -> Value {
        self.run(&[&["--json"], arguments].concat(), "").json()
    }
}

struct Ran {
    succeeded: bool,
    stdout: String,
    stderr: String,
}

impl Ran {
    #[track_caller]
    fn stdout(self) -> String {
        assert!(self.succeeded, "{}", self.stderr);
        self.stdout
    }

    #[track_caller]
    fn json(self) -> Value {
        serde_json::from_str(&self.stdout()).unwrap()
    }
}

fn open() -> YubiKey {
    YubiKey::open_by_serial(Serial(SERIAL)).unwrap()
}

fn retired(slot: u8) -> SlotId {
    SlotId::Retired(RetiredSlotId::try_from(slot).unwrap())
}

fn generate(yubikey: &mut YubiKey, slot: SlotId, curve: Curve, pin: PinPolicy) -> PublicKey {
    let made = piv::generate(yubikey, slot, algorithm(curve), pin, TouchPolicy::Never).unwrap();
    PublicKey::from_bytes(curve, made.subject_public_key.raw_bytes()).unwrap()
}

fn import(yubikey: &mut YubiKey, slot: SlotId, key: &PrivateKey) {
    let (curve, bytes) = (key.public().curve(), key.to_bytes());
    let algorithm = algorithm(curve);
    match curve {
        Curve::P256 | Curve::P384 => {
            piv::import_ecc_key(yubikey, slot, algorithm, &bytes, TouchPolicy::Never, PinPolicy::Once)
        }
        _ => piv::import_cv_key(yubikey, slot, algorithm, &bytes, TouchPolicy::Never, PinPolicy::Once),
    }
    .unwrap();
}

/// Has the crate write a self-signed certificate for the key in a slot. Returns whether the signature is valid.
fn certify<K: KeyType>(yubikey: &mut YubiKey, slot: SlotId, public: &PublicKey) -> bool {
    let key = piv::metadata(yubikey, slot).unwrap().public.unwrap();
    let validity = Validity::from_now(Duration::from_secs(3600)).unwrap();
    let (serial, subject) = (SerialNumber::from(1_u8), Name::from_str("CN=theirs").unwrap());
    let made = Certificate::generate_self_signed::<_, K>(yubikey, slot, serial, validity, subject, key, |_| Ok(()));
    let certificate = made.unwrap().cert;
    let (signed, signature) = (certificate.tbs_certificate().to_der().unwrap(), certificate.signature().raw_bytes());
    verify(public, &signed, &in_jws(public.curve(), signature)).is_ok()
}

fn attestation_certificate(yubikey: &mut YubiKey) -> Vec<u8> {
    Certificate::read(yubikey, SlotId::Attestation).unwrap().cert.to_der().unwrap()
}

/// The crate's signature of a message, in the form of JWS.
fn sign(yubikey: &mut YubiKey, curve: Curve, slot: SlotId) -> Vec<u8> {
    let message = b"a message";
    let hash = Sha256::digest(message);
    let input = if curve == Curve::Ed25519 { &message[..] } else { &hash[..] };
    in_jws(curve, &piv::sign_data(yubikey, input, algorithm(curve), slot).unwrap())
}

/// A signature in the form of JWS: that of ECDSA has no DER.
fn in_jws(curve: Curve, signature: &[u8]) -> Vec<u8> {
    match curve {
        Curve::Ed25519 => signature.to_vec(),
        _ => Signature::from_der(signature).unwrap().to_vec(),
    }
}

fn agrees(curve: Curve) -> bool {
    curve != Curve::Ed25519
}

fn algorithm(curve: Curve) -> AlgorithmId {
    match curve {
        Curve::P256 => AlgorithmId::EccP256,
        Curve::P384 => AlgorithmId::EccP384,
        Curve::X25519 => AlgorithmId::X25519,
        Curve::Ed25519 => AlgorithmId::Ed25519,
        other => panic!("a YubiKey has no {other}"),
    }
}

/// A certificate in PEM (RFC 7468).
fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
