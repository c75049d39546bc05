//! Known-answer tests: a key counts as able to do what it has done correctly on this token.
//!
//! The mechanism list is not used. The tests also show that a private key belongs to its public key: with any other key
//! the answers would be wrong.

use std::collections::{HashMap, hash_map::Entry};

use cryptoki::object::ObjectHandle;

use super::{
    agree::{self, AgreementKey, AgreementMethod, Driver, UNDER_TEST},
    ckr::{CallError, CallResult, FailureKind},
    curves::PointEncoding,
    object::Visibility,
    session::{OpenSession, ZsCache},
    sign::sign,
};
use crate::{
    crypto,
    keys::{Curve, PublicKey},
    secrets::{
        Custody, KeyUse, TokenError,
        test_peers::{TestPeers, TestRequest},
    },
};

/// Tests keys, and remembers for each curve the method of key agreement that worked.
pub(super) struct KnownAnswerTester<'a> {
    driver: Driver<'a>,
    /// The custody tiers to try.
    tiers: &'a [Custody],
    peers: HashMap<Curve, TestPeers>,
    methods: HashMap<Curve, AgreementMethod>,
    /// The tests so far, in order.
    pub(super) tests: Vec<KnownAnswerTest>,
}

/// One test of a key.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct KnownAnswerTest {
    /// The custody tier of a key agreement; none for a signature.
    pub custody: Option<Custody>,
    /// What the token answered.
    pub answer: Answer,
}

/// What the token answered to a test.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The right result.
    Right,
    /// A wrong result, without an error.
    Wrong,
    /// An error, in the token's words.
    Refused(String),
}

/// What a key has been seen to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct TestedKey {
    pub(super) usage: KeyUse,
    /// How the key performs key agreement; none if it only signs.
    pub(super) method: Option<AgreementMethod>,
}

impl<'a> KnownAnswerTester<'a> {
    pub(super) fn new(driver: Driver<'a>, tiers: &'a [Custody]) -> Self {
        Self { driver, tiers, peers: HashMap::new(), methods: HashMap::new(), tests: Vec::new() }
    }

    /// Tests which of the uses in `usage` a pair can do.
    ///
    /// # Errors
    /// [`TokenError::KnownAnswer`] if the pair can do none of them, and the error of a session or token that is lost.
    pub(super) fn test(
        &mut self,
        session: &mut OpenSession,
        public: &PublicKey,
        private: ObjectHandle,
        usage: KeyUse,
    ) -> CallResult<TestedKey> {
        let earlier = self.tests.len();
        let signs = usage.allows_signing().then(|| self.test_signing(session, public, private)).transpose()?;
        let method = if usage.allows_key_agreement() { self.test_agreement(session, public, private)? } else { None };
        let usage = match (signs == Some(true), method.is_some()) {
            (true, true) => KeyUse::Both,
            (true, false) => KeyUse::Signing,
            (false, true) => KeyUse::Agreement,
            (false, false) => return Err(failure(public, usage, &self.tests[earlier..]).into()),
        };
        Ok(TestedKey { usage, method })
    }

    /// The error for a new key that passed its tests for a part of `wanted` only.
    pub(super) fn partial_failure(&self, public: &PublicKey, wanted: KeyUse) -> TokenError {
        failure(public, wanted, &self.tests)
    }

    /// Whether the halves of a pair that was tested before still match, by one test. If they are `certain` to be that pair,
    /// only a wrong answer means no: a token that fails for a moment must neither lose its keys nor be used with a lower
    /// custody tier.
    pub(super) fn still_matches(
        &mut self,
        session: &mut OpenSession,
        public: &PublicKey,
        private: ObjectHandle,
        tested: TestedKey,
        certain: bool,
    ) -> CallResult<bool> {
        let answer = match tested.method {
            Some(method) => match peers_for(&mut self.peers, public.curve()) {
                Some(peers) => {
                    let key = AgreementKey { number: UNDER_TEST, public, private, method };
                    gives_right_keys(self.driver, session, key, peers, Scope::AnoncryptOnly)
                }
                None => Ok(false),
            },
            None => sign(&session.handle, public, private, TEST_MESSAGE)
                .map(|signature| crypto::verify(public, TEST_MESSAGE, &signature).is_ok()),
        };
        match answer {
            // What was wrapped is right, so the KEK was wrong; or the signature has a wrong form.
            Err(CallError::Token(TokenError::Unwrap | TokenError::KnownAnswer(_))) => Ok(false),
            Err(error) if error.is_wrong_length() => Ok(false),
            Err(error) => ignore_unless_lost(error).map(|()| certain),
            answer => answer,
        }
    }

