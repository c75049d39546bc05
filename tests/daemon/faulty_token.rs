//! A token that is slow, fails, hangs or refuses the PIN under a running daemon. The token is
//! behind `tests/fault-module`.

use std::{
    io::Write,
    net::TcpStream,
    time::{Duration, Instant},
};

use claviger_fault_module::Shim;

use crate::{
    daemon::Daemon,
    home::{PIN, softhsm_module},
    load::LoadGenerator,
    peer::Peer,
    support::faulty_token::uri_with_fault_module,
};

const MINUTE: Duration = Duration::from_secs(60);

/// A daemon whose token is behind the fault module.
pub struct FaultyDaemon {
    pub daemon: Daemon,
    pub shim: Shim,
}

impl FaultyDaemon {
    /// Does not start the daemon.
    fn new(more: &str) -> Option<Self> {
        let daemon = Daemon::new(more)?;
        let file = daemon.home.path().join("claviger.toml");
        let configuration = std::fs::read_to_string(&file).unwrap();
        daemon.home.write("claviger.toml", &uri_with_fault_module(&configuration));
        let shim = Shim::new(daemon.home.path().join("fault"));
        shim.order(&[]);
        Some(Self { daemon, shim })
    }

    pub fn running(more: &str) -> Option<Self> {
        let mut faulty = Self::new(more)?;
        faulty.start();
        faulty.daemon.wait_until_token_ready();
        Some(faulty)
    }

    fn start(&mut self) {
        let mut command = self.daemon.home.command(&claviger_testkit::program!());
        command.env("CLAVIGER_FAULT_MODULE", softhsm_module().expect("SoftHSM was found before"));
        command.env("CLAVIGER_FAULT_CONTROL", self.daemon.home.path().join("fault"));
        self.daemon.start_with(command);
    }
}

/// Each operation of the token takes five seconds. Messages are still accepted, after the five seconds that a response
/// waits for a reply to carry. The health port answers at once.
#[test]
fn a_slow_token_does_not_delay_the_acceptance_of_messages() {
    let Some(FaultyDaemon { daemon, shim }) = FaultyDaemon::running("") else { return };
    shim.order(&["delay C_DeriveKey 5000"]);
    let load = LoadGenerator::start(&daemon, 8);
    daemon.wait_until("the daemon accepts messages", |_| load.accepted() > 8);
    let mut times: Vec<Duration> = (0..30)
        .map(|_| {
            let begun = Instant::now();
            assert!(daemon.is_live() && daemon.is_ready());
            begun.elapsed() / 2
        })
        .collect();
    times.sort();
    // The median, as the machine may be busy.
    assert!(times[times.len() / 2] < Duration::from_millis(100), "{times:?}");
    let sent = load.stop();
    shim.order(&[]);
    sent.assert_each_delivered_once(&daemon, MINUTE);
}

/// 64 messages are opened at once, and 64 more are next. A message behind these gets its response at once, as no reply
/// can come soon. A message over the limit gets 503 at once.
#[test]
fn messages_behind_a_long_queue_are_answered_without_waiting_for_a_reply() {
    let Some(FaultyDaemon { daemon, shim }) = FaultyDaemon::running("[store]\nmax_waiting_for = 480\n") else { return };
    shim.order(&["delay C_DeriveKey 5000"]);
    let peer = Peer::new("peer");
    let many: Vec<_> = (0..220)
        .map(|number| {
            let packed = peer.pack_text(&daemon.did, &number.to_string());
            let mut stream = TcpStream::connect(("127.0.0.1", daemon.port)).unwrap();
            let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-type: application/didcomm-encrypted+json\r\n";
            write!(stream, "{head}content-length: {}\r\n\r\n{packed}", packed.len()).unwrap();
            stream
        })
        .collect();
    daemon.wait_until("all messages are stored", |daemon| daemon.metric("claviger_waiting{queue=\"inbox\"}") >= 220.0);
    let mut times: Vec<Duration> = (0..5)
        .map(|number| {
            let begun = Instant::now();
            assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, &(220 + number).to_string())), 202);
            begun.elapsed()
        })
        .collect();
    times.sort();
    assert!(times[times.len() / 2] < Duration::from_secs(2), "{times:?}");
    let mut taken = 225;
    let refused = loop {
        let answer = daemon.post(peer.pack_text(&daemon.did, &taken.to_string()).as_bytes());
        if !answer.starts_with("HTTP/1.1 202") {
            break answer;
        }
        taken += 1;
        assert!(taken < 1000, "no limit of the queue");
    };
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("retry-after: "), "{refused}");
    drop(many);
    shim.order(&[]);
    daemon.wait_until("all messages arrived", |daemon| daemon.unread_texts().len() == taken);
}

/// Errors that a token may return at any time are not the fault of the message, so each message is opened in the end.
#[test]
fn occasional_token_errors_lose_no_message() {
    let Some(FaultyDaemon { daemon, shim }) = FaultyDaemon::running("") else { return };
    // CKR_SESSION_HANDLE_INVALID, CKR_DEVICE_ERROR, CKR_USER_NOT_LOGGED_IN, CKR_GENERAL_ERROR.
    let failures = ["0xb3", "0x30", "0x101", "0x5"].map(|code| format!("fail C_DeriveKey {code} one-in 20"));
    shim.order(&failures.each_ref().map(String::as_str));
    let (_, before) = shim.calls_and_failures();
    let load = LoadGenerator::start(&daemon, 2);
    daemon.wait_until("token operations fail", |_| load.accepted() > 60 && shim.calls_and_failures().1 > before + 5);
    let sent = load.stop();
    shim.order(&[]);
    sent.assert_each_delivered_once(&daemon, MINUTE);
    daemon.wait_until_token_ready();
}

#[test]
fn a_keeper_whose_module_crashes_or_hangs_is_replaced() {
    let Some(FaultyDaemon { daemon, shim }) = FaultyDaemon::running("[keeper]\nhang_seconds = 1\n") else { return };
    let load = LoadGenerator::start(&daemon, 2);
    for order in ["crash C_DeriveKey at 5", "hang C_DeriveKey at 5"] {
        let before = load.accepted();
        let keepers = daemon.keepers();
        shim.order(&[order]);
        // Each new keeper would crash or hang at its fifth call. The order is removed once there is a new one.
        daemon.wait_until("another keeper started", |daemon| {
            daemon.keepers().iter().any(|keeper| !keepers.contains(keeper))
        });
        shim.order(&[]);
        daemon.wait_until("another keeper serves", |daemon| load.accepted() > before + 20 && daemon.is_token_ready());
    }
    load.stop().assert_each_delivered_once(&daemon, MINUTE);
}

/// A refused PIN is not tried again for the messages that wait, until the PIN is changed.
#[test]
fn a_wrong_pin_is_tried_once() {
    let Some(mut faulty) = FaultyDaemon::new("") else { return };
    faulty.daemon.home.write("user.pin", "not-the-p1n");
    faulty.start();
    let FaultyDaemon { daemon, shim } = faulty;
    daemon.wait_until("the agent tried to send", |_| shim.calls("C_Login") > 0);
    let peer = Peer::new("peer");
    for number in 0..30 {
        assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, &number.to_string())), 202);
    }
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(shim.calls("C_Login"), 1);
    assert!(daemon.is_ready() && !daemon.is_token_ready());
    daemon.home.write("user.pin", PIN);
    daemon.wait_until("all messages are opened", |daemon| daemon.is_token_ready() && daemon.unread_texts().len() == 30);
    assert_eq!(shim.calls("C_Login"), 2);
}
