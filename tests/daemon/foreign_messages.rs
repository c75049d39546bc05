//! What the daemon does with messages in forms that other libraries write: numbers keep their digits, and a message that is
//! refused after it was opened is reported to its sender, with the header that is wrong.

use std::time::SystemTime;

use claviger::{
    agent::protocol::{report_message::PROBLEM_REPORT, trust_ping::PING},
    didcomm::Message,
};
use serde_json::{Value, json};

use crate::{
    api_client::{ApiClient, SAY},
    daemon::{Daemon, TIMEOUT, free_port},
    endpoint::Endpoint,
    peer::{Peer, keys_of, seconds},
    webhook::{WebhookServer, daemon_with_webhook},
    websocket_client::WebSocketClient,
};

const JSON: &str = "content-type: application/json\r\n";

/// Numbers that are no doubles, or are written in another way than `serde_json` writes doubles.
const NUMBERS: [&str; 7] =
    ["123456789012345678901", "-123456789012345678901", "3.14159265358979323846", "1.50", "1e+400", "-0.0", "1e-7"];

fn numbers() -> String {
    NUMBERS.join(",")
}

#[track_caller]
fn assert_has_numbers(text: &str, count: usize) {
    assert_eq!(text.matches(&format!("[{}]", numbers())).count(), count, "{text}");
}

/// A plaintext with numbers in its body, a header and an attachment.
fn plaintext(from: &str, to: &str) -> String {
    let (id, numbers, time) = (Message::new_id(), numbers(), seconds());
    format!(
        r#"{{"id":"{id}","type":"{SAY}","from":"{from}","to":["{to}"],"created_time":{time}.0,
            "body":{{"content":"numbers","n":[{numbers}]}},"x-numbers":[{numbers}],
            "attachments":[{{"id":"1","data":{{"json":{{"n":[{numbers}]}}}}}}]}}"#
    )
}

/// In the inbox, the events, the webhook, and the command line.
#[test]
fn numbers_arrive_as_they_were_sent() {
    let webhook = WebhookServer::listen(free_port(), &[]);
    let Some(mut alice) = daemon_with_webhook(webhook.port(), "") else { return };
    alice.start();
    let Some(bob) = Daemon::running("") else { return };
    let peer = Peer::new("peer");
    for daemon in [&alice, &bob] {
        let packed = peer.authcrypt(&keys_of(&daemon.did)).seal(plaintext(peer.did(), &daemon.did));
        assert_eq!(daemon.post_status(packed), 202);
    }
    bob.wait_until("the message arrived", |bob| !bob.unread().is_empty());
    let application = ApiClient::new(&bob);
    assert_has_numbers(&application.get("/v1/inbox").body, 3);
    assert_has_numbers(&application.events("/v1/events", "").next().unwrap().data.to_string(), 3);
    assert_has_numbers(&bob.run(&["inbox", "--json"]).stdout().replace([' ', '\n'], ""), 3);
    alice.wait_until("the webhook has the message", |_| webhook.bodies().len() == 1);
    assert_has_numbers(&webhook.bodies()[0], 3);

    // From Bob's application, and from his command line, to Alice's webhook.
    let request = format!(
        r#"{{"to":"{}","from":"{}","type":"{SAY}","body":{{"content":"api","n":[{}]}},"headers":{{"x-numbers":[{}],
            "attachments":[{{"data":{{"json":[{}]}}}}]}}}}"#,
        alice.did,
        bob.did,
        numbers(),
        numbers(),
        numbers()
    );
    assert_eq!(application.request("POST", "/v1/messages", JSON, &request).status, 202);
    alice.wait_until("the webhook has the application's message", |_| webhook.bodies().len() == 2);
    assert_has_numbers(&webhook.bodies()[1], 3);
    let body = format!(r#"{{"content":"cli","n":[{}]}}"#, numbers());
    bob.json(&["send", "--to", &alice.did, "--type", SAY, &body, "--within", "30"]);
    alice.wait_until("the webhook has the command's message", |_| webhook.bodies().len() == 3);
    assert_has_numbers(&webhook.bodies()[2], 1);
}

