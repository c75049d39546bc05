//! The outbox as an application and a person see it: what is refused at once, why a message waits, cancel and retry.

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::{Value, json};

use crate::{
    api_client::{ApiClient, SAY, SETTLE_TIME},
    daemon::{Daemon, free_port},
    endpoint::{Endpoint, accepted},
    peer::{Peer, seconds},
};

const DID_KEY: &str = "did:key:z6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc";
/// A key on P-384, on which the daemon has none.
const P384_KEY: &str = "did:key:z82Lm1MpAkeJcix9K8TMiLd5NMAhnwkjjCBeWHXyu3U4oT2MVJJKXkcVBgjGhnLBn2Kaau9";

fn message_to(to: &str) -> Value {
    json!({ "to": to, "type": SAY, "body": { "content": "hello" } })
}

/// A message that can never be sent is refused, and the reason is said. Before, it was accepted, and waited for days.
#[test]
fn what_can_be_known_at_once_is_refused_at_once() {
    let Some(daemon) = Daemon::running("") else { return };
    let api = ApiClient::new(&daemon);
    let whole = Peer::with_endpoint("peer", "http://127.0.0.1:1/").did().to_owned();
    let refused = |message: &Value| {
        let answer = api.post("/v1/messages", message);
        let code = answer.error(400);
        (code, answer.json(400)["error"]["message"].as_str().unwrap().to_owned())
    };
    for (to, reason) in [
        ("did:peer:2…", "is not a DID"),
        ("did:peer:2", "did:peer:2"),
        // Cut off within a key, and within a service.
        (&whole[..40], "did:peer"),
        (&whole[..whole.len() - 10], "did:peer"),
        ("did:nosuch:abc", "method is not supported"),
        ("did:web:example..com", "did:web"),
        ("did:webvh:abc:example.com", "did:webvh"),
        (P384_KEY, "curve"),
        ("did:key:z6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc#other", "fragment"),
        ("did:key:z6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc?versionId=1", "Name the DID alone"),
    ] {
        let (code, message) = refused(&message_to(to));
        assert_eq!(code, "bad-message", "{to}: {message}");
        assert!(message.contains(reason), "{to}: {message}");
    }
    let (code, message) = refused(&message_to(DID_KEY));
    assert_eq!(code, "no-endpoint");
    assert!(message.contains("names no endpoint") && message.contains("hold"), "{message}");
    let nothing_speaks = Peer::with_endpoint("peer", "gopher://127.0.0.1/");
    let (code, message) = refused(&message_to(nothing_speaks.did()));
    assert!(code == "no-endpoint" && message.contains("scheme"), "{code}: {message}");
    let mut expired = message_to(&whole);
    expired["headers"] = json!({ "expires_time": seconds() - 1 });
    assert!(refused(&expired).1.contains("expired"));
    assert_eq!(daemon.run(&["send", "--to", DID_KEY, "hello"]).error(1), "no-endpoint");
    assert_eq!(api.get("/v1/messages").json(200)["messages"], json!([]), "nothing was stored");

    // A person may want to wait all the same. From then on there is a connection.
    let held = daemon.json(&["send", "--to", DID_KEY, "--hold", "hello"]);
    assert_eq!(daemon.outbox_message(held["id"].as_str().unwrap())["state"], "waiting");
    assert_eq!(api.post("/v1/messages", &message_to(DID_KEY)).status, 202);
    // A peer without an endpoint that has written gets its messages when it connects again.
    let peer = Peer::new("peer");
    assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, "hello")), 202);
    daemon.wait_until("the message arrived", |daemon| daemon.unread_texts() == ["hello"]);
    assert_eq!(api.post("/v1/messages", &message_to(peer.did())).status, 202);
}

