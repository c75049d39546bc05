//! Packing: signs and encrypts a plaintext message, and wraps it for mediators.

use std::{borrow::Cow, sync::Arc, time::Instant};

use serde_json::{Map, Value};

use super::{
    did_forms::same_did,
    error::Error,
    forward::wrap_in_forward,
    identities::Identities,
    message::Message,
    recipients::{agreement_keys, keys_on_common_curve, keys_on_first_curve},
    route::{MessagingService, Routes},
};
use crate::{
    crypto::ContentEncryption,
    did::{Document, Relationship, Resolver, did_of, is_did},
    jose,
    secrets::{Context, SignRequest},
};

impl Message {
    /// Begins to encrypt this message to a recipient: a DID, or the DID URL of one of its keys.
    ///
    /// Without [`from`](PackEncrypted::from) the message is anoncrypted, and with it authcrypted. The header `to`, if
    /// there is one, must name the recipient's DID.
    ///
    /// ```no_run
    /// # async fn f(message: claviger::Message, resolver: &dyn claviger::did::Resolver, me: claviger::Identities)
    /// # -> Result<(), claviger::didcomm::Error> {
    /// let (packed, chosen) =
    ///     message.encrypt_to("did:example:bob").from("did:example:alice").pack(resolver, &me).await?;
    /// # Ok(()) }
    /// ```
    pub fn encrypt_to<'a>(&'a self, recipient: &'a str) -> PackEncrypted<'a> {
        PackEncrypted {
            message: self,
            to: recipient,
            from: None,
            sign_by: None,
            protect_sender: false,
            forward: true,
            forward_headers: None,
            messaging_service: None,
            enc: ContentEncryption::A256CbcHs512,
            deadline: None,
        }
    }

    /// Signs this message without encrypting it. An attachment without an id gets one.
    ///
    /// `sign_by` is one of our DIDs, or the DID URL of one of its authentication keys. The header `from` must name that
    /// DID. Returns the packed message and the key that signed.
    ///
    /// # Errors
    /// If the message is invalid, `from` is another DID, no authentication key is ready, or the token fails.
    pub async fn pack_signed(&self, sign_by: &str, me: &Identities) -> Result<(String, PackSignedMetadata), Error> {
        let message = self.sendable()?;
        let (packed, sign_by_kid) = message.sign(sign_by, me, &message.context(None, None)).await?;
        Ok((packed, PackSignedMetadata { sign_by_kid }))
    }

    /// Checks this message and writes it as JSON, neither signed nor encrypted. An attachment without an id gets one.
    ///
    /// # Errors
    /// If the message is invalid, or `from` or `to` is not a DID without path, query and fragment.
    pub fn pack_plaintext(&self) -> Result<String, Error> {
        Ok(self.sendable()?.to_json())
    }

    /// Checks a message as [`pack_plaintext`](Self::pack_plaintext) does.
    ///
    /// # Errors
    /// The same.
    #[cfg(feature = "agent")]
    pub(crate) fn check_sendable(&self) -> Result<(), Error> {
        self.sendable().map(drop)
    }

    /// Checks the message itself, and that `from` and `to` are DIDs without path, query and fragment (v2.1
    /// "Message Headers"). Returns the message with an id for each attachment.
    fn sendable(&self) -> Result<Cow<'_, Self>, Error> {
        self.check()?;
        let from = self.from.iter().map(|from| ("from", from));
        let to = self.to.iter().flatten().map(|to| ("to", to));
        match from.chain(to).find(|(_, did)| !is_did(did)) {
            Some((header, found)) => {
                Err(Error::HeaderMismatch { header, found: found.clone(), expected: "DIDs, without a fragment".into() })
            }
            None => Ok(self.with_attachment_ids()),
        }
    }

    async fn sign(&self, sign_by: &str, me: &Identities, cx: &Context) -> Result<(String, String), Error> {
        self.check_from(sign_by)?;
        let key = me
            .ready_keys(sign_by, Relationship::Authentication)
            .into_iter()
            .find(|key| key.key.curve().signature_algorithm().is_some())
            .ok_or_else(|| me.no_ready_key(sign_by, Relationship::Authentication))?;
        let payload = self.to_json();
        let signature =
            me.secrets().sign(&key.key, &SignRequest::Message(payload.as_bytes()), &cx.for_kid(&key.kid)).await?;
        Ok((jose::general_json(&key.kid, &signature), key.kid.clone()))
    }

    /// Checks that the header `to` names the DID `to`. A signed message must have the header.
    fn check_to(&self, to: &str, signed: bool) -> Result<(), Error> {
        match &self.to {
            Some(named) if named.iter().any(|did| same_did(did, to)) => Ok(()),
            Some(named) => {
                Err(Error::HeaderMismatch { header: "to", found: format!("{named:?}"), expected: to.to_owned() })
            }
            None if signed => {
                Err(Error::HeaderMismatch { header: "to", found: "nothing".into(), expected: to.to_owned() })
            }
            None => Ok(()),
        }
    }

    /// Checks that the header `from` is the DID of `name`, which is a DID or a DID URL.
    fn check_from(&self, name: &str) -> Result<(), Error> {
        let did = did_of(name).ok_or_else(|| Error::InvalidKeyId(name.to_owned()))?;
        if self.from.as_deref().is_some_and(|from| same_did(from, did)) {
            return Ok(());
        }
        let found = self.from.clone().unwrap_or_else(|| "nothing".to_owned());
        Err(Error::HeaderMismatch { header: "from", found, expected: did.to_owned() })
    }

    /// The context of a token operation. Without a recipient, the first DID of `to` names the peer.
    fn context(&self, recipient: Option<&str>, deadline: Option<Instant>) -> Context {
        let peer = recipient.or_else(|| self.to.as_ref()?.first().map(String::as_str)).map(Into::into);
        Context { message_id: Some(self.id.as_str().into()), peer, deadline, ..Context::default() }
    }
}

