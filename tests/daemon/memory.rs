//! The memory of the daemon is bounded, whatever peers send: messages wait on disk, and unfinished ones have a limit.

use std::{io::Write, net::TcpStream, time::Duration};

use serde_json::Value;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::{
    daemon::Daemon,
    idle_websockets::resident_kib,
    peer::Peer,
    support::forge::b64,
    websocket_client::{WebSocketClient, closed_within, connect_from},
};

const COUNT: u8 = 120;

/// How much the resident memory may grow, in KiB: while messages wait, and while unfinished messages are received.
const MAX_GROWTH_WAITING: u64 = 64 * 1024;
const MAX_GROWTH_RECEIVING: u64 = 192 * 1024;

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
