//! Acknowledgements (DIDComm v2.1 "ACKs"), of whatever protocol a message is.
//!
//! No circle of them can come about: a forward's request is not honoured, a message that only acknowledges never makes
//! one of ours, and ours never asks for one.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Fault, Received, Turn,
    empty::{EMPTY, is_empty},
    id_key,
};
use crate::{
    agent::store::Millis,
    didcomm::{Forward, Message},
};

/// The kind of the records of what was acknowledged to us.
pub const ACKED: &str = "acked";
/// How many ids of one message's `please_ack` or `ack` are looked at.
const MAX_IDS: usize = 32;
/// How long it is remembered that a message was acknowledged: as long as what is known of a sent message.
const REMEMBERED: Millis = 30 * 24 * 60 * 60 * 1000;

/// That a message of ours was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acked {
    /// When.
    pub time: Millis,
    /// By which message of the peer's.
    pub by: String,
}

/// The key of the record for a message that we sent. The peer is part of it: nobody acknowledges another's messages.
pub fn acked_key(theirs: &str, message: &str) -> String {
    format!("{theirs} {}", id_key(message))
}

/// Acknowledges what the message asks to have acknowledged: in a reply that this turn sends already, else by an empty
/// message. To be called once its protocol has handled it.
///
/// # Errors
/// [`Fault::Later`] if the store does not answer.
pub async fn honour(received: &Received, turn: &mut Turn<'_>) -> Result<(), Fault> {
    let Some(theirs) = received.theirs.as_deref().filter(|_| may_ask(&received.message)) else { return Ok(()) };
    let ids = asked_for(received, turn).await?;
    if ids.is_empty() {
        return Ok(());
    }
    if let Some(reply) = turn.sends().find(|message| answers(message, &received.message, theirs)) {
        let ack = reply.ack.get_or_insert_default();
        for id in ids {
            if !ack.contains(&id) {
                ack.push(id);
            }
        }
        return Ok(());
    }
    turn.answer(EMPTY, json!({}), |message| message.ack(ids));
    Ok(())
}

/// Remembers which of our messages the message acknowledges.
///
/// # Errors
/// [`Fault::Later`] if the store does not answer.
pub async fn note(received: &Received, turn: &mut Turn<'_>) -> Result<(), Fault> {
    let Some(theirs) = &received.theirs else { return Ok(()) };
    for id in received.message.ack.iter().flatten().take(MAX_IDS) {
        let key = acked_key(theirs, id);
        if turn.get::<Acked>(ACKED, &key).await?.is_none() {
            let acked = Acked { time: received.time, by: received.message.id.clone() };
            turn.put(ACKED, &key, &acked, Some(received.time + REMEMBERED));
        }
    }
    Ok(())
}

/// "MUST NOT be honored by mediators" for forwards; "never honor a pure ACK request that arrives in response to your own
/// ACK request".
fn may_ask(message: &Message) -> bool {
    let only_acks = is_empty(message) && message.ack.is_some();
    Forward::from_message(message).is_none() && !only_acks
}

/// What is to be acknowledged, oldest first: earlier messages that we had from this sender, then this one, for whoever
/// honours the request acknowledges it too.
async fn asked_for(received: &Received, turn: &Turn<'_>) -> Result<Vec<String>, Fault> {
    let Some(asked) = received.message.please_ack.as_deref().filter(|ids| !ids.is_empty()) else {
        return Ok(Vec::new());
    };
    let this = &received.message.id;
    let mut earlier: Vec<(i64, &String)> = Vec::new();
    for id in asked.iter().take(MAX_IDS) {
        let known = id.is_empty() || id.eq_ignore_ascii_case(this) || earlier.iter().any(|(_, other)| *other == id);
        if known {
            continue;
        }
        if let Some(place) = turn.handled(id).await? {
            earlier.push((place, id));
        }
    }
    earlier.sort();
    Ok(earlier.into_iter().map(|(_, id)| id).chain([this]).cloned().collect())
}

