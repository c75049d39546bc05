//! Unpacking: decrypts a received message, verifies its layers, and compares its headers with the keys.

use std::{
    borrow::Cow,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value};

use super::{
    consistency::{Evidence, check_from, check_owner, check_to},
    did_forms::{resolvable, same_did},
    error::{Error, FromPriorError},
    forward::Forward,
    from_prior::UnverifiedFromPrior,
    identities::{Identities, OwnKey},
    key_lookup::{find_key, replaced_key, resolve_key},
    message::Message,
    provenance::{Layer, PriorDid, Provenance, Warning},
    refused::{MessageNames, RefusedMessage},
};
use crate::{
    did::{Relationship, Resolver, did_of},
    jose::{self, Envelope, JoseError, Jwe, Jws, KeyAgreement, Limits},
    keys::PublicKey,
    secrets::{Context, SecretsError, TokenError},
};

/// The most key derivations that the tokens may make to open one layer: two attempts with ECDH-ES, which cost one
/// derivation each, or one attempt with ECDH-1PU, which costs two. Without this limit, a stranger could waste a token's
/// time by naming many of our keys. A keyring may repeat an attempt once, and check the token with a known answer.
const MAX_DERIVATIONS: u32 = 2;

/// How a message is opened.
#[derive(Debug, Clone)]
pub struct UnpackOptions {
    /// Opens a forward that is addressed to us, once (v2.1 routing, "rewrapping"). If `false`, the forward itself is
    /// returned. Default: `true`.
    pub unwrap_forward: bool,
    /// Refuses a message whose sender is proved by neither authcrypt nor a signature, with [`Error::NotAuthenticated`].
    /// Such messages include the forwards that peers send to a mediator. Default: `false`.
    pub require_authenticated: bool,
    /// Refuses authcrypt(sign()) and anoncrypt(authcrypt(sign())). If `false`, each is only a [`Warning`]: the
    /// specification advises against the first and forbids the second, but has a test vector of each. Default: `false`.
    pub strict_nesting: bool,
    /// How large a message may be, and how many recipients it may have.
    pub limits: Limits,
    /// When to stop waiting for the token. Default: 30 seconds for each operation, and 120 if its key asks a person
    /// ([`Context::deadline`](crate::secrets::Context::deadline)).
    pub deadline: Option<Instant>,
    /// DIDs of senders. A token may ask a person for a PIN or a touch only for a message that claims to be from one of
    /// them. The claim is not verified at that point. An anoncrypted message claims no sender, so it never qualifies.
    /// Default: every message qualifies.
    pub prompt_for: Option<Vec<String>>,
    /// Counts the encrypted layers that were opened, also if the message fails afterwards. Each attempt to open such a
    /// message costs the token time again, so the caller should bound the attempts. Default: not counted.
    pub opened_layers: Option<Arc<AtomicU32>>,
    /// Takes an absent `from` from the key that authcrypted the message. v2.1 requires `from` in such a message, and some
    /// mediators leave it out. Default: `false`, the message fails with [`Error::FromAbsent`].
    pub from_by_key: bool,
    /// When the message arrived. A `from_prior` that has expired since then is accepted. Default: now.
    pub arrived: Option<SystemTime>,
}

impl Default for UnpackOptions {
    fn default() -> Self {
        Self {
            unwrap_forward: true,
            require_authenticated: false,
            strict_nesting: false,
            limits: Limits::default(),
            deadline: None,
            prompt_for: None,
            opened_layers: None,
            from_by_key: false,
            arrived: None,
        }
    }
}

impl Message {
    /// Opens a message and verifies each layer, then compares `from`, `to`, the DIDs of the keys, and `from_prior`.
    ///
    /// The [`Provenance`] says what is proved about the sender. A plaintext message is accepted too, although it proves
    /// nothing. To refuse it, set [`UnpackOptions::require_authenticated`], or look at [`Provenance::sender`].
    ///
    /// # Errors
    /// If the message is malformed, is for none of our keys, does not open, contradicts itself, or its sender does not
    /// resolve; or if the token fails. [`Error::is_retryable`] tells whether a later attempt may succeed. Tell the peer
    /// no more than that the message was not understood.
    pub async fn unpack(
        packed: &str,
        resolver: &dyn Resolver,
        me: &Identities,
        options: &UnpackOptions,
    ) -> Result<(Self, Provenance), Error> {
        Unpacker { resolver, me, options, refused: OnceLock::new() }.unpack(packed).await
    }

