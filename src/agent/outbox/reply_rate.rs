//! Bounds how many replies to strangers are packed per second: each is a private-key operation that a stranger causes.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// Up to one second's replies may be packed at once after a quiet time.
const BURST: Duration = Duration::from_secs(1);

/// Hands out the times at which replies to strangers may be packed.
pub(super) struct ReplyRate {
    interval: Duration,
    /// When the next reply may be packed, if all earlier ones were packed one after another.
    next: Mutex<Instant>,
}

impl ReplyRate {
    /// A rate of `per_second` replies, at least 1.
    pub fn new(per_second: u32) -> Self {
        Self { interval: Duration::from_secs(1) / per_second.max(1), next: Mutex::new(Instant::now()) }
    }

    /// Waits until the next reply may be packed.
    pub async fn wait(&self) {
        sleep_until(self.reserve(Instant::now())).await;
    }

    fn reserve(&self, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        *next = (*next).max(earliest) + self.interval;
        *next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_spread_out_after_a_burst() {
        let rate = ReplyRate::new(10);
        let start = Instant::now() + Duration::from_secs(100);
        let waits: Vec<Duration> = (0..15).map(|_| rate.reserve(start).saturating_duration_since(start)).collect();
        assert!(waits[..10].iter().all(Duration::is_zero), "{waits:?}");
        assert_eq!(waits[10..], [1, 2, 3, 4, 5].map(|tenths| Duration::from_millis(tenths * 100)));
    }
}
