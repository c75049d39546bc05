//! PINs that the library does not read itself: the PINs for a new token, and PINs that a person types.

#[cfg(feature = "yubikey")]
use std::io::IsTerminal;
use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use claviger::secrets::pkcs11::{Pin, PinPrompt, PinState};

use super::{desktop, failure::Failure, typed_pin::refuse_yubikey_otp};
#[cfg(feature = "yubikey")]
use super::{output, shell::quoted};

/// Reads a PIN that is to be set. If a person types the PIN, the person types it twice. `what` names the PIN in
/// questions and errors.
pub fn read_new(source: &str, base: &Path, what: &str) -> Result<Pin, Failure> {
    if !is_interactive(source) {
        return read_existing(source, base, what);
    }
    let pin = ask(&format!("{}: ", capital(what)))?;
    if ask("Repeat: ")? == pin {
        return Ok(Pin::new(pin.as_str()));
    }
    Err(Failure::new("pin-mismatch", "the two PINs differ: nothing was changed"))
}

/// Reads an existing PIN from its source.
pub fn read_existing(source: &str, base: &Path, what: &str) -> Result<Pin, Failure> {
    read_secret(source, base, what).map(|secret| Pin::new(secret.as_str()))
}

/// Reads a key of 16, 24 or 32 bytes in hexadecimal from its source. The path of a file is relative to the working
/// folder.
pub fn read_hex_key(source: &str, what: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let text = read_secret(source, Path::new(""), what)?;
    let digits = text.trim().as_bytes();
    let value = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    // The full capacity is allocated at once, because a growing vector leaves copies of the key behind.
    let mut key = Zeroizing::new(Vec::with_capacity(digits.len() / 2));
    for pair in digits.chunks(2) {
        if let [Some(high), Some(low)] = [value(pair[0]), pair.get(1).copied().and_then(value)] {
            key.push(high << 4 | low);
        }
    }
    if ![32, 48, 64].contains(&digits.len()) || key.len() * 2 != digits.len() {
        let message = format!("{what} must have 32, 48 or 64 hexadecimal digits");
        return Err(Failure::usage("bad-arguments", message));
    }
    Ok(key)
}

/// Reads a secret from its source. `what` names it in questions and errors.
pub fn read_secret(source: &str, base: &Path, what: &str) -> Result<Zeroizing<String>, Failure> {
    if is_interactive(source) {
        return ask(&format!("{}: ", capital(what)));
    }
    let path = path(source, base)?;
    let failed = |error: &io::Error| Failure::io(format!("{what}, {}", path.display()), error);
    let bytes = Zeroizing::new(fs::read(&path).map_err(|error| failed(&error))?);
    let text = std::str::from_utf8(&bytes).map_err(|_| failed(&io::Error::other("not UTF-8")))?;
    let secret = text.strip_suffix('\n').unwrap_or(text);
    let secret = secret.strip_suffix('\r').unwrap_or(secret);
    if secret.is_empty() {
        return Err(failed(&io::Error::other("the file is empty")));
    }
    Ok(Zeroizing::new(secret.to_owned()))
}

/// Whether a source asks a person.
pub fn is_interactive(source: &str) -> bool {
    ["prompt", "terminal", "pinentry"].contains(&source)
}

fn path(source: &str, base: &Path) -> Result<PathBuf, Failure> {
    let invalid = |message: String| Failure::usage("bad-pin-source", message);
    match source.split_once(':') {
        Some(("file", path)) => Ok(base.join(path.strip_prefix("//").filter(|it| it.starts_with('/')).unwrap_or(path))),
        Some(("credential", name)) if !name.is_empty() && !name.contains('/') && !name.starts_with('.') => {
            let folder = env::var_os("CREDENTIALS_DIRECTORY")
                .ok_or_else(|| invalid(format!("no credential {name:?}: CREDENTIALS_DIRECTORY is not set")))?;
            Ok(PathBuf::from(folder).join(name))
        }
        None if !source.is_empty() && !source.starts_with('|') => Ok(base.join(source)),
        _ => Err(invalid("a PIN's source is file:PATH, credential:NAME or prompt".to_owned())),
    }
}

