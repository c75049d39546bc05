//! How many operations a message between two identities costs their tokens, through `didcomm`.

use claviger::{
    did::{Document, LocalResolver},
    didcomm::{Identities, Message, UnpackOptions},
};
use claviger_testkit::{Counts, SoftToken, identity_in};

struct Person {
    token: SoftToken,
    document: Document,
    me: Identities,
}

impl Person {
    async fn new(name: &str) -> Self {
        let token = SoftToken::new(name).keeping_zs(16);
        let (document, me) = identity_in(&token).await;
        Self { token, document, me }
    }
}

/// The operations of both tokens for sending and receiving one message.
async fn send(from: &Person, to: &Person, anonymously: bool) -> (Counts, Counts) {
    let (sent_before, received_before) = (from.token.counts(), to.token.counts());
    let resolver = LocalResolver::new();
    let body = serde_json::json!({"at": "noon"});
    let message = Message::build(Message::new_id(), "https://example.org/lunch/1.0/proposal", body)
        .from(from.document.id())
        .to(to.document.id())
        .finalize();
    let packing = message.encrypt_to(to.document.id());
    let packing = if anonymously { packing } else { packing.from(from.document.id()) };
    let (packed, _) = packing.pack(&resolver, &from.me).await.expect("a packed message");
    let (read, provenance) =
        Message::unpack(&packed, &resolver, &to.me, &UnpackOptions::default()).await.expect("a message");
    assert_eq!(read.id, message.id);
    assert_eq!(provenance.authenticated, !anonymously);
    (from.token.counts() - sent_before, to.token.counts() - received_before)
}

#[tokio::test]
async fn a_known_peer_costs_nothing_to_send_and_one_derivation_to_receive() {
    let (alice, bob) = (Person::new("alice").await, Person::new("bob").await);
    let derivations = |(sent, received): (Counts, Counts)| (sent.derivations, received.derivations);
    assert_eq!(derivations(send(&alice, &bob, false).await), (1, 2), "strangers");
    assert_eq!(derivations(send(&alice, &bob, false).await), (0, 1), "known to each other");
    assert_eq!(derivations(send(&bob, &alice, false).await), (0, 1), "in both directions");
    assert_eq!(derivations(send(&alice, &bob, true).await), (0, 1), "anoncrypt does not use the sender's token");
}

#[tokio::test]
async fn a_message_is_one_operation_of_each_token() {
    let (alice, bob) = (Person::new("alice").await, Person::new("bob").await);
    let (sent, received) = send(&alice, &bob, false).await;
    assert_eq!((sent.wraps, sent.unwraps, sent.signatures), (1, 0, 0));
    assert_eq!((received.wraps, received.unwraps, received.signatures), (0, 1, 0));
}
