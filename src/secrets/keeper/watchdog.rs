//! The watchdog: finds operations that do not return.

use std::{
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::secrets::mutex::lock;

/// Records when each thread began its current operation.
pub(super) struct Watchdog {
    epoch: Instant,
    hang_timeout: Duration,
    timers: Mutex<Vec<Weak<AtomicU64>>>,
}

/// One thread's current operation: when it began, in milliseconds since the watchdog's epoch. 0 if there is none.
pub(super) struct OperationTimer(Arc<AtomicU64>);

impl Watchdog {
    pub(super) fn new(hang_timeout: Duration) -> Self {
        Self { epoch: Instant::now(), hang_timeout, timers: Mutex::default() }
    }

    /// A timer for one thread. The thread is watched until the timer is dropped.
    pub(super) fn timer(&self) -> OperationTimer {
        let timer = Arc::new(AtomicU64::new(0));
        lock(&self.timers).push(Arc::downgrade(&timer));
        OperationTimer(timer)
    }

    /// Whether an operation has taken longer than the timeout.
    pub(super) fn has_hung_operation(&self) -> bool {
        let mut timers = lock(&self.timers);
        timers.retain(|timer| timer.strong_count() > 0);
        let now = self.now();
        timers.iter().filter_map(Weak::upgrade).any(|timer| {
            let begin = timer.load(Ordering::Relaxed);
            begin > 0 && Duration::from_millis(now.saturating_sub(begin)) > self.hang_timeout
        })
    }

    /// Milliseconds since the epoch plus one, so never 0.
    fn now(&self) -> u64 {
        1 + u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }
}

impl OperationTimer {
    /// Runs an operation of this thread.
    pub(super) fn time<T>(&self, watchdog: &Watchdog, operation: impl FnOnce() -> T) -> T {
        self.0.store(watchdog.now(), Ordering::Relaxed);
        let result = operation();
        self.0.store(0, Ordering::Relaxed);
        result
    }
}
