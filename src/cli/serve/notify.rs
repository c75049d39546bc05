//! What systemd is told (sd_notify(3)): that the daemon is ready, that it lives, that it ends.
//!
//! By hand, as the crate `sd-notify` opens a socket for each word, and the sandbox has none opened: this one is there before.

use std::{env, io, os::unix::net::UnixDatagram, sync::Arc, time::Duration};

use claviger::agent::Agent;

/// The way to systemd, if it started this process and wants to hear of it.
pub struct Notifier {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// To be made before the process closes itself in.
    pub fn open() -> Self {
        let socket = env::var_os("NOTIFY_SOCKET").and_then(|path| match connect(path.as_encoded_bytes()) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(%error, "NOTIFY_SOCKET leads nowhere: systemd is not told");
                None
            }
        });
        let ours = env::var("WATCHDOG_PID").is_ok_and(|pid| pid == std::process::id().to_string());
        let micros = env::var("WATCHDOG_USEC").ok().and_then(|micros| micros.parse().ok());
        Self { socket, watchdog: micros.filter(|_| ours).map(Duration::from_micros) }
    }

    /// It is ready: from now on what depends on it is started.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// It begins to end: what was begun is finished first.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Says that it lives, twice as often as the unit wants to hear it (`WatchdogSec`), as long as the store answers. A full
    /// disk is an answer: a new process does not cure it.
    pub async fn live(&self, agent: Arc<Agent>) {
        let Some(interval) = self.watchdog else { return std::future::pending().await };
        loop {
            tokio::time::sleep(interval / 2).await;
            if tokio::time::timeout(interval / 2, agent.store().probe()).await.is_ok() {
                self.tell("WATCHDOG=1");
            }
        }
    }

    fn tell(&self, word: &str) {
        if let Some(Err(error)) = self.socket.as_ref().map(|socket| socket.send(word.as_bytes())) {
            tracing::warn!(%error, "systemd is not told {word}");
        }
    }
}

/// A path, or with `@` before it the name of an abstract socket.
fn connect(path: &[u8]) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    match path.strip_prefix(b"@") {
        #[cfg(target_os = "linux")]
        Some(name) => {
            use std::os::{linux::net::SocketAddrExt, unix::net::SocketAddr};
            socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?;
        }
        _ => {
            use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
            socket.connect(OsStr::from_bytes(path))?;
        }
    }
    Ok(socket)
}