/// Encrypts a message to one recipient: the builder that [`Message::encrypt_to`] returns.
///
/// Call [`pack`](Self::pack) last. By default the message is anoncrypted, not signed, and wrapped for the mediators
/// that the recipient's document names.
#[derive(Debug, Clone)]
#[must_use = "nothing is packed before `pack` is called"]
pub struct PackEncrypted<'a> {
    message: &'a Message,
    to: &'a str,
    from: Option<&'a str>,
    sign_by: Option<&'a str>,
    protect_sender: bool,
    forward: bool,
    forward_headers: Option<Map<String, Value>>,
    messaging_service: Option<&'a str>,
    enc: ContentEncryption,
    deadline: Option<Instant>,
}

impl<'a> PackEncrypted<'a> {
    /// Authenticates the sender (authcrypt). `sender` is one of our DIDs, or the DID URL of one of its `keyAgreement`
    /// keys. The header `from` must name that DID.
    pub fn from(mut self, sender: &'a str) -> Self {
        self.from = Some(sender);
        self
    }

    /// Signs the message before it is encrypted. `signer` is one of our DIDs, or the DID URL of one of its
    /// authentication keys. The header `from` must name that DID, and the header `to` must be present.
    pub fn sign_by(mut self, signer: &'a str) -> Self {
        self.sign_by = Some(signer);
        self
    }

    /// Hides the sender's key id inside an outer anoncrypt layer. Needs [`from`](Self::from), and forbids
    /// [`sign_by`](Self::sign_by). Default: `false`.
    pub fn protect_sender(mut self, protect_sender: bool) -> Self {
        self.protect_sender = protect_sender;
        self
    }

    /// Whether to wrap the message for the mediators that the recipient's document names. Without it, a mediator that
    /// cannot be used is no error. Default: `true`.
    pub fn forward(mut self, forward: bool) -> Self {
        self.forward = forward;
        self
    }

    /// Adds headers to each forward message. They must not replace headers that a forward has anyway. A forward never
    /// outlives its message: its `expires_time` is at most that of the message.
    pub fn forward_headers(mut self, headers: Map<String, Value>) -> Self {
        self.forward_headers = Some(headers);
        self
    }

    /// The recipient's service to send to, by its id. Default: the first service that accepts `didcomm/v2`.
    pub fn messaging_service(mut self, id: &'a str) -> Self {
        self.messaging_service = Some(id);
        self
    }

    /// The content encryption of each anoncrypt layer, including the outer layer of
    /// [`protect_sender`](Self::protect_sender) and the forwards. Default: A256CBC-HS512, which every peer must
    /// support. Authcrypt always uses A256CBC-HS512.
    pub fn enc(mut self, enc: ContentEncryption) -> Self {
        self.enc = enc;
        self
    }

