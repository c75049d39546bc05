//! Two daemons connect and exchange messages.

use crate::daemon::Daemon;

#[test]
fn two_agents_connect_by_invitation_and_exchange_messages() {
    let (Some(alice), Some(bob)) = (Daemon::running(""), Daemon::running("")) else { return };
    let picture = alice.home.path().join("invitation.svg");
    let svg = ["--svg", picture.to_str().unwrap()];
    let invitation =
        alice.json(&[&["invite", "--goal", "lunch", "--goal-code", "org.example.lunch"][..], &svg].concat());
    let url = invitation["url"].as_str().unwrap();
    assert!(url.starts_with(&format!("http://127.0.0.1:{}/?_oob=", alice.port)), "{url}");
    assert!(std::fs::read_to_string(picture).unwrap().contains("<svg"));

    let accepted = bob.json(&["accept", url, "--label", "Alice"]);
    assert_eq!((&accepted["theirs"], &accepted["goal"]), (&alice.did.clone().into(), &"lunch".into()));
    alice.wait_until("Bob is known", |alice| {
        let known = alice.json(&["connections"]);
        known["connections"][0]["theirs"] == bob.did && known["connections"][0]["invitation"] == invitation["id"]
    });
    assert_eq!(bob.json(&["connections"])["connections"][0]["label"], "Alice");

    let pong = bob.json(&["ping", &alice.did]);
    assert_eq!(pong["did"], alice.did);
    bob.json(&["send", "--to", &alice.did, "lunch at noon?", "--within", "30"]);
    alice.wait_until("the message arrived", |alice| alice.unread_texts() == ["lunch at noon?"]);
    let page = alice.json(&["inbox"]);
    let message = &page["messages"][0];
    assert_eq!((&message["sender"], &message["recipient"]), (&bob.did.clone().into(), &alice.did.clone().into()));
    assert_eq!(message["provenance"]["authenticated"], true);
    assert_eq!(message["provenance"]["layers"][0]["custody"], "kek-in-process");

    // A message is listed until it is acknowledged.
    assert_eq!(alice.json(&["inbox", "--acknowledge"])["messages"].as_array().unwrap().len(), 1);
    assert_eq!(alice.json(&["inbox"])["messages"].as_array().unwrap().len(), 0);
}

/// Messages survive on both sides when the daemons are killed or stopped before delivery.
#[test]
fn queued_messages_are_sent_after_a_restart() {
    let (Some(mut alice), Some(mut bob)) = (Daemon::running(""), Daemon::running("")) else { return };
    alice.kill();
    for number in 0..5 {
        bob.json(&["send", "--to", &alice.did, &number.to_string()]);
    }
    bob.wait_until("the agent tried to send", |bob| bob.log().contains("not sent yet"));
    bob.stop();
    alice.start();
    bob.start();
    alice.wait_until("all messages arrived", |alice| {
        let mut texts = alice.unread_texts();
        texts.sort();
        texts == ["0", "1", "2", "3", "4"]
    });
    alice.kill();
    alice.start();
    assert_eq!(alice.unread_texts().len(), 5);
}

/// Without its token a daemon accepts messages, and opens them when the token is back.
#[test]
fn messages_wait_encrypted_without_a_token() {
    let (Some(mut alice), Some(bob)) = (Daemon::new(""), Daemon::running("")) else { return };
    alice.disconnect_token();
    alice.start_without_token();
    assert!(alice.get_ops("/ready/token").starts_with("HTTP/1.1 503"));
    for number in 0..3 {
        bob.json(&["send", "--to", &alice.did, &number.to_string(), "--within", "30"]);
    }
    assert_eq!(alice.metric("claviger_waiting{queue=\"inbox\"}"), 3.0);
    alice.reconnect_token();
    alice.wait_until("all messages are opened", |alice| alice.is_token_ready() && alice.unread_texts().len() == 3);
}
