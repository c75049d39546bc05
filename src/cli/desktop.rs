//! A person who is at a desktop and at no terminal, as with an agent that is a service of `systemd --user`.

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

use super::pin::typed_by_hand;

/// So long a window waits for a PIN, in seconds: who asked for it waits no longer, and others wait behind it.
const PATIENCE: u16 = 60;

/// Asks for a PIN in a window, or where else the pinentry of this session asks.
pub fn ask_pin(description: &str, prompt: &str) -> io::Result<Pin> {
    let mut input = PassphraseInput::with_default_binary().ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, "there is no pinentry: apt-get install pinentry-gnome3")
    })?;
    // A request of the protocol has at most 1,000 bytes, which the crate insists on.
    let description: String = description.chars().take(200).collect();
    input.with_title("Claviger").with_description(&description).with_prompt(prompt).with_timeout(PATIENCE);
    let typed = input.interact();
    let typed = typed.map_err(|error| match error {
        pinentry::Error::Cancelled => io::Error::new(io::ErrorKind::InvalidInput, "it was cancelled"),
        error => io::Error::other(format!("pinentry: {error}")),
    })?;
    typed_by_hand(typed.expose_secret())?;
    Ok(Pin::new(typed.expose_secret()))
}

/// Shows something by org.freedesktop.Notifications, to who cannot see stderr. By `busctl`, which is where systemd is: a
/// D-Bus library would be forty crates, for one call.
#[cfg(feature = "yubikey")]
pub fn notify(summary: &'static str, body: &str) {
    let session = env::var_os("DBUS_SESSION_BUS_ADDRESS").is_some();
    if io::stderr().is_terminal() || !session {
        return;
    }
    let mut command = Command::new("busctl");
    command.args(["--user", "--quiet", "call", "org.freedesktop.Notifications", "/org/freedesktop/Notifications"]);
    // Desktop Notifications Specification 1.2, section 9, Notify: who, instead of which, icon, summary, body, no actions, no
    // hints, milliseconds.
    command.args(["org.freedesktop.Notifications", "Notify", "susssasa{sv}i", "Claviger", "0", "", summary, body]);
    command.args(["0", "0", "15000"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.spawn() {
        // Waited for, so that it is not left behind; not here, for the YubiKey waits.
        Ok(mut child) => drop(thread::spawn(move || child.wait())),
        Err(error) => tracing::info!(%error, "busctl cannot be started: there is no notification"),
    }
}
