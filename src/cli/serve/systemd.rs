//! Notifies systemd (sd_notify(3)) that the daemon is ready, alive or stopping.
//!
//! The crate `sd-notify` opens a socket for each message, which the sandbox forbids. This module opens its socket
//! before the sandbox is entered.

use std::{env, io, os::unix::net::UnixDatagram, sync::Arc, time::Duration};

use claviger::agent::Agent;

/// The socket to systemd, if systemd started this process and asked for notifications.
pub struct Notifier {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// Connects to systemd. Must be called before the process enters its sandbox.
    pub fn open() -> Self {
        let socket = env::var_os("NOTIFY_SOCKET").and_then(|path| match connect(path.as_encoded_bytes()) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(%error, "cannot connect to NOTIFY_SOCKET: systemd gets no notifications");
                None
            }
        });
        let is_for_this_process = env::var("WATCHDOG_PID").is_ok_and(|pid| pid == std::process::id().to_string());
        let micros = env::var("WATCHDOG_USEC").ok().and_then(|micros| micros.parse().ok());
        Self { socket, watchdog: micros.filter(|_| is_for_this_process).map(Duration::from_micros) }
    }

    /// Tells systemd that the daemon is ready.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// Tells systemd that the daemon is shutting down.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// Tells systemd twice in each `WatchdogSec` that the daemon is alive, as long as the store answers. An error
    /// counts as an answer, because a restart would not help against a full disk, for example. Never returns.
    pub async fn watchdog(&self, agent: Arc<Agent>) {
        let Some(interval) = self.watchdog else { return std::future::pending().await };
        loop {
            tokio::time::sleep(interval / 2).await;
            if tokio::time::timeout(interval / 2, agent.store().probe_write()).await.is_ok() {
                self.send("WATCHDOG=1");
            }
        }
    }

    fn send(&self, message: &str) {
        if let Some(Err(error)) = self.socket.as_ref().map(|socket| socket.send(message.as_bytes())) {
            tracing::warn!(%error, state = message, "systemd not notified");
        }
    }
}

/// Connects to a path, or, if it begins with `@`, to an abstract socket.
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
