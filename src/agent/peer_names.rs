//! Finds connections by any name of the peer: a DID in any form, one from which the peer has rotated, its short name, and
//! the label that a person has given it.

use std::{borrow::Cow, collections::BTreeMap};

use super::{
    canonical_did::canonical_did,
    label::{LabelHolders, fold},
    protocol::connections::Connection,
    rotation::{
        current::{current_own_did, current_peer_did},
        peer::PeerRotation,
    },
    sealed_store::SealedStore,
    store::StoreError,
};
use crate::did::{short_name, short_name_beginning, webvh::scid_prefix};

/// How many connections with one peer are compared, and how many of its rotations are followed.
pub(super) const MAX_FOUND: usize = 1000;
/// How many connections whose peers' DIDs begin alike are compared with a short name.
const MAX_SEARCHED: usize = 10_000;
/// How many records are read from the store at once.
const PAGE_SIZE: usize = 500;

/// The connections by their keys.
pub(super) type ByKey = BTreeMap<String, Connection>;

/// Returns the connections with a peer, at least the first `limit` after `after`.
///
/// # Errors
/// [`StoreError`] if the store fails.
pub(super) async fn connections_with(
    store: &SealedStore,
    peer: &str,
    after: &str,
    limit: usize,
) -> Result<ByKey, StoreError> {
    let name = scid_prefix(peer).map_or_else(|| canonical_did(peer), Cow::Borrowed);
    let connections = store.list_with_peer::<Connection>(&name, after, limit).await?;
    let mut found: ByKey = connections.into_iter().collect();
    for (key, _) in store.list_with_peer::<PeerRotation>(&name, "", MAX_FOUND).await? {
        let Some((own_did, former)) = key.split_once(' ') else { continue };
        let current = current_peer_did(store, own_did, former).await?;
        let key = Connection::key(&current_own_did(store, own_did).await?, &current);
        if key.as_str() > after
            && let Some((connection, _)) = store.get::<Connection>(&key).await?
        {
            found.insert(key, connection);
        }
    }
    Ok(found)
}

/// Returns the connections with the peers that a short name or a label stands for. More than one peer is possible.
///
/// # Errors
/// [`StoreError`] if the store fails.
pub(super) async fn connections_named(store: &SealedStore, name: &str) -> Result<ByKey, StoreError> {
    match short_name_beginning(name) {
        Some(beginning) => connections_with_short_name(store, beginning, name).await,
        None => connections_labelled(store, name).await,
    }
}

async fn connections_with_short_name(store: &SealedStore, beginning: &str, name: &str) -> Result<ByKey, StoreError> {
    // No DID contains a tilde: it stands for any rest.
    let prefix = format!("{beginning}~");
    let (mut found, mut after, mut searched) = (ByKey::new(), String::new(), 0);
    while searched < MAX_SEARCHED {
        let page = store.list_with_peer::<Connection>(&prefix, &after, PAGE_SIZE).await?;
        searched += page.len();
        let is_last_page = page.len() < PAGE_SIZE;
        if let Some((last, _)) = page.last() {
            after.clone_from(last);
        }
        found.extend(page.into_iter().filter(|(_, connection)| short_name(&connection.peer_did) == name));
        if is_last_page {
            break;
        }
    }
    Ok(found)
}

/// Returns the connections that have a label.
///
/// # Errors
/// [`StoreError`] if the store fails.
pub(super) async fn connections_labelled(store: &SealedStore, label: &str) -> Result<ByKey, StoreError> {
    let mut found = ByKey::new();
    let Some((holders, _)) = store.get::<LabelHolders>(&LabelHolders::key(store, label)?).await? else {
        return Ok(found);
    };
    for peer in &holders.peers {
        found.extend(connections_with(store, peer, "", MAX_FOUND).await?);
    }
    // A peer may have got another label since.
    found.retain(|_, connection| connection.label.as_deref().is_some_and(|it| fold(it) == fold(label)));
    Ok(found)
}

/// Returns the label of a peer.
///
/// # Errors
/// [`StoreError`] if the store fails.
pub(super) async fn label_of(store: &SealedStore, own_did: &str, peer: &str) -> Result<Option<String>, StoreError> {
    if let Some((connection, _)) = store.get::<Connection>(&Connection::key(own_did, peer)).await?
        && connection.label.is_some()
    {
        return Ok(connection.label);
    }
    let found = connections_with(store, peer, "", MAX_FOUND).await?;
    Ok(found.into_values().find_map(|connection| connection.label))
}
