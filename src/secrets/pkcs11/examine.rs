//! Finds out what a token can do, with keys that exist only for the test. For `claviger token doctor`.
//!
//! Everything is done in a read-only session, so the token itself prevents changes to what it holds (PKCS#11 v3.1
//! section 5.6.1). The throw-away pairs are session objects: they are destroyed after the test, or with the session if
//! the program ends during it.

use std::time::{Duration, Instant};

use cryptoki::{
    mechanism::MechanismType,
    object::{Attribute, AttributeType, KeyType, ObjectHandle},
};
use serde::Serialize;

use super::{
    agree::{self, AgreementKey, AgreementMethod, UNDER_TEST},
    ckr::{CallError, CallResult, During, FailureKind},
    curves::{PointEncoding, generation_mechanism},
    der,
    find::read_public,
    key_pair::{KeyLifetime, KeyPair, generate},
    known_answer::{Answer, KnownAnswerTest, KnownAnswerTester, TEST_MESSAGE, ignore_unless_lost, with_empty_cache},
    login::is_logged_in,
    object::SessionObject,
    profile::Verdict,
    session::OpenSession,
    sign::sign,
    token::Pkcs11Token,
};
use crate::{
    keys::{Curve, PublicKey},
    secrets::{Custody, KeyUse, NewKey, TokenError, test_peers::TestPeers},
};

/// The result of examining a token.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Examination {
    /// Whether the token makes key pairs that exist as long as a session.
    pub session_keys: bool,
    /// Each curve, in the order of [`Curve::ALL`].
    pub algorithms: Vec<CurveExamination>,
    /// How many objects the token held before and after the examination.
    pub objects: (usize, usize),
}

/// The result of examining a token with a key on one curve.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CurveExamination {
    /// The curve.
    pub curve: Curve,
    /// The key that was tested.
    pub test_key: TestKey,
    /// What the token can do with keys on the curve; none if that could not be found out.
    pub verdict: Option<Verdict>,
    /// How the token represents a new key; none if it makes no session keys.
    pub form: Option<KeyForm>,
    /// Whether the token signs; none if the curve has no signatures or no key was tested.
    pub signs: Option<bool>,
    /// The custody tier of key agreement; none if the token does not agree.
    pub custody: Option<Custody>,
    /// The encoding of the peer's point that the token accepts; none if it does not agree.
    pub point: Option<PointEncoding>,
    /// The median time of a signature.
    pub sign_time: Option<Duration>,
    /// The median time to open ECDH-ES: one derivation, KDF and key unwrap.
    pub anoncrypt_time: Option<Duration>,
    /// The median time to open ECDH-1PU from a sender whose messages the token has opened before.
    pub authcrypt_time: Option<Duration>,
    /// The known-answer tests, in order.
    pub tests: Vec<KnownAnswerTest>,
    /// The token's list of mechanisms, compared with what works.
    pub mechanisms: Vec<MechanismSupport>,
    /// Why there is no verdict, or why the verdict is not better.
    pub reason: Option<String>,
}

/// The key that was tested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TestKey {
    /// A throw-away key in a session.
    Session,
    /// A key that the token holds.
    Held(PublicKey),
    /// There was no key to test.
    Nothing,
}

/// How a token represents a public key that it has made: CKA_KEY_TYPE, CKA_EC_PARAMS and CKA_EC_POINT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct KeyForm {
    /// The PKCS#11 name of the key type, which the template has asked for.
    pub key_type: &'static str,
    /// Whether CKA_EC_PARAMS are an OID; otherwise they are a name.
    pub params_are_oid: bool,
    /// The encoding of CKA_EC_POINT; none if it is neither the raw point nor a DER OCTET STRING.
    pub point: Option<PointEncoding>,
}

/// A mechanism, by its PKCS#11 name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MechanismSupport {
    /// The mechanism's name.
    pub name: &'static str,
    /// Whether C_GetMechanismList returns it.
    pub listed: bool,
    /// Whether the mechanism worked in the test.
    pub works: bool,
}

