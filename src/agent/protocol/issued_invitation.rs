//! The invitations that the agent has issued, and their acceptance (DIDComm v2.1 "Message Correlation").

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    connections::{Connection, find_connection},
    out_of_band::Invitation,
    problem::{HandleError, Problem},
    received::Received,
    record::RecordType,
    report_message::is_report,
    text::id_as_key,
    transaction::Transaction,
};
use crate::agent::{clock::Millis, event::EventKind};

/// An invitation that the agent has issued.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IssuedInvitation {
    /// The invitation.
    pub invitation: Invitation,
    /// When the invitation was made, in milliseconds since 1970.
    pub created: Millis,
    /// When the invitation expires, in milliseconds since 1970; never if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Millis>,
    /// Whether more than one peer may accept the invitation. The connections of these peers name the invitation.
    #[serde(default)]
    pub multi_use: bool,
    /// The DID of the peer that has accepted a single-use invitation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<String>,
}

impl RecordType for IssuedInvitation {
    const KIND: &'static str = "invitation";
}

impl IssuedInvitation {
    /// Whether a new peer may accept the invitation.
    pub fn is_open(&self, now: Millis) -> bool {
        (self.multi_use || self.used_by.is_none()) && !self.has_expired(now)
    }

    /// Whether the invitation has expired.
    pub fn has_expired(&self, now: Millis) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// Returns the key of an invitation's record.
    pub fn key(id: &str) -> String {
        id_as_key(id).into_owned()
    }
}

/// Records the acceptance of an invitation. A message accepts an invitation if it is sent to the inviting DID, and its
/// `pthid` is the invitation's id. Call this after [`update_connection`](super::connections::update_connection).
///
/// # Errors
/// A [`Problem`] if the invitation has expired, or another peer has used a single-use invitation. A peer that accepted
/// before may name the invitation again. [`HandleError::Retry`] if the store does not answer.
pub async fn record_acceptance(received: &Received, tx: &mut Transaction<'_>) -> Result<(), HandleError> {
    // A problem report about an invitation does not accept the invitation.
    let Some(pthid) = received.message.pthid.as_deref().filter(|_| !is_report(&received.message)) else {
        return Ok(());
    };
    let key = IssuedInvitation::key(pthid);
    let Some(mut issued) = tx.get::<IssuedInvitation>(&key).await? else { return Ok(()) };
    if issued.invitation.from != received.recipient {
        return Ok(());
    }
    let connection = find_connection(received, tx).await?;
    match status_for(&issued, connection.as_ref(), received.time) {
        InvitationStatus::AcceptedBefore => return Ok(()),
        InvitationStatus::Expired => {
            return Err(Problem::new("e.p.req.time.invitation-expired", "The invitation has expired.").into());
        }
        InvitationStatus::UsedByAnother => {
            return Err(Problem::new("e.p.req.invitation-used", "The invitation was used by somebody else.").into());
        }
        InvitationStatus::Open => {}
    }
    // Only an authenticated peer is recorded.
    let Some(mut connection) = connection else { return Ok(()) };
    let data = json!({
        "invitation": issued.invitation.id, "multi_use": issued.multi_use,
        "ours": connection.own_did, "theirs": connection.peer_did
    });
    tx.event(EventKind::InvitationUsed, data);
    connection.invitation = Some(key.clone());
    if !issued.multi_use {
        issued.used_by = Some(connection.peer_did.clone());
        // The record never expires: a forgotten acceptance would make the invitation usable again.
        tx.put(&key, &issued, None);
        // An invitation for many may be public. Who accepts that one stays a stranger until the application writes.
        if connection.become_known(received.time) {
            tx.event(EventKind::ConnectionMade, connection.made_data());
        }
        tx.keep_sender();
    }
    connection.put(tx);
    Ok(())
}

/// The status of an invitation for one peer.
#[derive(Debug, PartialEq, Eq)]
enum InvitationStatus {
    Open,
    AcceptedBefore,
    Expired,
    UsedByAnother,
}

