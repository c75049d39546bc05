//! The connections with a peer, by any of its names, and the choice of our DID for a message to it.

use std::borrow::Cow;

use super::{
    agent::Agent,
    canonical_did::canonical_did,
    error::AgentError,
    outgoing_message::OutgoingMessage,
    peer_names::{MAX_FOUND, connections_with},
    protocol::connections::Connection,
    rotation::current::current_own_did,
    store::StoreError,
};
use crate::did::did_of;

impl Agent {
    /// At most `limit` connections with a peer, with keys after `after`, each with its key. The peer may be named by either
    /// form of its did:peer:4, by a DID from which it has rotated, and by any name of its did:webvh.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn connections_with(
        &self,
        peer: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<(String, Connection)>, StoreError> {
        let found = connections_with(&self.store, peer, after, limit).await?;
        Ok(found.into_iter().take(limit).map(|(key, connection)| (key, connection.without_proofs())).collect())
    }

    /// Returns the message with the sender that [`Agent::send`] chooses, if it has none and is not anonymous. A DID of ours whose
    /// overlap is over stands for the one to which it has rotated: a message that came to it can still be answered.
    pub(super) async fn with_sender<'a>(
        &self,
        outgoing: &'a OutgoingMessage,
    ) -> Result<Cow<'a, OutgoingMessage>, AgentError> {
        if let Some(from) = outgoing.message.from.as_ref().filter(|from| self.own_dids.find_did(from).is_none()) {
            let mut outgoing = outgoing.clone();
            outgoing.message.from = Some(current_own_did(&self.store, did_of(from).unwrap_or(from)).await?);
            return Ok(Cow::Owned(outgoing));
        }
        if outgoing.anonymous || outgoing.message.from.is_some() {
            return Ok(Cow::Borrowed(outgoing));
        }
        let peer = outgoing.message.to.as_ref().and_then(|to| to.first()).map_or("", String::as_str);
        let connected = self.own_did_towards(did_of(peer).unwrap_or(peer)).await?;
        let mut outgoing = outgoing.clone();
        outgoing.message.from = Some(match connected {
            Some(own_did) => own_did,
            None => self.newest_own_did().await?,
        });
        Ok(Cow::Owned(outgoing))
    }

    /// The newest of our DIDs, or the one to which it has rotated.
    ///
    /// # Errors
    /// [`AgentError::NoDid`] if the agent serves no DID; [`AgentError::Store`] if the store fails.
    pub(super) async fn newest_own_did(&self) -> Result<String, AgentError> {
        let newest = self.own_dids.dids().into_iter().next().ok_or(AgentError::NoDid)?;
        Ok(current_own_did(&self.store, &newest).await?)
    }

    /// Returns our DID in the connection with a peer. Of several connections, that with this name of the peer comes first,
    /// since each name may know another DID of ours. Then one with a known peer comes before one with a stranger, and the newer
    /// before the older. Returns `None` if there is no connection.
    ///
    /// # Errors
    /// [`AgentError::ConnectionEnded`] if every connection with the peer has ended: another DID of ours would tell the peer
    /// who we are. [`AgentError::Store`] if the store fails.
    async fn own_did_towards(&self, peer: &str) -> Result<Option<String>, AgentError> {
        let found = connections_with(&self.store, peer, "", MAX_FOUND).await?;
        let exact = canonical_did(peer);
        let open = found.values().filter(|connection| connection.ended.is_none());
        match open.max_by_key(|it| (it.peer_did == *exact, !it.stranger, it.since)) {
            Some(connection) => Ok(Some(current_own_did(&self.store, &connection.own_did).await?)),
            None => found.values().next().map_or(Ok(()), Connection::check_open).map(|()| None),
        }
    }
}
