//! What a receiver must survive, sent to a daemon that runs: each is refused before it is kept, or let go of when it is opened;
//! none reaches the application, and the daemon goes on. That each is refused for its own reason, the suites `hostile*` say.

use std::{
    net::TcpListener,
    sync::Arc,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use claviger::{
    did::{Document, Relationship},
    keys::{Curve, PublicKey},
};
use serde_json::{Value, json};

use crate::{
    daemon::Daemon,
    people::{
        Person,
        forge::{self, Jwe, b64},
    },
};

const BASIC: &str = "https://didcomm.org/basicmessage/2.0/message";

/// A daemon, and two with keys in software whom it can look up.
struct Stage {
    daemon: Daemon,
    alice: Person,
    mallory: Person,
    /// The daemon's keys to encrypt to, by their ids.
    to: Vec<(String, PublicKey)>,
}

impl Stage {
    async fn new() -> Option<Self> {
        let mut daemon = Daemon::new("")?;
        let person = |name| Person::new(name, &[Curve::X25519], &[Curve::Ed25519]);
        let (alice, mallory) = (person("alice").await, person("mallory").await);
        std::fs::create_dir(daemon.home.path().join("people")).unwrap();
        for person in [&alice, &mallory] {
            let name = person.did.rsplit(':').next().unwrap();
            daemon.home.write(&format!("people/{name}.json"), &person.document.as_value().to_string());
        }
        let configuration = std::fs::read_to_string(daemon.home.path().join("claviger.toml")).unwrap();
        daemon.home.write("claviger.toml", &format!("{configuration}\n[did]\ndocuments = [\"people\"]\n"));
        daemon.start();
        let document = daemon.json(&["did", "resolve", &daemon.did]);
        let document = Document::from_value(document).unwrap();
        let methods = document.methods(Relationship::KeyAgreement);
        let to = methods.map(|method| (method.id.clone(), method.key.clone().unwrap())).collect();
        Some(Self { daemon, alice, mallory, to })
    }

    /// A message of Alice's, in the clear.
    fn message(&self, text: &str) -> Value {
        json!({
            "id": format!("id-{text}"), "typ": "application/didcomm-plain+json", "type": BASIC,
            "from": self.alice.did, "to": [self.daemon.did], "created_time": now(), "body": { "content": text },
        })
    }

    fn authcrypt(&self) -> Jwe {
        Jwe::authcrypt(&self.alice, &self.to)
    }

    /// Sent, and answered with this status.
    #[track_caller]
    fn send(&self, what: &str, packed: &Value, status: u16) {
        let answer = self.daemon.post(packed.to_string().as_bytes());
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {answer}");
    }

    /// All that came has been opened, or let go of; these texts, and no others, reached the application.
    #[track_caller]
    fn reached(&self, wanted: &[&str]) {
        self.daemon.until("all is opened", |daemon| daemon.figure("claviger_waiting{queue=\"inbox\"}") == 0.0);
        let mut texts = self.daemon.texts();
        texts.sort();
        assert_eq!(texts, wanted);
    }
}

pub fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// Seen without a key: refused, and nothing is kept.
#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_seen_is_refused_before_it_is_kept() {
    let Some(stage) = Stage::new().await else { return };
    let plain = stage.message("x");
    stage.send("an honest one", &stage.authcrypt().seal(stage.message("honest").to_string()), 202);

    type Change = fn(&mut Jwe);
    let changes: [(&str, Change); 12] = [
        ("none", |jwe| jwe.header["alg"] = "none".into()),
        ("PBES2", |jwe| jwe.header["alg"] = "PBES2-HS512+A256KW".into()),
        ("another enc", |jwe| jwe.header["enc"] = "A128CBC-HS256".into()),
        ("authcrypt with GCM", |jwe| jwe.header["enc"] = "A256GCM".into()),
        ("crit", |jwe| jwe.header["crit"] = json!(["exp"])),
        ("zip", |jwe| jwe.header["zip"] = "DEF".into()),
        ("p2c", |jwe| jwe.header["p2c"] = 2_000_000_000_u32.into()),
        ("apu of another", |jwe| jwe.header["apu"] = b64("did:example:mallory#agree-1").into()),
        ("apv of others", |jwe| jwe.header["apv"] = b64([7; 32]).into()),
        ("no epk", |jwe| jwe.header["epk"] = Value::Null),
        ("an epk of low order", |jwe| jwe.header["epk"]["x"] = b64([0; 32]).into()),
        ("an epk that is none", |jwe| jwe.header["epk"]["x"] = "AAAA".into()),
    ];
    for (what, change) in changes {
        let mut jwe = stage.authcrypt();
        change(&mut jwe);
        stage.send(what, &jwe.seal(plain.to_string()), 400);
    }
    // An epk off its curve; and on another than our key's.
    let mut off = stage.authcrypt();
    off.header["epk"] = json!({"kty": "EC", "crv": "P-256", "x": b64([1; 32]), "y": b64([2; 32])});
    stage.send("an epk off its curve", &off.seal(plain.to_string()), 400);
    let mut flood = stage.authcrypt().seal(plain.to_string());
    flood["recipients"] = (0..101)
        .map(|n| json!({"header": {"kid": format!("did:example:x#{n}")}, "encrypted_key": b64([0; 72])}))
        .collect();
    stage.send("a flood of recipients", &flood, 400);
    let mut padded = stage.authcrypt().seal(plain.to_string());
    padded["tag"] = format!("{}=", padded["tag"].as_str().unwrap()).into();
    stage.send("padded base64", &padded, 400);
    let twice = stage.authcrypt().seal(plain.to_string()).to_string().replacen('{', "{\"tag\":\"AAAA\",", 1);
    assert!(stage.daemon.post(twice.as_bytes()).starts_with("HTTP/1.1 400"), "a member that stands twice");

    stage.send("a plaintext", &plain, 400);
    stage.send("signed and nothing else", &forge::signed(&stage.alice, plain.to_string()), 400);
    let other = Jwe::authcrypt(&stage.alice, &[(stage.mallory.kid("agree-1"), stage.mallory.agree[0].clone())]);
    stage.send("for someone else", &other.seal(plain.to_string()), 404);
    assert!(stage.daemon.post(b"{}").starts_with("HTTP/1.1 400"));
    assert!(stage.daemon.post(b"\xff\xfe").starts_with("HTTP/1.1 400"));
    assert!(stage.daemon.post(&vec![b'['; 900_000]).starts_with("HTTP/1.1 400"), "deep nesting");
    assert!(stage.daemon.post_as("application/json", b"{}").starts_with("HTTP/1.1 415"));
    assert!(stage.daemon.post(&vec![b' '; 1_000_001]).starts_with("HTTP/1.1 413"));
    stage.reached(&["honest"]);
}

