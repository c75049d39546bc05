//! Arbitrary input to a keeper of a software token: as raw bytes, and as frames after the hello of an agent and of a
//! custodian. The keeper must answer or close the connection, and an agent must not change the token's keys.
#![no_main]

use std::{
    fs,
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use claviger::{
    keys::Curve,
    secrets::{
        Purpose, Token,
        keeper::{Keeper, KeeperExit, KeeperOptions, Role},
    },
};
use claviger_testkit::SoftToken;
use libfuzzer_sys::fuzz_target;

/// `ServerFrame::Welcome` and `ServerFrame::Refused` of `secrets/keeper/wire.rs`.
const WELCOME: u8 = 0;
const REFUSED: u8 = 1;

fuzz_target!(|bytes: &[u8]| {
    let threads = threads();
    keep(bytes);
    // Also for the leak check that may follow: it reports what a thread that is ending has not freed yet.
    let start = Instant::now();
    while self::threads() > threads {
        assert!(start.elapsed() < Duration::from_secs(5), "the keeper leaves a thread behind");
        thread::sleep(Duration::from_micros(50));
    }
});

/// The number of threads of this process, with those that are ending.
fn threads() -> usize {
    fs::read_dir("/proc/self/task").expect("a process has threads").count()
}

/// Starts a keeper, sends it the bytes, and ends it.
fn keep(bytes: &[u8]) {
    let token = SoftToken::new("fuzzed");
    let key = token.make(Curve::Ed25519);
    token.make(Curve::P256);
    let keeper = Keeper::start(Arc::new(token.clone()), KeeperOptions::default()).expect("the keeper starts");

    let received = converse(&keeper, bytes.to_vec());
    assert!(received.first().is_none_or(|first| [WELCOME, REFUSED].contains(first)), "another frame before a welcome");
    // The agent first, since a custodian may delete the key.
    for (hello, role) in [([3, 0], Role::Agent), ([3, 1], Role::Custodian)] {
        // Each part of the input is a frame, with its length in the byte before it.
        let (mut frames, mut rest) = (frame(&hello), bytes);
        while let Some((length, content)) = rest.split_first() {
            let (content, left) = content.split_at(content.len().min((*length).into()));
            frames.extend(frame(content));
            rest = left;
        }
        assert_eq!(converse(&keeper, frames)[0], WELCOME);
        if role == Role::Agent {
            token.sign(&key, b"x", &Purpose::KeyTest).expect("an agent cannot delete a key");
            assert_eq!(token.keys().expect("the token works").len(), 2, "an agent cannot make a key");
        }
    }
}

/// Sends the bytes to the keeper. Returns the first byte of each frame that the keeper sent.
fn converse(keeper: &Arc<Keeper>, bytes: Vec<u8>) -> Vec<u8> {
    let (mut ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let keeper = keeper.clone();
    let server = thread::spawn(move || keeper.serve(theirs, Role::Custodian));
    ours.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
    let mut writes = ours.try_clone().expect("a descriptor");
    let writer = thread::spawn(move || {
        // The keeper may have closed the connection.
        let _ = writes.write_all(&bytes);
        let _ = writes.shutdown(Shutdown::Write);
    });
    let mut received = Vec::new();
    // A connection that is closed before everything was read may be reset.
    if let Err(error) = ours.read_to_end(&mut received) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "the keeper neither answers nor closes");
    }
    writer.join().expect("the writer does not panic");
    assert_eq!(server.join().expect("a keeper does not panic"), KeeperExit::Finished);
    let mut firsts = Vec::new();
    let mut rest = &received[..];
    while let Some((header, content)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*header) as usize;
        firsts.extend(content.first());
        rest = content.get(length..).unwrap_or_default();
    }
    firsts
}

fn frame(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).expect("the content is short");
    [&length.to_be_bytes(), content].concat()
}
