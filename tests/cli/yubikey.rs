//! The command line with virtual YubiKeys behind the real pcscd.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

use claviger_virtual_yubikey::{
    Firmware, VirtualYubiKey,
    pcscd::{PORT, Pcscd, is_here, until},
    reader::ReaderConnection,
};
use serde_json::Value;

pub const PIN: &str = "471108";
const MESSAGE: &str = r#"{"id":"1","type":"https://example.org/lunch/1.0/proposal","body":{"at":"noon"}}"#;

/// Held by a test that starts pcscd: a machine has only one.
static PCSCD: Mutex<()> = Mutex::new(());

/// Waits until no other test of this program uses pcscd.
pub fn alone() -> MutexGuard<'static, ()> {
    PCSCD.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn yubikeys_behind_pcscd() {
    let _alone = alone();
    if is_here() {
        two_yubikeys_in_use();
        two_new_yubikeys();
        the_desktop_page_works();
    }
}

/// Runs the commands of docs/desktop.md as they are printed there.
fn the_desktop_page_works() {
    let folder = tempfile::tempdir().unwrap();
    let _pcscd = Pcscd::start();
    let card = VirtualYubiKey::new(Firmware::V5_7_1, 5555);
    let _reader = ReaderConnection::plug_in(&card, PORT);
    let desk = Desk(folder.path());
    until("the YubiKey is in its reader", || desk.json("token list").to_string().contains("5555"));

    let port = || claviger_testkit::free_port().to_string();
    let ops = port();
    let script = crate::pages::commands("desktop.md", "## From the box to a first message").replace("12345678", "5555");
    let script = script.replace("8080", &port()).replace("8081", &ops);
    fs::write(folder.path().join("guide.sh"), script).unwrap();
    fs::write(folder.path().join("typed"), format!("{PIN}\n")).unwrap();
    let claviger = claviger_testkit::program!();
    let program = Path::new(&claviger).parent().unwrap();
    let mut command = Command::new("timeout");
    command.args(["300", "bash", "guide.sh"]).current_dir(folder.path()).env_clear().env("HOME", folder.path());
    command.env("PATH", format!("{}:/usr/bin:/bin", program.display()));
    command.env("CLAVIGER_OPS__LISTEN", format!("127.0.0.1:{ops}"));
    command.stdin(fs::File::open(folder.path().join("typed")).unwrap());
    let output = command.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let log = fs::read_to_string(folder.path().join("serve.log")).unwrap_or_default();
    assert!(output.status.success(), "{printed}{}{log}", stderr_of(&output));
    for text in [&*printed, &stderr_of(&output), &log] {
        assert_eq!(crate::home::warnings(text), [""; 0]);
    }
    for words in ["serial 5555: new", "Hello, me", "/?_oob="] {
        assert!(printed.contains(words), "{words}: {printed}{}", stderr_of(&output));
    }
    assert!(!format!("{printed}{}{log}", stderr_of(&output)).contains(PIN));
}

