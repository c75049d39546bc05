//! Deadlines as times of CLOCK_MONOTONIC, which all processes of a machine share.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Converts a deadline into milliseconds of CLOCK_MONOTONIC, to send it to the other process. A deadline in the
/// past becomes now.
pub(super) fn to_monotonic_millis(deadline: Instant) -> u64 {
    now_millis() + u64::try_from(deadline.saturating_duration_since(Instant::now()).as_millis()).unwrap_or(u64::MAX / 2)
}

/// Converts a deadline that the other process sent, in milliseconds of CLOCK_MONOTONIC. A deadline in the
/// past becomes now.
pub(super) fn from_monotonic_millis(deadline: u64) -> Instant {
    Instant::now() + Duration::from_millis(deadline.saturating_sub(now_millis()).min(u64::from(u32::MAX)))
}

fn now_millis() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or_default() * 1000 + u64::try_from(now.tv_nsec).unwrap_or_default() / 1_000_000
}
