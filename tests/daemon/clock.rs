//! The system clock is set forwards and backwards while a daemon runs. No message waits longer because of that.

use std::{
    fs::{self, File},
    io::Write,
    net::TcpListener,
    path::PathBuf,
    process::Command,
};

use claviger::didcomm::Message;
use serde_json::json;

use crate::{
    api_client::{ApiClient, SAY},
    daemon::{Daemon, TIMEOUT, free_port},
    endpoint::{Endpoint, accepted},
    home::Home,
    load::LoadGenerator,
    peer::{Peer, seconds},
};

const DAY: i64 = 24 * 60 * 60;
const HOUR: i64 = 60 * 60;

/// An offset to the system clock, for the processes that are started with `command`.
pub struct Clock {
    file: PathBuf,
    library: PathBuf,
}

impl Clock {
    pub fn new(home: &Home) -> Self {
        let clock = Self { file: home.path().join("clock"), library: home.path().join("clock.so") };
        fs::write(&clock.file, [0; 8]).unwrap();
        // A C compiler is installed, because Rust uses it as its linker.
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/daemon/clock.c");
        let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&clock.library).arg(source).status();
        assert!(compiled.unwrap().success());
        clock
    }

    pub fn command(&self, home: &Home) -> Command {
        let mut command = home.command(&claviger_testkit::program!());
        command.env("LD_PRELOAD", &self.library).env("CLAVIGER_CLOCK", &self.file);
        command
    }

    /// Sets the offset in seconds. The processes have the file mapped into memory, so it is written in place.
    pub fn set(&self, seconds: i64) {
        File::options().write(true).open(&self.file).unwrap().write_all(&seconds.to_ne_bytes()).unwrap();
    }
}

#[test]
fn clock_changes_delay_and_lose_no_message() {
    let Some(mut daemon) = Daemon::new("") else { return };
    let clock = Clock::new(&daemon.home);
    let command = clock.command(&daemon.home);
    // The clock is a day ahead at first, so that all stored times are in the future once the clock is corrected.
    clock.set(DAY);
    daemon.start_with(command);
    daemon.wait_until_token_ready();
    let (port, peer) = (free_port(), Peer::new("peer"));
    let away = Peer::with_endpoint("away", &format!("http://127.0.0.1:{port}"));
    let id = daemon.send_text(away.did(), "when you are back").unwrap();
    daemon.wait_until("the agent tried to send", |daemon| daemon.outbox_message(&id)["tries"] != 0);
    assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, "tomorrow")), 202);
    daemon.wait_until("the message arrived", |daemon| daemon.unread_texts() == ["tomorrow"]);
    let received = daemon.unread()[0]["received"].clone();
    daemon.disconnect_token();
    // SoftHSM continues to work with its open files. Only a new keeper notices that the token is missing.
    assert!(daemon.kill_keepers());
    daemon.wait_until("the daemon notices the missing token", |daemon| !daemon.is_token_ready());
    for number in 0..10 {
        assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, &number.to_string())), 202);
    }

    // The clock is set back by a day: nothing waits until tomorrow.
    clock.set(0);
    daemon.reconnect_token();
    let back = Endpoint::with_listener(TcpListener::bind(("127.0.0.1", port)).unwrap(), |_| accepted());
    daemon.wait_until("all messages are opened", |daemon| daemon.unread_texts().len() == 11);
    daemon.wait_until("the message is sent", |daemon| daemon.outbox_message(&id)["state"] == "sent");
    assert_eq!(back.messages().len(), 1);
    assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, "today")), 202);
    daemon.wait_until("the message arrived", |daemon| daemon.unread_texts().contains(&"today".to_owned()));
    let today = daemon.delivery("today")["received"].clone();
    assert!(today.as_str() < received.as_str() || today.as_i64() < received.as_i64(), "the clock was not set: {today}");

    // The clock jumps several times under load.
    let load = LoadGenerator::start(&daemon, 1);
    for days in [2, -2, 20, 0] {
        let before = load.accepted();
        clock.set(days * DAY);
        daemon.wait_until("the daemon accepts messages", |_| load.accepted() > before + 10);
    }
    let sent = load.stop();
    daemon.wait_until_within(TIMEOUT, "all messages arrived", |daemon| {
        let texts = daemon.unread_texts();
        sent.accepted.iter().all(|content| texts.contains(content))
    });
}

