//! Hostile clients at a keeper's socket. The bytes are written by hand in the format of `secrets/keeper/wire.rs`: a
//! length of four bytes, big-endian, and content in postcard's format.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use claviger::{
    keys::{Curve, PublicKey},
    secrets::Context,
};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};

use crate::{
    home::{HANG_TIMEOUT, Home, Listening, open_message, with_home, within},
    support::Module,
};

/// The `Hello` of an agent.
pub const HELLO: [u8; 2] = [3, 0];
/// A `ClientFrame::Request` up to its body: the id 9, no deadline, no kid, no message id, no peer.
pub const REQUEST: [u8; 6] = [0, 9, 0, 0, 0, 0];
/// A `ServerFrame::Response` to 9 with `Err`. The number of the `WireError` follows.
const FAILED: [u8; 3] = [4, 9, 1];
/// `WireError::InvalidRequest`.
const INVALID_REQUEST: u8 = 2;
/// `WireError::DeadlineExceeded`.
const DEADLINE_EXCEEDED: u8 = 4;

pub struct HostileClient(UnixStream);

impl HostileClient {
    pub fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(HANG_TIMEOUT)).unwrap();
        Self(stream)
    }

    /// A client that the keeper accepts.
    pub fn agent(path: &Path) -> Self {
        let mut client = Self::connect(path);
        client.send(&HELLO);
        assert_eq!(client.receive().expect("the keeper accepts it")[0], 0, "welcome");
        client
    }

    /// Sends bytes without a length. The keeper may have closed the connection, so errors are ignored.
    fn send_raw(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes);
    }

    pub fn send(&mut self, content: &[u8]) {
        self.send_raw(&[&u32::try_from(content.len()).unwrap().to_be_bytes(), content].concat());
    }

    /// The next frame; none when the keeper has closed the connection.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        let mut header = [0; 4];
        let mut read = |into: &mut [u8]| match self.0.read_exact(into) {
            Ok(()) => true,
            Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
                false
            }
            Err(error) => panic!("the keeper neither answers nor closes the connection: {error}"),
        };
        if !read(&mut header) {
            return None;
        }
        let mut content = vec![0; u32::from_be_bytes(header) as usize];
        read(&mut content).then_some(content)
    }

    /// Ends sending. Returns the frames that come until the keeper closes the connection.
    fn finish(mut self) -> Vec<Vec<u8>> {
        let _ = self.0.shutdown(Shutdown::Write);
        std::iter::from_fn(|| self.receive()).collect()
    }
}

/// A `RequestBody::Unwrap` with an ephemeral key that may be invalid.
pub fn unwrap(key: &PublicKey, epk: &[u8]) -> Vec<u8> {
    let curve = match key.curve() {
        Curve::X25519 => 0,
        Curve::P256 => 1,
        other => panic!("{other:?}"),
    };
    let bytes = |bytes: &[u8]| [&[u8::try_from(bytes.len()).unwrap()], bytes].concat();
    let (key, epk) = ([&[curve][..], &bytes(key.as_bytes())].concat(), [&[curve][..], &bytes(epk)].concat());
    [&REQUEST[..], &[1], &key, &epk, &[0], &bytes(b""), &bytes(&[0xa5; 32]), &bytes(&[7; 72])].concat()
}

/// Runs `body` with a listening keeper, while an agent uses it without a failure.
fn while_an_agent_is_served(body: impl FnOnce(&Home, &Listening, [PublicKey; 2])) {
    with_home(Module::SoftHsm, "", async |home| {
        let keys = [home.generate(Curve::P256), home.generate(Curve::X25519)];
        let listening = home.listen();
        let client = listening.client().await;
        let (stop, key) = (Arc::new(AtomicBool::new(false)), keys[0].clone());
        open_message(&*client, &key, &Context::default()).await.unwrap();
        let keepers = home.keepers();
        let agent = tokio::spawn({
            let stop = stop.clone();
            async move {
                while !stop.load(Ordering::Relaxed) {
                    open_message(&*client, &key, &within(HANG_TIMEOUT)).await.expect("the agent is served");
                }
            }
        });
        tokio::task::block_in_place(|| body(home, &listening, keys));
        stop.store(true, Ordering::Relaxed);
        agent.await.unwrap();
        assert_eq!(home.keepers(), keepers, "the keeper has not ended");
    });
}

#[test]
fn an_invalid_hello_is_refused() {
    while_an_agent_is_served(|_, listening, _| {
        let path = &*listening.path;
        // A client that sends nothing does not keep others from connecting.
        let silent = HostileClient::connect(path);
        for version in [&[2, 0][..], &[0, 0], &[0xff, 0xff, 3, 1]] {
            let mut client = HostileClient::connect(path);
            client.send(version);
            let response = client.receive().expect("an explanation for a client of another release");
            assert_eq!(response[0], 1, "refused");
            assert!(String::from_utf8_lossy(&response).contains("programs of the same release"));
            assert_eq!(client.receive(), None);
        }
        for (what, content) in [
            ("nothing", &[][..]),
            ("half a hello", &[1]),
            ("an unknown role", &[1, 2]),
            ("bytes behind a hello", &[1, 0, 0]),
            ("a version of more than 16 bits", &[0xff, 0xff, 0xff, 0xff, 0x0f, 0]),
            ("a request to lock the token", &[&REQUEST[..], &[7]].concat()),
        ] {
            let mut client = HostileClient::connect(path);
            client.send(content);
            assert_eq!(client.receive(), None, "{what}");
        }
        let mut client = HostileClient::connect(path);
        client.send_raw(&u32::MAX.to_be_bytes());
        assert_eq!(client.receive(), None, "a frame of 4 GB");
        let mut client = HostileClient::connect(path);
        client.send_raw(&[0, 0, 0, 2, 1]);
        assert_eq!(client.finish(), [[0; 0]; 0], "an incomplete hello");
        drop(silent);
    });
}

