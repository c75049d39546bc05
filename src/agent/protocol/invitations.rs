//! The invitations that we have issued, and what becomes of them (DIDComm v2.1 "Message Correlation").

use serde::{Deserialize, Serialize};

use super::{
    Fault, Problem, Received, Turn,
    connections::{Connection, connection},
    id_key,
    out_of_band::Invitation,
    report_problem::is_report,
};
use crate::agent::store::Millis;

/// The kind of the records of our invitations.
pub const INVITATION: &str = "invitation";

/// An invitation of ours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Issued {
    /// What was given out.
    pub invitation: Invitation,
    /// When it was made.
    pub created: Millis,
    /// Until when it may be accepted; for ever if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Millis>,
    /// Whether more than one may accept it. Their connections name it.
    #[serde(default)]
    pub multi_use: bool,
    /// Who has accepted it, if only one may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<String>,
}

impl Issued {
    /// Whether someone new may accept it.
    pub fn is_open(&self, now: Millis) -> bool {
        (self.multi_use || self.used_by.is_none()) && self.expires.is_none_or(|expires| expires > now)
    }

    /// The key of an invitation's record.
    pub fn key(id: &str) -> String {
        id_key(id).into_owned()
    }
}

/// Remembers who responds to an invitation of ours: a message whose `pthid` is its id, to the DID that invited. To be
/// called after [`meet`](super::connections::meet).
///
/// # Errors
/// A [`Problem`] if the invitation has expired or somebody else has used it, except for who is known by it already:
/// later messages may name it too. [`Fault::Later`] if the store does not answer.
pub async fn note_response(received: &Received, turn: &mut Turn<'_>) -> Result<(), Fault> {
    // A report about an invitation does not accept it.
    let Some(pthid) = received.message.pthid.as_deref().filter(|_| !is_report(&received.message)) else {
        return Ok(());
    };
    let key = Issued::key(pthid);
    let Some(mut issued) = turn.get::<Issued>(INVITATION, &key).await? else { return Ok(()) };
    if issued.invitation.from != received.ours {
        return Ok(());
    }
    let peer = connection(received, turn).await?;
    match verdict(&issued, peer.as_ref(), received.time) {
        Verdict::Known => return Ok(()),
        Verdict::Expired => {
            return Err(Problem::new("e.p.req.time.invitation-expired", "The invitation has expired.").into());
        }
        Verdict::Used => {
            return Err(Problem::new("e.p.req.invitation-used", "The invitation was used by somebody else.").into());
        }
        Verdict::Accepted => {}
    }
    // Nobody is remembered who has not proved who it is.
    let Some(mut peer) = peer else { return Ok(()) };
    if !issued.multi_use {
        issued.used_by = Some(peer.theirs.clone());
        // For ever: were it forgotten, it could be used again.
        turn.put(INVITATION, &key, &issued, None);
    }
    peer.invitation = Some(key);
    peer.put(turn);
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Accepted,
    Known,
    Expired,
    Used,
}

