//! Requests that can be repeated, batches, pages, and messages without a sender.

use std::thread;

use serde_json::{Value, json};

use crate::{
    api_client::{ApiClient, SAY},
    daemon::Daemon,
    endpoint::Endpoint,
    peer::Peer,
};

const BASIC: &str = "https://didcomm.org/basicmessage/2.0/message";

/// A batch is put into the outbox in its order, with a result for each message, and can be repeated.
#[test]
fn a_batch_has_a_result_for_each_message() {
    let Some(mut daemon) = Daemon::running("") else { return };
    let api = ApiClient::new(&daemon);
    let endpoint = Endpoint::accepting();
    let (peer, other) = (Peer::with_endpoint("peer", &endpoint.uri()), Peer::with_endpoint("other", &endpoint.uri()));
    let message =
        |id: &str, to: &str, content: &str| json!({ "id": id, "to": to, "type": SAY, "body": { "content": content } });
    let batch = json!({ "messages": [
        message("a", peer.did(), "0"),
        message("b", other.did(), "1"),
        { "to": peer.did() },
        message("c", "did:peer:2…", "2"),
        message("B", peer.did(), "3"),
        message("d", peer.did(), "4"),
        // The same request twice, and the same id with other content.
        message("d", peer.did(), "4"),
        message("d", peer.did(), "5"),
        { "to": peer.did(), "type": SAY, "body": { "content": "6" } },
        7,
    ] });
    let statuses = |results: &Value| {
        results["results"].as_array().unwrap().iter().map(|it| it["status"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let expected = [202, 202, 422, 400, 400, 202, 202, 409, 202, 422];
    let first = api.post("/v1/batches", &batch).json(200);
    assert_eq!(statuses(&first), expected, "{first}");
    let result = &first["results"][0];
    assert_eq!((&result["message"]["id"], &result["error"]), (&json!("a"), &Value::Null));
    assert_eq!(result["message"]["from"], daemon.did);
    let codes: Vec<&Value> = [2, 3, 7].iter().map(|at| &first["results"][at]["error"]["code"]).collect();
    assert_eq!(codes, ["bad-request", "bad-message", "id-taken"]);
    let listed = api.get("/v1/messages").json(200);
    let ids: Vec<&Value> = listed["messages"].as_array().unwrap().iter().map(|message| &message["id"]).collect();
    assert_eq!(ids[..3], ["a", "b", "d"], "in the order of the batch");

    // Repetitions at the same time, and after a restart. Only the message without an id of ours is sent again.
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(statuses(&api.post("/v1/batches", &batch).json(200)), expected));
        }
    });
    daemon.wait_until("all are sent", |daemon| daemon.metric("claviger_waiting{queue=\"outbox\"}") == 0.0);
    daemon.kill();
    daemon.start();
    let again = api.post("/v1/batches", &batch).json(200);
    assert_eq!((&again["results"][5], statuses(&again)), (&first["results"][5], expected.to_vec()));
    daemon.wait_until("all are sent", |daemon| daemon.metric("claviger_waiting{queue=\"outbox\"}") == 0.0);
    let open = |packed: &String| peer.try_open(packed).unwrap_or_else(|| other.open(packed)).0;
    let mut texts: Vec<String> =
        endpoint.messages().iter().map(|packed| open(packed).body["content"].as_str().unwrap().to_owned()).collect();
    texts.sort();
    assert_eq!(texts, ["0", "1", "4", "6", "6", "6", "6", "6", "6"]);

    let many = |count: usize| json!({ "messages": vec![message("z", "did:peer:2…", ""); count] });
    assert_eq!(api.post("/v1/batches", &many(1001)).error(400), "bad-request");
    assert_eq!(api.post("/v1/batches", &json!({ "messages": [], "x": 1 })).error(422), "bad-request");
    assert_eq!(api.post("/v1/batches", &json!({ "messages": [] })).json(200), json!({ "results": [] }));
}

