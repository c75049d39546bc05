//! Invalid envelopes are refused in the response to the POST (`docs/security-model.md`): the token is not used, and
//! nothing is stored. `hostile_messages.rs` has the messages whose fault shows only when they are opened.

use claviger::{crypto::ContentEncryption, keys::Curve};
use claviger_testkit::PrivateKey;
use serde_json::{Value, json};

use crate::{
    daemon::{Daemon, http},
    peer::{AGREE, Peer, keys_of},
    support::forge::{Jwe, b64},
};

/// A daemon, and Mallory, who attacks it.
struct Attack {
    daemon: Daemon,
    mallory: Peer,
}

impl Attack {
    fn new() -> Option<Self> {
        Some(Self { daemon: Daemon::running("")?, mallory: Peer::new("mallory") })
    }

    /// A valid authcrypt message, to be made invalid.
    fn jwe(&self) -> Jwe {
        self.mallory.authcrypt(&self.daemon.agreement_keys())
    }

    fn seal(&self, jwe: &Jwe) -> Value {
        jwe.seal(self.mallory.plaintext(&self.daemon.did, "no").to_string())
    }

    #[track_caller]
    fn assert_status(&self, status: u16, what: &str, packed: impl ToString) {
        assert_eq!(self.daemon.post_status(packed), status, "{what}");
    }

    /// Asserts that the daemon still works, and that it stored none of the earlier messages.
    fn assert_unharmed(&self) {
        assert_eq!(self.daemon.post_status(self.mallory.pack_text(&self.daemon.did, "lunch?")), 202);
        self.daemon.wait_until("the honest message arrived", |daemon| daemon.unread_texts() == ["lunch?"]);
        for refused in ["message refused", "WARN message not accepted"] {
            assert!(!self.daemon.log().contains(refused), "{}", self.daemon.log());
        }
        assert!(!self.daemon.log().contains("panicked"), "{}", self.daemon.log());
        self.daemon.wait_until_all_opened();
    }
}

#[test]
fn an_invalid_epk_is_refused() {
    let Some(attack) = Attack::new() else { return };
    let p256 = attack.daemon.home.create_did("--method key");
    let mut low = attack.jwe();
    for point in [[0; 32], std::array::from_fn(|at| u8::from(at == 0))] {
        low.header["epk"]["x"] = b64(point).into();
        low.ze = Some(vec![0; 32]);
        attack.assert_status(400, "low order", attack.seal(&low));
    }
    for (member, value) in [
        ("x", json!("AAA=")),
        ("x", json!(b64([1; 31]))),
        ("x", json!(1)),
        ("kty", json!("EC")),
        ("crv", json!("Ed25519")),
        ("crv", json!("secp256k1")),
    ] {
        let mut jwe = attack.jwe();
        jwe.header["epk"][member] = value.clone();
        attack.assert_status(400, &format!("epk.{member} = {value}"), attack.seal(&jwe));
    }
    attack.assert_status(400, "no epk", attack.seal(&attack.jwe().without("epk")));
    let mut other = attack.jwe();
    other.header["epk"] = json!(PrivateKey::generate(Curve::P256).public().to_jwk());
    attack.assert_status(400, "epk on another curve", attack.seal(&other));
    // The point is not on the curve, and the recipient is not one of our DIDs.
    let mut off = Jwe::anoncrypt(&keys_of(&p256));
    let length = Curve::P256.coordinate_length();
    for (x, y) in [(vec![0; length], vec![0; length]), (vec![1; length], vec![1; length])] {
        off.header["epk"]["x"] = b64(x).into();
        off.header["epk"]["y"] = b64(y).into();
        attack.assert_status(400, "not on the curve", off.seal("{}"));
    }
    attack.assert_unharmed();
}

