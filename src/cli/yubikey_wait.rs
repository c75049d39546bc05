//! Waits for a YubiKey that is not plugged in, or that another program uses.

use std::{
    io::IsTerminal,
    thread,
    time::{Duration, Instant},
};

use super::{
    config::{Config, TokenConfig},
    failure::Failure,
    output::{count, warn},
};

/// How long to wait at a terminal without --wait.
const TERMINAL_TIMEOUT: Duration = Duration::from_secs(60);
/// The pause between two attempts to open the YubiKey.
const PAUSE: Duration = Duration::from_millis(500);

/// Whether a failure to open a token means that a YubiKey is not plugged in, or that another program uses it.
pub fn is_unplugged(token: &TokenConfig, failure: &Failure) -> bool {
    failure.code == "token-absent" && token.is_yubikey()
}

/// How long to wait, and whether the person was asked to plug in the YubiKey.
pub struct YubiKeyWait {
    until: Option<Instant>,
    announced: bool,
    json: bool,
}

impl YubiKeyWait {
    /// Starts the wait: `--wait` seconds, or a minute at a terminal, else no time.
    pub fn new(config: &Config) -> Self {
        let time = config.wait.or_else(|| std::io::stderr().is_terminal().then_some(TERMINAL_TIMEOUT));
        let json = config.flags.iter().any(|flag| flag == "--json");
        Self { until: time.and_then(|time| Instant::now().checked_add(time)), announced: false, json }
    }

    /// If the failure means that a YubiKey is not there or not free, and time is left: warns the person (the first time
    /// only), pauses, and returns `true`. Otherwise returns `false` at once.
    pub fn should_retry(&mut self, token: &TokenConfig, failure: &Failure) -> bool {
        let left = self.until.map(|until| until.saturating_duration_since(Instant::now())).unwrap_or_default();
        if !is_unplugged(token, failure) || left.is_zero() {
            return false;
        }
        if !std::mem::replace(&mut self.announced, true) {
            let left = count(left.as_secs_f64().round() as usize, "second");
            warn(&format!("{}; waiting for it, {left} at most", failure.message), self.json);
        }
        thread::sleep(PAUSE.min(left));
        true
    }
}
