//! Peers that are slow, too many, or impolite (threats.md "Faults to inject"): deadlines and limits hold, and others are
//! served meanwhile.

use std::{io::Write, net::TcpStream, thread, time::Duration};

use claviger::{agent::protocol::trust_ping::PING, didcomm::Message};
use serde_json::json;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::{
    daemon::{Daemon, PATIENCE},
    load::post,
    peer::{Peer, seconds},
    socket::{Ws, closed_within, dribble, from},
};

const NET: &str = "[net]\nallow_private = [\"127.0.0.0/8\"]\n";
/// What is configured to take a second is done well within this.
const SOON: Duration = Duration::from_secs(20);

fn running(http: &str) -> Option<Daemon> {
    let mut daemon = Daemon::configured(http, NET)?;
    daemon.start();
    Some(daemon)
}

#[test]
fn the_slow_are_let_go() {
    let Some(daemon) = running("header_seconds = 1\nbody_seconds = 1") else { return };
    let port = daemon.port;
    let connect = move || TcpStream::connect(("127.0.0.1", port)).unwrap();
    const HEAD: &str = "POST / HTTP/1.1\r\nhost: a\r\n";
    let body = format!("{HEAD}content-type: application/didcomm-encrypted+json\r\ncontent-length: 100000\r\n\r\n");
    let slow = [HEAD.to_owned(), "P".to_owned(), format!("{HEAD}x: "), body.clone()];
    let slow = slow.map(|first| thread::spawn(move || dribble(connect(), &first, SOON)));
    let mut idle = connect();
    let mut quiet = connect();
    quiet.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    let mut half = connect();
    half.write_all(format!("{body}{{").as_bytes()).unwrap();
    // The honest are served meanwhile.
    let peer = Peer::new("peer");
    for number in 0..5 {
        assert_eq!(daemon.status(peer.says(&daemon.did, &number.to_string())), 202);
    }
    assert!(closed_within(&mut idle, SOON).is_some(), "it says nothing");
    assert!(closed_within(&mut quiet, SOON).is_some(), "it asks nothing more");
    let told = closed_within(&mut half, SOON).expect("the rest does not come");
    assert!(told.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&told));
    for slow in slow {
        assert!(slow.join().unwrap().is_some(), "it dribbles");
    }
}

/// A message has its time on a WebSocket as well, whatever is said between its parts; a socket that is only quiet has not.
#[test]
fn the_slow_are_let_go_of_on_sockets() {
    let Some(daemon) = running("body_seconds = 1") else { return };
    let (mut slow, mut quiet) = (Ws::open(daemon.port), Ws::open(daemon.port));
    slow.begin("{").unwrap();
    quiet.pong().unwrap();
    daemon.until("it is told", |_| {
        let _ = slow.pong();
        slow.closes_within(Duration::from_millis(100)) == Some(Some(CloseCode::Policy))
    });
    assert_eq!(quiet.closes_within(Duration::from_secs(2)), None);
    let peer = Peer::new("peer");
    quiet.send(&peer.says(&daemon.did, "hello")).unwrap();
    daemon.until("the quiet one is served", |daemon| daemon.texts() == ["hello"]);
}

/// One who asks and does not read is let go of as well.
#[test]
fn the_deaf_are_let_go() {
    let Some(daemon) = running("header_seconds = 1\nconnections_per_address = 1") else { return };
    let address = [127, 0, 0, 3];
    let mut deaf = from(address, daemon.port).unwrap();
    deaf.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    // Until both kernels keep no more for it.
    let asking = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".repeat(1000);
    while deaf.write_all(&asking).is_ok() {}
    daemon.until("another is let in", |_| {
        let mut stream = from(address, daemon.port).unwrap();
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        !closed_within(&mut stream, PATIENCE).expect("it is closed").is_empty()
    });
    drop(deaf);
}