fn status_for(issued: &IssuedInvitation, peer: Option<&Connection>, now: Millis) -> InvitationStatus {
    let id = IssuedInvitation::key(&issued.invitation.id);
    // The connection names the invitation too: the peer may have rotated to a new DID.
    let has_accepted =
        |peer: &&Connection| peer.invitation.as_ref() == Some(&id) || issued.used_by.as_ref() == Some(&peer.peer_did);
    if peer.as_ref().is_some_and(has_accepted) {
        return InvitationStatus::AcceptedBefore;
    }
    if !issued.multi_use && issued.used_by.is_some() {
        return InvitationStatus::UsedByAnother;
    }
    match issued.expires {
        // A peer that connected before the invitation expired may still name the invitation.
        Some(expires) if expires <= now => match peer {
            Some(peer) if peer.since < expires => InvitationStatus::AcceptedBefore,
            _ => InvitationStatus::Expired,
        },
        _ => InvitationStatus::Open,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::agent::protocol::{
        connections::update_connection,
        report_message::PROBLEM_REPORT,
        testing::{ALICE, BOB, Harness, NOW, OWN_DID, Outcome, anonymous, from_with},
        trust_ping::PING,
    };

    fn issue(harness: &Harness, id: &str, multi_use: bool, expires: Option<Millis>) {
        let invitation = Invitation { id: id.into(), ..Invitation::new(OWN_DID) };
        let issued = IssuedInvitation { invitation, created: NOW, expires, multi_use, used_by: None };
        harness.set(&IssuedInvitation::key(id), &issued);
    }

    fn response(peer: &str, pthid: &str) -> Received {
        from_with(peer, PING, json!({}), |message| message.pthid(pthid))
    }

    /// Updates the connection and records the acceptance, as the inbox does.
    async fn accept(harness: &Harness, received: &Received) -> Result<Outcome, String> {
        let mut tx = harness.begin(received);
        update_connection(received, &mut tx).await.unwrap();
        match record_acceptance(received, &mut tx).await {
            Ok(()) => Ok(harness.commit(tx)),
            Err(HandleError::Problem(problem)) => Err(problem.code),
            Err(other) => panic!("{other}"),
        }
    }

    fn invitation_of(harness: &Harness, peer: &str) -> Option<String> {
        harness.record::<Connection>(&Connection::key(OWN_DID, peer))?.invitation
    }

    #[tokio::test]
    async fn a_single_use_invitation_is_used_once() {
        let harness = Harness::default();
        issue(&harness, "Inv", false, None);
        assert!(accept(&harness, &anonymous(PING, json!({}))).await.is_ok());
        let first = accept(&harness, &response(ALICE, "inv")).await.unwrap();
        assert_eq!(invitation_of(&harness, ALICE).as_deref(), Some("inv"));
        let used = json!({ "invitation": "Inv", "multi_use": false, "ours": OWN_DID, "theirs": ALICE });
        let made = json!({ "ours": OWN_DID, "theirs": ALICE, "invitation": "inv" });
        assert_eq!(first.events, [(EventKind::InvitationUsed, used), (EventKind::ConnectionMade, made)]);
        // Later messages may name the invitation too.
        let later = accept(&harness, &response(ALICE, "INV")).await.unwrap();
        assert!(later.written.is_empty() && later.events.is_empty());
        assert_eq!(accept(&harness, &response(BOB, "inv")).await.unwrap_err(), "e.p.req.invitation-used");
        let mut nobody = response(ALICE, "inv");
        nobody.sender = None;
        assert_eq!(accept(&harness, &nobody).await.unwrap_err(), "e.p.req.invitation-used");

        // The peer that used the invitation may name it after its rotation.
        let moved = Connection { invitation: Some("inv".into()), ..Connection::new(OWN_DID, "did:example:new", NOW) };
        harness.set(&Connection::key(OWN_DID, &moved.peer_did), &moved);
        assert!(accept(&harness, &response(&moved.peer_did, "inv")).await.unwrap().written.is_empty());
    }

    #[tokio::test]
    async fn a_multi_use_invitation_serves_several_peers() {
        let harness = Harness::default();
        issue(&harness, "inv", true, None);
        for peer in [ALICE, BOB] {
            let outcome = accept(&harness, &response(peer, "inv")).await.unwrap();
            assert_eq!(outcome.written, [Connection::KIND]);
            // They are strangers: no connection is made yet.
            let used = json!({ "invitation": "inv", "multi_use": true, "ours": OWN_DID, "theirs": peer });
            assert_eq!(outcome.events, [(EventKind::InvitationUsed, used)]);
            assert_eq!(invitation_of(&harness, peer).as_deref(), Some("inv"));
        }
    }

    /// A public invitation must not let strangers fill the room of known peers.
    #[tokio::test]
    async fn only_an_invitation_for_one_makes_its_peer_known() {
        let harness = Harness::default();
        issue(&harness, "one", false, None);
        issue(&harness, "many", true, None);
        accept(&harness, &response(ALICE, "one")).await.unwrap();
        accept(&harness, &response(BOB, "many")).await.unwrap();
        let is_stranger = |peer| harness.record::<Connection>(&Connection::key(OWN_DID, peer)).unwrap().stranger;
        assert!(!is_stranger(ALICE) && is_stranger(BOB));
    }

    #[tokio::test]
    async fn an_expired_invitation_serves_peers_that_came_in_time() {
        let harness = Harness::default();
        issue(&harness, "inv", true, Some(NOW + 1));
        issue(&harness, "other", true, None);
        accept(&harness, &response(ALICE, "inv")).await.unwrap();
        accept(&harness, &response(ALICE, "other")).await.unwrap();
        let after_expiry = |peer| Received { time: NOW + 1, ..response(peer, "inv") };
        assert!(accept(&harness, &after_expiry(ALICE)).await.is_ok());
        assert_eq!(accept(&harness, &after_expiry(BOB)).await.unwrap_err(), "e.p.req.time.invitation-expired");
    }

    #[tokio::test]
    async fn other_messages_do_not_accept_the_invitation() {
        let harness = Harness::default();
        issue(&harness, "inv", false, None);
        let report = from_with(ALICE, PROBLEM_REPORT, json!({}), |message| message.pthid("inv"));
        let mut elsewhere = response(ALICE, "inv");
        elsewhere.recipient = "did:example:ours2".into();
        for received in [report, elsewhere, response(ALICE, "another")] {
            accept(&harness, &received).await.unwrap();
            assert_eq!(harness.record::<IssuedInvitation>("inv").unwrap().used_by, None);
        }
    }
}
