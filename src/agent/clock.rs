//! The wall clock, for times that are stored or sent, and the pauses between attempts. Timers use the monotonic clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{didcomm::MAX_CLOCK_SKEW_SECONDS, secrets::Backoff};

/// A time in milliseconds since 1970, UTC, by the system's clock; or a duration in milliseconds.
pub type Millis = i64;

/// How far a peer's clock may differ from ours, in milliseconds: five minutes.
pub const MAX_CLOCK_SKEW: Millis = MAX_CLOCK_SKEW_SECONDS as Millis * 1000;

/// The current time in milliseconds since 1970, UTC.
pub fn now() -> Millis {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis().try_into().unwrap_or(Millis::MAX))
}

/// Converts a time of a DIDComm message, in seconds since 1970, to milliseconds. A time out of range becomes the
/// largest representable time.
pub fn seconds_to_millis(seconds: u64) -> Millis {
    Millis::try_from(seconds).unwrap_or(Millis::MAX).saturating_mul(1000)
}

/// Returns the pause after `failures` failures, with full jitter: a random time up to a maximum. The maximum is `first`
/// after one failure, doubles with each further failure, and never exceeds `longest`.
pub fn full_jitter(first: Duration, longest: Duration, failures: u32) -> Duration {
    Backoff::new(first, longest).with_jitter(1.0).pause(failures)
}
