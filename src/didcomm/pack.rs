//! Packing: from a plaintext to what goes on the wire.

use std::{sync::Arc, time::Instant};

use serde_json::{Map, Value};

use super::{Error, Identities, Message, OwnKey, forward::wrap_in_forward, same_did};
use crate::{
    crypto::ContentEncryption,
    did::{Document, Relationship, Resolver, Service, ServiceEndpoint, did_of, is_did},
    jose::{self, Recipient},
    keys::{Curve, PublicKey},
    secrets::{Context, ToSign},
};

/// How a message is encrypted.
#[derive(Debug, Clone)]
pub struct PackEncryptedOptions {
    /// Hides the sender's key id under an outer anoncrypt; only with a sender.
    pub protect_sender: bool,
    /// Wraps for the mediators that the recipient's document names.
    pub forward: bool,
    /// Headers of the forwards.
    pub forward_headers: Option<Map<String, Value>>,
    /// The recipient's service to use, by its id; the first that serves if none.
    pub messaging_service: Option<String>,
    /// The content encryption of anoncrypt, the outer one of `protect_sender` and those of forwards included. Authcrypt
    /// has A256CBC-HS512 only.
    pub enc: ContentEncryption,
    /// When to give up asking the token.
    pub deadline: Option<Instant>,
}

impl Default for PackEncryptedOptions {
    /// Forwards, and A256CBC-HS512, which every peer must read.
    fn default() -> Self {
        Self {
            protect_sender: false,
            forward: true,
            forward_headers: None,
            messaging_service: None,
            enc: ContentEncryption::A256CbcHs512,
            deadline: None,
        }
    }
}

/// What was chosen for an encrypted message.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct PackEncryptedMetadata {
    /// Where it is to be sent, if the recipient's document says so.
    pub messaging_service: Option<MessagingService>,
    /// The sender's key, if there is one.
    pub from_kid: Option<String>,
    /// The key that signed, if one did.
    pub sign_by_kid: Option<String>,
    /// The keys that can open it.
    pub to_kids: Vec<String>,
}

/// The service that was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MessagingService {
    /// Its id.
    pub id: String,
    /// The URI that the packed message is sent to.
    pub service_endpoint: String,
}

/// What was chosen for a signed message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PackSignedMetadata {
    /// The key that signed.
    pub sign_by_kid: String,
}

impl Message {
    /// Encrypts for a recipient, a DID or the DID URL of one of its keys.
    ///
    /// With `from`, our DID or one of its keys, it is authcrypt; without, anoncrypt. With `sign_by`, our DID or one of its
    /// keys, it is signed first. The curve is the first, in the order of the recipient's document, that the sender has a
    /// ready key of; the message is encrypted to all the recipient's keys of it.
    ///
    /// `from` and `to` of the message must name those DIDs: `from` with a sender or a signature, `to` whenever it is
    /// there, and with a signature it must be.
    pub async fn pack_encrypted(
        &self,
        to: &str,
        from: Option<&str>,
        sign_by: Option<&str>,
        resolver: &dyn Resolver,
        me: &Identities,
        options: &PackEncryptedOptions,
    ) -> Result<(String, PackEncryptedMetadata), Error> {
        self.check_sendable()?;
        let to_did = did_of(to).ok_or_else(|| Error::KeyId(to.to_owned()))?;
        self.check_to(to_did, sign_by.is_some())?;
        if options.protect_sender && from.is_none() {
            return Err(Error::Combination("protect_sender hides a sender, and there is none: leave it out"));
        }
        if options.protect_sender && sign_by.is_some() {
            return Err(Error::Combination(
                "anoncrypt(authcrypt(sign())) is forbidden by DIDComm v2.1; leave out from, and the signature alone \
                 names the sender, or leave out sign_by",
            ));
        }
        let document = self.recipient_document(to_did, resolver, me).await?;
        let cx = self.context(Some(to_did), options.deadline);

        let (mut packed, sign_by_kid) = match sign_by {
            Some(sign_by) => {
                let (packed, kid) = self.sign(sign_by, me, &cx).await?;
                (packed, Some(kid))
            }
            None => (self.to_json(), None),
        };
        let theirs = agreement_keys(&document, to)?;
        let (recipients, from_kid) = match from {
            Some(from) => {
                self.check_from(from)?;
                let (recipients, sender) = common_curve(to, &theirs, from, me)?;
                let secrets = me.secrets();
                packed =
                    jose::authcrypt(packed.as_bytes(), &sender.kid, &sender.key, &recipients, secrets, &cx).await?;
                if options.protect_sender {
                    packed = jose::anoncrypt(packed.as_bytes(), options.enc, &recipients)?;
                }
                (recipients, Some(sender.kid.clone()))
            }
            None => {
                let recipients = first_curve(&theirs);
                packed = jose::anoncrypt(packed.as_bytes(), options.enc, &recipients)?;
                (recipients, None)
            }
        };
        let to_kids = recipients.iter().map(|recipient| recipient.kid.to_owned()).collect();

        let route = Route::find(&document, options.messaging_service.as_deref(), resolver).await?;
        let messaging_service = match route {
            Some(route) if options.forward => {
                let headers = self.forward_headers(options);
                packed = wrap_in_forward(&packed, headers.as_ref(), to_did, &route.keys, options.enc, resolver).await?;
                Some(route.service)
            }
            route => route.map(|route| route.service),
        };
        Ok((packed, PackEncryptedMetadata { messaging_service, from_kid, sign_by_kid, to_kids }))
    }

