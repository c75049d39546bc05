//! Senders whose documents are on a server that a stranger chose (did:web): where the daemon asks, and what it believes.

use serde_json::{Value, json};

use crate::{
    daemon::Daemon,
    endpoint::{Endpoint, Response},
    peer::{Peer, seconds},
    support::forge::{Jwe, b64},
};

/// The tests' own servers have no certificate.
fn plain(endpoint: &Endpoint) -> String {
    format!("did_web_plain_http_for = [\"localhost:{0}\", \"127.0.0.1:{0}\"]", endpoint.port)
}

/// A daemon with a `[net]` of the test's own.
fn running(net: &str) -> Option<Daemon> {
    let mut daemon = Daemon::with_config("", net)?;
    daemon.start();
    Some(daemon)
}

/// Authcrypt by a peer's first key under a DID and a `skid` of its choice.
fn under(peer: &Peer, did: &str, skid: &str, daemon: &Daemon, content: &str) -> Value {
    let mut text = peer.plaintext(&daemon.did, content);
    text["from"] = did.into();
    Jwe::authcrypt_as(&peer.person, skid, &peer.person.agree[0], &daemon.agreement_keys()).seal(text.to_string())
}

/// No address inside the operator's network is connected to, whatever name leads there.
#[test]
fn private_addresses_are_never_connected_to() {
    let target = Endpoint::new(|_| (200, String::new(), "{}".to_owned()));
    let more = format!("[net]\nallow_private = []\n{}\n", plain(&target));
    let Some(daemon) = running(&more) else { return };
    let (mallory, port) = (Peer::new("mallory"), target.port);
    let numbers = ["127.0.0.1", "127.1", "0x7f000001", "2130706433", "0.0.0.0", "10.0.0.1", "169.254.169.254"];
    for host in numbers.into_iter().chain(["localhost", "%5B%3A%3A1%5D", "%5B%3A%3Affff%3A127.0.0.1%5D"]) {
        let did = format!("did:web:{host}%3A{port}");
        assert_eq!(daemon.post_status(under(&mallory, &did, &format!("{did}#k"), &daemon, "no")), 202, "{host}");
    }
    // Nor for a signature within, nor for where to send.
    let did = format!("did:web:localhost%3A{port}");
    let key = &mallory.person.sign[0];
    let header = crate::support::forge::jws_header(key.curve());
    let text = mallory.plaintext(&daemon.did, "no").to_string();
    let signed = crate::support::forge::jws(&mallory.person, key, &header, &json!({"kid": format!("{did}#k")}), &text);
    assert_eq!(daemon.post_status(Jwe::anoncrypt(&daemon.agreement_keys()).seal(signed.to_string())), 202);
    let id = daemon.send_text(&did, "no").unwrap();
    let inside = Peer::with_endpoint("inside", &target.uri());
    let direct = daemon.send_text(inside.did(), "no").unwrap();
    daemon.wait_until("both were tried", |daemon| {
        [&id, &direct]
            .iter()
            .all(|id| daemon.outbox_message(id)["tries"] != 0 || daemon.outbox_message(id)["state"] != "waiting")
    });
    assert_eq!(daemon.post_status(mallory.pack_text(&daemon.did, "lunch?")), 202);
    daemon.wait_until("the daemon goes on", |daemon| daemon.unread_texts() == ["lunch?"]);
    assert_eq!(target.connections(), 0);
}

/// A document is believed about the DID that was asked for and no other, and gives keys only what they are for.
#[test]
fn only_a_valid_document_of_the_requested_did_is_used() {
    let (alice, mallory) = (Peer::new("alice"), Peer::new("mallory"));
    let key = |peer: &Peer| json!(peer.person.agree[0].to_jwk());
    let (hers, mine) = (key(&alice), key(&mallory));
    let victim = alice.did().to_owned();
    let server = Endpoint::new(move |asked| {
        let host = format!("did:web:{}", asked.host.replace(':', "%3A"));
        let name = asked.path.trim_start_matches('/').trim_end_matches("/did.json").to_owned();
        let did = format!("{host}:{name}");
        let document = |id: &str, relationship: &str, method: &str, jwk: &Value| json!({"id": id, relationship: [{"id": method, "type": "JsonWebKey2020", "controller": id, "publicKeyJwk": jwk}]});
        let sound = document(&did, "keyAgreement", "#k", &hers);
        let found = match name.as_str() {
            "sound" => sound,
            // Another's document, or a document of another.
            "victim" => document(&victim, "keyAgreement", "#k", &mine),
            "other" => document(&format!("{host}:sound"), "keyAgreement", "#k", &mine),
            "signs" => document(&did, "authentication", "#k", &mine),
            // A method that is named as if it were another DID's.
            "foreign" => document(&did, "keyAgreement", &format!("{victim}#key-1"), &mine),
            "low" => document(&did, "keyAgreement", "#k", &json!({"kty": "OKP", "crv": "X25519", "x": b64([0; 32])})),
            "twice" => {
                let text = sound.to_string();
                return ok(format!(r#"{{"id":"did:example:x",{}"#, &text[1..]));
            }
            "huge" => return ok(format!("{}{}", sound, " ".repeat(1_000_000))),
            "deep" => return ok(format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))),
            "elsewhere" => return (302, "location: /sound/did.json\r\n".to_owned(), String::new()),
            _ => return (404, String::new(), String::new()),
        };
        ok(found.to_string())
    });
    let more = format!("[net]\nallow_private = [\"127.0.0.0/8\"]\n{}\n", plain(&server));
    let Some(daemon) = running(&more) else { return };
    let did = |name: &str| format!("did:web:localhost%3A{}:{name}", server.port);
    let send = |peer: &Peer, name: &str, skid: &str| {
        let packed = under(peer, &did(name), &format!("{}{skid}", did(name)), &daemon, name);
        assert_eq!(daemon.post_status(packed), 202, "{name}");
    };
    for name in ["victim", "other", "signs", "foreign", "low", "twice", "huge", "deep", "elsewhere", "absent"] {
        send(&mallory, name, "#k");
    }
    // Its server was asked, and does not speak for the victim.
    let skid = format!("{}#key-1", alice.did());
    assert_eq!(daemon.post_status(under(&mallory, alice.did(), &skid, &daemon, "as Alice")), 202);
    send(&alice, "sound", "#k");
    daemon.wait_until("the sound one came", |daemon| daemon.unread_texts() == ["sound"]);
    assert_eq!(daemon.unread()[0]["sender"], did("sound"));
    // What is known is not asked for again with each message.
    let asked = server.requests().len();
    for number in 0..20 {
        let mut text = alice.plaintext(&daemon.did, &format!("more {number} {}", seconds()));
        text["from"] = did("sound").into();
        let skid = format!("{}#k", did("sound"));
        let packed = Jwe::authcrypt_as(&alice.person, &skid, &alice.person.agree[0], &daemon.agreement_keys());
        assert_eq!(daemon.post_status(packed.seal(text.to_string())), 202);
    }
    daemon.wait_until("they came", |daemon| daemon.unread_texts().len() == 21);
    let sound = server.requests()[asked..].iter().filter(|asked| asked.path.contains("sound")).count();
    assert_eq!(sound, 0);
}

fn ok(body: String) -> Response {
    (200, "content-type: application/did+json\r\n".to_owned(), body)
}
