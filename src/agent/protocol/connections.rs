//! Connections (DIDComm v2.1 "Connections"): who writes to which DID of ours.

use serde::{Deserialize, Serialize};

use super::{Fault, Received, Turn, start_of};
use crate::{agent::store::Millis, did::peer::short_form};

pub use super::rotation::{MOVED, Moved, Rotation, has_moved, rotate};

/// The kind of the records of connections.
pub const CONNECTION: &str = "connection";
/// How many languages are remembered, and how long a tag may be (RFC 5646 section 4.4.1).
const MAX_LANGS: usize = 16;
const MAX_LANG: usize = 35;

/// A relationship of one DID of ours with one of somebody else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Our DID.
    pub ours: String,
    /// The peer's; of a did:peer:4 the short form.
    pub theirs: String,
    /// Since when.
    pub since: Millis,
    /// The invitation that it came of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invitation: Option<String>,
    /// What we call the peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The languages that the peer reads, best first: a default for threads to come (v2.1 "accept-lang header").
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept_lang: Option<Vec<String>>,
    /// When the peer ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Millis>,
    /// The peer's earlier DIDs, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub previous: Vec<String>,
    /// Our own change of DID: a JWT that goes with each message, until the peer has written to the new DID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_prior: Option<String>,
}

impl Connection {
    /// One that begins now.
    pub fn new(ours: &str, theirs: &str, since: Millis) -> Self {
        Self {
            ours: ours.to_owned(),
            theirs: short(theirs).to_owned(),
            since,
            invitation: None,
            label: None,
            accept_lang: None,
            ended: None,
            previous: Vec::new(),
            from_prior: None,
        }
    }

    /// The key of its record.
    pub fn key(ours: &str, theirs: &str) -> String {
        format!("{ours} {}", short(theirs))
    }

    /// Writes it.
    pub(super) fn put(&self, turn: &mut Turn<'_>) {
        turn.put(CONNECTION, &Self::key(&self.ours, &self.theirs), self, None);
    }
}

/// The connection of a message's sender with the DID that it wrote to.
///
/// # Errors
/// [`Fault::Later`] if the store does not answer.
pub async fn connection(received: &Received, turn: &mut Turn<'_>) -> Result<Option<Connection>, Fault> {
    let Some(theirs) = &received.theirs else { return Ok(None) };
    turn.get(CONNECTION, &Connection::key(&received.ours, theirs)).await
}

/// Remembers who has sent a message, when it is the first, and what its headers tell about the peer. Nothing is written
/// when there is nothing new.
///
/// # Errors
/// [`Fault::Later`] if the store does not answer.
pub async fn meet(received: &Received, turn: &mut Turn<'_>) -> Result<(), Fault> {
    let Some(theirs) = &received.theirs else { return Ok(()) };
    let known = connection(received, turn).await?;
    let mut now = known.clone().unwrap_or_else(|| Connection::new(&received.ours, theirs, received.time));
    if let Some(langs) = &received.message.accept_lang {
        let langs = langs.iter().take(MAX_LANGS).map(|lang| start_of(lang, MAX_LANG).to_owned());
        now.accept_lang = Some(langs.collect());
    }
    // "The from_prior attribute MUST be included in messages sent until the party rotating receives a message sent to the
    // new DID": this is one.
    now.from_prior = None;
    if known.as_ref() != Some(&now) {
        now.put(turn);
    }
    Ok(())
}

/// A DID; of a did:peer:4 its short form.
pub(super) fn short(did: &str) -> &str {
    short_form(did).unwrap_or(did)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::agent::protocol::{
        empty::EMPTY,
        testing::{ALICE, NOW, OURS, Outcome, World, anonymous, from, from_with},
    };

    fn of(world: &World, theirs: &str) -> Option<Connection> {
        world.record(CONNECTION, &Connection::key(OURS, theirs))
    }

    async fn met(world: &World, received: &Received) -> Outcome {
        let mut turn = world.turn(received);
        meet(received, &mut turn).await.unwrap();
        world.commit(turn)
    }

    #[tokio::test]
    async fn a_peer_is_met_once() {
        let world = World::default();
        assert_eq!(met(&world, &from(ALICE, EMPTY, json!({}))).await.written, [CONNECTION]);
        assert_eq!(of(&world, ALICE), Some(Connection::new(OURS, ALICE, NOW)));
        assert!(met(&world, &from(ALICE, EMPTY, json!({}))).await.written.is_empty());
        assert!(met(&world, &anonymous(EMPTY, json!({}))).await.written.is_empty());
    }

    #[tokio::test]
    async fn the_languages_are_remembered_when_they_change() {
        let world = World::default();
        let speaking = |langs: &[&str]| {
            let langs = langs.iter().map(|&lang| lang.to_owned()).collect();
            from_with(ALICE, EMPTY, json!({}), |message| message.accept_lang(langs))
        };
        met(&world, &speaking(&["fr", "en"])).await;
        assert!(met(&world, &speaking(&["fr", "en"])).await.written.is_empty());
        assert!(met(&world, &from(ALICE, EMPTY, json!({}))).await.written.is_empty());
        assert_eq!(met(&world, &speaking(&["de"])).await.written.len(), 1);
        assert_eq!(of(&world, ALICE).unwrap().accept_lang, Some(vec!["de".to_owned()]));
        let long = "x".repeat(1000);
        met(&world, &speaking(&vec![long.as_str(); 1000])).await;
        assert_eq!(of(&world, ALICE).unwrap().accept_lang, Some(vec!["x".repeat(MAX_LANG); MAX_LANGS]));
    }

    #[tokio::test]
    async fn our_own_rotation_is_told_until_it_is_known() {
        let world = World::default();
        let told = Connection { from_prior: Some("jwt".into()), ..Connection::new(OURS, ALICE, 1) };
        world.set(CONNECTION, &Connection::key(OURS, ALICE), &told);
        met(&world, &from(ALICE, EMPTY, json!({}))).await;
        assert_eq!(of(&world, ALICE), Some(Connection::new(OURS, ALICE, 1)));
    }
}