/// Seen with a key only: taken over, and let go of.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_opened_and_wrong_reaches_nobody() {
    let Some(stage) = Stage::new().await else { return };
    let seal = |jwe: Jwe, message: &Value| jwe.seal(message.to_string());
    let with = |text: &str, member: &str, value: Value| {
        let mut message = stage.message(text);
        message[member] = value;
        message
    };
    let mallory = || Jwe::authcrypt(&stage.mallory, &stage.to);
    stage.send("from another", &seal(mallory(), &stage.message("spoofed")), 202);
    stage.send("to another", &seal(stage.authcrypt(), &with("to", "to", json!([stage.mallory.did]))), 202);
    stage.send("no id", &seal(stage.authcrypt(), &with("no id", "id", Value::Null)), 202);
    stage.send("expired", &seal(stage.authcrypt(), &with("expired", "expires_time", json!(now() - 3600))), 202);
    stage.send("too old", &seal(stage.authcrypt(), &with("old", "created_time", json!(now() - 40 * 86400))), 202);
    // A key that does not stand in keyAgreement: of the sender's document there is none such.
    let sign = stage.alice.kid("sign-1");
    let jwe = Jwe::authcrypt_as(&stage.alice, &sign, &stage.alice.agree[0], &stage.to);
    stage.send("a key outside its relationship", &seal(jwe, &stage.message("outside")), 202);
    // Signed by Mallory for Alice, and encrypted by nobody.
    let kid = json!({"kid": stage.mallory.kid("sign-1")});
    let header = forge::jws_header(Curve::Ed25519);
    let jws = forge::jws(&stage.mallory, &stage.mallory.sign[0], &header, &kid, stage.message("signed").to_string());
    stage.send("signed by another", &seal(Jwe::anoncrypt(&stage.to), &jws), 202);
    // A bomb of nested envelopes, and a forward to us in a forward to us.
    let mut nested = seal(stage.authcrypt(), &stage.message("nested"));
    for _ in 0..3 {
        nested = seal(stage.authcrypt(), &nested);
    }
    stage.send("nested", &nested, 202);
    let forward = |inner: &Value| {
        json!({
            "id": "f", "type": "https://didcomm.org/routing/2.0/forward", "to": [stage.daemon.did],
            "body": { "next": stage.daemon.did }, "attachments": [{ "data": { "json": inner } }],
        })
    };
    let inner = seal(stage.authcrypt(), &stage.message("forwarded"));
    let once = seal(Jwe::anoncrypt(&stage.to), &forward(&inner));
    let again = seal(stage.authcrypt(), &stage.message("looped"));
    let again = seal(Jwe::anoncrypt(&stage.to), &forward(&seal(Jwe::anoncrypt(&stage.to), &forward(&again))));
    stage.send("a forward to us", &once, 202);
    stage.send("a loop of forwards", &again, 202);
    // A tag that is wrong, and a wrapped key that is another's.
    let mut broken = seal(stage.authcrypt(), &stage.message("broken"));
    broken["ciphertext"] = b64([9; 64]).into();
    stage.send("another ciphertext", &broken, 202);
    stage.send("an honest one", &seal(stage.authcrypt(), &stage.message("honest")), 202);
    stage.reached(&["forwarded", "honest"]);
    assert!(!stage.daemon.log().contains("panicked"));
}

