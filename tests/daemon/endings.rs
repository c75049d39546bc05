//! Connections that end, that are resumed and deleted, and peers that are blocked.

use std::net::TcpListener;

use claviger::{
    did::{LocalResolver, short_name},
    secrets::FromPriorClaims,
};
use serde_json::{Value, json};

use crate::{
    api_client::{ApiClient, SETTLE_TIME},
    daemon::{Daemon, free_port},
    endpoint::{Endpoint, accepted},
    peer::{Peer, block_on, seconds},
};

const JSON: &str = "content-type: application/json\r\n";

/// Two agents with a connection. Bob calls Alice so.
fn connected() -> Option<(Daemon, Daemon)> {
    let (alice, bob) = (Daemon::running("")?, Daemon::running("")?);
    let invitation = alice.json(&["invite"]);
    bob.json(&["accept", invitation["url"].as_str()?, "--label", "Alice"]);
    alice.wait_until("Bob is known", |alice| alice.json(&["connections"])["connections"][0]["theirs"] == bob.did);
    bob.wait_until("the ping is answered", |bob| {
        bob.json(&["outbox", "list", "--state", "sent"])["messages"].as_array().is_some_and(|it| !it.is_empty())
    });
    alice.json(&["send", "--to", &bob.did, "before", "--within", "30"]);
    bob.wait_until("the message arrived", |bob| bob.unread_texts().last().is_some_and(|it| it == "before"));
    Some((alice, bob))
}

fn connection(daemon: &Daemon) -> Value {
    daemon.json(&["connections"])["connections"][0].clone()
}

/// After an end, nothing claims that it works: neither `accept` nor `send`. `resume` is the way back.
#[test]
fn an_end_is_said_and_can_be_resumed() {
    let Some((alice, bob)) = connected() else { return };
    let ended = bob.home.run_args(&["connections", "end", "alice"], "");
    assert!(ended.stderr().contains("claviger connections resume"), "{}", ended.stderr());
    ended.success();
    alice.wait_until("Alice knows that it ended", |alice| connection(alice)["ended_by"] == "peer");
    assert_eq!((&connection(&bob)["ended_by"], &connection(&bob)["peer_told"]), (&json!("us"), &json!(true)));

    let invitation = alice.json(&["invite"]);
    let url = invitation["url"].as_str().unwrap();
    for words in [vec!["accept", url, "--from", &bob.did], vec!["send", "--to", "Alice", "hello"]] {
        let refused = bob.run(&words);
        assert!(refused.stderr().contains("the peer was told"), "{}", refused.stderr());
        assert_eq!(refused.error(1), "connection-ended", "{words:?}");
    }
    let named = bob.run(&["send", "--to", "Alice", "--from", &bob.did, "hello"]);
    assert_eq!(named.error(1), "connection-ended");
    assert_eq!(alice.run(&["send", "--to", &bob.did, "hello"]).error(1), "connection-ended");

    let resumed = bob.run(&["connections", "resume", "Alice"]);
    assert!(resumed.stderr().contains("the peer was told"), "{}", resumed.stderr());
    assert_eq!(resumed.json()["peer_told"], true);
    assert!(connection(&bob)["ended"].is_null());
    // Alice's agent ignores Bob, and its log says why. Then she resumes as well.
    bob.json(&["send", "--to", "Alice", "ignored", "--within", "30"]);
    alice.wait_until("the log says why", |alice| alice.log().contains("the sender has ended the connection"));
    alice.json(&["connections", "resume", &bob.did]);
    bob.json(&["send", "--to", "Alice", "heard", "--within", "30"]);
    alice.wait_until("the message arrived", |alice| alice.unread_texts().last().is_some_and(|it| it == "heard"));
    assert!(!alice.unread_texts().contains(&"ignored".to_owned()));
    bob.json(&["ping", "Alice"]);
}

/// However often an end is requested with the same proof, the peer gets it once.
#[test]
fn the_peer_is_told_once_of_an_end() {
    let Some(daemon) = Daemon::running("") else { return };
    let endpoint = Endpoint::accepting();
    let peer = Peer::with_endpoint("peer", &endpoint.uri());
    assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, "hello")), 202);
    daemon.wait_until("the message arrived", |daemon| daemon.unread_texts() == ["hello"]);
    daemon.json(&["connections", "end", peer.did()]);
    daemon.wait_until("the peer is told", |_| endpoint.messages().len() == 1);
    let proof = peer.open(&endpoint.messages()[0]).0.from_prior.unwrap();
    let api = ApiClient::new(&daemon);
    let request = json!({ "ours": daemon.did, "theirs": peer.did(), "from_prior": proof });
    for _ in 0..2 {
        assert_eq!(api.post("/v1/connections/end", &request).status, 202);
    }
    assert_eq!(api.get("/v1/messages").json(200)["messages"].as_array().unwrap().len(), 1);
}