fn two_yubikeys_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let desk = Desk(folder.path());
    fs::write(folder.path().join("pin"), PIN).unwrap();
    let token = |name: &str, serial: u32| {
        format!("[[token]]\nname = \"{name}\"\nuri = \"yubikey:serial={serial}?pin-source=file:pin\"\n")
    };
    let configuration = format!("state_dir = \"state\"\n{}{}", token("desk", 1111), token("old", 2222));
    fs::write(folder.path().join("claviger.toml"), configuration).unwrap();

    // Without the service, the error says what to install.
    let output = desk.run("key list --token desk", "");
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr_of(&output).contains("install and start pcscd"), "{}", stderr_of(&output));

    let _pcscd = Pcscd::start();
    let cards = [(Firmware::V5_7_1, 1111), (Firmware::V5_4_3, 2222)].map(|(firmware, serial)| {
        let card = VirtualYubiKey::new(firmware, serial);
        change_pin(&card);
        card
    });
    let new = ReaderConnection::plug_in(&cards[0], PORT);
    let _old = ReaderConnection::plug_in(&cards[1], PORT + 1);
    until("both YubiKeys are in their readers", || {
        let rows = desk.json("token list");
        rows.as_array().unwrap().iter().all(|row| row["error"].is_null())
    });

    let rows = desk.json("token list");
    let value = |row: usize, member: &str| rows[row][member].clone();
    assert_eq!([value(0, "serial"), value(0, "firmware"), value(0, "pin")], ["1111", "5.7.1", "ready"]);
    assert_eq!([value(1, "serial"), value(1, "firmware"), value(1, "pin")], ["2222", "5.4.3", "ready"]);
    assert_eq!(rows[0]["keys"], 0);

    // The key agreement key is on X25519 if the firmware supports it, otherwise on P-256. The signing key is on P-256.
    for (name, agreement) in [("desk", "X25519"), ("old", "P-256")] {
        let made = desk.json(&format!("did create --method peer:2 --token {name}"));
        let did = made["did"].as_str().unwrap();
        let algorithms: Vec<&str> =
            made["keys"].as_array().unwrap().iter().filter_map(|key| key["algorithm"].as_str()).collect();
        assert!(algorithms.contains(&agreement), "{made}");
        let packed = desk.run(&format!("pack --to {did} --from {did}"), MESSAGE);
        assert!(packed.status.success(), "{}", stderr_of(&packed));
        let packed = String::from_utf8(packed.stdout).unwrap();
        let unpacked = desk.run("-vvv unpack", &packed);
        assert!(unpacked.status.success(), "{}", stderr_of(&unpacked));
        let unpacked: Value = serde_json::from_slice(&unpacked.stdout).unwrap();
        assert_eq!(unpacked["message"]["body"]["at"], "noon");
        assert_eq!(unpacked["provenance"]["authenticated"], true);
        assert_eq!(unpacked["provenance"]["layers"][0]["custody"], "shared-secret-in-process");
        if name == "old" {
            continue;
        }
        // Without the YubiKey, the error names the serial number of the wanted one.
        new.unplug(true);
        until("the reader is empty", || desk.run("key list --token desk", "").status.code() == Some(3));
        let unplugged = desk.run("unpack", &packed);
        assert_eq!(unplugged.status.code(), Some(3), "{}", stderr_of(&unplugged));
        assert!(stderr_of(&unplugged).contains("insert the YubiKey with serial 1111"), "{}", stderr_of(&unplugged));
        // With --wait, the command names the YubiKey, and continues when it is plugged in.
        let short = desk.run("--wait 1 key generate --token desk --alg P-256", "");
        assert_eq!(short.status.code(), Some(3));
        assert!(stderr_of(&short).contains("waiting for it, 1 second at most"), "{}", stderr_of(&short));
        let waited = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| desk.run("--wait 20 unpack", &packed));
            std::thread::sleep(std::time::Duration::from_secs(1));
            new.unplug(false);
            waiting.join().unwrap()
        });
        assert!(
            waited.status.success() && stderr_of(&waited).contains("waiting for it, 20 seconds at most"),
            "{}",
            stderr_of(&waited)
        );
        // Locked and unlocked through the PIN guard.
        assert!(desk.run("token lock desk", "").status.success());
        assert_eq!(desk.run("unpack", &packed).status.code(), Some(3));
        let unlocked = desk.run("token unlock desk", "");
        assert!(unlocked.status.success(), "{}", stderr_of(&unlocked));
        assert!(desk.run("unpack", &packed).status.success());
    }

    let error = desk.run("key generate --token old --alg X25519", "");
    assert!(stderr_of(&error).contains("firmware 5.4.3 has no X25519: use P-256"), "{}", stderr_of(&error));

    // A wrong PIN costs one try, however often the commands run, and is never printed.
    cards[0].reset();
    fs::write(folder.path().join("pin"), "081547").unwrap();
    let before = cards[0].counts();
    for _ in 0..3 {
        let output = desk.run("-vvv key list --token desk", "");
        assert!(!stderr_of(&output).contains("081547"));
        let unpacked = desk.run("-vvv unpack", "{}");
        assert!(!stderr_of(&unpacked).contains("081547"));
    }
    let created = desk.run("did create --method peer:2 --token desk", "");
    assert!(!stderr_of(&created).contains("081547"));
    let after = cards[0].counts();
    assert_eq!((after.wrong_pins - before.wrong_pins, after.verifies - before.verifies), (1, 1));

    let everything = fs::read_to_string(folder.path().join("output.log")).unwrap();
    assert!(everything.len() > 1000 && !everything.contains(PIN) && !everything.contains("081547"));
}

