//! A peer's rotation: a connection moves to another DID of the peer, or ends.
//!
//! Messages from a DID that was rotated away, or that ended its relationship, are ignored ("The message recipient MUST
//! ignore those messages"): the inbox calls [`reason_to_ignore`] first. Each connection rotates on its own: the same
//! DID may stay in use in another relationship.

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    agent::{
        canonical_did::canonical_did,
        clock::{MAX_CLOCK_SKEW, Millis},
        event::EventKind,
        protocol::{
            HandleError, Received, RecordType, Transaction,
            connections::{Connection, EndedBy, find_connection},
        },
        store::types::PEER_ROTATION_KIND,
    },
    didcomm::{PriorDid, Warning},
};

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
    const KIND: &'static str = PEER_ROTATION_KIND;
    const ABOUT_SENDER: bool = true;
}

/// Returns why a message must be ignored: its sender has rotated away from its DID, or the relationship has ended.
///
/// # Errors
/// [`HandleError::Retry`] if the store does not answer.
pub async fn reason_to_ignore(
    received: &Received,
    tx: &mut Transaction<'_>,
) -> Result<Option<&'static str>, HandleError> {
    let Some(sender) = &received.sender else { return Ok(None) };
    if tx.get::<PeerRotation>(&Connection::key(&received.recipient, sender)).await?.is_some() {
        return Ok(Some("the sender has rotated from this DID"));
    }
    let ended = find_connection(received, tx).await?.filter(|connection| connection.ended.is_some());
    Ok(ended.map(|connection| match connection.ended_by {
        Some(EndedBy::Us) => "the connection was ended here: `claviger connections resume` takes it up again",
        Some(EndedBy::Peer) => "the sender has ended the connection: `claviger connections resume` takes it up again",
        None => "the connection has ended: `claviger connections resume` takes it up again",
    }))
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
            rotate(received, &canonical_did(&prior.iss), &canonical_did(sub), tx).await
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
    for followed_no_longer in connection.rotate_peer(old, new) {
        tx.delete::<PeerRotation>(&followed_no_longer);
    }
    connection.put(tx);
    // The peer may have written from the new DID before, as a stranger.
    if !connection.stranger {
        tx.keep_sender();
        let data = json!({ "ours": connection.own_did, "from": old, "to": new });
        tx.event(EventKind::PeerRotated, data);
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
        // To a stranger nobody on our side has written.
        unanswered: if old.stranger { new.unanswered } else { old.unanswered },
        // From its new DID the peer has written as a stranger.
        known_since: if new.stranger { Some(time) } else { new.known_since },
        previous_dids: old.previous_dids.into_iter().chain(new.previous_dids).collect(),
        from_prior: new.from_prior.or(old.from_prior),
        ..new
    }
}