/// A batch needs few commits, not one for each message.
#[test]
fn a_large_batch_keeps_its_order() {
    let Some(daemon) = Daemon::running("") else { return };
    let api = ApiClient::new(&daemon);
    let peer = Peer::with_endpoint("peer", &Endpoint::accepting().uri());
    let message = |number: usize| json!({ "id": format!("{number:04}"), "to": peer.did(), "type": SAY, "body": { "number": number } });
    let batch = json!({ "messages": (0..1000).map(message).collect::<Vec<_>>() });
    let results = api.post("/v1/batches", &batch).json(200);
    assert!(results["results"].as_array().unwrap().iter().all(|it| it["status"] == 202));
    let listed = api.get("/v1/messages?limit=1000").json(200);
    let ids: Vec<String> =
        listed["messages"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, (0..1000).map(|number| format!("{number:04}")).collect::<Vec<_>>());
}

/// An invitation is made once, and accepted once with one ping, however often the request is repeated.
#[test]
fn requests_about_invitations_can_be_repeated() {
    let (Some(alice), Some(bob)) = (Daemon::running(""), Daemon::running("")) else { return };
    let (alice_api, bob_api) = (ApiClient::new(&alice), ApiClient::new(&bob));
    let new = |goal: &str| json!({ "id": "invite-1", "from": alice.did, "goal": goal, "hours": 1 });
    let first = alice_api.post("/v1/invitations", &new("lunch")).json(201);
    assert_ne!(first["id"], "invite-1", "whoever guesses the id of an invitation can fetch it");
    assert!(first.get("svg").is_none() && first.get("terminal").is_none(), "no pictures unless they are asked for");
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(alice_api.post("/v1/invitations", &new("lunch")).json(201), first));
        }
    });
    assert_eq!(alice_api.post("/v1/invitations", &new("dinner")).error(409), "id-taken");
    let mut with_pictures = new("lunch");
    with_pictures["qr_codes"] = true.into();
    let pictures = alice_api.post("/v1/invitations", &with_pictures).json(201);
    assert_eq!(pictures["id"], first["id"]);
    assert!(pictures["svg"].as_str().unwrap().contains("<svg") && pictures["terminal"].is_string());
    assert_eq!(alice.json(&["invite", "--id", "x"])["id"], alice.json(&["invite", "--id", "x"])["id"]);
    assert_eq!(alice_api.get("/v1/invitations").json(200)["invitations"].as_array().unwrap().len(), 2);

    let accept = |from: &str| json!({ "id": "accept-1", "invitation": first["url"], "from": from });
    let accepted = bob_api.post("/v1/invitations/accept", &accept(&bob.did)).json(202);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let again = bob_api.post("/v1/invitations/accept", &accept(&bob.did)).json(202);
                assert_eq!(again, accepted);
            });
        }
    });
    assert_eq!(bob_api.post("/v1/invitations/accept", &accept("did:example:x")).error(409), "id-taken");
    assert_eq!(bob_api.get("/v1/messages").json(200)["messages"].as_array().unwrap().len(), 1, "one ping");
    for id in ["", "A", &"x".repeat(65)] {
        let (mut invite, mut accept) = (new("lunch"), accept(&bob.did));
        (invite["id"], accept["id"]) = (id.into(), id.into());
        assert_eq!(alice_api.post("/v1/invitations", &invite).error(400), "bad-message");
        assert_eq!(bob_api.post("/v1/invitations/accept", &accept).error(400), "bad-message");
    }

    // The answer outlives the invitation.
    let url = format!("/v1/invitations/{}", first["id"].as_str().unwrap());
    assert_eq!(alice_api.request("DELETE", &url, "", "").status, 204);
    assert_eq!(alice_api.post("/v1/invitations", &new("lunch")).error(400), "bad-message");
    assert_eq!(bob_api.post("/v1/invitations/accept", &accept(&bob.did)).json(202), accepted);
}

