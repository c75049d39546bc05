//! Names for peers: labels that a person gives, short names of DIDs, and what a peer calls itself. Answers by the id of a
//! message.

use claviger::secrets::FromPriorClaims;
use serde_json::{Value, json};

use crate::{
    api_client::{ApiClient, ApiResponse},
    daemon::Daemon,
    endpoint::Endpoint,
    peer::{Peer, block_on, seconds},
};

const JSON: &str = "content-type: application/json\r\n";
const BASIC: &str = "https://didcomm.org/basicmessage/2.0/message";

/// Percent-encodes a text for a query.
fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

#[track_caller]
fn change(daemon: &Daemon, peer: &str, change: &Value) -> ApiResponse {
    let path = format!("/v1/connections?peer={}", encoded(peer));
    ApiClient::new(daemon).request("PATCH", &path, JSON, &change.to_string())
}

/// The DIDs of the peers that a name stands for.
#[track_caller]
fn named(daemon: &Daemon, name: &str) -> Vec<String> {
    let page = ApiClient::new(daemon).get(&format!("/v1/connections?name={}", encoded(name))).json(200);
    let found = page["connections"].as_array().unwrap();
    found.iter().map(|connection| connection["theirs"].as_str().unwrap().to_owned()).collect()
}

/// A daemon, and two peers with an endpoint that have written to it.
fn with_peers(endpoint: &Endpoint) -> Option<(Daemon, Peer, Peer)> {
    let daemon = Daemon::running("")?;
    let peers = ["alice", "bob"].map(|name| Peer::with_endpoint(name, &endpoint.uri()));
    for peer in &peers {
        let mut message = peer.message(&daemon.did, "hello").finalize();
        message.type_ = BASIC.to_owned();
        assert_eq!(daemon.post_status(peer.pack(&message)), 202);
    }
    daemon.wait_until("both messages arrived", |daemon| daemon.unread_texts().len() == 2);
    let [alice, bob] = peers;
    Some((daemon, alice, bob))
}

/// The texts that a peer got, of those messages that are for it.
fn texts_for(endpoint: &Endpoint, peer: &Peer) -> Vec<String> {
    let messages = endpoint.messages();
    let for_peer = messages.iter().filter(|packed| packed_for(packed, peer));
    for_peer.filter_map(|packed| peer.open(packed).0.body["content"].as_str().map(str::to_owned)).collect()
}

fn packed_for(packed: &str, peer: &Peer) -> bool {
    let jwe: Value = serde_json::from_str(packed).unwrap();
    let kid = jwe["recipients"][0]["header"]["kid"].as_str().unwrap_or_default();
    kid.starts_with(peer.did())
}

/// A label works wherever a command takes a peer, and is shown in lists. It never leaves the agent.
#[test]
fn a_label_names_a_peer() {
    let endpoint = Endpoint::accepting();
    let Some((daemon, alice, bob)) = with_peers(&endpoint) else { return };
    assert_eq!(daemon.run(&["send", "--to", "Alice", "hello"]).error(1), "name-unknown");
    daemon.json(&["connections", "label", alice.did(), "  Alice   B. "]);
    daemon.json(&["send", "--to", "alice b.", "by label", "--within", "30"]);
    daemon.wait_until("the message arrived", |_| texts_for(&endpoint, &alice) == ["by label"]);
    assert!(texts_for(&endpoint, &bob).is_empty());
    assert!(!endpoint.messages().iter().any(|packed| alice.open(packed).0.to_json().contains("Alice")));

    let list = daemon.home.run_args(&["connections"], "");
    let of_alice = list.success().lines().find(|line| line.contains("Alice B.")).unwrap().to_owned();
    assert!(!of_alice.contains("a stranger"), "{of_alice}");
    let inbox = daemon.home.run_args(&["inbox"], "");
    assert_eq!(inbox.success().lines().filter(|line| line.contains("  Alice B. hello")).count(), 1, "{inbox:?}");
    let messages = daemon.json(&["inbox", "--sender", "ALICE B."])["messages"].clone();
    assert_eq!((messages.as_array().unwrap().len(), &messages[0]["label"]), (1, &json!("Alice B.")));
    let mut events = ApiClient::new(&daemon).events("/v1/events", "");
    let labels = [0, 1].map(|_| events.next().unwrap().data).map(|it| (it["sender"].clone(), it["label"].clone()));
    assert!(labels.contains(&(json!(alice.did()), json!("Alice B."))), "{labels:?}");
    let sent = daemon.home.run_args(&["send", "--to", "Alice B.", "again"], "");
    assert!(sent.stderr().contains("Stored for Alice B.;"), "{}", sent.stderr());
    let outbox = daemon.json(&["outbox", "list", "--state", "all", "--to", "alice b."])["messages"].clone();
    assert_eq!((outbox.as_array().unwrap().len(), &outbox[0]["label"]), (2, &json!("Alice B.")));

    // The label goes with the peer's connections, and can be given to another afterwards.
    daemon.json(&["connections", "label", "Alice B.", "Carol"]);
    assert_eq!((named(&daemon, "Alice B."), named(&daemon, "carol")), (vec![], vec![alice.did().to_owned()]));
    daemon.json(&["connections", "label", bob.did(), "Alice B."]);
    daemon.json(&["connections", "label", "Carol", "--remove"]);
    assert_eq!((named(&daemon, "Alice B."), named(&daemon, "carol")), (vec![bob.did().to_owned()], vec![]));
    let mut daemon = daemon;
    daemon.stop();
    daemon.start();
    assert_eq!(named(&daemon, "Alice B."), [bob.did()]);
}

