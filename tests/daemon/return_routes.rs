//! Who may open a return route: the sender of a message, with a message that is handled for the first time. Copies of her
//! envelopes open none, whoever sends them and however they are written.

use std::time::Duration;

use serde_json::Value;

use crate::{
    api_client::SETTLE_TIME,
    daemon::Daemon,
    endpoint::Endpoint,
    peer::{AGREE, Peer, keys_of},
    support::forge::Jwe,
    websocket_client::WebSocketClient,
};

/// A message of the peer that asks for a return route, as text.
pub fn asking(peer: &Peer, daemon: &Daemon, content: &str) -> String {
    let mut message = peer.message(&daemon.did, content).finalize();
    message.return_route = Some("all".to_owned());
    serde_json::to_string(&message).unwrap()
}

/// The same envelope with one blank more.
fn with_a_blank(packed: &str) -> String {
    packed.replacen('{', "{ ", 1)
}

/// Sends these envelopes over a WebSocket and by POST, and asserts that nothing comes back, although a message for the
/// peer waits or is sent meanwhile.
#[track_caller]
pub fn get_nothing_back(daemon: &Daemon, peer: &Peer, packed: &[String]) {
    let id = daemon.send_text(peer.did(), "a secret").unwrap();
    for packed in packed {
        let mut socket = WebSocketClient::open(daemon.port);
        socket.send(packed).unwrap();
        socket.pong().unwrap();
        let response = daemon.post(packed.as_bytes());
        assert!(response.starts_with("HTTP/1.1 202"), "{response}");
        daemon.wait_until_all_opened();
        let late = daemon.send_text(peer.did(), "another secret").unwrap();
        assert_eq!(socket.next(SETTLE_TIME), None, "a copy got a message of hers");
        for id in [&id, &late] {
            assert_ne!(daemon.outbox_message(id)["state"], "sent", "a copy got a message of hers");
        }
    }
}

/// The peer's own message still opens a route, and the peer gets everything that waited.
#[track_caller]
pub fn gets_all(daemon: &Daemon, peer: &Peer, count: usize) {
    let mut socket = WebSocketClient::open(daemon.port);
    let message = serde_json::from_str(&asking(peer, daemon, "it is me")).unwrap();
    socket.send(&peer.pack(&message)).unwrap();
    let mut arrived = 0;
    daemon.wait_until("the waiting messages arrived", |_| {
        arrived += usize::from(socket.next(Duration::from_secs(1)).is_some());
        arrived == count
    });
}

/// Whoever got a message that she signed can encrypt it to us. It is refused, and is no message of hers.
#[test]
fn what_she_signed_and_another_encrypted_opens_no_return_route() {
    let Some(daemon) = Daemon::running("") else { return };
    let (alice, mallory) = (Peer::new("alice"), Peer::new("mallory"));
    let mut text = alice.plaintext(mallory.did(), "for Mallory");
    text["return_route"] = "all".into();
    let for_mallory = alice.signed(&text.to_string()).to_string();
    let for_us = alice.signed(&asking(&alice, &daemon, "signed")).to_string();
    let keys = daemon.agreement_keys();
    let envelopes = [
        mallory.authcrypt(&keys).seal(&for_mallory),
        mallory.authcrypt(&keys).seal(&for_us),
        Jwe::anoncrypt(&keys).seal(&for_mallory),
    ];
    get_nothing_back(&daemon, &alice, &envelopes.map(|envelope| envelope.to_string()));
}

#[test]
fn a_copy_of_an_envelope_opens_no_return_route() {
    let Some(mut daemon) = Daemon::running("") else { return };
    let alice = Peer::new("alice");
    let message = serde_json::from_str(&asking(&alice, &daemon, "hello")).unwrap();
    let packed = alice.pack(&message);
    assert_eq!(daemon.post_status(&packed), 202);
    daemon.wait_until_all_opened();
    // Anyone can write the envelope in another way, or put it into an envelope of their own.
    let mut reordered: Value = serde_json::from_str(&packed).unwrap();
    reordered["recipients"].as_array_mut().unwrap().reverse();
    let wrapped = Jwe::anoncrypt(&daemon.agreement_keys()[..1]).seal(&packed).to_string();
    let copies = [packed.clone(), with_a_blank(&packed), reordered.to_string(), wrapped];
    get_nothing_back(&daemon, &alice, &copies);
    // The marks of handled messages outlive a restart.
    daemon.kill();
    daemon.start();
    let wrapped = Jwe::anoncrypt(&daemon.agreement_keys()[..1]).seal(&packed).to_string();
    get_nothing_back(&daemon, &alice, &[with_a_blank(&with_a_blank(&packed)), wrapped]);
    gets_all(&daemon, &alice, 8);
    assert_eq!(daemon.unread_texts(), ["hello", "it is me"]);
}

