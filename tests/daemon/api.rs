//! The API as an application uses it, with valid and invalid requests.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    api_client::{ApiClient, text},
    daemon::Daemon,
};

const BASIC: &str = "https://didcomm.org/basicmessage/2.0/message";

/// Alice, her API, and Bob, whose messages reach her.
fn alice_and_bob() -> Option<(Daemon, ApiClient, Daemon)> {
    let (alice, bob) = (Daemon::running("")?, Daemon::running("")?);
    let application = ApiClient::new(&alice);
    Some((alice, application, bob))
}

/// Bob sends these texts to Alice, each after the previous one has arrived.
fn send_texts(bob: &Daemon, alice: &Daemon, texts: &[&str]) {
    let before = alice.unread_texts().len();
    for (number, text) in texts.iter().enumerate() {
        bob.json(&["send", "--to", &alice.did, text, "--within", "30"]);
        // The order of messages that are sent together is not guaranteed.
        alice.wait_until("the message arrived", |alice| alice.unread_texts().len() == before + number + 1);
    }
}

#[test]
fn every_endpoint_works() {
    let Some((alice, alice_api, bob)) = alice_and_bob() else { return };
    let bob_api = ApiClient::new(&bob);

    let status = alice_api.get("/v1/status").json(200);
    assert_eq!((&status["token_ready"], &status["waiting"]["deliveries"]), (&json!(true), &json!(0)));
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    let keys = alice_api.get("/v1/tokens").json(200)["keys"].clone();
    assert_eq!((keys[0]["token"].as_str(), keys[0]["state"].as_str()), (Some("soft"), Some("ready")));
    let dids = alice_api.get("/v1/dids").json(200)["dids"].clone();
    assert_eq!((&dids[0]["did"], &dids[0]["missing"]), (&json!(alice.did), &json!([])));
    assert_eq!(dids[0]["document"]["id"], alice.did);

    let new =
        json!({ "from": alice.did, "goal": "lunch", "goal_code": "org.example.lunch", "hours": 1, "qr_codes": true });
    let invited = alice_api.post("/v1/invitations", &new).json(201);
    assert_eq!(invited["invitation"]["body"]["goal"], "lunch");
    assert_eq!(invited["expires"].as_i64().unwrap() - invited["created"].as_i64().unwrap(), 3_600_000);
    let spare = alice_api.post("/v1/invitations", &json!({ "from": alice.did, "multi_use": true })).json(201);
    assert_eq!(alice_api.get("/v1/invitations").json(200)["invitations"].as_array().unwrap().len(), 2);
    let deleted = alice_api.request("DELETE", &format!("/v1/invitations/{}", spare["id"].as_str().unwrap()), "", "");
    assert_eq!((deleted.status, deleted.body.as_str()), (204, ""));
    let left = alice_api.get("/v1/invitations").json(200);
    assert!(invited["svg"].as_str().unwrap().contains("<svg") && left["invitations"][0]["svg"].is_null());
    assert_eq!((&left["invitations"][0]["id"], left["invitations"].as_array().unwrap().len()), (&invited["id"], 1));
    let after = format!("/v1/invitations?after={}", left["cursor"].as_str().unwrap());
    assert_eq!(alice_api.get(&after).json(200)["invitations"], json!([]));

    let accept = json!({ "invitation": invited["url"], "from": bob.did, "label": "Alice" });
    let started = bob_api.post("/v1/invitations/accept", &accept).json(202);
    assert_eq!((&started["theirs"], &started["invitation"]), (&json!(alice.did), &invited["id"]));
    let known = bob_api.get("/v1/connections").json(200);
    assert_eq!(known["connections"][0]["label"], "Alice");
    assert_eq!(bob_api.get("/v1/connections?limit=1").json(200)["connections"].as_array().unwrap().len(), 1);

    let new = json!({
        "from": bob.did, "to": alice.did, "type": BASIC, "body": { "content": "at noon?" },
        "headers": { "thid": "lunch-1", "lang": "en" }, "sign": true,
    });
    let accepted = bob_api.post("/v1/messages", &new).json(202);
    assert_eq!(accepted["thread"], "lunch-1");
    let sending = format!("/v1/messages/{}", accepted["id"].as_str().unwrap());
    bob.wait_until("the message is sent", |_| bob_api.get(&sending).json(200)["state"] == "sent");
    alice.wait_until("the message arrived", |alice| alice.unread_texts() == ["at noon?"]);
    let page = alice_api.get("/v1/inbox").json(200);
    let message = &page["messages"][0];
    assert_eq!((&message["message_id"], &message["thread"]), (&accepted["message_id"], &json!("lunch-1")));
    assert_eq!((&message["sender"], &message["recipient"]), (&json!(bob.did), &json!(alice.did)));
    assert_eq!((&message["message"]["lang"], &message["provenance"]["non_repudiation"]), (&json!("en"), &json!(true)));

    let thread = alice_api.get("/v1/threads/lunch-1").json(200);
    assert_eq!(thread["messages"][0]["state"], "waiting");
    assert_eq!(bob_api.get("/v1/threads/lunch-1").json(200)["messages"][0]["direction"], "sent");
    assert_eq!(bob_api.get("/v1/threads/no-such").json(200)["messages"], json!([]));
    assert_eq!(
        alice_api.post("/v1/inbox/acknowledge", &json!({ "ids": [message["id"]] })).json(200)["acknowledged"],
        1
    );
    assert_eq!(alice_api.get("/v1/threads/lunch-1").json(200)["messages"][0]["state"], "acknowledged");
    no_panic(&[&alice, &bob]);
}

