//! What goes wrong around a daemon, and what it makes of it (threats.md, "Faults to inject").

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use claviger::{
    did::{Document, Relationship},
    keys::{Curve, PublicKey},
};
use serde_json::{Value, json};

use crate::{
    daemon::{Daemon, PATIENCE},
    people::{Directory, Person, forge::Jwe},
};

const BASIC: &str = "https://didcomm.org/basicmessage/2.0/message";
const PING: &str = "https://didcomm.org/trust-ping/2.0/ping";

/// A daemon that knows Alice, who has her keys in software; and its own keys to encrypt to.
async fn with_alice(http: &str) -> Option<(Daemon, Person, Vec<(String, PublicKey)>)> {
    let mut daemon = Daemon::new("")?;
    let alice = Person::new("alice", &[Curve::X25519], &[Curve::Ed25519]).await;
    fs::create_dir(daemon.home.path().join("people")).unwrap();
    daemon.home.write("people/alice.json", &alice.document.as_value().to_string());
    let configuration = fs::read_to_string(daemon.home.path().join("claviger.toml")).unwrap();
    let configuration = configuration.replace("[http]\n", &format!("[http]\n{http}\n"));
    daemon.home.write("claviger.toml", &format!("{configuration}\n[did]\ndocuments = [\"people\"]\n"));
    daemon.start();
    let document = Document::from_value(daemon.json(&["did", "resolve", &daemon.did])).unwrap();
    let methods = document.methods(Relationship::KeyAgreement);
    let keys = methods.map(|method| (method.id.clone(), method.key.clone().unwrap())).collect();
    Some((daemon, alice, keys))
}

fn message(from: &Person, to: &Daemon, id: &str, kind: &str, body: Value) -> Value {
    json!({
        "id": id, "typ": "application/didcomm-plain+json", "type": kind, "from": from.did, "to": [to.did], "body": body,
        "created_time": crate::attacks::now(),
    })
}

