//! `virtual-yubikey FIRMWARE SERIAL PORT [--control FILE]`: a virtual YubiKey behind pcscd.
//!
//! vsmartcard's vpcd, a reader of pcscd's, listens on PORT of 127.0.0.1 (35963 is its first). As long as FILE is there,
//! the YubiKey is unplugged. Each time it is in the reader, the line `ready` is printed. It ends when it is killed.

use std::{
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
};

use claviger_virtual_yubikey::{
    VirtualYubiKey,
    reader::{GLANCE, serve},
};

const USAGE: &str = "usage: virtual-yubikey FIRMWARE SERIAL PORT [--control FILE]";

struct Arguments {
    yubikey: VirtualYubiKey,
    port: u16,
    control: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(Arguments { yubikey, port, control }) = parse(&arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    loop {
        while is_unplugged(control.as_deref()) {
            thread::sleep(GLANCE);
        }
        let Ok(reader) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else {
            thread::sleep(GLANCE);
            continue;
        };
        let unplugged = control.clone();
        let served = serve(&yubikey, reader, move || is_unplugged(unplugged.as_deref()), || println!("ready"));
        if let Err(error) = served {
            eprintln!("virtual-yubikey: {error}");
        }
        // vpcd takes the next connection only when it has noticed that this one ended.
        thread::sleep(GLANCE);
    }
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