/// Through the API, an end needs no custodian if the peer is not told.
#[test]
fn the_application_ends_and_resumes_a_connection() {
    let Some((alice, bob)) = connected() else { return };
    let api = ApiClient::new(&alice);
    let request = json!({ "ours": alice.did, "theirs": bob.did });
    assert_eq!(api.post("/v1/connections/end", &request).status, 204);
    assert_eq!((&connection(&alice)["ended_by"], &connection(&alice)["peer_told"]), (&json!("us"), &Value::Null));
    bob.json(&["send", "--to", "Alice", "ignored", "--within", "30"]);
    alice.wait_until("the log says why", |alice| alice.log().contains("the connection was ended here"));
    let send = json!({ "to": bob.did, "type": "https://example.org/a/1.0/b" });
    assert_eq!(api.post("/v1/messages", &send).error(409), "connection-ended");
    let resumed = api.post("/v1/connections/resume", &request).json(200);
    assert_eq!(resumed, json!({ "had_ended": true, "peer_told": false }));
    assert_eq!(api.post("/v1/connections/resume", &request).json(200)["had_ended"], false);
    bob.json(&["send", "--to", "Alice", "heard", "--within", "30"]);
    alice.wait_until("the message arrived", |alice| alice.unread_texts() == ["heard"]);
    alice.json(&["send", "--to", &bob.did, "and answered", "--within", "30"]);

    let unknown = json!({ "ours": alice.did, "theirs": "did:web:example.com" });
    for path in ["/v1/connections/end", "/v1/connections/resume"] {
        assert_eq!(api.post(path, &unknown).error(404), "not-found");
    }
}

/// The proof of an end that was undone does not end the connection again, whoever sends it.
#[test]
fn an_old_proof_does_not_end_a_resumed_connection() {
    let Some(daemon) = Daemon::running("") else { return };
    let peer = Peer::new("peer");
    assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, "hello")), 202);
    daemon.wait_until("the message arrived", |daemon| daemon.unread_texts() == ["hello"]);
    let claims = FromPriorClaims::ending(peer.did(), i64::try_from(seconds()).unwrap());
    let proof = block_on(claims.pack(None, &peer.person.identities)).unwrap().0;
    let ending = || {
        let mut message = peer.message(&daemon.did, "bye").finalize();
        message.from = None;
        message.from_prior = Some(proof.clone());
        let packing = message.encrypt_to(&daemon.did).forward(false);
        block_on(packing.pack(&LocalResolver::new(), &peer.person.identities)).unwrap().0
    };
    assert_eq!(daemon.post_status(ending()), 202);
    daemon.wait_until("the connection has ended", |daemon| connection(daemon)["ended_by"] == "peer");
    daemon.json(&["connections", "resume", peer.did()]);
    assert_eq!(daemon.post_status(ending()), 202);
    assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, "still here")), 202);
    daemon.wait_until("the message arrived", |daemon| daemon.unread_texts().contains(&"still here".to_owned()));
    assert!(connection(&daemon)["ended"].is_null());
}