/// A step of the examination of one curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExaminationStep {
    /// Making a key.
    Key,
    /// Known answers of signing.
    Sign,
    /// Known answers of key agreement.
    Agree,
    /// Timing signatures.
    TimeSign,
    /// Timing the opening of anoncrypt.
    TimeAnoncrypt,
    /// Timing the opening of authcrypt.
    TimeAuthcrypt,
}

impl ExaminationStep {
    /// All steps, in order.
    pub const ALL: [Self; 6] =
        [Self::Key, Self::Sign, Self::Agree, Self::TimeSign, Self::TimeAnoncrypt, Self::TimeAuthcrypt];
}

/// How often an operation is timed.
const ROUNDS: usize = 9;

/// A key under test: its public half, its private half, and the use that it allows.
type KeyUnderTest<'a> = (&'a PublicKey, ObjectHandle, KeyUse);

impl Pkcs11Token {
    /// Tests what the token can do with keys on each curve, and how fast it is. Nothing in the token is changed.
    /// `progress` is called before each step.
    ///
    /// The tested key is a throw-away pair in a session. If the token makes no session keys, a usable key that the
    /// token holds is tested instead, provided that [`keys`](crate::secrets::Token::keys) was called before.
    ///
    /// # Errors
    /// [`TokenError`] if the token is lost during the examination. A token that cannot do something is not an error.
    pub fn examine(&self, mut progress: impl FnMut(Curve, ExaminationStep)) -> Result<Examination, TokenError> {
        let mut lease = self.connection.lease()?;
        let session = lease.session.as_mut().ok_or_else(CallError::logged_out)?;
        let context = &self.connection.module.context;
        let listed = context.get_mechanism_list(self.connection.slot()).during("C_GetMechanismList")?;
        let before = count_objects(session)?;
        let mut algorithms = Vec::new();
        for curve in Curve::ALL {
            algorithms.push(self.examine_curve(session, curve, &listed, &mut progress)?);
        }
        let session_keys = algorithms.iter().any(|it| it.test_key == TestKey::Session);
        // "Unsupported" without a test key is believed only from a token that makes session keys on another curve, or that
        // lists no mechanism for the curve (openCryptoki 3.8.1 lists none for any).
        for unsupported in algorithms.iter_mut().filter(|it| it.verdict == Some(Verdict::Unsupported)) {
            if !session_keys
                && unsupported.test_key == TestKey::Nothing
                && self.lists_any_of(unsupported.curve, &listed)
            {
                unsupported.verdict = None;
            }
        }
        Ok(Examination { session_keys, algorithms, objects: (before, count_objects(session)?) })
    }

    fn examine_curve(
        &self,
        session: &mut OpenSession,
        curve: Curve,
        listed: &[MechanismType],
        progress: &mut dyn FnMut(Curve, ExaminationStep),
    ) -> CallResult<CurveExamination> {
        let mut result = CurveExamination::new(curve);
        progress(curve, ExaminationStep::Key);
        let refused = match self.make_session_pair(session, curve) {
            Ok(pair) => {
                result.test_key = TestKey::Session;
                let form = read_form(session, pair.public, curve).map(|form| result.form = form);
                let tested = match form.and_then(|()| read_public(&session.handle, pair.public)) {
                    Ok(Some((_, public))) => {
                        let key = (&public, pair.private, KeyUse::of(curve));
                        self.test_key(session, key, listed, progress, &mut result)
                    }
                    Ok(None) => {
                        result.verdict = Some(Verdict::Unsupported);
                        result.reason = Some("its public keys cannot be read".to_owned());
                        Ok(())
                    }
                    Err(error) => Err(error),
                };
                // Destroyed in every case, since the session goes on.
                drop([pair.private, pair.public].map(|handle| SessionObject::new(&session.handle, handle)));
                return tested.map(|()| result);
            }
            Err(error) if error.kind() == Some(FailureKind::Gone) => return Err(error),
            // A token that makes keys only in a read-write session may report that nobody is logged in.
            Err(error) if error.kind() == Some(FailureKind::Lost) && !is_logged_in(&session.handle)? => {
                return Err(error);
            }
            Err(error) => error,
        };
        if let Some((public, private, usage)) = self.keys.current().on_curve(curve) {
            self.test_key(session, (&public, private, usage), listed, progress, &mut result)?;
            result.test_key = TestKey::Held(public);
            return Ok(result);
        }
        let is_unsupported = match &refused {
            CallError::Token(TokenError::Unsupported(_)) => self.profile().check_makes_keys().is_ok(),
            error => matches!(error.kind(), Some(FailureKind::Unsupported | FailureKind::Input)),
        };
        result.verdict = is_unsupported.then_some(Verdict::Unsupported);
        result.reason = Some(TokenError::from(refused).to_string());
        Ok(result)
    }

