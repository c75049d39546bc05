//! What is refused at the door (threats.md): it costs no token, nothing of it is kept, and the peer is told at once.

use claviger::{crypto::ContentEncryption, keys::Curve};
use claviger_testkit::PrivateKey;
use serde_json::{Value, json};

use crate::{
    daemon::{Daemon, http},
    peer::{AGREE, Peer, keys_of},
    support::forge::{Jwe, b64},
};

/// A daemon, Mallory, and the end that each of these tests has.
struct Door {
    daemon: Daemon,
    mallory: Peer,
}

impl Door {
    fn new() -> Option<Self> {
        Some(Self { daemon: Daemon::running("")?, mallory: Peer::new("mallory") })
    }

    /// An authcrypt message, sound as it is.
    fn jwe(&self) -> Jwe {
        self.mallory.authcrypt(&self.daemon.keys())
    }

    fn seal(&self, jwe: &Jwe) -> Value {
        jwe.seal(self.mallory.plaintext(&self.daemon.did, "no").to_string())
    }

    #[track_caller]
    fn refuses(&self, status: u16, what: &str, packed: impl ToString) {
        assert_eq!(self.daemon.status(packed), status, "{what}");
    }

    /// The daemon goes on, and has kept nothing of what came before.
    fn goes_on(&self) {
        assert_eq!(self.daemon.status(self.mallory.says(&self.daemon.did, "lunch?")), 202);
        self.daemon.until("the honest message came", |daemon| daemon.texts() == ["lunch?"]);
        for refused in ["message refused", "WARN message not accepted"] {
            assert!(!self.daemon.log().contains(refused), "{}", self.daemon.log());
        }
        assert!(!self.daemon.log().contains("panicked"), "{}", self.daemon.log());
        self.daemon.settles();
    }
}

#[test]
fn an_epk_is_checked_at_the_door() {
    let Some(door) = Door::new() else { return };
    let p256 = door.daemon.home.did("--method key");
    let mut low = door.jwe();
    for point in [[0; 32], std::array::from_fn(|at| u8::from(at == 0))] {
        low.header["epk"]["x"] = b64(point).into();
        low.ze = Some(vec![0; 32]);
        door.refuses(400, "low order", door.seal(&low));
    }
    for (member, value) in [
        ("x", json!("AAA=")),
        ("x", json!(b64([1; 31]))),
        ("x", json!(1)),
        ("kty", json!("EC")),
        ("crv", json!("Ed25519")),
        ("crv", json!("secp256k1")),
    ] {
        let mut jwe = door.jwe();
        jwe.header["epk"][member] = value.clone();
        door.refuses(400, &format!("epk.{member} = {value}"), door.seal(&jwe));
    }
    door.refuses(400, "no epk", door.seal(&door.jwe().without("epk")));
    let mut other = door.jwe();
    other.header["epk"] = json!(PrivateKey::generate(Curve::P256).public().to_jwk());
    door.refuses(400, "epk on another curve", door.seal(&other));
    // Off the curve, whoever it is for.
    let mut off = Jwe::anoncrypt(&keys_of(&p256));
    let length = Curve::P256.coordinate_length();
    for (x, y) in [(vec![0; length], vec![0; length]), (vec![1; length], vec![1; length])] {
        off.header["epk"]["x"] = b64(x).into();
        off.header["epk"]["y"] = b64(y).into();
        door.refuses(400, "not on the curve", off.seal("{}"));
    }
    door.goes_on();
}

#[test]
fn headers_are_closed_lists_and_stand_once() {
    let Some(door) = Door::new() else { return };
    for alg in ["none", "dir", "ECDH-ES", "ECDH-1PU+A128KW", "PBES2-HS512+A256KW", "RSA-OAEP", ""] {
        let mut jwe = door.jwe();
        jwe.header["alg"] = alg.into();
        door.refuses(400, alg, door.seal(&jwe));
    }
    for enc in ["none", "A128CBC-HS256", "A128GCM", "a256gcm", ""] {
        let mut jwe = door.jwe();
        jwe.header["enc"] = enc.into();
        door.refuses(400, enc, door.seal(&jwe));
    }
    // Authcrypt has one content encryption.
    door.refuses(400, "authcrypt with A256GCM", door.seal(&door.jwe().enc(ContentEncryption::A256Gcm)));
    for (name, value) in [("crit", json!(["exp"])), ("zip", json!("DEF")), ("p2c", json!(2_000_000_000))] {
        let mut protected = door.jwe();
        protected.header[name] = value.clone();
        let mut recipient = door.jwe();
        recipient.recipients[0].header[name] = value.clone();
        let mut unprotected = door.jwe();
        unprotected.unprotected = Some(json!({name: value}));
        for jwe in [protected, recipient, unprotected] {
            door.refuses(400, name, door.seal(&jwe));
        }
    }
    for name in ["alg", "enc", "apu", "apv", "skid", "epk"] {
        let mut twice = door.jwe();
        twice.recipients[0].header[name] = twice.header[name].clone();
        door.refuses(400, name, door.seal(&twice));
    }
    door.goes_on();
}

