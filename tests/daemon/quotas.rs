//! Limits for what one sender, one recipient and all senders may leave with a daemon
//! (`docs/security-model.md`, "a full queue").

use claviger::{
    agent::protocol::{report_message::PROBLEM_REPORT, trust_ping::PING},
    did::LocalResolver,
    didcomm::Message,
};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::{
    api_client::{ApiClient, SAY},
    daemon::{Daemon, TIMEOUT},
    peer::{AGREE, Peer, block_on, seconds},
    support::forge::Jwe,
    websocket_client::WebSocketClient,
};

/// A daemon with these members in `[store]`.
fn running(store: &str) -> Option<Daemon> {
    Daemon::running(&format!("[store]\n{store}\n"))
}

/// Posts a message and waits until it is opened, so that it counts.
fn deliver(daemon: &Daemon, packed: &str) {
    assert_eq!(daemon.post_status(packed), 202);
    daemon.wait_until_all_opened();
}

fn is_refused(daemon: &Daemon, packed: &str) -> bool {
    let answer = daemon.post(packed.as_bytes());
    answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: ")
}

/// Acknowledges all messages but the first `all_but`.
fn acknowledge(daemon: &Daemon, all_but: usize) {
    let ids: Vec<Value> = daemon.unread().into_iter().skip(all_but).map(|it| it["id"].clone()).collect();
    let answer = ApiClient::new(daemon).post("/v1/inbox/acknowledge", &json!({ "ids": ids })).json(200);
    assert_eq!(answer["acknowledged"], ids.len());
}

/// Packs with a second layer, so that the envelope does not name the sender.
fn pack_with_hidden_sender(peer: &Peer, to: &str, message: &Message) -> String {
    let packing = message.encrypt_to(to).from(peer.did()).forward(false).protect_sender(true);
    block_on(packing.pack(&LocalResolver::new(), &peer.person.identities)).expect("the message is packed").0
}

#[test]
fn unread_messages_per_sender_are_limited() {
    let Some(daemon) = running("max_unread_from = 5") else { return };
    let (flooding, honest) = (Peer::new("flooding"), Peer::new("honest"));
    // Messages under another's name do not count against the owner of the name.
    for number in 0..8 {
        let message = honest.plaintext(&daemon.did, &number.to_string()).to_string();
        let agree = &flooding.person.agree[0];
        let forged =
            Jwe::authcrypt_as(&flooding.person, &honest.kid(AGREE[0]), agree, &daemon.agreement_keys()).seal(&message);
        deliver(&daemon, &forged.to_string());
    }
    assert!(daemon.unread_texts().is_empty());
    for number in 0..5 {
        deliver(&daemon, &flooding.pack_text(&daemon.did, &number.to_string()));
    }
    let more = flooding.pack_text(&daemon.did, "more");
    assert!(is_refused(&daemon, &more));
    let mut socket = WebSocketClient::open(daemon.port);
    socket.send(&more).unwrap();
    assert_eq!(socket.close_code(), Some(CloseCode::Again));
    deliver(&daemon, &honest.pack_text(&daemon.did, "lunch?"));
    assert_eq!(daemon.unread_texts(), ["0", "1", "2", "3", "4", "lunch?"]);
    // The metrics count the refused messages. Once some messages are acknowledged, the refused message is accepted.
    assert!(daemon.metric("claviger_messages_received_total{result=\"not-kept\"}") >= 2.0);
    acknowledge(&daemon, 4);
    assert_eq!(daemon.metric("claviger_waiting{queue=\"application\"}"), 4.0);
    deliver(&daemon, &more);
    assert!(is_refused(&daemon, &flooding.pack_text(&daemon.did, "and more")));
    assert_eq!(daemon.unread_texts(), ["0", "1", "2", "3", "more"]);
}

#[test]
fn unread_bytes_per_sender_are_limited() {
    let Some(daemon) = running("max_unread_bytes_from = 100_000") else { return };
    let (flooding, honest) = (Peer::new("flooding"), Peer::new("honest"));
    let big = "x".repeat(60_000);
    for _ in 0..2 {
        deliver(&daemon, &flooding.pack_text(&daemon.did, &big));
    }
    assert!(is_refused(&daemon, &flooding.pack_text(&daemon.did, "small")));
    deliver(&daemon, &honest.pack_text(&daemon.did, "lunch?"));
    acknowledge(&daemon, 1);
    deliver(&daemon, &flooding.pack_text(&daemon.did, "small"));
}

/// The sender is known only when its message is opened. A message over the limit is then answered with a
/// problem report.
#[test]
fn a_hidden_sender_over_its_limit_gets_a_problem_report() {
    let Some(daemon) = running("max_unread_from = 3") else { return };
    let peer = Peer::new("hidden");
    let say = |content: &str| {
        let mut message = peer.message(&daemon.did, content).finalize();
        message.return_route = Some("all".to_owned());
        message
    };
    for number in 0..3 {
        deliver(&daemon, &pack_with_hidden_sender(&peer, &daemon.did, &say(&number.to_string())));
    }
    let more = say("more");
    let mut socket = WebSocketClient::open(daemon.port);
    socket.send(&pack_with_hidden_sender(&peer, &daemon.did, &more)).unwrap();
    let report = peer.open(&socket.next(TIMEOUT).expect("a report")).0;
    assert_eq!((report.type_.as_str(), report.body["code"].as_str()), (PROBLEM_REPORT, Some("e.m.me.res.storage")));
    assert_eq!(report.pthid, Some(more.id));
    assert_eq!(daemon.unread_texts(), ["0", "1", "2"]);
    // Messages that are not for the application are answered still.
    let mut ping = say("");
    (ping.type_, ping.body) = (PING.to_owned(), json!({"response_requested": true}));
    socket.send(&pack_with_hidden_sender(&peer, &daemon.did, &ping)).unwrap();
    assert_eq!(peer.open(&socket.next(TIMEOUT).expect("a pong")).0.thid, Some(ping.id));
    acknowledge(&daemon, 0);
    deliver(&daemon, &pack_with_hidden_sender(&peer, &daemon.did, &say("again")));
    assert_eq!(daemon.unread_texts(), ["again"]);
}