/// Ends a relationship (v2.1 "Ending a Relationship"). The JWT names no audience, so anyone who has it could send it to
/// others. The JWT therefore ends only a connection with a did:peer, which is made for one relationship, and only a
/// connection that existed when the JWT was signed, and was not resumed since.
async fn end(
    received: &Received,
    prior: &PriorDid,
    tx: &mut Transaction<'_>,
) -> Result<PeerRotationOutcome, HandleError> {
    let peer_did = &*canonical_did(&prior.iss);
    let key = Connection::key(&received.recipient, peer_did);
    let Some(mut connection) = tx.get::<Connection>(&key).await? else { return Ok(PeerRotationOutcome::None) };
    let begun = connection.resumed.unwrap_or(connection.since);
    let is_timely = |iat: i64| begun / 1000 <= iat && iat <= (received.time + MAX_CLOCK_SKEW) / 1000;
    let is_valid = peer_did.starts_with("did:peer:") && prior.iat.is_some_and(is_timely);
    if !is_valid || connection.ended.is_some() {
        return Ok(PeerRotationOutcome::None);
    }
    connection.ended = Some(received.time);
    connection.ended_by = Some(EndedBy::Peer);
    if !connection.stranger {
        let data = json!({ "ours": connection.own_did, "theirs": peer_did, "by": EndedBy::Peer });
        tx.event(EventKind::ConnectionEnded, data);
    }
    connection.put(tx);
    Ok(PeerRotationOutcome::Ended(peer_did.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::agent::protocol::{
        connections::{MAX_PREVIOUS, update_connection},
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
        reason_to_ignore(&received, &mut harness.begin(&received)).await.unwrap().is_some()
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
        let ignored = reason_to_ignore(&other_relationship, &mut harness.begin(&other_relationship)).await.unwrap();
        assert_eq!(ignored, None);
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

    /// However often a peer rotates, it leaves few records.
    #[tokio::test]
    async fn the_last_rotations_are_remembered() {
        let harness = Harness::default();
        receive_from(&harness, "did:peer:0a0").await;
        let did = |number: usize| format!("did:peer:0a{number}");
        for number in 0..3 * MAX_PREVIOUS {
            let rotated = receive(&harness, &rotating(&did(number), &did(number + 1))).await;
            assert_eq!(rotated, PeerRotationOutcome::Rotated(did(number)));
        }
        let last = 3 * MAX_PREVIOUS;
        let remembered: Vec<String> = (last - MAX_PREVIOUS..last).map(did).collect();
        assert_eq!(connection_with(&harness, &did(last)).unwrap().previous_dids, remembered);
        assert_eq!((harness.count::<PeerRotation>(), harness.count::<Connection>()), (MAX_PREVIOUS, 1));
        assert!(is_ignored(&harness, &remembered[0]).await && !is_ignored(&harness, &did(last)).await);
    }

    /// The events of a peer that answers from another DID than that of its invitation, and then ends the relationship.
    #[tokio::test]
    async fn events_tell_of_contacts_and_not_of_strangers() {
        let harness = Harness::default();
        let events = async |received: &Received| {
            let mut tx = harness.begin(received);
            apply_from_prior(received, &mut tx).await.unwrap();
            update_connection(received, &mut tx).await.unwrap();
            harness.commit(tx).events
        };
        // A stranger has written from the new DID before: it is the same peer.
        receive_from(&harness, NEW).await;
        harness.set(&Connection::key(OWN_DID, ALICE), &Connection::begun_by_us(OWN_DID, ALICE, 7));
        let rotated = json!({ "ours": OWN_DID, "from": ALICE, "to": NEW });
        let made = json!({ "ours": OWN_DID, "theirs": NEW, "invitation": null });
        let both = [(EventKind::PeerRotated, rotated), (EventKind::ConnectionMade, made)];
        assert_eq!(events(&rotating(ALICE, NEW)).await, both);
        assert!(events(&rotating(ALICE, NEW)).await.is_empty());
        let ended = json!({ "ours": OWN_DID, "theirs": NEW, "by": "peer" });
        assert_eq!(events(&ending(NEW, NOW / 1000)).await, [(EventKind::ConnectionEnded, ended)]);
        assert!(events(&ending(NEW, NOW / 1000)).await.is_empty());

        receive_from(&harness, BOB).await;
        assert!(events(&rotating(BOB, THIRD)).await.is_empty());
        assert!(events(&ending(THIRD, NOW / 1000)).await.is_empty());
        assert!(connection_with(&harness, THIRD).unwrap().ended.is_some());
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

        // Our side resumes. Whoever has the proof cannot end the relationship with it again.
        let ended = connection_with(&harness, NEW).unwrap();
        assert_eq!(ended.ended_by, Some(EndedBy::Peer));
        let resumed = Connection { ended: None, ended_by: None, resumed: Some(NOW + 1000), ..ended };
        harness.set(&Connection::key(OWN_DID, NEW), &resumed);
        assert_eq!(receive(&harness, &ending(NEW, now)).await, PeerRotationOutcome::None);
        assert!(!is_ignored(&harness, NEW).await);
        assert_eq!(receive(&harness, &ending(NEW, now + 1)).await, PeerRotationOutcome::Ended(NEW.into()));
    }
}
