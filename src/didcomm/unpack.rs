//! Unpacking: from the wire to a plaintext and its provenance. The receiver's consistency checks are here.

use std::{
    borrow::Cow,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

use super::{
    Error, Forward, Identities, Layer, Message, OwnKey, PriorDid, Provenance, Warning, error::FromPriorError,
    from_prior::Unverified, resolvable, same_did,
};
use crate::{
    did::{Document, Relationship, Resolver, did_of},
    jose::{self, Envelope, JoseError, Jwe, Jws, KeyAgreement, Limits},
    keys::PublicKey,
    secrets::{Context, SecretsError, TokenError},
};

/// The derivations that one layer may cost, so that no stranger spends a token's time by naming many of our keys: two
/// tries of ECDH-ES, one of ECDH-1PU.
const DERIVATIONS: u32 = 2;

/// How a message is opened.
#[derive(Debug, Clone)]
pub struct UnpackOptions {
    /// Opens a forward that is addressed to ourselves, once (v2.1 routing, "rewrapping"). Otherwise the forward is the
    /// message.
    pub unwrap_forward: bool,
    /// Refuses authcrypt(sign()) and anoncrypt(authcrypt(sign())), which are warnings otherwise: the specification
    /// advises against the one and forbids the other, and has a vector of each.
    pub strict_nesting: bool,
    /// How large a message may be.
    pub limits: Limits,
    /// When to give up asking the token.
    pub deadline: Option<Instant>,
    /// Who may have a person asked for a PIN or a touch: messages that say that they are from one of these DIDs. An envelope
    /// that does not say who it is from, as an anoncrypt, may not. Everyone may, if this is not said.
    pub prompt_for: Option<Vec<String>>,
}

impl Default for UnpackOptions {
    fn default() -> Self {
        Self {
            unwrap_forward: true,
            strict_nesting: false,
            limits: Limits::default(),
            deadline: None,
            prompt_for: None,
        }
    }
}

impl Message {
    /// Opens a message and verifies each layer, then compares `from`, `to`, the keys' DIDs and `from_prior`.
    ///
    /// Who sent it is told by the [`Provenance`]: a plaintext is a message too, and proves nothing.
    pub async fn unpack(
        packed: &str,
        resolver: &dyn Resolver,
        me: &Identities,
        options: &UnpackOptions,
    ) -> Result<(Self, Provenance), Error> {
        let opener = Opener { resolver, me, options };
        let (message, provenance) = opener.open(packed).await?;
        match Forward::from_message(&message) {
            Some(forward) if options.unwrap_forward => opener.open_forward(message, provenance, forward?).await,
            _ => Ok((message, provenance)),
        }
    }
}

struct Opener<'a> {
    resolver: &'a dyn Resolver,
    me: &'a Identities,
    options: &'a UnpackOptions,
}

/// What the layers have shown so far.
#[derive(Default)]
struct Seen {
    provenance: Provenance,
    /// Our keys that opened a layer, outermost first.
    opened_by: Vec<OwnKey>,
    /// The key that authenticated by authcrypt.
    skid: Option<String>,
    /// The key that signed.
    signer: Option<String>,
}