#[test]
fn apu_apv_and_skid_agree() {
    let Some(door) = Door::new() else { return };
    let stranger = Peer::new("stranger");
    for name in ["apu", "skid"] {
        let mut other = door.jwe();
        let kid = stranger.kid(AGREE[0]);
        other.header[name] = if name == "apu" { b64(kid).into() } else { kid.into() };
        door.refuses(400, name, door.seal(&other));
    }
    let mut apv = door.jwe();
    apv.header["apv"] = b64([0; 32]).into();
    door.refuses(400, "apv", door.seal(&apv));
    door.refuses(400, "no apv", door.seal(&door.jwe().without("apv")));
    door.refuses(400, "no apu", door.seal(&door.jwe().without("apu")));
    // One who is added later finds the same apv as the others.
    let mut added = door.jwe();
    added.recipients.extend(Jwe::anoncrypt(&keys_of(stranger.did())[..1]).recipients);
    door.refuses(400, "a recipient added", door.seal(&added));
    let mut es = Jwe::anoncrypt(&door.daemon.keys());
    es.header["skid"] = door.mallory.kid(AGREE[0]).into();
    door.refuses(400, "a sender of an anonymous message", door.seal(&es));
    door.goes_on();
}

#[test]
fn spellings_are_strict() {
    let Some(door) = Door::new() else { return };
    let packed = door.seal(&door.jwe());
    for pointer in ["/protected", "/iv", "/ciphertext", "/tag", "/recipients/0/encrypted_key"] {
        let text = packed.pointer(pointer).unwrap().as_str().unwrap();
        for lax in [format!("{text}="), format!("{text}\n"), format!(" {text}"), format!("{text}+")] {
            let mut packed = packed.clone();
            *packed.pointer_mut(pointer).unwrap() = lax.into();
            door.refuses(400, pointer, packed);
        }
    }
    let text = packed.to_string();
    let doubled = |member: &str| format!("{{{member},{}", &text[1..]);
    for member in [r#""tag":"AA""#, r#""recipients":[]"#, r#""t\u0061g":"AA""#] {
        door.refuses(400, member, doubled(member));
    }
    let jwe = door.jwe();
    let header = jwe.header.to_string();
    door.refuses(400, "alg twice", jwe.seal_under(&format!(r#"{{"alg":"none",{}"#, &header[1..]), "{}"));
    door.goes_on();
}

#[test]
fn floods_bombs_and_the_large_are_counted_not_read() {
    let Some(door) = Door::new() else { return };
    let stranger = PrivateKey::generate(Curve::X25519);
    let strangers = (0..101).map(|number| (format!("did:example:x#{number}"), stranger.public().clone()));
    let crowd: Vec<_> = door.daemon.keys().into_iter().chain(strangers).collect();
    door.refuses(400, "102 recipients", Jwe::anoncrypt(&crowd).seal("{}"));
    let deep = format!("{}{}", "[".repeat(400_000), "]".repeat(400_000));
    door.refuses(400, "nested", &deep);
    door.refuses(400, "nested in it", format!(r#"{{"ciphertext":{deep}}}"#));
    let jwe = door.jwe();
    let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
    let header = jwe.header.to_string().replacen('{', &format!(r#"{{"x":{deep},"#), 1);
    door.refuses(400, "nested in the header", jwe.seal_under(&header, "{}"));

    door.refuses(413, "too large", "x".repeat(1_000_001));
    // The daemon does not wait for what it will not take.
    let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-type: application/didcomm-encrypted+json\r\n";
    let said = http(door.daemon.port, &format!("{head}content-length: 10000000000\r\n\r\n"), b"");
    assert!(said.starts_with("HTTP/1.1 413"), "{said}");
    let mut chunks = Vec::new();
    for _ in 0..20 {
        chunks.extend(b"186a0\r\n");
        chunks.extend([b' '; 100_000]);
        chunks.extend(b"\r\n");
    }
    let said = http(door.daemon.port, &format!("{head}transfer-encoding: chunked\r\n\r\n"), &chunks);
    assert!(said.starts_with("HTTP/1.1 413"), "{said}");
    door.goes_on();
}

#[test]
fn only_what_is_encrypted_for_us_is_taken() {
    let Some(door) = Door::new() else { return };
    let plain = door.mallory.plaintext(&door.daemon.did, "no").to_string();
    door.refuses(400, "plaintext", &plain);
    door.refuses(400, "signed", door.mallory.signed(&plain));
    for junk in ["", "{}", "null", "hello", "e30.AA.AA.AA.AA", "\u{0}"] {
        door.refuses(400, junk, junk);
    }
    assert!(door.daemon.post(&[0xff, 0xfe]).starts_with("HTTP/1.1 400"));
    let stranger = Peer::new("stranger");
    door.refuses(404, "for another", door.mallory.authcrypt(&keys_of(stranger.did())[..1]).seal(&plain));
    // Our DID, and a key that it has for signing, or has not.
    let key = door.daemon.keys()[0].1.clone();
    for fragment in ["key-2", "key-9"] {
        let to = [(format!("{}#{fragment}", door.daemon.did), key.clone())];
        let status = door.daemon.status(door.mallory.authcrypt(&to).seal(&plain));
        assert_eq!(status, 404, "{fragment} of {}", door.daemon.did);
    }
    let packed = door.mallory.says(&door.daemon.did, "no");
    for kind in
        ["application/json", "text/plain", "application/didcomm-plain+json", "application/didcomm-signed+json", ""]
    {
        assert!(door.daemon.post_as(kind, packed.as_bytes()).starts_with("HTTP/1.1 415"), "{kind}");
    }
    let put = format!("PUT / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", packed.len());
    assert!(http(door.daemon.port, &put, packed.as_bytes()).starts_with("HTTP/1.1 405"));
    let honest = door.mallory.says(&door.daemon.did, "with a parameter");
    let kind = "Application/DIDComm-Encrypted+JSON; charset=utf-8";
    assert!(door.daemon.post_as(kind, honest.as_bytes()).starts_with("HTTP/1.1 202"));
    door.daemon.until("it came", |daemon| daemon.texts() == ["with a parameter"]);
}