/// With an endpoint, her messages go there.
#[test]
fn a_copy_does_not_divert_messages_from_an_endpoint() {
    let Some(daemon) = Daemon::running("") else { return };
    let endpoint = Endpoint::accepting();
    let alice = Peer::with_endpoint("alice", &endpoint.uri());
    let message = serde_json::from_str(&asking(&alice, &daemon, "hello")).unwrap();
    let packed = alice.pack(&message);
    assert_eq!(daemon.post_status(&packed), 202);
    daemon.wait_until_all_opened();
    let mut socket = WebSocketClient::open(daemon.port);
    socket.send(&with_a_blank(&packed)).unwrap();
    socket.send(&Jwe::anoncrypt(&daemon.agreement_keys()[..1]).seal(&packed).to_string()).unwrap();
    socket.pong().unwrap();
    daemon.wait_until_all_opened();
    daemon.send_text(alice.did(), "a secret").unwrap();
    daemon.wait_until("the message is at her endpoint", |_| endpoint.messages().len() == 1);
    assert_eq!(socket.next(SETTLE_TIME), None);
}

/// Another recipient has the whole envelope, and could deliver it first. So an envelope for several opens no route, and a
/// signature in an envelope of anybody's neither.
#[test]
fn what_another_can_deliver_first_opens_no_return_route() {
    let Some(daemon) = Daemon::running("") else { return };
    let (alice, carol) = (Peer::new("alice"), Peer::new("carol"));
    let of_carol = (carol.kid(AGREE[0]), keys_of(carol.did())[0].1.clone());
    let to_both = [daemon.agreement_keys()[0].clone(), of_carol];
    let mut text: Value = serde_json::from_str(&asking(&alice, &daemon, "to both")).unwrap();
    text["to"] = vec![daemon.did.as_str(), carol.did()].into();
    let authcrypt = Jwe::authcrypt_as(&alice.person, &alice.kid(AGREE[0]), &alice.person.agree[0], &to_both);
    let shared = authcrypt.seal(text.to_string()).to_string();
    let signed = alice.signed(&asking(&alice, &daemon, "signed"));
    let signed = Jwe::anoncrypt(&daemon.agreement_keys()[..1]).seal(signed.to_string()).to_string();
    get_nothing_back(&daemon, &alice, &[shared, signed]);
    assert_eq!(daemon.unread_texts(), ["to both", "signed"]);
    gets_all(&daemon, &alice, 3);
}

/// The response to a ping must not always go before a message that already waits: an HTTP response holds one message.
#[test]
fn a_peer_that_asks_with_pings_gets_what_waits() {
    let Some(daemon) = Daemon::running("") else { return };
    let alice = Peer::new("alice");
    let id = daemon.send_text(alice.did(), "one").unwrap();
    daemon.wait_until("the message was tried", |daemon| daemon.outbox_message(&id)["problem"].is_string());
    daemon.send_text(alice.did(), "two").unwrap();
    let mut texts = Vec::new();
    daemon.wait_until("the messages arrived", |daemon| {
        let mut ping = alice.message(&daemon.did, "").finalize();
        ping.type_ = "https://didcomm.org/trust-ping/2.0/ping".to_owned();
        ping.return_route = Some("all".to_owned());
        let response = daemon.post(alice.pack(&ping).as_bytes());
        let body = response.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        if body.starts_with('{') {
            texts.extend(alice.open(body).0.body["content"].as_str().map(str::to_owned));
        }
        texts.len() == 2
    });
    texts.sort();
    assert_eq!(texts, ["one", "two"]);
}

/// A copy is answered at once: nothing waits for a reply that does not come.
#[test]
fn a_copy_gets_its_answer_at_once() {
    let Some(mut daemon) =
        Daemon::with_config("return_route_seconds = 300\n[net]\nallow_private = [\"127.0.0.0/8\"]", "")
    else {
        return;
    };
    daemon.start();
    let alice = Peer::new("alice");
    let message = serde_json::from_str(&asking(&alice, &daemon, "hello")).unwrap();
    // Each copy is encrypted anew. The answers come before the socket's read times out.
    for _ in 0..3 {
        assert_eq!(daemon.post_status(alice.pack(&message)), 202);
    }
    assert_eq!(daemon.unread_texts(), ["hello"]);
}
