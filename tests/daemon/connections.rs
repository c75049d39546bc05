//! Connections of peers: deadlines, limits, return routes and WebSockets. Other peers are served while some are slow,
//! open too many connections or break the protocol.

use std::{
    io::Write,
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use claviger::{agent::protocol::trust_ping::PING, didcomm::Message};
use serde_json::json;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::{
    daemon::{Daemon, TIMEOUT},
    load::post_status,
    peer::Peer,
    websocket_client::{WebSocketClient, closed_within, connect_from, send_slowly},
};

const NET: &str = "[net]\nallow_private = [\"127.0.0.0/8\"]\n";
/// Far more than the deadline of one second that is configured.
const SOON: Duration = Duration::from_secs(20);

fn running(http: &str) -> Option<Daemon> {
    let mut daemon = Daemon::with_config(http, NET)?;
    daemon.start();
    Some(daemon)
}

#[test]
fn slow_http_clients_are_disconnected() {
    let Some(daemon) = running("header_seconds = 1\nbody_seconds = 1") else { return };
    let port = daemon.port;
    let connect = move || TcpStream::connect(("127.0.0.1", port)).unwrap();
    const HEAD: &str = "POST / HTTP/1.1\r\nhost: a\r\n";
    let body = format!("{HEAD}content-type: application/didcomm-encrypted+json\r\ncontent-length: 100000\r\n\r\n");
    let slow = [HEAD.to_owned(), "P".to_owned(), format!("{HEAD}x: "), body.clone()];
    let slow = slow.map(|first| thread::spawn(move || send_slowly(connect(), &first, SOON)));
    let mut idle = connect();
    let mut quiet = connect();
    quiet.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    let mut half = connect();
    half.write_all(format!("{body}{{").as_bytes()).unwrap();
    // Others are served meanwhile.
    let peer = Peer::new("peer");
    for number in 0..5 {
        assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, &number.to_string())), 202);
    }
    assert!(closed_within(&mut idle, SOON).is_some(), "a connection without a request is closed");
    assert!(closed_within(&mut quiet, SOON).is_some(), "a connection without a further request is closed");
    let response = closed_within(&mut half, SOON).expect("a request without the rest of its body is closed");
    assert!(response.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&response));
    for slow in slow {
        assert!(slow.join().unwrap().is_some(), "a client that sends byte by byte is disconnected");
    }
}

/// A message on a WebSocket must be complete within `body_seconds`, even if pongs come between its fragments. An idle
/// WebSocket has no deadline.
#[test]
fn a_slow_websocket_message_closes_the_connection() {
    let Some(daemon) = running("body_seconds = 1") else { return };
    let (mut slow, mut quiet) = (WebSocketClient::open(daemon.port), WebSocketClient::open(daemon.port));
    slow.send_fragment("{").unwrap();
    quiet.pong().unwrap();
    daemon.wait_until("the connection is closed", |_| {
        let _ = slow.pong();
        slow.close_code_within(Duration::from_millis(100)) == Some(Some(CloseCode::Policy))
    });
    assert_eq!(quiet.close_code_within(Duration::from_secs(2)), None);
    let peer = Peer::new("peer");
    quiet.send(&peer.pack_text(&daemon.did, "hello")).unwrap();
    daemon.wait_until("the idle connection is served", |daemon| daemon.unread_texts() == ["hello"]);
}

/// A client that sends requests and reads no response is disconnected as well.
#[test]
fn a_client_that_does_not_read_is_disconnected() {
    let Some(daemon) = running("header_seconds = 1\nconnections_per_address = 1") else { return };
    let address = [127, 0, 0, 3];
    let mut not_reading = connect_from(address, daemon.port).unwrap();
    not_reading.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    // Writes until the socket buffers of both sides are full.
    let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".repeat(1000);
    while not_reading.write_all(&request).is_ok() {}
    daemon.wait_until("another connection is accepted", |_| {
        let mut stream = connect_from(address, daemon.port).unwrap();
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        !closed_within(&mut stream, TIMEOUT).expect("it is closed").is_empty()
    });
    drop(not_reading);
}

