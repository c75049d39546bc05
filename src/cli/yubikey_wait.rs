//! Waiting for a YubiKey that is not plugged in.

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

/// How long to wait at a terminal, unless --wait says otherwise.
const AT_A_TERMINAL: Duration = Duration::from_secs(60);
/// The pause between two attempts to open the YubiKey.
const PAUSE: Duration = Duration::from_millis(500);

/// Whether a failure to open a token means that a YubiKey is not plugged in.
pub fn is_unplugged(token: &TokenConfig, failure: &Failure) -> bool {
    failure.code == "token-absent" && token.is_yubikey()
}

/// The time that is left to wait, and whether the person was told to plug the YubiKey in.
pub struct YubiKeyWait {
    until: Option<Instant>,
    announced: bool,
    json: bool,
}

impl YubiKeyWait {
    pub fn new(config: &Config) -> Self {
        let time = config.wait.or_else(|| std::io::stderr().is_terminal().then_some(AT_A_TERMINAL));
        let json = config.flags.iter().any(|flag| flag == "--json");
        Self { until: time.and_then(|time| Instant::now().checked_add(time)), announced: false, json }
    }

    /// Returns after a pause whether to try again: the failure is that a YubiKey is not plugged in, and time is left.
    /// The first time it tells the person.
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
