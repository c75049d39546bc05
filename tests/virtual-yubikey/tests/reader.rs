//! The binary `virtual-yubikey`, connected to a reader that this test emulates. The test speaks vpcd's side
//! of <https://frankmorgner.github.io/vsmartcard/virtualsmartcard/api.html>.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const POWER_OFF: &[u8] = &[0];
const POWER_ON: &[u8] = &[1];
const RESET: &[u8] = &[2];
const ATR: &[u8] = &[4];

const SELECT: &[u8] = &[0, 0xA4, 4, 0, 5, 0xA0, 0, 0, 3, 8];
const SERIAL: &[u8] = &[0, 0xF8, 0, 0];

/// The running binary. Dropping this value stops it.
struct Binary {
    child: Child,
    lines: BufReader<ChildStdout>,
    control: PathBuf,
    reader: TcpListener,
}

impl Binary {
    fn start(name: &str) -> Self {
        let reader = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = reader.local_addr().unwrap().port().to_string();
        let control = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let mut child = Command::new(env!("CARGO_BIN_EXE_virtual-yubikey"))
            .args(["5.7.1", "1111", &port, "--control"])
            .arg(&control)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines, control, reader }
    }

    /// Waits until the card is plugged in.
    fn card(&mut self) -> TcpStream {
        let (card, _) = self.reader.accept().unwrap();
        card.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        card
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        // The process may have ended, and the file may not exist.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.control);
    }
}

fn send(card: &mut TcpStream, message: &[u8]) {
    card.write_all(&[&(message.len() as u16).to_be_bytes()[..], message].concat()).unwrap();
}

fn exchange(card: &mut TcpStream, message: &[u8]) -> Vec<u8> {
    send(card, message);
    let mut length = [0; 2];
    card.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    card.read_exact(&mut answer).unwrap();
    answer
}

#[test]
fn the_reader_sends_apdus_and_resets() {
    let mut binary = Binary::start("answers");
    let mut card = binary.card();
    assert_eq!(exchange(&mut card, ATR), claviger_virtual_yubikey::ATR);
    for reset in [POWER_ON, RESET, POWER_OFF] {
        send(&mut card, reset);
        assert_eq!(exchange(&mut card, SERIAL), [0x6D, 0x00], "PIV is not selected");
        assert!(exchange(&mut card, SELECT).ends_with(&[0x90, 0x00]));
        assert_eq!(exchange(&mut card, SERIAL), [0, 0, 4, 0x57, 0x90, 0x00]);
    }
}

#[test]
fn it_is_unplugged_while_the_control_file_exists() {
    let mut binary = Binary::start("unplugged");
    let mut card = binary.card();
    exchange(&mut card, SELECT);
    fs::write(&binary.control, "").unwrap();
    let begin = Instant::now();
    assert_eq!(card.read(&mut [0]).unwrap(), 0, "the card leaves the reader");
    assert!(begin.elapsed() < Duration::from_secs(5));
    binary.reader.set_nonblocking(true).unwrap();
    thread::sleep(Duration::from_millis(300));
    assert!(binary.reader.accept().is_err(), "it stays away");
    binary.reader.set_nonblocking(false).unwrap();
    fs::remove_file(&binary.control).unwrap();
    let mut card = binary.card();
    assert_eq!(exchange(&mut card, SERIAL), [0x6D, 0x00], "it has forgotten what was selected");
    assert!(exchange(&mut card, SELECT).ends_with(&[0x90, 0x00]));
}

#[test]
fn it_reconnects_after_the_reader_was_gone() {
    let mut binary = Binary::start("back");
    drop(binary.card());
    let mut card = binary.card();
    assert!(exchange(&mut card, SELECT).ends_with(&[0x90, 0x00]));
}

#[test]
fn invalid_arguments_are_refused() {
    for arguments in [&["5.7.1"][..], &["5.7", "1", "2"], &["5.7.1", "1", "2", "3"], &["5.7.1", "1", "99999"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_virtual-yubikey")).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).starts_with("usage: "));
    }
}
