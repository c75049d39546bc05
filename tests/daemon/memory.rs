//! Memory is bounded whatever is sent: what waits, waits on the disk.

use std::{io::Write, net::TcpStream, time::Duration};

use serde_json::Value;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::{
    daemon::Daemon,
    idle_websockets::resident,
    peer::Peer,
    support::forge::b64,
    websocket_client::{WebSocketClient, closed_within, connect_from},
};

const COUNT: u8 = 120;

/// Of what is more than without, in KiB.
const WAITING: u64 = 64 * 1024;
const COMING: u64 = 192 * 1024;

/// With the token away. All but the last are broken, so that the token's return does not cost the tests a minute.
#[test]
fn waiting_messages_do_not_occupy_memory() {
    let Some(mut daemon) = Daemon::new("") else { return };
    daemon.disconnect_token();
    daemon.start_without_token();
    let before = resident(&daemon);
    let peer = Peer::new("peer");
    let packed: Value = serde_json::from_str(&peer.pack_text(&daemon.did, &"x".repeat(700_000))).unwrap();
    for number in 0..COUNT {
        let mut broken = packed.clone();
        broken["recipients"][0]["encrypted_key"] = b64([number; 72]).into();
        assert_eq!(daemon.post_status(broken), 202);
    }
    assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, "lunch?")), 202);
    let waiting = resident(&daemon);
    println!("{COUNT} messages of 930 KB: {before} KiB before, {waiting} while they wait");
    assert!(waiting < before + WAITING, "{before} and {waiting} KiB");
    daemon.reconnect_token();
    daemon.wait_until("the honest one came", |daemon| daemon.unread_texts() == ["lunch?"]);
    daemon.wait_until_all_opened();
}

/// Many who send most of a message and wait: those beyond what is held in memory are told to come again, and whoever comes
/// from elsewhere is served.
#[test]
fn unfinished_http_messages_are_limited_in_memory() {
    let Some(daemon) = Daemon::running("") else { return };
    let before = resident(&daemon);
    let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-type: application/didcomm-encrypted+json\r\n\
                content-length: 1000000\r\n\r\n";
    let mut most = vec![b' '; 900_000];
    most.splice(0..0, head.bytes());
    let begins = |address: [u8; 4]| {
        let mut stream = connect_from(address, daemon.port).unwrap();
        // It may be closed before all was written.
        let _ = stream.write_all(&most);
        stream
    };
    let turned_away = |held: &mut Vec<TcpStream>| {
        let told = |stream: &mut TcpStream| closed_within(stream, Duration::from_millis(1));
        let told: Vec<_> = held.iter_mut().filter_map(told).collect();
        assert!(told.iter().all(|told| told.is_empty() || told.starts_with(b"HTTP/1.1 503")));
        told.len()
    };
    // One takes its share, and no more.
    let mut held: Vec<_> = (0..50).map(|_| begins([127, 0, 0, 2])).collect();
    daemon.wait_until("one address has its share", |_| turned_away(&mut held) > 20);
    let peer = Peer::new("peer");
    assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, "hello")), 202);
    // Many take all that there is, and no more.
    drop(held);
    let mut held: Vec<_> = (0..200).map(|number| begins([127, 0, 0, 2 + number % 10])).collect();
    daemon.wait_until("there is no more room", |_| turned_away(&mut held) > 100);
    let resident = resident(&daemon);
    println!("180 MB of messages that do not end: {before} KiB before, {resident} with them");
    assert!(resident < before + COMING, "{before} and {resident} KiB");
    drop(held);
    daemon.wait_until("others are served", |daemon| daemon.post_status(peer.pack_text(&daemon.did, "hello!")) == 202);
}

/// The same on WebSockets, where the parts of a message may come at any time.
#[test]
fn unfinished_websocket_messages_are_limited_in_memory() {
    let Some(daemon) = Daemon::running("") else { return };
    let part = "x".repeat(900_000);
    let mut sockets: Vec<WebSocketClient> = (0..25)
        .map(|_| {
            let mut socket = WebSocketClient::over(connect_from([127, 0, 0, 2], daemon.port).unwrap(), daemon.port);
            // It may be closed before all was written.
            let _ = socket.send_fragment(&part);
            socket
        })
        .collect();
    // 16 MiB have room, and who is one too many is told so, unless the rest of what it sent crosses that.
    let closed = sockets.iter_mut().filter_map(|socket| socket.closes_within(Duration::from_millis(500)));
    let codes: Vec<_> = closed.collect();
    assert!(codes.len() >= 7, "{codes:?}");
    assert!(codes.iter().all(|code| code.is_none_or(|code| code == CloseCode::Again)), "{codes:?}");
    let peer = Peer::new("peer");
    assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, "hello")), 202);
    // What is whole weighs nothing any more, however much it was in all.
    drop(sockets);
    daemon.wait_until("they have gone", |daemon| daemon.metric("claviger_websockets") == 0.0);
    let mut socket = WebSocketClient::over(connect_from([127, 0, 0, 2], daemon.port).unwrap(), daemon.port);
    let large = "x".repeat(600_000);
    let large = peer.pack_text(&daemon.did, &large);
    for _ in 0..25 {
        socket.send(&large).unwrap();
        socket.pong().unwrap();
    }
    socket.send(&peer.pack_text(&daemon.did, "the last")).unwrap();
    daemon.wait_until("it came", |daemon| daemon.unread_texts().contains(&"the last".to_owned()));
}
