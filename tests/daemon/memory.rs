//! The memory of the daemon is bounded, whatever peers send: messages wait on disk, and unfinished ones have a limit.

use std::{
    io::Write,
    net::{TcpListener, TcpStream},
    time::Duration,
};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::{
    api_client::ApiClient,
    daemon::Daemon,
    idle_websockets::resident_kib,
    peer::Peer,
    support::forge::b64,
    webhook::daemon_with_webhook,
    websocket_client::{WebSocketClient, closed_within, connect_from},
};

const COUNT: u8 = 120;
const COUNT_UNREAD: u64 = 50;

/// How much the resident memory may grow, in KiB: while messages wait, while unfinished messages are received, and while
/// messages wait for the application.
const MAX_GROWTH_WAITING: u64 = 64 * 1024;
const MAX_GROWTH_RECEIVING: u64 = 192 * 1024;
const MAX_GROWTH_UNREAD: u64 = 12 * 1024;

/// The token is disconnected. Only the last message can be decrypted, which saves time when the token is back.
#[test]
fn waiting_messages_do_not_occupy_memory() {
    let Some(mut daemon) = Daemon::new("") else { return };
    daemon.disconnect_token();
    daemon.start_without_token();
    let before = resident_kib(&daemon);
    let peer = Peer::new("peer");
    let packed: Value = serde_json::from_str(&peer.pack_text(&daemon.did, &"x".repeat(700_000))).unwrap();
    for number in 0..COUNT {
        let mut broken = packed.clone();
        broken["recipients"][0]["encrypted_key"] = b64([number; 72]).into();
        assert_eq!(daemon.post_status(broken), 202);
    }
    assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, "lunch?")), 202);
    let waiting = resident_kib(&daemon);
    println!("{COUNT} messages of 930 KB: {before} KiB before, {waiting} while they wait");
    assert!(waiting < before + MAX_GROWTH_WAITING, "{before} and {waiting} KiB");
    daemon.reconnect_token();
    daemon.wait_until("the honest message arrived", |daemon| daemon.unread_texts() == ["lunch?"]);
    daemon.wait_until_all_opened();
}

/// The peak of the resident memory of a daemon that opens these messages at once, in KiB.
fn peak_while_opening(messages: &[Value], peer: &Peer) -> Option<u64> {
    let mut daemon = Daemon::new("")?;
    daemon.disconnect_token();
    daemon.start_without_token();
    let packed = |body: &Value| {
        let mut message = peer.message(&daemon.did, "").finalize();
        message.body = body.clone();
        peer.pack(&message)
    };
    for body in messages {
        assert_eq!(daemon.post_status(packed(body)), 202);
    }
    daemon.reconnect_token();
    daemon.wait_until_within(Duration::from_secs(300), "all messages are opened", |daemon| {
        daemon.metric("claviger_waiting{queue=\"inbox\"}") == 0.0
    });
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").trim().parse().ok()
}

/// A JSON value takes up to 250 bytes of memory, even if its text is one digit. Messages with many values take little
/// more memory than others: at most 1.5 times as much.
#[test]
fn messages_with_many_values_take_little_more_memory() {
    let (peer, count) = (Peer::new("peer"), 64);
    let filler = "x".repeat(680_000);
    let plain = vec![json!({ "content": filler }); count];
    let Some(plain) = peak_while_opening(&plain, &peer) else { return };
    let short = "x".repeat(580_000);
    let attacks = [
        ("more numbers than allowed", json!({ "content": "", "list": vec![1; 340_000] })),
        ("as many objects as allowed", json!({ "content": short, "list": vec![json!({ "a": 1 }); 9_900] })),
    ];
    for (what, body) in attacks {
        let peak = peak_while_opening(&vec![body; count], &peer).unwrap();
        println!("{what}: {peak} KiB, and {plain} KiB for plain messages");
        assert!(2 * peak <= 3 * plain, "{what}: {peak} KiB, and {plain} KiB for plain messages");
    }
}

/// Many peers send most of a message and wait. Beyond the limits for an address and for all, they get 503. A peer at
/// another address is served.
#[test]
fn unfinished_http_messages_are_limited_in_memory() {
    let Some(daemon) = Daemon::running("") else { return };
    let before = resident_kib(&daemon);
    let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-type: application/didcomm-encrypted+json\r\n\
                content-length: 1000000\r\n\r\n";
    let mut most = vec![b' '; 900_000];
    most.splice(0..0, head.bytes());
    let send_unfinished = |address: [u8; 4]| {
        let mut stream = connect_from(address, daemon.port).unwrap();
        // The connection may be closed before everything is written.
        let _ = stream.write_all(&most);
        stream
    };
    let count_refused = |held: &mut Vec<TcpStream>| {
        let closed = |stream: &mut TcpStream| closed_within(stream, Duration::from_millis(1));
        let responses: Vec<_> = held.iter_mut().filter_map(closed).collect();
        assert!(responses.iter().all(|response| response.is_empty() || response.starts_with(b"HTTP/1.1 503")));
        responses.len()
    };
    // One address reaches its limit.
    let mut held: Vec<_> = (0..50).map(|_| send_unfinished([127, 0, 0, 2])).collect();
    daemon.wait_until("one address has used its share", |_| count_refused(&mut held) > 20);
    let peer = Peer::new("peer");
    assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, "hello")), 202);
    // Ten addresses reach the limit for all.
    drop(held);
    let mut held: Vec<_> = (0..200).map(|number| send_unfinished([127, 0, 0, 2 + number % 10])).collect();
    daemon.wait_until("all memory for incoming messages is used", |_| count_refused(&mut held) > 100);
    let resident = resident_kib(&daemon);
    println!("180 MB of messages that do not end: {before} KiB before, {resident} with them");
    assert!(resident < before + MAX_GROWTH_RECEIVING, "{before} and {resident} KiB");
    drop(held);
    daemon.wait_until("other peers are served", |daemon| {
        daemon.post_status(peer.pack_text(&daemon.did, "hello!")) == 202
    });
}

