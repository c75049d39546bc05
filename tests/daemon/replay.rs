//! Repeated messages, message ids of strangers, old and expired messages, and false rotations
//! (`docs/security-model.md`, "replay").

use claviger::didcomm::Message;
use serde_json::{Value, json};

use crate::{
    api_client::{ApiClient, SAY},
    daemon::Daemon,
    peer::{Peer, SIGN, seconds},
    support::forge::{Jwe, jwt},
};

#[test]
fn a_repeated_message_is_delivered_once() {
    let Some(mut daemon) = Daemon::running("") else { return };
    let alice = Peer::new("alice");
    let message = alice.message(&daemon.did, "once").finalize();
    let packed = alice.pack(&message);
    for _ in 0..3 {
        assert_eq!(daemon.post_status(&packed), 202);
    }
    // The same message in a new ciphertext, and with its id in capitals: ids are compared without case.
    assert_eq!(daemon.post_status(alice.pack(&message)), 202);
    let mut capitals = message.clone();
    capitals.id = message.id.to_uppercase();
    assert_eq!(daemon.post_status(alice.pack(&capitals)), 202);
    daemon.wait_until_all_opened();
    assert_eq!(daemon.unread_texts(), ["once"]);
    // The id is remembered after the message was acknowledged, and after a restart.
    let id = daemon.unread()[0]["id"].clone();
    ApiClient::new(&daemon).post("/v1/inbox/acknowledge", &json!({"ids": [id]})).json(200);
    daemon.kill();
    daemon.start();
    for packed in [packed, alice.pack(&message)] {
        assert_eq!(daemon.post_status(packed), 202);
    }
    // A message of another sender may have the same id.
    let bob = Peer::new("bob");
    let mut other = bob.message(&daemon.did, "Bob's").finalize();
    other.id = message.id;
    assert_eq!(daemon.post_status(bob.pack(&other)), 202);
    daemon.wait_until_all_opened();
    assert_eq!(daemon.unread_texts(), ["Bob's"]);
}

/// Anonymous messages may use any id. They do not prevent the delivery of Alice's message with that id, or of other
/// anonymous ones.
#[test]
fn a_stranger_cannot_block_a_message_id() {
    let Some(daemon) = Daemon::running("") else { return };
    let alice = Peer::new("alice");
    let message = alice.message(&daemon.did, "Alice's").finalize();
    let anonymous = |content: &str, from: Option<&str>| {
        let mut text = json!({"id": message.id, "type": SAY, "to": [daemon.did], "body": {"content": content}});
        text["created_time"] = seconds().into();
        if let Some(from) = from {
            text["from"] = from.into();
        }
        Jwe::anoncrypt(&daemon.agreement_keys()).seal(text.to_string())
    };
    let first = anonymous("anonymous", None);
    for packed in [anonymous("poison", Some(alice.did())), first.clone(), first, anonymous("another", None)] {
        assert_eq!(daemon.post_status(packed), 202);
    }
    daemon.wait_until_all_opened();
    assert_eq!(daemon.post_status(alice.pack(&message)), 202);
    daemon.wait_until("her message arrived", |daemon| daemon.unread_texts().len() == 4);
    assert_eq!(daemon.unread_texts(), ["poison", "anonymous", "another", "Alice's"]);
    let senders: Vec<Value> = daemon.unread().iter().map(|it| it["sender"].clone()).collect();
    assert_eq!(senders, [Value::Null, Value::Null, Value::Null, alice.did().into()]);
}

#[test]
fn expired_and_old_messages_are_refused() {
    let Some(daemon) = Daemon::running("[agent]\nlongest_age_days = 2\n") else { return };
    let alice = Peer::new("alice");
    let (now, day) = (seconds(), 24 * 60 * 60);
    let timed = |content: &str, created: Option<u64>, expires: Option<u64>| {
        let mut message = alice.message(&daemon.did, content).finalize();
        (message.created_time, message.expires_time) = (created, expires);
        assert_eq!(daemon.post_status(alice.pack(&message)), 202);
        daemon.wait_until_all_opened();
    };
    timed("expired", Some(now - 1000), Some(now - 600));
    timed("expired, and says no more", None, Some(now - 600));
    timed("too old", Some(now - 3 * day), None);
    timed("too old to live so long", Some(now - 3 * day), Some(now + day));
    timed("just expired: clocks differ", Some(now - 1000), Some(now - 60));
    timed("a clock that is ahead", Some(now + 60), None);
    timed("no times at all", None, None);
    timed("the end of time", Some(0), Some(u64::MAX / 1000));
    assert_eq!(
        daemon.unread_texts(),
        ["just expired: clocks differ", "a clock that is ahead", "no times at all"],
        "{}",
        daemon.log()
    );
}