fn verdict(issued: &Issued, peer: Option<&Connection>, now: Millis) -> Verdict {
    let id = Issued::key(&issued.invitation.id);
    // The connection knows it too, in case the peer has a new DID since.
    let known =
        |peer: &&Connection| peer.invitation.as_ref() == Some(&id) || issued.used_by.as_ref() == Some(&peer.theirs);
    if peer.as_ref().is_some_and(known) {
        return Verdict::Known;
    }
    if !issued.multi_use && issued.used_by.is_some() {
        return Verdict::Used;
    }
    match issued.expires {
        // Who was here before it expired goes on with what began then.
        Some(expires) if expires <= now => match peer {
            Some(peer) if peer.since < expires => Verdict::Known,
            _ => Verdict::Expired,
        },
        _ => Verdict::Accepted,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::agent::protocol::{
        connections::{CONNECTION, meet},
        report_problem::PROBLEM_REPORT,
        testing::{ALICE, BOB, NOW, OURS, Outcome, World, anonymous, from_with},
        trust_ping::PING,
    };

    fn issue(world: &World, id: &str, multi_use: bool, expires: Option<Millis>) {
        let invitation = Invitation { id: id.into(), ..Invitation::new(OURS) };
        let issued = Issued { invitation, created: NOW, expires, multi_use, used_by: None };
        world.set(INVITATION, &Issued::key(id), &issued);
    }

    fn response(theirs: &str, pthid: &str) -> Received {
        from_with(theirs, PING, json!({}), |message| message.pthid(pthid))
    }

    /// As the inbox does it.
    async fn responded(world: &World, received: &Received) -> Result<Outcome, String> {
        let mut turn = world.turn(received);
        meet(received, &mut turn).await.unwrap();
        match note_response(received, &mut turn).await {
            Ok(()) => Ok(world.commit(turn)),
            Err(Fault::Problem(problem)) => Err(problem.code),
            Err(other) => panic!("{other}"),
        }
    }

    fn invitation_of(world: &World, theirs: &str) -> Option<String> {
        world.record::<Connection>(CONNECTION, &Connection::key(OURS, theirs))?.invitation
    }

    #[tokio::test]
    async fn a_single_use_invitation_is_used_once() {
        let world = World::default();
        issue(&world, "Inv", false, None);
        assert!(responded(&world, &anonymous(PING, json!({}))).await.is_ok());
        responded(&world, &response(ALICE, "inv")).await.unwrap();
        assert_eq!(invitation_of(&world, ALICE).as_deref(), Some("inv"));
        // Later messages name it as well.
        assert!(responded(&world, &response(ALICE, "INV")).await.unwrap().written.is_empty());
        assert_eq!(responded(&world, &response(BOB, "inv")).await.unwrap_err(), "e.p.req.invitation-used");
        let mut nobody = response(ALICE, "inv");
        nobody.theirs = None;
        assert_eq!(responded(&world, &nobody).await.unwrap_err(), "e.p.req.invitation-used");

        // The one who used it, by its new DID.
        let moved = Connection { invitation: Some("inv".into()), ..Connection::new(OURS, "did:example:new", NOW) };
        world.set(CONNECTION, &Connection::key(OURS, &moved.theirs), &moved);
        assert!(responded(&world, &response(&moved.theirs, "inv")).await.unwrap().written.is_empty());
    }

    #[tokio::test]
    async fn a_multi_use_invitation_serves_all() {
        let world = World::default();
        issue(&world, "inv", true, None);
        for theirs in [ALICE, BOB] {
            assert_eq!(responded(&world, &response(theirs, "inv")).await.unwrap().written, [CONNECTION]);
            assert_eq!(invitation_of(&world, theirs).as_deref(), Some("inv"));
        }
    }

    #[tokio::test]
    async fn an_expired_invitation_serves_those_who_came_in_time() {
        let world = World::default();
        issue(&world, "inv", true, Some(NOW + 1));
        issue(&world, "other", true, None);
        responded(&world, &response(ALICE, "inv")).await.unwrap();
        responded(&world, &response(ALICE, "other")).await.unwrap();
        let late = |theirs| Received { time: NOW + 1, ..response(theirs, "inv") };
        assert!(responded(&world, &late(ALICE)).await.is_ok());
        assert_eq!(responded(&world, &late(BOB)).await.unwrap_err(), "e.p.req.time.invitation-expired");
    }

    #[tokio::test]
    async fn what_is_no_response_leaves_it_alone() {
        let world = World::default();
        issue(&world, "inv", false, None);
        let report = from_with(ALICE, PROBLEM_REPORT, json!({}), |message| message.pthid("inv"));
        let mut elsewhere = response(ALICE, "inv");
        elsewhere.ours = "did:example:ours2".into();
        for received in [report, elsewhere, response(ALICE, "another")] {
            responded(&world, &received).await.unwrap();
            assert_eq!(world.record::<Issued>(INVITATION, "inv").unwrap().used_by, None);
        }
    }
}
