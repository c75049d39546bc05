//! DID rotation (DIDComm v2.1 "DID Rotation"): how a connection moves to another DID of the peer, or ends.
//!
//! A DID that was left, or that ended its relationship, is not heard any more ("The message recipient MUST ignore those
//! messages"): the inbox asks [`has_moved`] first. That goes for one relationship; the same DID may live on in another.

use serde::{Deserialize, Serialize};

use super::{
    Fault, Received, Turn,
    connections::{CONNECTION, Connection, connection, short},
};
use crate::{
    agent::store::Millis,
    didcomm::{PriorDid, Warning},
};

/// The kind of the records of DIDs that were left, by the key of the connection that was theirs.
pub const MOVED: &str = "moved";

/// How many earlier DIDs are remembered.
const MAX_PREVIOUS: usize = 16;
/// How far the peer's clock may be ahead, in seconds.
const SKEW: i64 = 300;

/// What a `from_prior` has brought about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rotation {
    /// There was none that counts, or it was known already.
    None,
    /// The sender has left this DID.
    Moved(String),
    /// The owner of this DID has ended the relationship.
    Ended(String),
}

/// That a DID was left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// The new DID.
    pub to: String,
    /// When that was heard of.
    pub time: Millis,
}

/// Whether the sender's DID was left or its relationship ended, so that its messages are to be ignored.
///
/// # Errors
/// [`Fault::Later`] if the store does not answer.
pub async fn has_moved(received: &Received, turn: &mut Turn<'_>) -> Result<bool, Fault> {
    let Some(theirs) = &received.theirs else { return Ok(false) };
    if turn.get::<Moved>(MOVED, &Connection::key(&received.ours, theirs)).await?.is_some() {
        return Ok(true);
    }
    Ok(connection(received, turn).await?.is_some_and(|connection| connection.ended.is_some()))
}

/// Follows a peer to its new DID, or lets it go, if the message's `from_prior` says so and counts. A DID that was left
/// once is not taken up again.
///
/// # Errors
/// [`Fault::Later`] if the store does not answer.
pub async fn rotate(received: &Received, turn: &mut Turn<'_>) -> Result<Rotation, Fault> {
    let provenance = &received.provenance;
    if provenance.warnings.contains(&Warning::UnauthenticatedFromPrior) {
        return Ok(Rotation::None);
    }
    match (&provenance.from_prior, &received.theirs) {
        (Some(prior @ PriorDid { sub: Some(sub), .. }), Some(theirs)) if short(sub) == short(theirs) => {
            follow(received, short(&prior.iss), short(sub), turn).await
        }
        (Some(prior @ PriorDid { sub: None, .. }), _) => end(received, prior, turn).await,
        _ => Ok(Rotation::None),
    }
}

async fn follow(received: &Received, old: &str, new: &str, turn: &mut Turn<'_>) -> Result<Rotation, Fault> {
    let [from, to] = [old, new].map(|did| Connection::key(&received.ours, did));
    if old == new || turn.get::<Moved>(MOVED, &to).await?.is_some() {
        return Ok(Rotation::None);
    }
    if let Some(moved) = turn.get::<Moved>(MOVED, &from).await? {
        if moved.to != new {
            tracing::warn!(
                old,
                to = moved.to,
                new,
                "a DID that was left before names another successor: it is ignored"
            );
        }
        return Ok(Rotation::None);
    }
    let was: Option<Connection> = turn.get(CONNECTION, &from).await?;
    if was.as_ref().is_some_and(|was| was.ended.is_some()) {
        tracing::warn!(old, new, "a DID whose relationship has ended names a successor: it is ignored");
        return Ok(Rotation::None);
    }
    let is: Option<Connection> = turn.get(CONNECTION, &to).await?;
    // Without a connection it may be the owner of an invitation that we accepted: the old DID is not heard either.
    let fresh = || Connection::new(&received.ours, new, received.time);
    let mut now = match (was.clone(), is) {
        (Some(was), Some(is)) => merged(was, is),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => fresh(),
    };
    now.theirs = new.to_owned();
    now.previous.push(old.to_owned());
    let surplus = now.previous.len().saturating_sub(MAX_PREVIOUS);
    now.previous.drain(..surplus);
    now.put(turn);
    if was.is_some() {
        turn.delete(CONNECTION, &from);
    }
    turn.put(MOVED, &from, &Moved { to: new.to_owned(), time: received.time }, None);
    Ok(Rotation::Moved(old.to_owned()))
}