/// Each waiting message tells why it waits and when it is tried next: also one that waits behind another, and one whose token
/// is away.
#[test]
fn each_message_tells_why_it_waits() {
    let Some(mut daemon) = Daemon::running("") else { return };
    let (port, away) = (free_port(), "http://127.0.0.1");
    let peer = Peer::with_endpoint("away", &format!("{away}:{port}"));
    let ids: Vec<String> = (0..6).map(|number| daemon.send_text(peer.did(), &number.to_string()).unwrap()).collect();
    daemon.wait_until("all messages wait for the peer", |daemon| {
        ids.iter().all(|id| daemon.outbox_message(id)["waits_for"] == "peer")
    });
    daemon.wait_until("each has a reason and a time", |daemon| {
        let now = i64::try_from(seconds()).unwrap() * 1000;
        ids.iter().all(|id| {
            let message = daemon.outbox_message(id);
            message["state"] == "waiting"
                && message["problem"].as_str().is_some_and(|problem| problem.contains("127.0.0.1"))
                && message["next_try"].as_i64().is_some_and(|next| next > now - 60_000)
        })
    });
    let listed = daemon.json(&["outbox", "list"]);
    let found: Vec<&Value> = listed["messages"].as_array().unwrap().iter().map(|message| &message["id"]).collect();
    assert_eq!(found, ids.iter().map(|id| json!(id)).collect::<Vec<_>>().iter().collect::<Vec<_>>());
    let shown = daemon.home.run("outbox list").success().to_owned();
    assert_eq!(shown.matches("waits for the peer").count(), 6, "also while one is tried: {shown}");
    assert!(shown.contains("next try in"), "{shown}");

    // The agent starts without its token: nothing opens the store.
    daemon.stop();
    daemon.disconnect_token();
    daemon.start_without_token();
    let message = daemon.outbox_message(&ids[5]);
    assert_eq!((&message["waits_for"], &message["next_try"]), (&json!("token"), &Value::Null));
    assert!(message["problem"].as_str().unwrap().contains("no token"), "{message}");
    daemon.reconnect_token();
    daemon.wait_until_token_ready();
    let _back = Endpoint::with_listener(TcpListener::bind(("127.0.0.1", port)).unwrap(), |_| accepted());
    daemon.wait_until("all are sent", |daemon| {
        ids.iter().all(|id| {
            let message = daemon.outbox_message(id);
            message["state"] == "sent" && message["waits_for"].is_null() && message["next_try"].is_null()
        })
    });
}

/// A person names messages by the beginnings of their ids, or by the peer.
#[test]
fn messages_are_named_by_their_beginning_or_their_peer() {
    let Some(daemon) = Daemon::running("") else { return };
    let port = free_port();
    let peer = Peer::with_endpoint("away", &format!("http://127.0.0.1:{port}"));
    let ids: Vec<String> = (0..4).map(|number| daemon.send_text(peer.did(), &number.to_string()).unwrap()).collect();
    let state = |id: &str| daemon.outbox_message(id)["state"].as_str().unwrap().to_owned();
    let cancelled = daemon.json(&["outbox", "cancel", &ids[0][..10]]);
    assert_eq!(cancelled["messages"][0]["id"], ids[0]);
    assert_eq!([&ids[0], &ids[1]].map(|id| state(id)), ["cancelled", "waiting"]);
    assert_eq!(daemon.run(&["outbox", "cancel", &ids[1][..2]]).error(1), "not-found", "too short for a name");
    let unknown = daemon.run(&["outbox", "retry", &ids[1], "nosuchmessage"]);
    assert_eq!(unknown.error(1), "not-found");
    assert!(unknown.stderr().contains("nosuchmessage: there is no such message"), "{}", unknown.stderr());

    // The peer is back: one message is tried, and the others follow.
    let busy = Endpoint::with_listener(TcpListener::bind(("127.0.0.1", port)).unwrap(), |_| accepted());
    let tried = daemon.json(&["outbox", "retry", "--to", peer.did()]);
    assert_eq!(tried["messages"].as_array().unwrap().len(), 1, "{tried}");
    daemon.wait_until("all are sent", |_| ids[1..].iter().all(|id| state(id) == "sent"));
    drop(busy);

    let more: Vec<String> = (0..3).map(|number| daemon.send_text(peer.did(), &number.to_string()).unwrap()).collect();
    let asked = daemon.run(&["outbox", "cancel", "--to", peer.did()]);
    assert!(asked.stderr().contains("not-confirmed"), "{}", asked.stderr());
    daemon.run(&["outbox", "cancel", "--to", peer.did(), "--yes"]).success();
    assert!(more.iter().all(|id| state(id) != "waiting"));
    assert_eq!(daemon.run(&["send", "--to", peer.did(), " "]).error(2), "bad-message", "an empty text");
    let shown = daemon.home.run("outbox --state cancelled").success().to_owned();
    assert!(shown.contains("UTC  to ") && !shown.contains("cannot connect"), "{shown}");
}