/// Messages for an unreachable peer wait, and are sent when it is back. A message with an earlier
/// `expires_time` expires.
#[test]
fn messages_wait_an_hour_for_a_peer_or_expire() {
    let Some(mut daemon) = Daemon::new("") else { return };
    let clock = Clock::new(&daemon.home);
    daemon.start_with(clock.command(&daemon.home));
    daemon.wait_until_token_ready();
    let (port, live) = (free_port(), Endpoint::accepting());
    let away = Peer::with_endpoint("away", &format!("http://127.0.0.1:{port}"));
    let here = Peer::with_endpoint("here", &live.uri());
    let ids: Vec<String> = (0..5).map(|number| daemon.send_text(away.did(), &number.to_string()).unwrap()).collect();
    let body = json!({"content": "within half an hour"});
    let headers = json!({"expires_time": seconds() + 1800});
    let soon = json!({"to": away.did(), "from": daemon.did, "type": SAY, "body": body, "headers": headers});
    let soon = ApiClient::new(&daemon).post("/v1/messages", &soon).json(202)["id"].as_str().unwrap().to_owned();
    daemon.wait_until("the agent tried to send", |daemon| daemon.outbox_message(&ids[4])["tries"] != 0);
    for minutes in [20, 40, 60] {
        clock.set(minutes * HOUR / 60);
        let other = daemon.send_text(here.did(), &format!("{minutes} minutes")).unwrap();
        daemon.wait_until("messages to others are sent", |daemon| daemon.outbox_message(&other)["state"] == "sent");
    }
    assert!(ids.iter().all(|id| daemon.outbox_message(id)["state"] == "waiting"));
    daemon.wait_until("the message expired", |daemon| daemon.outbox_message(&soon)["state"] == "expired");
    let back = Endpoint::with_listener(TcpListener::bind(("127.0.0.1", port)).unwrap(), |_| accepted());
    daemon.wait_until("all messages are sent", |daemon| {
        ids.iter().all(|id| daemon.outbox_message(id)["state"] == "sent")
    });
    assert_eq!(back.messages().len(), 5);
}

/// Messages before it that wait for a token do not keep a message from expiring.
#[test]
fn a_message_expires_behind_messages_that_wait_for_a_token() {
    let Some(mut daemon) = Daemon::new("") else { return };
    let clock = Clock::new(&daemon.home);
    daemon.start_with(clock.command(&daemon.home));
    daemon.wait_until_token_ready();
    daemon.disconnect_token();
    assert!(daemon.kill_keepers());
    daemon.wait_until("the daemon notices the missing token", |daemon| !daemon.is_token_ready());
    let peer = Peer::with_endpoint("peer", &format!("http://127.0.0.1:{}", free_port()));
    let ids: Vec<String> = (0..8).map(|number| daemon.send_text(peer.did(), &number.to_string()).unwrap()).collect();
    let (body, headers) = (json!({"content": "within an hour"}), json!({"expires_time": seconds() + 3600}));
    let soon = json!({"to": peer.did(), "from": daemon.did, "type": SAY, "body": body, "headers": headers});
    let soon = ApiClient::new(&daemon).post("/v1/messages", &soon).json(202)["id"].as_str().unwrap().to_owned();
    clock.set(2 * HOUR);
    daemon.wait_until("the message expired", |daemon| daemon.outbox_message(&soon)["state"] == "expired");
    assert!(ids.iter().all(|id| daemon.outbox_message(id)["state"] == "waiting"));
    let metrics = daemon.get_ops("/metrics");
    let expired = |line: &&str| line.starts_with("claviger_messages_sent_total") && line.contains("\"expired\"");
    assert!(metrics.lines().find(expired).is_some_and(|line| line.ends_with(" 1")), "{metrics}");
}