/// Two new cards are set up, and hold the keys of one DID.
fn two_new_yubikeys() {
    let folder = tempfile::tempdir().unwrap();
    let desk = Desk(folder.path());
    let write = |name: &str, content: &str| fs::write(folder.path().join(name), content).unwrap();
    write("pin", PIN);
    write("puk", "81504711");
    let _pcscd = Pcscd::start();
    let cards = [(Firmware::V5_7_1, 3333), (Firmware::V5_4_3, 4444)]
        .map(|(firmware, serial)| VirtualYubiKey::new(firmware, serial));
    let readers = [0, 1].map(|at: u16| ReaderConnection::plug_in(&cards[usize::from(at)], PORT + at));

    // Without a configuration the list has lines to paste.
    until("both YubiKeys are in their readers", || {
        let rows = desk.json("token list");
        let serials: Vec<&str> = rows.as_array().unwrap().iter().filter_map(|row| row["serial"].as_str()).collect();
        serials.contains(&"3333") && serials.contains(&"4444")
    });
    let listed = desk.run("token list", "");
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("serial 3333: new"), "{listed}");
    assert!(listed.contains("uri = \"yubikey:serial=4444?pin-source=prompt\""), "{listed}");

    let token = |name: &str, serial: u32| {
        format!("[[token]]\nname = \"{name}\"\nuri = \"yubikey:serial={serial}?pin-source=file:pin\"\n")
    };
    write("claviger.toml", &format!("state_dir = \"state\"\n{}{}", token("desk", 3333), token("spare", 4444)));
    for name in ["desk", "spare"] {
        let done = desk.run(&format!("token init {name} --puk-source file:puk"), "");
        assert!(done.status.success() && stderr_of(&done).contains("set up a second one"), "{}", stderr_of(&done));
        let again = desk.run(&format!("--json token init {name} --puk-source file:puk"), "");
        assert_eq!(again.status.code(), Some(1));
        assert!(
            stderr_of(&again).contains("not-initialised") && stderr_of(&again).contains("a PIN of its own"),
            "{}",
            stderr_of(&again)
        );
    }
    assert_eq!(desk.run("token init desk --erase desk", "").status.code(), Some(2));

    // Each YubiKey holds a key on a curve that both support. Either key decrypts messages.
    let made = desk.json("did create --method peer:2 --token desk --token spare --name us");
    let keys: Vec<[&str; 3]> = made["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| ["token", "algorithm", "use"].map(|member| key[member].as_str().unwrap()))
        .collect();
    let mut expected = [["desk", "P-256", "agreement"], ["spare", "P-256", "agreement"]].to_vec();
    expected.extend([["desk", "P-256", "signing"], ["spare", "P-256", "signing"]]);
    assert_eq!(keys, expected);
    let did = made["did"].as_str().unwrap();
    let packed = desk.run(&format!("pack --to {did} --from {did}"), MESSAGE);
    assert!(packed.status.success(), "{}", stderr_of(&packed));
    let packed = String::from_utf8(packed.stdout).unwrap();
    let jwe: Value = serde_json::from_str(&packed).unwrap();
    assert_eq!(jwe["recipients"].as_array().unwrap().len(), 2);
    for (away, here) in [(0, "spare"), (1, "desk")] {
        readers[away].unplug(true);
        until("one YubiKey is gone", || {
            let rows = desk.json("token list");
            rows.as_array().unwrap().iter().filter(|row| row["error"].is_null()).count() == 1
        });
        let unpacked = desk.run("unpack", &packed);
        assert!(unpacked.status.success(), "by {here}: {}", stderr_of(&unpacked));
        // The list has the present keys, and the command fails for the absent token.
        let listed = desk.run("--json key list", "");
        assert!(
            listed.status.code() == Some(3) && stderr_of(&listed).contains("insert the YubiKey"),
            "{}",
            stderr_of(&listed)
        );
        let keys: Value = serde_json::from_slice(&listed.stdout).unwrap();
        assert!(keys.as_array().unwrap().iter().all(|key| key["token"] == here));
        readers[away].unplug(false);
        until("the YubiKey is back", || {
            let rows = desk.json("token list");
            rows.as_array().unwrap().iter().all(|row| row["error"].is_null())
        });
    }

    // A key in a given slot, with policies.
    let options = "--token desk --alg P-256 --slot 9d --pin-policy always --touch-policy cached --name consent";
    let made = desk.json(&format!("key generate {options}"));
    assert_eq!((&made["slot"], &made["name"]), (&"9d".into(), &"consent".into()));
    let again = desk.run(&format!("key generate {options}"), "");
    assert!(stderr_of(&again).contains("slot 9d is not empty: use --force to overwrite it"), "{}", stderr_of(&again));
    let made = desk.json(&format!("key generate {options} --force"));
    let key = made["key"].as_str().unwrap();
    let rows = desk.json("token list");
    assert_eq!((&rows[0]["keys"], &rows[0]["pin_tries"], &rows[0]["form"]), (&3.into(), &3.into(), &"USB-A".into()));
    let slots = rows[0]["slots"].as_array().unwrap();
    assert!(slots.iter().any(|slot| slot["slot"] == "9d" && slot["key"] == key && slot["touch"] == true));
    let listed = desk.run("token list", "");
    assert!(String::from_utf8_lossy(&listed.stdout).contains("ready, 3 tries left"));
    assert!(stderr_of(&listed).contains("desk slot 9d: P-256, both, consent, needs a touch"), "{}", stderr_of(&listed));
    let unfit = desk.run("key generate --token desk --alg P-256 --slot f9", "");
    assert_eq!(unfit.status.code(), Some(2));

    // The attestation, verified with the root certificate of the virtual card.
    let refused = desk.run("--json key attest consent", "");
    assert!(
        !refused.status.success() && stderr_of(&refused).contains("attestation-refused"),
        "{}",
        stderr_of(&refused)
    );
    write("root.pem", &pem(&cards[0].attestation_root()));
    let attested = desk.json("key attest consent --root root.pem");
    let members = ["serial", "firmware", "form", "slot", "pin_policy", "touch_policy", "root"];
    assert_eq!(
        members.map(|member| attested[member].as_str().unwrap()),
        ["3333", "5.7.1", "USB-A", "9d", "always", "cached", "Virtual YubiKey PIV Root CA"]
    );
    let printed = desk.run("key attest consent --root root.pem", "");
    // The YubiKey makes a new attestation certificate each time. The second certificate in the chain is always
    // the same.
    let (printed, chain) = (String::from_utf8(printed.stdout).unwrap(), attested["chain"].as_array().unwrap());
    assert_eq!((printed.matches("BEGIN CERTIFICATE").count(), chain.len()), (2, 2));
    assert!(printed.ends_with(chain[1].as_str().unwrap()), "{printed}");

    // Two DIDs with one key can be linked.
    let consent = desk.run("did create --method key --token desk --agreement consent --authentication consent", "");
    assert!(consent.status.success() && !stderr_of(&consent).contains("link them"), "{}", stderr_of(&consent));
    let shared = desk.run("did create --method peer:2 --token desk --agreement consent", "");
    assert!(shared.status.success() && stderr_of(&shared).contains("link them"), "{}", stderr_of(&shared));

    // The request for a touch names the purpose and the claimed sender.
    let consent = String::from_utf8(consent.stdout).unwrap();
    let packed = desk.run(&format!("pack --to {} --from {did}", consent.trim()), MESSAGE);
    let unpacked = desk.run("unpack", std::str::from_utf8(&packed.stdout).unwrap());
    assert!(unpacked.status.success(), "{}", stderr_of(&unpacked));
    let prompt = "Touch the YubiKey desk, serial 3333 to read a message that says it is from did:peer:2.";
    assert!(stderr_of(&unpacked).contains(prompt), "{}", stderr_of(&unpacked));

    pinentry_and_notifications(&desk, &cards[0], &String::from_utf8(packed.stdout).unwrap());

    let no_key = desk.run("key generate --token desk --alg P-256 --management-key file:pin", "");
    assert!(
        no_key.status.code() == Some(2) && stderr_of(&no_key).contains("hexadecimal digits"),
        "{}",
        stderr_of(&no_key)
    );
    let everything = fs::read_to_string(folder.path().join("output.log")).unwrap();
    assert!(!everything.contains(PIN) && !everything.contains("81504711"));
}

