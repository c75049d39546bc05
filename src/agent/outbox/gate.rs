//! The gate of an origin: its window and its breaker. A neighbourhood has a gate, too, of which only the window is used.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Semaphore, time::Instant};

use crate::agent::clock::full_jitter;

/// The time for a message to a proven origin, to an unproven one, and to one that failed the last time.
pub(super) const SEND_LIMIT: Duration = Duration::from_secs(30);
pub(super) const FIRST_SEND_LIMIT: Duration = Duration::from_secs(10);
pub(super) const SHORT_SEND_LIMIT: Duration = Duration::from_secs(5);

/// The limits of all gates.
#[derive(Clone, Copy)]
pub(super) struct OriginLimits {
    pub max_window: usize,
    pub first_pause: Duration,
    pub longest_pause: Duration,
}

/// The window and the breaker of an origin, or the window of a neighbourhood.
pub(super) struct Gate {
    pub window: Arc<Semaphore>,
    /// The permits of messages to strangers, which they need before one of the window.
    pub strangers: Arc<Semaphore>,
    pub state: Mutex<GateState>,
}

/// The part of a gate that changes.
pub(super) struct GateState {
    /// The size of the window, and the largest that it had.
    pub size: usize,
    pub largest: usize,
    /// The size from which the window grows by one with as many accepted messages as it has permits: half the size at the last
    /// failure. Below it, the window grows with each accepted message.
    pub threshold: usize,
    /// The messages that were accepted since the window grew, above the threshold.
    pub accepted: usize,
    /// The permits that are taken back as soon as they are returned.
    pub excess: usize,
    /// Whether the origin has accepted a message lately.
    pub is_proven: bool,
    /// The failures in a row, and the error answers in a row.
    pub failures: u32,
    pub error_answers: u32,
    /// Until when the breaker is open, and why.
    pub open_until: Instant,
    pub problem: String,
    pub used: Instant,
}

/// The breaker of an origin is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Paused {
    /// The time until the next attempt is allowed.
    pub pause: Duration,
    /// Why the last attempt failed.
    pub problem: String,
}

impl Gate {
    pub fn new(window: usize) -> Self {
        let now = Instant::now();
        Self {
            window: Arc::new(Semaphore::new(window)),
            strangers: Arc::new(Semaphore::new(window.saturating_sub(1).max(1))),
            state: Mutex::new(GateState {
                size: window,
                largest: window,
                threshold: usize::MAX,
                accepted: 0,
                excess: 0,
                is_proven: false,
                failures: 0,
                error_answers: 0,
                open_until: now,
                problem: String::new(),
                used: now,
            }),
        }
    }

    pub fn check(&self) -> Result<(), Paused> {
        let state = self.state();
        let pause = state.open_until.saturating_duration_since(Instant::now());
        match pause.is_zero() {
            true => Ok(()),
            false => Err(Paused { pause, problem: state.problem.clone() }),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GateState {
    /// The time for the next message. After failures it is short, but the full time now and then: the server may be slow.
    pub fn send_limit(&self) -> Duration {
        match (self.failures, self.is_proven) {
            (0, true) => SEND_LIMIT,
            (0, false) => FIRST_SEND_LIMIT,
            (failures, _) if failures % 4 == 3 => SEND_LIMIT,
            _ => SHORT_SEND_LIMIT,
        }
    }

    /// Counts an accepted message. Returns whether the window may grow by one.
    pub fn earns_growth(&mut self) -> bool {
        self.accepted += usize::from(self.size >= self.threshold);
        let is_earned = self.size < self.threshold || self.accepted >= self.size;
        if is_earned {
            self.accepted = 0;
        }
        is_earned
    }

    pub fn open(&mut self, limits: OriginLimits, problem: &str) {
        self.open_until = Instant::now() + full_jitter(limits.first_pause, limits.longest_pause, self.failures);
        problem.clone_into(&mut self.problem);
    }
}