#[test]
fn unknown_algorithms_and_repeated_headers_are_refused() {
    let Some(attack) = Attack::new() else { return };
    for alg in ["none", "dir", "ECDH-ES", "ECDH-1PU+A128KW", "PBES2-HS512+A256KW", "RSA-OAEP", ""] {
        let mut jwe = attack.jwe();
        jwe.header["alg"] = alg.into();
        attack.assert_status(400, alg, attack.seal(&jwe));
    }
    for enc in ["none", "A128CBC-HS256", "A128GCM", "a256gcm", ""] {
        let mut jwe = attack.jwe();
        jwe.header["enc"] = enc.into();
        attack.assert_status(400, enc, attack.seal(&jwe));
    }
    // Authcrypt allows A256CBC-HS512 only.
    attack.assert_status(400, "authcrypt with A256GCM", attack.seal(&attack.jwe().enc(ContentEncryption::A256Gcm)));
    for (name, value) in [("crit", json!(["exp"])), ("zip", json!("DEF")), ("p2c", json!(2_000_000_000))] {
        let mut protected = attack.jwe();
        protected.header[name] = value.clone();
        let mut recipient = attack.jwe();
        recipient.recipients[0].header[name] = value.clone();
        let mut unprotected = attack.jwe();
        unprotected.unprotected = Some(json!({name: value}));
        for jwe in [protected, recipient, unprotected] {
            attack.assert_status(400, name, attack.seal(&jwe));
        }
    }
    for name in ["alg", "enc", "apu", "apv", "skid", "epk"] {
        let mut twice = attack.jwe();
        twice.recipients[0].header[name] = twice.header[name].clone();
        attack.assert_status(400, name, attack.seal(&twice));
    }
    attack.assert_unharmed();
}

#[test]
fn contradicting_apu_apv_and_skid_are_refused() {
    let Some(attack) = Attack::new() else { return };
    let stranger = Peer::new("stranger");
    for name in ["apu", "skid"] {
        let mut other = attack.jwe();
        let kid = stranger.kid(AGREE[0]);
        other.header[name] = if name == "apu" { b64(kid).into() } else { kid.into() };
        attack.assert_status(400, name, attack.seal(&other));
    }
    let mut apv = attack.jwe();
    apv.header["apv"] = b64([0; 32]).into();
    attack.assert_status(400, "apv", attack.seal(&apv));
    attack.assert_status(400, "no apv", attack.seal(&attack.jwe().without("apv")));
    attack.assert_status(400, "no apu", attack.seal(&attack.jwe().without("apu")));
    // The apv covers all recipients, so none can be added.
    let mut added = attack.jwe();
    added.recipients.extend(Jwe::anoncrypt(&keys_of(stranger.did())[..1]).recipients);
    attack.assert_status(400, "a recipient added", attack.seal(&added));
    let mut anoncrypt = Jwe::anoncrypt(&attack.daemon.agreement_keys());
    anoncrypt.header["skid"] = attack.mallory.kid(AGREE[0]).into();
    attack.assert_status(400, "a sender of an anonymous message", attack.seal(&anoncrypt));
    attack.assert_unharmed();
}