#[test]
fn a_message_is_tried_now_when_somebody_asks() {
    let Some(daemon) = Daemon::running("") else { return };
    let api = ApiClient::new(&daemon);
    let count = Arc::new(AtomicUsize::new(0));
    let counting = count.clone();
    // The peer asks for a pause that is longer than this test waits.
    let busy = Endpoint::new(move |_| match counting.fetch_add(1, Ordering::SeqCst) {
        0 | 1 => (503, "retry-after: 500\r\n".to_owned(), String::new()),
        _ => accepted(),
    });
    let peer = Peer::with_endpoint("busy", &busy.uri());
    let first = daemon.send_text(peer.did(), "first").unwrap();
    daemon.wait_until("the peer has a long pause", |daemon| {
        let next = daemon.outbox_message(&first)["next_try"].as_i64();
        next.is_some_and(|next| next > (i64::try_from(seconds()).unwrap() + 100) * 1000)
    });
    let second = daemon.send_text(peer.did(), "second").unwrap();
    let tried = api.request("POST", &format!("/v1/messages/{first}/retry"), "", "").json(202);
    assert_eq!((&tried["id"], &tried["state"]), (&json!(first), &json!("waiting")));
    daemon.wait_until("it was tried again", |_| count.load(Ordering::SeqCst) == 2);
    daemon.wait_until("it is recorded", |daemon| daemon.outbox_message(&first)["tries"] == 2);
    // The last one goes first if it is asked for, and the other follows.
    assert_eq!(daemon.json(&["outbox", "retry", &second])["messages"][0]["id"], second);
    daemon.wait_until("both are sent", |daemon| {
        [&first, &second].iter().all(|id| daemon.outbox_message(id)["state"] == "sent")
    });
    let texts: Vec<Value> = busy.messages().iter().map(|packed| peer.open(packed).0.body["content"].clone()).collect();
    assert_eq!(texts, ["first", "first", "second", "first"]);
    assert_eq!(daemon.run(&["outbox", "retry", &first]).error(1), "not-waiting");
    assert_eq!(api.request("POST", "/v1/messages/none/retry", "", "").error(404), "not-found");
}

/// A server that failed several times is paused, and a request to retry ends the pause of the server too.
#[test]
fn a_retry_does_not_wait_for_the_pause_of_a_server() {
    let Some(daemon) = Daemon::running("") else { return };
    let port = free_port();
    let peer = Peer::with_endpoint("away", &format!("http://127.0.0.1:{port}"));
    let id = daemon.send_text(peer.did(), "hello").unwrap();
    let now = || i64::try_from(seconds()).unwrap() * 1000;
    let mut next_try = 0;
    daemon.wait_until("the pause is five seconds", |daemon| {
        next_try = daemon.outbox_message(&id)["next_try"].as_i64().unwrap_or_default();
        next_try > now() + 6_000
    });
    let back = Endpoint::with_listener(TcpListener::bind(("127.0.0.1", port)).unwrap(), |_| accepted());
    // The command may take seconds to start on a busy machine.
    ApiClient::new(&daemon).request("POST", &format!("/v1/messages/{id}/retry"), "", "").json(202);
    daemon.wait_until("it is sent", |_| back.messages().len() == 1);
    assert!(now() < next_try, "the pause was over");
}

