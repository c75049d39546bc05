//! `virtual-yubikey FIRMWARE SERIAL PORT [--control FILE]` connects a virtual YubiKey to pcscd.
//!
//! vsmartcard's vpcd, a reader driver of pcscd, listens on PORT of 127.0.0.1 (35963 for its first slot). While
//! FILE exists, the YubiKey is unplugged. Each time it is plugged in, the program prints `ready`. It runs until it
//! is killed.
//!
//! `virtual-yubikey run FIRMWARE:SERIAL [FIRMWARE:SERIAL] -- COMMAND...` starts pcscd, plugs in one or two YubiKeys,
//! and runs the command. Its exit status is the command's.

use std::{
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    thread,
    time::Duration,
};

use claviger_virtual_yubikey::{
    VirtualYubiKey,
    pcscd::{PORT, Pcscd, missing},
    reader::{POLL_INTERVAL, ReaderConnection, serve},
};

const USAGE: &str = "usage: virtual-yubikey FIRMWARE SERIAL PORT [--control FILE]
       virtual-yubikey run FIRMWARE:SERIAL [FIRMWARE:SERIAL] -- COMMAND...";

struct Arguments {
    yubikey: VirtualYubiKey,
    port: u16,
    control: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [run, rest @ ..] = &arguments[..]
        && run == "run"
    {
        return run_behind_pcscd(rest);
    }
    let Some(Arguments { yubikey, port, control }) = parse(&arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    loop {
        while is_unplugged(control.as_deref()) {
            thread::sleep(POLL_INTERVAL);
        }
        let Ok(reader) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else {
            thread::sleep(POLL_INTERVAL);
            continue;
        };
        let unplugged = control.clone();
        let served = serve(&yubikey, reader, move || is_unplugged(unplugged.as_deref()), || println!("ready"));
        if let Err(error) = served {
            eprintln!("virtual-yubikey: {error}");
        }
        // vpcd accepts the next connection only after it has noticed that this one ended.
        thread::sleep(POLL_INTERVAL);
    }
}

fn run_behind_pcscd(arguments: &[String]) -> ExitCode {
    let Some((cards, [program, words @ ..])) = parse_run(arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if let Some(missing) = missing() {
        eprintln!("virtual-yubikey: {missing}");
        return ExitCode::from(3);
    }
    let _pcscd = Pcscd::start();
    let _connections: Vec<ReaderConnection> =
        (PORT..).zip(&cards).map(|(port, card)| ReaderConnection::plug_in(card, port)).collect();
    // Waits until pcscd has noticed the cards. pcscd polls every 0.4 seconds, and lists a new card only after
    // reading it.
    thread::sleep(Duration::from_secs(2));
    match Command::new(program).args(words).status() {
        Ok(status) => ExitCode::from(status.code().and_then(|code| code.try_into().ok()).unwrap_or(1)),
        Err(error) => {
            eprintln!("virtual-yubikey: {program}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse_run(arguments: &[String]) -> Option<(Vec<VirtualYubiKey>, &[String])> {
    let end = arguments.iter().position(|word| word == "--")?;
    let cards = arguments[..end].iter().map(|card| {
        let (firmware, serial) = card.split_once(':')?;
        Some(VirtualYubiKey::new(firmware.parse().ok()?, serial.parse().ok()?))
    });
    let cards = cards.collect::<Option<Vec<_>>>().filter(|cards| (1..=2).contains(&cards.len()))?;
    Some((cards, &arguments[end + 1..]))
}

fn parse(arguments: &[String]) -> Option<Arguments> {
    let (fixed, control) = match arguments {
        [fixed @ .., flag, file] if flag == "--control" => (fixed, Some(file.into())),
        fixed => (fixed, None),
    };
    let [firmware, serial, port] = fixed else { return None };
    let yubikey = VirtualYubiKey::new(firmware.parse().ok()?, serial.parse().ok()?);
    Some(Arguments { yubikey, port: port.parse().ok()?, control })
}

fn is_unplugged(control: Option<&Path>) -> bool {
    control.is_some_and(Path::exists)
}