/// Nobody can be told that there is no room for a message without a sender, so an accepted one waits.
#[test]
fn anonymous_messages_wait_for_room() {
    let Some(daemon) = running("max_unread_from = 1") else { return };
    let anonymous = |content: &str| {
        let message = Message::build(Message::new_id(), SAY, json!({"content": content})).to(&daemon.did);
        let message = message.created_time(seconds()).finalize();
        Jwe::anoncrypt(&daemon.agreement_keys()).seal(message.to_json()).to_string()
    };
    deliver(&daemon, &anonymous("first"));
    assert_eq!(daemon.post_status(anonymous("second")), 202);
    daemon.wait_until("the message waits for room", |daemon| daemon.log().contains("no room for unread messages"));
    assert_eq!(daemon.unread_texts(), ["first"]);
    acknowledge(&daemon, 0);
    daemon.wait_until("there is room", |daemon| daemon.unread_texts() == ["second"]);
}

/// Replies that a peer does not fetch are dropped beyond a limit.
#[test]
fn waiting_replies_per_peer_are_limited() {
    let Some(daemon) = running("max_replies_to = 3") else { return };
    let (flooding, honest) = (Peer::new("flooding"), Peer::new("honest"));
    let ping = |peer: &Peer, route: Option<&str>| {
        let mut ping = peer.message(&daemon.did, "").finalize();
        (ping.type_, ping.body) = (PING.to_owned(), json!({"response_requested": true}));
        ping.return_route = route.map(str::to_owned);
        peer.pack(&ping)
    };
    for _ in 0..10 {
        deliver(&daemon, &ping(&flooding, None));
    }
    assert_eq!(daemon.metric("claviger_waiting{queue=\"outbox\"}"), 3.0);
    assert_eq!(daemon.metric("claviger_replies_dropped_total"), 7.0);
    assert!(daemon.post(ping(&honest, Some("all")).as_bytes()).starts_with("HTTP/1.1 200"));
    // The application's messages are queued regardless. Once all are sent, there are replies again.
    let said = daemon.send_text(flooding.did(), "are you there?").unwrap();
    let mut socket = WebSocketClient::open(daemon.port);
    socket.send(&ping(&flooding, Some("all"))).unwrap();
    for _ in 0..4 {
        flooding.open(&socket.next(TIMEOUT).expect("a waiting message"));
    }
    daemon.wait_until("the message is sent", |daemon| daemon.outbox_message(&said)["state"] == "sent");
    socket.send(&ping(&flooding, None)).unwrap();
    flooding.open(&socket.next(TIMEOUT).expect("a pong"));
}

/// Without the token nobody can prove to be a sender, so the limit is for each of our DIDs. Strangers may use half of it,
/// and peers to whom the application has written all of it.
#[test]
fn waiting_messages_per_recipient_are_limited() {
    let Some(mut daemon) = Daemon::new("[store]\nmax_waiting_for = 10\nknown_peer_percent = 50\n") else { return };
    let other = daemon.home.create_did(&format!("--method peer:2 --service http://127.0.0.1:{}", daemon.port));
    let (flooding, honest, known) = (Peer::new("flooding"), Peer::new("honest"), Peer::new("known"));
    daemon.start();
    daemon.send_text(known.did(), "are you there?").unwrap();
    daemon.stop();
    daemon.disconnect_token();
    daemon.start_without_token();
    for number in 0..5 {
        assert_eq!(daemon.post_status(flooding.pack_text(&daemon.did, &number.to_string())), 202);
    }
    assert!(is_refused(&daemon, &flooding.pack_text(&daemon.did, "more")));
    assert!(is_refused(&daemon, &honest.pack_text(&daemon.did, "lunch?")));
    assert_eq!(daemon.post_status(honest.pack_text(&other, "lunch?")), 202);
    for number in 5..10 {
        assert_eq!(daemon.post_status(known.pack_text(&daemon.did, &number.to_string())), 202);
    }
    assert!(is_refused(&daemon, &known.pack_text(&daemon.did, "more")));
    daemon.reconnect_token();
    daemon.wait_until("all messages are opened", |daemon| daemon.unread_texts().len() == 11);
    deliver(&daemon, &honest.pack_text(&daemon.did, "lunch!"));
}

/// The application reads nothing: the daemon refuses messages over the limit, until some are acknowledged.
#[test]
fn unread_bytes_of_all_senders_are_limited() {
    let Some(daemon) = running("max_unread_bytes_of_strangers = 100_000") else { return };
    let big = "x".repeat(60_000);
    for name in ["one", "two"] {
        deliver(&daemon, &Peer::new(name).pack_text(&daemon.did, &big));
    }
    assert!(daemon.metric("claviger_unread_bytes") > 120_000.0);
    let three = Peer::new("three");
    assert!(is_refused(&daemon, &three.pack_text(&daemon.did, "small")));
    assert!(daemon.is_live());
    acknowledge(&daemon, 1);
    deliver(&daemon, &three.pack_text(&daemon.did, "small"));
}
