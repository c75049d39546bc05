//! The command line beside YubiKeys that cannot be used, and beside other programs that use one; and a PC/SC service that
//! refuses.

use std::{
    ffi::CString,
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::net::UnixListener,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use claviger_testkit::PrivateKey;
use claviger_virtual_yubikey::{
    Firmware, VirtualYubiKey,
    pcscd::{PORT, Pcscd, READERS, is_here, until},
    reader::ReaderConnection,
};
use pcsc::{Context, Disposition, Protocols, Scope, ShareMode};

use crate::yubikey::{Desk, PIN, alone, change_pin, stderr_of};

/// A working folder with a token for each serial number, named by it.
fn folder_with_tokens(serials: &[u32]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let tokens: String = serials
        .iter()
        .map(|serial| {
            format!("[[token]]\nname = \"t{serial}\"\nuri = \"yubikey:serial={serial}?pin-source=file:pin\"\n\n")
        })
        .collect();
    fs::write(folder.path().join("claviger.toml"), format!("state_dir = \"state\"\n{tokens}")).unwrap();
    fs::write(folder.path().join("pin"), PIN).unwrap();
    folder
}

/// `claviger`, which is ended after a minute: a program that hangs fails the test.
fn bounded(folder: &Path, words: &str) -> Command {
    let mut command = Command::new("timeout");
    command.arg("60").arg(claviger_testkit::program!()).args(words.split_whitespace());
    command.env_clear().env("HOME", folder).current_dir(folder).stdin(Stdio::null());
    command
}

fn run(folder: &Path, words: &str) -> Output {
    bounded(folder, words).output().unwrap()
}

/// Runs a command that waits for a YubiKey. Calls `release` once it says so, and returns its exit status and stderr.
fn run_until_it_waits(folder: &Path, words: &str, release: impl FnOnce()) -> (Option<i32>, String) {
    let mut child = bounded(folder, words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("waiting for it") && stderr.read_line(&mut said).unwrap() > 0 {}
    release();
    stderr.read_to_string(&mut said).unwrap();
    (child.wait().unwrap().code(), said)
}

/// The name of the reader with the card at `PORT + index`.
fn reader(index: usize) -> CString {
    CString::new(format!("{} 00 0{}", READERS[index / 2], index % 2)).unwrap()
}

/// In the five readers: a YubiKey in another program's transaction, one that is held exclusively, one with PIV switched off,
/// a YubiKey 4, and the wanted one.
#[test]
fn the_wanted_yubikey_is_found_beside_others() {
    const IN_TRANSACTION: u32 = 1111;
    const EXCLUSIVE: u32 = 2222;
    const PIV_OFF: u32 = 3333;
    const YUBIKEY_4: u32 = 4444;
    const WANTED: u32 = 5555;
    const ABSENT: u32 = 9999;
    let _alone = alone();
    if !is_here() {
        return;
    }
    let _pcscd = Pcscd::with_readers(3);
    let cards = [IN_TRANSACTION, EXCLUSIVE, PIV_OFF, YUBIKEY_4, WANTED].map(|serial| {
        let firmware = if serial == YUBIKEY_4 { Firmware::V4_3_5 } else { Firmware::V5_7_1 };
        let card = VirtualYubiKey::new(firmware, serial);
        change_pin(&card);
        card
    });
    cards[2].faults().switch_piv_off();
    let _readers: Vec<ReaderConnection> =
        (PORT..).zip(&cards).map(|(port, card)| ReaderConnection::plug_in(card, port)).collect();
    let context = Context::establish(Scope::User).unwrap();
    let connect = |index: usize, mode| context.connect(&reader(index), mode, Protocols::T1).ok();
    let mut held = Vec::new();
    until("all cards are in their readers", || {
        held = (0..5).filter_map(|index| connect(index, ShareMode::Shared)).collect();
        held.len() == 5
    });
    let folder = folder_with_tokens(&[IN_TRANSACTION, EXCLUSIVE, PIV_OFF, YUBIKEY_4, WANTED, ABSENT]);
    let folder = folder.path();
    held.into_iter().for_each(|card| drop(card.disconnect(Disposition::LeaveCard)));
    let exclusive = connect(1, ShareMode::Exclusive).expect("nobody uses the card");
    let mut shared = connect(0, ShareMode::Shared).unwrap();
    let transaction = shared.transaction().unwrap();

    let made = run(folder, &format!("key generate --token t{WANTED} --alg P-256"));
    assert!(made.status.success(), "{}", stderr_of(&made));
    // What is passed over is named with reader, serial number and cause.
    let absent = run(folder, &format!("key list --token t{ABSENT}"));
    assert_eq!(absent.status.code(), Some(3), "{}", stderr_of(&absent));
    for words in [
        "insert the YubiKey with serial 9999, or free it (found 5555); passed over: ",
        "the YubiKey in \"Yubico YubiKey OTP+FIDO+CCID 00 00\": another program is using the card",
        "the YubiKey in \"Yubico YubiKey OTP+FIDO+CCID 00 01\": another program has exclusive access",
        "the YubiKey 3333 in \"Yubico YubiKey FIDO+CCID 00 00\": its PIV application is switched off",
        "the YubiKey 4444 in \"Yubico YubiKey FIDO+CCID 00 01\": it has firmware 4.3.5, and 5.3.0 or later is needed",
    ] {
        assert!(stderr_of(&absent).contains(words), "{words}: {}", stderr_of(&absent));
    }
    // --wait holds for a YubiKey that another program uses.
    let words = |serial: u32| format!("--wait 50 key generate --token t{serial} --alg P-256");
    let (status, said) = run_until_it_waits(folder, &words(IN_TRANSACTION), || {
        transaction.end(Disposition::LeaveCard).map_err(|(_, error)| error).unwrap();
    });
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("another program is using the card"), "{said}");
    let refused = run(folder, &format!("key list --token t{EXCLUSIVE}"));
    assert_eq!(refused.status.code(), Some(3), "{}", stderr_of(&refused));
    let (status, said) = run_until_it_waits(folder, &words(EXCLUSIVE), || {
        exclusive.disconnect(Disposition::LeaveCard).map_err(|(_, error)| error).unwrap();
    });
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("another program has exclusive access"), "{said}");

    // Those that cannot be used are named when they are wanted, and listed.
    for (serial, words) in [(PIV_OFF, "its PIV application is switched off"), (YUBIKEY_4, "it has firmware 4.3.5")] {
        let refused = run(folder, &format!("key list --token t{serial}"));
        assert!(stderr_of(&refused).contains(words), "{words}: {}", stderr_of(&refused));
        let words = format!("the YubiKey {serial} in \"Yubico YubiKey FIDO+CCID 00 0");
        assert_eq!(refused.status.code(), Some(1), "{}", stderr_of(&refused));
        assert!(stderr_of(&refused).contains(&words), "{words}: {}", stderr_of(&refused));
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let listed = run(elsewhere.path(), "token list");
    assert!(stderr_of(&listed).contains("Passed over: the YubiKey 3333 in "), "{}", stderr_of(&listed));
}

/// Runs a test with one YubiKey in its reader, the token `t1111`.
fn with_yubikey(test: impl FnOnce(&VirtualYubiKey, &Desk<'_>)) {
    let _alone = alone();
    if !is_here() {
        return;
    }
    let _pcscd = Pcscd::start();
    let card = VirtualYubiKey::new(Firmware::V5_7_1, 1111);
    change_pin(&card);
    let _reader = ReaderConnection::plug_in(&card, PORT);
    let folder = folder_with_tokens(&[1111]);
    let desk = Desk(folder.path());
    until("the card is in its reader", || desk.run("key list", "").status.success());
    test(&card, &desk);
}

/// One private key is in two slots. The slot that its name or `--slot` names is emptied, and no other.
#[test]
fn a_key_in_two_slots_is_deleted_from_the_named_one() {
    with_yubikey(|card, desk| {
        let private = PrivateKey::generate(claviger::keys::Curve::P256);
        let mut jwk = serde_json::to_value(private.public().to_jwk()).unwrap();
        jwk["d"] = URL_SAFE_NO_PAD.encode(private.to_bytes()).into();
        jwk["kid"] = "second".into();
        fs::write(desk.0.join("key.jwk"), jwk.to_string()).unwrap();
        let key = private.public().to_multikey();
        let succeeds = |words: &str| {
            let output = desk.run(words, "");
            assert!(output.status.success(), "{words}: {}", stderr_of(&output));
        };
        let slots = || -> Vec<String> {
            let keys = desk.json("key list");
            let mut slots: Vec<String> =
                keys.as_array().unwrap().iter().map(|key| key["slot"].as_str().unwrap().to_owned()).collect();
            slots.sort();
            slots
        };
        succeeds("key generate --token t1111 --alg P-256 --name first");
        succeeds("key import --token t1111 --jwk key.jwk");
        succeeds("key delete first --yes");
        // Another program imports the same key into the first slot, without a name.
        card.copy_key(0x83, 0x82);
        assert_eq!(slots(), ["82", "83"]);
        succeeds("key delete second --yes");
        assert_eq!(slots(), ["82"]);
        card.copy_key(0x82, 0x83);
        let refused = desk.run(&format!("key delete {key} --yes"), "");
        assert_eq!(refused.status.code(), Some(2), "{}", stderr_of(&refused));
        assert!(stderr_of(&refused).contains("is in the slots 82 and 83"), "{}", stderr_of(&refused));
        assert_eq!(desk.run(&format!("key delete {key} --slot 84 --yes"), "").status.code(), Some(1));
        assert_eq!(slots(), ["82", "83"]);
        succeeds(&format!("key delete {key} --slot 83 --yes"));
        assert_eq!(slots(), ["82"]);
    });
}

/// `token unlock --keep` keeps the PIN verified for the commands after it, until it is interrupted.
#[test]
fn an_unlocked_yubikey_is_kept_unlocked() {
    with_yubikey(|card, desk| {
        let made = desk.json("did create --method peer:2 --token t1111");
        let did = made["did"].as_str().unwrap();
        let pack = || {
            let packed =
                desk.run(&format!("pack --to {did} --from {did}"), r#"{"id":"1","type":"x:y/z/1.0/a","body":{}}"#);
            assert!(packed.status.success(), "{}", stderr_of(&packed));
        };
        card.reset();

        let mut keeping = bounded(desk.0, "token unlock t1111 --keep");
        let mut keeping = keeping.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(keeping.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains("needs it no more") {
            assert!(stderr.read_line(&mut said).unwrap() > 0, "{said}");
        }
        let before = card.counts().verifies;
        // Each of these takes longer than pcscd lets a card alone.
        pack();
        thread::sleep(std::time::Duration::from_millis(1500));
        pack();
        assert_eq!(card.counts().verifies, before, "no PIN was needed");
        // `timeout` passes the signal on.
        Command::new("kill").arg(keeping.id().to_string()).status().unwrap();
        assert!(keeping.wait().unwrap().code().is_some());
        stderr.read_to_string(&mut said).unwrap();
        assert!(said.contains("needs its PIN again"), "{said}");
        pack();
        assert!(card.counts().verifies > before, "the PIN is needed again");
    });
}

/// Another program has exclusive access to the YubiKey. It is locked all the same, and the command says that its card was not
/// told.
#[test]
fn a_yubikey_that_another_program_holds_is_locked() {
    with_yubikey(|_, desk| {
        let context = Context::establish(Scope::User).unwrap();
        let held = context.connect(&reader(0), ShareMode::Exclusive, Protocols::T1).expect("nobody uses the card");
        let locked = desk.run("token lock t1111", "");
        assert!(locked.status.success(), "{}", stderr_of(&locked));
        assert!(stderr_of(&locked).contains("was not told to forget its PIN: "), "{}", stderr_of(&locked));
        assert!(stderr_of(&locked).contains("exclusive"), "{}", stderr_of(&locked));
        held.disconnect(Disposition::LeaveCard).map_err(|(_, error)| error).unwrap();
        let refused = desk.run("key generate --token t1111 --alg P-256", "");
        assert_eq!(refused.status.code(), Some(3), "{}", stderr_of(&refused));
        assert!(stderr_of(&refused).contains("was locked by"), "{}", stderr_of(&refused));
        let unlocked = desk.run("token unlock t1111", "");
        assert!(unlocked.status.success(), "{}", stderr_of(&unlocked));
        // Nobody holds the card now, so it is told.
        assert_eq!(stderr_of(&desk.run("token lock t1111", "")).matches("forget").count(), 0);
    });
}

/// polkit refuses a client: pcscd closes the connection with the client's first message unread (pcsc-lite 1.9.9,
/// `ContextThread`), and libpcsclite reports SCARD_W_SECURITY_VIOLATION.
#[test]
fn a_refusal_by_polkit_names_the_rule() {
    let folder = folder_with_tokens(&[1111]);
    let socket = folder.path().join("pcscd.comm");
    let listener = UnixListener::bind(&socket).unwrap();
    let service = thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            // The first message has 20 bytes: a header and the client's version. One of them stays unread.
            let _ = client.read_exact(&mut [0; 19]);
        }
    });
    let mut command = bounded(folder.path(), "key list --token t1111");
    let output = command.env("PCSCLITE_CSOCK_NAME", &socket).output().unwrap();
    let stderr = stderr_of(&output);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    for words in [
        "the PC/SC service is refused to the user ",
        "by polkit",
        "/etc/polkit-1/rules.d/",
        "polkit.addRule(function(action, subject) { if (action.id.indexOf(\"org.debian.pcsc-lite.\") == 0 && subject.user == \"",
    ] {
        assert!(stderr.contains(words), "{words}: {stderr}");
    }
    drop(service);
}
