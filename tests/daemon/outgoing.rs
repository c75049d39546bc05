//! Sending to peers that are unreachable, busy, redirect, or refuse one message.

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    api_client::{ApiClient, SAY},
    daemon::{Daemon, free_port},
    endpoint::{Endpoint, accepted},
    peer::Peer,
};

/// The first 20 characters of each message at the endpoint, opened by the peer.
fn contents(peer: &Peer, endpoint: &Endpoint) -> Vec<String> {
    let texts =
        endpoint.messages().into_iter().map(|packed| peer.open(&packed).0.body["content"].as_str().map(str::to_owned));
    texts.map(|content| content.unwrap().chars().take(20).collect()).collect()
}

#[test]
fn an_unreachable_peer_does_not_delay_others() {
    let Some(daemon) = Daemon::running("") else { return };
    let (port, live) = (free_port(), Endpoint::accepting());
    let away = Peer::with_endpoint("away", &format!("http://127.0.0.1:{port}"));
    let here = Peer::with_endpoint("here", &live.uri());
    let ids: Vec<String> = (0..10).map(|number| daemon.send_text(away.did(), &number.to_string()).unwrap()).collect();
    daemon.wait_until("the agent tried to send", |daemon| daemon.outbox_message(&ids[0])["tries"] != 0);
    for number in 0..10 {
        daemon.send_text(here.did(), &number.to_string()).unwrap();
    }
    daemon.wait_until("the other peer has its messages", |_| live.messages().len() == 10);
    assert!(ids.iter().all(|id| daemon.outbox_message(id)["state"] == "waiting"));
    // The peer is back, and gets each message once.
    let back = Endpoint::with_listener(TcpListener::bind(("127.0.0.1", port)).unwrap(), |_| accepted());
    daemon.wait_until("all messages are sent", |daemon| {
        ids.iter().all(|id| daemon.outbox_message(id)["state"] == "sent")
    });
    let mut received = contents(&away, &back);
    received.sort();
    assert_eq!(received, (0..10).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[test]
fn retry_after_is_respected() {
    let Some(daemon) = Daemon::running("") else { return };
    let count = Arc::new(AtomicUsize::new(0));
    let counting = count.clone();
    let busy = Endpoint::new(move |_| match counting.fetch_add(1, Ordering::SeqCst) {
        0 => (503, "retry-after: 3\r\n".to_owned(), String::new()),
        _ => accepted(),
    });
    let peer = Peer::with_endpoint("busy", &busy.uri());
    let begun = Instant::now();
    let id = daemon.send_text(peer.did(), "when you can").unwrap();
    daemon.wait_until("the message is sent", |daemon| daemon.outbox_message(&id)["state"] == "sent");
    assert!(begun.elapsed() >= Duration::from_secs(3), "tried again after {:?}", begun.elapsed());
    assert_eq!(count.load(Ordering::SeqCst), 2);
}

#[test]
fn only_status_307_is_followed() {
    let Some(daemon) = Daemon::running("") else { return };
    let target = Endpoint::accepting();
    let moved = |status: u16| {
        let to = target.uri();
        Endpoint::new(move |_| (status, format!("location: {to}/there\r\n"), String::new()))
    };
    let (followed, others) = (moved(307), [301, 302, 303, 308].map(moved));
    let peer = Peer::with_endpoint("followed", &followed.uri());
    let id = daemon.send_text(peer.did(), "follow me").unwrap();
    let others: Vec<(Peer, &Endpoint)> =
        others.iter().map(|it| (Peer::with_endpoint("other", &it.uri()), it)).collect();
    let not_followed: Vec<String> =
        others.iter().map(|(peer, _)| daemon.send_text(peer.did(), "do not").unwrap()).collect();
    daemon.wait_until("the message is sent", |daemon| daemon.outbox_message(&id)["state"] == "sent");
    daemon.wait_until("the agent tried to send the others", |daemon| {
        not_followed.iter().all(|id| daemon.outbox_message(id)["tries"] != 0)
    });
    assert!(not_followed.iter().all(|id| daemon.outbox_message(id)["state"] != "sent"));
    assert_eq!(contents(&peer, &target), ["follow me"]);
    assert_eq!(target.requests()[0].path, "/there");
    // A circle of redirects ends.
    let port = free_port();
    let circular = Endpoint::with_listener(TcpListener::bind(("127.0.0.1", port)).unwrap(), move |_| {
        (307, format!("location: http://127.0.0.1:{port}/\r\n"), String::new())
    });
    let id = daemon.send_text(Peer::with_endpoint("round", &circular.uri()).did(), "round and round").unwrap();
    daemon.wait_until("the agent tried to send", |daemon| daemon.outbox_message(&id)["tries"] != 0);
    assert!(circular.requests().len() <= 6, "{}", circular.requests().len());
}

/// A message that the peer refuses does not delay the next ones, whether it is given up or retried.
#[test]
fn a_failing_message_does_not_block_later_ones() {
    let Some(daemon) = Daemon::running("") else { return };
    for (status, state) in [(400, "failed"), (500, "waiting"), (413, "failed")] {
        let refusing = Endpoint::new(move |request| match request.body.len() > 50_000 {
            true => (status, String::new(), String::new()),
            false => accepted(),
        });
        let peer = Peer::with_endpoint("refusing", &refusing.uri());
        let bad = daemon.send_text(peer.did(), &"x".repeat(100_000)).unwrap();
        let good: Vec<String> =
            (0..10).map(|number| daemon.send_text(peer.did(), &number.to_string()).unwrap()).collect();
        daemon.wait_until("the others are sent", |daemon| {
            good.iter().all(|id| daemon.outbox_message(id)["state"] == "sent")
        });
        daemon.wait_until("the agent tried to send", |daemon| {
            let bad = daemon.outbox_message(&bad);
            bad["state"] == state && !bad["problem"].is_null()
        });
    }
}

/// With a key of low order, everyone knows the shared secret. The token is not used with it, nor with a key off the
/// curve (`docs/security-model.md`, "Attacks that a receiver must survive").
#[test]
fn invalid_recipient_keys_are_refused_without_the_token() {
    let Some(daemon) = Daemon::running("") else { return };
    // The token has wrapped the store's key at the start.
    let wrapped = || daemon.metric("claviger_token_operations_total{kind=\"wrap\",result=\"done\"}");
    let before = wrapped();
    let x25519 = |u: [u8; 32]| format!("z{}", bs58::encode([&[0xec, 0x01][..], &u].concat()).into_string());
    let p256 = |x: [u8; 32]| format!("z{}", bs58::encode([&[0x80, 0x24, 0x02][..], &x].concat()).into_string());
    let one = std::array::from_fn(|at| u8::from(at == 0));
    for (why, key) in [("low order", x25519([0; 32])), ("low order", x25519(one)), ("not on P-256", p256([0xff; 32]))] {
        // A did:key has only that key. In another document the invalid key is ignored, and no key is left.
        let no_key = "has no keyAgreement key that can be encrypted to";
        for (did, why) in [(format!("did:key:{key}"), why), (format!("did:peer:2.E{key}"), no_key)] {
            let message = json!({ "to": did, "type": SAY, "body": {}, "hold": true });
            let refused = ApiClient::new(&daemon).post("/v1/messages", &message);
            assert_eq!(refused.error(400), "bad-message", "{did}");
            assert!(refused.body.contains(why), "{did}: {}", refused.body);
        }
    }
    assert_eq!(wrapped(), before, "the token was used");
    let live = Endpoint::accepting();
    let peer = Peer::with_endpoint("here", &live.uri());
    daemon.send_text(peer.did(), "a secret").unwrap();
    daemon.wait_until("an honest key is used", |_| contents(&peer, &live) == ["a secret"]);
    assert_eq!(wrapped(), before + 1.0);
}
