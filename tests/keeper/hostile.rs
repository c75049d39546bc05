//! Strangers at a keeper's socket, who say what no agent says. What is written here by hand is the wire of
//! `secrets/keeper/wire.rs`: four bytes of length, big-endian, and so many of postcard.

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
    home::{Home, Listening, SOON, kept, open_message, within},
    support::Module,
};

/// `Hello` of an agent.
const HELLO: [u8; 2] = [1, 0];
/// Where a request's `ask` begins: `Asked::Request`, the id 9, no deadline, no kid, no message id, no peer.
const REQUEST: [u8; 6] = [0, 9, 0, 0, 0, 0];
/// `Said::Answer` to 9, `Err`, and which `Failure` it is.
const FAILED: [u8; 3] = [4, 9, 1];
const REFUSED: u8 = 2;
const LATE: u8 = 4;

struct Stranger(UnixStream);

impl Stranger {
    fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        Self(stream)
    }

    /// One that was let in.
    fn agent(path: &Path) -> Self {
        let mut stranger = Self::connect(path);
        stranger.send(&HELLO);
        assert_eq!(stranger.hears().expect("it is let in")[0], 0, "welcome");
        stranger
    }

    /// Bytes as they are. Who closes the connection need not read them.
    fn raw(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes);
    }

    fn send(&mut self, content: &[u8]) {
        self.raw(&[&u32::try_from(content.len()).unwrap().to_be_bytes(), content].concat());
    }

    /// The next frame; none when the keeper has closed the connection.
    fn hears(&mut self) -> Option<Vec<u8>> {
        let mut head = [0; 4];
        let mut read = |into: &mut [u8]| match self.0.read_exact(into) {
            Ok(()) => true,
            Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
                false
            }
            Err(error) => panic!("the keeper neither answers nor closes: {error}"),
        };
        if !read(&mut head) {
            return None;
        }
        let mut content = vec![0; u32::from_be_bytes(head) as usize];
        read(&mut content).then_some(content)
    }

    /// It has said all. What it still hears, until the keeper closes the connection.
    fn leaves(mut self) -> Vec<Vec<u8>> {
        let _ = self.0.shutdown(Shutdown::Write);
        std::iter::from_fn(|| self.hears()).collect()
    }
}

/// `Ask::Unwrap` with an ephemeral key that may be none.
fn unwrap(key: &PublicKey, epk: &[u8]) -> Vec<u8> {
    let curve = match key.curve() {
        Curve::X25519 => 0,
        Curve::P256 => 1,
        other => panic!("{other:?}"),
    };
    let bytes = |bytes: &[u8]| [&[u8::try_from(bytes.len()).unwrap()], bytes].concat();
    let (key, epk) = ([&[curve][..], &bytes(key.as_bytes())].concat(), [&[curve][..], &bytes(epk)].concat());
    [&REQUEST[..], &[1], &key, &epk, &[0], &bytes(b""), &bytes(&[0xa5; 32]), &bytes(&[7; 72])].concat()
}

/// Runs `body` with a keeper that listens, which an agent uses all the while, and by which it is served to the end.
fn served_all_the_while(body: impl FnOnce(&Home, &Listening, [PublicKey; 2])) {
    kept(Module::SoftHsm, "", async |home| {
        let keys = [home.make(Curve::P256), home.make(Curve::X25519)];
        let listening = home.listen();
        let client = listening.client().await;
        let (stop, key) = (Arc::new(AtomicBool::new(false)), keys[0].clone());
        open_message(&*client, &key, &Context::default()).await.unwrap();
        let keepers = home.keepers();
        let agent = tokio::spawn({
            let stop = stop.clone();
            async move {
                while !stop.load(Ordering::Relaxed) {
                    open_message(&*client, &key, &within(SOON)).await.expect("others are served");
                }
            }
        });
        tokio::task::block_in_place(|| body(home, &listening, keys));
        stop.store(true, Ordering::Relaxed);
        agent.await.unwrap();
        assert_eq!(home.keepers(), keepers, "the keeper lives");
    });
}

#[test]
fn what_is_no_hello_is_not_let_in() {
    served_all_the_while(|_, listening, _| {
        let path = &*listening.path;
        // Who says nothing keeps nobody from coming in.
        let silent = Stranger::connect(path);
        for version in [&[2, 0][..], &[0, 0], &[0xff, 0xff, 3, 1]] {
            let mut stranger = Stranger::connect(path);
            stranger.send(version);
            let answer = stranger.hears().expect("a word to who is of another release");
            assert_eq!(answer[0], 1, "refused");
            assert!(String::from_utf8_lossy(&answer).contains("both must be of one release"));
            assert_eq!(stranger.hears(), None);
        }
        for (what, content) in [
            ("nothing", &[][..]),
            ("half a hello", &[1]),
            ("an unknown role", &[1, 2]),
            ("more than a hello", &[1, 0, 0]),
            ("a version of more than 16 bits", &[0xff, 0xff, 0xff, 0xff, 0x0f, 0]),
            ("a request to lock the token", &[&REQUEST[..], &[7]].concat()),
        ] {
            let mut stranger = Stranger::connect(path);
            stranger.send(content);
            assert_eq!(stranger.hears(), None, "{what}");
        }
        let mut stranger = Stranger::connect(path);
        stranger.raw(&u32::MAX.to_be_bytes());
        assert_eq!(stranger.hears(), None, "a frame of 4 GB");
        let mut stranger = Stranger::connect(path);
        stranger.raw(&[0, 0, 0, 2, 1]);
        assert_eq!(stranger.leaves(), [[0; 0]; 0], "a hello that does not end");
        drop(silent);
    });
}

