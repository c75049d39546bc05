//! How long a token's operations usually take. A caller of a fast token polls for the result and does not sleep.
//!
//! Putting a thread to sleep and waking it costs about 100 microseconds on an idle virtual machine, as much as the
//! operation of a fast token.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

/// A token whose operations usually take less than this is fast.
const FAST: Duration = Duration::from_millis(1);
/// How long the thread of a fast token polls for its next request.
const IDLE_POLL: Duration = Duration::from_micros(100);

/// The usual time of a token's operations, and how many callers wait for one.
#[derive(Default)]
pub(in crate::secrets) struct Latency {
    /// Nanoseconds: a moving average over about eight operations. 0 before the first one.
    usual: AtomicU64,
    waiting: AtomicUsize,
}

impl Latency {
    /// Adds the time of one operation.
    pub(in crate::secrets) fn record(&self, time: Duration) {
        let time = time.as_nanos().try_into().unwrap_or(u64::MAX) / 8;
        let usual = self.usual.load(Ordering::Relaxed);
        let usual = if usual == 0 { time.saturating_mul(8) } else { (usual - usual / 8).saturating_add(time) };
        self.usual.store(usual, Ordering::Relaxed);
    }

    /// Until when the token's thread polls for its next request; none if the token is not fast.
    pub(in crate::secrets) fn poll_until(&self) -> Option<Instant> {
        self.usual_if_fast().map(|_| Instant::now() + IDLE_POLL)
    }

    fn usual_if_fast(&self) -> Option<Duration> {
        let usual = Duration::from_nanos(self.usual.load(Ordering::Relaxed));
        (!usual.is_zero() && usual < FAST).then_some(usual)
    }
}

/// A caller that waits for a token.
pub(in crate::secrets) struct Waiter<'l> {
    latency: &'l Latency,
    is_alone: bool,
}

impl<'l> Waiter<'l> {
    /// Counts as a waiting caller until it is dropped.
    pub(in crate::secrets) fn new(latency: &'l Latency) -> Self {
        let others = latency.waiting.fetch_add(1, Ordering::Relaxed);
        Self { latency, is_alone: others == 0 }
    }

    /// Polls `is_done` for twice the usual time of a fast token, if no other caller waits. The runtime's other tasks and
    /// timers run between two polls. Returns at once for a token that is not fast.
    pub(in crate::secrets) async fn poll(&self, deadline: Instant, mut is_done: impl FnMut() -> bool) {
        let Some(usual) = self.latency.usual_if_fast().filter(|_| self.is_alone) else { return };
        let until = (Instant::now() + 2 * usual).min(deadline);
        while !is_done() && Instant::now() < until {
            tokio::task::yield_now().await;
            yield_processor();
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.latency.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Lets other threads run between two polls.
///
/// The system often wakes a thread on the processor of the thread that woke it. A poller that does not yield then keeps
/// the thread it waits for from running: 100 microseconds for each request of an idle token, measured.
pub(in crate::secrets) fn yield_processor() {
    thread::yield_now();
}