    /// Whether the token lists a mechanism that makes or uses keys on a curve.
    fn lists_any_of(&self, curve: Curve, listed: &[MechanismType]) -> bool {
        let made = self.profile().key_types(curve).into_iter().map(|it| generation_mechanism(it).mechanism_type());
        let signs = curve.signature_algorithm().map(|_| match curve {
            Curve::Ed25519 => MechanismType::EDDSA,
            _ => MechanismType::ECDSA,
        });
        let agrees = curve.supports_key_agreement().then_some(MechanismType::ECDH1_DERIVE);
        made.chain(signs).chain(agrees).any(|mechanism| listed.contains(&mechanism))
    }

    fn make_session_pair(&self, session: &OpenSession, curve: Curve) -> CallResult<KeyPair> {
        self.profile().check_makes_keys()?;
        let key = NewKey { curve, usage: KeyUse::of(curve), label: None };
        generate(&session.handle, self.profile(), &key, KeyLifetime::Session)
    }

    fn test_key(
        &self,
        session: &mut OpenSession,
        (public, private, usage): KeyUnderTest<'_>,
        listed: &[MechanismType],
        progress: &mut dyn FnMut(Curve, ExaminationStep),
        result: &mut CurveExamination,
    ) -> CallResult<()> {
        let curve = public.curve();
        let mut tester = KnownAnswerTester::new(self.connection.driver(), &self.profile().agreement.tiers);
        let mut method = None;
        let mut add_mechanism = |kind: MechanismType, name, works| {
            result.mechanisms.push(MechanismSupport { name, listed: listed.contains(&kind), works });
        };
        if usage.allows_signing() {
            progress(curve, ExaminationStep::Sign);
            let signs = tester.test_signing(session, public, private)?;
            result.signs = Some(signs);
            match curve {
                Curve::Ed25519 => add_mechanism(MechanismType::EDDSA, "CKM_EDDSA", signs),
                _ => add_mechanism(MechanismType::ECDSA, "CKM_ECDSA", signs),
            }
        }
        if usage.allows_key_agreement() {
            progress(curve, ExaminationStep::Agree);
            // The method that a keyring would use for this key.
            method = tester.test_agreement(session, public, private)?;
            add_mechanism(MechanismType::ECDH1_DERIVE, "CKM_ECDH1_DERIVE", method.is_some());
        }
        result.tests = tester.tests;
        result.verdict = Some(match (method, result.signs) {
            (Some(AgreementMethod { authcrypt: true, .. }), _) => Verdict::Authcrypt,
            (Some(AgreementMethod { authcrypt: false, .. }), _) => Verdict::Anoncrypt,
            (None, Some(true)) => Verdict::SignOnly,
            (None, _) => Verdict::Unsupported,
        });
        result.reason = result.refusal(usage);
        if result.signs == Some(true) {
            progress(curve, ExaminationStep::TimeSign);
            result.sign_time = median_time(|| sign(&session.handle, public, private, TEST_MESSAGE).map(drop))?;
        }
        if let Some(method) = method {
            (result.custody, result.point) = (Some(method.custody), Some(method.point));
            let key = AgreementKey { number: UNDER_TEST, public, private, method };
            with_empty_cache(session, |session| self.time_agreement(session, key, progress, result))?;
        }
        Ok(())
    }

