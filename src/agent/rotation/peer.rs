//! A peer's rotation: a connection moves to another DID of the peer, or ends.
//!
//! Messages from a DID that was rotated away, or that ended its relationship, are ignored ("The message recipient MUST
//! ignore those messages"): the inbox calls [`is_from_former_did`] first. Each connection rotates on its own: the same
//! DID may stay in use in another relationship.

use serde::{Deserialize, Serialize};

use crate::{
    agent::{
        canonical_did::canonical_did,
        clock::{MAX_CLOCK_SKEW, Millis},
        protocol::{
            HandleError, Received, RecordType, Transaction,
            connections::{Connection, find_connection},
        },
    },
    didcomm::{PriorDid, Warning},
};

/// How many earlier DIDs of a peer are remembered.
const MAX_PREVIOUS: usize = 16;

/// The effect of a message's `from_prior`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerRotationOutcome {
    /// There is no valid `from_prior`, or it was applied before.
    None,
    /// The sender has rotated from this DID.
    Rotated(String),
    /// The owner of this DID has ended the relationship.
    Ended(String),
}

/// The record that a peer has rotated. Its key is the key of the connection with the old DID.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRotation {
    /// The new DID.
    pub to: String,
    /// When the agent learned of the rotation, in milliseconds since 1970.
    pub time: Millis,
}

impl RecordType for PeerRotation {
    const KIND: &'static str = "moved";
    const ABOUT_SENDER: bool = true;
}

/// Whether the sender has rotated away from its DID or ended the relationship, so that the message must be ignored.
///
/// # Errors
/// [`HandleError::Retry`] if the store does not answer.
pub async fn is_from_former_did(received: &Received, tx: &mut Transaction<'_>) -> Result<bool, HandleError> {
    let Some(sender) = &received.sender else { return Ok(false) };
    if tx.get::<PeerRotation>(&Connection::key(&received.recipient, sender)).await?.is_some() {
        return Ok(true);
    }
    Ok(find_connection(received, tx).await?.is_some_and(|connection| connection.ended.is_some()))
}

/// Moves the connection to the peer's new DID, or ends the connection, if a valid `from_prior` of the message says so.
/// A peer cannot rotate back to an earlier DID.
///
/// # Errors
/// [`HandleError::Retry`] if the store does not answer.
pub async fn apply_from_prior(
    received: &Received,
    tx: &mut Transaction<'_>,
) -> Result<PeerRotationOutcome, HandleError> {
    let provenance = &received.provenance;
    if provenance.warnings.contains(&Warning::UnauthenticatedFromPrior) {
        return Ok(PeerRotationOutcome::None);
    }
    match (&provenance.from_prior, &received.sender) {
        (Some(prior @ PriorDid { sub: Some(sub), .. }), Some(sender))
            if canonical_did(sub) == canonical_did(sender) =>
        {
            rotate(received, canonical_did(&prior.iss), canonical_did(sub), tx).await
        }
        (Some(prior @ PriorDid { sub: None, .. }), _) => end(received, prior, tx).await,
        _ => Ok(PeerRotationOutcome::None),
    }
}

async fn rotate(
    received: &Received,
    old: &str,
    new: &str,
    tx: &mut Transaction<'_>,
) -> Result<PeerRotationOutcome, HandleError> {
    let [from, to] = [old, new].map(|did| Connection::key(&received.recipient, did));
    if old == new || tx.get::<PeerRotation>(&to).await?.is_some() {
        return Ok(PeerRotationOutcome::None);
    }
    if let Some(rotation) = tx.get::<PeerRotation>(&from).await? {
        if rotation.to != new {
            tracing::warn!(old, to = rotation.to, new, "rotation ignored: the DID has rotated to another before");
        }
        return Ok(PeerRotationOutcome::None);
    }
    let old_connection: Option<Connection> = tx.get(&from).await?;
    if old_connection.as_ref().is_some_and(|connection| connection.ended.is_some()) {
        tracing::warn!(old, new, "rotation ignored: the relationship has ended");
        return Ok(PeerRotationOutcome::None);
    }
    let new_connection: Option<Connection> = tx.get(&to).await?;
    let had_connection = old_connection.is_some();
    let mut connection = match (old_connection, new_connection) {
        (Some(old), Some(new)) => merge(old, new, received.time),
        (Some(connection), None) | (None, Some(connection)) => connection,
        // There is no connection yet, for example because the peer's first message rotates from the DID in its
        // invitation. The rotation is recorded all the same, so that messages from the old DID are ignored.
        (None, None) => Connection { stranger: true, ..Connection::new(&received.recipient, new, received.time) },
    };
    // The new DID has another document.
    connection.long_form_kept = false;
    connection.peer_did = new.to_owned();
    connection.previous_dids.push(old.to_owned());
    let surplus = connection.previous_dids.len().saturating_sub(MAX_PREVIOUS);
    connection.previous_dids.drain(..surplus);
    connection.put(tx);
    // The peer may have written from the new DID before, as a stranger.
    if !connection.stranger {
        tx.keep_sender();
    }
    if had_connection {
        tx.delete::<Connection>(&from);
    }
    tx.put(&from, &PeerRotation { to: new.to_owned(), time: received.time }, None);
    Ok(PeerRotationOutcome::Rotated(old.to_owned()))
}

