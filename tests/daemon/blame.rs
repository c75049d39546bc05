//! Who is blamed for a message that does not open: no passing fault of the token loses a message, and a message that
//! was not made for our keys is refused soon.

use std::time::Duration;

use serde_json::Value;

use crate::{faulty_token::FaultyDaemon, peer::Peer};

const MINUTE: Duration = Duration::from_secs(60);

/// CKR_GENERAL_ERROR, CKR_ARGUMENTS_BAD, CKR_DATA_INVALID, CKR_DEVICE_ERROR, CKR_ENCRYPTED_DATA_INVALID,
/// CKR_KEY_FUNCTION_NOT_PERMITTED, CKR_MECHANISM_PARAM_INVALID, CKR_PUBLIC_KEY_INVALID.
const CODES: [&str; 8] = ["0x5", "0x7", "0x20", "0x30", "0x40", "0x68", "0x71", "0x1b9"];

/// The messages that neither arrived nor wait, of these.
fn lost(faulty: &FaultyDaemon, sent: &[String]) -> Vec<String> {
    let daemon = &faulty.daemon;
    daemon.wait_until_within(4 * MINUTE, "no message waits", |daemon| {
        daemon.metric("claviger_waiting{queue=\"inbox\"}") == 0.0
    });
    let here = daemon.unread_texts();
    sent.iter().filter(|content| !here.contains(content)).cloned().collect()
}

#[test]
fn no_message_is_lost_while_a_third_of_the_derivations_fail() {
    let Some(faulty) = FaultyDaemon::running("") else { return };
    let mut sent = Vec::new();
    for code in CODES {
        faulty.shim.order(&[&format!("fail C_DeriveKey {code} one-in 3 seed {}", sent.len())]);
        let (_, before) = faulty.shim.calls_and_failures();
        let peers = [Peer::new("one"), Peer::new("other")];
        for number in 0..60 {
            let content = format!("{code}, message {number}");
            assert_eq!(faulty.daemon.post_status(peers[number % 2].pack_text(&faulty.daemon.did, &content)), 202);
            sent.push(content);
        }
        faulty.daemon.wait_until("calls fail", |_| faulty.shim.calls_and_failures().1 > before + 10);
    }
    faulty.shim.order(&[]);
    assert_eq!(lost(&faulty, &sent), Vec::<String>::new());
}

/// Three calls of one operation fail with a good call between them, or one call fails with a code that blames an
/// argument. YubiHSM's module returns CKR_ENCRYPTED_DATA_INVALID for a dead session.
#[test]
fn one_failed_operation_loses_no_message() {
    let Some(faulty) = FaultyDaemon::running("") else { return };
    let peer = Peer::new("peer");
    let mut sent = Vec::new();
    for code in CODES {
        for calls in [&[1, 3, 4][..], &[1], &[1, 2], &[1, 3, 4, 6, 7]] {
            let orders: Vec<_> = calls.iter().map(|call| format!("fail C_DeriveKey {code} at {call}")).collect();
            faulty.shim.order(&orders.iter().map(String::as_str).collect::<Vec<_>>());
            let content = format!("{code}, calls {calls:?}");
            assert_eq!(faulty.daemon.post_status(peer.pack_text(&faulty.daemon.did, &content)), 202);
            sent.push(content);
        }
    }
    faulty.shim.order(&[]);
    assert_eq!(lost(&faulty, &sent), Vec::<String>::new());
}

/// A device that returns a wrong secret now and then, without an error, looks like a peer that wrapped its key wrongly.
#[test]
fn no_message_is_lost_while_secrets_are_wrong() {
    let Some(faulty) = FaultyDaemon::running("") else { return };
    let peer = Peer::new("peer");
    faulty.shim.order(&["wrong C_DeriveKey"]);
    let mut sent: Vec<_> = (0..20).map(|number| format!("always wrong, message {number}")).collect();
    for content in &sent {
        assert_eq!(faulty.daemon.post_status(peer.pack_text(&faulty.daemon.did, content)), 202);
    }
    faulty.daemon.wait_until("the token is out of service", |daemon| !daemon.is_token_ready());
    faulty.shim.order(&[]);
    faulty.daemon.wait_until_token_ready();
    for call in 1..=8 {
        faulty.shim.order(&[&format!("wrong C_DeriveKey at {call}")]);
        let content = format!("wrong at call {call}");
        assert_eq!(faulty.daemon.post_status(peer.pack_text(&faulty.daemon.did, &content)), 202);
        sent.push(content);
    }
    faulty.shim.order(&[]);
    assert_eq!(lost(&faulty, &sent), Vec::<String>::new());
}

