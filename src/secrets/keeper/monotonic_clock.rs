//! Deadlines as times of CLOCK_MONOTONIC, which all processes of a machine share.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// A deadline for the other process, in milliseconds of CLOCK_MONOTONIC.
pub(super) fn to_clock(deadline: Instant) -> u64 {
    now() + u64::try_from(deadline.saturating_duration_since(Instant::now()).as_millis()).unwrap_or(u64::MAX / 2)
}

/// The deadline that the other process sent.
pub(super) fn from_clock(deadline: u64) -> Instant {
    Instant::now() + Duration::from_millis(deadline.saturating_sub(now()).min(u64::from(u32::MAX)))
}

fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or_default() * 1000 + u64::try_from(now.tv_nsec).unwrap_or_default() / 1_000_000
}
