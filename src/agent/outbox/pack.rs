//! Packs a message for its peer.

use super::{state::Outbox, transport::SendError};
use crate::{
    agent::{
        canonical_did::canonical_did,
        outgoing_message::OutgoingMessage,
        protocol::connections::Connection,
        rotation::current::{current_own_did, current_peer_did},
        store::{error::StoreError, types::OutboxEntry},
    },
    did::{ResolveError, did_of},
    didcomm::{Error, Message},
    jose::JoseError,
    secrets::{SecretsError, TokenError},
};

/// A packed message, and its destination.
pub(super) struct Packed {
    pub text: String,
    /// The endpoint in the peer's document, if there is one.
    pub uri: Option<String>,
}

/// Why a message was not packed.
pub enum PackError {
    /// No token of ours can pack the message now. The message waits for a token.
    TokenUnavailable(String),
    /// Packing failed for another reason.
    Failed(SendError),
}

impl Outbox {
    /// Packs an outbox entry. With `on_return_route` the message goes back on the peer's own connection, and no forward
    /// is put around the message. Otherwise the number of tries selects one of the peer's services: after a failure the
    /// next service is used (routing 2.0 "Failover").
    pub(super) async fn pack(&self, entry: &OutboxEntry, on_return_route: bool) -> Result<Packed, PackError> {
        let outgoing = match self.parts.store.outgoing_message(entry) {
            Ok(outgoing) => outgoing,
            Err(StoreError::Unavailable(reason)) => return Err(PackError::TokenUnavailable(reason)),
            Err(error) => return Err(permanent(error.to_string())),
        };
        self.pack_message(outgoing, &entry.peer, entry.tries, on_return_route).await
    }

    /// Packs a message for the peer alone, without a forward, for a caller that has a connection to the peer.
    pub async fn pack_to(&self, outgoing: OutgoingMessage, peer: &str) -> Result<String, PackError> {
        self.pack_message(outgoing, peer, 0, true).await.map(|packed| packed.text)
    }

    async fn pack_message(
        &self,
        outgoing: OutgoingMessage,
        peer: &str,
        tries: u32,
        on_return_route: bool,
    ) -> Result<Packed, PackError> {
        let mut message = outgoing.message;
        let from = match message.from.take() {
            Some(from) => {
                let from = self.parts.own_dids.document(&from).map_or(from, |document| document.id().to_owned());
                Some(current_own_did(&self.parts.store, &from).await.map_err(store_failed)?)
            }
            None => None,
        };
        message.from.clone_from(&from);
        if let Some(from) = &from {
            self.apply_connection(from, peer, &mut message).await?;
        }
        let identities = self.parts.own_dids.identities();
        let to = message.to.as_ref().and_then(|to| to.first()).cloned().unwrap_or_else(|| peer.to_owned());
        let mut service = None;
        if !on_return_route && tries > 0 {
            service = self.service_for_retry(&to, tries).await;
        }
        let mut pack = message.encrypt_to(&to).forward(!on_return_route).protect_sender(outgoing.protect_sender);
        if let Some(from) = &from {
            pack = pack.from(from);
            if outgoing.sign {
                pack = pack.sign_by(from);
            }
        }
        if let Some(service) = &service {
            pack = pack.messaging_service(service);
        }
        match pack.pack(&*self.parts.resolver, &identities).await {
            Ok((text, metadata)) => {
                Ok(Packed { text, uri: metadata.messaging_service.map(|service| service.service_endpoint) })
            }
            Err(error) => Err(self.pack_error(&error, from.as_deref())),
        }
    }

    /// Applies the connection with the peer to a message: the peer's current DID, and the proof of our own rotation.
    ///
    /// # Errors
    /// A permanent failure if the relationship has ended.
    async fn apply_connection(&self, from: &str, peer: &str, message: &mut Message) -> Result<(), PackError> {
        let store = &self.parts.store;
        let current = current_peer_did(store, from, peer).await.map_err(store_failed)?;
        if canonical_did(&current) != peer {
            message.to = Some(vec![current.clone()]);
        }
        let connection = store.get::<Connection>(&Connection::key(from, &current)).await.map_err(store_failed)?;
        let Some((connection, _)) = connection else { return Ok(()) };
        if connection.ended.is_some() {
            return Err(permanent("the peer has ended the relationship".to_owned()));
        }
        if message.from_prior.is_none() {
            message.from_prior = connection.from_prior;
        }
        Ok(())
    }

    /// Returns the id of the service to use at this attempt. `None` if the peer has only one service, or its document
    /// cannot be resolved.
    async fn service_for_retry(&self, to: &str, tries: u32) -> Option<String> {
        let document = self.parts.resolver.resolve(did_of(to)?).await.ok()?;
        let services: Vec<&str> = document.didcomm_services().map(|service| service.id.as_str()).collect();
        let count = services.len().max(1);
        services.get(tries as usize % count).map(|id| (*id).to_owned()).filter(|_| count > 1)
    }

    fn pack_error(&self, error: &Error, from: Option<&str>) -> PackError {
        let reason = error.to_string();
        match error {
            Error::Envelope(JoseError::Secrets(SecretsError::Token { error: TokenError::PeerKey(_), .. })) => {
                permanent(reason)
            }
            Error::Envelope(JoseError::Secrets(_)) => PackError::TokenUnavailable(reason),
            // The DID is ours, and no token that holds its keys is ready.
            Error::NoReadyKey { .. } if from.is_some_and(|from| self.parts.own_dids.document(from).is_some()) => {
                PackError::TokenUnavailable(reason)
            }
            Error::Resolve(ResolveError::Unavailable { .. }) => PackError::Failed(SendError::retryable(reason)),
            _ => permanent(reason),
        }
    }
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
