//! DIDs that move, and relationships that end, on both sides.

use crate::daemon::Daemon;

/// Two who know each other.
fn acquainted() -> Option<(Daemon, Daemon)> {
    let (alice, bob) = (Daemon::running("")?, Daemon::running("")?);
    // By the short URL: what it leads to is fetched.
    let url = alice.json(&["invite"])["short_url"].as_str().unwrap().to_owned();
    bob.json(&["accept", &url]);
    alice.until("Bob is known", |alice| alice.json(&["connections"])["connections"][0]["theirs"] == bob.did);
    Some((alice, bob))
}

#[test]
fn a_did_moves_and_the_peer_follows() {
    let Some((alice, bob)) = acquainted() else { return };
    let moved = alice.json(&["did", "rotate", &alice.did]);
    let new = moved["to"].as_str().unwrap();
    assert_ne!(new, alice.did);
    assert_eq!(moved["peers"], serde_json::json!([bob.did]));
    bob.until("Bob knows the new DID", |bob| {
        let known = bob.json(&["connections"]);
        let known = known["connections"].as_array().unwrap();
        known.iter().any(|it| it["theirs"] == new && it["previous"][0] == alice.did)
    });

    // Bob writes to the old DID by habit: his agent knows better. Alice writes from the old one: hers does too.
    bob.json(&["send", "--to", &alice.did, "to the old one", "--within", "30"]);
    alice.until("it came", |alice| alice.texts() == ["to the old one"]);
    assert_eq!(alice.delivery("to the old one")["recipient"], new);
    alice.json(&["send", "--to", &bob.did, "--from", &alice.did, "from the old one", "--within", "30"]);
    bob.until("it came", |bob| bob.texts() == ["from the old one"]);
    assert_eq!(bob.delivery("from the old one")["sender"], new);

    // Bob has written to the new DID: the proof goes along no more.
    alice.json(&["send", "--to", &bob.did, "again", "--within", "30"]);
    bob.until("it came", |bob| bob.texts().len() == 2);
    let again = bob.delivery("again");
    assert!(again["provenance"]["from_prior"].is_null(), "{again}");
    // It has the new keys after a restart too.
    let mut alice = alice;
    alice.stop();
    alice.start();
    bob.json(&["ping", new]);
}

#[test]
fn an_agent_cannot_move_its_did() {
    let Some((alice, bob)) = acquainted() else { return };
    // The keeper signs no rotation for an agent: what the agent's side has, a proof of its own making, does not pass.
    let forged = serde_json::json!({
        "from": alice.did, "to": bob.did, "from_prior": "e30.e30.e30", "overlap_days": 1
    });
    let socket = alice.home.path().join("state/api.sock");
    let answer = crate::daemon::unix(&socket, "POST", "/v1/dids/rotate", &forged.to_string());
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[test]
fn a_relationship_ends() {
    let Some((alice, bob)) = acquainted() else { return };
    bob.json(&["connections", "--end", &alice.did]);
    alice.until("Alice knows", |alice| !alice.json(&["connections"])["connections"][0]["ended"].is_null());
    let sent = alice.json(&["send", "--to", &bob.did, "are you there?"]);
    let id = sent["id"].as_str().unwrap().to_owned();
    alice.until("it is not sent", |alice| {
        alice.run(&["send", "--to", &bob.did, "and now?", "--within", "5"]).stderr().contains("not-sent")
    });
    assert!(!id.is_empty() && bob.texts().is_empty());
}
