//! Memory is bounded whatever is sent: what waits, waits on the disk.

use std::{fs, io::Write, net::TcpStream, time::Duration};

use serde_json::Value;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::{
    daemon::Daemon,
    peer::Peer,
    socket::{Ws, closed_within, from},
    sockets::resident,
    support::forge::b64,
};

const COUNT: u8 = 120;

/// Of what is more than without, in KiB.
const WAITING: u64 = 64 * 1024;
const COMING: u64 = 192 * 1024;

/// With the token away. All but the last are broken, so that the token's return does not cost the tests a minute.
#[test]
fn large_messages_wait_on_the_disk() {
    let Some(mut daemon) = Daemon::new("") else { return };
    let (tokens, away) = (daemon.home.path().join("tokens"), daemon.home.path().join("away"));
    fs::rename(&tokens, &away).unwrap();
    fs::create_dir(&tokens).unwrap();
    daemon.start_without_token();
    let before = resident(&daemon);
    let peer = Peer::new("peer");
    let packed: Value = serde_json::from_str(&peer.says(&daemon.did, &"x".repeat(700_000))).unwrap();
    for number in 0..COUNT {
        let mut broken = packed.clone();
        broken["recipients"][0]["encrypted_key"] = b64([number; 72]).into();
        assert_eq!(daemon.status(broken), 202);
    }
    assert_eq!(daemon.status(peer.says(&daemon.did, "lunch?")), 202);
    let waiting = resident(&daemon);
    println!("{COUNT} messages of 930 KB: {before} KiB before, {waiting} while they wait");
    assert!(waiting < before + WAITING, "{before} and {waiting} KiB");
    fs::remove_dir(&tokens).unwrap();
    fs::rename(&away, &tokens).unwrap();
    daemon.until("the honest one came", |daemon| daemon.texts() == ["lunch?"]);
    daemon.settles();
}

/// Many who send most of a message and wait: those beyond what is held in memory are told to come again, and whoever comes
/// from elsewhere is served.
#[test]
fn messages_that_do_not_end_fill_no_memory() {
    let Some(daemon) = Daemon::running("") else { return };
    let before = resident(&daemon);
    let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-type: application/didcomm-encrypted+json\r\n\
                content-length: 1000000\r\n\r\n";
    let mut most = vec![b' '; 900_000];
    most.splice(0..0, head.bytes());
    let begins = |address: [u8; 4]| {
        let mut stream = from(address, daemon.port).unwrap();
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
    daemon.until("one address has its share", |_| turned_away(&mut held) > 20);
    let peer = Peer::new("peer");
    assert_eq!(daemon.status(peer.says(&daemon.did, "hello")), 202);
    // Many take all that there is, and no more.
    drop(held);
    let mut held: Vec<_> = (0..200).map(|number| begins([127, 0, 0, 2 + number % 10])).collect();
    daemon.until("there is no more room", |_| turned_away(&mut held) > 100);
    let resident = resident(&daemon);
    println!("180 MB of messages that do not end: {before} KiB before, {resident} with them");
    assert!(resident < before + COMING, "{before} and {resident} KiB");
    drop(held);
    daemon.until("others are served", |daemon| daemon.status(peer.says(&daemon.did, "hello!")) == 202);
}

/// The same on WebSockets, where the parts of a message may come at any time.
#[test]
fn messages_that_do_not_end_fill_no_memory_on_sockets() {
    let Some(daemon) = Daemon::running("") else { return };
    let part = "x".repeat(900_000);
    let mut sockets: Vec<Ws> = (0..25)
        .map(|_| {
            let mut socket = Ws::over(from([127, 0, 0, 2], daemon.port).unwrap(), daemon.port);
            // It may be closed before all was written.
            let _ = socket.begin(&part);
            socket
        })
        .collect();
    // 16 MiB have room, and who is one too many is told so, unless the rest of what it sent crosses that.
    let closed = sockets.iter_mut().filter_map(|socket| socket.closes_within(Duration::from_millis(500)));
    let codes: Vec<_> = closed.collect();
    assert!(codes.len() >= 7, "{codes:?}");
    assert!(codes.iter().all(|code| code.is_none_or(|code| code == CloseCode::Again)), "{codes:?}");
    let peer = Peer::new("peer");
    assert_eq!(daemon.status(peer.says(&daemon.did, "hello")), 202);
    // What is whole weighs nothing any more, however much it was in all.
    drop(sockets);
    daemon.until("they have gone", |daemon| daemon.figure("claviger_websockets") == 0.0);
    let mut socket = Ws::over(from([127, 0, 0, 2], daemon.port).unwrap(), daemon.port);
    let large = "x".repeat(600_000);
    let large = peer.says(&daemon.did, &large);
    for _ in 0..25 {
        socket.send(&large).unwrap();
        socket.pong().unwrap();
    }
    socket.send(&peer.says(&daemon.did, "the last")).unwrap();
    daemon.until("it came", |daemon| daemon.texts().contains(&"the last".to_owned()));
}