/// Each list of the API is read in pages: `after`, `limit`, `cursor`.
#[test]
fn each_list_has_pages() {
    let Some(daemon) = Daemon::running("") else { return };
    let api = ApiClient::new(&daemon);
    let endpoint = Endpoint::accepting();
    for number in 0..5 {
        daemon.home.create_did("--method peer:2");
        api.post("/v1/invitations", &json!({ "from": daemon.did })).json(201);
        let peer = Peer::with_endpoint(&number.to_string(), &endpoint.uri());
        daemon.json(&["send", "--to", peer.did(), "--from", &daemon.did, "--thid", "one-thread", "hello"]);
        assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, "hello")), 202);
    }
    daemon.wait_until("all arrived", |daemon| daemon.unread().len() == 5);
    for (path, list, count) in [
        ("/v1/messages", "messages", 5),
        ("/v1/inbox", "messages", 5),
        ("/v1/connections", "connections", 5),
        ("/v1/invitations", "invitations", 5),
        ("/v1/dids", "dids", 6),
        ("/v1/threads/one-thread", "messages", 5),
        ("/v1/mediators", "mediators", 0),
        ("/v1/blocked", "blocked", 0),
        ("/v1/webhooks", "webhooks", 0),
        ("/v1/dead-letters", "dead_letters", 0),
    ] {
        let whole = api.get(path).json(200);
        let all = whole[list].as_array().unwrap_or_else(|| panic!("{path}: {whole}"));
        assert_eq!(all.len(), count, "{path}");
        let (mut read, mut cursor) = (Vec::new(), whole["cursor"].clone());
        // The cursor of the last page leads to an empty page.
        let encode = |cursor: &Value| match cursor.as_str() {
            Some(text) => text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>(),
            None => cursor.to_string(),
        };
        if count > 0 {
            let end = api.get(&format!("{path}?after={}", encode(&cursor))).json(200);
            assert_eq!((&end[list], &end["cursor"]), (&json!([]), &cursor), "{path}");
        }
        cursor = if cursor.is_string() { json!("") } else { json!(0) };
        loop {
            let page = api.get(&format!("{path}?limit=2&after={}", encode(&cursor))).json(200);
            let found = page[list].as_array().unwrap();
            assert!(found.len() <= 2, "{path}");
            if found.is_empty() {
                break;
            }
            read.extend(found.iter().cloned());
            cursor = page["cursor"].clone();
        }
        let key =
            |item: &Value| item["id"].as_str().or(item["did"].as_str()).or(item["key"].as_str()).map(str::to_owned);
        assert_eq!(read.iter().map(key).collect::<Vec<_>>(), all.iter().map(key).collect::<Vec<_>>(), "{path}");
        for limit in ["0", "1001", "-1", "x"] {
            assert_eq!(api.get(&format!("{path}?limit={limit}")).error(400), "bad-request", "{path}");
        }
    }
}

/// A recipient shows messages without a sender if its operator wants them.
#[test]
fn anonymous_messages_are_shown_if_the_operator_wants_them() {
    let (Some(alice), Some(bob)) = (Daemon::running("[agent]\naccept_anonymous = true\n"), Daemon::running("")) else {
        return;
    };
    let send = |from: &Daemon, to: &Daemon, content: &str| {
        let message = json!({ "to": to.did, "type": BASIC, "body": { "content": content }, "anonymous": true });
        let queued = ApiClient::new(from).post("/v1/messages", &message).json(202);
        assert_eq!(queued["from"], Value::Null);
        from.wait_until("it is sent", |from| from.outbox_message(queued["id"].as_str().unwrap())["state"] == "sent");
    };
    send(&bob, &alice, "a friend");
    alice.wait_until("the message is shown", |alice| alice.unread_texts() == ["a friend"]);
    assert_eq!(alice.delivery("a friend")["sender"], Value::Null);
    assert!(alice.home.run("inbox").success().contains("someone unknown"));
    // By default it is dropped.
    send(&alice, &bob, "nobody");
    bob.wait_until_all_opened();
    assert_eq!(bob.unread_texts(), Vec::<String>::new());
    // A message that does not say so is not anonymous.
    let message = json!({ "to": alice.did, "type": BASIC, "body": { "content": "from Bob" } });
    assert_eq!(ApiClient::new(&bob).post("/v1/messages", &message).json(202)["from"], bob.did);
    alice.wait_until("the message arrived", |alice| alice.unread_texts().contains(&"from Bob".to_owned()));
    assert_eq!(alice.delivery("from Bob")["sender"], bob.did);
}
