//! What strangers leave with a daemon: documents, connections, profiles and unread messages.

use std::fs;

use claviger::{
    agent::protocol::{trust_ping::PING, user_profile::PROFILE},
    did::peer::short_form,
    didcomm::{Attachment, Message},
};
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};

use crate::{api_client::ApiClient, clock::Clock, daemon::Daemon, endpoint::Endpoint, peer::Peer, support::forge::b64};

const HOUR: i64 = 60 * 60;

/// The number of records of a kind in the store.
fn records(daemon: &Daemon, kind: &str) -> usize {
    let database = daemon.home.path().join("state/agent/agent.db");
    let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let count = "SELECT count(*) FROM records WHERE kind = ?1";
    connection.query_row(count, [kind], |row| row.get::<_, i64>(0)).unwrap().try_into().unwrap()
}

fn long_form_files(daemon: &Daemon) -> usize {
    fs::read_dir(daemon.home.path().join("state/long-forms")).map_or(0, Iterator::count)
}

/// The peers of the daemon's connections, strangers and others.
fn peers(daemon: &Daemon) -> Vec<String> {
    let answer = ApiClient::new(daemon).get("/v1/connections?limit=1000").json(200);
    let connections = answer["connections"].as_array().unwrap();
    connections.iter().map(|connection| connection["theirs"].as_str().unwrap().to_owned()).collect()
}

fn acknowledge_all(daemon: &Daemon) {
    let ids: Vec<Value> = daemon.unread().into_iter().map(|delivery| delivery["id"].clone()).collect();
    ApiClient::new(daemon).post("/v1/inbox/acknowledge", &json!({ "ids": ids })).json(200);
}

/// Makes the peer known: the application writes to it.
fn greet(daemon: &Daemon, peer: &Peer) {
    let id = daemon.send_text(peer.did(), "welcome").unwrap();
    daemon.wait_until("the peer has the message", |daemon| daemon.outbox_message(&id)["state"] == "sent");
}

/// A document is kept once its owner was authenticated. Messages to its short form work after a restart.
#[test]
fn documents_of_unauthenticated_senders_are_not_kept() {
    let Some(mut daemon) = Daemon::running("") else { return };
    for number in 0..30 {
        let mallory = Peer::with_long_form(&format!("mallory {number}"), None);
        let mut forged =
            mallory.authcrypt(&daemon.agreement_keys()).seal(mallory.plaintext(&daemon.did, "").to_string());
        forged["tag"] = b64([7; 32]).into();
        assert_eq!(daemon.post_status(forged), 202);
    }
    daemon.wait_until_all_opened();
    assert_eq!((long_form_files(&daemon), records(&daemon, "long-form")), (0, 0));

    let endpoint = Endpoint::accepting();
    let bob = Peer::with_long_form("bob", Some(&endpoint.uri()));
    assert_eq!(daemon.post_status(bob.pack_text(&daemon.did, "hello")), 202);
    daemon.wait_until("the message arrived", |daemon| daemon.unread_texts() == ["hello"]);
    assert_eq!((long_form_files(&daemon), records(&daemon, "long-form")), (0, 1));
    daemon.stop();
    daemon.start();
    let short = short_form(bob.did()).unwrap();
    let id = daemon.send_text(short, "hello Bob").unwrap();
    daemon.wait_until("the answer is sent", |daemon| daemon.outbox_message(&id)["state"] == "sent");
    assert_eq!(endpoint.messages().len(), 1);
}

/// Hundreds of strangers with large documents do not displace the peers that the application knows.
#[test]
fn known_peers_outlast_many_strangers() {
    let Some(mut daemon) = Daemon::running("[store]\nmax_bytes_of_strangers = 20_000\n") else { return };
    let endpoint = Endpoint::accepting();
    let honest = Peer::with_long_form("honest", Some(&endpoint.uri()));
    greet(&daemon, &honest);
    for number in 0..60 {
        let stranger = Peer::with_long_form(&format!("stranger {number}"), None);
        let mut ping = stranger.message(&daemon.did, "").finalize();
        (ping.type_, ping.body) = (PING.to_owned(), json!({"response_requested": false}));
        assert_eq!(daemon.post_status(stranger.pack(&ping)), 202);
    }
    daemon.wait_until_all_opened();
    let remembered = peers(&daemon);
    assert!(remembered.len() < 30, "{}", remembered.len());
    assert!(remembered.contains(&short_form(honest.did()).unwrap().to_owned()));
    assert!(daemon.metric("claviger_of_strangers{what=\"remembered-bytes\"}") <= 20_000.0);
    daemon.stop();
    daemon.start();
    let id = daemon.send_text(short_form(honest.did()).unwrap(), "still there?").unwrap();
    daemon.wait_until("the message is sent", |daemon| daemon.outbox_message(&id)["state"] == "sent");
    assert_eq!(endpoint.messages().len(), 2);
}