    fn time_agreement(
        &self,
        session: &mut OpenSession,
        key: AgreementKey<'_>,
        progress: &mut dyn FnMut(Curve, ExaminationStep),
        result: &mut CurveExamination,
    ) -> CallResult<()> {
        let curve = key.public.curve();
        let driver = self.connection.driver();
        let Some(peers) = TestPeers::generate(curve) else { return Ok(()) };
        progress(curve, ExaminationStep::TimeAnoncrypt);
        let request = peers.anoncrypt(key.public).request;
        result.anoncrypt_time = median_time(|| agree::unwrap(driver, session, key, &request).map(drop))?;
        if key.method.authcrypt {
            progress(curve, ExaminationStep::TimeAuthcrypt);
            let request = peers.authcrypt(key.public).request;
            // The first message, which derives Zs, takes longer. It does not change the median.
            result.authcrypt_time = median_time(|| agree::unwrap(driver, session, key, &request).map(drop))?;
        }
        Ok(())
    }
}

impl CurveExamination {
    fn new(curve: Curve) -> Self {
        Self {
            curve,
            test_key: TestKey::Nothing,
            verdict: None,
            form: None,
            signs: None,
            custody: None,
            point: None,
            sign_time: None,
            anoncrypt_time: None,
            authcrypt_time: None,
            tests: Vec::new(),
            mechanisms: Vec::new(),
            reason: None,
        }
    }

    /// The token's answer to the last test that failed. For key agreement that is the test of the lowest tier, which
    /// needs the least of the token.
    fn refusal(&self, usage: KeyUse) -> Option<String> {
        let last_failure = |of_signing: bool, if_wrong: &str| {
            let failed = |it: &&KnownAnswerTest| it.custody.is_none() == of_signing && it.answer != Answer::Right;
            self.tests.iter().rfind(failed).map(|it| match &it.answer {
                Answer::Refused(reason) => reason.clone(),
                Answer::Wrong | Answer::Right => if_wrong.to_owned(),
            })
        };
        if usage.allows_key_agreement() && self.verdict != Some(Verdict::Authcrypt) {
            last_failure(false, "it returned a wrong content key")
        } else if self.signs == Some(false) {
            last_failure(true, "it returned a wrong signature")
        } else {
            None
        }
    }
}

/// How the token represents a public key that it has made; none if it does not say so.
fn read_form(session: &OpenSession, public: ObjectHandle, curve: Curve) -> CallResult<Option<KeyForm>> {
    let wanted = [AttributeType::KeyType, AttributeType::EcParams, AttributeType::EcPoint];
    let attributes = match session.handle.get_attributes(public, &wanted).during("C_GetAttributeValue") {
        Ok(attributes) => attributes,
        Err(error) => return ignore_unless_lost(error).map(|()| None),
    };
    let (mut key_type, mut params_are_oid, mut point) = (None, None, None);
    for attribute in attributes {
        match attribute {
            Attribute::KeyType(KeyType::EC) => key_type = Some("CKK_EC"),
            Attribute::KeyType(KeyType::EC_MONTGOMERY) => key_type = Some("CKK_EC_MONTGOMERY"),
            Attribute::KeyType(KeyType::EC_EDWARDS) => key_type = Some("CKK_EC_EDWARDS"),
            Attribute::EcParams(value) => params_are_oid = value.first().map(|tag| *tag == der::OBJECT_IDENTIFIER),
            Attribute::EcPoint(value) => {
                let is_key = |point: &[u8]| PublicKey::from_bytes(curve, point).is_ok();
                point = match der::whole(der::OCTET_STRING, &value) {
                    _ if is_key(&value) => Some(PointEncoding::Raw),
                    Some(content) if is_key(content) => Some(PointEncoding::Der),
                    _ => None,
                };
            }
            _ => {}
        }
    }
    let form = key_type.zip(params_are_oid);
    Ok(form.map(|(key_type, params_are_oid)| KeyForm { key_type, params_are_oid, point }))
}

/// The number of objects in the token that the session can see.
fn count_objects(session: &OpenSession) -> CallResult<usize> {
    Ok(session.handle.find_objects(&[Attribute::Token(true)]).during("C_FindObjects")?.len())
}

/// The median time of an operation; none if it fails.
fn median_time(mut operation: impl FnMut() -> CallResult<()>) -> CallResult<Option<Duration>> {
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        match operation() {
            Ok(()) => times.push(start.elapsed()),
            Err(error) => return ignore_unless_lost(error).map(|()| None),
        }
    }
    times.sort();
    Ok(times.get(ROUNDS / 2).copied())
}
