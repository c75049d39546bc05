//! Packs a message for its peer.

use std::{borrow::Cow, sync::Arc};

use serde_json::Map;

use super::{
    peer_resolver::PeerResolver,
    state::Outbox,
    transport::{SendError, SendFault},
};
use crate::{
    agent::{
        canonical_did::canonical_did,
        clock::{Millis, now},
        error::AgentError,
        outgoing_message::OutgoingMessage,
        rotation::current::recent_connection,
        store::{error::StoreError, types::OutboxEntry},
    },
    crypto::ContentEncryption,
    did::{Document, Relationship, Resolver, Service, did_of, is_mutable, is_same_did},
    didcomm::{Error, Identities, Message, Route, Routes, check_recipient, wrap_in_forward},
    jose::JoseError,
    keys::PublicKey,
    secrets::{KeyState, SecretsError, TokenError},
};

/// A message that is ready to be packed, except that no endpoint is chosen yet.
pub(super) struct Prepared {
    message: Message,
    /// Our DID. `None` for an anonymous message.
    from: Option<String>,
    /// The peer's current DID.
    to: String,
    sign: bool,
    protect_sender: bool,
    /// When the message was put into the outbox.
    created: Millis,
    to_stranger: bool,
}

/// What came of fetching a document again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refetched {
    /// Its keys or endpoints have changed.
    Changed,
    Unchanged,
    /// It cannot be fetched again now.
    NotNow,
}

/// Why a message was not packed.
pub enum PackError {
    /// No token of ours can pack the message now. The message waits for a token.
    TokenUnavailable(String),
    /// Packing failed for another reason.
    Failed(SendError),
}

impl Outbox {
    /// Packs a message for the peer alone, without a forward, for a caller that has a connection to the peer.
    pub async fn pack_to(&self, outgoing: OutgoingMessage, peer: &str) -> Result<String, PackError> {
        let prepared = self.prepare_message(outgoing, peer, now(), false).await?;
        self.pack(&prepared).await
    }

    /// Prepares an outbox entry. No token is used.
    ///
    /// # Errors
    /// [`PackError::TokenUnavailable`] if no key of our DID is ready, another node serves the DID and this one does not, or the store
    /// is sealed. A permanent failure if the peer is blocked since the message was put into the outbox.
    pub(super) async fn prepare(&self, entry: &OutboxEntry) -> Result<Prepared, PackError> {
        let outgoing = match self.parts.store.outgoing_message(entry) {
            Ok(outgoing) => outgoing,
            Err(StoreError::Unavailable(reason)) => return Err(PackError::TokenUnavailable(reason)),
            Err(error) => return Err(permanent(error.to_string())),
        };
        let prepared = self.prepare_message(outgoing, &entry.peer, entry.created, entry.to_stranger).await?;
        // A custodian may still tell a blocked peer that the connection has ended.
        let tells_end = prepared.from.is_none() && prepared.message.from_prior.is_some();
        if self.parts.blocked.contains(&prepared.to) && !tells_end {
            return Err(permanent(AgentError::Blocked(prepared.to).to_string()));
        }
        // Another node has put the message into the outbox, and this one has taken it over.
        if let Some(from) = &prepared.from
            && self.parts.own_dids.find_did(from).is_none()
            && !self.parts.store.inner().nodes().await.map_err(store_failed)?.is_empty()
        {
            let what = format!("this node does not serve {from}: copy its document here, and have the node read it");
            return Err(PackError::TokenUnavailable(what));
        }
        // No peer is troubled with a message that cannot be packed.
        if let Some(from) = &prepared.from
            && self.parts.own_dids.find_did(from).is_some()
            && !has_ready_key(&self.parts.own_dids.identities(), from)
        {
            return Err(PackError::TokenUnavailable(format!("no token with a key of {from} is ready")));
        }
        Ok(prepared)
    }

    async fn prepare_message(
        &self,
        outgoing: OutgoingMessage,
        peer: &str,
        created: Millis,
        to_stranger: bool,
    ) -> Result<Prepared, PackError> {
        let OutgoingMessage { mut message, sign, protect_sender, .. } = outgoing;
        let from = match message.from.take() {
            Some(from) => Some(self.apply_connection(&from, peer, &mut message).await?),
            None => None,
        };
        message.from.clone_from(&from);
        let to = message.to.as_ref().and_then(|to| to.first()).cloned().unwrap_or_else(|| peer.to_owned());
        Ok(Prepared { message, from, to, sign, protect_sender, created, to_stranger })
    }