/// Without a terminal, pinentry asks for the PIN, and a desktop notification for a touch.
fn pinentry_and_notifications(desk: &Desk<'_>, card: &VirtualYubiKey, packed: &str) {
    let file = |name: &str| desk.0.join(name);
    let configuration = fs::read_to_string(file("claviger.toml")).unwrap();
    let with_pinentry = configuration.replacen("pin-source=file:pin", "pin-source=pinentry", 1);
    fs::write(file("claviger.toml"), with_pinentry).unwrap();
    // A pinentry that answers by itself (Assuan protocol), and records the requests.
    let script = "#!/bin/sh\necho OK\nwhile read -r line; do echo \"$line\" >> requests\n\
                  case $line in GETPIN*) echo D 471108;; esac; echo OK; done\n";
    fs::create_dir(file("bin")).unwrap();
    fs::write(file("bin/pinentry"), script).unwrap();
    fs::set_permissions(file("bin/pinentry"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    // A session bus, and a monitor of its messages.
    let mut bus = Command::new("dbus-daemon")
        .args(["--session", "--nofork", "--print-address"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("dbus-daemon is installed");
    let mut address = String::new();
    BufReader::new(bus.stdout.take().unwrap()).read_line(&mut address).unwrap();
    let seen = fs::File::create(file("seen")).unwrap();
    let mut monitor = Command::new("dbus-monitor");
    monitor.args(["--address", address.trim(), "interface='org.freedesktop.Notifications'"]).stdout(seen);
    let mut monitor = monitor.spawn().expect("dbus-monitor is installed");
    until("the monitor has begun", || fs::read_to_string(file("seen")).unwrap().contains("NameLost"));

    card.reset();
    let path = format!("{}:/usr/bin:/bin", file("bin").display());
    let session = [("PATH", path.as_str()), ("DBUS_SESSION_BUS_ADDRESS", address.trim())];
    let unpacked = desk.run_in(&session, "unpack", packed);
    assert!(unpacked.status.success(), "{}", stderr_of(&unpacked));
    let requests = fs::read_to_string(file("requests")).unwrap();
    let purpose = "to read a message that says it is from did:peer:2.";
    assert!(
        requests.contains("SETDESC PIN of desk") && requests.contains("3 tries left, ") && requests.contains(purpose),
        "{requests}"
    );
    until("there is a notification", || {
        let seen = fs::read_to_string(file("seen")).unwrap();
        seen.contains("member=Notify")
            && seen.contains("string \"Touch the YubiKey\"")
            && seen.contains(&format!("YubiKey desk, serial 3333 {purpose}"))
    });
    for process in [&mut monitor, &mut bus] {
        let _ = process.kill();
        let _ = process.wait();
    }
    fs::write(file("claviger.toml"), configuration).unwrap();
}

/// Encodes a certificate as PEM (RFC 7468).
fn pem(der: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// Changes the factory PIN of a card.
pub fn change_pin(card: &VirtualYubiKey) {
    card.transmit(&[0, 0xa4, 4, 0, 5, 0xa0, 0, 0, 3, 8]).unwrap();
    let mut change = vec![0, 0x24, 0, 0x80, 16];
    for pin in ["123456", PIN] {
        change.extend(pin.bytes().chain([0xff; 2]));
    }
    assert_eq!(card.transmit(&change).unwrap(), [0x90, 0x00]);
    card.reset();
}

/// The working folder of the commands, with a configuration.
pub struct Desk<'a>(pub &'a Path);

impl Desk<'_> {
    /// Runs `claviger` with arguments that are separated by spaces. The output is appended to output.log.
    pub fn run(&self, words: &str, stdin: &str) -> Output {
        self.run_in(&[], words, stdin)
    }

    fn run_in(&self, environment: &[(&str, &str)], words: &str, stdin: &str) -> Output {
        let mut command = Command::new(claviger_testkit::program!());
        command.env_clear().env("HOME", self.0).current_dir(self.0).args(words.split_whitespace());
        command.envs(environment.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // The command may end without reading stdin.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        let output = child.wait_with_output().unwrap();
        let mut log = fs::OpenOptions::new().append(true).create(true).open(self.0.join("output.log")).unwrap();
        log.write_all(&output.stdout).and_then(|()| log.write_all(&output.stderr)).unwrap();
        output
    }

    pub fn json(&self, words: &str) -> Value {
        let output = self.run(&format!("--json {words}"), "");
        assert!(output.status.success(), "{words}: {}", stderr_of(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

pub fn stderr_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