/// A connection counts as long as it lasts, also when it has become a WebSocket.
#[test]
fn an_address_has_so_many_connections() {
    let Some(daemon) = running("connections_per_address = 6") else { return };
    let address = [127, 0, 0, 2];
    let sockets: Vec<Ws> = (0..3).map(|_| Ws::over(from(address, daemon.port).unwrap(), daemon.port)).collect();
    let idle: Vec<TcpStream> = (0..3).map(|_| from(address, daemon.port).unwrap()).collect();
    let turned_away = || {
        let mut stream = from(address, daemon.port).unwrap();
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        closed_within(&mut stream, PATIENCE).expect("it is closed").is_empty()
    };
    daemon.until("no more are let in", |_| turned_away());
    // Another address is another's.
    let peer = Peer::new("peer");
    assert_eq!(daemon.status(peer.says(&daemon.did, "hello")), 202);
    drop(sockets);
    daemon.until("there is room again", |_| !turned_away());
    drop(idle);
    assert!(daemon.figure("claviger_connections_turned_away_total") >= 1.0);
}

fn ping(peer: &Peer, to: &str) -> Message {
    let mut ping = peer.message(to, "").finalize();
    ping.type_ = PING.to_owned();
    ping.body = json!({"response_requested": true});
    ping
}

/// The way back that a message asks for, by HTTP and by WebSocket: for one who cannot be reached otherwise.
#[test]
fn replies_go_back_where_the_message_came_from() {
    let Some(daemon) = running("") else { return };
    let peer = Peer::new("a browser");
    let mut asking = ping(&peer, &daemon.did);
    asking.return_route = Some("all".to_owned());
    let answer = daemon.post(peer.pack(&asking).as_bytes());
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("application/didcomm-encrypted+json"), "{head}");
    let (reply, provenance) = peer.open(body);
    assert!(provenance.authenticated && reply.thid == Some(asking.id.clone()), "{reply:?}");
    // Nothing comes back for what asks for nothing, nor for what says something else.
    for route in [None, Some("none")] {
        let mut asking = ping(&peer, &daemon.did);
        asking.return_route = route.map(str::to_owned);
        assert!(daemon.post(peer.pack(&asking).as_bytes()).starts_with("HTTP/1.1 202"));
    }

    let mut socket = Ws::open(daemon.port);
    let mut asking = ping(&peer, &daemon.did);
    asking.return_route = Some("thread".to_owned());
    socket.send(&peer.pack(&asking)).unwrap();
    let reply = peer.open(&socket.next(PATIENCE).expect("a reply")).0;
    assert_eq!(reply.thid.as_ref(), Some(&asking.id));
    // Of that thread only, until the socket is opened for all.
    assert!(daemon.say(peer.did(), "by the way").is_some());
    assert!(socket.next(Duration::from_secs(1)).is_none());
    let mut asking = ping(&peer, &daemon.did);
    asking.return_route = Some("all".to_owned());
    socket.send(&peer.pack(&asking)).unwrap();
    let mut came = Vec::new();
    daemon.until("all that waited comes", |_| {
        if let Some(packed) = socket.next(Duration::from_secs(1)) {
            came.push(peer.open(&packed).0);
        }
        // The two pongs of before as well, which had no way back.
        came.len() >= 4
    });
    assert!(came.iter().any(|it| it.body["content"] == "by the way"));
    assert!(came.iter().any(|it| it.thid.as_ref() == Some(&asking.id)));
    drop(socket);
    daemon.until("the outbox is empty", |daemon| daemon.figure("claviger_waiting{queue=\"outbox\"}") == 0.0);
}