#[test]
fn a_cancelled_message_is_not_sent() {
    let Some(mut daemon) = Daemon::running("") else { return };
    let api = ApiClient::new(&daemon);
    let port = free_port();
    let peer = Peer::with_endpoint("away", &format!("http://127.0.0.1:{port}"));
    let ids: Vec<String> = (0..5).map(|number| daemon.send_text(peer.did(), &number.to_string()).unwrap()).collect();
    let cancel = |id: &str| api.request("POST", &format!("/v1/messages/{id}/cancel"), "", "");
    // A repetition changes nothing.
    for _ in 0..2 {
        let cancelled = cancel(&ids[1]).json(200);
        assert_eq!((&cancelled["state"], &cancelled["waits_for"]), (&json!("cancelled"), &Value::Null));
    }
    let cancelled = daemon.json(&["outbox", "cancel", &ids[3], &ids[4]]);
    assert_eq!(cancelled["messages"].as_array().unwrap().len(), 2);
    assert_eq!(cancel("none").error(404), "not-found");
    assert_eq!(daemon.run(&["outbox", "cancel", "none"]).error(1), "not-found");
    let retry = api.request("POST", &format!("/v1/messages/{}/retry", ids[1]), "", "");
    assert_eq!(retry.error(409), "not-waiting");

    // The lists: by state, by peer, in pages.
    let list = |query: &str| {
        let (mut found, mut after) = (Vec::new(), String::new());
        loop {
            let page = api.get(&format!("/v1/messages?limit=2&after={after}{query}")).json(200);
            let messages = page["messages"].as_array().unwrap().clone();
            assert!(messages.len() <= 2);
            if messages.is_empty() {
                return found;
            }
            found.extend(messages.iter().map(|it| it["id"].as_str().unwrap().to_owned()));
            page["cursor"].as_str().unwrap().clone_into(&mut after);
        }
    };
    let of = |numbers: &[usize]| numbers.iter().map(|number| ids[*number].clone()).collect::<Vec<_>>();
    assert_eq!(list(""), of(&[0, 1, 2, 3, 4]));
    assert_eq!(list("&state=waiting"), of(&[0, 2]));
    assert_eq!(list("&state=cancelled"), of(&[1, 3, 4]));
    assert_eq!(list(&format!("&state=waiting&to={}", peer.did())), of(&[0, 2]));
    assert_eq!(list(&format!("&to={}", daemon.did)), of(&[]));
    assert_eq!(list("&state=failed"), of(&[]));
    for invalid in ["state=lost", "after=x", "after=1.2.3", "limit=0", "limit=1001", "x=1"] {
        assert_eq!(api.get(&format!("/v1/messages?{invalid}")).error(400), "bad-request", "{invalid}");
    }
    let thread = daemon.json(&["outbox", "list", "--state", "cancelled"]);
    assert_eq!(thread["messages"].as_array().unwrap().len(), 3);

    // Also after a restart, and when the peer is back.
    daemon.kill();
    daemon.start();
    let back = Endpoint::with_listener(TcpListener::bind(("127.0.0.1", port)).unwrap(), |_| accepted());
    daemon.wait_until("the others are sent", |daemon| {
        [0, 2].iter().all(|number| daemon.outbox_message(&ids[*number])["state"] == "sent")
    });
    std::thread::sleep(SETTLE_TIME);
    let mut texts: Vec<String> =
        back.messages().iter().map(|packed| peer.open(packed).0.body["content"].as_str().unwrap().to_owned()).collect();
    texts.sort();
    assert_eq!(texts, ["0", "2"]);
    assert_eq!(cancel(&ids[0]).error(409), "not-waiting");
}