/// No two peers have the same label, and no label can be taken for a DID or reorder the text around it.
#[test]
fn labels_are_unique_and_plain() {
    let endpoint = Endpoint::accepting();
    let Some((daemon, alice, bob)) = with_peers(&endpoint) else { return };
    change(&daemon, alice.did(), &json!({ "label": "Zoë" })).json(200);
    for taken in ["Zoë", "ZOË", "  zoë ", "Zo\u{200d}ë"] {
        let refused = change(&daemon, bob.did(), &json!({ "label": taken }));
        assert!(refused.body.contains("did:peer:2.Ez6LS"), "the holder is named: {}", refused.body);
        assert_eq!(refused.error(409), "label-taken", "{taken}");
    }
    for wrong in ["", " ", "did:web:example.com", "\u{202e}ëoZ", "Zo\u{200b}ë", "a\u{1b}[2J", &"x".repeat(65)] {
        assert_eq!(change(&daemon, bob.did(), &json!({ "label": wrong })).error(400), "bad-label", "{wrong:?}");
    }
    change(&daemon, alice.did(), &json!({ "label": "ZOË" })).json(200);
    assert_eq!(named(&daemon, "zoë"), [alice.did()]);
    let stranger = Peer::new("stranger");
    assert_eq!(change(&daemon, stranger.did(), &json!({ "label": "X" })).error(404), "not-found");
    assert_eq!(change(&daemon, "Zoë", &json!({ "label": "X" })).error(400), "bad-request");
    assert_eq!(change(&daemon, alice.did(), &json!({ "lable": "X" })).error(422), "bad-request");
    // Nothing but the label is looked up under it.
    let both = format!("/v1/connections?peer={}&name=X", encoded(alice.did()));
    assert_eq!(ApiClient::new(&daemon).get(&both).error(400), "bad-request");
    let accept = json!({ "invitation": "{}", "from": daemon.did, "label": "did:x" });
    assert_eq!(ApiClient::new(&daemon).post("/v1/invitations/accept", &accept).error(400), "bad-label");
}

