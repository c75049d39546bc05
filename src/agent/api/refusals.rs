//! The log of refused connections. Anyone can cause its lines, so there are few at the default level.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How often the log reports a refused connection. The others are logged at `debug`.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// The refused connections of one socket.
#[derive(Default)]
pub struct Refusals(Mutex<Option<Instant>>);

impl Refusals {
    /// Logs a refused connection. `caller` is its address or user.
    pub fn log(&self, caller: &str, reason: &str) {
        let mut reported = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.is_some_and(|last| last.elapsed() < REPORT_INTERVAL) {
            return tracing::debug!(caller, reason, "API connection refused");
        }
        *reported = Some(Instant::now());
        tracing::warn!(caller, reason, "API connection refused; further ones in this minute are logged at `debug`");
    }
}
