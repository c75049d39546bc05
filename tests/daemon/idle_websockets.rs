//! The memory of a daemon with ten thousand idle WebSockets is bounded
//! (`docs/security-model.md`, "Memory is bounded").

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    thread,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{daemon::Daemon, peer::Peer, websocket_client::connect_from};

const SOCKETS: usize = 10_000;
/// The WebSockets come from several addresses, as one address may have only 1,000 connections.
const ADDRESSES: usize = 20;
/// The limit of the resident memory, in KiB.
const LIMIT: u64 = 256 * 1024;
/// The limit of the resident memory that one WebSocket takes, in bytes.
const LIMIT_OF_ONE: u64 = 8600;

#[test]
fn ten_thousand_idle_websockets_fit_in_256_mib() {
    // This process has the other ends of the connections, and so needs many descriptors. The daemon is started with a
    // low limit, and must raise it by itself.
    let limit = getrlimit(Resource::Nofile);
    let enough = limit.maximum.is_none_or(|maximum| maximum > SOCKETS as u64 + 1000);
    assert!(enough, "not enough file descriptors: `ulimit -Hn` is {:?}", limit.maximum);
    let set = |current| setrlimit(Resource::Nofile, Rlimit { current, maximum: limit.maximum }).unwrap();
    set(Some(1024));
    let daemon = Daemon::running("");
    set(limit.maximum);
    let Some(daemon) = daemon else { return };
    let peer = Peer::new("peer");
    assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, "before")), 202);
    daemon.wait_until_all_opened();
    let before = resident_kib(&daemon);
    let port = daemon.port;
    let threads: Vec<_> = (0..ADDRESSES)
        .map(|at| {
            thread::spawn(move || -> Vec<TcpStream> {
                let address = [127, 0, 1, u8::try_from(at + 1).unwrap()];
                (0..SOCKETS / ADDRESSES).map(|_| open_websocket(address, port)).collect()
            })
        })
        .collect();
    let sockets: Vec<TcpStream> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    assert_eq!(daemon.metric("claviger_websockets"), SOCKETS as f64);
    let after = resident_kib(&daemon);
    let each = (after - before) * 1024 / SOCKETS as u64;
    println!("{} idle WebSockets: {before} KiB before, {after} KiB after, {each} bytes each", sockets.len());
    assert!(after < LIMIT && each <= LIMIT_OF_ONE, "{after} KiB, {each} bytes each");
    // Other peers are served.
    assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, "after")), 202);
    daemon.wait_until("the message arrived", |daemon| daemon.unread_texts() == ["before", "after"]);
    drop(sockets);
    daemon.wait_until("the connections are closed", |daemon| daemon.metric("claviger_websockets") == 0.0);
}

/// Opens a WebSocket by hand, as ten thousand buffers of a library would need much memory in this process.
fn open_websocket(address: [u8; 4], port: u16) -> TcpStream {
    let mut stream = connect_from(address, port).unwrap();
    let request = "GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
               sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = Vec::new();
    let mut byte = [0];
    while !response.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        response.push(byte[0]);
    }
    assert!(response.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&response));
    stream
}

/// The resident memory of the daemon, in KiB.
pub fn resident_kib(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}