/// Ids, threads and types stay in the clear after a message was acknowledged, outside the limits for unread messages.
#[test]
fn messages_with_huge_names_are_refused() {
    let Some(daemon) = Daemon::running("") else { return };
    let (stranger, long) = (Peer::new("stranger"), "x".repeat(100_000));
    let changes: [fn(&mut Message, &str); 3] = [
        |message, long| message.id = long.to_owned(),
        |message, long| message.thid = Some(long.to_owned()),
        |message, long| message.type_ = format!("https://example.org/{long}/1.0/say"),
    ];
    for change in changes {
        let mut message = stranger.message(&daemon.did, "hello").finalize();
        change(&mut message, &long);
        assert_eq!(daemon.post_status(stranger.pack(&message)), 202);
    }
    daemon.wait_until_all_opened();
    assert!(daemon.unread().is_empty());
    let mut message = stranger.message(&daemon.did, "hello").finalize();
    message.thid = Some("x".repeat(1000));
    assert_eq!(daemon.post_status(stranger.pack(&message)), 202);
    daemon.wait_until("the message arrived", |daemon| daemon.unread_texts() == ["hello"]);
}

#[test]
fn nothing_of_strangers_is_left_after_an_hour() {
    let Some(mut daemon) = Daemon::new("") else { return };
    let clock = Clock::new(&daemon.home);
    daemon.start_with(clock.command(&daemon.home));
    daemon.wait_until_token_ready();
    let endpoint = Endpoint::accepting();
    let honest = Peer::with_endpoint("honest", &endpoint.uri());
    greet(&daemon, &honest);
    assert_eq!(daemon.post_status(honest.pack_text(&daemon.did, "thank you")), 202);
    for number in 0..10 {
        let stranger = Peer::with_long_form(&format!("stranger {number}"), None);
        let picture = Attachment::base64("A".repeat(40_000)).id("picture").finalize();
        let mut profile = stranger.message(&daemon.did, "").accept_lang(vec!["fr".to_owned()]).attachment(picture);
        profile = profile.ack(vec!["1".to_owned(), "2".to_owned()]);
        let mut profile = profile.finalize();
        profile.type_ = PROFILE.to_owned();
        profile.body = json!({"profile": {"displayName": "Stranger", "displayPicture": "#picture"}});
        assert_eq!(daemon.post_status(stranger.pack(&profile)), 202);
    }
    daemon.wait_until("all messages arrived", |daemon| daemon.unread().len() == 11);
    assert_eq!((peers(&daemon).len(), records(&daemon, "profile")), (11, 10));
    assert_eq!(records(&daemon, "acked"), 0, "a stranger has nothing to acknowledge");
    assert!(daemon.metric("claviger_of_strangers{what=\"remembered-bytes\"}") < 100_000.0, "pictures are not kept");
    acknowledge_all(&daemon);
    daemon.stop();
    // The first sweep is at the start.
    clock.set(HOUR);
    daemon.start_with(clock.command(&daemon.home));
    daemon.wait_until_token_ready();
    daemon.wait_until("strangers are forgotten", |daemon| peers(daemon) == [honest.did()]);
    let kinds = ["profile", "long-form", "acked"].map(|kind| records(&daemon, kind));
    assert_eq!(kinds, [0, 0, 0]);
    assert_eq!(daemon.metric("claviger_of_strangers{what=\"remembered-bytes\"}"), 0.0);
}

/// Unread messages of strangers take no room of known peers, and have a limit of their own.
#[test]
fn unread_messages_of_strangers_leave_room_for_known_peers() {
    let store = "[store]\nmax_unread_bytes = 300_000\n";
    let Some(mut daemon) = Daemon::running(store) else { return };
    let endpoint = Endpoint::accepting();
    let honest = Peer::with_endpoint("honest", &endpoint.uri());
    greet(&daemon, &honest);
    let large = "x".repeat(100_000);
    let send = |daemon: &Daemon, peer: &Peer| {
        let status = daemon.post_status(peer.pack_text(&daemon.did, &large));
        daemon.wait_until_all_opened();
        status
    };
    for number in 0..4 {
        assert_eq!(send(&daemon, &Peer::new(&format!("stranger {number}"))), 202);
    }
    assert_eq!(send(&daemon, &honest), 202);
    assert_eq!(daemon.unread().len(), 5);
    daemon.stop();

    let limit = "max_unread_bytes_of_strangers = 500_000\n";
    let config = daemon.home.path().join("claviger.toml");
    fs::write(&config, fs::read_to_string(&config).unwrap().replace(store, &format!("{store}{limit}"))).unwrap();
    daemon.start();
    assert_eq!(send(&daemon, &Peer::new("stranger 5")), 202);
    assert_eq!(send(&daemon, &Peer::new("stranger 6")), 503);
    assert_eq!(send(&daemon, &honest), 202);
    acknowledge_all(&daemon);
    assert_eq!(send(&daemon, &Peer::new("stranger 7")), 202);
}

/// The time in a message is the sender's choice. One in the future makes no other stranger's message too old.
#[test]
fn messages_from_the_future_lock_nobody_out() {
    let Some(daemon) = Daemon::running("[store]\nmax_marks_of_strangers = 5\n") else { return };
    let mallory = Peer::new("mallory");
    for _ in 0..12 {
        let mut ping = mallory.message(&daemon.did, "").finalize();
        (ping.type_, ping.body) = (PING.to_owned(), json!({"response_requested": false}));
        ping.created_time = Some(100_000_000_000);
        assert_eq!(daemon.post_status(mallory.pack(&ping)), 202);
    }
    daemon.wait_until_all_opened();
    assert!(daemon.metric("claviger_of_strangers{what=\"marks\"}") <= 5.0);
    assert_eq!(daemon.post_status(Peer::new("honest").pack_text(&daemon.did, "hello")), 202);
    daemon.wait_until("the message arrived", |daemon| daemon.unread_texts() == ["hello"]);
}