    /// Applies the connection with the peer to a message: the peer's current DID, and the proof of our own rotation. Returns
    /// our current DID.
    ///
    /// # Errors
    /// A permanent failure if the relationship has ended.
    async fn apply_connection(&self, from: &str, peer: &str, message: &mut Message) -> Result<String, PackError> {
        let own = self.parts.own_dids.find_did(from);
        let current = recent_connection(&self.parts.store, own.as_deref().unwrap_or(from), peer).await;
        let current = current.map_err(store_failed)?;
        if canonical_did(&current.peer_did) != peer {
            message.to = Some(vec![current.peer_did.clone()]);
        }
        if let Some(connection) = &current.connection {
            connection.check_open().map_err(|error| permanent(error.to_string()))?;
            if message.from_prior.is_none() {
                message.from_prior.clone_from(&connection.from_prior);
            }
        }
        Ok(current.own_did.clone())
    }

    /// Whether a message is for one of our own DIDs.
    pub(super) fn is_own(&self, prepared: &Prepared) -> bool {
        let did = did_of(&prepared.to).unwrap_or(&prepared.to);
        self.parts.own_dids.identities().document(did).is_some()
    }

    /// Returns what resolves the peer of a message and its mediators.
    pub(super) fn resolver(&self, to_stranger: bool) -> PeerResolver<'_> {
        PeerResolver { resolver: &*self.parts.resolver, permits: to_stranger.then_some(&self.stranger_fetches) }
    }

    /// Returns the routes to the peer of a message.
    pub(super) async fn routes(&self, prepared: &Prepared) -> Result<Routes, PackError> {
        let found = match self.usable_document(prepared).await {
            Err(error) if is_about_keys(&error) && self.fetch_again(prepared).await == Refetched::Changed => {
                self.usable_document(prepared).await
            }
            found => found,
        };
        let document = found.map_err(|error| self.pack_error(&error, prepared))?;
        Ok(Routes::find(&document, &self.resolver(prepared.to_stranger)).await)
    }

    /// Returns the peer's document, if a message can be encrypted to it.
    async fn usable_document(&self, prepared: &Prepared) -> Result<Arc<Document>, Error> {
        let document = self.document(prepared).await?;
        check_recipient(&document, &prepared.to)?;
        Ok(document)
    }

    async fn document(&self, prepared: &Prepared) -> Result<Arc<Document>, Error> {
        let did = did_of(&prepared.to).unwrap_or(&prepared.to);
        match self.parts.own_dids.identities().document(did) {
            Some(own) => Ok(own.clone()),
            None => Ok(self.resolver(prepared.to_stranger).resolve(did).await?),
        }
    }

    /// Packs a prepared message for the peer alone. If the peer's document has no key for it, a document that may have
    /// changed is fetched again.
    pub(super) async fn pack(&self, prepared: &Prepared) -> Result<String, PackError> {
        let packed = match self.try_pack(prepared).await {
            Err(error) if is_about_keys(&error) && self.fetch_again(prepared).await == Refetched::Changed => {
                self.try_pack(prepared).await
            }
            packed => packed,
        };
        packed.map_err(|error| self.pack_error(&error, prepared))
    }

    async fn try_pack(&self, prepared: &Prepared) -> Result<String, Error> {
        let Prepared { message, from, to, sign, protect_sender, .. } = prepared;
        let document = self.document(prepared).await?;
        let (message, to) = match did_of(to).filter(|did| !is_same_did(document.id(), did)) {
            None => (Cow::Borrowed(message), Cow::Borrowed(to)),
            // The peer has a portable did:webvh that has moved, and knows its newest name as its own.
            Some(former) => {
                let moved = Message { to: Some(vec![document.id().to_owned()]), ..message.clone() };
                (Cow::Owned(moved), Cow::Owned(format!("{}{}", document.id(), &to[former.len()..])))
            }
        };
        let mut pack = message.encrypt_to(&to).forward(false).protect_sender(*protect_sender);
        if let Some(from) = from {
            pack = pack.from(from);
            if *sign {
                pack = pack.sign_by(from);
            }
        }
        let (packed, _) = pack.pack(&*self.parts.resolver, &self.parts.own_dids.identities()).await?;
        Ok(packed)
    }

    /// Wraps a packed message for the mediators of a route. Uses no private key.
    pub(super) async fn wrap(&self, packed: &str, prepared: &Prepared, route: &Route) -> Result<String, Error> {
        let headers = prepared.message.expires_time.map(|it| Map::from_iter([("expires_time".to_owned(), it.into())]));
        let (next, resolver) = (did_of(&prepared.to).unwrap_or(&prepared.to), &*self.parts.resolver);
        let enc = ContentEncryption::A256CbcHs512;
        wrap_in_forward(packed, headers.as_ref(), next, &route.routing_keys, enc, resolver).await
    }

    /// Fetches the peer's document again, if it may have changed.
    pub(super) async fn fetch_again(&self, prepared: &Prepared) -> Refetched {
        let did = did_of(&prepared.to).unwrap_or(&prepared.to);
        if !is_mutable(did) {
            return Refetched::Unchanged;
        }
        let Ok(old) = self.document(prepared).await else { return Refetched::NotNow };
        match self.resolver(prepared.to_stranger).resolve_again(did).await {
            Ok(Some(new)) if contents(&old) != contents(&new) => Refetched::Changed,
            Ok(Some(_)) => Refetched::Unchanged,
            Ok(None) | Err(_) => Refetched::NotNow,
        }
    }

    fn pack_error(&self, error: &Error, prepared: &Prepared) -> PackError {
        let reason = error.to_string();
        let is_own = prepared.from.as_ref().is_some_and(|from| self.parts.own_dids.find_did(from).is_some());
        match error {
            // Only this message cannot be packed now: the token serves others.
            Error::Envelope(JoseError::Secrets(SecretsError::Token { error: TokenError::Refused(_), .. })) => {
                PackError::Failed(SendError::retryable(reason))
            }
            Error::Envelope(JoseError::Secrets(_)) => PackError::TokenUnavailable(reason),
            // The DID is ours, and no token that holds its keys is ready.
            Error::NoReadyKey { .. } if is_own => PackError::TokenUnavailable(reason),
            // What is wrong with a document on a server may be repaired, but is not waited for as long as a peer.
            Error::Resolve(error) if error.may_pass() => self.unless_too_long(prepared, reason),
            error if is_about_keys(error) && is_mutable(&prepared.to) => self.unless_too_long(prepared, reason),
            _ => permanent(reason),
        }
    }

    fn unless_too_long(&self, prepared: &Prepared, reason: String) -> PackError {
        match now() < prepared.created.saturating_add(self.parts.options.unresolved_lifetime) {
            true => PackError::Failed(SendError { fault: SendFault::Unreachable, ..SendError::retryable(reason) }),
            false => permanent(reason),
        }
    }
}