/// A connection counts until it is closed, also after its upgrade to a WebSocket.
#[test]
fn connections_per_address_are_limited() {
    let Some(daemon) = running("connections_per_address = 6") else { return };
    let address = [127, 0, 0, 2];
    let sockets: Vec<WebSocketClient> =
        (0..3).map(|_| WebSocketClient::over(connect_from(address, daemon.port).unwrap(), daemon.port)).collect();
    let idle: Vec<TcpStream> = (0..3).map(|_| connect_from(address, daemon.port).unwrap()).collect();
    let is_turned_away = || {
        let mut stream = connect_from(address, daemon.port).unwrap();
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        closed_within(&mut stream, TIMEOUT).expect("it is closed").is_empty()
    };
    daemon.wait_until("further connections are refused", |_| is_turned_away());
    // Another address has its own limit.
    let peer = Peer::new("peer");
    assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, "hello")), 202);
    drop(sockets);
    daemon.wait_until("a connection is accepted again", |_| !is_turned_away());
    drop(idle);
    assert!(daemon.metric("claviger_connections_turned_away_total") >= 1.0);
}

fn ping(peer: &Peer, to: &str) -> Message {
    let mut ping = peer.message(to, "").finalize();
    ping.type_ = PING.to_owned();
    ping.body = json!({"response_requested": true});
    ping
}

/// `return_route` on HTTP and on a WebSocket, for a peer that has no endpoint.
#[test]
fn replies_use_the_return_route() {
    let Some(daemon) = running("") else { return };
    let peer = Peer::new("a browser");
    let mut request = ping(&peer, &daemon.did);
    request.return_route = Some("all".to_owned());
    let response = daemon.post(peer.pack(&request).as_bytes());
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("application/didcomm-encrypted+json"), "{head}");
    let (reply, provenance) = peer.open(body);
    assert!(provenance.authenticated && reply.thid == Some(request.id.clone()), "{reply:?}");
    // Without `return_route`, and with `none`, the response has no body.
    for route in [None, Some("none")] {
        let mut request = ping(&peer, &daemon.did);
        request.return_route = route.map(str::to_owned);
        assert!(daemon.post(peer.pack(&request).as_bytes()).starts_with("HTTP/1.1 202"));
    }

    let mut socket = WebSocketClient::open(daemon.port);
    let mut request = ping(&peer, &daemon.did);
    request.return_route = Some("thread".to_owned());
    socket.send(&peer.pack(&request)).unwrap();
    let reply = peer.open(&socket.next(TIMEOUT).expect("a reply")).0;
    assert_eq!(reply.thid.as_ref(), Some(&request.id));
    // With `thread`, only replies in that thread; with `all`, every message for the peer.
    assert!(daemon.send_text(peer.did(), "by the way").is_some());
    assert!(socket.next(Duration::from_secs(1)).is_none());
    let mut request = ping(&peer, &daemon.did);
    request.return_route = Some("all".to_owned());
    socket.send(&peer.pack(&request)).unwrap();
    let mut arrived = Vec::new();
    daemon.wait_until("all waiting messages arrive", |_| {
        if let Some(packed) = socket.next(Duration::from_secs(1)) {
            arrived.push(peer.open(&packed).0);
        }
        // The two earlier pongs had no return route, and arrive now.
        arrived.len() >= 4
    });
    assert!(arrived.iter().any(|it| it.body["content"] == "by the way"));
    assert!(arrived.iter().any(|it| it.thid.as_ref() == Some(&request.id)));
    drop(socket);
    daemon.wait_until("the outbox is empty", |daemon| daemon.metric("claviger_waiting{queue=\"outbox\"}") == 0.0);
}

