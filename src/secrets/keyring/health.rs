//! Whether a token serves: a breaker, and a prober that looks until it does again.

use std::{
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use crate::secrets::{Cause, KeyState, TokenError};

/// Failures in a row, each after its own retry, that make a token not ready.
const BREAKER: u32 = 3;
/// The first look at a token that does not serve, and the longest time between two. A token that is back serves within
/// five seconds, so a look must be made well before.
const FIRST_LOOK: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Whether one token serves.
#[derive(Default)]
pub(super) struct Health {
    /// Failures in a row that may be the token's.
    failures: AtomicU32,
    /// Whether there is trouble: read for each request.
    troubled: AtomicBool,
    state: Mutex<State>,
    /// The prober is to end, or to look now.
    wake: Condvar,
}

#[derive(Default)]
struct State {
    /// Why it does not serve, and since when.
    trouble: Option<(TokenError, Instant)>,
    /// A prober is at work.
    probing: bool,
    /// Disconnected when the last prober has ended.
    prober: Option<mpsc::Receiver<()>>,
    stopped: bool,
}

/// What an operation's end says of the token.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing is wrong with it.
    Well,
    /// The key was not found: the keys are to be looked for again.
    KeyGone,
    /// It does not serve.
    Trouble,
}

impl Health {
    /// Looks at how an operation ended. What a peer is to blame for never counts.
    pub(super) fn judge(&self, error: Option<&TokenError>) -> Verdict {
        let Some(error) = error else {
            if self.failures.load(Ordering::Relaxed) > 0 {
                self.failures.store(0, Ordering::Relaxed);
            }
            return Verdict::Well;
        };
        match error.cause() {
            Cause::Peer | Cause::Permanent => Verdict::Well,
            Cause::TokenGone if *error == TokenError::KeyGone => Verdict::KeyGone,
            Cause::TokenGone | Cause::Pin => Verdict::Trouble,
            Cause::Transient | Cause::SessionLost => {
                let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
                if failures >= BREAKER { Verdict::Trouble } else { Verdict::Well }
            }
        }
    }

    /// Why it does not serve, and since when.
    pub(super) fn trouble(&self) -> Option<(TokenError, Instant)> {
        if !self.troubled.load(Ordering::Acquire) {
            return None;
        }
        self.lock().trouble.clone()
    }

    /// It does not serve, for this reason. Whether that is news.
    pub(super) fn troubled(&self, error: TokenError) -> bool {
        let mut state = self.lock();
        let since = state.trouble.as_ref().map_or_else(Instant::now, |(_, since)| *since);
        let news = state.trouble.as_ref().is_none_or(|(known, _)| *known != error);
        state.trouble = Some((error, since));
        self.troubled.store(true, Ordering::Release);
        news
    }

    /// It serves, as the prober has seen, which ends with this. What failed meanwhile is asked again, and fails again.
    pub(super) fn found(&self) {
        let mut state = self.lock();
        state.trouble = None;
        state.probing = false;
        self.failures.store(0, Ordering::Relaxed);
        self.troubled.store(false, Ordering::Release);
    }

    /// Has `prober` started, unless one is at work. What it is given is dropped when it ends.
    /// If it cannot be started, the next failure asks for one again.
    pub(super) fn probe(&self, start: impl FnOnce(mpsc::Sender<()>) -> bool) {
        let mut state = self.lock();
        if state.stopped || state.probing {
            return;
        }
        let (end, ended) = mpsc::channel();
        if start(end) {
            (state.probing, state.prober) = (true, Some(ended));
        }
    }

    /// Waits before the next look; false if there is to be none.
    pub(super) fn pause(&self, looks: u32) -> bool {
        let pause = (FIRST_LOOK * 2u32.saturating_pow(looks.min(8))).min(LONGEST_PAUSE);
        let state = self.lock();
        let waited = self.wake.wait_timeout_while(state, pause, |state| !state.stopped);
        !waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0.stopped
    }

    /// Has the prober end; what to wait on until it has.
    pub(super) fn stop(&self) -> Option<mpsc::Receiver<()>> {
        let mut state = self.lock();
        state.stopped = true;
        self.wake.notify_all();
        state.prober.take()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// What a key's state is while its token does not serve for this reason.
pub(in crate::secrets) fn state_of(trouble: &TokenError) -> KeyState {
    if trouble.cause() == Cause::Pin { KeyState::Locked } else { KeyState::Away }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_in_a_row_that_may_be_the_tokens_trip_the_breaker() {
        let device = TokenError::Device { operation: "C_Sign".into(), reason: "CKR_DEVICE_ERROR".into() };
        let health = Health::default();
        for _ in 0..100 {
            assert_eq!(health.judge(Some(&TokenError::Unwrap)), Verdict::Well, "a hostile peer is no sick token");
            assert_eq!(health.judge(Some(&TokenError::PeerKey("point".into()))), Verdict::Well);
        }
        for _ in 0..10 {
            assert_eq!(health.judge(Some(&device)), Verdict::Well);
            assert_eq!(health.judge(Some(&device)), Verdict::Well);
            assert_eq!(health.judge(None), Verdict::Well);
        }
        assert_eq!(health.judge(Some(&device)), Verdict::Well);
        assert_eq!(health.judge(Some(&TokenError::Unwrap)), Verdict::Well);
        assert_eq!(health.judge(Some(&device)), Verdict::Well);
        assert_eq!(health.judge(Some(&device)), Verdict::Trouble);
        assert_eq!(health.judge(Some(&TokenError::Pin("refused".into()))), Verdict::Trouble);
        assert_eq!(health.judge(Some(&TokenError::KeyGone)), Verdict::KeyGone);
    }
}