/// What a peer calls itself is shown as such, and is no name that a command understands.
#[test]
fn a_peer_cannot_choose_its_label() {
    let endpoint = Endpoint::accepting();
    let Some((daemon, alice, bob)) = with_peers(&endpoint) else { return };
    daemon.json(&["connections", "label", alice.did(), "Alice"]);
    let mut profile = bob.message(&daemon.did, "").finalize();
    profile.type_ = "https://didcomm.org/user-profile/1.0/profile".to_owned();
    profile.body = json!({ "profile": { "displayName": "Alice\u{202e}\u{1b}[2J" } });
    assert_eq!(daemon.post_status(bob.pack(&profile)), 202);
    let of_bob = |daemon: &Daemon| {
        let all = daemon.json(&["connections"])["connections"].clone();
        all.as_array().unwrap().iter().find(|it| it["theirs"] == bob.did()).unwrap().clone()
    };
    daemon.wait_until("the profile arrived", |daemon| of_bob(daemon)["calls_itself"].is_string());
    assert!(of_bob(&daemon)["label"].is_null());
    assert_eq!(named(&daemon, "Alice"), [alice.did()]);
    assert_eq!(named(&daemon, "Alice\u{202e}\u{1b}[2J"), [""; 0]);
    let list = daemon.home.run_args(&["connections"], "");
    assert!(!list.success().contains(['\u{202e}', '\u{1b}']), "{list:?}");
    assert_eq!(list.success().lines().filter(|line| line.starts_with("Alice ")).count(), 1);
    assert!(list.success().contains("(calls itself \"Alice"), "{list:?}");

    // Nor can the text of a message be taken for a line of the inbox.
    let mut forged = bob.message(&daemon.did, "hi\n0badc0de  2026-01-01 00:00 UTC  Alice pay 5 €").finalize();
    forged.type_ = BASIC.to_owned();
    assert_eq!(daemon.post_status(bob.pack(&forged)), 202);
    daemon.wait_until("the message arrived", |daemon| daemon.unread_texts().len() == 3);
    let inbox = daemon.home.run_args(&["inbox"], "");
    assert!(!inbox.success().lines().any(|line| line.starts_with("0badc0de")), "{inbox:?}");
    assert!(inbox.success().contains("\n    0badc0de"), "{inbox:?}");
}

/// The short name that commands print names a DID, and DIDs that begin and end alike have different short names.
#[test]
fn commands_understand_the_short_names_that_they_print() {
    let endpoint = Endpoint::accepting();
    let Some((daemon, alice, _)) = with_peers(&endpoint) else { return };
    let inbox = daemon.home.run_args(&["inbox"], "");
    let short = claviger::did::short_name(alice.did());
    assert!(inbox.success().contains(&short) && !inbox.success().contains("..."), "{inbox:?}");
    daemon.json(&["send", "--to", &short, "by its short name", "--within", "30"]);
    daemon.wait_until("the message arrived", |_| texts_for(&endpoint, &alice) == ["by its short name"]);
    assert_eq!(daemon.json(&["connections", "--peer", &short])["connections"][0]["theirs"], alice.did());

    let dids = ["alice", "bob"].map(|name| format!("did:web:registry.example.org:members:{name}:agent"));
    for did in &dids {
        daemon.json(&["send", "--to", did, "hello"]);
    }
    let [of_alice, of_bob] = dids.clone().map(|did| claviger::did::short_name(&did));
    assert_ne!(of_alice, of_bob);
    let list = daemon.home.run_args(&["connections"], "");
    assert!(list.success().contains(&of_alice) && list.success().contains(&of_bob), "{list:?}");
    assert_eq!((named(&daemon, &of_alice), named(&daemon, &of_bob)), (vec![dids[0].clone()], vec![dids[1].clone()]));
    assert_eq!(named(&daemon, "did:web:registry.exa~1111111111"), [""; 0]);
    // As an older release has cut it.
    let cut = format!("{}...{}", &alice.did()[..22], &alice.did()[alice.did().len() - 6..]);
    assert_eq!(daemon.run(&["send", "--to", &cut, "hello"]).error(2), "bad-did");

    // Our DIDs, as a whole and by their short names.
    let ours = daemon.json(&["did", "list"]);
    assert_eq!((&ours[0]["did"], &ours[0]["served"]), (&json!(daemon.did), &json!(true)));
    let short = ours[0]["short"].as_str().unwrap();
    let list = daemon.home.run_args(&["did", "list"], "");
    assert!(list.success().contains(&daemon.did) && list.success().contains(short), "{list:?}");
    let sent = daemon.json(&["send", "--to", alice.did(), "--from", short, "from a short name"]);
    assert_eq!(daemon.outbox_message(sent["id"].as_str().unwrap())["from"], daemon.did.as_str());
    daemon.json(&["did", "rotate", short]);
}

