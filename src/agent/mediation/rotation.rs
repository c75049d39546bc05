//! A mediator that answers from another DID than the one it was asked by.
//!
//! Some mediators make a DID for each relationship. Their first answer comes from that DID, with a `from_prior` signed by
//! the DID in the mediator's invitation. The answer bypasses the inbox, so the rotation is recorded here, in the records
//! that the inbox writes for other peers.

use super::parts::MediationParts;
use crate::agent::{
    canonical_did::canonical_did,
    clock::now,
    protocol::connections::Connection,
    rotation::peer::PeerRotation,
    sealed_store::SealedStore,
    store::{Change, CommitOutcome, StoreError},
};

/// How many times the commit is attempted if its records change meanwhile.
const MAX_ATTEMPTS: usize = 10;

/// Records that a mediator has rotated from `old` to `new` in its relationship with `own_did`. Returns whether the
/// rotation holds: a DID rotates once, and never back.
///
/// # Errors
/// [`StoreError`] if the store fails or is sealed.
pub(super) async fn record_rotation(
    parts: &MediationParts,
    own_did: &str,
    old: &str,
    new: &str,
) -> Result<bool, StoreError> {
    let store = &parts.store;
    let [from, to] = [old, new].map(|did| Connection::key(own_did, did));
    for _ in 0..MAX_ATTEMPTS {
        if store.get::<PeerRotation>(&to).await?.is_some() {
            return Ok(false);
        }
        if let Some((rotation, _)) = store.get::<PeerRotation>(&from).await? {
            return Ok(canonical_did(&rotation.to) == canonical_did(new));
        }
        let old_connection = store.get::<Connection>(&from).await?.map(|(connection, _)| connection);
        let (new_connection, revision) = store.get::<Connection>(&to).await?.unzip();
        let had_connection = old_connection.is_some();
        let mut connection = new_connection.or(old_connection).unwrap_or_else(|| Connection::new(own_did, new, now()));
        if connection.ended.is_some() {
            return Ok(false);
        }
        connection.become_known(now());
        let followed_no_longer = connection.rotate_peer(old, new);
        let long_form = parts.known_peers.keep_long_form(new).await?;
        connection.long_form_kept = long_form.is_some();
        let rotation = PeerRotation { to: canonical_did(new).into_owned(), time: now() };
        let mut changes = vec![
            Change::Keep(connection.peer_did.clone()),
            store.put_change(&to, &connection, revision.unwrap_or(0), None)?,
            store.put_change(&from, &rotation, 0, None)?,
        ];
        changes.extend(long_form);
        changes.extend(followed_no_longer.iter().map(|key| SealedStore::delete_change::<PeerRotation>(key)));
        if had_connection {
            changes.push(SealedStore::delete_change::<Connection>(&from));
        }
        if store.commit_changes(changes).await? == CommitOutcome::Committed {
            return Ok(true);
        }
    }
    Err(StoreError::Unavailable("the mediator's connection is changed concurrently".to_owned()))
}