/// Merges the two connections of a peer that wrote from its new DID before it sent its `from_prior`.
fn merge(old: Connection, new: Connection, time: Millis) -> Connection {
    Connection {
        since: old.since.min(new.since),
        invitation: old.invitation.or(new.invitation),
        label: old.label.or(new.label),
        accept_lang: new.accept_lang.or(old.accept_lang),
        stranger: old.stranger && new.stranger,
        // From its new DID the peer has written as a stranger.
        known_since: if new.stranger { Some(time) } else { new.known_since },
        previous_dids: old.previous_dids.into_iter().chain(new.previous_dids).collect(),
        from_prior: new.from_prior.or(old.from_prior),
        ..new
    }
}

/// Ends a relationship (v2.1 "Ending a Relationship"). The JWT names no audience, so anyone who has it could send it to
/// others. The JWT therefore ends only a connection with a did:peer, which is made for one relationship, and only a
/// connection that existed when the JWT was signed.
async fn end(
    received: &Received,
    prior: &PriorDid,
    tx: &mut Transaction<'_>,
) -> Result<PeerRotationOutcome, HandleError> {
    let peer_did = canonical_did(&prior.iss);
    let key = Connection::key(&received.recipient, peer_did);
    let Some(mut connection) = tx.get::<Connection>(&key).await? else { return Ok(PeerRotationOutcome::None) };
    let is_timely = |iat: i64| connection.since / 1000 <= iat && iat <= (received.time + MAX_CLOCK_SKEW) / 1000;
    let is_valid = peer_did.starts_with("did:peer:") && prior.iat.is_some_and(is_timely);
    if !is_valid || connection.ended.is_some() {
        return Ok(PeerRotationOutcome::None);
    }
    connection.ended = Some(received.time);
    connection.put(tx);
    Ok(PeerRotationOutcome::Ended(peer_did.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::agent::protocol::{
        connections::update_connection,
        empty::EMPTY,
        testing::{ALICE, BOB, Harness, NOW, OWN_DID, anonymous, from},
    };

    const NEW: &str = "did:peer:0new";
    const THIRD: &str = "did:peer:0third";

    fn connection_with(harness: &Harness, peer: &str) -> Option<Connection> {
        harness.record(&Connection::key(OWN_DID, peer))
    }

    async fn receive_from(harness: &Harness, peer: &str) {
        let received = from(peer, EMPTY, json!({}));
        let mut tx = harness.begin(&received);
        update_connection(&received, &mut tx).await.unwrap();
        harness.commit(tx);
    }

    fn prior(iss: &str, sub: Option<&str>, iat: i64) -> Option<PriorDid> {
        let kid = format!("{iss}#1");
        Some(PriorDid { iss: iss.into(), sub: sub.map(str::to_owned), iat: Some(iat), kid })
    }

    fn rotating(iss: &str, sub: &str) -> Received {
        let mut received = from(sub, EMPTY, json!({}));
        received.provenance.from_prior = prior(iss, Some(sub), NOW / 1000);
        received
    }

    fn ending(iss: &str, iat: i64) -> Received {
        let mut received = anonymous(EMPTY, json!({}));
        received.provenance.from_prior = prior(iss, None, iat);
        received
    }

    async fn receive(harness: &Harness, received: &Received) -> PeerRotationOutcome {
        let mut tx = harness.begin(received);
        let rotation = apply_from_prior(received, &mut tx).await.unwrap();
        // As the inbox does, in the same transaction.
        update_connection(received, &mut tx).await.unwrap();
        harness.commit(tx);
        rotation
    }

    async fn is_ignored(harness: &Harness, peer: &str) -> bool {
        let received = from(peer, EMPTY, json!({}));
        is_from_former_did(&received, &mut harness.begin(&received)).await.unwrap()
    }

    #[tokio::test]
    async fn a_peer_rotates() {
        let harness = Harness::default();
        let old = Connection { invitation: Some("i".into()), ..Connection::new(OWN_DID, ALICE, 7) };
        harness.set(&Connection::key(OWN_DID, ALICE), &old);
        assert_eq!(receive(&harness, &rotating(ALICE, NEW)).await, PeerRotationOutcome::Rotated(ALICE.into()));
        let new = Connection { peer_did: NEW.into(), previous_dids: vec![ALICE.into()], ..old };
        assert_eq!((connection_with(&harness, ALICE), connection_with(&harness, NEW)), (None, Some(new.clone())));
        assert!(is_ignored(&harness, ALICE).await && !is_ignored(&harness, NEW).await);

        // The peer repeats its from_prior, as the specification says. Then somebody with the old key names another DID.
        assert_eq!(receive(&harness, &rotating(ALICE, NEW)).await, PeerRotationOutcome::None);
        assert_eq!(receive(&harness, &rotating(ALICE, BOB)).await, PeerRotationOutcome::None);
        assert_eq!(connection_with(&harness, NEW), Some(new));
        assert_eq!(connection_with(&harness, BOB).unwrap().invitation, None);

        assert_eq!(receive(&harness, &rotating(NEW, THIRD)).await, PeerRotationOutcome::Rotated(NEW.into()));
        assert_eq!(connection_with(&harness, THIRD).unwrap().previous_dids, [ALICE, NEW]);
        assert!(is_ignored(&harness, ALICE).await && is_ignored(&harness, NEW).await);
        // The peer cannot rotate back.
        assert_eq!(receive(&harness, &rotating(THIRD, ALICE)).await, PeerRotationOutcome::None);

        // The old DID is still valid in another relationship.
        let mut other_relationship = from(ALICE, EMPTY, json!({}));
        other_relationship.recipient = "did:example:ours2".into();
        assert!(!is_from_former_did(&other_relationship, &mut harness.begin(&other_relationship)).await.unwrap());
    }

    #[tokio::test]
    async fn two_connections_of_a_peer_are_merged() {
        let harness = Harness::default();
        let old = Connection { label: Some("Alice".into()), ..Connection::new(OWN_DID, ALICE, 7) };
        harness.set(&Connection::key(OWN_DID, ALICE), &old);
        receive_from(&harness, NEW).await;
        // What was remembered of the stranger that wrote from the new DID is kept.
        let received = rotating(ALICE, NEW);
        let mut tx = harness.begin(&received);
        apply_from_prior(&received, &mut tx).await.unwrap();
        assert!(harness.commit(tx).kept);
        assert_eq!(
            connection_with(&harness, NEW),
            Some(Connection {
                peer_did: NEW.into(),
                known_since: Some(received.time),
                previous_dids: vec![ALICE.into()],
                ..old
            })
        );
        assert_eq!(harness.count::<Connection>(), 1);
    }

    #[tokio::test]
    async fn a_peer_without_a_connection_rotates() {
        let harness = Harness::default();
        assert_eq!(receive(&harness, &rotating(ALICE, NEW)).await, PeerRotationOutcome::Rotated(ALICE.into()));
        assert_eq!(connection_with(&harness, NEW).unwrap().previous_dids, [ALICE]);
        assert!(is_ignored(&harness, ALICE).await);
    }

    #[tokio::test]
    async fn an_invalid_from_prior_is_ignored() {
        let harness = Harness::default();
        receive_from(&harness, ALICE).await;
        let mut unproved = rotating(ALICE, NEW);
        unproved.provenance.warnings.push(Warning::UnauthenticatedFromPrior);
        let mut anonymous = rotating(ALICE, NEW);
        anonymous.sender = None;
        let mut foreign = rotating(ALICE, NEW);
        foreign.sender = Some(BOB.into());
        for received in [unproved, anonymous, foreign] {
            assert_eq!(receive(&harness, &received).await, PeerRotationOutcome::None);
            assert!(!is_ignored(&harness, ALICE).await);
        }
    }

    #[tokio::test]
    async fn a_relationship_ends() {
        let harness = Harness::default();
        let now = NOW / 1000;
        for peer in [NEW, ALICE] {
            receive_from(&harness, peer).await;
        }
        let mut unencrypted = ending(NEW, now);
        unencrypted.provenance.warnings.push(Warning::UnauthenticatedFromPrior);
        let mut timeless = ending(NEW, now);
        timeless.provenance.from_prior.as_mut().unwrap().iat = None;
        let before = ending(NEW, now - 1);
        let ahead = ending(NEW, now + MAX_CLOCK_SKEW / 1000 + 1);
        for received in [unencrypted, timeless, before, ahead, ending(ALICE, now), ending(THIRD, now)] {
            assert_eq!(receive(&harness, &received).await, PeerRotationOutcome::None, "{received:?}");
        }
        assert!(!is_ignored(&harness, NEW).await);

        assert_eq!(receive(&harness, &ending(NEW, now)).await, PeerRotationOutcome::Ended(NEW.into()));
        assert_eq!(connection_with(&harness, NEW).unwrap().ended, Some(NOW));
        assert!(is_ignored(&harness, NEW).await && !is_ignored(&harness, ALICE).await);
        assert_eq!(receive(&harness, &ending(NEW, now)).await, PeerRotationOutcome::None);
        assert_eq!(receive(&harness, &rotating(NEW, THIRD)).await, PeerRotationOutcome::None);
    }
}
