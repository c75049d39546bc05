//! The attackers. Each has an address of its own, so that only the limits for all addresses together stop them.

use std::{
    io::Write,
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use claviger::{
    did::peer::create_4,
    didcomm::Message,
    keys::{Curve, PublicKey},
};
use claviger_testkit::{PrivateKey, free_port};
use serde_json::{Value, json};

use super::{is_whole_soak, operator::Operator};
use crate::{
    daemon::Daemon,
    peer::{Peer, seconds},
    support::forge::{Jwe, b64},
    websocket_client::{WebSocketClient, closed_within, connect_from},
};

const PING: &str = "https://didcomm.org/trust-ping/2.0/ping";

pub struct Attacker {
    pub name: &'static str,
    /// How often the attacker acts, if the machine allows it.
    pub interval: Duration,
    /// The act with this number.
    pub act: Box<dyn FnMut(u64) + Send>,
}

/// What an attacker knows: where the daemon is, and its DID.
#[derive(Clone)]
struct Target {
    did: String,
    keys: Vec<(String, PublicKey)>,
    port: u16,
    /// The attacker's address.
    from: [u8; 4],
}

impl Target {
    /// Posts a message. The answer does not matter.
    fn post(&self, packed: &str) {
        let head = format!(
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-type: application/didcomm-encrypted+json\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n",
            packed.len()
        );
        self.request(&head, packed);
    }

    fn request(&self, head: &str, body: &str) {
        let Ok(mut stream) = connect_from(self.from, self.port) else { return };
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
        let _ = closed_within(&mut stream, Duration::from_secs(2));
    }
}

/// All attackers, from the attacks that need no cryptography to those with valid messages. `captured` is a message of
/// an honest peer, whose header `return_route` asks for replies on its connection.
pub fn all(daemon: &Daemon, captured: String, webhook_port: u16) -> Vec<Attacker> {
    let mut number = 0;
    let mut attacker = |name, per_second: f64, make: &dyn Fn(Target) -> Box<dyn FnMut(u64) + Send>| {
        number += 1;
        let target = Target {
            did: daemon.did.clone(),
            keys: daemon.agreement_keys(),
            port: daemon.port,
            from: [127, 0, 2, number],
        };
        Attacker { name, interval: Duration::from_secs_f64(per_second.recip()), act: make(target) }
    };
    // The program is optimised in the full soak only, and otherwise takes ten times as long for a large message.
    let large = if is_whole_soak() { 1.0 } else { 0.25 };
    vec![
        attacker("malformed envelopes", 20.0, &malformed),
        attacker("requests of pages and invitations", 20.0, &pages),
        attacker("connections that send nothing more", 10.0, &unfinished),
        attacker("envelopes of senders that nobody can resolve", 20.0, &unresolvable_senders),
        attacker("envelopes with broken tags and new documents", 10.0, &broken_tags),
        attacker("captured message with another blank", 2.0, &|target| replayed(target, captured.clone())),
        attacker("envelopes for others inside anonymous ones", 5.0, &for_others),
        attacker("pings with a closed endpoint", 5.0, &closed_endpoints),
        attacker("pings with a silent endpoint", 5.0, &silent_endpoints),
        attacker("pings with the webhook as endpoint", 1.0, &|target| webhook_endpoints(target, webhook_port)),
        attacker("messages of many small values", large, &small_values),
        attacker("large messages of new senders", large, &large_messages),
    ]
}

fn malformed(target: Target) -> Box<dyn FnMut(u64) + Send> {
    let mallory = Peer::new("mallory");
    let packed = mallory.authcrypt(&target.keys).seal("{}");
    Box::new(move |number| {
        let mut bad = packed.clone();
        match number % 5 {
            0 => bad["protected"] = "e30".into(),
            1 => bad["recipients"][0]["header"]["kid"] = format!("{}#key-99", target.did).into(),
            2 => bad["unprotected"] = json!({"crit": ["exp"]}),
            3 => bad["iv"] = "AA==".into(),
            _ => bad = "[".repeat(50_000).into(),
        }
        target.post(&bad.to_string());
    })
}

fn pages(target: Target) -> Box<dyn FnMut(u64) + Send> {
    let long = b64(json!({"type": "https://didcomm.org/out-of-band/2.0/invitation", "id": "1",
        "from": format!("did:example:{}", "x".repeat(1500)), "body": {"goal": "x"}})
    .to_string());
    Box::new(move |number| {
        let path = match number % 4 {
            0 => "/".to_owned(),
            1 => format!("/?_oob={long}"),
            2 => format!("/nothing/at/{number}/did.json"),
            _ => format!("/?_oobid={number}"),
        };
        target.request(&format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"), "");
    })
}

/// Holds up to 300 connections, each with an unfinished request.
fn unfinished(target: Target) -> Box<dyn FnMut(u64) + Send> {
    let mut open: Vec<TcpStream> = Vec::new();
    Box::new(move |number| {
        if let Ok(mut stream) = connect_from(target.from, target.port) {
            let _ = stream.write_all(if number % 2 == 0 {
                b"P"
            } else {
                b"POST / HTTP/1.1\r\ncontent-length: 99999\r\n\r\n{"
            });
            open.push(stream);
        }
        if open.len() > 300 {
            open.remove(0);
        }
    })
}

/// The sender is named by the short form of a did:peer:4 that nobody has seen. There is no cryptography in these.
fn unresolvable_senders(target: Target) -> Box<dyn FnMut(u64) + Send> {
    Box::new(move |number| {
        let skid = format!("did:peer:4zQm{}#key-1", base58_digits(number));
        target.post(&without_cryptography(&target, &skid).to_string());
    })
}

/// The sender's document is in its DID, and valid. The tag is not.
fn broken_tags(target: Target) -> Box<dyn FnMut(u64) + Send> {
    let key = PrivateKey::generate(Curve::X25519);
    Box::new(move |number| {
        let document = json!({
            "verificationMethod": [{
                "id": "#key-1", "type": "Multikey", "publicKeyMultibase": key.public().to_multikey(),
            }],
            "keyAgreement": ["#key-1"],
            "service": [{"id": "#s", "type": "DIDCommMessaging", "serviceEndpoint": {"uri": format!("https://example.org/{number}")}}],
        });
        let skid = format!("{}#key-1", create_4(&document).unwrap().long.id());
        target.post(&without_cryptography(&target, &skid).to_string());
    })
}

/// Sends what an honest peer has sent, and waits for messages on the connection.
fn replayed(target: Target, captured: String) -> Box<dyn FnMut(u64) + Send> {
    Box::new(move |number| {
        let changed = format!("{captured}{}", " ".repeat(usize::try_from(number % 1000 + 1).unwrap()));
        if number % 2 == 0 {
            return target.post(&changed);
        }
        let Ok(stream) = connect_from(target.from, target.port) else { return };
        let mut socket = WebSocketClient::over(stream, target.port);
        if socket.send(&changed).is_ok() {
            let stolen = socket.next(Duration::from_millis(300));
            assert!(
                stolen.is_none_or(|text| text.contains("problem-report")),
                "the attacker got a message of the honest peer"
            );
        }
    })
}

/// Anonymous envelopes whose content is an envelope for somebody else.
fn for_others(target: Target) -> Box<dyn FnMut(u64) + Send> {
    let (mallory, other) = (Peer::new("mallory"), Peer::new("other"));
    let inner = mallory.pack_text(other.did(), "not for you");
    Box::new(move |_| target.post(&Jwe::anoncrypt(&target.keys).seal(&inner).to_string()))
}

fn closed_endpoints(target: Target) -> Box<dyn FnMut(u64) + Send> {
    let port = free_port();
    Box::new(move |number| ping(&target, &format!("http://127.0.0.1:{port}/{number}")))
}

/// The endpoint accepts connections, and never answers.
fn silent_endpoints(target: Target) -> Box<dyn FnMut(u64) + Send> {
    let listener = TcpListener::bind(("127.0.3.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            open.push(stream);
            if open.len() > 1000 {
                open.clear();
            }
        }
    });
    Box::new(move |number| ping(&target, &format!("http://127.0.3.1:{port}/{number}")))
}

/// The endpoint is the webhook of the operator.
fn webhook_endpoints(target: Target, port: u16) -> Box<dyn FnMut(u64) + Send> {
    Box::new(move |_| ping(&target, &Operator::webhook_uri(port)))
}

/// A valid message of a new peer, which requests an answer at this endpoint.
fn ping(target: &Target, endpoint: &str) {
    let peer = Peer::with_endpoint("stranger", endpoint);
    let message = Message::build(Message::new_id(), PING, json!({"response_requested": true}))
        .from(peer.did())
        .to(&target.did)
        .created_time(seconds())
        .finalize();
    target.post(&peer.pack(&message));
}

/// Valid messages just below the limit of size. Each value of the body takes more room in memory than in the message.
fn small_values(target: Target) -> Box<dyn FnMut(u64) + Send> {
    let mallory = Peer::new("mallory");
    Box::new(move |_| {
        let mut message = mallory.message(&target.did, "").finalize();
        message.body = json!({"values": vec![0; 330_000]});
        target.post(&mallory.pack(&message));
    })
}

/// Valid messages, each of a new sender.
fn large_messages(target: Target) -> Box<dyn FnMut(u64) + Send> {
    let content = "x".repeat(500_000);
    Box::new(move |_| target.post(&Peer::new("stranger").pack_text(&target.did, &content)))
}

/// A well-formed authcrypt envelope for the target. Nothing in it is encrypted or authentic.
fn without_cryptography(target: &Target, skid: &str) -> Value {
    let mut jwe = Jwe::anoncrypt(&target.keys[..1]);
    jwe.header["alg"] = "ECDH-1PU+A256KW".into();
    jwe.header["skid"] = skid.into();
    jwe.header["apu"] = b64(skid).into();
    json!({
        "protected": b64(jwe.header.to_string()),
        "recipients": [{"header": jwe.recipients[0].header, "encrypted_key": b64([7; 72])}],
        "iv": b64([7; 16]),
        "ciphertext": b64([7; 256]),
        "tag": b64([7; 32]),
    })
}

/// A number as 44 digits of base 58, the length of a SHA-256 multihash behind `zQm`.
fn base58_digits(mut number: u64) -> String {
    const DIGITS: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    let mut digits = vec!['V'; 44];
    for digit in digits.iter_mut().rev().take(11) {
        *digit = DIGITS[usize::try_from(number % 58).unwrap()].into();
        number /= 58;
    }
    digits.into_iter().collect()
}