/// The peer cannot read our log.
#[test]
fn a_refused_message_is_reported_with_its_header() {
    let Some(daemon) = Daemon::running("") else { return };
    let endpoint = Endpoint::accepting();
    let peer = Peer::with_endpoint("peer", &endpoint.uri());
    let keys = keys_of(&daemon.did);
    let send = |change: &dyn Fn(&mut Value)| {
        let mut text = peer.plaintext(&daemon.did, "no");
        change(&mut text);
        assert_eq!(daemon.post_status(peer.authcrypt(&keys).seal(text.to_string())), 202);
        text["id"].as_str().unwrap().to_owned()
    };
    let cases: [(&str, Value, &str); 6] = [
        ("created_time", json!("yesterday"), "must be a whole number of seconds since 1970"),
        ("expires_time", json!(seconds() as f64 + 1000.5), "is a number that is not whole"),
        ("to", json!(daemon.did), "must be an array of strings, and is a string"),
        ("body", json!([]), "is not a JSON object"),
        ("from_prior", json!("no JWT"), "from_prior"),
        ("from", json!("did:example:mallory"), "did:example:mallory"),
    ];
    for (header, value, words) in cases {
        let before = endpoint.messages().len();
        let id = send(&|text| text[header] = value.clone());
        daemon.wait_until("the report arrived", |_| endpoint.messages().len() > before);
        let (report, _) = peer.open(endpoint.messages().last().unwrap());
        assert_eq!((&*report.type_, report.pthid.as_deref()), (PROBLEM_REPORT, Some(&*id)));
        assert_eq!(report.body["code"], "e.m.msg.bad-header");
        assert_eq!(report.body["comment"], "The header {1} of the message is not valid: {2}.");
        assert_eq!(report.body["args"][0], header);
        assert!(report.body["args"][1].as_str().unwrap().contains(words), "{}", report.body);
    }
    assert!(daemon.log().contains("the header created_time must be a whole number of seconds since 1970"));
    // What has one meaning is read.
    let now = SystemTime::now();
    send(&|text| {
        text["created_time"] = humantime::format_rfc3339_millis(now).to_string().into();
        text["body"] = Value::Null;
        text["expires_time"] = json!((seconds() + 1000) as f64);
        text["attachments"] = Value::Null;
    });
    daemon.wait_until("the message arrived", |daemon| daemon.unread().len() == 1);
    let message = &daemon.unread()[0]["message"];
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert_eq!((&message["created_time"], &message["body"]), (&json!(seconds), &json!({})));
    // The same id with a valid header is another message.
    let id = send(&|text| text["created_time"] = true.into());
    daemon.wait_until("the report arrived", |_| endpoint.messages().len() == 7);
    send(&|text| text["id"] = id.clone().into());
    daemon.wait_until("the corrected message arrived", |daemon| daemon.unread().len() == 2);
}

/// A peer without an endpoint gets the report where it waits for replies. Reports are as bounded as all others, also in
/// threads of their own.
#[test]
fn reports_of_refused_messages_are_bounded() {
    let Some(daemon) = Daemon::running("") else { return };
    let peer = Peer::new("peer");
    let keys = keys_of(&daemon.did);
    let bad = |id: &str| {
        let mut text = peer.plaintext(&daemon.did, "no");
        text["id"] = id.into();
        text["expires_time"] = json!("never");
        text["return_route"] = "all".into();
        peer.authcrypt(&keys).seal(text.to_string()).to_string()
    };
    let mut socket = WebSocketClient::open(daemon.port);
    // One report for each of the first 60, as by `ProblemLimits`.
    for number in 0..60 {
        let id = format!("bad-{number}");
        socket.send(&bad(&id)).unwrap();
        let (report, _) = peer.open(&socket.next(TIMEOUT).expect("a report"));
        assert_eq!((report.body["args"][0].as_str(), report.pthid), (Some("expires_time"), Some(id.clone())));
        if number == 0 {
            // A repetition is not reported again.
            socket.send(&bad(&id)).unwrap();
        }
    }
    socket.send(&bad("more")).unwrap();
    daemon.wait_until("all are refused", |daemon| daemon.log().matches("message refused").count() == 62);
    assert!(daemon.log().contains("problem reports to the peer suspended"));
    let mut ping = peer.message(&daemon.did, "").finalize();
    (ping.type_, ping.return_route) = (PING.to_owned(), Some("all".to_owned()));
    let id = ping.id.clone();
    socket.send(&peer.pack(&ping)).unwrap();
    assert_eq!(peer.open(&socket.next(TIMEOUT).expect("the pong")).0.thid, Some(id));
}
