//! What a person or an application does with a peer: gives it a label, finds it by name, blocks it, ends, resumes and deletes
//! its connections.

use std::collections::{BTreeSet, HashMap};

use super::{
    agent::Agent,
    blocked_peers::BlockedPeer,
    error::AgentError,
    give_label::{label_changes, release},
    label::Label,
    peer_names::{MAX_FOUND, connections_named, connections_with, label_of},
    protocol::{connections::Connection, peer_document::PeerDocument, user_profile::Profile},
    rotation::peer::PeerRotation,
    sealed_store::SealedStore,
    store::{CommitOutcome, StoreError},
};

/// How many times a commit is tried if a record is changed meanwhile.
const MAX_ATTEMPTS: usize = 10;

/// What to change about a peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContactChange {
    /// The new label, or none; `None` leaves it as it is.
    pub label: Option<Option<Label>>,
    /// Whether the peer is blocked; `None` leaves it as it is.
    pub blocked: Option<bool>,
}

impl Agent {
    /// The connections with the peers that a label or a short name of a DID ([`short_name`](crate::did::short_name)) stands
    /// for, each with its key. If they are with more than one peer, the name is ambiguous.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn connections_named(&self, name: &str) -> Result<Vec<(String, Connection)>, StoreError> {
        let found = connections_named(&self.store, name).await?;
        Ok(found.into_iter().map(|(key, connection)| (key, connection.without_proofs())).collect())
    }

    /// The labels of peers, by our DID and the peer's DID. A peer without a label is not in the result.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn labels<'a>(
        &self,
        connections: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<HashMap<(String, String), String>, StoreError> {
        let mut labels = HashMap::new();
        for (own_did, peer) in connections.collect::<BTreeSet<_>>() {
            if let Some(label) = label_of(&self.store, own_did, peer).await? {
                labels.insert((own_did.to_owned(), peer.to_owned()), label);
            }
        }
        Ok(labels)
    }

    /// What a peer calls itself in its profile. Nobody has verified it.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn name_of_its_own(&self, peer: &str) -> Result<Option<String>, StoreError> {
        Ok(self.store.get::<Profile>(peer).await?.and_then(|(profile, _)| profile.display_name))
    }

    /// Gives a peer a label in all its connections, or blocks it.
    ///
    /// # Errors
    /// [`AgentError::NoConnection`] if a peer without a connection is to get a label; [`AgentError::LabelTaken`] if another
    /// peer has the label; [`AgentError::Invalid`] if too many peers are blocked; [`AgentError::Store`] if the store fails.
    pub async fn change_contact(&self, peer: &str, change: &ContactChange) -> Result<(), AgentError> {
        if let Some(label) = &change.label {
            self.set_label(peer, label.as_ref()).await?;
        }
        match change.blocked {
            None => Ok(()),
            Some(true) => self.blocked.block(peer).await,
            Some(false) => Ok(self.blocked.unblock(peer).await?),
        }
    }

    async fn set_label(&self, peer: &str, label: Option<&Label>) -> Result<(), AgentError> {
        for _ in 0..MAX_ATTEMPTS {
            if connections_with(&self.store, peer, "", 1).await?.is_empty() {
                return Err(AgentError::NoConnection { own_did: None, peer: peer.to_owned() });
            }
            let changes = label_changes(&self.store, peer, label, None).await?;
            if self.store.commit_changes(changes).await? == CommitOutcome::Committed {
                return Ok(());
            }
        }
        Err(changed_meanwhile())
    }

    /// Whether a peer is blocked. It may be named by any of its names.
    pub fn is_blocked(&self, peer: &str) -> bool {
        self.blocked.contains(peer)
    }

    /// At most `limit` blocked peers with keys after `after`, each with its key.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    pub async fn blocked_peers(&self, after: &str, limit: usize) -> Result<Vec<(String, BlockedPeer)>, StoreError> {
        self.blocked.list(after, limit).await
    }

    /// Ends the relationship of one of our DIDs with a peer: nothing is sent to it, and its messages are ignored. With a
    /// `from_prior` that proves the end, the peer is told.
    ///
    /// # Errors
    /// [`AgentError::NoConnection`] if there is no such relationship; [`AgentError::Invalid`] if `own_did` is not ours, or
    /// `from_prior` does not prove the end; [`AgentError::Store`] if the store fails.
    pub async fn end_relationship(
        &self,
        own_did: &str,
        peer_did: &str,
        from_prior: Option<&str>,
    ) -> Result<(), AgentError> {
        self.rotations.end_relationship(own_did, peer_did, from_prior).await?;
        self.known_peers.forget();
        Ok(())
    }

    /// Takes up a relationship again that has ended. Returns it as it was before. A peer that was told of the end ignores our
    /// DID until it resumes as well.
    ///
    /// # Errors
    /// [`AgentError::NoConnection`] if there is no such relationship; [`AgentError::Invalid`] if our DID has rotated since;
    /// [`AgentError::Store`] if the store fails.
    pub async fn resume_relationship(&self, own_did: &str, peer_did: &str) -> Result<Connection, AgentError> {
        let resumed = self.rotations.resume_relationship(own_did, peer_did).await?;
        self.known_peers.forget();
        Ok(resumed.without_proofs())
    }

    /// Deletes the connections with a peer, or the one of `own_did` with it, and with the last one what is known of the peer:
    /// its label, its profile and its document. The peer is not told, and is a stranger when it writes again. Returns how
    /// many connections were deleted.
    ///
    /// # Errors
    /// [`AgentError::Store`] if the store fails.
    pub async fn delete_connections(&self, peer: &str, own_did: Option<&str>) -> Result<usize, AgentError> {
        let own_did = own_did.map(|did| self.own_dids.document(did).map_or(did.to_owned(), |it| it.id().to_owned()));
        for _ in 0..MAX_ATTEMPTS {
            let all = connections_with(&self.store, peer, "", MAX_FOUND).await?;
            let is_chosen = |connection: &Connection| own_did.as_ref().is_none_or(|did| connection.own_did == *did);
            let (chosen, kept): (Vec<_>, Vec<_>) = all.iter().partition(|(_, connection)| is_chosen(connection));
            let mut changes = Vec::new();
            for (key, connection) in &chosen {
                changes.push(SealedStore::delete_change::<Connection>(key));
                for former in &connection.previous_dids {
                    let rotation = Connection::key(&connection.own_did, former);
                    changes.push(SealedStore::delete_change::<PeerRotation>(&rotation));
                }
                if !kept.iter().any(|(_, other)| other.peer_did == connection.peer_did) {
                    changes.push(SealedStore::delete_change::<Profile>(&connection.peer_did));
                    changes.push(SealedStore::delete_change::<PeerDocument>(&connection.peer_did));
                }
            }
            let labels = |connections: &[(&String, &Connection)]| -> Vec<String> {
                connections.iter().filter_map(|(_, connection)| connection.label.clone()).collect()
            };
            changes.extend(release(&self.store, &labels(&chosen), &labels(&kept), &all).await?);
            if self.store.commit_changes(changes).await? == CommitOutcome::Committed {
                self.known_peers.forget();
                return Ok(chosen.len());
            }
        }
        Err(changed_meanwhile())
    }
}

fn changed_meanwhile() -> AgentError {
    AgentError::Store(StoreError::Unavailable("the connection is changed again and again".to_owned()))
}
