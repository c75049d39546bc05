//! Acknowledgements (DIDComm v2.1 "ACKs") for messages of any protocol.
//!
//! Two agents cannot acknowledge each other's acknowledgements for ever: a message that only acknowledges gets no
//! acknowledgement even if it requests one, and the acknowledgements of this agent never request one. A forward gets no
//! acknowledgement either.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    connections::is_stranger,
    empty::{EMPTY, is_empty},
    problem::HandleError,
    received::Received,
    record::RecordType,
    text::id_as_key,
    transaction::Transaction,
};
use crate::{
    agent::clock::Millis,
    didcomm::{Forward, Message},
};

/// The most ids that are read of one message's `please_ack` or `ack`.
const MAX_IDS: usize = 32;
/// How long a record of an acknowledgement is kept: as long as an outbox entry's history.
const RETENTION: Millis = 30 * 24 * 60 * 60 * 1000;

/// The record that a peer has acknowledged one of our messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledgement {
    /// When the acknowledgement arrived.
    pub time: Millis,
    /// The id of the peer's message that contains the acknowledgement.
    pub by: String,
}

impl RecordType for Acknowledgement {
    const KIND: &'static str = "acked";
    const ABOUT_SENDER: bool = true;
}

/// Returns the key of the record for a message that we sent. The peer is part of the key, so no peer can acknowledge a
/// message that went to another.
pub fn acknowledgement_key(peer_did: &str, message: &str) -> String {
    format!("{peer_did} {}", id_as_key(message))
}

/// Acknowledges the messages that `please_ack` names: in a reply that the transaction sends already, else in an empty
/// message. Call this after the message's protocol has handled the message.
///
/// # Errors
/// [`HandleError::Retry`] if the store does not answer.
pub async fn answer_ack_request(received: &Received, tx: &mut Transaction<'_>) -> Result<(), HandleError> {
    let sender = received.sender.as_deref().filter(|_| is_ack_request_allowed(&received.message));
    let Some(sender) = sender else { return Ok(()) };
    let ids = ids_to_acknowledge(received, tx).await?;
    if ids.is_empty() {
        return Ok(());
    }
    if let Some(reply) = tx.outgoing_messages().find(|message| is_natural_reply(message, &received.message, sender)) {
        let ack = reply.ack.get_or_insert_default();
        for id in ids {
            if !ack.contains(&id) {
                ack.push(id);
            }
        }
        return Ok(());
    }
    tx.answer(EMPTY, json!({}), |message| message.ack(ids));
    Ok(())
}

/// Records which of our messages the message acknowledges.
///
/// # Errors
/// [`HandleError::Retry`] if the store does not answer.
pub async fn record_acks(received: &Received, tx: &mut Transaction<'_>) -> Result<(), HandleError> {
    let Some(sender) = &received.sender else { return Ok(()) };
    // The application has sent nothing to a stranger that could be acknowledged.
    if received.message.ack.is_none() || is_stranger(received, tx).await? {
        return Ok(());
    }
    for id in received.message.ack.iter().flatten().take(MAX_IDS) {
        let key = acknowledgement_key(sender, id);
        if tx.get::<Acknowledgement>(&key).await?.is_none() {
            let ack = Acknowledgement { time: received.time, by: received.message.id.clone() };
            tx.put(&key, &ack, Some(received.time + RETENTION));
        }
    }
    Ok(())
}

/// Whether the message's request for an acknowledgement may be answered. v2.1 says of forwards "MUST NOT be honored by
/// mediators", and "never honor a pure ACK request that arrives in response to your own ACK request".
fn is_ack_request_allowed(message: &Message) -> bool {
    let only_acks = is_empty(message) && message.ack.is_some();
    Forward::from_message(message).is_none() && !only_acks
}

/// Returns the ids to acknowledge, oldest first: the earlier messages that this sender has sent us, then the message
/// itself, since an answer to its request acknowledges it too.
async fn ids_to_acknowledge(received: &Received, tx: &Transaction<'_>) -> Result<Vec<String>, HandleError> {
    let Some(requested) = received.message.please_ack.as_deref().filter(|ids| !ids.is_empty()) else {
        return Ok(Vec::new());
    };
    let this = &received.message.id;
    let mut earlier: Vec<(i64, &String)> = Vec::new();
    for id in requested.iter().take(MAX_IDS) {
        let is_skipped =
            id.is_empty() || id.eq_ignore_ascii_case(this) || earlier.iter().any(|(_, other)| *other == id);
        if is_skipped {
            continue;
        }
        if let Some(position) = tx.handled_position(id).await? {
            earlier.push((position, id));
        }
    }
    earlier.sort();
    Ok(earlier.into_iter().map(|(_, id)| id).chain([this]).cloned().collect())
}

