//! What can be known at once about the recipient of a message: whether it is a DID, has a key that the message can be encrypted
//! to, and can ever be reached. A message that fails here would fail, or wait for days, in the outbox.

use std::{sync::Arc, time::Duration};

use super::{
    agent::Agent,
    canonical_did::canonical_did,
    clock::{now, seconds_to_millis},
    error::AgentError,
    outgoing_message::OutgoingMessage,
    rotation::current::current_connection,
};
use crate::{
    did::{Document, ResolveError, did_of, is_mutable, web, webvh},
    didcomm::{check_curves, check_recipient},
};

/// How long a resolver may take to say that it does not know a DID method. The resolvers of this crate need no time.
const METHOD_TIMEOUT: Duration = Duration::from_secs(1);

impl Agent {
    /// Checks what can be known about a recipient without the network. `own_did` is our DID that sends.
    ///
    /// # Errors
    /// [`AgentError::Invalid`] if the message can never be sent; [`AgentError::NoEndpoint`] if the recipient has neither an
    /// endpoint nor a connection with us, and the message is not [held](OutgoingMessage::hold) for it; [`AgentError::Store`] if
    /// the store fails.
    pub(super) async fn check_recipient(
        &self,
        outgoing: &OutgoingMessage,
        own_did: Option<&str>,
    ) -> Result<(), AgentError> {
        let message = &outgoing.message;
        if message.expires_time.is_some_and(|expires| seconds_to_millis(expires) <= now()) {
            return Err(invalid("the message has expired: its expires_time is over"));
        }
        let to = message.to.as_ref().and_then(|to| to.first()).map_or("", String::as_str);
        // A message to the same DID has passed these checks lately.
        if own_did.is_some_and(|own_did| self.known_peers.is_remembered(own_did, to)) {
            return Ok(());
        }
        let did = did_of(to).unwrap_or(to);
        if let Some(own_did) = own_did {
            let current = current_connection(&self.store, own_did, &canonical_did(did)).await?;
            // The message is sent between the DIDs that both have rotated to, which have other keys and endpoints.
            if current.own_did != own_did || current.peer_did != canonical_did(did) {
                return Ok(());
            }
        }
        let Some(document) = self.known_document(did).await? else { return Ok(()) };
        // A document that may change can have the key later.
        if is_mutable(did) {
            return Ok(());
        }
        check_recipient(&document, to).map_err(|error| invalid(error.to_string()))?;
        if let Some(own) = own_did.and_then(|own_did| self.own_dids.document(own_did)) {
            check_curves(&document, to, &own).map_err(|error| invalid(error.to_string()))?;
        }
        if outgoing.hold || self.own_dids.document(did).is_some() {
            return Ok(());
        }
        let Some(reason) = self.reason_unreachable(&document) else { return Ok(()) };
        // It gets its messages on connections that it opens, and knows us.
        let peer = canonical_did(did);
        if self.routes.has_any_route(&peer) || !self.connections_with(did, "", 1).await?.is_empty() {
            return Ok(());
        }
        Err(AgentError::NoEndpoint(format!(
            "{reason}, and there is no connection with it: the message could only wait until the peer connects. To let it \
             wait, set `hold`"
        )))
    }

    /// Returns the document of a DID if it is known without the network.
    ///
    /// # Errors
    /// [`AgentError::Invalid`] if the DID is malformed, or of a method that the agent does not know.
    async fn known_document(&self, did: &str) -> Result<Option<Arc<Document>>, AgentError> {
        if let Some(own) = self.own_dids.document(did) {
            return Ok(Some(Arc::new(own)));
        }
        if let Some(document) = self.resolver.resolve_offline(did).await {
            return Ok(Some(document));
        }
        let malformed = |reason: String| Err(invalid(format!("{did}: {reason}")));
        if did.starts_with("did:web:") {
            return web::url(did).map(|_| None).or_else(|error| malformed(error.to_string()));
        }
        if did.starts_with("did:webvh:") {
            return webvh::url(did).map(|_| None).or_else(|error| malformed(error.to_string()));
        }
        match tokio::time::timeout(METHOD_TIMEOUT, self.resolver.resolve(did)).await {
            Ok(Ok(document)) => Ok(Some(document)),
            Ok(Err(error @ ResolveError::UnsupportedMethod(_))) => Err(invalid(error.to_string())),
            Ok(Err(error @ ResolveError::LongFormUnknown(_))) => {
                Err(invalid(format!("{error}: name the long form in `to`")))
            }
            Ok(Err(error)) if !is_mutable(did) => Err(invalid(error.to_string())),
            Ok(Err(_)) | Err(_) => Ok(None),
        }
    }

    /// Why no message can be sent to the owner of a document, unless it connects. `None` if one can.
    fn reason_unreachable(&self, document: &Document) -> Option<String> {
        let mut endpoints =
            document.didcomm_services().flat_map(|service| &service.endpoints).filter(|it| it.accepts_v2()).peekable();
        if endpoints.peek().is_none() {
            return Some("the recipient's DID names no endpoint for DIDComm v2".to_owned());
        }
        let is_usable = |uri: &str| did_of(uri).is_some() || self.outbox.has_transport(uri);
        match endpoints.any(|endpoint| is_usable(&endpoint.uri)) {
            true => None,
            false => Some("no endpoint of the recipient's DID has a scheme that this agent speaks".to_owned()),
        }
    }
}

fn invalid(reason: impl Into<String>) -> AgentError {
    AgentError::Invalid(reason.into())
}
