//! Noticing that a person has locked the token, in this program or in another one.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Instant,
};

/// The time between two readings of the PIN guard, in milliseconds.
const CHECK_INTERVAL: u64 = 1000;

/// Whether a person has locked the token, and when to read the PIN guard again.
pub(super) struct LockWatch {
    locked: AtomicBool,
    started: Instant,
    /// When to read the guard again, in milliseconds after `started`.
    next_check: AtomicU64,
}

impl LockWatch {
    pub(super) fn new() -> Self {
        Self { locked: AtomicBool::new(false), started: Instant::now(), next_check: AtomicU64::new(CHECK_INTERVAL) }
    }

    pub(super) fn is_locked(&self) -> bool {
        self.locked.load(Ordering::Relaxed)
    }

    /// Records whether the token is locked. Returns whether it was locked before.
    pub(super) fn set_locked(&self, locked: bool) -> bool {
        self.locked.swap(locked, Ordering::Relaxed)
    }

    /// Whether the caller must read the guard now. True for one thread in each interval.
    pub(super) fn is_check_due(&self) -> bool {
        let now = self.started.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
        let due = self.next_check.load(Ordering::Relaxed);
        let next = now.saturating_add(CHECK_INTERVAL);
        now >= due && self.next_check.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}