/// The same on WebSockets, where a message may come in fragments.
#[test]
fn unfinished_websocket_messages_are_limited_in_memory() {
    let Some(daemon) = Daemon::running("") else { return };
    let part = "x".repeat(900_000);
    let mut sockets: Vec<WebSocketClient> = (0..25)
        .map(|_| {
            let mut socket = WebSocketClient::over(connect_from([127, 0, 0, 2], daemon.port).unwrap(), daemon.port);
            // The connection may be closed before everything is written.
            let _ = socket.send_fragment(&part);
            socket
        })
        .collect();
    // An address may have 16 MiB in progress. Further WebSockets are closed with 1013, unless the connection
    // breaks before.
    let closed = sockets.iter_mut().filter_map(|socket| socket.close_code_within(Duration::from_millis(500)));
    let codes: Vec<_> = closed.collect();
    assert!(codes.len() >= 7, "{codes:?}");
    assert!(codes.iter().all(|code| code.is_none_or(|code| code == CloseCode::Again)), "{codes:?}");
    let peer = Peer::new("peer");
    assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, "hello")), 202);
    // Complete messages no longer count, whatever their total size.
    drop(sockets);
    daemon.wait_until("the connections are closed", |daemon| daemon.metric("claviger_websockets") == 0.0);
    let mut socket = WebSocketClient::over(connect_from([127, 0, 0, 2], daemon.port).unwrap(), daemon.port);
    let large = "x".repeat(600_000);
    let large = peer.pack_text(&daemon.did, &large);
    for _ in 0..25 {
        socket.send(&large).unwrap();
        socket.pong().unwrap();
    }
    socket.send(&peer.pack_text(&daemon.did, "the last")).unwrap();
    daemon.wait_until("the message arrived", |daemon| daemon.unread_texts().contains(&"the last".to_owned()));
}

/// Messages wait for a webhook that does not answer, and for an event stream that is not read. They wait on the disk.
#[test]
fn messages_for_a_silent_application_do_not_occupy_memory() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let Some(mut daemon) = daemon_with_webhook(listener.local_addr().unwrap().port(), "") else { return };
    daemon.start();
    let peer = Peer::new("peer");
    // A message of ours makes the peer known: strangers have less room.
    daemon.send_text(peer.did(), "hello").unwrap();
    let events = ApiClient::new(&daemon).events("/v1/events", "");
    let text = "x".repeat(500_000);
    let post = |count: u64| {
        for _ in 0..count {
            assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, &text)), 202);
        }
        daemon.wait_until_all_opened();
    };
    post(10);
    let silent = listener.accept().unwrap();
    let before = resident_kib(&daemon);
    post(COUNT_UNREAD);
    let waiting = resident_kib(&daemon);
    println!(
        "{COUNT_UNREAD} messages of 500 KB for a silent application: {before} KiB before, {waiting} while they wait"
    );
    assert_eq!(daemon.metric("claviger_waiting{queue=\"application\"}"), (COUNT_UNREAD + 10) as f64);
    assert!(waiting < before + MAX_GROWTH_UNREAD, "{before} and {waiting} KiB");
    drop((silent, events));
}

/// A page of large messages is short, so that a request takes little memory. All messages are read page by page.
#[test]
fn a_page_of_large_messages_is_short() {
    let Some(daemon) = Daemon::running("[api]\nmax_page_bytes = 1000000\n") else { return };
    let peer = Peer::new("peer");
    daemon.send_text(peer.did(), "hello").unwrap();
    for number in 0..6 {
        let text = format!("{number} {}", "x".repeat(300_000));
        assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, &text)), 202);
        daemon.wait_until_all_opened();
    }
    let page = ApiClient::new(&daemon).get("/v1/inbox?limit=1000").json(200);
    assert!((1..4).contains(&page["messages"].as_array().unwrap().len()));
    let first = |text: &String| text.chars().next();
    let all: Vec<_> = daemon.unread_texts().iter().filter_map(first).collect();
    assert_eq!(all, ['0', '1', '2', '3', '4', '5']);
    assert_eq!(daemon.json(&["inbox"])["messages"].as_array().unwrap().len(), 6);
    let mut events = ApiClient::new(&daemon).events("/v1/events", "");
    let all: Vec<_> = events.texts(6).iter().filter_map(first).collect();
    assert_eq!(all, ['0', '1', '2', '3', '4', '5']);
}
