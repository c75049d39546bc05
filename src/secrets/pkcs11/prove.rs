//! Known answers: what a key can do is what it has been seen to do, right, on this token.
//!
//! The mechanism list is not asked. A key's public half is proved on the way: with any other the answer would be wrong.

use std::collections::{HashMap, hash_map::Entry};

use cryptoki::object::ObjectHandle;

use super::{
    agree::{self, Driver, Method, OurKey, PointForm},
    ckr::{Fault, Kind, Outcome},
    object::SeenBy,
    session::{Kept, Live},
    sign::sign,
};
use crate::{
    crypto::{self, Cek, ContentEncryption, EncryptedKey, EphemeralKey, KdfInfo, Kek, SharedSecret},
    keys::{Curve, PublicKey},
    secrets::{Custody, KeyUse, Sender, TokenError, Unwrap, Wrap},
};

/// Asks the questions, and remembers which method each curve's keys answered with.
pub(super) struct Prover<'a> {
    driver: Driver<'a>,
    /// The tiers to try.
    tiers: &'a [Custody],
    peers: HashMap<Curve, Peers>,
    methods: HashMap<Curve, Method>,
    /// What was asked of the keys, in order.
    pub(super) tried: Vec<Tried>,
}

/// Throw-away keys in software.
pub(super) struct Peers {
    ephemeral: EphemeralKey,
    other: EphemeralKey,
}

/// A question that a key was asked.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Tried {
    /// The tier in which it agreed; none if it signed.
    pub custody: Option<Custody>,
    /// What came of it.
    pub answer: Answer,
}

/// What came of a question.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// What it should be.
    Right,
    /// Something else: the token did as if it could.
    Wrong,
    /// The token refused, in its words.
    Refused(String),
}

/// What a key has been seen to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Proved {
    pub(super) usage: KeyUse,
    pub(super) method: Option<Method>,
}

impl<'a> Prover<'a> {
    pub(super) fn new(driver: Driver<'a>, tiers: &'a [Custody]) -> Self {
        Self { driver, tiers, peers: HashMap::new(), methods: HashMap::new(), tried: Vec::new() }
    }

    /// What a pair can do of `usage`.
    ///
    /// # Errors
    /// [`TokenError::KnownAnswer`] if nothing; a lost session and a token that is gone as they are.
    pub(super) fn prove(
        &mut self,
        live: &mut Live,
        public: &PublicKey,
        private: ObjectHandle,
        usage: KeyUse,
    ) -> Outcome<Proved> {
        let signs = usage.signs().then(|| self.signs(live, public, private)).transpose()?;
        // A pair that signs wrongly is no pair: do not ask it further.
        if signs == Some(false) && !usage.agrees() {
            return Err(TokenError::KnownAnswer(format!("the signature of {public} is wrong")).into());
        }
        let method = if usage.agrees() { self.agrees(live, public, private)? } else { None };
        let usage = match (signs == Some(true), method.is_some()) {
            (true, true) => KeyUse::Both,
            (true, false) => KeyUse::Signing,
            (false, true) => KeyUse::Agreement,
            (false, false) => {
                return Err(TokenError::KnownAnswer(format!("no operation of {public} gives what it should")).into());
            }
        };
        Ok(Proved { usage, method })
    }

    /// Whether a pair that was proved before is the same still: one question. Only a wrong answer says no; a token that
    /// fails for a moment neither loses its keys nor is served with a lower custody.
    pub(super) fn is_still(
        &mut self,
        live: &mut Live,
        public: &PublicKey,
        private: ObjectHandle,
        proved: Proved,
    ) -> Outcome<bool> {
        let answer = match proved.method {
            Some(method) => match peers_of(&mut self.peers, public.curve()) {
                Some(peers) => ask(self.driver, live, OurKey { number: 0, public, private, method }, peers, true),
                None => Ok(false),
            },
            None => sign(&live.session, public, private, QUESTION)
                .map(|signature| crypto::verify(public, QUESTION, &signature).is_ok()),
        };
        match answer {
            Err(fault) => unless_lost(fault).map(|()| true),
            answer => answer,
        }
    }

    /// Whether a signature is right.
    pub(super) fn signs(&mut self, live: &Live, public: &PublicKey, private: ObjectHandle) -> Outcome<bool> {
        let signature = insist(|| sign(&live.session, public, private, QUESTION));
        self.note(None, signature.map(|signature| crypto::verify(public, QUESTION, &signature).is_ok()))
    }