/// A valid authcrypt message whose wrapped content key was changed.
fn garbage(mallory: &Peer, faulty: &FaultyDaemon) -> Value {
    let keys = faulty.daemon.agreement_keys();
    let mut packed = mallory.authcrypt(&keys[..1]).seal(mallory.plaintext(&faulty.daemon.did, "no").to_string());
    let wrapped = packed["recipients"][0]["encrypted_key"].as_str().unwrap().to_owned();
    let first = if wrapped.starts_with('A') { "B" } else { "A" };
    packed["recipients"][0]["encrypted_key"] = format!("{first}{}", &wrapped[1..]).into();
    packed
}

/// Each message that was not made for our key costs a bounded number of token operations, and nothing else suffers.
#[test]
fn a_message_for_another_key_is_refused_soon() {
    let Some(faulty) = FaultyDaemon::running("") else { return };
    let FaultyDaemon { daemon, shim } = &faulty;
    let (mallory, peer) = (Peer::new("mallory"), Peer::new("peer"));
    let before = shim.calls("C_DeriveKey");
    let mut honest = Vec::new();
    for number in 0..100 {
        assert_eq!(daemon.post_status(garbage(&mallory, &faulty)), 202);
        if number % 5 == 0 {
            honest.push(format!("honest, message {number}"));
            assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, &honest[honest.len() - 1])), 202);
        }
    }
    let refused = "claviger_messages_handled_total{protocol=\"unopened\",result=\"refused\"}";
    daemon.wait_until_within(MINUTE, "all bad messages are refused", |daemon| {
        let metrics = daemon.get_ops("/metrics");
        metrics.contains(refused) && daemon.metric(refused) == 100.0
    });
    assert_eq!(lost(&faulty, &honest), Vec::<String>::new());
    // Two attempts at two derivations, some of them repeated, a few checks, and the honest messages.
    let derivations = shim.calls("C_DeriveKey") - before;
    assert!(derivations <= 700, "{derivations} derivations");
    assert!(!daemon.log().contains("out of service"), "{}", daemon.log());
}

/// A token that does not take a certain valid key, and serves all others: the message waits, and nothing else does.
#[test]
fn a_message_whose_key_the_token_refuses_waits() {
    let Some(faulty) = FaultyDaemon::running("") else { return };
    let FaultyDaemon { daemon, shim } = &faulty;
    let (refused, peer) = (Peer::new("refused"), Peer::new("peer"));
    let hex: String = refused.person.agree[0].as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    for code in ["0x5", "0x71"] {
        shim.order(&[&format!("refuse-point {hex} {code}")]);
        for number in 0..5 {
            let content = format!("refused with {code}, message {number}");
            assert_eq!(daemon.post_status(refused.pack_text(&daemon.did, &content)), 202);
        }
        let content = format!("served in spite of {code}");
        assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, &content)), 202);
        daemon.wait_until("the other peer's message arrived", |daemon| daemon.unread_texts().contains(&content));
    }
    daemon.wait_until("the messages were tried", |daemon| daemon.log().matches("refused valid input").count() > 9);
    assert!(!daemon.log().contains("message refused") && !daemon.log().contains("out of service"), "{}", daemon.log());
    shim.order(&[]);
    daemon.wait_until("all messages arrived", |daemon| daemon.unread_texts().len() == 12);
}

/// Such a message is let go in the end, and the log does not say whose fault it is.
#[test]
fn a_message_that_the_token_always_refuses_is_let_go() {
    let more = "[agent]\nrefused_minutes = 0\nrefused_attempts = 2\n";
    let Some(faulty) = FaultyDaemon::running(more) else { return };
    let FaultyDaemon { daemon, shim } = &faulty;
    let refused = Peer::new("refused");
    let hex: String = refused.person.agree[0].as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    shim.order(&[&format!("refuse-point {hex} 0x30")]);
    assert_eq!(daemon.post_status(refused.pack_text(&daemon.did, "never")), 202);
    let metric = "claviger_messages_handled_total{protocol=\"unopened\",result=\"unexplained\"} 1";
    daemon.wait_until("the message is let go", |daemon| daemon.get_ops("/metrics").contains(metric));
    assert!(daemon.log().contains("the cause is not known"), "{}", daemon.log());
    assert!(daemon.is_token_ready());
}