    /// Signs without encrypting. `sign_by` is our DID or one of its authentication keys; `from` of the message must name
    /// that DID.
    pub async fn pack_signed(&self, sign_by: &str, me: &Identities) -> Result<(String, PackSignedMetadata), Error> {
        self.check_sendable()?;
        let (packed, sign_by_kid) = self.sign(sign_by, me, &self.context(None, None)).await?;
        Ok((packed, PackSignedMetadata { sign_by_kid }))
    }

    /// The plaintext, checked.
    pub fn pack_plaintext(&self) -> Result<String, Error> {
        self.check_sendable()?;
        Ok(self.to_json())
    }

    /// Sound in itself, and addressed with DIDs, which have no path, query or fragment (v2.1 "Message Headers").
    fn check_sendable(&self) -> Result<(), Error> {
        self.check()?;
        let from = self.from.iter().map(|from| ("from", from));
        let to = self.to.iter().flatten().map(|to| ("to", to));
        match from.chain(to).find(|(_, did)| !is_did(did)) {
            Some((header, found)) => {
                Err(Error::Header { header, found: found.clone(), expected: "DIDs, without a fragment".into() })
            }
            None => Ok(()),
        }
    }

    async fn sign(&self, sign_by: &str, me: &Identities, cx: &Context) -> Result<(String, String), Error> {
        self.check_from(sign_by)?;
        let key = me
            .ready_keys(sign_by, Relationship::Authentication)
            .into_iter()
            .find(|key| key.key.curve().signature_algorithm().is_some())
            .ok_or_else(|| Error::NotOurs { name: sign_by.to_owned(), relationship: "authentication" })?;
        let payload = self.to_json();
        let signature =
            me.secrets().sign(&key.key, &ToSign::Message(payload.as_bytes()), &cx.for_kid(&key.kid)).await?;
        Ok((jose::general_json(&key.kid, &signature), key.kid.clone()))
    }

    async fn recipient_document(
        &self,
        did: &str,
        resolver: &dyn Resolver,
        me: &Identities,
    ) -> Result<Arc<Document>, Error> {
        match me.document(did) {
            Some(own) => Ok(own.clone()),
            None => Ok(resolver.resolve(did).await?),
        }
    }

    fn check_to(&self, to: &str, signed: bool) -> Result<(), Error> {
        match &self.to {
            Some(named) if named.iter().any(|did| same_did(did, to)) => Ok(()),
            Some(named) => Err(Error::Header { header: "to", found: format!("{named:?}"), expected: to.to_owned() }),
            None if signed => Err(Error::Header { header: "to", found: "nothing".into(), expected: to.to_owned() }),
            None => Ok(()),
        }
    }

    /// `name` is a DID or a DID URL.
    fn check_from(&self, name: &str) -> Result<(), Error> {
        let did = did_of(name).ok_or_else(|| Error::KeyId(name.to_owned()))?;
        if self.from.as_deref().is_some_and(|from| same_did(from, did)) {
            return Ok(());
        }
        let found = self.from.clone().unwrap_or_else(|| "nothing".to_owned());
        Err(Error::Header { header: "from", found, expected: did.to_owned() })
    }

    /// For a recipient; a signed message has those that it names, the first of which stands for them.
    fn context(&self, to: Option<&str>, deadline: Option<Instant>) -> Context {
        let peer = to.or_else(|| self.to.as_ref()?.first().map(String::as_str)).map(Into::into);
        Context { message_id: Some(self.id.as_str().into()), peer, deadline, ..Context::default() }
    }

    /// A forward lives no longer than what it carries.
    fn forward_headers(&self, options: &PackEncryptedOptions) -> Option<Map<String, Value>> {
        let mut headers = options.forward_headers.clone();
        if let Some(expires) = self.expires_time {
            headers.get_or_insert_default().entry("expires_time").or_insert_with(|| expires.into());
        }
        headers
    }
}

/// Anoncrypt to a DID or one of its keys: the packed message, and the keys that can open it.
pub(super) async fn anoncrypt_to(
    plaintext: &[u8],
    to: &str,
    enc: ContentEncryption,
    resolver: &dyn Resolver,
) -> Result<(String, Vec<String>), Error> {
    let did = did_of(to).ok_or_else(|| Error::KeyId(to.to_owned()))?;
    let document = resolver.resolve(did).await?;
    let theirs = agreement_keys(&document, to)?;
    let recipients = first_curve(&theirs);
    let kids = recipients.iter().map(|recipient| recipient.kid.to_owned()).collect();
    Ok((jose::anoncrypt(plaintext, enc, &recipients)?, kids))
}

