//! Claviger uses virtual YubiKeys through the real pcscd and vsmartcard's reader driver.
//!
//! All steps use one pcscd with two readers, so this is one test. It needs root, as pcscd does, and Debian's packages
//! pcscd and vsmartcard-vpcd. Without them the test is skipped, or fails if `CLAVIGER_REQUIRE_TOKENS=1`.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
};

use claviger::{
    keys::Curve,
    secrets::{
        Custodian, Custody, KeyUse, NewKey, Purpose, SecretsError, Token, TokenError,
        pin::{Pin, PinSource},
        piv::{OpenOptions, PcscReaders, YubiKey},
    },
};
use claviger_testkit::{
    PrivateKey,
    reference::{Parties, fresh_cek, message_to},
    suite::{self, Capabilities},
};
use claviger_virtual_yubikey::pcscd::{PORT, Pcscd, is_here, missing, until};

#[test]
fn yubikeys_behind_pcscd() {
    if is_here() {
        programs_take_turns();
        a_foreign_pcscd_is_noticed();
        behind_pcscd();
    }
}

/// A machine has one pcscd. A second test does not use that of the first one, but waits.
fn programs_take_turns() {
    let in_use = AtomicBool::new(false);
    let take_turn = || {
        let _pcscd = Pcscd::start();
        assert!(!in_use.swap(true, SeqCst), "two tests use one pcscd");
        assert_eq!(missing(), None);
        in_use.store(false, SeqCst);
    };
    thread::scope(|scope| {
        let turns: Vec<_> = (0..3).map(|_| scope.spawn(take_turn)).collect();
        turns.into_iter().for_each(|turn| turn.join().unwrap());
    });
}

fn a_foreign_pcscd_is_noticed() {
    let mut foreign = Command::new("/usr/sbin/pcscd").arg("--foreground").stdout(Stdio::null()).spawn().unwrap();
    until("the other pcscd is noticed", || missing().is_some_and(|missing| missing == "another pcscd is running"));
    Command::new("kill").arg(foreign.id().to_string()).status().unwrap();
    foreign.wait().unwrap();
    assert_eq!(missing(), None);
}

fn behind_pcscd() {
    let folder = tempfile::tempdir().unwrap();
    let mut service = Pcscd::start();
    let new = VirtualYubiKey::plug_in("5.7.1", 1111, PORT, folder.path());
    let old = VirtualYubiKey::plug_in("5.4.3", 2222, PORT + 1, folder.path());

    // Two YubiKeys are plugged in, and the URI names neither.
    until(
        "both are seen",
        || matches!(open_as("yubikey:"), Err(TokenError::Config(message)) if message.contains("1111") && message.contains("2222")),
    );
    let error = open_as("yubikey:serial=3333").err().unwrap();
    assert!(error.to_string().contains("insert the YubiKey with serial 3333 (found"), "{error}");

    let yubikeys = Capabilities { longest_eddsa: Some(3000), ..Capabilities::all() }
        .without(Curve::P521)
        .without(Curve::Secp256k1)
        .with_custody(Custody::SharedSecretInProcess);
    suite::run(&open(1111), &yubikeys);
    suite::run(&open(2222), &yubikeys.without(Curve::Ed25519).without(Curve::X25519));

    let token = open(1111);
    let key = token.generate(&NewKey { curve: Curve::P256, usage: KeyUse::Both, label: None }).unwrap().public;
    let (cek, sender) = (fresh_cek(), PrivateKey::generate(Curve::P256));
    let message = message_to(&key, Some(&sender), &cek, &Parties::example());
    let opens = || token.unwrap_cek(&key, &message, &Purpose::KeyTest);
    assert_eq!(opens().unwrap(), cek);

    // One YubiKey is unplugged and plugged in again. The other one keeps working.
    new.unplug();
    until("the card is gone", || opens().is_err());
    let error = opens().unwrap_err();
    assert!(matches!(error, TokenError::Away(_)), "{error:?}");
    assert!(SecretsError::Token { token: "desk".into(), error }.is_retryable());
    assert!(open(2222).keys().is_ok());
    new.plug_in_again();
    until("the card is back", || opens().as_ref() == Ok(&cek));

    // Another program has exclusive access: the error says so.
    let context = pcsc::Context::establish(pcsc::Scope::User).unwrap();
    let held = context.list_readers_owned().unwrap().into_iter().find_map(|reader| {
        let card = context.connect(&reader, pcsc::ShareMode::Shared, pcsc::Protocols::T1).ok()?;
        (reader.to_string_lossy().ends_with("00 00")).then_some((reader, card))
    });
    let (reader, card) = held.expect("the first slot of the first reader");
    // To look for one YubiKey leaves the other one as it is: the PIN that this program has verified stays verified.
    let mut response = [0; 258];
    let mut transmit = |command: &[u8]| card.transmit(command, &mut response).map(<[u8]>::to_vec);
    transmit(&[0, 0xa4, 4, 0, 5, 0xa0, 0, 0, 3, 8]).unwrap();
    assert_eq!(transmit(b"\x00\x20\x00\x80\x08123456\xff\xff").unwrap(), [0x90, 0x00]);
    open(2222);
    assert_eq!(transmit(&[0, 0x20, 0, 0x80]).unwrap(), [0x90, 0x00]);
    card.disconnect(pcsc::Disposition::LeaveCard).map_err(|(_, error)| error).unwrap();
    drop(token);
    let alone = context.connect(&reader, pcsc::ShareMode::Exclusive, pcsc::Protocols::T1).unwrap();
    let error = open_as("yubikey:serial=1111").err().unwrap();
    assert!(error.to_string().contains("another program has"), "{error}");
    alone.disconnect(pcsc::Disposition::LeaveCard).map_err(|(_, error)| error).unwrap();

    // pcscd is stopped and started again.
    let token = open(1111);
    let opens = || token.unwrap_cek(&key, &message, &Purpose::KeyTest);
    assert_eq!(opens().unwrap(), cek);
    service.stop();
    let error = opens().unwrap_err();
    assert!(matches!(error, TokenError::Away(_)), "{error:?}");
    let error = open_as("yubikey:serial=1111").err().unwrap();
    assert!(error.to_string().contains("install and start pcscd"), "{error}");
    service = Pcscd::start();
    until("pcscd serves again", || opens().as_ref() == Ok(&cek));
    drop((new, old, service));
}

fn open_as(uri: &str) -> Result<YubiKey, TokenError> {
    OpenOptions::new().pin(PinSource::value(Pin::new("123456"))).open(uri, PcscReaders)
}

fn open(serial: u32) -> YubiKey {
    let mut opened = None;
    until("the card is in its reader", || {
        opened = open_as(&format!("yubikey:serial={serial}")).ok();
        opened.is_some()
    });
    opened.unwrap()
}

/// The binary of this package, plugged into a reader.
struct VirtualYubiKey {
    process: Child,
    control: PathBuf,
}

impl VirtualYubiKey {
    fn plug_in(firmware: &str, serial: u32, port: u16, folder: &Path) -> Self {
        let control = folder.join(format!("unplug-{serial}"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_virtual-yubikey"));
        command.args([firmware, &serial.to_string(), &port.to_string(), "--control"]).arg(&control);
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut message = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut message).unwrap();
        assert_eq!(message.trim(), "ready");
        Self { process, control }
    }

    fn unplug(&self) {
        fs::write(&self.control, "").unwrap();
    }

    fn plug_in_again(&self) {
        fs::remove_file(&self.control).unwrap();
    }
}

impl Drop for VirtualYubiKey {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
