//! Several webhooks, and the letters that a webhook sets aside as dead letters.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use claviger::agent::store::{Change, Commit, NewEvent, SqliteOptions, SqliteStore, Store};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    api::no_panic,
    api_client::ApiClient,
    clock::Clock,
    daemon::{Daemon, free_port, write_with_mode},
    peer::seconds,
    reload::{change_and_reload, wait_for_log_line},
    webhook::{SECRET, WebhookServer, send_texts, verify, verify_signatures},
};

const BASIC: &str = "https://didcomm.org/basicmessage/2.0/message";

/// The table of a webhook with this name and port.
fn table(name: &str, port: u16, more: &str) -> String {
    let url = format!("http://127.0.0.1:{port}/secret-path");
    format!("[[api.webhook]]\nname = \"{name}\"\nurl = \"{url}\"\nsecret_file = \"hook.secret\"\n{more}\n")
}

/// Alice, with the secret of her webhooks, not running; and Bob, who writes to her.
fn alice_and_bob(tables: &str) -> Option<(Daemon, Daemon)> {
    let (alice, bob) = (Daemon::new(tables)?, Daemon::running("")?);
    write_with_mode(&alice.home, "hook.secret", &format!("{SECRET}\n"), 0o600);
    Some((alice, bob))
}

/// Changes the configuration of an agent that does not run.
fn replace_in_configuration(daemon: &Daemon, from: &str, to: &str) {
    let file = daemon.home.path().join("claviger.toml");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(&file, text.replace(from, to)).unwrap();
}

/// Makes Bob known to Alice.
fn introduce(alice: &Daemon, bob: &Daemon) {
    alice.json(&["send", "--to", &bob.did, "hello", "--within", "30"]);
}

/// A receiver that refuses messages with the word `poison` while `refuses`.
fn fastidious(port: u16, refuses: &Arc<AtomicBool>) -> WebhookServer {
    let refuses = refuses.clone();
    let is_poison = move |body: &str| body.contains("poison") && refuses.load(Ordering::SeqCst);
    WebhookServer::answering(port, move |body| (if is_poison(body) { 422 } else { 204 }, ""))
}

/// What a command prints for a person.
fn printed(daemon: &Daemon, args: &[&str]) -> String {
    daemon.home.run_args(args, "").success().to_owned()
}

fn dead_letters(daemon: &Daemon) -> Vec<Value> {
    ApiClient::new(daemon).get("/v1/dead-letters").json(200)["dead_letters"].as_array().unwrap().clone()
}

fn webhook(daemon: &Daemon, name: &str) -> Value {
    let all = ApiClient::new(daemon).get("/v1/webhooks").json(200)["webhooks"].as_array().unwrap().clone();
    all.into_iter().find(|webhook| webhook["name"] == name).unwrap()
}

fn waiting(daemon: &Daemon) -> u64 {
    ApiClient::new(daemon).get("/v1/status").json(200)["waiting"]["deliveries"].as_u64().unwrap()
}

/// A webhook whose receiver is away delays no other webhook, and keeps the messages that it wants unacknowledged, also over
/// restarts.
#[test]
fn a_message_is_acknowledged_once_each_webhook_that_wants_it_has_it() {
    let (crm, chat) = (free_port(), free_port());
    let tables = table("crm", crm, "") + &table("chat", chat, &format!("types = [\"{BASIC}\"]"));
    let Some((mut alice, bob)) = alice_and_bob(&tables) else { return };
    alice.start();
    let chat = WebhookServer::listen(chat, &[503]);
    let other = ["send", "--to", &alice.did, "--type", "https://example.org/offers/1.0/offer", "{}", "--within", "30"];
    bob.json(&other);
    send_texts(&bob, &alice, &["0", "1"]);
    alice.wait_until("one webhook has its messages", |_| chat.accepted_texts() == ["0", "1"]);
    alice.wait_until("the other is tried again", |alice| webhook(alice, "crm")["failures"].as_u64().unwrap() > 1);
    let (failing, working) = (webhook(&alice, "crm"), webhook(&alice, "chat"));
    assert_eq!((&failing["state"], &working["state"]), (&"retrying".into(), &"delivering".into()));
    assert!(failing["problem"].as_str().unwrap().contains("127.0.0.1") && working["problem"].is_null(), "{failing}");
    assert_eq!(waiting(&alice), 3);

    alice.kill();
    alice.start();
    send_texts(&bob, &alice, &["2"]);
    alice.wait_until("the new message is posted", |_| chat.accepted_texts().len() > 2);
    assert_eq!(chat.accepted_texts(), ["0", "1", "2"]);
    let crm = WebhookServer::listen(crm, &[]);
    alice.wait_until("all messages are acknowledged", |alice| waiting(alice) == 0);
    assert_eq!(crm.bodies().len(), 4);
    for request in crm.requests().iter().chain(&chat.requests()) {
        verify(request);
    }
    assert_eq!(chat.accepted_texts(), ["0", "1", "2"]);
    no_panic(&[&alice, &bob]);
}