/// Whether the peer's document lacks a key that the message can be encrypted to.
fn is_about_keys(error: &Error) -> bool {
    matches!(
        error,
        Error::NoRecipientKey(_)
            | Error::NotAuthorised { .. }
            | Error::UnusableKey { .. }
            | Error::NoCommonCurve { .. }
    )
}

/// Whether a token can use a key agreement key of one of our DIDs now.
fn has_ready_key(identities: &Identities, did: &str) -> bool {
    let is_ready = |key: &PublicKey| identities.held_key(key).is_some_and(|held| held.state == KeyState::Ready);
    identities.document(did).is_some_and(|document| {
        document.methods(Relationship::KeyAgreement).any(|method| method.key.as_ref().is_ok_and(is_ready))
    })
}

/// The key agreement keys and the services of a document.
fn contents(document: &Document) -> (Vec<(&str, Option<&PublicKey>)>, Vec<&Service>) {
    let keys = document.methods(Relationship::KeyAgreement).map(|it| (it.id.as_str(), it.key.as_ref().ok())).collect();
    (keys, document.didcomm_services().collect())
}

fn permanent(reason: String) -> PackError {
    PackError::Failed(SendError::permanent(reason))
}

/// A damaged record stays damaged. Other failures of the store may pass.
fn store_failed(error: StoreError) -> PackError {
    match error {
        StoreError::Unusable(_) => permanent(error.to_string()),
        _ => PackError::Failed(SendError::retryable(error.to_string())),
    }
}
