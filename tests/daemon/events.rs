//! The events that an application waits for: what becomes of its messages, connections, invitations, rotations and tokens.

use claviger::{didcomm::Message, secrets::FromPriorClaims};
use serde_json::{Value, json};

use crate::{
    api_client::{ApiClient, Events, SAY},
    daemon::Daemon,
    endpoint::Endpoint,
    home::PIN,
    peer::{Peer, block_on, seconds},
    token_states::add_token,
};

const ALL: &str = "[api]\nevents = [\"message.sent\", \"message.failed\", \"message.expired\", \"connection.made\", \
    \"connection.ended\", \"invitation.used\", \"peer.rotated\", \"did.rotated\", \"token.changed\"]\n";

/// The next recorded event of a stream: its id, its kind and its data.
#[track_caller]
fn next(events: &mut Events) -> (String, String, Value) {
    let mut event = events.next().unwrap();
    while event.kind == "message" {
        event = events.next().unwrap();
    }
    assert_eq!(event.data["type"], event.kind, "{event:?}");
    let time = event.data["timestamp"].as_str().unwrap();
    assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
    let told = seconds_of(time);
    assert!(told.abs_diff(seconds()) < 120, "{time}");
    (event.id, event.kind, event.data["data"].clone())
}

fn seconds_of(time: &str) -> u64 {
    humantime::parse_rfc3339(time).unwrap().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// All events that are recorded, each with its data.
#[track_caller]
fn recorded(daemon: &Daemon) -> Vec<(String, Value)> {
    let (api, mut all, mut after) = (ApiClient::new(daemon), Vec::new(), 0);
    loop {
        let page = api.get(&format!("/v1/events/recorded?limit=2&after={after}")).json(200);
        let events = page["events"].as_array().unwrap();
        if events.is_empty() {
            return all;
        }
        all.extend(events.iter().map(|it| (it["type"].as_str().unwrap().to_owned(), it["data"].clone())));
        after = page["cursor"].as_i64().unwrap();
        assert_eq!(events.last().unwrap()["cursor"], after);
    }
}

fn kinds(events: &[(String, Value)]) -> Vec<&str> {
    events.iter().map(|(kind, _)| &**kind).collect()
}

#[test]
fn events_are_told_once_and_go_on_after_a_restart() {
    let (Some(mut alice), Some(bob)) = (Daemon::running(ALL), Daemon::running(ALL)) else { return };
    let alice_api = ApiClient::new(&alice);
    let mut of_alice = alice_api.events("/v1/events?kinds=all", "");
    let mut of_bob = ApiClient::new(&bob).events("/v1/events?kinds=all", "");

    let invitation = alice.json(&["invite"]);
    let accepted = bob.json(&["accept", invitation["url"].as_str().unwrap()]);
    let (_, kind, data) = next(&mut of_alice);
    let used = json!({
        "invitation": invitation["id"], "multi_use": false, "ours": alice.did, "theirs": bob.did
    });
    assert_eq!((&*kind, data), ("invitation.used", used));
    let (first, kind, data) = next(&mut of_alice);
    let made = json!({ "ours": alice.did, "theirs": bob.did, "invitation": invitation["id"] });
    assert_eq!((&*kind, data), ("connection.made", made));
    // The ping of the acceptance, and its answer. The answer may come before the outcome is recorded.
    let mut begun = [next(&mut of_bob), next(&mut of_bob)];
    begun.sort_by(|(_, one, _), (_, other, _)| one.cmp(other));
    let [(_, made_kind, made), (_, sent_kind, sent)] = begun;
    let wanted = json!({ "ours": bob.did, "theirs": alice.did, "invitation": null });
    assert_eq!((&*made_kind, made), ("connection.made", wanted));
    assert_eq!((&*sent_kind, &sent["id"], &sent["to"]), ("message.sent", &accepted["ping"], &json!(alice.did)));

    // A message, and what becomes of it. The automatic answer to the ping has no event.
    let id = alice.send_text(&bob.did, "hello").unwrap();
    let entry = alice.outbox_message(&id);
    let (_, kind, data) = next(&mut of_alice);
    let sent = json!({
        "id": id, "message_id": entry["message_id"], "thread": entry["thread"], "type": SAY, "from": alice.did,
        "to": bob.did, "problem": null
    });
    assert_eq!((&*kind, data), ("message.sent", sent));
    // The answer to the ping is a message, too.
    let hello = std::iter::from_fn(|| of_bob.next()).find(|event| event.data["type"] == SAY).unwrap();
    assert_eq!((&*hello.kind, &hello.data["message"]["body"]["content"]), ("message", &json!("hello")));

    // Two that are not sent, to peers that stay unknown.
    let refusing = Endpoint::new(|_| (400, String::new(), "no".to_owned()));
    let refusing = Peer::with_endpoint("refusing", &refusing.uri());
    let id = alice.send_text(refusing.did(), "refused").unwrap();
    let (_, kind, data) = next(&mut of_alice);
    assert_eq!((&*kind, &data["id"]), ("message.failed", &json!(id)));
    assert!(data["problem"].as_str().unwrap().contains("400"), "{data}");
    let absent = Peer::with_endpoint("absent", "http://127.0.0.1:1");
    let late = json!({
        "to": absent.did(), "type": SAY, "body": {}, "anonymous": true, "headers": { "expires_time": seconds() + 1 }
    });
    let late = alice_api.post("/v1/messages", &late).json(202);
    let (_, kind, data) = next(&mut of_alice);
    assert_eq!((&*kind, &data["id"], &data["from"]), ("message.expired", &late["id"], &Value::Null));

    // The stream goes on after the restart, without a gap and without a repetition.
    alice.stop();
    alice.start();
    let mut again = alice_api.events("/v1/events?kinds=all", &format!("last-event-id: {first}\r\n"));
    let repeated: Vec<_> = (0..3).map(|_| next(&mut again).1).collect();
    assert_eq!(repeated, ["message.sent", "message.failed", "message.expired"]);
    let rotated = alice.json(&["did", "rotate", &alice.did]);
    let (_, kind, data) = next(&mut again);
    let (from, to) = (json!(alice.did), rotated["to"].clone());
    assert_eq!((&*kind, &data["from"], &data["to"]), ("did.rotated", &from, &to));
    assert!(data["until"].as_i64().unwrap() > i64::try_from(seconds()).unwrap() * 1000);
    let (_, kind, data) = next(&mut of_bob);
    assert_eq!((&*kind, data), ("peer.rotated", json!({ "ours": bob.did, "from": from, "to": to })));

    // Both sides are told of the end, once.
    bob.json(&["connections", "end", to.as_str().unwrap()]);
    let again_ended = json!({ "ours": bob.did, "theirs": to });
    assert_eq!(ApiClient::new(&bob).post("/v1/connections/end", &again_ended).status / 100, 2);
    let (_, kind, data) = next(&mut of_bob);
    assert_eq!((&*kind, data), ("connection.ended", json!({ "ours": bob.did, "theirs": to, "by": "us" })));
    let (_, kind, data) = next(&mut again);
    assert_eq!((&*kind, data), ("connection.ended", json!({ "ours": to, "theirs": bob.did, "by": "peer" })));

    // Nothing was told twice.
    let all = recorded(&alice);
    assert_eq!(
        kinds(&all),
        [
            "invitation.used",
            "connection.made",
            "message.sent",
            "message.failed",
            "message.expired",
            "did.rotated",
            "connection.ended"
        ]
    );
    assert_eq!(kinds(&recorded(&bob)).len(), 4, "{:?}", recorded(&bob));
}

#[test]
fn a_reader_chooses_the_kinds_and_its_place() {
    let Some(mut daemon) = Daemon::running("") else { return };
    let api = ApiClient::new(&daemon);
    let endpoint = Endpoint::accepting();
    let peer = Peer::with_endpoint("peer", &endpoint.uri());
    assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, "0")), 202);
    daemon.wait_until("the message arrived", |daemon| daemon.unread_texts() == ["0"]);
    // A stranger becomes known. By default a sent message costs no row.
    let id = daemon.send_text(peer.did(), "welcome").unwrap();
    daemon.wait_until("the peer has it", |daemon| daemon.outbox_message(&id)["state"] == "sent");
    assert_eq!(kinds(&recorded(&daemon)), ["connection.made"]);
    assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, "1")), 202);
    daemon.wait_until("the message arrived", |daemon| daemon.unread_texts().len() == 2);

    // Messages alone have the cursors of the inbox. With recorded events there are two numbers, and one still is a place.
    let all = |path: &str, id: &str, count: usize| -> Vec<(String, String)> {
        let header = if id.is_empty() { String::new() } else { format!("last-event-id: {id}\r\n") };
        let mut events = api.events(path, &header);
        (0..count).map(|_| events.next().unwrap()).map(|event| (event.kind, event.id)).collect()
    };
    let both = all("/v1/events?kinds=all", "", 3);
    let of = |events: &[(String, String)]| events.iter().map(|(kind, _)| kind.clone()).collect::<Vec<_>>().join(" ");
    assert_eq!(of(&both), "message connection.made message");
    let messages = all("/v1/events", "", 2);
    let numbers = |id: &str| id.split_once('.').map(|(one, two)| (one.to_owned(), two.to_owned())).unwrap();
    assert_eq!(numbers(&both[0].1), (messages[0].1.clone(), "0".to_owned()));
    assert_eq!(numbers(&both[2].1), (messages[1].1.clone(), numbers(&both[1].1).1));
    assert_eq!(all("/v1/events?kinds=all", &both[0].1, 2), both[1..]);
    assert_eq!(all("/v1/events?kinds=message,connection.made", &both[1].1, 1), both[2..]);
    assert_eq!(all(&format!("/v1/events?kinds=connection.made&after={}", messages[0].1), "", 1), both[1..2]);
    assert_eq!(all("/v1/events", &both[0].1, 1), messages[1..]);

    // What is not recorded, and what is no kind, is refused.
    let refused = |path: &str| {
        let answer = api.get(path);
        assert_eq!(answer.error(400), "bad-request", "{path}");
        answer.json(400)["error"]["message"].as_str().unwrap().to_owned()
    };
    for list in ["/v1/events", "/v1/events/recorded"] {
        let reason = refused(&format!("{list}?kinds=connection.made,message.sent"));
        assert!(reason.contains("message.sent is not recorded: add it to `events` of [api]"), "{reason}");
        let reason = refused(&format!("{list}?kinds=connections"));
        assert!(reason.contains("\"connections\"; the kinds are message.sent, ") && reason.contains("all"), "{reason}");
        refused(&format!("{list}?kinds="));
    }
    assert!(refused("/v1/events/recorded?kinds=message").contains("/v1/inbox"));
    refused("/v1/events?after=1.2.3");
    // A cursor that was not given out.
    let (message, event) = numbers(&both[2].1);
    for unknown in [format!("{message}.{}", event.parse::<i64>().unwrap() + 1), format!("{event}.{message}.")] {
        let status = if unknown.ends_with('.') { 400 } else { 409 };
        let answer = api.get(&format!("/v1/events?kinds=all&after={unknown}"));
        assert_eq!(answer.status, status, "{}", answer.body);
    }
    assert_eq!(api.get("/v1/events/recorded?after=1").error(409), "cursor-unknown");

    daemon.stop();
    let file = daemon.home.path().join("claviger.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}\n[api]\nevents = [\"message.read\"]\n")).unwrap();
    let refused = daemon.home.run("--json serve --check");
    assert!(refused.stderr().contains("the kinds are message.sent, message.failed,"), "{}", refused.stderr());
    assert_eq!(refused.error(2), "bad-config");
}