/// A letter that the receiver refuses is set aside, so that those behind it go on. It is listed, posted again on request, and
/// stays in the inbox until then. The command line prints it.
#[test]
fn a_refused_letter_is_set_aside_and_sent_again() {
    let port = free_port();
    let Some((mut alice, bob)) = alice_and_bob(&table("crm", port, "refused_attempts = 2")) else { return };
    alice.start();
    introduce(&alice, &bob);
    let refuses = Arc::new(AtomicBool::new(true));
    let server = fastidious(port, &refuses);
    send_texts(&bob, &alice, &["0", "poison", "1"]);
    alice.wait_until("the others are accepted", |alice| server.accepted_texts() == ["0", "1"] && waiting(alice) == 1);
    let letters = dead_letters(&alice);
    assert_eq!(letters.len(), 1);
    let (id, poison) = (letters[0]["id"].as_str().unwrap().to_owned(), alice.unread());
    assert_eq!(poison.len(), 1, "{poison:?}");
    let expected = json!({
        "id": format!("crm:{}", poison[0]["id"].as_str().unwrap()),
        "webhook": "crm", "webhook_id": poison[0]["id"], "event": "message", "message": poison[0]["id"], "type": BASIC,
        "data": null, "attempts": 2, "status": 422, "problem": "127.0.0.1 answers with status 422",
        "since": letters[0]["since"], "time": letters[0]["time"], "resending": false,
    });
    assert_eq!(letters[0], expected);
    assert_eq!(alice.metric("claviger_dead_letters{webhook=\"crm\"}"), 1.0);

    alice.wait_until("nothing waits", |alice| webhook(alice, "crm")["state"] == "delivering");

    // A restart posts it no more.
    alice.stop();
    alice.start();
    send_texts(&bob, &alice, &["2"]);
    alice.wait_until("the next is posted", |_| server.accepted_texts() == ["0", "1", "2"]);
    let posted = || server.bodies().iter().filter(|body| body.contains("poison")).count();
    assert_eq!((posted(), alice.metric("claviger_dead_letters{webhook=\"crm\"}")), (2, 1.0));
    let listed = printed(&alice, &["webhook", "list"]);
    assert_eq!(listed, "crm on 127.0.0.1 delivering, 1 dead letter\n");
    let listed = printed(&alice, &["webhook", "dead-letters", "--webhook", "crm"]);
    let kind = BASIC.strip_prefix("https://didcomm.org/").unwrap();
    assert_eq!(listed, format!("{id} {kind}\n  127.0.0.1 answers with status 422 after 2 attempts\n"));
    assert_eq!(printed(&alice, &["webhook", "dead-letters", "--webhook", "cr"]), "");

    // The beginning of the id will do, with or without the webhook's name.
    assert_eq!(alice.run(&["webhook", "resend", "crm:"]).error(1), "not-found");
    assert_eq!(printed(&alice, &["webhook", "resend", &id[..10]]), format!("{id}\n"));
    alice.wait_until("it is refused again", |alice| dead_letters(alice)[0]["attempts"] == 3);
    assert_eq!(waiting(&alice), 1);
    refuses.store(false, Ordering::SeqCst);
    assert_eq!(printed(&alice, &["webhook", "resend", "--all"]), format!("{id}\n"));
    alice.wait_until("it is accepted", |alice| dead_letters(alice).is_empty() && waiting(alice) == 0);
    assert_eq!(server.accepted_texts(), ["0", "1", "2", "poison"]);
    server.requests().iter().for_each(verify);
    assert_eq!(alice.run(&["webhook", "resend", &id]).error(1), "not-found");
    let lists = printed(&alice, &["webhook", "list"]) + &alice.log();
    assert!(!lists.contains(SECRET) && !lists.contains("secret-path"), "{lists}");
    no_panic(&[&alice, &bob]);
}