#[test]
fn the_inbox_is_read_in_pages_without_acknowledged_messages() {
    let Some((alice, alice_api, bob)) = alice_and_bob() else { return };
    send_texts(&bob, &alice, &["0", "1", "2", "3", "4"]);
    let texts = |page: &Value| page["messages"].as_array().unwrap().iter().map(text).collect::<Vec<_>>();

    let mut read = Vec::new();
    let mut cursor = 0;
    loop {
        let page = alice_api.get(&format!("/v1/inbox?after={cursor}&limit=2")).json(200);
        read.push(texts(&page).concat());
        if page["messages"] == json!([]) {
            assert_eq!(page["cursor"], cursor, "the cursor of an empty page is that of the request");
            break;
        }
        cursor = page["cursor"].as_i64().unwrap();
    }
    assert_eq!(read, ["01", "23", "4", ""]);

    let whole = alice_api.get("/v1/inbox").json(200);
    let (id, thread) = (&whole["messages"][1]["id"], whole["messages"][1]["thread"].as_str().unwrap());
    assert_eq!(texts(&alice_api.get(&format!("/v1/inbox?thread={thread}")).json(200)), ["1"]);
    assert_eq!(texts(&alice_api.get(&format!("/v1/inbox?sender={}", bob.did)).json(200)).len(), 5);
    assert_eq!(alice_api.get(&format!("/v1/inbox?type={BASIC}&sender=nobody")).json(200)["messages"], json!([]));

    // Unknown and acknowledged ids are ignored.
    for acknowledged in [1, 0] {
        let answer = alice_api.post("/v1/inbox/acknowledge", &json!({ "ids": [id, "no-such"] })).json(200);
        assert_eq!(answer["acknowledged"], acknowledged);
    }
    assert_eq!(texts(&alice_api.get("/v1/inbox").json(200)), ["0", "2", "3", "4"]);
    let all = alice_api.get("/v1/inbox?acknowledged=true").json(200);
    assert_eq!(all["messages"].as_array().unwrap().len(), 5);
    assert_eq!((&all["messages"][1]["id"], &all["messages"][1]["message"]), (id, &Value::Null));
    assert_eq!(all["messages"][1]["provenance"], Value::Null);
}

#[test]
fn events_resume_after_the_last_event_id() {
    let Some((mut alice, alice_api, bob)) = alice_and_bob() else { return };
    send_texts(&bob, &alice, &["0", "1"]);
    let mut events = alice_api.events("/v1/events", "");
    let first = events.next().unwrap();
    assert_eq!((first.kind.as_str(), text(&first.data).as_str()), ("message", "0"));
    assert_eq!(
        (first.id.as_str(), &first.data["sender"]),
        (first.data["cursor"].to_string().as_str(), &json!(bob.did))
    );
    assert_eq!(events.texts(1), ["1"]);
    // Messages that arrive during the stream.
    send_texts(&bob, &alice, &["2"]);
    assert_eq!(events.texts(1), ["2"]);

    let last = format!("last-event-id: {}\r\n", first.id);
    assert_eq!(alice_api.events("/v1/events", &last).texts(2), ["1", "2"]);
    assert_eq!(alice_api.events(&format!("/v1/events?after={}", first.id), "").texts(2), ["1", "2"]);
    assert_eq!(alice_api.events("/v1/events?after=0", &last).texts(1), ["1"], "the header overrides the query");

    // The agent ends without waiting for open event streams.
    alice.stop();
    assert!(events.next().is_none());
    alice.start();
    send_texts(&bob, &alice, &["3"]);
    assert_eq!(alice_api.events("/v1/events", &last).texts(3), ["1", "2", "3"]);
    let id = &first.data["id"];
    assert_eq!(alice_api.post("/v1/inbox/acknowledge", &json!({ "ids": [id] })).json(200)["acknowledged"], 1);
    assert_eq!(alice_api.events("/v1/events", "").texts(3), ["1", "2", "3"]);
}

