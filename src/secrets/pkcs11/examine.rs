//! What a token can do, shown by having it do it with keys that are there for the time of the test alone.
//!
//! Everything is done in a session that can only read: the token itself keeps it from changing anything (PKCS#11 v3.1
//! section 5.6.1). The throw-away pairs are session objects: they are destroyed after the test, and if the program dies
//! in it they go with the session.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use cryptoki::{
    mechanism::MechanismType,
    object::{Attribute, ObjectHandle},
};
use serde::Serialize;

use super::{
    OpenOptions, PinPlace, Pkcs11Token, PointForm, Profile, SeenToken, Verdict,
    agree::{self, Method, OurKey},
    ckr::{During, Fault, Kind, Outcome},
    find::read_public,
    login::is_logged_in,
    manage::{Lives, generate},
    module::Module,
    object::Object,
    prove::{Peers, Prover, QUESTION, Tried, keeping_nothing, unless_lost},
    session::Live,
    sign::sign,
    token::lock,
};
use crate::{
    keys::{Curve, PublicKey},
    secrets::{Custody, KeyUse, NewKey, TokenError},
};

/// What is seen of a token without a login.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Look {
    /// The module's file.
    pub module: PathBuf,
    /// What the token shows.
    pub token: SeenToken,
    /// What is known of the device.
    pub profile: Profile,
    /// What chose it.
    pub profile_by: ProfileBy,
    /// Where the PIN comes from.
    pub pin: PinPlace,
    /// How many sessions it gives a program, if it says so.
    pub most_sessions: Option<u64>,
}

/// What chose a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProfileBy {
    /// The configuration, by name.
    Name,
    /// The manufacturer and model of module and token.
    Match,
    /// Nothing: none fits, and every form is tried.
    Nothing,
}

impl OpenOptions {
    /// Looks at a token without a login; no PIN is read.
    ///
    /// # Errors
    /// As of [`open`](Self::open), but for those of the PIN.
    pub fn look(&self, uri: &str) -> Result<Look, TokenError> {
        let uri = super::parse(uri)?;
        let module = Module::of(&uri, self.base_dir.as_deref())?;
        let (slot, token) = module.find(&uri)?;
        let profile = self.profile_of(&module, &token)?;
        let profile_by = match &self.profile {
            Some(_) => ProfileBy::Name,
            None if profile.name() == Profile::default().name() => ProfileBy::Nothing,
            None => ProfileBy::Match,
        };
        let info = module.context.get_token_info(slot).during("C_GetTokenInfo")?;
        Ok(Look {
            pin: self.pin.place(uri.pin(), self.base_dir.as_deref()),
            module: module.path.clone(),
            most_sessions: info.max_session_count().into(),
            token,
            profile,
            profile_by,
        })
    }
}

/// What a token was seen to do.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Examination {
    /// Whether it makes key pairs that live as long as a session.
    pub session_keys: bool,
    /// Each curve, in the order of [`Curve::ALL`].
    pub algorithms: Vec<Examined>,
    /// How many objects the token held before, and after.
    pub objects: (usize, usize),
}

/// What it was seen to do with keys on a curve.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Examined {
    /// The curve.
    pub curve: Curve,
    /// What it was tested with.
    pub with: TestKey,
    /// None if it was not tested.
    pub verdict: Option<Verdict>,
    /// Whether it signs; none if the curve does not, or it was not tested.
    pub signs: Option<bool>,
    /// How far shared secrets come out of it, where it agrees.
    pub custody: Option<Custody>,
    /// How it wants the peer's point written, where it agrees.
    pub point: Option<PointForm>,
    /// A signature, at the median.
    pub sign: Option<Duration>,
    /// Opening ECDH-ES: one derivation, KDF and key unwrap.
    pub unwrap: Option<Duration>,
    /// Opening ECDH-1PU of a sender that it has opened messages of before.
    pub authcrypt: Option<Duration>,
    /// The questions, in order.
    pub tried: Vec<Tried>,
    /// What its list of mechanisms says.
    pub mechanisms: Vec<Listed>,
    /// Why there is no verdict, or not a better one.
    pub why: Option<String>,
}

/// A key for a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TestKey {
    /// One that was made for it in a session.
    Session,
    /// One that the token holds.
    Held(PublicKey),
    /// There is none.
    Nothing,
}

/// A mechanism, by its PKCS#11 name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Listed {
    /// Its name.
    pub name: &'static str,
    /// Whether C_GetMechanismList has it.
    pub listed: bool,
    /// Whether it was seen to work.
    pub works: bool,
}