    /// Whether the key makes a valid signature.
    pub(super) fn test_signing(
        &mut self,
        session: &OpenSession,
        public: &PublicKey,
        private: ObjectHandle,
    ) -> CallResult<bool> {
        let signature = retry_transient(|| sign(&session.handle, public, private, TEST_MESSAGE));
        self.record(None, signature.map(|signature| crypto::verify(public, TEST_MESSAGE, &signature).is_ok()))
    }

    /// The best method that gives right answers to ECDH-ES and ECDH-1PU, or else to ECDH-ES alone.
    ///
    /// The method of another key on the curve is tried first. One test is then enough: it shows that the halves of the
    /// pair belong together.
    pub(super) fn test_agreement(
        &mut self,
        session: &mut OpenSession,
        public: &PublicKey,
        private: ObjectHandle,
    ) -> CallResult<Option<AgreementMethod>> {
        if let Some(method) = self.methods.get(&public.curve()).copied() {
            let key = AgreementKey { number: UNDER_TEST, public, private, method };
            if self.test_method(session, key, Scope::AnoncryptOnly)? {
                return Ok(Some(method));
            }
        }
        if let Some(method) = self.best_method(session, public, private, Scope::All)? {
            self.methods.entry(public.curve()).or_insert(method);
            return Ok(Some(method));
        }
        self.best_method(session, public, private, Scope::AnoncryptOnly)
    }

    fn best_method(
        &mut self,
        session: &mut OpenSession,
        public: &PublicKey,
        private: ObjectHandle,
        scope: Scope,
    ) -> CallResult<Option<AgreementMethod>> {
        let mut tiers = self.tiers.to_vec();
        tiers.sort();
        for custody in tiers.into_iter().rev() {
            for (point, ze_visibility) in variants(custody, &self.driver.profile.agreement.points) {
                let method = AgreementMethod { custody, point, ze_visibility, authcrypt: scope == Scope::All };
                if self.test_method(session, AgreementKey { number: UNDER_TEST, public, private, method }, scope)? {
                    return Ok(Some(method));
                }
            }
        }
        Ok(None)
    }

    fn test_method(&mut self, session: &mut OpenSession, key: AgreementKey<'_>, scope: Scope) -> CallResult<bool> {
        let Some(peers) = peers_for(&mut self.peers, key.public.curve()) else { return Ok(false) };
        let is_right = gives_right_keys(self.driver, session, key, peers, scope);
        if let Err(error) = &is_right {
            tracing::debug!(public = %key.public, method = ?key.method, %error, "key agreement method failed");
        }
        self.record(Some(key.method.custody), is_right)
    }

    /// Records a test. Returns whether the answer was right, or the error of a session or token that is lost.
    fn record(&mut self, custody: Option<Custody>, is_right: CallResult<bool>) -> CallResult<bool> {
        let (is_right, answer) = match is_right {
            Ok(true) => (true, Answer::Right),
            Ok(false) => (false, Answer::Wrong),
            // A signature of the wrong form.
            Err(CallError::Token(TokenError::KnownAnswer(_))) => (false, Answer::Wrong),
            // The wrapped key is right, so the KEK was wrong.
            Err(CallError::Token(TokenError::Unwrap)) => (false, Answer::Wrong),
            Err(error) if error.is_wrong_length() => (false, Answer::Wrong),
            Err(error) => {
                let reason = match error.is_not_permitted() {
                    true => format!("not permitted: {error}"),
                    false => error.to_string(),
                };
                ignore_unless_lost(error)?;
                (false, Answer::Refused(reason))
            }
        };
        self.tests.push(KnownAnswerTest { custody, answer });
        Ok(is_right)
    }
}

/// The error of a key that did not pass these tests. A wrong answer counts more than a refusal: only without any, the
/// token is known to refuse.
fn failure(public: &PublicKey, usage: KeyUse, tests: &[KnownAnswerTest]) -> TokenError {
    if tests.iter().any(|test| test.answer == Answer::Wrong) {
        return TokenError::KnownAnswer(match usage.allows_key_agreement() {
            true => format!("no operation of {public} gives the right result"),
            false => format!("the signature of {public} is wrong"),
        });
    }
    // Of several refusals of key agreement the last is that of the lowest tier, which needs the least of the token.
    let refusal = |of_signing: bool| {
        let passed = tests.iter().any(|test| test.custody.is_none() == of_signing && test.answer == Answer::Right);
        let refused = tests.iter().rev().filter(|test| test.custody.is_none() == of_signing);
        refused.filter(|_| !passed).find_map(|test| match &test.answer {
            Answer::Refused(reason) => Some(reason),
            Answer::Right | Answer::Wrong => None,
        })
    };
    let named = [(refusal(false), "key agreement"), (refusal(true), "signing")];
    let refusals: Vec<_> = named
        .into_iter()
        .filter_map(|(reason, what)| Some(format!("{what} with the key is refused ({})", reason?)))
        .collect();
    match refusals.is_empty() {
        true => TokenError::Unsupported(format!("no way to use a {} key is known", public.curve())),
        false => TokenError::Unsupported(refusals.join(", ")),
    }
}