    /// The best method that gives the right answers. What another key of the curve answered with is tried first, and
    /// then one question is enough: it proves the pair.
    pub(super) fn agrees(
        &mut self,
        live: &mut Live,
        public: &PublicKey,
        private: ObjectHandle,
    ) -> Outcome<Option<Method>> {
        if let Some(method) = self.methods.get(&public.curve()).copied()
            && self.tries(live, OurKey { number: 0, public, private, method }, true)?
        {
            return Ok(Some(method));
        }
        let method = self.first(live, public, private, false)?;
        if let Some(method) = method {
            self.methods.entry(public.curve()).or_insert(method);
        }
        Ok(method)
    }

    /// The best method that opens ECDH-ES, whatever it does with ECDH-1PU.
    pub(super) fn opens(
        &mut self,
        live: &mut Live,
        public: &PublicKey,
        private: ObjectHandle,
    ) -> Outcome<Option<Method>> {
        self.first(live, public, private, true)
    }

    fn first(
        &mut self,
        live: &mut Live,
        public: &PublicKey,
        private: ObjectHandle,
        short: bool,
    ) -> Outcome<Option<Method>> {
        let mut tiers = self.tiers.to_vec();
        tiers.sort();
        for custody in tiers.into_iter().rev() {
            for (point, fleeting) in variants(custody, &self.driver.profile.agreement.points) {
                let method = Method { custody, point, fleeting };
                if self.tries(live, OurKey { number: 0, public, private, method }, short)? {
                    return Ok(Some(method));
                }
            }
        }
        Ok(None)
    }

    fn tries(&mut self, live: &mut Live, key: OurKey<'_>, short: bool) -> Outcome<bool> {
        let Some(peers) = peers_of(&mut self.peers, key.public.curve()) else { return Ok(false) };
        let right = ask(self.driver, live, key, peers, short);
        if let Err(fault) = &right {
            tracing::debug!(public = %key.public, method = ?key.method, %fault, "the token does not do this");
        }
        self.note(Some(key.method.custody), right)
    }

    fn note(&mut self, custody: Option<Custody>, right: Outcome<bool>) -> Outcome<bool> {
        let (right, answer) = match right {
            Ok(true) => (true, Answer::Right),
            Ok(false) => (false, Answer::Wrong),
            // A signature of a wrong form.
            Err(Fault::Token(TokenError::KnownAnswer(_))) => (false, Answer::Wrong),
            // The question is right, so what the KEK was made of is not. In the token it may mean that it cannot unwrap.
            Err(Fault::Token(TokenError::Unwrap)) if custody != Some(Custody::KekInToken) => (false, Answer::Wrong),
            Err(fault) => {
                let said = fault.to_string();
                unless_lost(fault)?;
                (false, Answer::Refused(said))
            }
        };
        self.tried.push(Tried { custody, answer });
        Ok(right)
    }
}

/// What is signed.
pub(super) const QUESTION: &[u8] = b"claviger known answer";

fn peers_of(peers: &mut HashMap<Curve, Peers>, curve: Curve) -> Option<&Peers> {
    match peers.entry(curve) {
        Entry::Occupied(peers) => Some(peers.into_mut()),
        Entry::Vacant(place) => Some(place.insert(Peers::generate(curve)?)),
    }
}

/// Whether the answers are right.
fn ask(driver: Driver<'_>, live: &mut Live, key: OurKey<'_>, peers: &Peers, short: bool) -> Outcome<bool> {
    keeping_nothing(live, |live| answers(driver, live, key, peers, short))
}

/// Does something with a session in which nothing is kept, and keeps nothing for messages.
pub(super) fn keeping_nothing<T>(live: &mut Live, operation: impl FnOnce(&mut Live) -> T) -> T {
    let mut kept = std::mem::replace(&mut live.kept, Kept::new(4));
    let result = operation(live);
    std::mem::swap(&mut live.kept, &mut kept);
    kept.clear(&live.session);
    result
}

/// The ways of a tier, the best first.
fn variants(custody: Custody, points: &[PointForm]) -> impl Iterator<Item = (PointForm, SeenBy)> {
    // With the KDF in the token too, Z is joined with others and nothing is gained.
    let fleeting = match custody {
        Custody::KekInToken => &[SeenBy::LoggedIn][..],
        Custody::KekInProcess | Custody::SharedSecretInProcess => &[SeenBy::All, SeenBy::LoggedIn],
    };
    let with = |point| fleeting.iter().map(move |seen_by| (point, *seen_by));
    points.iter().copied().flat_map(with)
}