/// Messages that arrived in time wait for the token beyond their `expires_time`, and longer than a message may be old.
/// They are handled all the same, and once.
#[test]
fn messages_that_wait_for_the_token_do_not_become_too_old() {
    let Some(mut daemon) = Daemon::new("[agent]\nlongest_age_days = 1\n") else { return };
    let clock = Clock::new(&daemon.home);
    daemon.disconnect_token();
    daemon.start_with(clock.command(&daemon.home));
    let peer = Peer::new("peer");
    let short_lived = peer.message(&daemon.did, "expires in an hour").expires_time(seconds() + 3600).finalize();
    // The peer got no answer, and sends the message again.
    for _ in 0..2 {
        assert_eq!(daemon.post_status(peer.pack(&short_lived)), 202);
    }
    assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, "of today")), 202);
    clock.set(3 * DAY);
    daemon.reconnect_token();
    daemon.wait_until_all_opened();
    let mut texts = daemon.unread_texts();
    texts.sort();
    assert_eq!(texts, ["expires in an hour", "of today"]);
    // A copy that arrives now is too old.
    assert_eq!(daemon.post_status(peer.pack(&short_lived)), 202);
    daemon.wait_until("the copy is refused", |daemon| daemon.log().contains("the message has expired"));
    assert_eq!(daemon.unread_texts().len(), 2);
}

/// A message that no token opened is not deleted silently.
#[test]
fn messages_that_wait_too_long_are_reported() {
    let Some(mut daemon) = Daemon::new("") else { return };
    let clock = Clock::new(&daemon.home);
    daemon.disconnect_token();
    daemon.start_with(clock.command(&daemon.home));
    let peer = Peer::new("peer");
    assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, "hello?")), 202);
    daemon.stop();
    clock.set(29 * DAY);
    daemon.start_with(clock.command(&daemon.home));
    assert_eq!(daemon.metric("claviger_waiting{queue=\"inbox\"}"), 1.0);
    daemon.stop();
    clock.set(31 * DAY);
    daemon.start_with(clock.command(&daemon.home));
    daemon.wait_until_all_opened();
    let reported = "claviger_messages_handled_total{protocol=\"unopened\",result=\"expired\"}";
    daemon.wait_until("the metric counts it", |daemon| daemon.get_ops("/metrics").contains(reported));
    let log = daemon.log();
    let line = log.lines().find(|line| line.contains("message expired unopened")).expect("a line in the log");
    assert!(
        line.contains("ERROR") && line.contains("no token was ready to open it") && line.contains("days=31"),
        "{line}"
    );
}

/// A reply to a stranger is of no use later. A message of the application lives on.
#[test]
fn automatic_replies_live_ten_minutes() {
    let Some(mut daemon) = Daemon::new("") else { return };
    let clock = Clock::new(&daemon.home);
    daemon.start_with(clock.command(&daemon.home));
    daemon.wait_until_token_ready();
    let (stranger, known) = (Peer::new("stranger"), Peer::new("known"));
    let id = daemon.send_text(known.did(), "a message").unwrap();
    for peer in [&stranger, &known] {
        let body = json!({"response_requested": true});
        let ping = Message::build(Message::new_id(), "https://didcomm.org/trust-ping/2.0/ping", body);
        let ping = ping.from(peer.did()).to(&daemon.did).created_time(seconds()).finalize();
        assert_eq!(daemon.post_status(peer.pack(&ping)), 202);
    }
    let waiting = |daemon: &Daemon| daemon.metric("claviger_waiting{queue=\"outbox\"}");
    daemon.wait_until("both are answered", |daemon| waiting(daemon) == 3.0);
    clock.set(9 * HOUR / 60);
    assert_eq!(waiting(&daemon), 3.0);
    clock.set(11 * HOUR / 60);
    daemon.wait_until("the replies expired", |daemon| waiting(daemon) == 1.0);
    assert_eq!(daemon.outbox_message(&id)["state"], "waiting");
}
