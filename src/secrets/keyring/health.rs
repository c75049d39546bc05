//! One token's health: the circuit breaker, the current outage, and the prober's control.

use std::{
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use crate::secrets::{
    backoff::Backoff,
    error::{Cause, TokenError},
    mutex::lock,
    outage::{Availability, Outage},
    person::Stopwatch,
};

/// After this many failures in a row, a token is taken out of service. The token itself has retried each operation
/// before reporting the failure.
const MAX_FAILURES: u32 = 3;
/// Pauses between two probes of a token that is out of service. A token that is back must be in service within five
/// seconds, so the longest pause is far below that.
const PROBE_BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));

/// An outage that begins within this time after the one before continues it, unless an operation succeeded meanwhile.
const RELAPSE: Duration = Duration::from_secs(60);

/// One token's health.
#[derive(Default)]
pub(super) struct TokenHealth {
    /// Failures in a row that may be the token's fault.
    failures: AtomicU32,
    /// Whether there is an outage. This is read for each request, so it is outside the mutex.
    is_out_of_service: AtomicBool,
    /// Whether no operation has succeeded since the token came back into service.
    awaits_success: AtomicBool,
    /// Whether an operation has succeeded since this was asked last.
    was_used: AtomicBool,
    state: Mutex<State>,
    /// Notified when the prober must stop.
    stop: Condvar,
}

#[derive(Default)]
struct State {
    availability: Availability,
    /// When the token was put into service; `None` while it is out of service, and before its first outage.
    in_service_since: Option<Instant>,
    /// When the failures began that go on: neither an operation nor time in service has ended them.
    failing_since: Option<Instant>,
    is_probing: bool,
    /// Whether a probe was asked for while the prober ran. Its last probe may have been too early.
    probe_again: bool,
    /// The probe that is running.
    probe: Option<Stopwatch>,
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
            if !self.was_used.load(Ordering::Relaxed) {
                self.was_used.store(true, Ordering::Relaxed);
            }
            if self.failures.load(Ordering::Relaxed) > 0 {
                self.failures.store(0, Ordering::Relaxed);
            }
            if self.awaits_success.load(Ordering::Relaxed) {
                self.awaits_success.store(false, Ordering::Relaxed);
                self.lock().failing_since = None;
            }
            return Diagnosis::Healthy;
        };
        match error.cause() {
            Cause::Peer | Cause::Unknown | Cause::Permanent => Diagnosis::Healthy,
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
        if state.in_service_since.take().is_some_and(|since| since.elapsed() > RELAPSE) {
            state.failing_since = None;
        }
        state.failing_since.get_or_insert_with(Instant::now);
        let is_new = state.availability.set_out_of_service(error);
        self.is_out_of_service.store(true, Ordering::Release);
        is_new
    }

    /// Puts the token into service. Only the prober calls this.
    pub(super) fn set_in_service(&self) {
        let mut state = self.lock();
        state.availability.set_in_service();
        state.in_service_since = Some(Instant::now());
        self.awaits_success.store(true, Ordering::Relaxed);
        self.failures.store(0, Ordering::Relaxed);
        self.is_out_of_service.store(false, Ordering::Release);
    }

    /// Starts a prober with `start`, unless a prober is running. The prober must drop the sender when it ends. `start`
    /// returns false if it could not start a prober; the next failure tries again.
    pub(super) fn start_prober(&self, start: impl FnOnce(mpsc::Sender<()>) -> bool) {
        let mut state = self.lock();
        if state.is_stopped || state.is_probing {
            state.probe_again = state.is_probing;
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

    /// Runs one probe.
    pub(super) fn probe<T>(&self, probe: impl FnOnce() -> T) -> T {
        {
            let mut state = self.lock();
            state.probe_again = false;
            state.probe = Some(Stopwatch::start());
        }
        let result = probe();
        self.lock().probe = None;
        result
    }

    /// How long the running probe has taken, without the time during which a person was asked; `None` if none runs.
    pub(super) fn probing(&self) -> Option<Duration> {
        self.lock().probe.map(Stopwatch::elapsed)
    }

    /// Since when the token has failed. That it was put into service does not end this: a probe forgives a key some
    /// failures, so a token may pass it and fail at each operation. An operation that succeeds ends it.
    pub(super) fn failing_since(&self) -> Option<Instant> {
        self.lock().failing_since
    }

    /// Whether an operation has succeeded since the last call.
    pub(super) fn was_used(&self) -> bool {
        self.was_used.swap(false, Ordering::Relaxed)
    }

    /// Whether the prober may end after it has put the token into service. If so, the next outage starts a new prober.
    /// If not, the token has failed again meanwhile, or another probe was asked for.
    pub(super) fn end_probing(&self) -> bool {
        let mut state = self.lock();
        if state.is_stopped || (state.availability.outage().is_none() && !state.probe_again) {
            state.is_probing = false;
        }
        !state.is_probing
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
            assert_eq!(health.record(Some(&TokenError::Refused("point".into()))), Diagnosis::Healthy);
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