/// What a stranger writes holds up nobody, and takes no room of others: it is set aside at once, whatever the limits.
#[test]
fn refused_messages_of_strangers_hold_up_nobody() {
    let port = free_port();
    let Some((mut alice, bob)) = alice_and_bob(&table("crm", port, "max_dead_letters = 1")) else { return };
    alice.start();
    let texts = ["poison 0", "poison 1", "poison 2", "crash 0", "crash 1", "accepted"];
    send_texts(&bob, &alice, &texts);
    let status = |body: &str| match body {
        _ if body.contains("poison") => 422,
        _ if body.contains("crash") => 500,
        _ => 204,
    };
    let server = WebhookServer::answering(port, move |body| (status(body), ""));
    printed(&alice, &["webhook", "resume", "crm"]);
    alice.wait_until("the last is accepted", |_| server.accepted_texts() == ["accepted"]);
    assert_eq!(server.bodies().len(), texts.len());
    alice.wait_until("only the others are unread", |alice| waiting(alice) == 5);
    assert_eq!((dead_letters(&alice).len(), webhook(&alice, "crm")["dead_letters"].as_u64()), (5, Some(5)));

    // They are bounded as others are once the peer is known.
    introduce(&alice, &bob);
    send_texts(&bob, &alice, &["poison 3"]);
    alice.wait_until("it is tried again", |_| server.bodies().len() > texts.len() + 1);
    assert_eq!(dead_letters(&alice).len(), 5);
}