#[test]
fn invalid_requests_get_their_status_and_code() {
    let Some(alice) = Daemon::running("") else { return };
    let alice_api = ApiClient::new(&alice);
    let did = &alice.did;
    let message = |more: Value| {
        let mut message = json!({ "to": did, "from": did, "type": BASIC });
        message.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        message
    };
    let expired = "https://example.org/?_oob=e30";
    let posts = [
        ("/v1/messages", json!([]), 422, "bad-request"),
        ("/v1/messages", json!({ "to": did }), 422, "bad-request"),
        ("/v1/messages", message(json!({ "tpo": 1 })), 422, "bad-request"),
        ("/v1/messages", message(json!({ "body": "text" })), 422, "bad-request"),
        ("/v1/messages", message(json!({ "from": "did:example:stranger" })), 400, "bad-message"),
        ("/v1/messages", message(json!({ "to": "nobody" })), 400, "bad-message"),
        ("/v1/messages", message(json!({ "type": "no type" })), 400, "bad-message"),
        ("/v1/messages", message(json!({ "headers": { "from": did } })), 400, "bad-message"),
        ("/v1/messages", message(json!({ "headers": { "thid": "t".repeat(1025) } })), 400, "bad-message"),
        ("/v1/messages", message(json!({ "type": format!("{BASIC}{}", "x".repeat(1024)) })), 400, "bad-message"),
        ("/v1/messages", message(json!({ "id": "i".repeat(1025) })), 400, "bad-message"),
        ("/v1/messages", message(json!({ "headers": { "from_prior": "x" } })), 400, "bad-message"),
        ("/v1/messages", message(json!({ "from": null, "anonymous": true, "sign": true })), 400, "bad-message"),
        ("/v1/messages", message(json!({ "body": { "list": vec![1; 20_001] } })), 422, "bad-request"),
        ("/v1/inbox/acknowledge", json!({}), 422, "bad-request"),
        ("/v1/inbox/acknowledge", json!({ "ids": [1] }), 422, "bad-request"),
        ("/v1/inbox/acknowledge", json!({ "ids": [], "all": true }), 422, "bad-request"),
        ("/v1/inbox/acknowledge", json!({ "ids": vec!["x"; 1001] }), 400, "bad-request"),
        ("/v1/invitations", json!({ "from": "did:example:stranger" }), 400, "bad-message"),
        ("/v1/invitations", json!({ "from": did, "hours": -1 }), 422, "bad-request"),
        ("/v1/invitations", json!({ "from": did, "hours": 0 }), 400, "bad-request"),
        ("/v1/invitations", json!({ "from": did, "hours": 87_601 }), 400, "bad-request"),
        ("/v1/invitations", json!({ "from": did, "goal": "x".repeat(1001) }), 400, "bad-request"),
        ("/v1/invitations", json!({ "from": did, "who": "anyone" }), 422, "bad-request"),
        ("/v1/invitations/accept", json!({ "from": did, "invitation": "hello" }), 400, "bad-message"),
        ("/v1/invitations/accept", json!({ "from": did, "invitation": expired }), 400, "bad-message"),
        ("/v1/mediators", json!({ "from": did, "did": "no DID" }), 400, "bad-message"),
        ("/v1/invitations/accept", json!({ "from": did, "invitation": "{}", "x": 0 }), 422, "bad-request"),
    ];
    for (path, body, status, code) in posts {
        let answer = alice_api.post(path, &body);
        assert_eq!(answer.error(status), code, "{path} {body}: {}", answer.body);
    }
    let json = "content-type: application/json\r\n";
    let others = [
        ("POST", "/v1/messages", "", "{}", 415, "bad-request"),
        ("POST", "/v1/messages", "content-type: text/plain\r\n", "{}", 415, "bad-request"),
        ("POST", "/v1/messages", json, "{", 400, "bad-request"),
        ("POST", "/v1/messages", json, "\"\u{1}", 400, "bad-request"),
        ("GET", "/v1/messages/no-such", "", "", 404, "not-found"),
        ("GET", "/v1/messages/%ff", "", "", 400, "bad-request"),
        ("GET", "/v1/threads/%c3%28", "", "", 400, "bad-request"),
        ("DELETE", "/v1/invitations/%80", "", "", 400, "bad-request"),
        ("GET", "/v1/inbox?limit=0", "", "", 400, "bad-request"),
        ("GET", "/v1/inbox?limit=1001", "", "", 400, "bad-request"),
        ("GET", "/v1/inbox?limit=-1", "", "", 400, "bad-request"),
        ("GET", "/v1/inbox?after=x", "", "", 400, "bad-request"),
        ("GET", "/v1/inbox?after=9223372036854775808", "", "", 400, "bad-request"),
        ("GET", "/v1/inbox?aftr=1", "", "", 400, "bad-request"),
        ("GET", "/v1/connections?limit=0", "", "", 400, "bad-request"),
        ("GET", "/v1/connections?x", "", "", 400, "bad-request"),
        ("GET", "/v1/invitations?limit=0", "", "", 400, "bad-request"),
        ("GET", "/v1/events?from=1", "", "", 400, "bad-request"),
        ("GET", "/v1/events", "last-event-id: x\r\n", "", 400, "bad-request"),
        ("GET", "/v1", "", "", 404, "not-found"),
        ("GET", "/v2/inbox", "", "", 404, "not-found"),
        ("PUT", "/v1/inbox", "", "", 405, "bad-request"),
        ("POST", "/v1/status", "", "", 405, "bad-request"),
        ("DELETE", "/v1/dids", "", "", 405, "bad-request"),
    ];
    for (method, path, headers, body, status, code) in others {
        let answer = alice_api.request(method, path, headers, body);
        assert_eq!(answer.error(status), code, "{method} {path}: {}", answer.body);
        assert_eq!(answer.header("allow").is_some(), status == 405, "{method} {path}");
    }
    let large = format!("{{\"to\": \"{}\"}}", "x".repeat(2_100_000));
    assert_eq!(alice_api.request("POST", "/v1/messages", json, &large).error(413), "bad-request");
    // Cursors that the store has not given out.
    for after in [i64::MIN, -1, 1, i64::MAX] {
        for path in ["inbox", "events"] {
            assert_eq!(alice_api.get(&format!("/v1/{path}?after={after}")).error(409), "cursor-unknown");
        }
    }
    no_panic(&[&alice]);
}

