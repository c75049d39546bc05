//! Known answers: what a key can do is what it has been seen to do, right, on this token.
//!
//! The mechanism list is not asked. A key's public half is proved on the way: with any other the answer would be wrong.

use std::collections::HashMap;

use cryptoki::object::ObjectHandle;

use super::{
    agree::{self, Method, OurKey, PointForm},
    ckr::{Fault, Outcome},
    raw::Raw,
    session::{Kept, Live},
    sign::sign,
};
use crate::{
    crypto::{self, Cek, ContentEncryption, EphemeralKey, KdfInfo},
    keys::{Curve, PublicKey},
    secrets::{Custody, KeyUse, Sender, TokenError, Unwrap, Wrap},
};

/// Asks the questions, and remembers which method each curve's keys answered with.
pub(super) struct Prover<'a> {
    raw: &'a Raw,
    /// The tiers to try.
    tiers: &'a [Custody],
    peers: HashMap<Curve, Peers>,
    methods: HashMap<Curve, Method>,
}

/// Throw-away keys in software.
struct Peers {
    ephemeral: EphemeralKey,
    other: EphemeralKey,
}

/// What a key has been seen to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Proved {
    pub(super) usage: KeyUse,
    pub(super) method: Option<Method>,
}

impl<'a> Prover<'a> {
    pub(super) fn new(raw: &'a Raw, tiers: &'a [Custody]) -> Self {
        Self { raw, tiers, peers: HashMap::new(), methods: HashMap::new() }
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

    fn signs(&self, live: &Live, public: &PublicKey, private: ObjectHandle) -> Outcome<bool> {
        let question = b"claviger known answer";
        match sign(&live.session, public, private, question) {
            Ok(signature) => Ok(crypto::verify(public, question, &signature).is_ok()),
            Err(fault) => unless_lost(fault).map(|()| false),
        }
    }

    /// The best method that gives the right answers. What another key of the curve answered with is tried first, and
    /// then one question is enough: it proves the pair.
    fn agrees(&mut self, live: &mut Live, public: &PublicKey, private: ObjectHandle) -> Outcome<Option<Method>> {
        let curve = public.curve();
        let peers = match self.peers.entry(curve) {
            std::collections::hash_map::Entry::Occupied(peers) => &*peers.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => {
                match (EphemeralKey::generate(curve), EphemeralKey::generate(curve)) {
                    (Some(ephemeral), Some(other)) => &*place.insert(Peers { ephemeral, other }),
                    _ => return Ok(None),
                }
            }
        };
        let mut ask = |method, short| {
            // Apart from what is kept for messages.
            let mut kept = std::mem::replace(&mut live.kept, Kept::new(4));
            let key = OurKey { number: 0, public, private, method };
            let answer = answers(self.raw, live, key, peers, short);
            std::mem::swap(&mut live.kept, &mut kept);
            kept.clear(&live.session);
            match answer {
                Ok(right) => Ok(right),
                Err(fault) => {
                    tracing::debug!(%public, ?method, %fault, "the token does not do this");
                    unless_lost(fault).map(|()| false)
                }
            }
        };
        if let Some(method) = self.methods.get(&curve)
            && ask(*method, true)?
        {
            return Ok(Some(*method));
        }
        let mut tiers = self.tiers.to_vec();
        tiers.sort();
        for custody in tiers.into_iter().rev() {
            for point in [PointForm::Raw, PointForm::Der] {
                let method = Method { custody, point };
                if ask(method, false)? {
                    self.methods.entry(curve).or_insert(method);
                    return Ok(Some(method));
                }
            }
        }
        Ok(None)
    }
}

/// Whether the token gives the right content keys: of ECDH-ES; and, unless `short`, of ECDH-1PU with Zs derived and with
/// Zs kept, read and written.
fn answers(raw: &Raw, live: &mut Live, key: OurKey<'_>, peers: &Peers, short: bool) -> Outcome<bool> {
    let (apu, apv, tag) = (b"known".to_vec(), b"answer".to_vec(), vec![0x5a; 32]);
    let Peers { ephemeral, other } = peers;
    let agree = |with: &EphemeralKey, to| with.agree(to).expect("a key of the same curve");
    let ze = agree(ephemeral, key.public);

    let cek = Cek::generate(ContentEncryption::A256Gcm);
    let kek = crypto::concat_kdf(&[&ze], &KdfInfo { apu: b"", apv: &apv, tag: None });
    let mut request = Unwrap {
        epk: ephemeral.public().clone(),
        sender: None,
        apu: Vec::new(),
        apv: apv.clone(),
        encrypted_key: crypto::wrap_key(&kek, &cek),
    };
    if agree::unwrap(raw, live, key, &request)? != cek {
        return Ok(false);
    }
    if short {
        return Ok(true);
    }
    let zs = agree(other, key.public);
    let info = KdfInfo { apu: &apu, apv: &apv, tag: Some(&tag) };
    let cek = Cek::generate(ContentEncryption::A256CbcHs512);
    request.encrypted_key = crypto::wrap_key(&crypto::concat_kdf(&[&ze, &zs], &info), &cek);
    request.apu.clone_from(&apu);
    request.sender = Some(Sender { key: other.public().clone(), tag: tag.clone() });
    for _ in 0..2 {
        if agree::unwrap(raw, live, key, &request)? != cek {
            return Ok(false);
        }
    }
    let ze = agree(ephemeral, other.public());
    let right = crypto::wrap_key(&crypto::concat_kdf(&[&ze, &zs], &info), &cek);
    let recipients = vec![(other.public().clone(), ze)];
    let wrapped = agree::wrap(raw, live, key, &Wrap { cek, apu, apv, tag, recipients })?;
    Ok(wrapped == [right])
}

/// A session that is lost says nothing about what a token can do.
fn unless_lost(fault: Fault) -> Outcome<()> {
    if fault.no_answer() { Err(fault) } else { Ok(()) }
}
