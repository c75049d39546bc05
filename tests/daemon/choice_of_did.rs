//! The DID that sends a message for which none is named, and the list of the connections with one peer.

use claviger::{keys::Curve, secrets::FromPriorClaims};
use serde_json::{Value, json};

use crate::{
    api_client::{ApiClient, SAY},
    daemon::Daemon,
    endpoint::Endpoint,
    peer::{Peer, block_on, seconds},
};

/// A running daemon with two more DIDs than its first one, which all the connections of these tests are with.
fn with_newer_dids() -> Option<Daemon> {
    let daemon = Daemon::running("")?;
    for _ in 0..2 {
        daemon.json(&["did", "create", "--method", "peer:2", "--service", "http://127.0.0.1:1"]);
    }
    let newest = ApiClient::new(&daemon).get("/v1/dids").json(200)["dids"][0]["did"].clone();
    assert_ne!(newest, daemon.did.as_str());
    Some(daemon)
}

/// The DID that sends a message to `to`, by the command line and by the API.
#[track_caller]
fn senders(daemon: &Daemon, to: &str) -> [Value; 2] {
    let sent = daemon.json(&["send", "--to", to, "--hold", "hello"]);
    let by_command = daemon.outbox_message(sent["id"].as_str().unwrap())["from"].clone();
    let request = json!({ "to": to, "type": SAY, "body": {} });
    let answer = ApiClient::new(daemon).post("/v1/messages", &request).json(202);
    let by_api = daemon.outbox_message(answer["id"].as_str().unwrap())["from"].clone();
    assert_eq!(answer["from"], by_api);
    [by_command, by_api]
}

/// The connections with a peer, read in pages of `limit`.
#[track_caller]
fn connections_with(daemon: &Daemon, peer: &str, limit: usize) -> Vec<Value> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let encode = |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
        let path = format!("/v1/connections?peer={}&limit={limit}&after={}", encode(peer), encode(&after));
        let page = ApiClient::new(daemon).get(&path).json(200);
        let found = page["connections"].as_array().unwrap();
        assert!(found.len() <= limit);
        if found.is_empty() {
            return all;
        }
        all.extend(found.iter().cloned());
        page["cursor"].as_str().unwrap().clone_into(&mut after);
    }
}

/// The right DID is found among more connections than a page has.
#[test]
fn the_connection_is_found_among_many() {
    let Some(daemon) = with_newer_dids() else { return };
    let mut peers: Vec<Peer> = (0..131).map(|number| Peer::new(&number.to_string())).collect();
    for peer in &peers {
        assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, "hello")), 202);
    }
    daemon.wait_until("all have a connection", |daemon| {
        daemon.json(&["connections"])["connections"].as_array().unwrap().len() == peers.len()
    });
    // The connections are listed by the DID of the peer.
    peers.sort_by_key(|peer| peer.did().to_owned());
    for number in [0, 50, 99, 100, 120, 130] {
        let peer = &peers[number];
        assert_eq!(senders(&daemon, peer.did()), [&daemon.did; 2].map(|did| json!(did)), "{number}");
        let [only] = &connections_with(&daemon, peer.did(), 100)[..] else { panic!("one connection") };
        assert_eq!((&only["ours"], &only["theirs"]), (&json!(daemon.did), &json!(peer.did())));
    }
    let other = Peer::new("other");
    assert!(connections_with(&daemon, other.did(), 100).is_empty());
    assert_ne!(senders(&daemon, other.did()), [&daemon.did; 2].map(|did| json!(did)));
}