/// A message to our key, and the content key that it must give.
pub(super) struct Question {
    pub(super) request: Unwrap,
    cek: Cek,
}

impl Peers {
    pub(super) fn generate(curve: Curve) -> Option<Self> {
        Some(Self { ephemeral: EphemeralKey::generate(curve)?, other: EphemeralKey::generate(curve)? })
    }

    /// ECDH-ES.
    pub(super) fn anonymous(&self, to: &PublicKey) -> Question {
        let ze = agree(&self.ephemeral, to);
        let kek = crypto::concat_kdf(&[&ze], &KdfInfo { apu: b"", apv: APV, tag: None });
        self.question(None, b"", Cek::generate(ContentEncryption::A256Gcm), &kek)
    }

    /// ECDH-1PU.
    pub(super) fn authenticated(&self, to: &PublicKey) -> Question {
        let (ze, zs) = (agree(&self.ephemeral, to), agree(&self.other, to));
        let kek = crypto::concat_kdf(&[&ze, &zs], &INFO);
        let sender = Sender { key: self.other.public().clone(), tag: TAG.to_vec() };
        self.question(Some(sender), APU, Cek::generate(ContentEncryption::A256CbcHs512), &kek)
    }

    fn question(&self, sender: Option<Sender>, apu: &[u8], cek: Cek, kek: &Kek) -> Question {
        let encrypted_key = crypto::wrap_key(kek, &cek);
        let (epk, apu, apv) = (self.ephemeral.public().clone(), apu.to_vec(), APV.to_vec());
        Question { request: Unwrap { epk, sender, apu, apv, encrypted_key }, cek }
    }

    /// ECDH-1PU to the other one: the request, and the answer that it must have.
    fn reply(&self, from: &PublicKey, cek: Cek) -> (Wrap, EncryptedKey) {
        let (ze, zs) = (agree(&self.ephemeral, self.other.public()), agree(&self.other, from));
        let right = crypto::wrap_key(&crypto::concat_kdf(&[&ze, &zs], &INFO), &cek);
        let recipients = vec![(self.other.public().clone(), ze)];
        (Wrap { cek, apu: APU.to_vec(), apv: APV.to_vec(), tag: TAG.to_vec(), recipients }, right)
    }
}

const APU: &[u8] = b"known";
const APV: &[u8] = b"answer";
const TAG: &[u8] = &[0x5a; 32];
const INFO: KdfInfo<'static> = KdfInfo { apu: APU, apv: APV, tag: Some(TAG) };

fn agree(with: &EphemeralKey, to: &PublicKey) -> SharedSecret {
    with.agree(to).expect("a key of the same curve")
}

/// Whether the token gives the right content keys: of ECDH-ES; and, unless `short`, of ECDH-1PU with Zs derived and with
/// Zs kept, read and written.
fn answers(driver: Driver<'_>, live: &mut Live, key: OurKey<'_>, peers: &Peers, short: bool) -> Outcome<bool> {
    let anonymous = peers.anonymous(key.public);
    if insist(|| agree::unwrap(driver, live, key, &anonymous.request))? != anonymous.cek {
        return Ok(false);
    }
    if short {
        return Ok(true);
    }
    let Question { request, cek } = peers.authenticated(key.public);
    for _ in 0..2 {
        if insist(|| agree::unwrap(driver, live, key, &request))? != cek {
            return Ok(false);
        }
    }
    let (request, right) = peers.reply(key.public, cek);
    Ok(insist(|| agree::wrap(driver, live, key, &request))? == [right])
}

/// How often a question is asked before a failure counts as an answer.
const TRIES: usize = 4;

/// The answer, by a token that may be sick for a moment: what it fails at now, a keeper that begins now would not do all
/// its life.
fn insist<T>(mut question: impl FnMut() -> Outcome<T>) -> Outcome<T> {
    let sick = |answer: &Outcome<T>| {
        answer.as_ref().is_err_and(|fault| matches!(fault.kind(), Some(Kind::Vague | Kind::Device)))
    };
    let sound = (1..TRIES).map(|_| question()).find(|answer| !sick(answer));
    sound.unwrap_or_else(question)
}

/// A session that is lost says nothing about what a token can do.
pub(super) fn unless_lost(fault: Fault) -> Outcome<()> {
    if fault.no_answer() { Err(fault) } else { Ok(()) }
}