impl Opener<'_> {
    async fn open(&self, packed: &str) -> Result<(Message, Provenance), Error> {
        let mut seen = Seen::default();
        let mut bytes = Cow::Borrowed(packed.as_bytes());
        // The grammar of `check_nesting` ends this after three layers.
        let plain = loop {
            match Envelope::parse(&bytes, &self.options.limits)? {
                Envelope::Plain(plain) => break plain,
                Envelope::Encrypted(jwe) => bytes = Cow::Owned(self.decrypt(&jwe, &mut seen).await?),
                Envelope::Signed(jws) => bytes = Cow::Owned(self.verify(&jws, &mut seen).await?),
            }
        };
        let message = Message::from_object(plain)?;
        self.check_from(&message, &seen)?;
        self.check_to(&message, &mut seen)?;
        let mut provenance = seen.provenance;
        if let Some(jwt) = &message.from_prior {
            self.check_from_prior(jwt, &message, seen.skid.is_some(), &mut provenance).await?;
        }
        if message.expires_time.is_some_and(|expires| expires <= now()) {
            provenance.warnings.push(Warning::Expired);
        }
        Ok((message, provenance))
    }

    /// Opens what a forward to ourselves holds. What is proved about the carrier is not proved about the sender.
    async fn open_forward(
        &self,
        message: Message,
        provenance: Provenance,
        forward: Forward,
    ) -> Result<(Message, Provenance), Error> {
        let ours = self.me.document(&forward.next).is_some()
            || self.me.key(&forward.next, Relationship::KeyAgreement).is_some();
        if !ours {
            return Ok((message, provenance));
        }
        let [packed] = forward.forwarded.as_slice() else {
            return Err(Error::Forward("one that is for ourselves must hold one message"));
        };
        let (message, inner) = self.open(packed).await?;
        if Forward::from_message(&message).is_some() {
            return Err(Error::ForwardLoop);
        }
        let mut layers = provenance.layers;
        layers.push(Layer::Forward { next: forward.next });
        layers.extend(inner.layers);
        Ok((message, Provenance { layers, ..inner }))
    }

    async fn decrypt(&self, jwe: &Jwe, seen: &mut Seen) -> Result<Vec<u8>, Error> {
        let kind = match jwe.algorithm() {
            KeyAgreement::Ecdh1Pu => "authcrypt",
            KeyAgreement::EcdhEs => "anoncrypt",
        };
        self.check_nesting(kind, seen)?;
        let ours: Vec<&OwnKey> =
            jwe.recipient_kids().filter_map(|kid| self.me.key(kid, Relationship::KeyAgreement)).collect();
        if ours.is_empty() {
            return Err(Error::NotForUs(jwe.recipient_kids().map(str::to_owned).collect()));
        }
        // Before the sender is resolved, which may ask a server of a stranger's choice.
        let curve = jwe.ephemeral_key().curve();
        if let Some(own) = ours.first().filter(|_| ours.iter().all(|own| own.key.curve() != curve)) {
            return Err(JoseError::Curve { kid: own.kid.clone(), curve: own.key.curve(), expected: curve }.into());
        }
        let sender = match jwe.sender_kid() {
            Some(skid) => Some(self.key(skid, skid, Relationship::KeyAgreement).await?),
            None => None,
        };
        let (plaintext, own, kid) = self.try_keys(jwe, sender.as_ref()).await?;

        let recipients = jwe.recipient_kids().map(str::to_owned).collect();
        let custody = self.me.held(&own.key).and_then(|held| held.custody);
        let (alg, enc) = (jwe.algorithm().name(), jwe.encryption());
        let layer = match jwe.sender_kid() {
            Some(skid) => Layer::Authcrypt { alg, enc, skid: skid.to_owned(), kid, recipients, custody },
            None => Layer::Anoncrypt { alg, enc, kid, recipients, custody },
        };
        seen.provenance.layers.push(layer);
        seen.provenance.encrypted = true;
        match jwe.sender_kid() {
            Some(skid) => {
                seen.provenance.authenticated = true;
                seen.skid = Some(skid.to_owned());
            }
            None => seen.provenance.anonymous_sender = true,
        }
        seen.opened_by.push(own.clone());
        Ok(plaintext)
    }

    /// Asks for our keys in the order of the recipients, until one opens the message or the derivations are spent. A key
    /// whose token is away costs none.
    async fn try_keys<'k>(
        &'k self,
        jwe: &Jwe,
        sender: Option<&PublicKey>,
    ) -> Result<(Vec<u8>, &'k OwnKey, String), Error> {
        let cx = Context { deadline: self.options.deadline, ..Context::default() };
        let cost = if sender.is_some() { 2 } else { 1 };
        let mut budget = DERIVATIONS;
        let (mut failure, mut stranger) = (None, None);
        for kid in jwe.recipient_kids() {
            let Some(own) = self.me.key(kid, Relationship::KeyAgreement) else { continue };
            if budget < cost {
                break;
            }
            if !self.may_ask(jwe, own) {
                stranger = Some(Error::Stranger { kid: kid.to_owned() });
                continue;
            }
            match jwe.decrypt(kid, &own.key, sender, self.me.secrets(), &cx).await {
                Ok(plaintext) => return Ok((plaintext, own, kid.to_owned())),
                Err(error) => {
                    if !costs_nothing(&error) {
                        budget -= cost;
                    }
                    failure = Some(error);
                }
            }
        }
        Err(match (failure, stranger) {
            (Some(failure), _) => failure.into(),
            (None, Some(stranger)) => stranger,
            (None, None) => JoseError::NoRecipient.into(),
        })
    }

    /// Whether a key may be asked for: one that asks a person is not, for a stranger.
    fn may_ask(&self, jwe: &Jwe, own: &OwnKey) -> bool {
        let Some(known) = &self.options.prompt_for else { return true };
        let asks = self.me.held(&own.key).is_some_and(|held| held.asks_pin || held.asks_touch);
        let sender = jwe.sender_kid().and_then(did_of);
        !asks || sender.is_some_and(|sender| known.iter().any(|known| same_did(known, sender)))
    }

    /// A key in the document of `owner`, a DID or DID URL. Our own documents come first: a message from ourselves needs
    /// no network.
    async fn key(&self, owner: &str, kid: &str, relationship: Relationship) -> Result<PublicKey, Error> {
        match did_of(owner).and_then(|did| self.me.document(did)) {
            Some(own) => find_key(own, kid, relationship),
            None => resolve_key(self.resolver, owner, kid, relationship).await,
        }
    }

    async fn verify(&self, jws: &Jws, seen: &mut Seen) -> Result<Vec<u8>, Error> {
        self.check_nesting("signed", seen)?;
        // `kid` may stand unprotected: it must be a key of `from` before anything is resolved, else any relay makes us
        // ask a server of its choice (v2.1 "Message Signing"; affinidi-messaging 0.15.8).
        let claimed = jose::json_object("payload", jws.unverified_payload())?;
        // A signature is innermost; whatever else is in it has no `from` of its own to check.
        for (member, inner) in [("ciphertext", "encrypted"), ("payload", "signed")] {
            if claimed.contains_key(member) {
                return Err(Error::Nesting { outer: "signed", inner });
            }
        }
        let from = claimed.get("from").and_then(Value::as_str);
        let from = from.ok_or_else(|| Error::FromAbsent(jws.kid().to_owned()))?;
        check_same(from, jws.kid())?;
        let key = self.key(resolvable(from, jws.kid()), jws.kid(), Relationship::Authentication).await?;
        let payload = jws.verify(&key)?.to_vec();

        seen.provenance.layers.push(Layer::Signed { alg: jws.algorithm(), kid: jws.kid().to_owned() });
        seen.provenance.authenticated = true;
        seen.provenance.non_repudiation = true;
        seen.signer = Some(jws.kid().to_owned());
        Ok(payload)
    }

    /// The grammar `anoncrypt? authcrypt? signed? plain`. It ends, so no message nests deeper than three envelopes.
    fn check_nesting(&self, inner: &'static str, seen: &mut Seen) -> Result<(), Error> {
        let outer = match seen.provenance.layers.last() {
            None => return Ok(()),
            Some(Layer::Anoncrypt { .. }) => "anoncrypt",
            Some(Layer::Authcrypt { .. }) => "authcrypt",
            Some(Layer::Signed { .. } | Layer::Forward { .. }) => "signed",
        };
        match (outer, inner) {
            ("anoncrypt", "authcrypt" | "signed") => Ok(()),
            ("authcrypt", "signed") if !self.options.strict_nesting => {
                let nested = seen.provenance.layers.len() > 1;
                let warning = if nested { Warning::ForbiddenNesting } else { Warning::DiscouragedNesting };
                seen.provenance.warnings.push(warning);
                Ok(())
            }
            _ => Err(Error::Nesting { outer, inner }),
        }
    }

    /// `from` is the DID of the key that encrypted, and of the key that signed: so the two are one sender.
    fn check_from(&self, message: &Message, seen: &Seen) -> Result<(), Error> {
        for kid in [&seen.skid, &seen.signer].into_iter().flatten() {
            let from = message.from.as_deref().ok_or_else(|| Error::FromAbsent(kid.clone()))?;
            check_same(from, kid)?;
        }
        Ok(())
    }

    /// `to` names the DID of each key of ours that opened a layer. The specification says "should" in one place and
    /// "must be an error" in another; absence is a warning, but with a signature inside encryption an error.
    fn check_to(&self, message: &Message, seen: &mut Seen) -> Result<(), Error> {
        let warnings = &mut seen.provenance.warnings;
        let Some(to) = &message.to else {
            if seen.signer.is_some() && !seen.opened_by.is_empty() {
                return Err(Error::ToAbsent);
            }
            warnings.push(Warning::ToAbsent);
            return Ok(());
        };
        for own in &seen.opened_by {
            if !to.iter().any(|did| same_did(did, &own.did)) {
                return Err(Error::To { kid: own.kid.clone() });
            }
        }
        if seen.opened_by.is_empty() && !to.iter().any(|did| self.me.document(did).is_some()) {
            warnings.push(Warning::NotAddressedToUs);
        }
        Ok(())
    }

    async fn check_from_prior(
        &self,
        jwt: &str,
        message: &Message,
        authcrypt: bool,
        provenance: &mut Provenance,
    ) -> Result<(), Error> {
        let prior = Unverified::parse(jwt)?;
        match (&prior.claims.sub, &message.from) {
            (Some(sub), Some(from)) if same_did(sub, from) => {}
            (Some(_), _) => return Err(Error::FromPrior(FromPriorError::Subject)),
            (None, None) => {}
            (None, Some(_)) => return Err(Error::FromPrior(FromPriorError::Ending)),
        }
        let (claims, kid) = prior.verify(self.resolver).await?;
        // An ending has no new DID, and so can have no authcrypt; encrypted it must be all the same.
        let carried = if claims.sub.is_some() { authcrypt } else { provenance.encrypted };
        if !carried {
            provenance.warnings.push(Warning::UnauthenticatedFromPrior);
        }
        provenance.from_prior = Some(PriorDid { iss: claims.iss, sub: claims.sub, iat: claims.iat, kid });
        Ok(())
    }
}