/// Once is once: the same bytes, the same message in another envelope; and an anonymous id spoils nobody's.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_handled_twice() {
    let Some(stage) = Stage::new().await else { return };
    let first = stage.authcrypt().seal(stage.message("once").to_string());
    for _ in 0..3 {
        stage.send("the same bytes", &first, 202);
    }
    stage.send("another envelope", &stage.authcrypt().seal(stage.message("once").to_string()), 202);
    let mut upper = stage.message("once");
    upper["id"] = "ID-ONCE".into();
    stage.send("another spelling of its id", &stage.authcrypt().seal(upper.to_string()), 202);
    // Mallory uses Alice's next id, anonymously and as himself.
    let mut poison = stage.message("poisoned");
    poison["id"] = "id-next".into();
    stage.send("anonymous", &Jwe::anoncrypt(&stage.to).seal(poison.to_string()), 202);
    poison["from"] = stage.mallory.did.clone().into();
    stage.send("his own", &Jwe::authcrypt(&stage.mallory, &stage.to).seal(poison.to_string()), 202);
    stage.send("Alice's", &stage.authcrypt().seal(stage.message("next").to_string()), 202);
    stage.reached(&["next", "once", "poisoned"]);
}

/// A sender's DID leads to no server that the operator has not allowed, and no document is another's.
#[tokio::test(flavor = "multi_thread")]
async fn no_did_leads_inside() {
    let Some(stage) = Stage::new().await else { return };
    let inside = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = inside.local_addr().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    thread::spawn(move || {
        inside.incoming().for_each(|_| {
            count.fetch_add(1, Ordering::Relaxed);
        })
    });
    // The daemon of the tests may connect to 127.0.0.0/8; what stands for it in another way it may not.
    for host in ["%5B%3A%3A1%5D", "169.254.169.254", "10.0.0.1", "0.0.0.0"] {
        let did = format!("did:web:{host}%3A{port}");
        let mut message = stage.message(host);
        message["from"] = did.clone().into();
        let skid = format!("{did}#agree-1");
        let jwe = Jwe::authcrypt_as(&stage.alice, &skid, &stage.alice.agree[0], &stage.to);
        let answer = stage.daemon.post(jwe.seal(message.to_string()).to_string().as_bytes());
        assert!(answer.starts_with("HTTP/1.1 202") || answer.starts_with("HTTP/1.1 400"), "{host}: {answer}");
    }
    stage.send("an honest one", &stage.authcrypt().seal(stage.message("honest").to_string()), 202);
    stage.daemon.until("it came", |daemon| daemon.texts() == ["honest"]);
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}