#[test]
fn a_websocket_carries_one_message_per_frame() {
    let Some(daemon) = running("") else { return };
    let peer = Peer::new("peer");
    let mut socket = WebSocketClient::open(daemon.port);
    let mut many = Vec::new();
    for number in 0..200 {
        let content = format!("{number:03}");
        socket.send(&peer.pack_text(&daemon.did, &content)).unwrap();
        many.push(content);
    }
    daemon.wait_until("all messages arrived", |daemon| daemon.unread_texts().len() == many.len());
    let mut arrived = daemon.unread_texts();
    arrived.sort();
    assert_eq!(arrived, many);
    // A message that is too large closes the connection: otherwise the peer would believe that it was stored.
    let mut socket = WebSocketClient::open(daemon.port);
    let _ = socket.send(&"x".repeat(1_000_001));
    assert_eq!(socket.close_code(), Some(CloseCode::Size));
}

/// Without the token, messages on a WebSocket are stored.
#[test]
fn a_websocket_is_read_without_a_token() {
    let Some(mut daemon) = Daemon::new("") else { return };
    daemon.disconnect_token();
    daemon.start_without_token();
    let peer = Peer::new("peer");
    let mut socket = WebSocketClient::open(daemon.port);
    for number in 0..150 {
        socket.send(&peer.pack_text(&daemon.did, &number.to_string())).unwrap();
    }
    daemon.wait_until("all messages are stored", |daemon| daemon.metric("claviger_waiting{queue=\"inbox\"}") == 150.0);
    daemon.reconnect_token();
    daemon
        .wait_until("all messages are opened", |daemon| daemon.is_token_ready() && daemon.unread_texts().len() == 150);
}

/// A peer requests messages on its WebSocket and does not read: its messages stay in the outbox, and other peers
/// get theirs.
#[test]
fn a_slow_reader_does_not_delay_others() {
    let Some(daemon) = running("") else { return };
    let (slow, quick) = (Peer::new("slow"), Peer::new("quick"));
    let open_all = |peer: &Peer, socket: &mut WebSocketClient| {
        let mut hello = peer.message(&daemon.did, "hello").finalize();
        hello.return_route = Some("all".to_owned());
        socket.send(&peer.pack(&hello)).unwrap();
    };
    let mut not_reading = WebSocketClient::open(daemon.port);
    open_all(&slow, &mut not_reading);
    let mut socket = WebSocketClient::open(daemon.port);
    open_all(&quick, &mut socket);
    daemon.wait_until("both messages arrived", |daemon| daemon.unread_texts().len() == 2);
    // More than the buffers of the kernel hold.
    let big = "x".repeat(600_000);
    let ids: Vec<String> =
        (0..20).map(|number| daemon.send_text(slow.did(), &format!("{number} {big}")).unwrap()).collect();
    for number in 0..20 {
        let begun = Instant::now();
        daemon.send_text(quick.did(), &number.to_string()).unwrap();
        let packed = socket.next(TIMEOUT).expect("the message for the quick peer");
        assert_eq!(quick.open(&packed).0.body["content"], number.to_string());
        assert_eq!(post_status(daemon.port, &quick.pack_text(&daemon.did, "from the quick peer")), 202);
        // The slow one is given up after ten seconds.
        assert!(begun.elapsed() < Duration::from_secs(8), "the quick peer waited for the slow one");
    }
    daemon.wait_until("the slow reader is given up", |daemon| daemon.log().contains("not sent yet"));
    assert!(ids.iter().any(|id| daemon.outbox_message(id)["state"] == "waiting"));
    // The slow peer connects again, and reads.
    drop(not_reading);
    let mut reading = WebSocketClient::open(daemon.port);
    open_all(&slow, &mut reading);
    daemon.wait_until("the rest is sent", |daemon| {
        while reading.next(Duration::from_millis(500)).is_some() {}
        ids.iter().all(|id| daemon.outbox_message(id)["state"] == "sent")
    });
}