/// A key by its DID URL, if it stands in the relationship in the document of `owner`, a DID or DID URL.
pub(super) async fn resolve_key(
    resolver: &dyn Resolver,
    owner: &str,
    kid: &str,
    relationship: Relationship,
) -> Result<PublicKey, Error> {
    let did = did_of(owner).ok_or_else(|| Error::KeyId(owner.to_owned()))?;
    let document = resolver.resolve(did).await?;
    find_key(&document, kid, relationship)
}

fn find_key(document: &Document, kid: &str, relationship: Relationship) -> Result<PublicKey, Error> {
    let method =
        document.method(kid, relationship).ok_or_else(|| Error::NotAuthorised { kid: kid.to_owned(), relationship })?;
    method.key.clone().map_err(|error| Error::Key { kid: kid.to_owned(), error })
}

fn check_same(from: &str, kid: &str) -> Result<(), Error> {
    let did = did_of(kid).ok_or_else(|| Error::KeyId(kid.to_owned()))?;
    if same_did(from, did) {
        return Ok(());
    }
    Err(Error::From { from: from.to_owned(), kid: kid.to_owned() })
}

/// Whether no token did any work before it failed.
fn costs_nothing(error: &JoseError) -> bool {
    match error {
        JoseError::Curve { .. } => true,
        JoseError::Secrets(SecretsError::Token { error, .. }) => {
            matches!(error, TokenError::Away(_) | TokenError::KeyGone | TokenError::Pin(_))
        }
        JoseError::Secrets(_) => true,
        _ => false,
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