/// The peer is known by either form of its did:peer:4, by each name of its did:webvh, by each spelling of its did:web, and
/// by the DID from which it has rotated.
#[test]
fn the_connection_is_found_by_each_name_of_the_peer() {
    let Some(daemon) = with_newer_dids() else { return };
    let ours = [&daemon.did; 2].map(|did| json!(did));
    let long = Peer::with_long_form("long", None);
    let short = long.did().rsplit_once(':').unwrap().0;
    let scid = "QmRRaLXwc6BjBuBPosSupJwEQ8w9f3znP7yfbpGfwcnLr6";
    let webvh = |location: &str| format!("did:webvh:{scid}:{location}");
    for (first, names) in [
        (long.did().to_owned(), vec![short.to_owned(), long.did().to_owned()]),
        (webvh("127.0.0.1.example%3A1"), vec![webvh("127.0.0.1.example%3a1"), webvh("new.example:moved")]),
        ("did:web:a.invalid%3A1:x".to_owned(), vec!["did:web:a.invalid%3a1:x".to_owned()]),
    ] {
        daemon.json(&["send", "--to", &first, "--from", &daemon.did, "--hold", "hello"]);
        for name in names {
            assert_eq!(senders(&daemon, &name), ours, "{name}");
            assert_eq!(connections_with(&daemon, &name, 1)[0]["ours"], daemon.did.as_str(), "{name}");
        }
    }
    // The inbox finds the sender by either form, too.
    assert_eq!(daemon.post_status(long.pack_text(&daemon.did, "from the long form")), 202);
    daemon.wait_until("the message arrived", |daemon| daemon.unread_texts() == ["from the long form"]);
    for name in [long.did(), short] {
        assert_eq!(daemon.json(&["inbox", "--sender", name])["messages"].as_array().unwrap().len(), 1);
    }
    let ids: Vec<_> = daemon.unread().iter().map(|message| message["id"].clone()).collect();
    ApiClient::new(&daemon).post("/v1/inbox/acknowledge", &json!({ "ids": ids })).json(200);
    // Another did:webvh, and another port.
    let other = webvh("new.example").replace("LXwc", "LXwd");
    for stranger in [other.as_str(), "did:web:a.invalid%3A2:x"] {
        assert!(connections_with(&daemon, stranger, 100).is_empty());
    }

    let endpoint = Endpoint::accepting();
    let (before, after) = (Peer::new("before"), Peer::with_endpoint("after", &endpoint.uri()));
    assert_eq!(daemon.post_status(before.pack_text(&daemon.did, "hello")), 202);
    daemon.wait_until("the message arrived", |daemon| daemon.unread_texts() == ["hello"]);
    let claims = FromPriorClaims::rotation(before.did(), after.did(), i64::try_from(seconds()).unwrap());
    let mut moved = after.message(&daemon.did, "moved").finalize();
    moved.from_prior = Some(block_on(claims.pack(None, &before.person.identities)).unwrap().0);
    assert_eq!(daemon.post_status(after.pack(&moved)), 202);
    daemon.wait_until("the rotation arrived", |daemon| daemon.unread_texts() == ["hello", "moved"]);
    for name in [before.did(), after.did()] {
        assert_eq!(senders(&daemon, name), ours);
        assert_eq!(connections_with(&daemon, name, 100)[0]["theirs"], after.did());
        let listed = daemon.json(&["connections", "--peer", name]);
        assert_eq!(listed["connections"][0]["theirs"], after.did());
    }
    assert_eq!(daemon.run(&["ping", before.did(), "--within", "1"]).error(1), "no-answer");
    daemon.wait_until("all messages arrived", |_| endpoint.messages().len() == 5);
    for packed in endpoint.messages() {
        assert_eq!(after.open(&packed).0.from.as_deref(), Some(&*daemon.did));
    }
    assert_eq!(daemon.run(&["connections", "--peer", "Bob"]).error(1), "name-unknown");
    assert_eq!(ApiClient::new(&daemon).get("/v1/connections?peer=Bob").error(400), "bad-request");
}

/// What is known of a former DID of the peer says nothing about a message that goes to its present one.
#[test]
fn a_message_to_a_former_did_is_checked_by_no_former_key() {
    let Some(daemon) = Daemon::running("") else { return };
    let endpoint = Endpoint::accepting();
    // The daemon has no key on that curve.
    let before = Peer::with_curves("before", &[Curve::P384], &[]);
    let after = Peer::with_endpoint("after", &endpoint.uri());
    let message = json!({ "to": before.did(), "type": SAY, "body": { "content": "hello" } });
    let api = ApiClient::new(&daemon);
    assert_eq!(api.post("/v1/messages", &message).error(400), "bad-message");
    let claims = FromPriorClaims::rotation(before.did(), after.did(), i64::try_from(seconds()).unwrap());
    let mut moved = after.message(&daemon.did, "moved").finalize();
    moved.from_prior = Some(block_on(claims.pack(None, &before.person.identities)).unwrap().0);
    assert_eq!(daemon.post_status(after.pack(&moved)), 202);
    daemon.wait_until("the rotation arrived", |daemon| daemon.unread_texts() == ["moved"]);
    api.post("/v1/messages", &message).json(202);
    daemon.wait_until("the message arrived", |_| endpoint.messages().len() == 1);
    assert_eq!(after.open(&endpoint.messages()[0]).0.body["content"], "hello");
}

/// A request without `from` can be repeated after a connection has begun, and is sent once, from the DID that was chosen
/// first. A message is anonymous only if the request says so.
#[test]
fn the_sender_is_chosen_once() {
    let Some(daemon) = with_newer_dids() else { return };
    let api = ApiClient::new(&daemon);
    let peer = Peer::new("peer");
    let request = |id: &str, anonymous: bool| {
        let mut request =
            json!({ "id": id, "to": peer.did(), "type": SAY, "body": { "content": "hello" }, "hold": true });
        if anonymous {
            request["anonymous"] = true.into();
        }
        request
    };
    let newest = &api.get("/v1/dids").json(200)["dids"][0]["did"];
    let first = api.post("/v1/messages", &request("once", false)).json(202);
    assert_eq!((&first["from"], &daemon.outbox_message("once")["from"]), (newest, newest));
    assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, "hello")), 202);
    daemon.wait_until("the message arrived", |daemon| daemon.unread_texts() == ["hello"]);
    assert_eq!(api.post("/v1/messages", &request("once", false)).json(202), first);
    assert_eq!(api.post("/v1/messages", &request("once", true)).error(409), "id-taken");

    // Of two connections, the one that the application has begun comes before that with a stranger.
    assert_eq!(senders(&daemon, peer.did()), [newest.clone(), newest.clone()]);
    let anonymous = api.post("/v1/messages", &request("anonymous", true)).json(202);
    assert_eq!((&anonymous["from"], &daemon.outbox_message("anonymous")["from"]), (&Value::Null, &Value::Null));
    assert_eq!(api.post("/v1/messages", &request("anonymous", true)).json(202), anonymous);
    let mut both = request("both", true);
    both["from"] = daemon.did.as_str().into();
    assert_eq!(api.post("/v1/messages", &both).error(400), "bad-message");
}