#[test]
fn a_socket_carries_one_message_a_frame() {
    let Some(daemon) = running("") else { return };
    let peer = Peer::new("peer");
    let mut socket = Ws::open(daemon.port);
    let mut many = Vec::new();
    for number in 0..200 {
        let content = format!("{number:03}");
        socket.send(&peer.says(&daemon.did, &content)).unwrap();
        many.push(content);
    }
    daemon.until("all came", |daemon| daemon.texts().len() == many.len());
    let mut came = daemon.texts();
    came.sort();
    assert_eq!(came, many);
    // Some nonsense is overlooked, and not for ever.
    let two = [peer.says(&daemon.did, "a"), peer.says(&daemon.did, "b")].concat();
    for nonsense in ["", "{}", "hello", &two, "[]", "1", "{", "null", "x", "y"] {
        socket.send(nonsense).unwrap();
    }
    socket.send(&peer.says(&daemon.did, "after ten")).unwrap();
    daemon.until("it is still open", |daemon| daemon.texts().contains(&"after ten".to_owned()));
    socket.send("the eleventh").unwrap();
    assert_eq!(socket.closes(), Some(CloseCode::Policy));

    // Who sends too much is told: else it would take the message for kept.
    let mut socket = Ws::open(daemon.port);
    let _ = socket.send(&"x".repeat(1_000_001));
    assert_eq!(socket.closes(), Some(CloseCode::Size));
    let not_there = daemon.texts().into_iter().filter(|it| it == "a" || it == "b").count();
    assert_eq!(not_there, 0);
}

/// With the token away a socket is read all the same, however much comes.
#[test]
fn a_socket_is_read_while_the_token_is_away() {
    let Some(mut daemon) = Daemon::new("") else { return };
    let (tokens, away) = (daemon.home.path().join("tokens"), daemon.home.path().join("away"));
    std::fs::rename(&tokens, &away).unwrap();
    std::fs::create_dir(&tokens).unwrap();
    daemon.start_without_token();
    let peer = Peer::new("peer");
    let mut socket = Ws::open(daemon.port);
    for number in 0..150 {
        socket.send(&peer.says(&daemon.did, &number.to_string())).unwrap();
    }
    daemon.until("all are kept", |daemon| daemon.figure("claviger_waiting{queue=\"inbox\"}") == 150.0);
    std::fs::remove_dir(&tokens).unwrap();
    std::fs::rename(&away, &tokens).unwrap();
    daemon.until("all were opened", |daemon| {
        daemon.ask("/ready/token").starts_with("HTTP/1.1 200") && daemon.texts().len() == 150
    });
}

/// One who opens a way back and does not read: its messages stay in the outbox, and others have theirs.
#[test]
fn a_slow_reader_keeps_nobody_waiting() {
    let Some(daemon) = running("") else { return };
    let (slow, quick) = (Peer::new("slow"), Peer::new("quick"));
    let open_all = |peer: &Peer, socket: &mut Ws| {
        let mut hello = peer.message(&daemon.did, "hello").finalize();
        hello.return_route = Some("all".to_owned());
        socket.send(&peer.pack(&hello)).unwrap();
    };
    let mut deaf = Ws::open(daemon.port);
    open_all(&slow, &mut deaf);
    let mut socket = Ws::open(daemon.port);
    open_all(&quick, &mut socket);
    daemon.until("both are known", |daemon| daemon.texts().len() == 2);
    // More than the kernel keeps for it.
    let big = "x".repeat(600_000);
    let ids: Vec<String> = (0..20).map(|number| daemon.say(slow.did(), &format!("{number} {big}")).unwrap()).collect();
    let begun = seconds();
    for number in 0..20 {
        daemon.say(quick.did(), &number.to_string()).unwrap();
        let packed = socket.next(PATIENCE).expect("the quick one has its message");
        assert_eq!(quick.open(&packed).0.body["content"], number.to_string());
        assert_eq!(post(daemon.port, &quick.says(&daemon.did, "and is heard")), 202);
    }
    assert!(seconds() - begun < 10, "the quick one waited for the slow one");
    daemon.until("the slow one is let go of", |daemon| daemon.log().contains("not sent yet"));
    assert!(ids.iter().any(|id| daemon.sending(id)["state"] == "waiting"));
    // It comes back, and reads.
    drop(deaf);
    let mut reading = Ws::open(daemon.port);
    open_all(&slow, &mut reading);
    daemon.until("it has the rest", |daemon| {
        while reading.next(Duration::from_millis(500)).is_some() {}
        ids.iter().all(|id| daemon.sending(id)["state"] == "sent")
    });
}