/// A peer that has rotated in one of two relationships has two DIDs under one label. Then neither is taken.
#[test]
fn an_ambiguous_name_is_refused_with_its_candidates() {
    let Some(daemon) = Daemon::running("") else { return };
    let service = format!("http://127.0.0.1:{}", daemon.port);
    let second = daemon.json(&["did", "create", "--method", "peer:2", "--service", &service])["did"].clone();
    let (before, after) = (Peer::new("before"), Peer::new("after"));
    for own in [&daemon.did, second.as_str().unwrap()] {
        assert_eq!(daemon.post_status(before.pack_text(own, "hello")), 202);
    }
    daemon.wait_until("both messages arrived", |daemon| daemon.unread_texts().len() == 2);
    daemon.json(&["connections", "label", before.did(), "Alice"]);
    let claims = FromPriorClaims::rotation(before.did(), after.did(), i64::try_from(seconds()).unwrap());
    let mut moved = after.message(&daemon.did, "moved").finalize();
    moved.from_prior = Some(block_on(claims.pack(None, &before.person.identities)).unwrap().0);
    assert_eq!(daemon.post_status(after.pack(&moved)), 202);
    daemon.wait_until("the rotation arrived", |daemon| daemon.unread_texts().len() == 3);
    let mut both = [before.did().to_owned(), after.did().to_owned()];
    both.sort();
    let mut found = named(&daemon, "Alice");
    found.sort();
    assert_eq!(found, both);
    // Whoever reads all pages comes to the end.
    let path = format!("/v1/connections?name={}&after=", encoded("Alice"));
    let page = ApiClient::new(&daemon).get(&path).json(200);
    let end = ApiClient::new(&daemon).get(&format!("{path}{}", encoded(page["cursor"].as_str().unwrap()))).json(200);
    assert_eq!((&end["connections"], &end["cursor"]), (&json!([]), &page["cursor"]));
    let refused = daemon.run(&["send", "--to", "Alice", "--hold", "hello"]);
    assert!(both.iter().all(|did| refused.stderr().contains(did)), "{}", refused.stderr());
    assert_eq!(refused.error(2), "name-ambiguous");
    daemon.json(&["send", "--to", after.did(), "--hold", "hello"]);
}

/// A message is answered by the beginning of its id, in its thread, from the DID that it was for.
#[test]
fn a_message_is_answered_by_its_id() {
    let endpoint = Endpoint::accepting();
    let Some((daemon, alice, bob)) = with_peers(&endpoint) else { return };
    daemon.json(&["did", "create", "--method", "peer:2"]);
    let inbox = daemon.home.run_args(&["inbox"], "");
    let line = inbox.success().lines().find(|line| line.contains(&claviger::did::short_name(alice.did()))).unwrap();
    assert!(line.contains(" UTC  "), "{line}");
    let shown = line.split_whitespace().next().unwrap();
    let received = ApiClient::new(&daemon).get(&format!("/v1/inbox/{shown}")).json(200);
    assert!(received["id"].as_str().unwrap().starts_with(shown) && received["sender"] == alice.did());
    daemon.json(&["reply", shown, "at noon", "--within", "30"]);
    daemon.wait_until("the answer arrived", |_| texts_for(&endpoint, &alice) == ["at noon"]);
    let answers = endpoint.messages();
    let answer = answers.iter().find(|packed| packed_for(packed, &alice)).unwrap();
    let (answer, provenance) = alice.open(answer);
    assert!(provenance.authenticated && answer.from.as_deref() == Some(&*daemon.did));
    assert_eq!(answer.thid.as_deref(), received["thread"].as_str());
    assert!(texts_for(&endpoint, &bob).is_empty());

    // Also after it was acknowledged, and by the whole id.
    daemon.json(&["inbox", "--acknowledge"]);
    daemon.json(&["reply", received["id"].as_str().unwrap(), "and thanks"]);
    daemon.wait_until("the answer arrived", |_| texts_for(&endpoint, &alice).len() == 2);
    // A script that repeats its answer sends it once.
    for _ in 0..2 {
        let answered = daemon.json(&["reply", shown, "once", "--message-id", "answer-1", "--within", "30"]);
        assert_eq!(answered["id"], "answer-1");
    }
    assert_eq!(daemon.run(&["reply", shown, "twice", "--message-id", "answer-1"]).error(1), "id-taken");
    assert_eq!(texts_for(&endpoint, &alice), ["at noon", "and thanks", "once"]);
    assert_eq!(daemon.run(&["reply", "0000000000", "hello"]).error(1), "not-found");
    assert_eq!(ApiClient::new(&daemon).get("/v1/inbox/012").error(400), "bad-request");
}