#[test]
fn what_is_no_request_ends_its_connection() {
    served_all_the_while(|_, listening, _| {
        let path = &*listening.path;
        for (what, content) in [
            ("nothing", &[][..]),
            ("half a request", &[0, 9]),
            ("an unknown question", &[&REQUEST[..], &[200, 1]].concat()),
            ("more than a request", &[&REQUEST[..], &[6, 0]].concat()),
            ("a length beyond the frame", &[0, 9, 0, 1, 0xff, 0xff, 0xff, 0xff, 0x0f]),
            ("a kid that is no UTF-8", &[0, 9, 0, 1, 1, 0xff, 0, 0, 6]),
            ("hello again", &HELLO[..1]),
        ] {
            let mut stranger = Stranger::agent(path);
            stranger.send(content);
            assert_eq!(stranger.hears(), None, "{what}");
        }
        let mut stranger = Stranger::agent(path);
        stranger.raw(&((4 << 20) + 1_u32).to_be_bytes());
        assert_eq!(stranger.hears(), None, "a frame over 4 MB");
        let mut stranger = Stranger::agent(path);
        stranger.raw(&[&[0, 0, 1, 0][..], &REQUEST].concat());
        assert_eq!(stranger.leaves(), [[0; 0]; 0], "a request that does not end");
    });
}

/// What can be read and must not be done is answered, and the token has not been asked.
#[test]
fn what_must_not_be_done_is_refused_before_the_token() {
    kept(Module::SoftHsm, "", async |home| {
        let (p256, x25519) = (home.make(Curve::P256), home.make(Curve::X25519));
        let listening = home.listen();
        // The keeper has started once it lets one in.
        let mut stranger = Stranger::agent(&listening.path);
        let calls = || home.shim.calls_and_failures().0;
        let before = calls();
        let off_curve = (0..=255)
            .map(|last| [&p256.as_bytes()[..p256.as_bytes().len() - 1], &[last]].concat())
            .find(|point| PublicKey::from_bytes(Curve::P256, point).is_err())
            .unwrap();
        let custodial = [6, 7, 8].map(|ask| ("what a custodian asks", [&REQUEST[..], &[ask]].concat(), REFUSED));
        let late = [&[0, 9, 1, 1, 0, 0, 0][..], &unwrap(&p256, p256.as_bytes())[REQUEST.len()..]].concat();
        let cases = [
            ("an ephemeral key off its curve", unwrap(&p256, &off_curve), REFUSED),
            ("one of another length", unwrap(&p256, &[4; 12]), REFUSED),
            ("one of another curve's length", unwrap(&p256, x25519.as_bytes()), REFUSED),
            ("one of low order", unwrap(&x25519, &[0; 32]), REFUSED),
            ("a deadline long ago", late, LATE),
        ];
        for (what, request, failure) in cases.into_iter().chain(custodial) {
            stranger.send(&request);
            let answer = stranger.hears().unwrap_or_else(|| panic!("{what}: the connection has ended"));
            assert_eq!(answer[..4], [&FAILED[..], &[failure]].concat(), "{what}");
        }
        // What was never asked is called off.
        stranger.send(&[1, 77]);
        stranger.send(&[&REQUEST[..], &[6]].concat());
        assert_eq!(stranger.hears().expect("it goes on")[..3], FAILED);
        assert_eq!(calls(), before, "the token was not asked");
        assert!(stranger.leaves().is_empty());
    });
}

/// Frames at random, and requests with bytes that were changed: whatever comes of them, others are served.
#[test]
fn frames_at_random() {
    served_all_the_while(|_, listening, [p256, x25519]| {
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
        let ran = runner.run(&(frames, any::<bool>()), |(frames, let_in)| {
            let mut stranger =
                if let_in { Stranger::agent(&listening.path) } else { Stranger::connect(&listening.path) };
            frames.iter().for_each(|frame| stranger.send(frame));
            // It ends, and what it says is an answer, or that something changed.
            for said in stranger.leaves() {
                prop_assert!(!let_in || [2, 4].contains(&said[0]), "{said:?}");
            }
            Ok(())
        });
        ran.unwrap();
    });
}
