//! The time of day, for what is written down. What waits, waits by the monotonic clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// The pause after so many failures: any time up to what doubles with each of them (full jitter).
pub fn full_jitter(first: Duration, longest: Duration, failures: u32) -> Duration {
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(20));
    doubled.min(longest).mul_f64(random())
}

/// From 0 to 1.
fn random() -> f64 {
    const BITS: u32 = 53;
    // The low half of a random UUID has its fixed bits at the top.
    let (_, low) = uuid::Uuid::new_v4().as_u64_pair();
    (low & ((1 << BITS) - 1)) as f64 / (1_u64 << BITS) as f64
}