/// Until a token opens the store, requests that read or write it get 503 and `Retry-After`.
#[test]
fn without_a_token_the_store_is_unavailable() {
    let Some(mut alice) = Daemon::new("") else { return };
    alice.disconnect_token();
    alice.start_without_token();
    let alice_api = ApiClient::new(&alice);
    assert_eq!(alice_api.get("/v1/status").json(200)["token_ready"], false);
    assert_eq!(alice_api.get("/v1/dids").json(200)["dids"][0]["missing"].as_array().unwrap().len(), 2);
    let new = json!({ "to": alice.did, "from": alice.did, "type": BASIC, "body": { "content": "x" } });
    let answer = alice_api.post("/v1/messages", &new);
    assert_eq!(answer.error(503), "store-unavailable");
    assert_eq!(answer.header("retry-after").as_deref(), Some("5"));
    assert_eq!(alice_api.post("/v1/invitations", &json!({ "from": alice.did })).error(503), "store-unavailable");
}

/// The API must have no operation that signs, derives, wraps or decrypts data of its caller (`docs/security-model.md`,
/// "the API as an oracle"). Check every path that is added here for this.
#[test]
fn the_openapi_description_lists_exactly_the_served_paths() {
    let printed = crate::home::Home::new().run("serve --openapi").success().to_owned();
    let kept = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    let kept = std::fs::read_to_string(kept).unwrap();
    assert!(printed == kept, "docs/openapi.json is out of date: claviger serve --openapi > docs/openapi.json");

    let description: Value = serde_json::from_str(&printed).unwrap();
    let paths = description["paths"].as_object().unwrap().iter();
    let mut all: Vec<String> = paths
        .flat_map(|(path, item)| item.as_object().unwrap().keys().map(move |method| format!("{method} {path}")))
        .collect();
    all.sort();
    assert_eq!(
        all,
        [
            "delete /v1/connections",
            "delete /v1/dead-letters/{id}",
            "delete /v1/invitations/{id}",
            "get /v1/blocked",
            "get /v1/connections",
            "get /v1/dead-letters",
            "get /v1/dids",
            "get /v1/events",
            "get /v1/events/recorded",
            "get /v1/inbox",
            "get /v1/inbox/{id}",
            "get /v1/invitations",
            "get /v1/mediators",
            "get /v1/messages",
            "get /v1/messages/{id}",
            "get /v1/metrics",
            "get /v1/status",
            "get /v1/threads/{thread}",
            "get /v1/tokens",
            "get /v1/tokens/status",
            "get /v1/webhooks",
            "patch /v1/connections",
            "post /v1/batches",
            "post /v1/connections/end",
            "post /v1/connections/resume",
            "post /v1/dead-letters/{id}/resend",
            "post /v1/dids/give-up",
            "post /v1/dids/reload",
            "post /v1/dids/rotate",
            "post /v1/inbox/acknowledge",
            "post /v1/invitations",
            "post /v1/invitations/accept",
            "post /v1/mediators",
            "post /v1/mediators/leave",
            "post /v1/messages",
            "post /v1/messages/{id}/cancel",
            "post /v1/messages/{id}/retry",
            "post /v1/webhooks/{name}/resume",
        ]
    );
    // Operation ids are unique.
    let mut names: Vec<&str> = description["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|item| item.as_object().unwrap().values().map(|it| it["operationId"].as_str().unwrap()))
        .collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all.len());

    let Some(alice) = Daemon::running("") else { return };
    let served = ApiClient::new(&alice).get("/openapi.json").json(200);
    assert_eq!(served, description);
}

