//! Known-answer checks of a token in service: they tell whether a failed operation is the token's fault.
//!
//! A failure says nothing by itself. A device returns any code for a fault of its own, and a wrong Z of a sick device
//! looks like a wrapped key that was made for somebody else. So the token is asked a question of the same kind whose
//! answer is known, with the same key. A stranger can cause such checks, so all failures of a key in half a second share
//! one, and the keys of a curve share eight.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::worker::Worker;
use crate::{
    crypto::{Cek, ContentEncryption, EncryptedKey},
    keys::{Curve, PublicKey},
    secrets::{
        error::{Cause, SecretsError, TokenError},
        mutex::lock,
        purpose::Purpose,
        request::{UnwrapRequest, WrapRequest},
        test_peers::{TestPeers, TestRequest},
        token::Token,
    },
};

/// How long the result of a check counts from its end. All failures of the key meanwhile share it, and so do those that
/// waited for the check, however slow the token is.
const INTERVAL: Duration = Duration::from_millis(500);
/// After this many checks in [`INTERVAL`], another key on the curve takes part in a result.
const MAX_CHECKS: usize = 8;
/// How long before an operation a right answer still counts as an answer right before it.
const RIGHT_BEFORE: Duration = Duration::from_secs(1);
/// The name of a check in errors.
const CHECK: &str = "the known-answer check";

/// A kind of operation whose result this process can compute itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Question {
    /// Unwrapping with ECDH-ES.
    EcdhEs,
    /// Unwrapping with ECDH-1PU.
    Ecdh1pu,
    /// Wrapping.
    Wrap,
}

/// A question with its answer.
enum KnownAnswer {
    Unwrap(TestRequest),
    Wrap(WrapRequest, EncryptedKey),
}

/// When a check ended, and its result.
type CheckResult = (Instant, Result<(), TokenError>);

/// The known-answer checks of one token.
pub(super) struct KnownAnswerChecks {
    start: Instant,
    /// The time of the latest right answer, by question and curve: milliseconds since `start`, or 0 for none. This is
    /// written for each message, so it is outside the mutexes.
    right: [[AtomicU64; Curve::ALL.len()]; 3],
    /// The checks of the last [`INTERVAL`]. Locked during a check.
    latest: tokio::sync::Mutex<HashMap<(Question, PublicKey), CheckResult>>,
    /// The other party of the questions. Its static key is used again, so that the checks displace at most one Zs that
    /// the token keeps.
    peers: Mutex<HashMap<Curve, TestPeers>>,
}

impl Default for KnownAnswerChecks {
    fn default() -> Self {
        Self { start: Instant::now(), right: Default::default(), latest: Default::default(), peers: Default::default() }
    }
}

impl KnownAnswerChecks {
    /// Records a right answer. To unwrap is one: key wrap has an integrity check.
    pub(super) fn record_right(&self, question: Question, curve: Curve) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.right_at(question, curve).store(millis.max(1), Ordering::Relaxed);
    }

    /// Whether the latest right answer came after `begin`, or right before it.
    pub(super) fn was_right_before(&self, question: Question, curve: Curve, begin: Instant) -> bool {
        match self.right_at(question, curve).load(Ordering::Relaxed) {
            0 => false,
            millis => self.start + Duration::from_millis(millis) + RIGHT_BEFORE >= begin,
        }
    }

    fn right_at(&self, question: Question, curve: Curve) -> &AtomicU64 {
        let curve = Curve::ALL.iter().position(|it| *it == curve).unwrap_or_default();
        &self.right[question as usize][curve]
    }

    /// The result of a check of this kind that is at most half a second old, or else of a new one. Fails if the token
    /// was not asked, for example because the deadline passed.
    pub(super) async fn check(
        &self,
        question: Question,
        key: &PublicKey,
        worker: &Worker,
        deadline: Instant,
    ) -> Result<Result<(), TokenError>, SecretsError> {
        // Callers that wait here share the result.
        let mut latest = self.latest.lock().await;
        latest.retain(|_, (end, _)| end.elapsed() < INTERVAL);
        let of_curve = |(other, at): &(Question, PublicKey)| *other == question && at.curve() == key.curve();
        let of_others = || latest.iter().find(|(it, _)| latest.len() >= MAX_CHECKS && of_curve(it)).map(|(_, it)| it);
        if let Some((_, result)) = latest.get(&(question, key.clone())).or_else(of_others) {
            return Ok(result.clone());
        }
        let Some(known) = self.known_answer(question, key) else { return Ok(Ok(())) };
        let own = key.clone();
        let result = match worker.perform(deadline, move |token: &dyn Token| known.ask(token, &own)).await {
            Ok(()) => Ok(()),
            Err(SecretsError::Token { error, .. }) => Err(error),
            Err(error) => return Err(error),
        };
        if result.is_ok() {
            self.record_right(question, key.curve());
        }
        latest.insert((question, key.clone()), (Instant::now(), result.clone()));
        Ok(result)
    }

    /// A question to a key. `None` if its curve has no key agreement.
    fn known_answer(&self, question: Question, key: &PublicKey) -> Option<KnownAnswer> {
        let mut peers = lock(&self.peers);
        let peer = match peers.remove(&key.curve()) {
            Some(peer) => peer.with_new_ephemeral()?,
            None => TestPeers::generate(key.curve())?,
        };
        let known = match question {
            Question::EcdhEs => KnownAnswer::Unwrap(peer.anoncrypt(key)),
            Question::Ecdh1pu => KnownAnswer::Unwrap(peer.authcrypt(key)),
            Question::Wrap => {
                let (request, expected) = peer.reply(key, Cek::generate(ContentEncryption::A256CbcHs512));
                KnownAnswer::Wrap(request, expected)
            }
        };
        peers.insert(key.curve(), peer);
        Some(known)
    }
}

impl Question {
    /// The kind of an unwrap request.
    pub(super) fn of_unwrap(request: &UnwrapRequest) -> Self {
        if request.sender.is_some() { Self::Ecdh1pu } else { Self::EcdhEs }
    }
}

impl KnownAnswer {
    fn ask(self, token: &dyn Token, key: &PublicKey) -> Result<(), TokenError> {
        let is_right = match self {
            Self::Unwrap(TestRequest { request, cek }) => token.unwrap_cek(key, &request, &Purpose::KeyTest)? == cek,
            Self::Wrap(request, expected) => token.wrap_cek(key, &request, &Purpose::KeyTest)? == [expected],
        };
        let wrong = || TokenError::Device { operation: CHECK.into(), reason: "the answer is wrong".into() };
        is_right.then_some(()).ok_or_else(wrong)
    }
}

/// Whether a failure leaves open who is at fault, so that a check tells more.
pub(super) fn leaves_fault_open(error: &TokenError) -> bool {
    matches!(error, TokenError::Unwrap | TokenError::Refused(_) | TokenError::Device { .. })
}

/// The error of an operation that fails although the token is in order.
pub(super) fn not_of_token(failure: TokenError) -> TokenError {
    match failure {
        TokenError::Device { operation, reason } => TokenError::Refused(format!("{operation}: {reason}")),
        other => other,
    }
}

/// The error of an operation that failed as a check did.
pub(super) fn of_token(failure: TokenError, check: TokenError) -> TokenError {
    match check.cause() {
        Cause::SessionLost | Cause::TokenGone | Cause::Pin => check,
        Cause::Peer | Cause::Unknown | Cause::Transient | Cause::Permanent => match failure {
            TokenError::Device { .. } => failure,
            _ => TokenError::Device { operation: CHECK.into(), reason: check.to_string() },
        },
    }
}
