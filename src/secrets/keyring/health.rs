//! One token's health: the circuit breaker, the current outage, and the prober's control.

use std::{
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc,
    },
    time::Duration,
};

use crate::secrets::{
    backoff::Backoff,
    error::{Cause, TokenError},
    mutex::lock,
    outage::{Availability, Outage},
};

/// After this many failures in a row, a token is taken out of service. The token itself has retried each operation
/// before reporting the failure.
const MAX_FAILURES: u32 = 3;
/// Pauses between two probes of a token that is out of service. A token that is back must be in service within five
/// seconds, so the longest pause is far below that.
const PROBE_BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));

/// One token's health.
#[derive(Default)]
pub(super) struct TokenHealth {
    /// Failures in a row that may be the token's fault.
    failures: AtomicU32,
    /// Whether there is an outage. This is read for each request, so it is outside the mutex.
    is_out_of_service: AtomicBool,
    state: Mutex<State>,
    /// Notified when the prober must stop.
    stop: Condvar,
}

#[derive(Default)]
struct State {
    availability: Availability,
    is_probing: bool,
    /// Disconnected when the last prober has ended.
    prober_end: Option<mpsc::Receiver<()>>,
    is_stopped: bool,
}

/// What the result of an operation says about the token.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Diagnosis {
    /// The token stays in service.
    Healthy,
    /// The key was not found: the token's keys must be found again.
    KeyGone,
    /// The token is out of service.
    OutOfService,
}

impl TokenHealth {
    /// Records the result of an operation. A failure that is the peer's fault never counts.
    pub(super) fn record(&self, error: Option<&TokenError>) -> Diagnosis {
        let Some(error) = error else {
            if self.failures.load(Ordering::Relaxed) > 0 {
                self.failures.store(0, Ordering::Relaxed);
            }
            return Diagnosis::Healthy;
        };
        match error.cause() {
            Cause::Peer | Cause::Permanent => Diagnosis::Healthy,
            Cause::TokenGone if *error == TokenError::KeyGone => Diagnosis::KeyGone,
            Cause::TokenGone | Cause::Pin => Diagnosis::OutOfService,
            Cause::Transient | Cause::SessionLost => {
                let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
                if failures >= MAX_FAILURES { Diagnosis::OutOfService } else { Diagnosis::Healthy }
            }
        }
    }

    /// The current outage; `None` while the token is in service.
    pub(super) fn outage(&self) -> Option<Outage> {
        if !self.is_out_of_service.load(Ordering::Acquire) {
            return None;
        }
        self.lock().availability.outage().cloned()
    }

    /// Takes the token out of service. Returns true if the error differs from the previous one.
    pub(super) fn set_out_of_service(&self, error: TokenError) -> bool {
        let mut state = self.lock();
        let is_new = state.availability.set_out_of_service(error);
        self.is_out_of_service.store(true, Ordering::Release);
        is_new
    }

    /// Puts the token into service. Only the prober calls this, and ends afterwards: the next outage
    /// starts a new prober.
    pub(super) fn set_in_service(&self) {
        let mut state = self.lock();
        state.availability.set_in_service();
        state.is_probing = false;
        self.failures.store(0, Ordering::Relaxed);
        self.is_out_of_service.store(false, Ordering::Release);
    }

    /// Starts a prober with `start`, unless a prober is running. The prober must drop the sender when it ends. `start`
    /// returns false if it could not start a prober; the next failure tries again.
    pub(super) fn start_prober(&self, start: impl FnOnce(mpsc::Sender<()>) -> bool) {
        let mut state = self.lock();
        if state.is_stopped || state.is_probing {
            return;
        }
        let (sender, receiver) = mpsc::channel();
        if start(sender) {
            (state.is_probing, state.prober_end) = (true, Some(receiver));
        }
    }

    /// Pauses the prober, which has failed `probes` times. Returns false if the prober must stop.
    pub(super) fn pause(&self, probes: u32) -> bool {
        let pause = PROBE_BACKOFF.pause(probes + 1);
        let state = self.lock();
        let waited = self.stop.wait_timeout_while(state, pause, |state| !state.is_stopped);
        !waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0.is_stopped
    }

    /// Stops the prober. The returned receiver is disconnected when the prober has ended.
    pub(super) fn stop(&self) -> Option<mpsc::Receiver<()>> {
        let mut state = self.lock();
        state.is_stopped = true;
        self.stop.notify_all();
        state.prober_end.take()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_tokens_own_failures_in_a_row_trip_the_breaker() {
        let device = TokenError::Device { operation: "C_Sign".into(), reason: "CKR_DEVICE_ERROR".into() };
        let health = TokenHealth::default();
        for _ in 0..100 {
            assert_eq!(health.record(Some(&TokenError::Unwrap)), Diagnosis::Healthy, "the peer's fault");
            assert_eq!(health.record(Some(&TokenError::PeerKey("point".into()))), Diagnosis::Healthy);
        }
        for _ in 0..10 {
            assert_eq!(health.record(Some(&device)), Diagnosis::Healthy);
            assert_eq!(health.record(Some(&device)), Diagnosis::Healthy);
            assert_eq!(health.record(None), Diagnosis::Healthy);
        }
        assert_eq!(health.record(Some(&device)), Diagnosis::Healthy);
        assert_eq!(health.record(Some(&TokenError::Unwrap)), Diagnosis::Healthy);
        assert_eq!(health.record(Some(&device)), Diagnosis::Healthy);
        assert_eq!(health.record(Some(&device)), Diagnosis::OutOfService);
        assert_eq!(health.record(Some(&TokenError::Pin("refused".into()))), Diagnosis::OutOfService);
        assert_eq!(health.record(Some(&TokenError::KeyGone)), Diagnosis::KeyGone);
    }
}