/// What is done now, of a curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A key is made.
    Key,
    /// Known answers of signing.
    Sign,
    /// Known answers of key agreement.
    Agree,
    /// Signing is timed.
    TimeSign,
    /// Opening of anoncrypt is timed.
    TimeAnoncrypt,
    /// Opening of authcrypt is timed.
    TimeAuthcrypt,
}

impl Step {
    /// All of them, in order.
    pub const ALL: [Self; 6] =
        [Self::Key, Self::Sign, Self::Agree, Self::TimeSign, Self::TimeAnoncrypt, Self::TimeAuthcrypt];
}

/// How often an operation is timed.
const ROUNDS: usize = 9;

impl Pkcs11Token {
    /// Tests what the token can do with keys on each curve, and how fast it is. Nothing in it is changed. `told` of each
    /// step before it is done.
    ///
    /// A throw-away pair in a session answers, where the token makes one; else a key that it holds and that may be used,
    /// if [`keys`](crate::secrets::Token::keys) has found one before.
    ///
    /// # Errors
    /// [`TokenError`] if the token is lost in between. That it cannot do something is no error.
    pub fn examine(&self, mut told: impl FnMut(Curve, Step)) -> Result<Examination, TokenError> {
        let mut lease = self.lease()?;
        let live = lease.live.as_mut().ok_or_else(Fault::logged_out)?;
        let slot = lock(&self.place).0;
        let listed = self.module.context.get_mechanism_list(slot).during("C_GetMechanismList")?;
        let before = objects(live)?;
        let mut algorithms = Vec::new();
        for curve in Curve::ALL {
            algorithms.push(self.examine_curve(live, curve, &listed, &mut told)?);
        }
        let session_keys = algorithms.iter().any(|it| it.with == TestKey::Session);
        // Who makes session keys on one curve and says of another that it is unknown does not have it.
        for lacks in algorithms.iter_mut().filter(|it| !session_keys && it.verdict == Some(Verdict::Not)) {
            if lacks.with == TestKey::Nothing {
                lacks.verdict = None;
            }
        }
        Ok(Examination { session_keys, algorithms, objects: (before, objects(live)?) })
    }

    fn examine_curve(
        &self,
        live: &mut Live,
        curve: Curve,
        listed: &[MechanismType],
        told: &mut dyn FnMut(Curve, Step),
    ) -> Outcome<Examined> {
        let mut examined = Examined::new(curve);
        told(curve, Step::Key);
        let refused = match self.make_session_pair(live, curve) {
            Ok(pair) => {
                examined.with = TestKey::Session;
                let result = match read_public(&live.session, pair.public) {
                    Ok(Some((_, public))) => {
                        let key = (&public, pair.private, KeyUse::of(curve));
                        self.ask_all(live, key, listed, told, &mut examined)
                    }
                    Ok(None) => {
                        examined.verdict = Some(Verdict::Not);
                        examined.why = Some("its public keys cannot be read".to_owned());
                        Ok(())
                    }
                    Err(fault) => Err(fault),
                };
                // On every path: the session goes on.
                drop([pair.private, pair.public].map(|handle| Object::new(&live.session, handle)));
                return result.map(|()| examined);
            }
            Err(fault) if fault.kind() == Some(Kind::Gone) => return Err(fault),
            // A token that wants a session for writing may say that no one is logged in.
            Err(fault) if fault.kind() == Some(Kind::Lost) && !is_logged_in(&live.session)? => return Err(fault),
            Err(fault) => fault,
        };
        if let Some((public, private, usage)) = self.key_on(curve) {
            self.ask_all(live, (&public, private, usage), listed, told, &mut examined)?;
            examined.with = TestKey::Held(public);
            return Ok(examined);
        }
        let lacks = match &refused {
            Fault::Token(TokenError::Unsupported(_)) => self.profile().check_makes_keys().is_ok(),
            fault => matches!(fault.kind(), Some(Kind::Unsupported | Kind::Input)),
        };
        examined.verdict = lacks.then_some(Verdict::Not);
        examined.why = Some(TokenError::from(refused).to_string());
        Ok(examined)
    }

    fn make_session_pair(&self, live: &Live, curve: Curve) -> Outcome<super::manage::Pair> {
        self.profile().check_makes_keys()?;
        let key = NewKey { curve, usage: KeyUse::of(curve), label: None };
        generate(live, self.profile(), &key, Lives::InSession)
    }