/// Whether a message of ours is the natural answer: to the sender, in the thread or grown out of it.
fn answers(reply: &Message, message: &Message, theirs: &str) -> bool {
    let to_sender = reply.to.as_deref() == Some(&[theirs.to_owned()][..]);
    let in_thread = |id: &Option<String>| {
        id.as_deref()
            .is_some_and(|id| id.eq_ignore_ascii_case(message.thread()) || id.eq_ignore_ascii_case(&message.id))
    };
    to_sender && (in_thread(&reply.thid) || in_thread(&reply.pthid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        agent::protocol::{
            Protocol,
            testing::{ALICE, BOB, NOW, OURS, Outcome, World, anonymous, from, from_with},
            trust_ping::{PING, PING_RESPONSE, TrustPing},
        },
        didcomm::FORWARD,
    };

    const MOVE: &str = "https://didcomm.org/tictactoe/1.0/move";

    fn asking(kind: &str, ids: &[&str]) -> Received {
        let ids = ids.iter().map(|&id| id.to_owned()).collect();
        from_with(ALICE, kind, json!({}), |message| message.please_ack(ids))
    }

    async fn honoured(world: &World, received: &Received) -> Outcome {
        let mut turn = world.turn(received);
        honour(received, &mut turn).await.unwrap();
        world.commit(turn)
    }

    #[tokio::test]
    async fn the_natural_answer_acknowledges() {
        let world = World::default();
        let ping = asking(PING, &[""]);
        let mut turn = world.turn(&ping);
        TrustPing.handle(&ping, &mut turn).await.unwrap();
        honour(&ping, &mut turn).await.unwrap();
        let outcome = world.commit(turn);
        let [answer] = &outcome.sent[..] else { panic!("{outcome:?}") };
        assert_eq!(answer.type_, PING_RESPONSE);
        assert_eq!(answer.ack.as_deref(), Some(&[ping.message.id.clone()][..]));
    }

    #[tokio::test]
    async fn an_empty_message_acknowledges_where_there_is_no_answer() {
        let world = World::default();
        let received = asking(MOVE, &[""]);
        let outcome = honoured(&world, &received).await;
        let [ack] = &outcome.sent[..] else { panic!("{outcome:?}") };
        assert_eq!((ack.type_.as_str(), ack.body.clone()), (EMPTY, json!({})));
        assert_eq!((ack.from.as_deref(), ack.to.as_deref()), (Some(OURS), Some(&[ALICE.to_owned()][..])));
        assert_eq!(ack.thid.as_deref(), Some(received.message.id.as_str()));
        assert_eq!(ack.ack.as_deref(), Some(&[received.message.id.clone()][..]));
        assert_eq!(ack.please_ack, None);

        // A message to somebody else, or of another thread, is no answer.
        let mut turn = world.turn(&received);
        turn.send(Message::build("1", MOVE, json!({})).from(OURS).to(BOB).thid(&received.message.id).finalize());
        turn.send(Message::build("2", MOVE, json!({})).from(OURS).to(ALICE).finalize());
        honour(&received, &mut turn).await.unwrap();
        assert_eq!(world.commit(turn).sent.len(), 3);
    }

    #[tokio::test]
    async fn only_what_was_handled_is_acknowledged() {
        let handled = [(ALICE, "def"), (BOB, "bobs"), (ALICE, "abc")];
        let handled = handled.map(|(peer, id)| (peer.to_owned(), id.to_owned())).to_vec();
        let world = World { handled, ..Default::default() };
        let received = asking(MOVE, &["abc", "never-seen", "bobs", "def", "abc"]);
        let outcome = honoured(&world, &received).await;
        // In the order in which they came.
        assert_eq!(outcome.sent[0].ack, Some(vec!["def".into(), "abc".into(), received.message.id.clone()]));
    }

    #[tokio::test]
    async fn there_is_no_circle() {
        let world = World::default();
        let mut only_acks = asking(EMPTY, &[""]);
        only_acks.message.ack = Some(vec!["1".into()]);
        let mut stranger = anonymous(MOVE, json!({}));
        stranger.message.please_ack = Some(vec![String::new()]);
        for received in [only_acks, stranger, asking(FORWARD, &[""]), asking(MOVE, &[]), from(ALICE, MOVE, json!({}))] {
            assert!(honoured(&world, &received).await.sent.is_empty(), "{received:?}");
        }
        assert_eq!(honoured(&world, &asking(EMPTY, &[""])).await.sent.len(), 1);
    }

    #[tokio::test]
    async fn what_is_acknowledged_to_us_is_remembered() {
        let world = World::default();
        let ack = |peer| from_with(peer, MOVE, json!({}), |message| message.ack(vec!["ABC".into(), "def".into()]));
        let first = ack(ALICE);
        for (received, written) in [(&first, 2), (&ack(ALICE), 0), (&ack(BOB), 2)] {
            let mut turn = world.turn(received);
            note(received, &mut turn).await.unwrap();
            assert_eq!(world.commit(turn).written.len(), written);
        }
        let acked: Acked = world.record(ACKED, &acked_key(ALICE, "abc")).unwrap();
        assert_eq!(acked, Acked { time: NOW, by: first.message.id });

        let many = (0..1000).map(|id| id.to_string()).collect();
        let received = from_with(ALICE, MOVE, json!({}), |message| message.ack(many));
        let mut turn = world.turn(&received);
        note(&received, &mut turn).await.unwrap();
        assert_eq!(world.commit(turn).written.len(), MAX_IDS);
    }
}
