//! How long a token usually takes: a quick one is waited for awake.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

/// A token that is usually quicker than this is waited for awake: putting a thread to sleep and waking it costs as much
/// as such an operation (some 100 microseconds on an idle virtual machine).
const QUICK: Duration = Duration::from_millis(1);
/// How long a quick token's thread stays awake for the next request.
const AWAKE: Duration = Duration::from_micros(100);

/// Between two looks of one that waits awake.
///
/// The system often wakes a thread on the processor of the one that woke it. Who spun there without a pause would keep
/// from working just whom it waits for: 100 microseconds of each quiet request, measured.
pub(in crate::secrets) fn make_way() {
    thread::yield_now();
}

/// How long a token usually takes, and how many wait for it.
#[derive(Default)]
pub(in crate::secrets) struct Pace {
    /// Nanoseconds of an operation, the last eight or so; 0 before the first.
    usual: AtomicU64,
    waiting: AtomicUsize,
}

impl Pace {
    /// Adds the time of one operation.
    pub(in crate::secrets) fn took(&self, time: Duration) {
        let time = time.as_nanos().try_into().unwrap_or(u64::MAX) / 8;
        let usual = self.usual.load(Ordering::Relaxed);
        let usual = if usual == 0 { time.saturating_mul(8) } else { (usual - usual / 8).saturating_add(time) };
        self.usual.store(usual, Ordering::Relaxed);
    }

    /// Until when its thread stays awake for the next request; none for a token that is not quick.
    pub(in crate::secrets) fn awake_until(&self) -> Option<Instant> {
        self.quick().map(|_| Instant::now() + AWAKE)
    }

    /// The usual time, of a token that is quick.
    fn quick(&self) -> Option<Duration> {
        let usual = Duration::from_nanos(self.usual.load(Ordering::Relaxed));
        (!usual.is_zero() && usual < QUICK).then_some(usual)
    }
}

/// One that waits for a token.
pub(in crate::secrets) struct Waiting<'p> {
    pace: &'p Pace,
    alone: bool,
}

impl<'p> Waiting<'p> {
    pub(in crate::secrets) fn new(pace: &'p Pace) -> Self {
        let others = pace.waiting.fetch_add(1, Ordering::Relaxed);
        Self { pace, alone: others == 0 }
    }

    /// Waits awake for as long as a quick token may take, if nobody else waits. Other tasks and timers of the runtime run
    /// between two looks.
    pub(in crate::secrets) async fn awake(&self, deadline: Instant, mut done: impl FnMut() -> bool) {
        let Some(usual) = self.pace.quick().filter(|_| self.alone) else { return };
        let until = (Instant::now() + 2 * usual).min(deadline);
        while !done() && Instant::now() < until {
            tokio::task::yield_now().await;
            make_way();
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.pace.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
