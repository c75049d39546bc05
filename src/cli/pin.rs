//! PINs that the library does not read itself: those that a token is initialised with, and those of a person.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use claviger::secrets::pkcs11::{Pin, PinPrompt, PinState};

use super::{desktop, failure::Failure};

/// A PIN to be set: a person types it twice.
pub fn new(source: &str, base: &Path, what: &str) -> Result<Pin, Failure> {
    if !asks(source) {
        return present(source, base, what);
    }
    let pin = ask(&format!("{}: ", capital(what)))?;
    if ask("The same again: ")? == pin {
        return Ok(Pin::new(pin.as_str()));
    }
    Err(Failure::new("pin-mismatch", "the two PINs differ: nothing was done"))
}

/// A PIN that there is, by its `pin-source`.
pub fn present(source: &str, base: &Path, what: &str) -> Result<Pin, Failure> {
    secret(source, base, what).map(|secret| Pin::new(secret.as_str()))
}

/// A key of 16, 24 or 32 bytes that is written in hexadecimal, by its source. As all arguments, a file is relative to the
/// working folder.
pub fn hexadecimal(source: &str, what: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let text = secret(source, Path::new(""), what)?;
    let digits = text.trim().as_bytes();
    let value = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    // At its full size from the start, so that no copy is left behind when it grows.
    let mut key = Zeroizing::new(Vec::with_capacity(digits.len() / 2));
    for pair in digits.chunks(2) {
        if let [Some(high), Some(low)] = [value(pair[0]), pair.get(1).copied().and_then(value)] {
            key.push(high << 4 | low);
        }
    }
    if ![32, 48, 64].contains(&digits.len()) || key.len() * 2 != digits.len() {
        let said = format!("{what} has 32, 48 or 64 hexadecimal digits, and this has not");
        return Err(Failure::words("bad-arguments", said));
    }
    Ok(key)
}

fn secret(source: &str, base: &Path, what: &str) -> Result<Zeroizing<String>, Failure> {
    if asks(source) {
        return ask(&format!("{}: ", capital(what)));
    }
    let path = path(source, base)?;
    let failed = |error: &io::Error| Failure::io(format!("{what}, {}", path.display()), error);
    let bytes = Zeroizing::new(fs::read(&path).map_err(|error| failed(&error))?);
    let text = std::str::from_utf8(&bytes).map_err(|_| failed(&io::Error::other("it is not UTF-8")))?;
    let pin = text.strip_suffix('\n').unwrap_or(text);
    let pin = pin.strip_suffix('\r').unwrap_or(pin);
    if pin.is_empty() {
        return Err(failed(&io::Error::other("it is empty")));
    }
    Ok(Zeroizing::new(pin.to_owned()))
}

/// Whether a person is asked.
pub fn asks(source: &str) -> bool {
    ["prompt", "terminal", "pinentry"].contains(&source)
}

fn path(source: &str, base: &Path) -> Result<PathBuf, Failure> {
    let wrong = |said: String| Failure::words("bad-pin-source", said);
    match source.split_once(':') {
        Some(("file", path)) => Ok(base.join(path.strip_prefix("//").filter(|it| it.starts_with('/')).unwrap_or(path))),
        Some(("credential", name)) if !name.is_empty() && !name.contains('/') && !name.starts_with('.') => {
            let folder = env::var_os("CREDENTIALS_DIRECTORY")
                .ok_or_else(|| wrong(format!("there is no credential {name:?}: CREDENTIALS_DIRECTORY is not set")))?;
            Ok(PathBuf::from(folder).join(name))
        }
        None if !source.is_empty() && !source.starts_with('|') => Ok(base.join(source)),
        _ => Err(wrong("a PIN's source is file:PATH, credential:NAME or prompt".to_owned())),
    }
}

/// Where a person is asked first; if that is not there, the other is tried.
#[derive(Clone, Copy, PartialEq)]
pub enum At {
    Terminal,
    Desktop,
}