/// What strangers do is told only if they use an invitation for many, and takes a tenth of the room.
#[test]
fn strangers_do_not_displace_the_events_of_others() {
    let Some(mut daemon) = Daemon::running("[store]\nmax_events = 30\n") else { return };
    let endpoint = Endpoint::accepting();
    let friend = Peer::with_endpoint("friend", &endpoint.uri());
    assert_eq!(daemon.post_status(friend.pack_text(&daemon.did, "hello")), 202);
    daemon.wait_until("the message arrived", |daemon| daemon.unread_texts() == ["hello"]);
    daemon.send_text(friend.did(), "welcome").unwrap();
    let made =
        ("connection.made".to_owned(), json!({ "ours": daemon.did, "theirs": friend.did(), "invitation": null }));
    assert_eq!(recorded(&daemon), std::slice::from_ref(&made));

    // A stranger writes, rotates, and ends its relationship.
    let (before, after) = (Peer::new("before"), Peer::new("after"));
    assert_eq!(daemon.post_status(before.pack_text(&daemon.did, "1")), 202);
    let now = i64::try_from(seconds()).unwrap();
    let rotation = FromPriorClaims::rotation(before.did(), after.did(), now);
    let with_proof = |mut message: Message, claims: &FromPriorClaims, by: &Peer| {
        message.from_prior = Some(block_on(claims.pack(None, &by.person.identities)).unwrap().0);
        message
    };
    let rotated = with_proof(after.message(&daemon.did, "2").finalize(), &rotation, &before);
    daemon.wait_until_all_opened();
    assert_eq!(daemon.post_status(after.pack(&rotated)), 202);
    daemon.wait_until("the rotation took effect", |daemon| daemon.unread_texts().len() == 3);
    let invitation = daemon.json(&["invite", "--multi"]);
    let users: Vec<_> = (0..5).map(|number| Peer::new(&format!("user {number}"))).collect();
    for (number, user) in users.iter().enumerate() {
        let mut message = user.message(&daemon.did, "I have your code").finalize();
        message.pthid = Some(invitation["id"].as_str().unwrap().to_owned());
        for _ in 0..2 {
            assert_eq!(daemon.post_status(user.pack(&message)), 202);
            message.id = Message::new_id();
        }
        daemon.wait_until("the messages arrived", |daemon| daemon.unread_texts().len() == 5 + 2 * number);
    }
    let own_did = daemon.did.clone();
    let used = |user: &Peer| {
        let data = json!({
            "invitation": invitation["id"], "multi_use": true, "ours": own_did, "theirs": user.did()
        });
        ("invitation.used".to_owned(), data)
    };
    let wanted: Vec<_> = std::iter::once(made.clone()).chain(users.iter().map(used)).collect();
    assert_eq!(recorded(&daemon), wanted);
    // At the start, what is too much goes: the oldest of strangers.
    daemon.stop();
    daemon.start();
    daemon.wait_until("the surplus is deleted", |daemon| recorded(daemon).len() <= 4);
    let wanted: Vec<_> = std::iter::once(made).chain(users[2..].iter().map(used)).collect();
    assert_eq!(recorded(&daemon), wanted);
}