#[test]
fn an_invalid_request_ends_its_connection() {
    while_an_agent_is_served(|_, listening, _| {
        let path = &*listening.path;
        for (what, content) in [
            ("nothing", &[][..]),
            ("half a request", &[0, 9]),
            ("an unknown kind of request", &[&REQUEST[..], &[200, 1]].concat()),
            ("bytes behind a request", &[&REQUEST[..], &[6, 0]].concat()),
            ("a length beyond the frame", &[0, 9, 0, 1, 0xff, 0xff, 0xff, 0xff, 0x0f]),
            ("a kid that is not UTF-8", &[0, 9, 0, 1, 1, 0xff, 0, 0, 6]),
            ("a second hello", &HELLO[..1]),
        ] {
            let mut client = HostileClient::agent(path);
            client.send(content);
            assert_eq!(client.receive(), None, "{what}");
        }
        let mut client = HostileClient::agent(path);
        client.send_raw(&((4 << 20) + 1_u32).to_be_bytes());
        assert_eq!(client.receive(), None, "a frame over 4 MB");
        let mut client = HostileClient::agent(path);
        client.send_raw(&[&[0, 0, 1, 0][..], &REQUEST].concat());
        assert_eq!(client.finish(), [[0; 0]; 0], "an incomplete request");
    });
}

/// A well-formed request that must not be performed gets an error, and does not reach the token.
#[test]
fn a_forbidden_request_does_not_reach_the_token() {
    with_home(Module::SoftHsm, "", async |home| {
        let (p256, x25519) = (home.generate(Curve::P256), home.generate(Curve::X25519));
        let listening = home.listen();
        // The keeper has started when it accepts a client.
        let mut client = HostileClient::agent(&listening.path);
        let calls = || home.shim.calls_and_failures().0;
        let before = calls();
        let off_curve = (0..=255)
            .map(|last| [&p256.as_bytes()[..p256.as_bytes().len() - 1], &[last]].concat())
            .find(|point| PublicKey::from_bytes(Curve::P256, point).is_err())
            .unwrap();
        let custodial =
            [6, 7, 8].map(|kind| ("a custodian's request", [&REQUEST[..], &[kind]].concat(), INVALID_REQUEST));
        let expired = [&[0, 9, 1, 1, 0, 0, 0][..], &unwrap(&p256, p256.as_bytes())[REQUEST.len()..]].concat();
        let cases = [
            ("an ephemeral key off its curve", unwrap(&p256, &off_curve), INVALID_REQUEST),
            ("an ephemeral key of another length", unwrap(&p256, &[4; 12]), INVALID_REQUEST),
            ("an ephemeral key of another curve's length", unwrap(&p256, x25519.as_bytes()), INVALID_REQUEST),
            ("an ephemeral key of low order", unwrap(&x25519, &[0; 32]), INVALID_REQUEST),
            ("a deadline that has passed", expired, DEADLINE_EXCEEDED),
        ];
        for (what, request, error) in cases.into_iter().chain(custodial) {
            client.send(&request);
            let response = client.receive().unwrap_or_else(|| panic!("{what}: the connection has ended"));
            assert_eq!(response[..4], [&FAILED[..], &[error]].concat(), "{what}");
        }
        // Cancelling an unknown request does nothing.
        client.send(&[1, 77]);
        client.send(&[&REQUEST[..], &[6]].concat());
        assert_eq!(client.receive().expect("the connection goes on")[..3], FAILED);
        assert_eq!(calls(), before, "no request reached the token");
        assert!(client.finish().is_empty());
    });
}

/// Random frames, and requests with changed bytes, do not disturb other clients.
#[test]
fn random_frames() {
    while_an_agent_is_served(|_, listening, [p256, x25519]| {
        let requests = [unwrap(&p256, p256.as_bytes()), unwrap(&x25519, x25519.as_bytes())];
        let changed =
            (0..2usize, vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)).prop_map(move |(at, changes)| {
                let mut request = requests[at].clone();
                for (index, byte) in changes {
                    let at = index.index(request.len());
                    request[at] = byte;
                }
                request
            });
        let frames = vec(prop_oneof![vec(any::<u8>(), 0..200), changed], 1..8);
        let mut runner = TestRunner::new(Config { cases: 200, failure_persistence: None, ..Config::default() });
        let ran = runner.run(&(frames, any::<bool>()), |(frames, is_accepted)| {
            let mut client = if is_accepted {
                HostileClient::agent(&listening.path)
            } else {
                HostileClient::connect(&listening.path)
            };
            frames.iter().for_each(|frame| client.send(frame));
            // The connection ends, and the keeper sends only responses and changes.
            for frame in client.finish() {
                prop_assert!(!is_accepted || [2, 4].contains(&frame[0]), "{frame:?}");
            }
            Ok(())
        });
        ran.unwrap();
    });
}