/// To drop a dead letter counts as accepted; an acknowledgement by the application removes it. While there are as many as
/// allowed, no further letter is set aside.
#[test]
fn dead_letters_are_dropped_acknowledged_and_bounded() {
    let (port, other) = (free_port(), free_port());
    let bounded = table("crm", port, "refused_attempts = 1\nmax_dead_letters = 1");
    let tables = bounded + &table("log", other, "");
    let Some((mut alice, bob)) = alice_and_bob(&tables) else { return };
    alice.start();
    introduce(&alice, &bob);
    let refuses = Arc::new(AtomicBool::new(true));
    let (server, log) = (fastidious(port, &refuses), WebhookServer::listen(other, &[]));
    send_texts(&bob, &alice, &["poison 0", "poison 1"]);
    alice.wait_until("the second is tried on", |_| server.bodies().len() > 3);
    alice.wait_until("the other webhook has both", |_| log.accepted_texts() == ["poison 0", "poison 1"]);
    assert_eq!((dead_letters(&alice).len(), waiting(&alice)), (1, 2));
    assert!(alice.log().contains("`max_dead_letters` already"), "{}", alice.log());

    let id = dead_letters(&alice)[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(printed(&alice, &["webhook", "drop", &id["crm:".len()..12]]), format!("{id}\n"));
    alice.wait_until("there is room for the second", |alice| {
        dead_letters(alice).first().is_some_and(|letter| letter["id"] != *id)
    });
    assert_eq!(alice.unread_texts(), ["poison 1"]);
    assert_eq!(alice.run(&["webhook", "drop", &id]).error(1), "not-found");

    let read = alice.unread()[0]["id"].clone();
    ApiClient::new(&alice).post("/v1/inbox/acknowledge", &json!({ "ids": [read] })).json(200);
    assert_eq!(dead_letters(&alice).len(), 0);
    assert_eq!(alice.metric("claviger_dead_letters{webhook=\"crm\"}"), 0.0);

    // The acknowledgement also removes it when no webhook is left.
    send_texts(&bob, &alice, &["poison 2"]);
    printed(&alice, &["webhook", "resume", "crm"]);
    alice.wait_until("it is set aside", |alice| dead_letters(alice).len() == 1);
    alice.stop();
    replace_in_configuration(&alice, &tables, "");
    alice.start();
    let read = alice.unread()[0]["id"].clone();
    ApiClient::new(&alice).post("/v1/inbox/acknowledge", &json!({ "ids": [read] })).json(200);
    assert_eq!(dead_letters(&alice).len(), 0);
}

/// A letter waits for a receiver that is away, but not for ever.
#[test]
fn a_letter_is_set_aside_after_its_time() {
    let port = free_port();
    let Some((mut alice, bob)) = alice_and_bob(&table("crm", port, "refused_attempts = 1")) else { return };
    let clock = Clock::new(&alice.home);
    alice.start_with(clock.command(&alice.home));
    alice.wait_until_token_ready();
    send_texts(&bob, &alice, &["0"]);
    alice.wait_until("it is tried", |alice| webhook(alice, "crm")["failures"] != 0);
    // The time goes on while the agent is down.
    alice.kill();
    clock.set(23 * 60 * 60);
    alice.start_with(clock.command(&alice.home));
    alice.wait_until("it is tried again", |alice| webhook(alice, "crm")["failures"] != 0);
    assert_eq!(dead_letters(&alice).len(), 0);
    clock.set(25 * 60 * 60);
    alice.wait_until("it is set aside", |alice| dead_letters(alice).len() == 1);
    let dead = dead_letters(&alice)[0].clone();
    assert!(dead["status"].is_null(), "{dead}");
    assert!(dead["time"].as_i64().unwrap() - dead["since"].as_i64().unwrap() > 24 * 60 * 60 * 1000, "{dead}");
    assert_eq!(alice.unread_texts(), ["0"]);
}

/// 410 pauses a webhook until it is resumed, or SIGHUP. `Retry-After` is obeyed.
#[test]
fn a_receiver_ends_and_delays_its_webhook() {
    let port = free_port();
    let Some((mut alice, bob)) = alice_and_bob(&table("crm", port, "")) else { return };
    alice.start();
    let mut answers = vec![(503, "retry-after: 3000\r\n"), (410, ""), (204, ""), (410, "")].into_iter();
    let server = WebhookServer::answering(port, move |_| answers.next().unwrap_or((204, "")));
    send_texts(&bob, &alice, &["0"]);
    alice.wait_until("it waits as long as it was asked to", |alice| {
        let webhook = webhook(alice, "crm");
        let wait = webhook["next_try"].as_i64().zip(webhook["since"].as_i64());
        wait.is_some_and(|(next, since)| next - since > 2_900_000)
    });
    assert_eq!(printed(&alice, &["webhook", "resume", "crm"]), "crm\n");
    alice.wait_until("it is paused", |alice| webhook(alice, "crm")["state"] == "paused");
    assert_eq!(alice.metric("claviger_webhook_paused{webhook=\"crm\"}"), 1.0);
    send_texts(&bob, &alice, &["1"]);
    assert_eq!(server.requests().len(), 2);
    printed(&alice, &["webhook", "resume", "crm"]);
    alice.wait_until("it is paused again", |alice| webhook(alice, "crm")["state"] == "paused" && waiting(alice) == 1);
    assert_eq!((server.requests().len(), alice.metric("claviger_webhook_paused{webhook=\"crm\"}")), (4, 1.0));
    alice.signal(Signal::HUP);
    alice.wait_until("all are posted", |_| server.accepted_texts() == ["0", "1"]);
    alice.wait_until("it is not paused", |alice| alice.metric("claviger_webhook_paused{webhook=\"crm\"}") == 0.0);
    assert_eq!(alice.run(&["webhook", "resume", "cmr"]).error(1), "not-found");
}

/// The time that a receiver wants no more does not count as the time that it is away, also if a restart ends the pause.
#[test]
fn a_pause_is_no_time_away() {
    let port = free_port();
    let Some((mut alice, bob)) = alice_and_bob(&table("crm", port, "refused_attempts = 1")) else { return };
    let clock = Clock::new(&alice.home);
    alice.start_with(clock.command(&alice.home));
    alice.wait_until_token_ready();
    let server = WebhookServer::listen(port, &[503, 410]);
    send_texts(&bob, &alice, &["0"]);
    alice.wait_until("it is paused", |alice| webhook(alice, "crm")["state"] == "paused");
    alice.kill();
    drop(server);
    clock.set(25 * 60 * 60);
    alice.start_with(clock.command(&alice.home));
    alice.wait_until("the receiver is away", |alice| webhook(alice, "crm")["failures"].as_u64().unwrap() > 1);
    assert_eq!(dead_letters(&alice).len(), 0);
}

/// SIGHUP adds and removes webhooks. What only a removed webhook wanted is acknowledged. Its dead letters cannot be sent, and
/// stay until they are dropped or their messages are acknowledged.
#[test]
fn webhooks_come_and_go_with_sighup() {
    let (old, new) = (free_port(), free_port());
    let first = table("old", old, "refused_attempts = 1");
    let Some((mut alice, bob)) = alice_and_bob(&first) else { return };
    alice.start();
    let server = WebhookServer::listen(old, &[422, 422, 503]);
    send_texts(&bob, &alice, &["0", "1"]);
    alice.wait_until("the letters are set aside", |alice| dead_letters(alice).len() == 2);
    let before = alice.log().len();
    let both = table("new", new, "") + &first;
    change_and_reload(&alice, &first, &both);
    wait_for_log_line(&alice, before, &["configuration reloaded", "api.webhook"]);
    let newer = WebhookServer::listen(new, &[]);
    alice.wait_until("the new webhook has the messages", |_| newer.accepted_texts() == ["0", "1"]);
    send_texts(&bob, &alice, &["2"]);
    alice.wait_until("both have the next message", |_| newer.bodies().len() == 3 && server.accepted_texts() == ["2"]);
    alice.wait_until("only the dead letters are unread", |alice| alice.unread_texts() == ["0", "1"]);
    let id = dead_letters(&alice)[0]["id"].as_str().unwrap().to_owned();

    let before = alice.log().len();
    let other = table("new", new, "events = [\"message.failed\"]");
    change_and_reload(&alice, &both, &other);
    wait_for_log_line(&alice, before, &["configuration reloaded", "api.webhook"]);
    let resend = ApiClient::new(&alice).post(&format!("/v1/dead-letters/{id}/resend"), &json!({}));
    assert_eq!(resend.error(409), "no-webhook");
    alice.json(&["webhook", "drop", &id]);
    assert_eq!((dead_letters(&alice).len(), waiting(&alice)), (1, 2));

    // One table, as before there were several.
    let before = alice.log().len();
    change_and_reload(&alice, &other, &table("new", new, "").replace("[[api.webhook]]", "[api.webhook]"));
    wait_for_log_line(&alice, before, &["configuration reloaded", "api.webhook"]);
    alice.wait_until("the messages are acknowledged", |alice| waiting(alice) == 0);
    alice.wait_until("their dead letters are gone", |alice| dead_letters(alice).is_empty());
    assert_eq!(alice.json(&["webhook", "list"])["webhooks"].as_array().unwrap().len(), 1);
}

/// A webhook gets the events of its kinds that happen since it is there, each once, in their order, and with an id of its own.
/// One that is refused is kept with its data, and sent again.
#[test]
fn events_are_posted_and_set_aside() {
    let port = free_port();
    let more = "events = [\"message\", \"message.failed\", \"connection.made\"]\nrefused_attempts = 1";
    let Some((mut alice, bob)) = alice_and_bob(&table("crm", port, more)) else { return };
    let is_refused = |body: &str| body.contains("refuse this");
    let refuses = Arc::new(AtomicBool::new(true));
    let still = refuses.clone();
    let server = WebhookServer::answering(port, move |body| {
        (if is_refused(body) && still.load(Ordering::SeqCst) { 400 } else { 200 }, "")
    });
    record(&alice, &[("connection.made", "before the webhook")]);
    alice.start();
    send_texts(&bob, &alice, &["0"]);
    alice.wait_until("the message is posted", |alice| server.bodies().len() == 1 && waiting(alice) == 0);
    alice.stop();
    let events =
        [("message.failed", "a"), ("message.sent", "b"), ("connection.made", "refuse this"), ("message.failed", "c")];
    record(&alice, &events);
    let posted = || -> Vec<Value> {
        let accepted = |it: &String| !is_refused(it) || !refuses.load(Ordering::SeqCst);
        let bodies = server.bodies();
        let events = bodies[1..].iter().filter(|it| accepted(it)).map(|it| serde_json::from_str(it).unwrap());
        let without_time = |mut event: Value| {
            let time = event.as_object_mut().unwrap().remove("timestamp").unwrap();
            assert!(humantime::parse_rfc3339(time.as_str().unwrap()).is_ok(), "{time}");
            event
        };
        events.map(without_time).collect()
    };
    alice.start();
    alice.wait_until("the events are posted", |alice| posted().len() == 2 && dead_letters(alice).len() == 1);
    let event = |kind: &str, name: &str| json!({ "type": kind, "data": { "name": name } });
    assert_eq!(posted(), [event("message.failed", "a"), event("message.failed", "c")]);
    let ids: Vec<String> = server.requests()[1..].iter().map(verify_signatures).collect();
    assert!(ids.iter().all(|id| id.starts_with("event-")) && ids[0] != ids[1] && ids[1] != ids[2], "{ids:?}");
    let dead = dead_letters(&alice)[0].clone();
    assert_eq!((&dead["event"], &dead["data"]), (&json!("connection.made"), &json!({ "name": "refuse this" })));
    assert_eq!((&dead["webhook_id"], &dead["message"]), (&json!(ids[1]), &Value::Null));

    // What was posted is not posted again.
    alice.stop();
    record(&alice, &[("message.failed", "d")]);
    alice.start();
    alice.wait_until("the next is posted", |_| posted().len() == 3);
    assert_eq!(posted()[2], event("message.failed", "d"));
    assert_eq!(dead_letters(&alice).len(), 1);
    refuses.store(false, Ordering::SeqCst);
    alice.json(&["webhook", "resend", "--all", "--webhook", "crm"]);
    alice.wait_until("it is accepted", |alice| dead_letters(alice).is_empty());
    let last = server.requests().last().map(verify_signatures).unwrap();
    assert_eq!((last, server.requests().len()), (ids[1].clone(), 6));
}

/// Events that happened before a webhook wanted their kind are not posted: an event tells of a moment.
#[test]
fn a_new_kind_of_events_begins_with_those_that_happen_then() {
    let port = free_port();
    let (before, after) =
        ("[\"message\", \"connection.made\"]", "[\"message\", \"message.failed\", \"connection.made\"]");
    let Some((mut alice, bob)) = alice_and_bob(&table("crm", port, &format!("events = {before}"))) else { return };
    let server = WebhookServer::listen(port, &[]);
    let names = || -> Vec<String> {
        let name =
            |body: &String| Some(serde_json::from_str::<Value>(body).unwrap()["data"]["name"].as_str()?.to_owned());
        server.bodies().iter().filter_map(name).collect()
    };
    alice.start();
    send_texts(&bob, &alice, &["0"]);
    alice.wait_until("the webhook is there", |alice| server.bodies().len() == 1 && waiting(alice) == 0);
    alice.stop();
    record(&alice, &[("message.failed", "unwanted"), ("connection.made", "a"), ("message.failed", "unwanted, too")]);
    replace_in_configuration(&alice, before, after);
    alice.start();
    alice.wait_until("the wanted event is posted", |_| names() == ["a"]);
    alice.stop();
    record(&alice, &[("message.failed", "b"), ("connection.made", "c")]);
    alice.start();
    alice.wait_until("all are posted", |_| names() == ["a", "b", "c"]);
}

/// A kind that a webhook names is recorded, also if `[api]` records nothing and SIGHUP brought the webhook.
#[test]
fn what_a_webhook_names_is_recorded() {
    let port = free_port();
    let Some((mut alice, bob)) = alice_and_bob("[api]\nevents = []\n# none\n") else { return };
    alice.start();
    let server = WebhookServer::listen(port, &[]);
    let before = alice.log().len();
    change_and_reload(&alice, "# none\n", &table("crm", port, "events = [\"message.sent\"]"));
    wait_for_log_line(&alice, before, &["configuration reloaded", "api.webhook"]);
    let sent = alice.json(&["send", "--to", &bob.did, "hello", "--within", "30"]);
    alice.wait_until("the event is posted", |_| !server.bodies().is_empty());
    let posted: Value = serde_json::from_str(&server.bodies()[0]).unwrap();
    assert_eq!((&posted["type"], &posted["data"]["id"]), (&json!("message.sent"), &sent["id"]), "{posted} {sent}");
    verify_signatures(&server.requests()[0]);
}

/// Writes events into the store of an agent that does not run.
fn record(daemon: &Daemon, events: &[(&str, &str)]) {
    let path = daemon.home.path().join("state/agent/agent.db");
    DirBuilder::new().recursive(true).mode(0o700).create(path.parent().unwrap()).unwrap();
    let time = i64::try_from(seconds()).unwrap() * 1000;
    let event = |(kind, name): &(&str, &str)| {
        let data = json!({ "name": name }).to_string();
        Change::Event(NewEvent { time, kind: (*kind).to_owned(), data })
    };
    let commit = Commit { changes: events.iter().map(event).collect(), ..Commit::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = SqliteStore::open(&path, SqliteOptions::default()).unwrap();
        store.commit(commit).await.unwrap();
        store.close().await.unwrap();
    });
}