/// Whether a message of ours replies to the received one: it goes to the sender, in the same thread or a child thread.
fn is_natural_reply(reply: &Message, message: &Message, sender: &str) -> bool {
    let goes_to_sender = reply.to.as_deref() == Some(&[sender.to_owned()][..]);
    let names_thread = |id: &Option<String>| {
        id.as_deref()
            .is_some_and(|id| id.eq_ignore_ascii_case(message.thread()) || id.eq_ignore_ascii_case(&message.id))
    };
    goes_to_sender && (names_thread(&reply.thid) || names_thread(&reply.pthid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        agent::protocol::{
            Protocol,
            connections::Connection,
            testing::{ALICE, BOB, Harness, NOW, OWN_DID, Outcome, anonymous, from, from_with},
            trust_ping::{PING, PING_RESPONSE, TrustPing},
        },
        didcomm::FORWARD,
    };

    const MOVE: &str = "https://didcomm.org/tictactoe/1.0/move";

    fn asking(kind: &str, ids: &[&str]) -> Received {
        let ids = ids.iter().map(|&id| id.to_owned()).collect();
        from_with(ALICE, kind, json!({}), |message| message.please_ack(ids))
    }

    async fn answer(harness: &Harness, received: &Received) -> Outcome {
        let mut tx = harness.begin(received);
        answer_ack_request(received, &mut tx).await.unwrap();
        harness.commit(tx)
    }

    #[tokio::test]
    async fn a_reply_acknowledges() {
        let harness = Harness::default();
        let ping = asking(PING, &[""]);
        let mut tx = harness.begin(&ping);
        TrustPing.handle(&ping, &mut tx).await.unwrap();
        answer_ack_request(&ping, &mut tx).await.unwrap();
        let outcome = harness.commit(tx);
        let [answer] = &outcome.sent[..] else { panic!("{outcome:?}") };
        assert_eq!(answer.type_, PING_RESPONSE);
        assert_eq!(answer.ack.as_deref(), Some(&[ping.message.id.clone()][..]));
    }

    #[tokio::test]
    async fn an_empty_message_acknowledges_if_there_is_no_reply() {
        let harness = Harness::default();
        let received = asking(MOVE, &[""]);
        let outcome = answer(&harness, &received).await;
        let [ack] = &outcome.sent[..] else { panic!("{outcome:?}") };
        assert_eq!((ack.type_.as_str(), ack.body.clone()), (EMPTY, json!({})));
        assert_eq!((ack.from.as_deref(), ack.to.as_deref()), (Some(OWN_DID), Some(&[ALICE.to_owned()][..])));
        assert_eq!(ack.thid.as_deref(), Some(received.message.id.as_str()));
        assert_eq!(ack.ack.as_deref(), Some(&[received.message.id.clone()][..]));
        assert_eq!(ack.please_ack, None);

        // A message to another peer, or in another thread, is no reply.
        let mut tx = harness.begin(&received);
        tx.send(Message::build("1", MOVE, json!({})).from(OWN_DID).to(BOB).thid(&received.message.id).finalize());
        tx.send(Message::build("2", MOVE, json!({})).from(OWN_DID).to(ALICE).finalize());
        answer_ack_request(&received, &mut tx).await.unwrap();
        assert_eq!(harness.commit(tx).sent.len(), 3);
    }

    #[tokio::test]
    async fn only_handled_messages_are_acknowledged() {
        let handled = [(ALICE, "def"), (BOB, "bobs"), (ALICE, "abc")];
        let handled = handled.map(|(peer, id)| (peer.to_owned(), id.to_owned())).to_vec();
        let harness = Harness { handled, ..Default::default() };
        let received = asking(MOVE, &["abc", "never-seen", "bobs", "def", "abc"]);
        let outcome = answer(&harness, &received).await;
        // The ids are in the order of handling.
        assert_eq!(outcome.sent[0].ack, Some(vec!["def".into(), "abc".into(), received.message.id.clone()]));
    }

    #[tokio::test]
    async fn acknowledgements_do_not_answer_each_other() {
        let harness = Harness::default();
        let mut only_acks = asking(EMPTY, &[""]);
        only_acks.message.ack = Some(vec!["1".into()]);
        let mut stranger = anonymous(MOVE, json!({}));
        stranger.message.please_ack = Some(vec![String::new()]);
        for received in [only_acks, stranger, asking(FORWARD, &[""]), asking(MOVE, &[]), from(ALICE, MOVE, json!({}))] {
            assert!(answer(&harness, &received).await.sent.is_empty(), "{received:?}");
        }
        assert_eq!(answer(&harness, &asking(EMPTY, &[""])).await.sent.len(), 1);
    }

    #[tokio::test]
    async fn acknowledgements_of_a_peer_are_recorded() {
        let harness = Harness::default();
        let ack = |peer| from_with(peer, MOVE, json!({}), |message| message.ack(vec!["ABC".into(), "def".into()]));
        let first = ack(ALICE);
        // The application has sent nothing to a stranger.
        let stranger = Connection { stranger: true, ..Connection::new(OWN_DID, ALICE, NOW) };
        for connection in [None, Some(stranger)] {
            if let Some(connection) = connection {
                harness.set(&Connection::key(OWN_DID, ALICE), &connection);
            }
            let mut tx = harness.begin(&first);
            record_acks(&first, &mut tx).await.unwrap();
            assert!(harness.commit(tx).written.is_empty());
        }
        for peer in [ALICE, BOB] {
            harness.set(&Connection::key(OWN_DID, peer), &Connection::new(OWN_DID, peer, NOW));
        }
        for (received, written) in [(&first, 2), (&ack(ALICE), 0), (&ack(BOB), 2)] {
            let mut tx = harness.begin(received);
            record_acks(received, &mut tx).await.unwrap();
            assert_eq!(harness.commit(tx).written.len(), written);
        }
        let acked: Acknowledgement = harness.record(&acknowledgement_key(ALICE, "abc")).unwrap();
        assert_eq!(acked, Acknowledgement { time: NOW, by: first.message.id });

        let many = (0..1000).map(|id| id.to_string()).collect();
        let received = from_with(ALICE, MOVE, json!({}), |message| message.ack(many));
        let mut tx = harness.begin(&received);
        record_acks(&received, &mut tx).await.unwrap();
        assert_eq!(harness.commit(tx).written.len(), MAX_IDS);
    }
}
