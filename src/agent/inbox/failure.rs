//! Decides from the error whether a message that did not open is tried again.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use super::options::InboxOptions;
use crate::{
    agent::clock::Millis,
    did::is_mutable,
    didcomm::Error,
    jose::JoseError,
    secrets::{SecretsError, TokenError},
};

/// Why a message did not open, classified by what happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnpackFailure {
    /// No token can open the message now, or a policy or a forbidden prompt prevents it. The message waits until a
    /// token opens it, at most for `Retention::envelopes` (30 days).
    RetryLater,
    /// The sender's DID cannot be resolved now, or its document does not list the key. The message waits for a limited
    /// time.
    SenderUnresolved,
    /// The message did not open, although the token is in order. It is tried again until [`Doubts`] says that it is
    /// let go.
    Doubtful(Doubt),
    /// The message is refused, because its failure is final.
    Permanent,
}

/// What a message that did not open leaves open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// The content key or the content does not open, so the message was not made for our key. A device with a passing
    /// fault looks the same.
    NotOpened,
    /// The token refuses the message, whose keys are valid, and opens others. The cause is not known.
    Refused,
}

/// The most messages whose attempts are counted. The attempts of more are not counted, so these wait.
const MAX_COUNTED: usize = 20_000;
/// How long the attempts of a message are remembered after the first, in milliseconds.
const REMEMBERED: Millis = 24 * 60 * 60 * 1000;

/// Classifies an error of unpacking. The peer is at fault if a message does not open, and is not if a token fails.
pub fn classify(error: &Error) -> UnpackFailure {
    match error {
        Error::Envelope(JoseError::Secrets(SecretsError::Token { error, .. })) => match error {
            TokenError::Unwrap => UnpackFailure::Doubtful(Doubt::NotOpened),
            TokenError::Refused(_) => UnpackFailure::Doubtful(Doubt::Refused),
            _ => UnpackFailure::RetryLater,
        },
        // All these errors are on our side and can be repaired: a policy, a keeper, its audit log.
        Error::Envelope(JoseError::Secrets(_)) => UnpackFailure::RetryLater,
        Error::Envelope(JoseError::Decrypt(_)) => UnpackFailure::Doubtful(Doubt::NotOpened),
        // A document names a key of ours that no token has shown yet.
        Error::NotForUs(_) | Error::KeyNotHeld(_) | Error::NoReadyKey { .. } => UnpackFailure::RetryLater,
        // The message waits until there is a connection with its sender, or an open invitation.
        Error::PromptNotAllowed { .. } => UnpackFailure::RetryLater,
        Error::Resolve(error) if error.may_pass() => UnpackFailure::SenderUnresolved,
        // The owner may have added the key a moment ago, and a copy of the older document may still be served.
        Error::NotAuthorised { kid, .. } | Error::UnusableKey { kid, .. } if is_mutable(kid) => {
            UnpackFailure::SenderUnresolved
        }
        _ => UnpackFailure::Permanent,
    }
}

/// The attempts to open messages that did not open although the token is in order, by the ids of their envelopes.
///
/// They are not stored. They are evidence about a token as it is now, and a new process gathers its own.
#[derive(Default)]
pub struct Doubts(Mutex<HashMap<i64, Attempts>>);

struct Attempts {
    doubt: Doubt,
    count: u32,
    first: Millis,
}

impl Doubts {
    /// Counts an attempt to open a message. Returns whether the message is let go: it was tried often enough, over a
    /// long enough time. `prompts` says whether an attempt may ask a person, who is not asked again.
    pub fn is_let_go(&self, envelope: i64, doubt: Doubt, prompts: bool, options: &InboxOptions, now: Millis) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_COUNTED {
            all.retain(|_, attempts| (0..REMEMBERED).contains(&(now - attempts.first)));
            if all.len() >= MAX_COUNTED && !all.contains_key(&envelope) {
                return false;
            }
        }
        let attempts = all.entry(envelope).or_insert(Attempts { doubt, count: 0, first: now });
        // A failure of another kind, or a clock that was set back: what was counted shows nothing any more.
        if attempts.doubt != doubt || attempts.first > now {
            *attempts = Attempts { doubt, count: 0, first: now };
        }
        attempts.count += 1;
        let is_let_go = match doubt {
            Doubt::NotOpened => prompts || attempts.count >= options.open_attempts,
            Doubt::Refused => {
                attempts.count >= options.refused_attempts && now - attempts.first >= options.refused_time
            }
        };
        if is_let_go {
            all.remove(&envelope);
        }
        is_let_go
    }

    /// Forgets the attempts to open a message, since it opened, or failed for another reason.
    pub fn forget(&self, envelope: i64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&envelope);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Millis = 60_000;

    #[test]
    fn a_message_that_does_not_open_is_let_go_after_the_second_attempt() {
        let (doubts, options) = (Doubts::default(), InboxOptions::default());
        let attempt = |prompts, now| doubts.is_let_go(1, Doubt::NotOpened, prompts, &options, now);
        assert!(!attempt(false, 0));
        assert!(attempt(false, 1000));
        assert!(!attempt(false, 2000), "forgotten");
        doubts.forget(1);
        assert!(!attempt(false, 3000), "forgotten");
        assert!(attempt(true, 3000), "a person is asked once");
    }

    #[test]
    fn a_message_that_a_token_refuses_is_let_go_after_many_attempts_over_minutes() {
        let (doubts, options) = (Doubts::default(), InboxOptions::default());
        let attempt = |now| doubts.is_let_go(1, Doubt::Refused, true, &options, now);
        assert!((0..100).all(|_| !attempt(MINUTE)), "within no time");
        assert!(!attempt(options.refused_time));
        assert!(attempt(MINUTE + options.refused_time));
        assert!(!attempt(MINUTE) && !attempt(MINUTE + options.refused_time), "few attempts");
        assert!(!attempt(0), "the clock was set back");
        assert!((1..7).all(|_| !attempt(options.refused_time)));
        assert!(!doubts.is_let_go(1, Doubt::NotOpened, false, &options, options.refused_time), "another failure");
        assert!(!attempt(options.refused_time));
    }

    #[test]
    fn the_memory_for_attempts_is_bounded() {
        let (doubts, options) = (Doubts::default(), InboxOptions::default());
        for envelope in 0..30_000 {
            doubts.is_let_go(envelope, Doubt::NotOpened, false, &options, 0);
        }
        assert_eq!(doubts.0.lock().unwrap().len(), MAX_COUNTED);
        assert!(doubts.is_let_go(7, Doubt::NotOpened, false, &options, 1));
        for envelope in [30_001, 30_002] {
            doubts.is_let_go(envelope, Doubt::NotOpened, false, &options, REMEMBERED);
        }
        assert!(doubts.0.lock().unwrap().len() < 10, "old attempts are forgotten");
    }
}