/// One relationship of two records: the peer wrote from its new DID before it said whose it was.
fn merged(was: Connection, is: Connection) -> Connection {
    Connection {
        since: was.since.min(is.since),
        invitation: was.invitation.or(is.invitation),
        label: was.label.or(is.label),
        accept_lang: is.accept_lang.or(was.accept_lang),
        previous: was.previous.into_iter().chain(is.previous).collect(),
        from_prior: is.from_prior.or(was.from_prior),
        ..is
    }
}

/// v2.1 "Ending a Relationship". The JWT names no audience, so who has it could show it to others: it closes only a DID
/// made for one relationship, and one that was there when it was signed.
async fn end(received: &Received, prior: &PriorDid, turn: &mut Turn<'_>) -> Result<Rotation, Fault> {
    let theirs = short(&prior.iss);
    let key = Connection::key(&received.ours, theirs);
    let Some(mut connection) = turn.get::<Connection>(CONNECTION, &key).await? else { return Ok(Rotation::None) };
    let began_before = |iat: i64| connection.since / 1000 <= iat && iat <= received.time / 1000 + SKEW;
    let sound = theirs.starts_with("did:peer:") && prior.iat.is_some_and(began_before);
    if !sound || connection.ended.is_some() {
        return Ok(Rotation::None);
    }
    connection.ended = Some(received.time);
    connection.put(turn);
    Ok(Rotation::Ended(theirs.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::agent::protocol::{
        connections::meet,
        empty::EMPTY,
        testing::{ALICE, BOB, NOW, OURS, World, anonymous, from},
    };

    const NEW: &str = "did:peer:0new";
    const THIRD: &str = "did:peer:0third";

    fn of(world: &World, theirs: &str) -> Option<Connection> {
        world.record(CONNECTION, &Connection::key(OURS, theirs))
    }

    async fn met(world: &World, theirs: &str) {
        let received = from(theirs, EMPTY, json!({}));
        let mut turn = world.turn(&received);
        meet(&received, &mut turn).await.unwrap();
        world.commit(turn);
    }

    fn prior(iss: &str, sub: Option<&str>, iat: i64) -> Option<PriorDid> {
        let kid = format!("{iss}#1");
        Some(PriorDid { iss: iss.into(), sub: sub.map(str::to_owned), iat: Some(iat), kid })
    }

    fn moving(iss: &str, sub: &str) -> Received {
        let mut received = from(sub, EMPTY, json!({}));
        received.provenance.from_prior = prior(iss, Some(sub), NOW / 1000);
        received
    }

    fn ending(iss: &str, iat: i64) -> Received {
        let mut received = anonymous(EMPTY, json!({}));
        received.provenance.from_prior = prior(iss, None, iat);
        received
    }

    async fn rotated(world: &World, received: &Received) -> Rotation {
        let mut turn = world.turn(received);
        let rotation = rotate(received, &mut turn).await.unwrap();
        // As the inbox does it: in one turn.
        meet(received, &mut turn).await.unwrap();
        world.commit(turn);
        rotation
    }

    async fn refused(world: &World, theirs: &str) -> bool {
        let received = from(theirs, EMPTY, json!({}));
        has_moved(&received, &mut world.turn(&received)).await.unwrap()
    }

    #[tokio::test]
    async fn a_peer_moves() {
        let world = World::default();
        let old = Connection { invitation: Some("i".into()), ..Connection::new(OURS, ALICE, 7) };
        world.set(CONNECTION, &Connection::key(OURS, ALICE), &old);
        assert_eq!(rotated(&world, &moving(ALICE, NEW)).await, Rotation::Moved(ALICE.into()));
        let new = Connection { theirs: NEW.into(), previous: vec![ALICE.into()], ..old };
        assert_eq!((of(&world, ALICE), of(&world, NEW)), (None, Some(new.clone())));
        assert!(refused(&world, ALICE).await && !refused(&world, NEW).await);

        // Told again, as the specification has it; and by who stole the old key.
        assert_eq!(rotated(&world, &moving(ALICE, NEW)).await, Rotation::None);
        assert_eq!(rotated(&world, &moving(ALICE, BOB)).await, Rotation::None);
        assert_eq!(of(&world, NEW), Some(new));
        assert_eq!(of(&world, BOB).unwrap().invitation, None);

        assert_eq!(rotated(&world, &moving(NEW, THIRD)).await, Rotation::Moved(NEW.into()));
        assert_eq!(of(&world, THIRD).unwrap().previous, [ALICE, NEW]);
        assert!(refused(&world, ALICE).await && refused(&world, NEW).await);
        // Nor back again.
        assert_eq!(rotated(&world, &moving(THIRD, ALICE)).await, Rotation::None);

        // Another relationship of the old DID goes on.
        let mut elsewhere = from(ALICE, EMPTY, json!({}));
        elsewhere.ours = "did:example:ours2".into();
        assert!(!has_moved(&elsewhere, &mut world.turn(&elsewhere)).await.unwrap());
    }

    #[tokio::test]
    async fn two_records_of_one_peer_become_one() {
        let world = World::default();
        let old = Connection { label: Some("Alice".into()), ..Connection::new(OURS, ALICE, 7) };
        world.set(CONNECTION, &Connection::key(OURS, ALICE), &old);
        met(&world, NEW).await;
        rotated(&world, &moving(ALICE, NEW)).await;
        assert_eq!(of(&world, NEW), Some(Connection { theirs: NEW.into(), previous: vec![ALICE.into()], ..old }));
        assert_eq!(world.count(CONNECTION), 1);
    }

    #[tokio::test]
    async fn who_was_not_met_moves_too() {
        let world = World::default();
        assert_eq!(rotated(&world, &moving(ALICE, NEW)).await, Rotation::Moved(ALICE.into()));
        assert_eq!(of(&world, NEW).unwrap().previous, [ALICE]);
        assert!(refused(&world, ALICE).await);
    }

    #[tokio::test]
    async fn a_from_prior_that_does_not_count_changes_nothing() {
        let world = World::default();
        met(&world, ALICE).await;
        let mut unproved = moving(ALICE, NEW);
        unproved.provenance.warnings.push(Warning::UnauthenticatedFromPrior);
        let mut anonymous = moving(ALICE, NEW);
        anonymous.theirs = None;
        let mut foreign = moving(ALICE, NEW);
        foreign.theirs = Some(BOB.into());
        for received in [unproved, anonymous, foreign] {
            assert_eq!(rotated(&world, &received).await, Rotation::None);
            assert!(!refused(&world, ALICE).await);
        }
    }

    #[tokio::test]
    async fn a_relationship_ends() {
        let world = World::default();
        let now = NOW / 1000;
        for theirs in [NEW, ALICE] {
            met(&world, theirs).await;
        }
        let mut unencrypted = ending(NEW, now);
        unencrypted.provenance.warnings.push(Warning::UnauthenticatedFromPrior);
        let mut timeless = ending(NEW, now);
        timeless.provenance.from_prior.as_mut().unwrap().iat = None;
        let before = ending(NEW, now - 1);
        let ahead = ending(NEW, now + SKEW + 1);
        for received in [unencrypted, timeless, before, ahead, ending(ALICE, now), ending(THIRD, now)] {
            assert_eq!(rotated(&world, &received).await, Rotation::None, "{received:?}");
        }
        assert!(!refused(&world, NEW).await);

        assert_eq!(rotated(&world, &ending(NEW, now)).await, Rotation::Ended(NEW.into()));
        assert_eq!(of(&world, NEW).unwrap().ended, Some(NOW));
        assert!(refused(&world, NEW).await && !refused(&world, ALICE).await);
        assert_eq!(rotated(&world, &ending(NEW, now)).await, Rotation::None);
        assert_eq!(rotated(&world, &moving(NEW, THIRD)).await, Rotation::None);
    }
}
