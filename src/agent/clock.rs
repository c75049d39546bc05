//! The time of day, for what is written down. What waits, waits by the monotonic clock.

use std::time::{SystemTime, UNIX_EPOCH};

use super::store::Millis;

/// How far a peer's clock may be from ours: five minutes.
pub const SKEW: Millis = 5 * 60 * 1000;

/// Milliseconds since 1970, UTC.
pub fn now() -> Millis {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis().try_into().unwrap_or(Millis::MAX))
}

/// A message's time, which is in seconds.
pub fn of_seconds(seconds: u64) -> Millis {
    Millis::try_from(seconds).unwrap_or(Millis::MAX).saturating_mul(1000)
}