    /// When to stop waiting for the token. Default: 30 seconds for each operation, and 120 if its key asks a person
    /// ([`Context::deadline`](crate::secrets::Context::deadline)).
    pub fn deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Packs the message. Returns the packed message and what was chosen for it. An attachment without an id gets one.
    ///
    /// The curve is the first one, in the order of the recipient's document, on which the sender has a ready key. For
    /// an anoncrypted message, it is the curve of the recipient's first usable key. The message is encrypted to all the
    /// recipient's keys on that curve.
    ///
    /// # Errors
    /// If the headers do not fit the arguments, the recipient cannot be resolved or has no usable key, sender and
    /// recipient have no curve in common, or the token fails. [`Error::is_retryable`] tells whether a later
    /// attempt may succeed.
    pub async fn pack(
        self,
        resolver: &dyn Resolver,
        me: &Identities,
    ) -> Result<(String, PackEncryptedMetadata), Error> {
        let (message, to) = (self.message.sendable()?, self.to);
        let to_did = did_of(to).ok_or_else(|| Error::InvalidKeyId(to.to_owned()))?;
        message.check_to(to_did, self.sign_by.is_some())?;
        self.check_combination()?;
        let document = recipient_document(to_did, resolver, me).await?;
        let cx = message.context(Some(to_did), self.deadline);

        let (mut packed, sign_by_kid) = match self.sign_by {
            Some(sign_by) => {
                let (packed, kid) = message.sign(sign_by, me, &cx).await?;
                (packed, Some(kid))
            }
            None => (message.to_json(), None),
        };
        let keys = agreement_keys(&document, to)?;
        let (recipients, from_kid) = match self.from {
            Some(from) => {
                message.check_from(from)?;
                let (recipients, sender) = keys_on_common_curve(to, &keys, from, me)?;
                let secrets = me.secrets();
                packed =
                    jose::authcrypt(packed.as_bytes(), &sender.kid, &sender.key, &recipients, secrets, &cx).await?;
                if self.protect_sender {
                    packed = jose::anoncrypt(packed.as_bytes(), self.enc, &recipients)?;
                }
                (recipients, Some(sender.kid.clone()))
            }
            None => {
                let recipients = keys_on_first_curve(&keys);
                packed = jose::anoncrypt(packed.as_bytes(), self.enc, &recipients)?;
                (recipients, None)
            }
        };
        let to_kids = recipients.iter().map(|recipient| recipient.kid.to_owned()).collect();

        let routes = match self.messaging_service {
            Some(id) => Routes::of_service(&document, id, resolver).await?,
            None => Routes::find(&document, resolver).await,
        };
        let route = match routes.into_first() {
            // A message that is not wrapped needs no route.
            Err(_) if !self.forward && self.messaging_service.is_none() => None,
            route => route?,
        };
        let messaging_service = match route {
            Some(route) if self.forward => {
                let (headers, keys) = (self.headers_of_forwards(), &route.routing_keys);
                packed = wrap_in_forward(&packed, headers.as_ref(), to_did, keys, self.enc, resolver).await?;
                Some(route.service)
            }
            route => route.map(|route| route.service),
        };
        Ok((packed, PackEncryptedMetadata { messaging_service, from_kid, sign_by_kid, to_kids }))
    }

    fn check_combination(&self) -> Result<(), Error> {
        if self.protect_sender && self.from.is_none() {
            return Err(Error::ForbiddenCombination("protect_sender hides a sender, and there is none: leave it out"));
        }
        if self.protect_sender && self.sign_by.is_some() {
            return Err(Error::ForbiddenCombination(
                "anoncrypt(authcrypt(sign())) is forbidden by DIDComm v2.1; leave out from, and the signature alone \
                 names the sender, or leave out sign_by",
            ));
        }
        Ok(())
    }

    /// The headers to add to each forward. A forward expires with the message that it carries, unless `forward_headers`
    /// has an earlier `expires_time`.
    fn headers_of_forwards(&self) -> Option<Map<String, Value>> {
        let mut headers = self.forward_headers.clone();
        if let Some(expires) = self.message.expires_time {
            let headers = headers.get_or_insert_default();
            let earlier = headers.get("expires_time").and_then(Value::as_u64).filter(|earlier| *earlier < expires);
            headers.insert("expires_time".to_owned(), earlier.unwrap_or(expires).into());
        }
        headers
    }
}

/// Returns the recipient's document. Our own documents are looked up first, so that a message to ourselves
/// needs no network.
async fn recipient_document(did: &str, resolver: &dyn Resolver, me: &Identities) -> Result<Arc<Document>, Error> {
    match me.document(did) {
        Some(own) => Ok(own.clone()),
        None => Ok(resolver.resolve(did).await?),
    }
}

/// What was chosen for an encrypted message.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct PackEncryptedMetadata {
    /// Where to send the message. `None` if the recipient's document has no service that accepts `didcomm/v2`.
    pub messaging_service: Option<MessagingService>,
    /// The DID URL of the sender's key, if the message is authcrypted.
    pub from_kid: Option<String>,
    /// The DID URL of the key that signed, if the message is signed.
    pub sign_by_kid: Option<String>,
    /// The DID URLs of the keys that can open the message.
    pub to_kids: Vec<String>,
}

/// What was chosen for a signed message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PackSignedMetadata {
    /// The DID URL of the key that signed.
    pub sign_by_kid: String,
}