/// A from_prior is valid only in a message of the new DID that it names (`sub`).
#[test]
fn a_stolen_from_prior_rotates_nobody() {
    let Some(daemon) = Daemon::running("") else { return };
    let (alice, new, mallory) = (Peer::new("alice"), Peer::new("new"), Peer::new("mallory"));
    assert_eq!(daemon.post_status(alice.pack_text(&daemon.did, "hello")), 202);
    daemon.wait_until_all_opened();
    let prior = rotation(&alice, Some(new.did()));
    // Sent by Mallory: in her own name; anonymously in the name of Alice's new DID; and one that she signed herself.
    let with = |peer: &Peer, prior: &str, content: &str| {
        let mut text = peer.plaintext(&daemon.did, content);
        text["from_prior"] = prior.into();
        text
    };
    let to = daemon.agreement_keys();
    let stolen = mallory.authcrypt(&to).seal(with(&mallory, &prior, "stolen").to_string());
    let unproved = Jwe::anoncrypt(&to).seal(with(&new, &prior, "unproved").to_string());
    let header = json!({"typ": "JWT", "alg": "EdDSA", "kid": alice.kid(SIGN[0])});
    let claims = json!({"iss": alice.did(), "sub": mallory.did(), "iat": seconds()});
    let forged = jwt(&mallory.person, &mallory.person.sign[0], &header, &claims);
    let forged = mallory.authcrypt(&to).seal(with(&mallory, &forged, "forged").to_string());
    for packed in [stolen, unproved, forged] {
        assert_eq!(daemon.post_status(packed), 202);
        daemon.wait_until_all_opened();
    }
    // Another JWS of Alice, with other headers, is no from_prior.
    let claims = json!({"iss": alice.did(), "sub": new.did(), "iat": seconds()});
    for header in [
        json!({"alg": "EdDSA", "kid": alice.kid(SIGN[0])}),
        json!({"typ": "application/didcomm-signed+json", "alg": "EdDSA", "kid": alice.kid(SIGN[0])}),
        json!({"typ": "JWT", "alg": "EdDSA"}),
        json!({"typ": "JWT", "alg": "none", "kid": alice.kid(SIGN[0])}),
    ] {
        let other = jwt(&alice.person, &alice.person.sign[0], &header, &claims);
        let packed = new.authcrypt(&to).seal(with(&new, &other, "not moved").to_string());
        assert_eq!(daemon.post_status(packed), 202);
        daemon.wait_until_all_opened();
    }
    assert!(!connected_dids(&daemon).iter().any(|did| did == mallory.did() || did == new.did()));
    assert!(connected_dids(&daemon).contains(&alice.did().to_owned()));
    // The owner's from_prior is valid. After that the old DID is refused, and cannot rotate to another one.
    let packed = new.authcrypt(&to).seal(with(&new, &prior, "I moved").to_string());
    assert_eq!(daemon.post_status(packed), 202);
    daemon.wait_until("the rotation took effect", |daemon| connected_dids(daemon) == [new.did()]);
    let again = rotation(&alice, Some(mallory.did()));
    let packed = mallory.authcrypt(&to).seal(with(&mallory, &again, "she is me now").to_string());
    assert_eq!(daemon.post_status(packed), 202);
    assert_eq!(daemon.post_status(alice.pack_text(&daemon.did, "from the old DID")), 202);
    daemon.wait_until_all_opened();
    assert!(connected_dids(&daemon).contains(&new.did().to_owned()));
    assert!(!daemon.unread_texts().contains(&"from the old DID".to_owned()));
    assert!(daemon.unread_texts().contains(&"I moved".to_owned()));
}

/// A message that ends a relationship is anonymous, so anyone who has its from_prior can send it again. Such a message
/// must end only a relationship that began before it was issued.
#[test]
fn an_ending_closes_only_earlier_relationships() {
    let Some(daemon) = Daemon::running("") else { return };
    let (alice, bob) = (Peer::new("alice"), Peer::new("bob"));
    let early = ending(&bob, seconds() - 1000);
    for peer in [&alice, &bob] {
        assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, "hello")), 202);
    }
    daemon.wait_until_all_opened();
    let send = |prior: &str| {
        let text = json!({
            "id": Message::new_id(), "type": "https://didcomm.org/empty/1.0/empty", "to": [daemon.did], "body": {},
            "created_time": seconds(), "from_prior": prior,
        });
        assert_eq!(daemon.post_status(Jwe::anoncrypt(&daemon.agreement_keys()).seal(text.to_string())), 202);
        daemon.wait_until_all_opened();
    };
    // An ending from before the relationship began, and one that Mallory signed.
    send(&early);
    let header = json!({"typ": "JWT", "alg": "EdDSA", "kid": bob.kid(SIGN[0])});
    let mallory = Peer::new("mallory");
    let claims = json!({"iss": bob.did(), "iat": seconds()});
    send(&jwt(&mallory.person, &mallory.person.sign[0], &header, &claims));
    send(&ending(&alice, seconds() + 1));
    for peer in [&alice, &bob] {
        assert_eq!(
            daemon.post_status(peer.pack_text(&daemon.did, if peer.did() == bob.did() { "Bob" } else { "Alice" })),
            202
        );
    }
    daemon.wait_until_all_opened();
    assert_eq!(daemon.unread_texts(), ["hello", "hello", "Bob"]);
    // No message is sent to Alice any more.
    let message =
        json!({"to": alice.did(), "from": daemon.did, "type": SAY, "body": {"content": "come back"}, "hold": true});
    assert_eq!(ApiClient::new(&daemon).post("/v1/messages", &message).error(409), "connection-ended");
}

/// A from_prior that rotates `old` to `new`.
fn rotation(old: &Peer, new: Option<&str>) -> String {
    let header = json!({"typ": "JWT", "alg": "EdDSA", "kid": old.kid(SIGN[0])});
    let claims = json!({"iss": old.did(), "sub": new, "iat": seconds()});
    jwt(&old.person, &old.person.sign[0], &header, &claims)
}

/// A from_prior that ends the relationship of `old`, issued at `iat`.
fn ending(old: &Peer, iat: u64) -> String {
    let header = json!({"typ": "JWT", "alg": "EdDSA", "kid": old.kid(SIGN[0])});
    jwt(&old.person, &old.person.sign[0], &header, &json!({"iss": old.did(), "iat": iat}))
}

/// The DIDs of the peers with a connection.
fn connected_dids(daemon: &Daemon) -> Vec<String> {
    let answer = ApiClient::new(daemon).get("/v1/connections").json(200);
    let connections = answer["connections"].as_array().unwrap();
    connections.iter().map(|it| it["theirs"].as_str().unwrap().to_owned()).collect()
}