#[test]
fn tokens_are_told_when_their_state_changes() {
    let Some(mut daemon) = Daemon::new("") else { return };
    add_token(&daemon, "spare");
    daemon.home.run("token init spare --so-pin-source file:so.pin").success();
    daemon.home.write("spare.pin", "wrong-pin");
    daemon.start();
    let mut events = ApiClient::new(&daemon).events("/v1/events?kinds=token.changed", "");
    let (first, _, data) = next(&mut events);
    assert_eq!(
        (&data["token"], &data["state"], &data["code"]),
        (&json!("spare"), &json!("locked"), &json!("pin-refused"))
    );
    assert!(data["reason"].as_str().unwrap().contains("refused its PIN"), "{data}");
    assert!(data["action"].as_str().unwrap().contains("pin-source"), "{data}");
    assert!(data["since"].as_i64().unwrap() / 1000 <= i64::try_from(seconds()).unwrap());
    // It is still locked after a restart, which is not told again.
    daemon.stop();
    daemon.start();
    let locked = "claviger_token_state{token=\"spare\",state=\"locked\"}";
    daemon.wait_until("the PIN of the other token is refused", |daemon| daemon.metric(locked) == 1.0);
    let mut events =
        ApiClient::new(&daemon).events("/v1/events?kinds=token.changed", &format!("last-event-id: {first}\r\n"));
    daemon.home.write("spare.pin", PIN);
    let (_, _, data) = next(&mut events);
    assert_eq!((&data["token"], &data["state"], &data["reason"]), (&json!("spare"), &json!("ready"), &Value::Null));
    assert_eq!(recorded(&daemon).len(), 2);
}
