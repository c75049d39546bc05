//! Messages that cannot be opened although they were accepted: their senders are unknown, or what is inside is for
//! others. They take little room and little of the token's time.

use std::sync::atomic::{AtomicUsize, Ordering};

use claviger::{crypto::ContentEncryption, keys::Curve};
use claviger_testkit::PrivateKey;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    daemon::Daemon,
    endpoint::Endpoint,
    peer::{AGREE, Peer, keys_of},
    support::forge::{Jwe, b64},
};

/// The short form of a did:peer:4 that nobody has.
fn unknown_short_form(number: usize) -> String {
    let mut multihash = vec![0x12, 0x20];
    multihash.extend(Sha256::digest(number.to_string()));
    format!("did:peer:4z{}", bs58::encode(multihash).into_string())
}

/// An envelope of which only the form is right: anyone can make it without cryptography.
fn forged(daemon: &Daemon, skid: &str) -> Value {
    let mut jwe = Jwe::anoncrypt(&daemon.agreement_keys());
    jwe.header["alg"] = "ECDH-1PU+A256KW".into();
    jwe.header["enc"] = ContentEncryption::A256CbcHs512.name().into();
    jwe.header["skid"] = skid.into();
    jwe.header["apu"] = b64(skid).into();
    jwe.header["epk"] = serde_json::json!(PrivateKey::generate(Curve::X25519).public().to_jwk());
    jwe.seal("no")
}

/// How often tokens were asked for a content key.
fn unwraps(daemon: &Daemon) -> f64 {
    let metrics = daemon.get_ops("/metrics");
    let lines = metrics.lines().filter(|line| line.starts_with("claviger_token_operations_total{kind=\"unwrap"));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

/// Envelopes whose senders nobody can resolve do not take the room of others.
#[test]
fn forged_envelopes_do_not_lock_honest_peers_out() {
    let Some(daemon) = Daemon::running("[store]\nmax_waiting_for = 200\n") else { return };
    let mut accepted = 0;
    for number in 0..200 {
        let did = unknown_short_form(number);
        let status = daemon.post_status(forged(&daemon, &format!("{did}#key-1")));
        assert!([202, 503].contains(&status), "{status}");
        accepted += usize::from(status == 202);
    }
    let honest = Peer::new("honest");
    assert_eq!(daemon.post_status(honest.pack_text(&daemon.did, "lunch?")), 202);
    daemon.wait_until("the honest message arrived", |daemon| daemon.unread_texts() == ["lunch?"]);
    assert!(accepted <= 20, "{accepted} of the room for 200");
    assert_eq!(unwraps(&daemon), 1.0, "the token is asked for the honest message only");
}

/// The same if they come in the responses of a server to which the daemon sends.
#[test]
fn messages_in_responses_take_no_room_of_others() {
    let Some(daemon) = Daemon::running("[store]\nmax_waiting_for = 40\n") else { return };
    let skid = |number| format!("{}#key-1", unknown_short_form(number));
    let envelopes: Vec<String> = (0..40).map(|number| forged(&daemon, &skid(number)).to_string()).collect();
    let next = AtomicUsize::new(0);
    let endpoint = Endpoint::new(move |_| {
        let number = next.fetch_add(1, Ordering::SeqCst);
        (200, String::new(), envelopes[number % envelopes.len()].clone())
    });
    let peer = Peer::with_endpoint("peer", &endpoint.uri());
    for number in 0..40 {
        daemon.send_text(peer.did(), &number.to_string()).unwrap();
    }
    daemon.wait_until("all messages are sent", |_| endpoint.messages().len() >= 40);
    let honest = Peer::new("honest");
    assert_eq!(daemon.post_status(honest.pack_text(&daemon.did, "lunch?")), 202);
    daemon.wait_until("the honest message arrived", |daemon| daemon.unread_texts() == ["lunch?"]);
    assert!(daemon.metric("claviger_waiting{queue=\"inbox\"}") <= 4.0, "a tenth of the room");
}

/// An envelope of an unknown sender is given up after its time.
#[test]
fn an_unknown_sender_is_not_waited_for_long() {
    let Some(daemon) = Daemon::running("[agent]\nwait_for_stranger_minutes = 0\n") else { return };
    let packed = forged(&daemon, &format!("{}#key-1", unknown_short_form(0)));
    assert_eq!(daemon.post_status(packed), 202);
    daemon.wait_until_all_opened();
    let result = "claviger_messages_handled_total{protocol=\"unopened\",result=\"unresolved\"}";
    assert_eq!(daemon.metric(result), 1.0);
    let reason = "the long form of this DID is not known yet (waited ";
    assert!(daemon.log().contains(reason), "{}", daemon.log());
}

/// An anoncrypt to us with an envelope for someone else inside costs one operation, and is refused.
#[test]
fn an_envelope_for_others_inside_is_tried_once() {
    let Some(daemon) = Daemon::running("") else { return };
    let (mallory, other) = (Peer::new("mallory"), Peer::new("other"));
    for number in 0..5 {
        let inner = mallory.authcrypt(&keys_of(other.did())[..1]);
        let inner = inner.seal(mallory.plaintext(other.did(), &number.to_string()).to_string());
        assert_eq!(daemon.post_status(Jwe::anoncrypt(&daemon.agreement_keys()).seal(inner.to_string())), 202);
    }
    daemon.wait_until("all are refused", |daemon| daemon.log().matches("message refused").count() == 5);
    daemon.wait_until_all_opened();
    assert_eq!(unwraps(&daemon), 5.0);
}

/// An anoncrypt to us with an envelope of an unknown sender inside costs one operation with each attempt, so the
/// attempts are few.
#[test]
fn an_envelope_of_an_unknown_sender_inside_is_tried_a_few_times() {
    let Some(daemon) = Daemon::running("[agent]\nmax_attempts = 2\n") else { return };
    let skid = format!("{}#{}", unknown_short_form(0), AGREE[0]);
    let outer = Jwe::anoncrypt(&daemon.agreement_keys()).seal(forged(&daemon, &skid).to_string());
    assert_eq!(daemon.post_status(outer), 202);
    daemon.wait_until_all_opened();
    assert_eq!(unwraps(&daemon), 2.0);
}