impl At {
    /// As the `pin-source` says.
    pub fn of(source: Option<&str>) -> Self {
        if source == Some("pinentry") { Self::Desktop } else { Self::Terminal }
    }
}

/// Asks for the PIN of a token: what the library calls when its source is a person.
pub fn prompt(name: &str, at: At, prompt: &PinPrompt) -> io::Result<Pin> {
    let tries = match prompt.state {
        PinState::CountLow => ", which was refused before",
        PinState::FinalTry => ", which has ONE TRY LEFT",
        PinState::Ready | PinState::Locked => "",
    };
    let tries = match prompt.tries_left {
        Some(left) if prompt.state != PinState::Ready => format!("{tries} ({left} tries left)"),
        Some(left) => format!(", {left} tries left"),
        None => tries.to_owned(),
    };
    let label = if prompt.label == name { String::new() } else { format!(" ({:?})", prompt.label) };
    let purpose = prompt.purpose.as_ref().map(|purpose| format!(", {purpose}")).unwrap_or_default();
    let question = format!("PIN of {name}{label}, serial {}{tries}{purpose}", prompt.serial);
    let terminal = || read(&format!("{question}: ")).map(|pin| Pin::new(pin.as_str()));
    let window = || desktop::ask_pin(&question, "PIN:");
    let first = if at == At::Terminal { terminal() } else { window() };
    let pin = first.or_else(|error| {
        // Who was asked has answered.
        if error.kind() == io::ErrorKind::InvalidInput {
            return Err(error);
        }
        let second = if at == At::Terminal { window() } else { terminal() };
        second.map_err(|other| {
            io::Error::new(other.kind(), format!("there is no terminal and no pinentry to ask at ({error}; {other})"))
        })
    })?;
    Ok(pin)
}

/// Tells a person that a touch is wanted: at the terminal, for eyes only and never on stdout, or by a notification.
#[cfg(feature = "yubikey")]
pub fn touch(name: &str, touch: &claviger::secrets::piv::TouchPrompt) {
    let which = if touch.of > 1 { format!(" (touch {} of {})", touch.number, touch.of) } else { String::new() };
    let again = if touch.again { "It waits: touch" } else { "Touch" };
    let purpose = touch.purpose.as_ref().map(|purpose| format!(" {purpose}")).unwrap_or_default();
    eprintln!("{again} the YubiKey {name}, serial {}{purpose}{which}.", touch.serial);
    let summary = if touch.again { "It waits: touch the YubiKey" } else { "Touch the YubiKey" };
    desktop::notify(summary, &format!("YubiKey {name}, serial {}{purpose}{which}", touch.serial));
}

fn ask(question: &str) -> Result<Zeroizing<String>, Failure> {
    read(question).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => Failure::io("what was typed", &error),
        _ => Failure::io("there is no terminal to ask for a PIN at", &error).hint("a source file:PATH needs none"),
    })
}

/// At the terminal, not on stdin, which may have a message; nothing is echoed.
fn read(question: &str) -> io::Result<Zeroizing<String>> {
    rpassword::prompt_password(question).map(Zeroizing::new).and_then(|typed| typed_by_hand(&typed).map(|()| typed))
}

/// Fails for what a YubiKey types when it is touched where nothing asked for that: 44 letters of its own alphabet.
pub fn typed_by_hand(text: &str) -> io::Result<()> {
    const OTP: usize = 44;
    if text.len() == OTP && text.bytes().all(|letter| b"cbdefghijklnrtuv".contains(&letter)) {
        let said = "that is what a YubiKey types when it is touched by accident: touch it only when it asks for it";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, said));
    }
    Ok(())
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_touch_by_accident_is_no_pin() {
        assert!(typed_by_hand("cccccccfhcbelrhifnjrrddcgrburluurftrgfdrdifj").is_err());
        for pin in ["471108", "cccccccfhcbe", "accccccfhcbelrhifnjrrddcgrburluurftrgfdrdifj", ""] {
            assert!(typed_by_hand(pin).is_ok(), "{pin}");
        }
    }
}