    fn ask_all(
        &self,
        live: &mut Live,
        (public, private, usage): (&PublicKey, ObjectHandle, KeyUse),
        listed: &[MechanismType],
        told: &mut dyn FnMut(Curve, Step),
        examined: &mut Examined,
    ) -> Outcome<()> {
        let (curve, driver) = (public.curve(), self.driver());
        let mut prover = Prover::new(driver, &self.profile().agreement.tiers);
        let (mut full, mut opens) = (None, None);
        let mut mechanism = |kind: MechanismType, name, works| {
            examined.mechanisms.push(Listed { name, listed: listed.contains(&kind), works });
        };
        if usage.signs() {
            told(curve, Step::Sign);
            let signs = prover.signs(live, public, private)?;
            examined.signs = Some(signs);
            match curve {
                Curve::Ed25519 => mechanism(MechanismType::EDDSA, "CKM_EDDSA", signs),
                _ => mechanism(MechanismType::ECDSA, "CKM_ECDSA", signs),
            }
        }
        if usage.agrees() {
            told(curve, Step::Agree);
            full = prover.agrees(live, public, private)?;
            opens = match full {
                Some(_) => full,
                None => prover.opens(live, public, private)?,
            };
            mechanism(MechanismType::ECDH1_DERIVE, "CKM_ECDH1_DERIVE", opens.is_some());
        }
        examined.tried = prover.tried;
        examined.verdict = Some(match (full, opens, examined.signs) {
            (Some(_), ..) => Verdict::Authcrypt,
            (None, Some(_), _) => Verdict::Anoncrypt,
            (None, None, Some(true)) => Verdict::SignOnly,
            (None, None, _) => Verdict::Not,
        });
        examined.why = examined.refusal(usage);
        if examined.signs == Some(true) {
            told(curve, Step::TimeSign);
            examined.sign = median(|| sign(&live.session, public, private, QUESTION).map(drop))?;
        }
        if let Some(method) = opens {
            (examined.custody, examined.point) = (Some(method.custody), Some(method.point));
            let key = OurKey { number: 0, public, private, method };
            keeping_nothing(live, |live| self.time(live, key, full, told, examined))?;
        }
        Ok(())
    }

    fn time(
        &self,
        live: &mut Live,
        key: OurKey<'_>,
        full: Option<Method>,
        told: &mut dyn FnMut(Curve, Step),
        examined: &mut Examined,
    ) -> Outcome<()> {
        let curve = key.public.curve();
        let Some(peers) = Peers::generate(curve) else { return Ok(()) };
        told(curve, Step::TimeAnoncrypt);
        let request = peers.anonymous(key.public).request;
        examined.unwrap = median(|| agree::unwrap(self.driver(), live, key, &request).map(drop))?;
        if full.is_some() {
            told(curve, Step::TimeAuthcrypt);
            let request = peers.authenticated(key.public).request;
            // The first message makes the sender known, and counts as any other: the median does not see it.
            examined.authcrypt = median(|| agree::unwrap(self.driver(), live, key, &request).map(drop))?;
        }
        Ok(())
    }
}

impl Examined {
    fn new(curve: Curve) -> Self {
        Self {
            curve,
            with: TestKey::Nothing,
            verdict: None,
            signs: None,
            custody: None,
            point: None,
            sign: None,
            unwrap: None,
            authcrypt: None,
            tried: Vec::new(),
            mechanisms: Vec::new(),
            why: None,
        }
    }

    /// What the token said last of what it does not do: of the tiers the lowest, which wants least of it.
    fn refusal(&self, usage: KeyUse) -> Option<String> {
        use super::prove::Answer::{Refused, Right, Wrong};
        let agrees = matches!(self.verdict, Some(Verdict::Authcrypt));
        let said = |signing: bool, wrong: &str| {
            self.tried.iter().rfind(|it| it.custody.is_none() == signing && it.answer != Right).map(|it| {
                match &it.answer {
                    Refused(said) => said.clone(),
                    Wrong | Right => wrong.to_owned(),
                }
            })
        };
        if usage.agrees() && !agrees {
            said(false, "a content key came out wrong")
        } else if self.signs == Some(false) {
            said(true, "its signature is wrong")
        } else {
            None
        }
    }
}

/// How many objects the token has that this login sees.
fn objects(live: &Live) -> Outcome<usize> {
    Ok(live.session.find_objects(&[Attribute::Token(true)]).during("C_FindObjects")?.len())
}

/// How long an operation takes; none if it fails.
fn median(mut operation: impl FnMut() -> Outcome<()>) -> Outcome<Option<Duration>> {
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        match operation() {
            Ok(()) => times.push(start.elapsed()),
            Err(fault) => return unless_lost(fault).map(|()| None),
        }
    }
    times.sort();
    Ok(times.get(ROUNDS / 2).copied())
}
