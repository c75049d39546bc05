//! Promise 7 (threats.md): memory is bounded, with ten thousand idle WebSockets.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    thread,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{daemon::Daemon, peer::Peer, websocket_client::connect_from};

const SOCKETS: usize = 10_000;
/// From so many addresses, as one has no more than 1,000 connections.
const ADDRESSES: usize = 20;
/// In KiB, as /proc has it.
const LIMIT: u64 = 256 * 1024;

#[test]
fn ten_thousand_idle_websockets_fit_in_256_mib() {
    // This process has the other ends, and what it starts inherits the limit; the daemon raises its own.
    let limit = getrlimit(Resource::Nofile);
    let enough = limit.maximum.is_none_or(|maximum| maximum > SOCKETS as u64 + 1000);
    assert!(enough, "there are not enough descriptors: `ulimit -Hn` is {:?}", limit.maximum);
    let set = |current| setrlimit(Resource::Nofile, Rlimit { current, maximum: limit.maximum }).unwrap();
    set(Some(1024));
    let daemon = Daemon::running("");
    set(limit.maximum);
    let Some(daemon) = daemon else { return };
    let peer = Peer::new("peer");
    assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, "before")), 202);
    daemon.wait_until_all_opened();
    let before = resident(&daemon);
    let port = daemon.port;
    let threads: Vec<_> = (0..ADDRESSES)
        .map(|at| {
            thread::spawn(move || -> Vec<TcpStream> {
                let address = [127, 0, 1, u8::try_from(at + 1).unwrap()];
                (0..SOCKETS / ADDRESSES).map(|_| open(address, port)).collect()
            })
        })
        .collect();
    let sockets: Vec<TcpStream> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    assert_eq!(daemon.metric("claviger_websockets"), SOCKETS as f64);
    let after = resident(&daemon);
    println!("{} idle WebSockets: {before} KiB before, {after} KiB after", sockets.len());
    assert!(after < LIMIT, "{after} KiB");
    // Others are served as ever.
    assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, "after")), 202);
    daemon.wait_until("it came", |daemon| daemon.unread_texts() == ["before", "after"]);
    drop(sockets);
    daemon.wait_until("they have gone", |daemon| daemon.metric("claviger_websockets") == 0.0);
}

/// A WebSocket's handshake by hand: a library's buffers would be in this process.
fn open(address: [u8; 4], port: u16) -> TcpStream {
    let mut stream = connect_from(address, port).unwrap();
    let ask = "GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
               sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(ask.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
    stream
}

/// The memory that the daemon has now, in KiB.
pub fn resident(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}