/// The keys of a DID, or the one of a DID URL, that we can encrypt to: never empty.
fn agreement_keys<'a>(document: &'a Document, to: &str) -> Result<Vec<Recipient<'a>>, Error> {
    fn usable(method: &crate::did::VerificationMethod) -> Option<Recipient<'_>> {
        let key = method.key.as_ref().ok().filter(|key| key.curve().agrees())?;
        Some(Recipient { kid: &method.id, key })
    }
    let keys: Vec<Recipient<'a>> = if is_did(to) {
        document.methods(Relationship::KeyAgreement).filter_map(usable).collect()
    } else {
        let method = document
            .method(to, Relationship::KeyAgreement)
            .ok_or_else(|| Error::NotAuthorised { kid: to.to_owned(), relationship: Relationship::KeyAgreement })?;
        if let Err(error) = &method.key {
            return Err(Error::Key { kid: method.id.clone(), error: error.clone() });
        }
        usable(method).into_iter().collect()
    };
    if keys.is_empty() {
        return Err(Error::NoRecipientKey(to.to_owned()));
    }
    Ok(keys)
}

/// The keys on the curve of the first.
fn first_curve<'a>(keys: &[Recipient<'a>]) -> Vec<Recipient<'a>> {
    let curve = keys.first().map(|key| key.key.curve());
    keys.iter().filter(|key| Some(key.key.curve()) == curve).copied().collect()
}

/// The keys on the first curve, in the recipient's order, that a ready key of the sender serves; and that key.
fn common_curve<'a, 'm>(
    to: &str,
    theirs: &[Recipient<'a>],
    from: &str,
    me: &'m Identities,
) -> Result<(Vec<Recipient<'a>>, &'m OwnKey), Error> {
    let ours = me.ready_keys(from, Relationship::KeyAgreement);
    if ours.is_empty() {
        return Err(Error::NotOurs { name: from.to_owned(), relationship: "keyAgreement" });
    }
    for recipient in theirs {
        let curve = recipient.key.curve();
        if let Some(sender) = ours.iter().find(|own| own.key.curve() == curve) {
            return Ok((theirs.iter().filter(|to| to.key.curve() == curve).copied().collect(), sender));
        }
    }
    fn names<'k>(keys: impl Iterator<Item = &'k PublicKey>) -> String {
        let mut curves: Vec<&str> = keys.map(|key| Curve::name(key.curve())).collect();
        curves.dedup();
        curves.join(", ")
    }
    Err(Error::NoCommonCurve {
        to: to.to_owned(),
        theirs: names(theirs.iter().map(|recipient| recipient.key)),
        from: from.to_owned(),
        ours: names(ours.iter().map(|own| &own.key)),
    })
}

/// The way to a recipient.
struct Route {
    service: MessagingService,
    /// The keys to wrap for, next to the sender first.
    keys: Vec<String>,
}

impl Route {
    /// Through the service of this id, or the first one that speaks didcomm/v2; none if the document has no service.
    async fn find(document: &Document, id: Option<&str>, resolver: &dyn Resolver) -> Result<Option<Self>, Error> {
        let refuse = |service: &str, reason| Error::Service {
            did: document.id().to_owned(),
            service: service.to_owned(),
            reason,
        };
        let mut services = document.didcomm_services().filter(|service| id.is_none_or(|id| service.id == id));
        let Some((service, endpoint)) = services.find_map(|service| Some((service, usable_endpoint(service)?))) else {
            return id
                .map_or(Ok(None), |id| Err(refuse(id, "it is absent, or has no endpoint that speaks didcomm/v2")));
        };
        let mut keys = endpoint.routing_keys.clone();
        let mut uri = endpoint.uri.clone();
        if let Some(mediator) = did_of(&endpoint.uri) {
            // The mediator's keys stand before the routing keys; its own endpoint must not be a DID again.
            let document = resolver.resolve(mediator).await?;
            let outer = document
                .didcomm_services()
                .find_map(usable_endpoint)
                .ok_or_else(|| refuse(&service.id, "its mediator has no DIDCommMessaging service"))?;
            if did_of(&outer.uri).is_some() {
                return Err(refuse(&service.id, "its mediator's endpoint is a DID again"));
            }
            let inner = std::mem::replace(&mut keys, outer.routing_keys.clone());
            keys.push(endpoint.uri.clone());
            keys.extend(inner);
            uri.clone_from(&outer.uri);
        }
        let service = MessagingService { id: service.id.clone(), service_endpoint: uri };
        Ok(Some(Self { service, keys }))
    }
}

fn usable_endpoint(service: &Service) -> Option<&ServiceEndpoint> {
    service.endpoints.iter().find(|endpoint| endpoint.accepts_v2())
}
