//! A program with `didcomm` 0.4.1 and an endpoint, and the daemon that it exchanges messages with.

use std::cell::Cell;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use claviger::did::{Document, LocalResolver, Relationship, Resolver, Service, peer};
use claviger::keys::Curve;
use claviger_interop::daemon::{Daemon, PATIENCE, program};
use claviger_interop::didcomm::{FromPrior, Message, MessageBuilder, PackEncryptedOptions, UnpackMetadata};
use claviger_interop::http::{Answer, Connection, ENCRYPTED, Posted, serve};
use claviger_interop::tokens::{Module, ThrowAway};
use claviger_interop::{Peer, didcomm};
use claviger_testkit::PrivateKey;
use serde_json::{Value, json};

/// The curves that the daemon and `didcomm` have in common.
pub const CURVES: [Curve; 2] = [Curve::P256, Curve::X25519];

/// A peer with a DID on one curve and a second DID to rotate to, and a daemon whose DID has keys on both curves.
pub struct Pair {
    pub daemon: Daemon,
    /// The daemon's DID.
    pub ours: String,
    /// The peer's DID, and the DID that it rotates to.
    pub did: String,
    pub next: String,
    peer: Peer,
    posted: Receiver<Posted>,
    /// The number of messages that were made, for unique ids.
    made: Cell<u32>,
    _token: ThrowAway,
}

impl Pair {
    /// `None` if SoftHSM is missing.
    pub async fn new(curve: Curve) -> Option<Self> {
        let token = ThrowAway::new(Module::SoftHsm, "daemon")?;
        let mut daemon = Daemon::new(program(false), token.env.clone(), &token.uri, "");
        let ours = daemon.make_did(&CURVES.map(Curve::name));
        daemon.start();
        let (sender, posted) = channel();
        let endpoint = format!("http://127.0.0.1:{}", serve(sender, Duration::ZERO));
        let mut documents = vec![translated(&LocalResolver::new().resolve(&ours).await.unwrap())];
        let mut secrets = Vec::new();
        let [did, next] = [(); 2].map(|()| {
            let keys =
                [Relationship::KeyAgreement, Relationship::Authentication].map(|relationship| match relationship {
                    Relationship::KeyAgreement => (relationship, PrivateKey::generate(curve)),
                    _ => (relationship, PrivateKey::generate(Curve::Ed25519)),
                });
            let public = keys.each_ref().map(|(relationship, key)| (*relationship, key.public().clone()));
            let document = peer::create_2(&public, &[Service::didcomm(&endpoint, [])]).unwrap();
            secrets.extend(keys.iter().map(|(relationship, key)| {
                let method = document.methods(*relationship).next().unwrap();
                let mut jwk = json!(key.public().to_jwk());
                jwk["kid"] = method.id.clone().into();
                jwk["d"] = URL_SAFE_NO_PAD.encode(&*key.to_bytes()).into();
                jwk
            }));
            documents.push(translated(&document));
            document.id().to_owned()
        });
        let (peer, made) = (Peer::new(documents, secrets), Cell::new(0));
        Some(Self { daemon, ours, did, next, peer, posted, made, _token: token })
    }

    /// Begins a message from the peer to the daemon.
    pub fn message(&self, kind: &str, body: Value) -> MessageBuilder {
        self.made.set(self.made.get() + 1);
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        Message::build(format!("message-{}", self.made.get()), kind.to_owned(), body)
            .to(self.ours.clone())
            .created_time(time)
    }

    /// Sends a message. `from` is one of the peer's DIDs, or `None` for an anonymous message. The daemon must
    /// accept it.
    pub async fn send(&self, from: Option<&str>, signed: bool, message: Message) -> Message {
        let answer = self.post(from, signed, &message).await;
        assert_eq!((answer.status, answer.body.as_str()), (202, ""));
        message
    }

    /// Sends a message like `send`, and returns the response of the daemon.
    pub async fn post(&self, from: Option<&str>, signed: bool, message: &Message) -> Answer {
        let sign_by = from.filter(|_| signed);
        let options = PackEncryptedOptions::default();
        let (packed, _) = self.peer.pack_encrypted(message, &self.ours, from, sign_by, &options).await.unwrap();
        Connection::open(self.daemon.port).unwrap().post("/", ENCRYPTED, &packed).unwrap()
    }

    /// The next packed message from the daemon.
    #[track_caller]
    pub fn posted(&self) -> String {
        let posted = self.posted.recv_timeout(PATIENCE);
        let posted = posted.unwrap_or_else(|_| panic!("nothing came\n{}", self.daemon.log()));
        assert_eq!(posted.kind, ENCRYPTED);
        posted.body
    }

    /// The next message from the daemon, unpacked.
    pub async fn receive(&self) -> (Message, UnpackMetadata) {
        self.peer.unpack(&self.posted()).await.unwrap()
    }

    /// Unpacks a message.
    pub async fn unpack(&self, packed: &str) -> didcomm::error::Result<(Message, UnpackMetadata)> {
        self.peer.unpack(packed).await
    }

    /// Asserts that the daemon sends nothing more: a ping is answered, and nothing comes before or directly after
    /// the response.
    pub async fn assert_nothing_comes(&self, from: &str) {
        let ping = self.message(PING, json!({})).from(from.to_owned()).finalize();
        let ping = self.send(Some(from), false, ping).await;
        let (pong, _) = self.receive().await;
        assert_eq!((pong.type_.as_str(), pong.thid.as_deref()), (PONG, Some(ping.id.as_str())));
        assert!(self.posted.recv_timeout(Duration::from_millis(300)).is_err(), "something came");
    }

    /// Has the peer's first DID sign a `from_prior` that names the second one.
    pub async fn sign_from_prior(&self) -> String {
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let claims = FromPrior::build(self.did.clone(), self.next.clone()).iat(time).finalize();
        self.peer.pack_from_prior(&claims, None).await.unwrap().0
    }

    /// Waits until the daemon has handled all received messages.
    pub fn settle(&self) {
        self.daemon.until("all is handled", |daemon| daemon.waiting("inbox") == 0);
    }

    /// The messages for the daemon's application, in order. Each is acknowledged.
    pub fn inbox(&self) -> Vec<Value> {
        self.settle();
        let page = self.daemon.json(&["inbox", "--acknowledge", "--limit", "1000"]);
        page["messages"].as_array().unwrap().clone()
    }
}

pub const PING: &str = "https://didcomm.org/trust-ping/2.0/ping";
pub const PONG: &str = "https://didcomm.org/trust-ping/2.0/ping-response";
pub const BASIC_MESSAGE: &str = "https://didcomm.org/basicmessage/2.0/message";
pub const PROBLEM_REPORT: &str = "https://didcomm.org/report-problem/2.0/problem-report";

/// The document with its keys as JWKs: `didcomm` reads only X25519 and Ed25519 multikeys.
fn translated(document: &Document) -> Value {
    let standing = |relationship| -> Vec<Value> {
        let methods = document.methods(relationship).map(|method| {
            json!({
                "id": method.id,
                "type": "JsonWebKey2020",
                "controller": method.controller,
                "publicKeyJwk": method.key.as_ref().unwrap().to_jwk(),
            })
        });
        methods.collect()
    };
    json!({
        "id": document.id(),
        "keyAgreement": standing(Relationship::KeyAgreement),
        "authentication": standing(Relationship::Authentication),
        "service": document.as_value()["service"],
    })
}