/// Headers that dribble, and a body that does not come: let go of, and others are served meanwhile.
#[test]
fn who_dribbles_is_let_go() {
    let Some(mut daemon) = Daemon::new("") else { return };
    let configuration = fs::read_to_string(daemon.home.path().join("claviger.toml")).unwrap();
    let short = configuration.replace("[http]\n", "[http]\nheader_seconds = 1\nbody_seconds = 1\n");
    daemon.home.write("claviger.toml", &short);
    daemon.start();
    let open = || {
        let stream = TcpStream::connect(("127.0.0.1", daemon.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    let rest = |mut stream: TcpStream| {
        let mut rest = String::new();
        let _ = stream.read_to_string(&mut rest);
        rest
    };
    let mut headers = open();
    headers.write_all(b"POST / HTTP/1.1\r\nhost: local").unwrap();
    let mut body = open();
    let head = "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/didcomm-encrypted+json\r\n\
                content-length: 100\r\n\r\n{";
    body.write_all(head.as_bytes()).unwrap();
    assert!(daemon.post(b"{}").starts_with("HTTP/1.1 400"));
    let begun = Instant::now();
    assert_eq!(rest(headers), "");
    assert!(rest(body).starts_with("HTTP/1.1 408"));
    assert!(begun.elapsed() < PATIENCE);
}

/// The token goes and comes back while messages arrive: each 202 is kept, and opened when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn the_token_is_away_under_load() {
    let Some((daemon, alice, keys)) = with_alice("").await else { return };
    let (tokens, away) = (daemon.home.path().join("tokens"), daemon.home.path().join("away"));
    let mut sent = 0;
    let mut send = |count: usize| {
        for _ in 0..count {
            let message = message(&alice, &daemon, &format!("m-{sent}"), BASIC, json!({ "content": sent.to_string() }));
            let packed = Jwe::authcrypt(&alice, &keys).seal(message.to_string());
            let answer = daemon.post(packed.to_string().as_bytes());
            assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
            sent += 1;
        }
    };
    send(20);
    fs::rename(&tokens, &away).unwrap();
    fs::create_dir(&tokens).unwrap();
    // SoftHSM goes on with what it has open: a token that is pulled is another process's.
    assert!(crate::kills::kill_keeper(daemon.pid()));
    daemon.until("the token is away", |daemon| daemon.ask("/ready/token").starts_with("HTTP/1.1 503"));
    assert!(daemon.ask("/ready").starts_with("HTTP/1.1 200"));
    send(100);
    fs::remove_dir(&tokens).unwrap();
    fs::rename(&away, &tokens).unwrap();
    send(20);
    daemon.until_within(Duration::from_secs(60), "all is opened", |daemon| daemon.texts().len() == 140);
    let mut numbers: Vec<usize> = daemon.texts().iter().map(|text| text.parse().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..140).collect::<Vec<_>>());
}

/// Nobody is there at one endpoint: what is for others goes out all the same, and that goes out when somebody is.
#[test]
fn a_dead_peer_delays_nobody() {
    let (Some(alice), Some(bob), Some(mut carol)) = (Daemon::running(""), Daemon::running(""), Daemon::new("")) else {
        return;
    };
    for number in 0..20 {
        alice.json(&["send", "--to", &carol.did, &number.to_string()]);
    }
    alice.json(&["send", "--to", &bob.did, "hello", "--within", "30"]);
    bob.until("it came", |bob| bob.texts() == ["hello"]);
    assert_eq!(alice.figure("claviger_waiting{queue=\"outbox\"}"), 20.0);
    carol.start();
    carol.until("all came", |carol| carol.texts().len() == 20);
}

/// A peer without an endpoint is answered on its own socket, where it asks for it.
#[tokio::test(flavor = "multi_thread")]
async fn replies_go_back_on_the_socket() {
    let Some((daemon, alice, keys)) = with_alice("").await else { return };
    let mut socket = TcpStream::connect(("127.0.0.1", daemon.port)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let ask = "GET / HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
               sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";
    socket.write_all(ask.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(byte(&mut socket));
    }
    let resolver = Directory::of(&[&alice]);
    for number in 0..3 {
        let mut ping = message(&alice, &daemon, &format!("ping-{number}"), PING, json!({}));
        ping["return_route"] = "all".into();
        write_frame(&mut socket, Jwe::authcrypt(&alice, &keys).seal(ping.to_string()).to_string().as_bytes());
        let packed = read_frame(&mut socket);
        let (pong, provenance) = alice.unpack(&packed, &resolver).await.unwrap();
        assert_eq!(pong.thid.as_deref(), Some(format!("ping-{number}").as_str()));
        assert!(pong.type_.ends_with("/ping-response") && provenance.authenticated);
    }
    // In the answer to a POST, too.
    drop(socket);
    daemon.until("it is gone", |daemon| daemon.figure("claviger_websockets") == 0.0);
    let mut ping = message(&alice, &daemon, "ping-http", PING, json!({}));
    ping["return_route"] = "all".into();
    let answer = daemon.post(Jwe::authcrypt(&alice, &keys).seal(ping.to_string()).to_string().as_bytes());
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("application/didcomm-encrypted+json"), "{answer}");
    let (pong, _) = alice.unpack(answer.split("\r\n\r\n").nth(1).unwrap(), &resolver).await.unwrap();
    assert_eq!(pong.thid.as_deref(), Some("ping-http"));
}

fn byte(socket: &mut TcpStream) -> u8 {
    let mut byte = [0];
    socket.read_exact(&mut byte).unwrap();
    byte[0]
}

/// A text frame, masked with zeros, as a client has to mask it (RFC 6455 section 5.3).
fn write_frame(socket: &mut TcpStream, text: &[u8]) {
    let length = u16::try_from(text.len()).unwrap().to_be_bytes();
    socket.write_all(&[0x81, 0x80 | 126, length[0], length[1], 0, 0, 0, 0]).unwrap();
    socket.write_all(text).unwrap();
}

/// The next text frame of the server's.
fn read_frame(socket: &mut TcpStream) -> String {
    assert_eq!(byte(socket), 0x81);
    let length = match byte(socket) {
        126 => usize::from(u16::from_be_bytes([byte(socket), byte(socket)])),
        short => usize::from(short),
    };
    let mut text = vec![0; length];
    socket.read_exact(&mut text).unwrap();
    String::from_utf8(text).unwrap()
}