/// The message that tests sign.
pub(super) const TEST_MESSAGE: &[u8] = b"claviger known answer";

/// How much of key agreement is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// One ECDH-ES unwrap.
    AnoncryptOnly,
    /// ECDH-ES and ECDH-1PU, unwrap and wrap, with Zs derived and with Zs cached.
    All,
}

fn peers_for(peers: &mut HashMap<Curve, TestPeers>, curve: Curve) -> Option<&TestPeers> {
    match peers.entry(curve) {
        Entry::Occupied(peers) => Some(peers.into_mut()),
        Entry::Vacant(vacant) => Some(vacant.insert(TestPeers::generate(curve)?)),
    }
}

/// The variants of a tier, the best first.
fn variants(custody: Custody, points: &[PointEncoding]) -> impl Iterator<Item = (PointEncoding, Visibility)> {
    // In KekInToken, Z is concatenated with other objects, so a public object gains nothing.
    let visibilities = match custody {
        Custody::KekInToken => &[Visibility::LoggedIn][..],
        Custody::KekInProcess | Custody::SharedSecretInProcess => &[Visibility::AllSessions, Visibility::LoggedIn],
    };
    let with = |point| visibilities.iter().map(move |visibility| (point, *visibility));
    points.iter().copied().flat_map(with)
}

/// Whether the token unwraps and wraps the right content keys.
fn gives_right_keys(
    driver: Driver<'_>,
    session: &mut OpenSession,
    key: AgreementKey<'_>,
    peers: &TestPeers,
    scope: Scope,
) -> CallResult<bool> {
    with_empty_cache(session, |session| {
        let anoncrypt = peers.anoncrypt(key.public);
        if retry_transient(|| agree::unwrap(driver, session, key, &anoncrypt.request))? != anoncrypt.cek {
            return Ok(false);
        }
        if scope == Scope::AnoncryptOnly {
            return Ok(true);
        }
        let TestRequest { request, cek } = peers.authcrypt(key.public);
        // The first time Zs is derived, the second time it is cached.
        for _ in 0..2 {
            if retry_transient(|| agree::unwrap(driver, session, key, &request))? != cek {
                return Ok(false);
            }
        }
        let (request, expected) = peers.reply(key.public, cek);
        Ok(retry_transient(|| agree::wrap(driver, session, key, &request))? == [expected])
    })
}

/// Runs `operation` with an empty cache of Zs, and restores the session's own cache afterwards.
pub(super) fn with_empty_cache<T>(session: &mut OpenSession, operation: impl FnOnce(&mut OpenSession) -> T) -> T {
    let mut cache = std::mem::replace(&mut session.zs_cache, ZsCache::new(4));
    let result = operation(session);
    std::mem::swap(&mut session.zs_cache, &mut cache);
    cache.clear(&session.handle);
    result
}

/// How often a test is repeated before a transient failure counts as the token's answer.
const ATTEMPTS: usize = 4;

/// Repeats a test while it fails with a code that may be transient. A keeper uses the result of the tests at its start
/// as long as it runs, so a short failure must not count.
fn retry_transient<T>(mut test: impl FnMut() -> CallResult<T>) -> CallResult<T> {
    let is_transient = |answer: &CallResult<T>| {
        answer.as_ref().is_err_and(|error| {
            matches!(error.kind(), Some(FailureKind::Ambiguous | FailureKind::Full | FailureKind::Device))
        })
    };
    let answer = (1..ATTEMPTS).map(|_| test()).find(|answer| !is_transient(answer));
    answer.unwrap_or_else(test)
}

/// Ignores an error, but returns it if the session or the token is lost. A lost session says nothing about what
/// the token can do.
pub(super) fn ignore_unless_lost(error: CallError) -> CallResult<()> {
    if error.is_session_or_token_lost() { Err(error) } else { Ok(()) }
}