/// Where to ask a person first: at the terminal or on the desktop. If the first is not available, the other is tried.
#[derive(Clone, Copy, PartialEq)]
pub enum AskAt {
    Terminal,
    Desktop,
}

impl AskAt {
    /// The desktop for `pin-source=pinentry`, else the terminal.
    pub fn from_pin_source(source: Option<&str>) -> Self {
        if source == Some("pinentry") { Self::Desktop } else { Self::Terminal }
    }
}

/// Asks a person for the PIN of a token. The library calls this when the PIN's source is a person.
pub fn prompt(name: &str, ask_at: AskAt, prompt: &PinPrompt) -> io::Result<Pin> {
    let warning = match prompt.state {
        PinState::CountLow => ", which was refused before",
        PinState::FinalTry => ", which has ONE TRY LEFT",
        PinState::Ready | PinState::Locked => "",
    };
    let tries = match prompt.tries_left {
        Some(left) if prompt.state != PinState::Ready => format!("{warning} ({left} tries left)"),
        Some(left) => format!(", {left} tries left"),
        None => warning.to_owned(),
    };
    let label = if prompt.label == name { String::new() } else { format!(" ({:?})", prompt.label) };
    let purpose = prompt.purpose.as_ref().map(|purpose| format!(", {purpose}")).unwrap_or_default();
    let question = format!("PIN of {name}{label}, serial {}{tries}{purpose}", prompt.serial);
    let terminal = || read(&format!("{question}: ")).map(|pin| Pin::new(pin.as_str()));
    let window = || desktop::ask_pin(&question, "PIN:");
    let first = if ask_at == AskAt::Terminal { terminal() } else { window() };
    let pin = first.or_else(|error| {
        // The person was asked, and cancelled or typed something invalid.
        if error.kind() == io::ErrorKind::InvalidInput {
            return Err(error);
        }
        let second = if ask_at == AskAt::Terminal { window() } else { terminal() };
        second.map_err(|other| {
            io::Error::new(
                other.kind(),
                format!("cannot ask for the PIN: there is no terminal and no pinentry ({error}; {other})"),
            )
        })
    })?;
    Ok(pin)
}

/// Asks a person for the PIN of a YubiKey, as [`prompt`] does. At a terminal, says how to type it once for several commands.
#[cfg(feature = "yubikey")]
pub fn prompt_for_yubikey(name: &str, ask_at: AskAt, asked: &PinPrompt) -> io::Result<Pin> {
    let pin = prompt(name, ask_at, asked)?;
    if ask_at == AskAt::Terminal && io::stderr().is_terminal() {
        eprintln!(
            "The YubiKey forgets the PIN some seconds after the last program that uses it has ended. To type it once for \
             several commands, run `claviger token unlock {} --keep` in another terminal.",
            quoted(name)
        );
    }
    Ok(pin)
}

/// Asks a person to touch a YubiKey: on stderr, and with a desktop notification.
#[cfg(feature = "yubikey")]
pub fn ask_for_touch(name: &str, touch: &claviger::secrets::piv::TouchPrompt) {
    let which = if touch.of > 1 { format!(" (touch {} of {})", touch.number, touch.of) } else { String::new() };
    let again = if touch.is_reminder { "Still waiting: touch" } else { "Touch" };
    let purpose = touch.purpose.as_ref().map(|purpose| format!(" {purpose}")).unwrap_or_default();
    output::tell(&format!("{again} the YubiKey {name}, serial {}{purpose}{which}.", touch.serial));
    let summary = if touch.is_reminder { "Still waiting: touch the YubiKey" } else { "Touch the YubiKey" };
    desktop::notify(summary, &format!("YubiKey {name}, serial {}{purpose}{which}", touch.serial));
}

fn ask(question: &str) -> Result<Zeroizing<String>, Failure> {
    read(question).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => Failure::io("the typed PIN", &error),
        _ => Failure::io("cannot ask for a PIN: there is no terminal", &error)
            .hint("the source file:PATH needs no terminal"),
    })
}

/// Reads from the terminal without echo. Does not read from stdin, which may hold a message.
fn read(question: &str) -> io::Result<Zeroizing<String>> {
    rpassword::prompt_password(question)
        .map(Zeroizing::new)
        .and_then(|typed| refuse_yubikey_otp(&typed).map(|()| typed))
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
