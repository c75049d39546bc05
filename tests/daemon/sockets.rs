//! Ten thousand WebSockets that say nothing: memory is bounded (threats.md, promise 7).

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::daemon::{Daemon, PATIENCE};

const SOCKETS: usize = 10_000;
/// In KiB.
const BOUND: u64 = 256 * 1024;

#[test]
fn ten_thousand_quiet_ones_take_no_more_than_256_mb() {
    let limit = getrlimit(Resource::Nofile);
    assert!(limit.maximum.is_none_or(|most| most > SOCKETS as u64 + 500), "this machine lets a process open {limit:?}");
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    let Some(mut daemon) = Daemon::new("") else { return };
    let configuration = fs::read_to_string(daemon.home.path().join("claviger.toml")).unwrap();
    let wider = configuration.replace("[http]\n", "[http]\nconnections_per_address = 20000\n");
    daemon.home.write("claviger.toml", &wider);
    daemon.start();
    let before = resident(daemon.pid());
    let sockets: Vec<TcpStream> = (0..SOCKETS).map(|_| open(daemon.port)).collect();
    daemon.until("all are open", |daemon| daemon.figure("claviger_websockets") == SOCKETS as f64);
    let after = resident(daemon.pid());
    println!(
        "{SOCKETS} WebSockets: {before} KiB before, {after} KiB with them, {} bytes each",
        (after - before) * 1024 / SOCKETS as u64
    );
    assert!(after < BOUND, "{after} KiB");
    // It is there for others meanwhile, and lets go of what has gone.
    assert!(daemon.ask("/ready").starts_with("HTTP/1.1 200"));
    drop(sockets);
    daemon.until("all are closed", |daemon| daemon.figure("claviger_websockets") == 0.0);
}

fn open(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let ask = "GET / HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
               sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";
    stream.write_all(ask.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    // RFC 6455 section 1.3.
    assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
    stream
}

/// What a process has in memory, in KiB.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