/// A blocked peer gets the answer of any other, and no work is done for it.
#[test]
fn messages_of_a_blocked_peer_are_dropped() {
    let Some(mut daemon) = Daemon::running("") else { return };
    let (blocked, other) = (Peer::new("blocked"), Peer::new("other"));
    for peer in [&blocked, &other] {
        assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, "first")), 202);
    }
    daemon.wait_until("both messages arrived", |daemon| daemon.unread_texts().len() == 2);
    daemon.json(&["connections", "block", &short_name(blocked.did())]);
    let operations =
        |daemon: &Daemon| daemon.metric("claviger_token_operations_total{kind=\"unwrap\",result=\"done\"}");
    let before = operations(&daemon);
    let answer = daemon.post(blocked.pack_text(&daemon.did, "dropped").as_bytes());
    let usual = daemon.post(other.pack_text(&daemon.did, "second").as_bytes());
    let without_date = |response: &str| {
        let lines = response.lines().filter(|line| !line.to_lowercase().starts_with("date:"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(without_date(&answer), without_date(&usual));
    daemon.wait_until("the other message arrived", |daemon| daemon.unread_texts().len() == 3);
    assert_eq!(operations(&daemon) - before, 1.0, "the token opened one message");
    assert_eq!(daemon.metric("claviger_messages_received_total{result=\"blocked\"}"), 1.0);

    // A message that hides its sender is dropped once it is opened.
    let hidden = blocked.message(&daemon.did, "hidden").finalize();
    let packing = hidden.encrypt_to(&daemon.did).from(blocked.did()).protect_sender(true).forward(false);
    let packed = block_on(packing.pack(&LocalResolver::new(), &blocked.person.identities)).unwrap().0;
    assert_eq!(daemon.post_status(packed), 202);
    daemon.wait_until("the hidden message is dropped", |daemon| {
        let metrics = daemon.get_ops("/metrics");
        metrics.lines().any(|line| line.contains("messages_handled") && line.contains("result=\"blocked\""))
    });
    // Nothing is sent to it, and a restart changes nothing.
    assert_eq!(daemon.run(&["send", "--to", blocked.did(), "--hold", "hello"]).error(1), "peer-blocked");
    daemon.stop();
    daemon.start();
    assert_eq!(daemon.post_status(blocked.pack_text(&daemon.did, "dropped")), 202);
    let list = daemon.json(&["connections", "blocked"])["blocked"].clone();
    assert_eq!((list.as_array().unwrap().len(), &list[0]["peer"]), (1, &json!(blocked.did())));
    daemon.json(&["connections", "unblock", &short_name(blocked.did())]);
    assert_eq!(daemon.post_status(blocked.pack_text(&daemon.did, "third")), 202);
    daemon.wait_until("the message arrived", |daemon| daemon.unread_texts().len() == 4);
    assert!(!daemon.unread_texts().iter().any(|it| it == "dropped" || it == "hidden"));
}

/// What waits for a peer when it is blocked is not sent to it later.
#[test]
fn a_block_holds_for_messages_that_wait() {
    let Some(daemon) = Daemon::running("") else { return };
    let port = free_port();
    let peer = Peer::with_endpoint("away", &format!("http://127.0.0.1:{port}"));
    let id = daemon.send_text(peer.did(), "before the block").unwrap();
    daemon.wait_until("an attempt failed", |daemon| daemon.outbox_message(&id)["problem"].is_string());
    daemon.json(&["connections", "block", peer.did()]);
    let back = Endpoint::with_listener(TcpListener::bind(("127.0.0.1", port)).unwrap(), |_| accepted());
    daemon.wait_until("the message is given up", |daemon| daemon.outbox_message(&id)["state"] == "failed");
    assert!(daemon.outbox_message(&id)["problem"].as_str().unwrap().contains("is blocked"));
    assert!(back.messages().is_empty());
}

/// A blocked peer does not get around the block by a rotation, which proves that it is the same.
#[test]
fn a_block_follows_a_rotation() {
    let Some(daemon) = Daemon::running("") else { return };
    let (before, after) = (Peer::new("before"), Peer::new("after"));
    assert_eq!(daemon.post_status(before.pack_text(&daemon.did, "first")), 202);
    daemon.wait_until("the message arrived", |daemon| daemon.unread_texts() == ["first"]);
    daemon.json(&["connections", "block", before.did()]);
    let claims = FromPriorClaims::rotation(before.did(), after.did(), i64::try_from(seconds()).unwrap());
    let mut moved = after.message(&daemon.did, "moved").finalize();
    moved.from_prior = Some(block_on(claims.pack(None, &before.person.identities)).unwrap().0);
    assert_eq!(daemon.post_status(after.pack(&moved)), 202);
    daemon.wait_until("the new DID is blocked", |daemon| {
        daemon.json(&["connections", "blocked"])["blocked"].as_array().unwrap().len() == 2
    });
    assert_eq!(daemon.post_status(after.pack_text(&daemon.did, "second")), 202);
    std::thread::sleep(SETTLE_TIME);
    assert_eq!(daemon.unread_texts(), ["first"]);
}

/// A deleted connection leaves nothing of the peer, and the peer may write again as a stranger.
#[test]
fn a_connection_is_deleted() {
    let Some(daemon) = Daemon::running("") else { return };
    let peer = Peer::with_long_form("peer", None);
    assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, "first")), 202);
    daemon.wait_until("the message arrived", |daemon| daemon.unread_texts() == ["first"]);
    daemon.json(&["connections", "label", peer.did(), "Peer"]);
    let api = ApiClient::new(&daemon);
    assert_eq!(api.request("DELETE", "/v1/connections", JSON, "").error(400), "bad-request");
    let refused = daemon.run(&["connections", "delete", "Peer"]);
    assert!(refused.status() == 1 && refused.stderr().contains("not-confirmed"), "{refused:?}");
    assert_eq!(daemon.json(&["connections", "delete", "Peer", "--yes"]), json!({ "deleted": 1 }));
    assert_eq!(daemon.json(&["connections"])["connections"], json!([]));
    assert_eq!(daemon.run(&["connections", "delete", peer.did(), "--yes"]).error(1), "not-found");
    assert_eq!(daemon.run(&["send", "--to", "Peer", "hello"]).error(1), "name-unknown");
    assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, "second")), 202);
    daemon.wait_until("the message arrived", |daemon| daemon.unread_texts() == ["first", "second"]);
    assert_eq!((&connection(&daemon)["stranger"], &connection(&daemon)["label"]), (&json!(true), &Value::Null));
    // A message makes it known again.
    daemon.json(&["send", "--to", peer.did(), "--hold", "hello"]);
    assert_eq!(connection(&daemon)["stranger"], Value::Null);
}
