//! A keeper of a software token, and whatever is written to its socket: as it comes, and cut into frames behind an agent's
//! and a custodian's hello. It answers or closes the connection, and the key that it had still serves.
#![no_main]

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::Arc,
    thread,
    time::Duration,
};

use claviger::{
    keys::Curve,
    secrets::{
        Token,
        keeper::{Ended, Keeper, KeeperOptions, Role},
    },
};
use claviger_testkit::SoftToken;
use libfuzzer_sys::fuzz_target;

/// `Said::Welcome` and `Said::Refused` of `secrets/keeper/wire.rs`.
const WELCOME: u8 = 0;
const REFUSED: u8 = 1;

fuzz_target!(|bytes: &[u8]| {
    let token = SoftToken::new("fuzzed");
    let kept = token.make(Curve::Ed25519);
    token.make(Curve::P256);
    let keeper = Keeper::start(Arc::new(token.clone()), KeeperOptions::default()).expect("nothing is in its way");

    let said = converse(&keeper, bytes.to_vec());
    assert!(said.first().is_none_or(|first| [WELCOME, REFUSED].contains(first)), "an answer to who was not let in");
    // An agent first: a custodian may delete the key.
    for (hello, role) in [([1, 0], Role::Agent), ([1, 1], Role::Custodian)] {
        // Each part of the input is a frame, with its length in the byte before it.
        let (mut frames, mut rest) = (frame(&hello), bytes);
        while let Some((length, content)) = rest.split_first() {
            let (content, left) = content.split_at(content.len().min((*length).into()));
            frames.extend(frame(content));
            rest = left;
        }
        assert_eq!(converse(&keeper, frames)[0], WELCOME);
        if role == Role::Agent {
            token.sign(&kept, b"x").expect("an agent takes no key away");
            assert_eq!(token.keys().expect("a token that serves").len(), 2, "an agent makes no key");
        }
    }
});

/// Says all this to the keeper. The first byte of each frame that it said.
fn converse(keeper: &Arc<Keeper>, bytes: Vec<u8>) -> Vec<u8> {
    let (mut ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let keeper = keeper.clone();
    let serves = thread::spawn(move || keeper.serve(theirs, Role::Custodian));
    ours.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
    let mut writes = ours.try_clone().expect("a descriptor");
    let writer = thread::spawn(move || {
        // The keeper may have closed it.
        let _ = writes.write_all(&bytes);
        let _ = writes.shutdown(Shutdown::Write);
    });
    let mut said = Vec::new();
    // Closed before all was read, it may be a reset.
    if let Err(error) = ours.read_to_end(&mut said) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "the keeper neither answers nor closes");
    }
    writer.join().expect("it does not panic");
    assert_eq!(serves.join().expect("a keeper does not panic"), Ended::Done);
    let mut firsts = Vec::new();
    let mut rest = &said[..];
    while let Some((head, content)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*head) as usize;
        firsts.extend(content.first());
        rest = content.get(length..).unwrap_or_default();
    }
    firsts
}

fn frame(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).expect("it is short");
    [&length.to_be_bytes(), content].concat()
}
