//! Measures how long a token's operations take. A caller of a fast token polls for the result instead of sleeping.
//!
//! Putting a thread to sleep and waking it costs about 100 microseconds on an idle virtual machine, as much as an
//! operation of a fast token.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

/// A token whose operations take less than this on average is fast.
const FAST: Duration = Duration::from_millis(1);
/// How long the thread of a fast token polls for its next request.
const IDLE_POLL: Duration = Duration::from_micros(100);

/// The average time of a token's operations, and how many callers wait for a result.
#[derive(Default)]
pub(in crate::secrets) struct Latency {
    /// A moving average over about eight operations. 0 before the first operation.
    average_nanos: AtomicU64,
    waiters: AtomicUsize,
}

impl Latency {
    /// Adds the time of one operation.
    pub(in crate::secrets) fn record(&self, time: Duration) {
        let eighth = time.as_nanos().try_into().unwrap_or(u64::MAX) / 8;
        let average = match self.average_nanos.load(Ordering::Relaxed) {
            0 => eighth.saturating_mul(8),
            average => (average - average / 8).saturating_add(eighth),
        };
        self.average_nanos.store(average, Ordering::Relaxed);
    }

    /// The time until which the token's thread polls for its next request; `None` if the token is not fast.
    pub(in crate::secrets) fn poll_until(&self) -> Option<Instant> {
        self.average_if_fast().map(|_| Instant::now() + IDLE_POLL)
    }

    fn average_if_fast(&self) -> Option<Duration> {
        let average = Duration::from_nanos(self.average_nanos.load(Ordering::Relaxed));
        (!average.is_zero() && average < FAST).then_some(average)
    }
}

/// A caller that waits for a token.
pub(in crate::secrets) struct Waiter<'l> {
    latency: &'l Latency,
    is_alone: bool,
}

impl<'l> Waiter<'l> {
    /// Counts a waiting caller until the returned value is dropped.
    pub(in crate::secrets) fn new(latency: &'l Latency) -> Self {
        let others = latency.waiters.fetch_add(1, Ordering::Relaxed);
        Self { latency, is_alone: others == 0 }
    }

    /// Polls `is_done` for at most twice the token's average time, while the runtime's other tasks and timers run
    /// between two polls. Returns at once if the token is not fast, or another caller waited already.
    pub(in crate::secrets) async fn poll(&self, deadline: Instant, mut is_done: impl FnMut() -> bool) {
        let Some(average) = self.latency.average_if_fast().filter(|_| self.is_alone) else { return };
        let until = (Instant::now() + 2 * average).min(deadline);
        while !is_done() && Instant::now() < until {
            tokio::task::yield_now().await;
            yield_processor();
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.latency.waiters.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Lets other threads run between two polls.
///
/// The system often wakes a thread on the processor of the thread that woke it. A poller that does not yield then keeps
/// the thread it waits for from running. On an idle token this cost 100 microseconds for each request.
pub(in crate::secrets) fn yield_processor() {
    thread::yield_now();
}
