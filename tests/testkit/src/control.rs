//! How a test causes faults and delays of a [`SoftToken`](crate::SoftToken).

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use claviger::secrets::TokenError;

#[derive(Default)]
pub(crate) struct Control {
    orders: Mutex<Orders>,
    changed: Condvar,
}

#[derive(Default)]
struct Orders {
    failures: VecDeque<TokenError>,
    delay: Duration,
    away: bool,
    holds: usize,
    held: usize,
}

impl Control {
    /// Called at the beginning of every operation: waits while operations are held, sleeps for the delay, and fails if
    /// a failure was ordered.
    pub(crate) fn begin(&self, away: impl FnOnce() -> TokenError) -> Result<(), TokenError> {
        let mut orders = self.orders();
        orders.held += 1;
        self.changed.notify_all();
        while orders.holds > 0 {
            orders = self.changed.wait(orders).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        orders.held -= 1;
        let delay = orders.delay;
        drop(orders);
        thread::sleep(delay);

        let mut orders = self.orders();
        if orders.away {
            return Err(away());
        }
        orders.failures.pop_front().map_or(Ok(()), Err)
    }

    pub(crate) fn fail_next(&self, calls: usize, error: TokenError) {
        self.orders().failures.extend(std::iter::repeat_n(error, calls));
    }

    pub(crate) fn delay(&self, delay: Duration) {
        self.orders().delay = delay;
    }

    pub(crate) fn set_away(&self, away: bool) {
        self.orders().away = away;
    }

    pub(crate) fn is_away(&self) -> bool {
        self.orders().away
    }

    pub(crate) fn hold(&self) -> Hold<'_> {
        self.orders().holds += 1;
        Hold { control: self }
    }

    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// While this exists, operations wait at their beginning.
pub struct Hold<'a> {
    control: &'a Control,
}

impl Hold<'_> {
    /// Blocks until this many operations wait. Returns false if that takes longer than `time`.
    pub fn wait_for(&self, operations: usize, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut orders = self.control.orders();
        while orders.held < operations {
            let Some(left) = until.checked_duration_since(Instant::now()) else { return false };
            let wait = self.control.changed.wait_timeout(orders, left);
            orders = wait.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
        true
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.control.orders().holds -= 1;
        self.control.changed.notify_all();
    }
}
