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
    tokens::is_yubikey,
};

/// So long a person at a terminal is waited for, unless --wait says otherwise.
const AT_A_TERMINAL: Duration = Duration::from_secs(60);
/// How often it is looked for.
const GLANCE: Duration = Duration::from_millis(500);

/// Whether it is a YubiKey that is not plugged in.
pub fn is_absent(token: &TokenConfig, failure: &Failure) -> bool {
    failure.code == "token-absent" && is_yubikey(token)
}

/// How long is still waited, and whether it was said.
pub struct Patience {
    until: Option<Instant>,
    said: bool,
    json: bool,
}

impl Patience {
    pub fn new(config: &Config) -> Self {
        let given = config.wait.or_else(|| std::io::stderr().is_terminal().then_some(AT_A_TERMINAL));
        let json = config.flags.iter().any(|flag| flag == "--json");
        Self { until: given.and_then(|time| Instant::now().checked_add(time)), said: false, json }
    }

    /// Whether it is to be tried again after this failure, in a moment: it is that the YubiKey is not there, and a person
    /// has been told.
    pub fn again(&mut self, token: &TokenConfig, failure: &Failure) -> bool {
        let left = self.until.map(|until| until.saturating_duration_since(Instant::now())).unwrap_or_default();
        if !is_absent(token, failure) || left.is_zero() {
            return false;
        }
        if !std::mem::replace(&mut self.said, true) {
            let left = count(left.as_secs_f64().round() as usize, "second");
            warn(&format!("{}; it is waited for, {left} at most", failure.message), self.json);
        }
        thread::sleep(GLANCE.min(left));
        true
    }
}