    /// Like [`unpack`](Self::unpack). If the message was opened, and is refused for a header, this returns what is known of
    /// it beside the error, so that its sender can get a problem report. Nothing is returned unless authcrypt proves the sender.
    ///
    /// # Errors
    /// Those of [`unpack`](Self::unpack).
    pub async fn unpack_or_refuse(
        packed: &str,
        resolver: &dyn Resolver,
        me: &Identities,
        options: &UnpackOptions,
    ) -> Result<(Self, Provenance), (Error, Option<Box<RefusedMessage>>)> {
        let unpacker = Unpacker { resolver, me, options, refused: OnceLock::new() };
        match unpacker.unpack(packed).await {
            Ok(opened) => Ok(opened),
            Err(error) => Err((error, unpacker.refused.into_inner())),
        }
    }
}

struct Unpacker<'a> {
    resolver: &'a dyn Resolver,
    me: &'a Identities,
    options: &'a UnpackOptions,
    /// The message that was opened and is refused.
    refused: OnceLock<Box<RefusedMessage>>,
}

impl Unpacker<'_> {
    async fn unpack(&self, packed: &str) -> Result<(Message, Provenance), Error> {
        let (message, provenance) = self.open(packed).await?;
        let (message, provenance) = match Forward::from_message(&message) {
            Some(forward) if self.options.unwrap_forward => self.open_forward(message, provenance, forward?).await?,
            _ => (message, provenance),
        };
        if self.options.require_authenticated && !provenance.authenticated {
            return Err(Error::NotAuthenticated);
        }
        Ok((message, provenance))
    }

    async fn open(&self, packed: &str) -> Result<(Message, Provenance), Error> {
        let mut evidence = Evidence::default();
        let mut bytes = Cow::Borrowed(packed.as_bytes());
        // `check_nesting` ends this loop after three layers.
        let plain = loop {
            match Envelope::parse(&bytes, &self.options.limits)? {
                Envelope::Plain(plain) => break plain,
                Envelope::Encrypted(jwe) => bytes = Cow::Owned(self.decrypt(&jwe, &mut evidence).await?),
                Envelope::Signed(jws) => bytes = Cow::Owned(self.verify(&jws, &mut evidence).await?),
            }
        };
        let names = MessageNames::of(&plain);
        let read = self.read(plain, &mut evidence).await;
        if let Err(error) = &read
            && let Some(refused) = names.refused(&evidence, error)
        {
            // Only the innermost message is refused.
            let _ = self.refused.set(Box::new(refused));
        }
        Ok((read?, evidence.provenance))
    }

    /// Reads the plaintext, and compares its headers with the keys of the layers.
    async fn read(&self, plain: Map<String, Value>, evidence: &mut Evidence) -> Result<Message, Error> {
        let (mut message, attachment_notes) = Message::received(plain)?;
        evidence.provenance.attachment_notes = attachment_notes;
        if message.from.is_none() && self.options.from_by_key {
            message.from = evidence.skid.as_deref().and_then(did_of).map(str::to_owned);
        }
        check_from(&message, evidence)?;
        check_to(&message, evidence, self.me)?;
        if let Some(jwt) = &message.from_prior {
            self.check_from_prior(jwt, &message, evidence).await?;
        }
        if message.expires_time.is_some_and(|expires| expires <= now()) {
            evidence.provenance.warnings.push(Warning::Expired);
        }
        Ok(message)
    }

    /// Opens the message inside a forward that is addressed to us. Of the forward's provenance only the layers are
    /// kept: what is proved about the sender of the forward proves nothing about the sender of the message inside.
    async fn open_forward(
        &self,
        message: Message,
        provenance: Provenance,
        forward: Forward,
    ) -> Result<(Message, Provenance), Error> {
        let addressed_to_us = self.me.document(&forward.next).is_some()
            || self.me.key(&forward.next, Relationship::KeyAgreement).is_some();
        if !addressed_to_us {
            return Ok((message, provenance));
        }
        let [packed] = forward.forwarded.as_slice() else {
            return Err(Error::Forward("a forward to us must contain exactly one message"));
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

    async fn decrypt(&self, jwe: &Jwe, evidence: &mut Evidence) -> Result<Vec<u8>, Error> {
        let kind = match jwe.algorithm() {
            KeyAgreement::Ecdh1Pu => "authcrypt",
            KeyAgreement::EcdhEs => "anoncrypt",
        };
        self.check_nesting(kind, evidence)?;
        let own_keys: Vec<&OwnKey> =
            jwe.recipient_kids().filter_map(|kid| self.me.key(kid, Relationship::KeyAgreement)).collect();
        if own_keys.is_empty() {
            return Err(Error::NotForUs(jwe.recipient_kids().map(str::to_owned).collect()));
        }
        // This is checked before the sender is resolved, since resolving may send a request to a server that a
        // stranger chose.
        let curve = jwe.ephemeral_key().curve();
        if let Some(own) = own_keys.first().filter(|_| own_keys.iter().all(|own| own.key.curve() != curve)) {
            return Err(
                JoseError::CurveMismatch { kid: own.kid.clone(), curve: own.key.curve(), expected: curve }.into()
            );
        }
        let sender = match jwe.sender_kid() {
            Some(skid) => Some(self.key(skid, skid, Relationship::KeyAgreement).await?),
            None => None,
        };
        let (plaintext, own, kid) = match (self.try_keys(jwe, sender.as_ref()).await, jwe.sender_kid(), &sender) {
            (Err(Error::Envelope(error @ JoseError::Decrypt(_))), Some(skid), Some(old)) => {
                match self.replaced(skid, Relationship::KeyAgreement, old).await {
                    Some(newer) => self.try_keys(jwe, Some(&newer)).await?,
                    None => return Err(error.into()),
                }
            }
            (tried, ..) => tried?,
        };
        if let Some(opened) = &self.options.opened_layers {
            opened.fetch_add(1, Ordering::Relaxed);
        }

        let recipients = jwe.recipient_kids().map(str::to_owned).collect();
        let custody = self.me.held_key(&own.key).and_then(|held| held.custody);
        let (alg, enc) = (jwe.algorithm().name(), jwe.encryption());
        let layer = match jwe.sender_kid() {
            Some(skid) => Layer::Authcrypt { alg, enc, skid: skid.to_owned(), kid, recipients, custody },
            None => Layer::Anoncrypt { alg, enc, kid, recipients, custody },
        };
        evidence.provenance.layers.push(layer);
        evidence.provenance.encrypted = true;
        match jwe.sender_kid() {
            Some(skid) => {
                evidence.provenance.authenticated = true;
                evidence.skid = Some(skid.to_owned());
            }
            None => evidence.provenance.anonymous_sender = true,
        }
        evidence.opened_by.push(own.clone());
        Ok(plaintext)
    }

    /// Tries our keys in the order of the recipients, until one opens the message or [`MAX_DERIVATIONS`] are spent. Only
    /// an attempt that certainly reached no token costs no derivation. If no key opens the message, returns the failure
    /// from which a later attempt is most likely to recover, or [`Error::PromptNotAllowed`] if no key could be tried.
    async fn try_keys<'k>(
        &'k self,
        jwe: &Jwe,
        sender: Option<&PublicKey>,
    ) -> Result<(Vec<u8>, &'k OwnKey, String), Error> {
        let cx = Context { deadline: self.options.deadline, ..Context::default() };
        let cost = if sender.is_some() { 2 } else { 1 };
        let mut budget = MAX_DERIVATIONS;
        let (mut failure, mut not_allowed): (Option<JoseError>, _) = (None, None);
        for kid in jwe.recipient_kids() {
            let Some(own) = self.me.key(kid, Relationship::KeyAgreement) else { continue };
            if budget < cost {
                break;
            }
            if !self.may_prompt(jwe, own) {
                not_allowed = Some(Error::PromptNotAllowed { kid: kid.to_owned() });
                continue;
            }
            match jwe.decrypt(kid, &own.key, sender, self.me.secrets(), &cx).await {
                Ok(plaintext) => return Ok((plaintext, own, kid.to_owned())),
                Err(error) => {
                    if !failed_before_derivation(&error) {
                        budget -= cost;
                    }
                    if failure.as_ref().is_none_or(|before| hope(&error) > hope(before)) {
                        failure = Some(error);
                    }
                }
            }
        }
        Err(match (failure, not_allowed) {
            (Some(failure), _) => failure.into(),
            (None, Some(not_allowed)) => not_allowed,
            (None, None) => JoseError::NoRecipient.into(),
        })
    }

    /// Whether the key may be used for this message. A key that asks a person may only be used for a sender
    /// in [`UnpackOptions::prompt_for`].
    fn may_prompt(&self, jwe: &Jwe, own: &OwnKey) -> bool {
        let Some(known) = &self.options.prompt_for else { return true };
        let prompts = self.me.held_key(&own.key).is_some_and(|held| held.asks_pin || held.asks_touch);
        let sender = jwe.sender_kid().and_then(did_of);
        !prompts || sender.is_some_and(|sender| known.iter().any(|known| same_did(known, sender)))
    }

    /// Returns the key `kid` from the document of `owner`, a DID or DID URL. Our own documents are looked up first, so
    /// that a message from ourselves needs no network.
    async fn key(&self, owner: &str, kid: &str, relationship: Relationship) -> Result<PublicKey, Error> {
        match did_of(owner).and_then(|did| self.me.document(did)) {
            Some(own) => find_key(own, kid, relationship),
            None => resolve_key(self.resolver, owner, kid, relationship).await,
        }
    }

    /// Returns the key that a peer's document has by now under the id of a key that did not serve. `None` for our own
    /// keys, and if the key is the same.
    async fn replaced(&self, kid: &str, relationship: Relationship, old: &PublicKey) -> Option<PublicKey> {
        let is_own = did_of(kid).is_some_and(|did| self.me.document(did).is_some());
        if is_own { None } else { replaced_key(self.resolver, kid, relationship, old).await }
    }

    async fn verify(&self, jws: &Jws, evidence: &mut Evidence) -> Result<Vec<u8>, Error> {
        self.check_nesting("signed", evidence)?;
        // `kid` may be unprotected. It must be a key of `from` before anything is resolved: otherwise any relay could
        // make us send a request to a server of its choice (v2.1 "Message Signing"; affinidi-messaging 0.15.8).
        let claimed = jose::parse_json_object("payload", jws.unverified_payload(), self.options.limits.json_values)?;
        // A signature is the innermost layer. Another envelope inside it would have no `from` to check.
        for (member, inner) in [("ciphertext", "encrypted"), ("payload", "signed")] {
            if claimed.contains_key(member) {
                return Err(Error::ForbiddenNesting { outer: "signed", inner });
            }
        }
        let from = claimed.get("from").and_then(Value::as_str);
        let from = from.ok_or_else(|| Error::FromAbsent(jws.kid().to_owned()))?;
        check_owner(from, jws.kid())?;
        let key = self.key(resolvable(from, jws.kid()), jws.kid(), Relationship::Authentication).await?;
        let payload = match jws.verify(&key) {
            Err(error @ JoseError::InvalidSignature) => {
                let newer = self.replaced(jws.kid(), Relationship::Authentication, &key).await;
                jws.verify(&newer.ok_or(error)?)?.to_vec()
            }
            verified => verified?.to_vec(),
        };

        evidence.provenance.layers.push(Layer::Signed { alg: jws.algorithm(), kid: jws.kid().to_owned() });
        evidence.provenance.authenticated = true;
        evidence.provenance.non_repudiation = true;
        evidence.signer = Some(jws.kid().to_owned());
        Ok(payload)
    }

    /// Enforces the grammar `anoncrypt? authcrypt? signed? plain`, so no message has more than three envelopes.
    fn check_nesting(&self, inner: &'static str, evidence: &mut Evidence) -> Result<(), Error> {
        let outer = match evidence.provenance.layers.last() {
            None => return Ok(()),
            Some(Layer::Anoncrypt { .. }) => "anoncrypt",
            Some(Layer::Authcrypt { .. }) => "authcrypt",
            Some(Layer::Signed { .. } | Layer::Forward { .. }) => "signed",
        };
        match (outer, inner) {
            ("anoncrypt", "authcrypt" | "signed") => Ok(()),
            ("authcrypt", "signed") if !self.options.strict_nesting => {
                let nested = evidence.provenance.layers.len() > 1;
                let warning = if nested { Warning::ForbiddenNesting } else { Warning::DiscouragedNesting };
                evidence.provenance.warnings.push(warning);
                Ok(())
            }
            _ => Err(Error::ForbiddenNesting { outer, inner }),
        }
    }

    async fn check_from_prior(&self, jwt: &str, message: &Message, evidence: &mut Evidence) -> Result<(), Error> {
        let prior = UnverifiedFromPrior::parse(jwt)?;
        match (&prior.claims.sub, &message.from) {
            (Some(sub), Some(from)) if same_did(sub, from) => {}
            (Some(_), _) => return Err(Error::FromPrior(FromPriorError::Subject)),
            (None, None) => {}
            (None, Some(_)) => return Err(Error::FromPrior(FromPriorError::Ending)),
        }
        // Only the DID that the message came to is its audience. Otherwise a peer could find out which of our DIDs belong
        // together.
        let is_audience = |name: &str| match evidence.opened_by.as_slice() {
            [] => self.me.document(name).is_some(),
            opened_by => opened_by.iter().any(|own| same_did(&own.did, name)),
        };
        prior.check_validity(self.options.arrived.unwrap_or_else(SystemTime::now), is_audience)?;
        let (claims, kid) = prior.verify(self.resolver).await?;
        // A message that ends a relationship has no sender to authcrypt with. It must be encrypted nevertheless.
        let provenance = &mut evidence.provenance;
        let protected = if claims.sub.is_some() { evidence.skid.is_some() } else { provenance.encrypted };
        if !protected {
            provenance.warnings.push(Warning::UnauthenticatedFromPrior);
        }
        provenance.from_prior = Some(PriorDid { iss: claims.iss, sub: claims.sub, iat: claims.iat, kid });
        Ok(())
    }
}

/// Whether decryption failed before a token computed anything.
fn failed_before_derivation(error: &JoseError) -> bool {
    match error {
        JoseError::CurveMismatch { .. } => true,
        JoseError::Secrets(SecretsError::Token { error, .. }) => {
            matches!(error, TokenError::Away(_) | TokenError::KeyGone | TokenError::Pin(_))
        }
        JoseError::Secrets(SecretsError::NotHeld(_) | SecretsError::NotAllowed { .. }) => true,
        JoseError::Secrets(SecretsError::InvalidRequest(_) | SecretsError::RateLimited(_)) => true,
        JoseError::Secrets(SecretsError::Busy { .. } | SecretsError::Stopped) => true,
        _ => false,
    }
}

/// Orders the failures of several keys: the higher, the likelier a later attempt with the key succeeds.
fn hope(failure: &JoseError) -> u8 {
    match failure {
        JoseError::Secrets(SecretsError::Token { error: TokenError::Refused(_), .. }) => 2,
        JoseError::Secrets(error) if error.is_retryable() => 4,
        // The configuration may be repaired.
        JoseError::Secrets(_) => 3,
        JoseError::Decrypt(_) => 1,
        _ => 0,
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
