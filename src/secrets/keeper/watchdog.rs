//! The watchdog: finds operations that do not return. The time during which a person is asked does not count.

use std::{
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::secrets::{mutex::lock, person::Stopwatch};

/// Records when each thread began its current operation.
pub(super) struct Watchdog {
    clock: Stopwatch,
    hang_timeout: Duration,
    timers: Mutex<Vec<Weak<AtomicU64>>>,
}

/// One thread's current operation: when it began, in milliseconds of the watchdog's clock. 0 if there is none.
pub(super) struct OperationTimer(Arc<AtomicU64>);

impl Watchdog {
    pub(super) fn new(hang_timeout: Duration) -> Self {
        Self { clock: Stopwatch::start(), hang_timeout, timers: Mutex::default() }
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

    /// Whether no operation runs.
    pub(super) fn is_idle(&self) -> bool {
        lock(&self.timers).iter().filter_map(Weak::upgrade).all(|timer| timer.load(Ordering::Relaxed) == 0)
    }

    /// Milliseconds of the clock plus one, so never 0.
    fn now(&self) -> u64 {
        1 + u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
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