/// The table of requests in docs/api.md has every operation, with the first sentence of its description in openapi.json.
/// CLAVIGER_UPDATE_DOCS writes it.
#[test]
fn every_request_is_documented() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let description = std::fs::read_to_string(root.join("docs/openapi.json")).unwrap();
    let description: Value = serde_json::from_str(&description).unwrap();
    let mut table = "| request | scope | |\n|---|---|---|\n".to_owned();
    for (path, item) in description["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let summary = operation["summary"].as_str().unwrap().replace('\n', " ");
            let sentence = summary.split(". ").next().unwrap().trim_end_matches('.');
            let scope = operation["security"][0]["token"][0].as_str().unwrap();
            table += &format!("| `{} {path}` | {scope} | {sentence} |\n", method.to_uppercase());
        }
    }
    let file = root.join("docs/api.md");
    let page = std::fs::read_to_string(&file).unwrap();
    let (head, rest) = page.split_once("## Requests\n").unwrap();
    let (_, tail) = rest.split_once("\n\n## ").unwrap();
    let intro = "[openapi.json](openapi.json) has their members, answers and errors.";
    let expected = format!("{head}## Requests\n\n{intro}\n\n{table}\n## {tail}");
    if std::env::var_os("CLAVIGER_UPDATE_DOCS").is_some() {
        return std::fs::write(file, expected).unwrap();
    }
    assert!(page == expected, "docs/api.md is out of date: run this test with CLAVIGER_UPDATE_DOCS=1\n{table}");
}

/// docs/api.md and docs/troubleshooting.md have every error code of the API, and no other.
#[test]
fn every_error_code_is_documented() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut made = BTreeSet::new();
    let files = ["src/agent/api", "src/agent/api/access"].into_iter();
    let files = files.flat_map(|folder| std::fs::read_dir(root.join(folder)).unwrap()).map(|file| file.unwrap().path());
    for file in files.filter(|file| file.is_file()) {
        let text = std::fs::read_to_string(file).unwrap();
        // The code is the first string literal after the name of a constructor.
        for before in ["ApiError::new(", "Self::new(", "Self::invalid(", "ApiError::invalid("] {
            for rest in text.split(before).skip(1) {
                let arguments = rest.split(';').next().unwrap();
                made.extend(arguments.split('"').nth(1).map(str::to_owned));
            }
        }
    }
    for (page, place) in [("docs/api.md", 1), ("docs/troubleshooting.md", 2)] {
        let documentation = std::fs::read_to_string(root.join(page)).unwrap();
        let table = documentation.split("| code | status |").nth(place).unwrap().split("\n\n").next().unwrap();
        let codes = table.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split('`').next()?.to_owned()));
        assert_eq!(made, codes.collect(), "{page}");
    }
}

#[track_caller]
pub fn no_panic(daemons: &[&Daemon]) {
    for daemon in daemons {
        let log = daemon.log();
        assert!(!log.contains("panicked") && !log.contains("a bug in claviger"), "{log}");
    }
}
