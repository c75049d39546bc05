//! Questions and notices for a person at a desktop without a terminal, for example of an agent that is a service of
//! `systemd --user`.

use std::io;
#[cfg(feature = "yubikey")]
use std::{
    env,
    io::IsTerminal,
    process::{Command, Stdio},
    thread,
};

use claviger::secrets::pin::Pin;
use pinentry::PassphraseInput;
use secrecy::ExposeSecret;

use super::typed_pin::refuse_yubikey_otp;

/// How long the window waits for a PIN, in seconds. Other operations of the token wait meanwhile.
const TIMEOUT: u16 = 60;

/// Asks for a PIN with the session's pinentry, usually in a window.
pub fn ask_pin(description: &str, prompt: &str) -> io::Result<Pin> {
    let mut input = PassphraseInput::with_default_binary().ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, "there is no pinentry: apt-get install pinentry-gnome3")
    })?;
    // A request of the Assuan protocol has at most 1,000 bytes; the crate panics on more.
    let description: String = description.chars().take(200).collect();
    input.with_title("Claviger").with_description(&description).with_prompt(prompt).with_timeout(TIMEOUT);
    let typed = input.interact();
    let typed = typed.map_err(|error| match error {
        pinentry::Error::Cancelled => io::Error::new(io::ErrorKind::InvalidInput, "the person cancelled"),
        error => io::Error::other(format!("pinentry: {error}")),
    })?;
    refuse_yubikey_otp(typed.expose_secret())?;
    Ok(Pin::new(typed.expose_secret()))
}

/// Shows a desktop notification (org.freedesktop.Notifications) if stderr is not a terminal. Uses `busctl`, which is
/// part of systemd, because a D-Bus library would add forty crates for one call.
#[cfg(feature = "yubikey")]
pub fn notify(summary: &'static str, body: &str) {
    let session = env::var_os("DBUS_SESSION_BUS_ADDRESS").is_some();
    if io::stderr().is_terminal() || !session {
        return;
    }
    let mut command = Command::new("busctl");
    command.args(["--user", "--quiet", "call", "org.freedesktop.Notifications", "/org/freedesktop/Notifications"]);
    // Desktop Notifications Specification 1.2, section 9, Notify: application, notification to replace, icon, summary,
    // body, no actions, no hints, timeout in milliseconds.
    command.args(["org.freedesktop.Notifications", "Notify", "susssasa{sv}i", "Claviger", "0", "", summary, body]);
    command.args(["0", "0", "15000"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.spawn() {
        // The child must be waited for, but not here: the YubiKey waits for its touch.
        Ok(mut child) => drop(thread::spawn(move || child.wait())),
        Err(error) => tracing::info!(%error, "cannot show a notification: busctl does not start"),
    }
}
