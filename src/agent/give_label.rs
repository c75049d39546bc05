//! Gives a peer its label, and keeps the record of who has which label.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    canonical_did::canonical_did,
    clock::now,
    error::AgentError,
    event::EventKind,
    label::{Label, LabelHolders},
    peer_names::{ByKey, MAX_FOUND, connections_labelled, connections_with},
    protocol::{RecordType, connections::Connection},
    sealed_store::SealedStore,
    store::{Change, StoreError},
};

/// The most peers with the same label that are remembered. Only older releases have given more than one the same.
const MAX_HOLDERS: usize = 100;
/// How many records are read from the store at once.
const PAGE_SIZE: usize = 500;

/// Returns the changes that give a peer a label, or none, in all its connections but the one with the key `except`, which the
/// caller writes.
///
/// # Errors
/// [`AgentError::LabelTaken`] if another peer has the label; [`AgentError::Store`] if the store fails or is sealed.
pub(super) async fn label_changes(
    store: &SealedStore,
    peer: &str,
    label: Option<&Label>,
    except: Option<&str>,
) -> Result<Vec<Change>, AgentError> {
    let connections = connections_with(store, peer, "", MAX_FOUND).await?;
    let mut changes = Vec::new();
    if let Some(label) = label {
        changes.push(claim(store, label, peer, &connections).await?);
    }
    let new = label.map(|label| label.as_str().to_owned());
    let old: Vec<String> = connections.values().filter_map(|connection| connection.label.clone()).collect();
    changes.extend(release(store, &old, new.as_slice(), &connections).await?);
    for key in connections.keys().filter(|key| except != Some(key)) {
        let Some((mut connection, revision)) = store.get::<Connection>(key).await? else { continue };
        connection.label.clone_from(&new);
        // Whom a person gives a name is no stranger.
        if new.is_some() {
            if connection.become_known(now()) {
                changes.extend(store.recorded_events().change(EventKind::ConnectionMade, || connection.made_data()));
            }
            changes.push(Change::Keep(connection.peer_did.clone()));
        }
        changes.push(store.put_change(key, &connection, revision, None)?);
    }
    Ok(changes)
}

/// Returns the change that records who has a label.
async fn claim(store: &SealedStore, label: &Label, peer: &str, own: &ByKey) -> Result<Change, AgentError> {
    let text = label.as_str();
    let key = LabelHolders::key(store, text)?;
    // Read before the holders: if one is added meanwhile, the commit conflicts.
    let revision = store.revision::<LabelHolders>(&key).await?;
    let peer = canonical_did(peer);
    let others = others_labelled(store, text, own).await?;
    if let Some(other) = others.into_iter().find(|other| *other != peer) {
        return Err(AgentError::LabelTaken { label: text.to_owned(), peer: other });
    }
    Ok(store.put_change(&key, &LabelHolders { peers: vec![peer.into_owned()] }, revision, None)?)
}

/// Returns the changes that record that the peer of the connections `own` no longer has the labels `old`, but for those that are
/// in `kept`.
pub(super) async fn release(
    store: &SealedStore,
    old: &[String],
    kept: &[String],
    own: &ByKey,
) -> Result<Vec<Change>, StoreError> {
    // Several connections have the same label, and its record can be changed once in a commit.
    let mut released = BTreeMap::new();
    for label in old {
        released.insert(LabelHolders::key(store, label)?, label);
    }
    for label in kept {
        released.remove(&LabelHolders::key(store, label)?);
    }
    let mut changes = Vec::new();
    for (key, label) in released {
        let revision = store.revision::<LabelHolders>(&key).await?;
        let peers = others_labelled(store, label, own).await?;
        changes.push(match peers.is_empty() {
            true => SealedStore::delete_change::<LabelHolders>(&key),
            false => store.put_change(&key, &LabelHolders { peers }, revision, None)?,
        });
    }
    Ok(changes)
}

/// Returns the DIDs of the peers that have a label, without those of the connections `own`.
async fn others_labelled(store: &SealedStore, label: &str, own: &ByKey) -> Result<Vec<String>, StoreError> {
    let mut labelled = connections_labelled(store, label).await?;
    labelled.retain(|key, _| !own.contains_key(key));
    let peers: BTreeSet<String> = labelled.into_values().map(|connection| connection.peer_did).collect();
    Ok(peers.into_iter().take(MAX_HOLDERS).collect())
}

/// The record that the labels of older releases, which kept no record of them, are recorded.
#[derive(serde::Serialize, serde::Deserialize)]
struct LabelsRecorded {}

impl RecordType for LabelsRecorded {
    const KIND: &'static str = "labels-recorded";
}

/// Records the labels that older releases have given. Does nothing if that was done.
///
/// # Errors
/// [`StoreError`] if the store fails or is sealed.
pub(super) async fn record_labels(store: &SealedStore) -> Result<(), StoreError> {
    if store.get::<LabelsRecorded>("1").await?.is_some() {
        return Ok(());
    }
    let mut after = String::new();
    loop {
        let page = store.list::<Connection>(&after, PAGE_SIZE).await?;
        let is_last_page = page.len() < PAGE_SIZE;
        if let Some((last, _)) = page.last() {
            after.clone_from(last);
        }
        for connection in page.into_iter().map(|(_, connection)| connection) {
            let Some(label) = &connection.label else { continue };
            let key = LabelHolders::key(store, label)?;
            let (mut holders, revision) = store.get::<LabelHolders>(&key).await?.unwrap_or_default();
            if !holders.peers.contains(&connection.peer_did) && holders.peers.len() < MAX_HOLDERS {
                holders.peers.push(connection.peer_did);
                if !store.put(&key, &holders, revision).await? {
                    return Err(StoreError::Unavailable("a label is given at the same time".to_owned()));
                }
            }
        }
        if is_last_page {
            break;
        }
    }
    store.put("1", &LabelsRecorded {}, 0).await.map(drop)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::agent::store::{CommitOutcome, SqliteOptions, SqliteStore};

    const OLD: &str = "did:example:old";
    const NEW: &str = "did:example:new";

    /// The peer has rotated in two of three connections, so that the label stands for two DIDs.
    #[tokio::test]
    async fn the_label_of_two_dids_of_a_peer_is_changed() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("store.db"), SqliteOptions::default()).unwrap();
        let store = SealedStore::with_new_key(Arc::new(store));
        for (own, peer) in [("did:example:1", NEW), ("did:example:2", NEW), ("did:example:3", OLD)] {
            let connection = Connection { label: Some("Alice".to_owned()), ..Connection::new(own, peer, 1) };
            assert!(store.put(&Connection::key(own, peer), &connection, 0).await.unwrap());
        }
        record_labels(&store).await.unwrap();
        let holders = async || {
            let holders = store.get::<LabelHolders>(&LabelHolders::key(&store, "alice").unwrap()).await.unwrap();
            holders.unwrap_or_default().0.peers
        };
        assert_eq!(holders().await, [NEW, OLD]);
        let change = async |peer, label| {
            let changes = label_changes(&store, peer, label, None).await.unwrap();
            store.commit_changes(changes).await.unwrap()
        };
        let bob = Label::parse("Bob").unwrap();
        assert_eq!(change(NEW, Some(&bob)).await, CommitOutcome::Committed);
        assert_eq!(holders().await, [OLD]);
        assert_eq!(connections_labelled(&store, "bob").await.unwrap().len(), 2);
        assert_eq!(change(OLD, None).await, CommitOutcome::Committed);
        assert_eq!(holders().await, [""; 0]);
    }
}