#[test]
fn lax_base64url_and_repeated_members_are_refused() {
    let Some(attack) = Attack::new() else { return };
    let packed = attack.seal(&attack.jwe());
    for pointer in ["/protected", "/iv", "/ciphertext", "/tag", "/recipients/0/encrypted_key"] {
        let text = packed.pointer(pointer).unwrap().as_str().unwrap();
        for lax in [format!("{text}="), format!("{text}\n"), format!(" {text}"), format!("{text}+")] {
            let mut packed = packed.clone();
            *packed.pointer_mut(pointer).unwrap() = lax.into();
            attack.assert_status(400, pointer, packed);
        }
    }
    let text = packed.to_string();
    let doubled = |member: &str| format!("{{{member},{}", &text[1..]);
    for member in [r#""tag":"AA""#, r#""recipients":[]"#, r#""t\u0061g":"AA""#] {
        attack.assert_status(400, member, doubled(member));
    }
    let jwe = attack.jwe();
    let header = jwe.header.to_string();
    attack.assert_status(400, "alg twice", jwe.seal_under(&format!(r#"{{"alg":"none",{}"#, &header[1..]), "{}"));
    attack.assert_unharmed();
}

#[test]
fn too_many_recipients_deep_nesting_and_large_bodies_are_refused() {
    let Some(attack) = Attack::new() else { return };
    let stranger = PrivateKey::generate(Curve::X25519);
    let strangers = (0..101).map(|number| (format!("did:example:x#{number}"), stranger.public().clone()));
    let recipients: Vec<_> = attack.daemon.agreement_keys().into_iter().chain(strangers).collect();
    attack.assert_status(400, "102 recipients", Jwe::anoncrypt(&recipients).seal("{}"));
    let deep = format!("{}{}", "[".repeat(400_000), "]".repeat(400_000));
    attack.assert_status(400, "nested", &deep);
    attack.assert_status(400, "nested in it", format!(r#"{{"ciphertext":{deep}}}"#));
    let jwe = attack.jwe();
    let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
    let header = jwe.header.to_string().replacen('{', &format!(r#"{{"x":{deep},"#), 1);
    attack.assert_status(400, "nested in the header", jwe.seal_under(&header, "{}"));

    attack.assert_status(413, "too large", "x".repeat(1_000_001));
    // The daemon does not read a body that it will refuse.
    let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-type: application/didcomm-encrypted+json\r\n";
    let response = http(attack.daemon.port, &format!("{head}content-length: 10000000000\r\n\r\n"), b"");
    assert!(response.starts_with("HTTP/1.1 413"), "{response}");
    let mut chunks = Vec::new();
    for _ in 0..20 {
        chunks.extend(b"186a0\r\n");
        chunks.extend([b' '; 100_000]);
        chunks.extend(b"\r\n");
    }
    let response = http(attack.daemon.port, &format!("{head}transfer-encoding: chunked\r\n\r\n"), &chunks);
    assert!(response.starts_with("HTTP/1.1 413"), "{response}");
    attack.assert_unharmed();
}

#[test]
fn only_messages_encrypted_for_us_are_accepted() {
    let Some(attack) = Attack::new() else { return };
    let plain = attack.mallory.plaintext(&attack.daemon.did, "no").to_string();
    attack.assert_status(400, "plaintext", &plain);
    attack.assert_status(400, "signed", attack.mallory.signed(&plain));
    for junk in ["", "{}", "null", "hello", "e30.AA.AA.AA.AA", "\u{0}"] {
        attack.assert_status(400, junk, junk);
    }
    assert!(attack.daemon.post(&[0xff, 0xfe]).starts_with("HTTP/1.1 400"));
    let stranger = Peer::new("stranger");
    attack.assert_status(404, "for another", attack.mallory.authcrypt(&keys_of(stranger.did())[..1]).seal(&plain));
    // Our DID, with the id of a signing key, and of no key.
    let key = attack.daemon.agreement_keys()[0].1.clone();
    for fragment in ["key-2", "key-9"] {
        let to = [(format!("{}#{fragment}", attack.daemon.did), key.clone())];
        let status = attack.daemon.post_status(attack.mallory.authcrypt(&to).seal(&plain));
        assert_eq!(status, 404, "{fragment} of {}", attack.daemon.did);
    }
    let packed = attack.mallory.pack_text(&attack.daemon.did, "no");
    for kind in
        ["application/json", "text/plain", "application/didcomm-plain+json", "application/didcomm-signed+json", ""]
    {
        assert!(attack.daemon.post_as(kind, packed.as_bytes()).starts_with("HTTP/1.1 415"), "{kind}");
    }
    let put = format!("PUT / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", packed.len());
    assert!(http(attack.daemon.port, &put, packed.as_bytes()).starts_with("HTTP/1.1 405"));
    let honest = attack.mallory.pack_text(&attack.daemon.did, "with a parameter");
    let kind = "Application/DIDComm-Encrypted+JSON; charset=utf-8";
    assert!(attack.daemon.post_as(kind, honest.as_bytes()).starts_with("HTTP/1.1 202"));
    attack.daemon.wait_until("the message arrived", |daemon| daemon.unread_texts() == ["with a parameter"]);
}
