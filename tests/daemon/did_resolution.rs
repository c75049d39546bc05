//! Senders with a did:web, whose documents are on a server that a stranger chose: which addresses the daemon connects
//! to, and which documents it uses.

use std::{
    collections::HashMap,
    io::Write,
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use claviger::{
    did::{Document, LocalResolver},
    didcomm::{Message, UnpackOptions},
};
use serde_json::{Value, json};

use crate::{
    daemon::Daemon,
    endpoint::{Endpoint, Response, accepted},
    peer::{Peer, block_on, seconds},
    support::{
        forge::{Jwe, b64},
        identities,
    },
    webvh_logs::{Log, key},
};

/// The setting that allows did:web on a server without TLS.
fn allow_plain_http(endpoint: &Endpoint) -> String {
    format!("did_web_plain_http_for = [\"localhost:{0}\", \"127.0.0.1:{0}\"]", endpoint.port)
}

/// A running daemon with this text as `[net]`.
fn running(net: &str) -> Option<Daemon> {
    let mut daemon = Daemon::with_config("", net)?;
    daemon.start();
    Some(daemon)
}

/// Authcrypt by the peer's first key, with any DID in `from` and any `skid`.
fn authcrypt_as(peer: &Peer, did: &str, skid: &str, daemon: &Daemon, content: &str) -> Value {
    let mut text = peer.plaintext(&daemon.did, content);
    text["from"] = did.into();
    Jwe::authcrypt_as(&peer.person, skid, &peer.person.agree[0], &daemon.agreement_keys()).seal(text.to_string())
}

/// The daemon does not connect to a private address, in whatever notation the sender's DID contains it.
#[test]
fn private_addresses_are_never_connected_to() {
    let target = Endpoint::new(|_| (200, String::new(), "{}".to_owned()));
    let more = format!("[net]\nallow_private = []\n{}\n", allow_plain_http(&target));
    let Some(daemon) = running(&more) else { return };
    let (mallory, port) = (Peer::new("mallory"), target.port);
    let addresses = ["127.0.0.1", "127.1", "0x7f000001", "2130706433", "0.0.0.0", "10.0.0.1", "169.254.169.254"];
    for host in addresses.into_iter().chain(["localhost", "%5B%3A%3A1%5D", "%5B%3A%3Affff%3A127.0.0.1%5D"]) {
        let did = format!("did:web:{host}%3A{port}");
        assert_eq!(daemon.post_status(authcrypt_as(&mallory, &did, &format!("{did}#k"), &daemon, "no")), 202, "{host}");
    }
    // The same for the signer of a nested message, and for the recipient of a message.
    let did = format!("did:web:localhost%3A{port}");
    let key = &mallory.person.sign[0];
    let header = crate::support::forge::jws_header(key.curve());
    let text = mallory.plaintext(&daemon.did, "no").to_string();
    let signed = crate::support::forge::jws(&mallory.person, key, &header, &json!({"kid": format!("{did}#k")}), &text);
    assert_eq!(daemon.post_status(Jwe::anoncrypt(&daemon.agreement_keys()).seal(signed.to_string())), 202);
    let id = daemon.send_text(&did, "no").unwrap();
    let inside = Peer::with_endpoint("inside", &target.uri());
    let direct = daemon.send_text(inside.did(), "no").unwrap();
    daemon.wait_until("the agent tried to send both", |daemon| {
        [&id, &direct]
            .iter()
            .all(|id| daemon.outbox_message(id)["tries"] != 0 || daemon.outbox_message(id)["state"] != "waiting")
    });
    assert_eq!(daemon.post_status(mallory.pack_text(&daemon.did, "lunch?")), 202);
    daemon.wait_until("the honest message arrived", |daemon| daemon.unread_texts() == ["lunch?"]);
    assert_eq!(target.connections(), 0);
}

/// A document is used only for the DID that was requested, and each key only for its purpose.
#[test]
fn only_a_valid_document_of_the_requested_did_is_used() {
    let (alice, mallory) = (Peer::new("alice"), Peer::new("mallory"));
    let key = |peer: &Peer| json!(peer.person.agree[0].to_jwk());
    let (alice_key, mallory_key) = (key(&alice), key(&mallory));
    let victim = alice.did().to_owned();
    let server = Endpoint::new(move |request| {
        let host = format!("did:web:{}", request.host.replace(':', "%3A"));
        let name = request.path.trim_start_matches('/').trim_end_matches("/did.json").to_owned();
        let did = format!("{host}:{name}");
        let document = |id: &str, relationship: &str, method: &str, jwk: &Value| {
            let method = json!({"id": method, "type": "JsonWebKey2020", "controller": id, "publicKeyJwk": jwk});
            json!({"id": id, relationship: [method]})
        };
        let sound = document(&did, "keyAgreement", "#k", &alice_key);
        let found = match name.as_str() {
            "sound" => sound,
            // A document with the id of another DID.
            "victim" => document(&victim, "keyAgreement", "#k", &mallory_key),
            "other" => document(&format!("{host}:sound"), "keyAgreement", "#k", &mallory_key),
            "signs" => document(&did, "authentication", "#k", &mallory_key),
            // A verification method with an id of another DID.
            "foreign" => document(&did, "keyAgreement", &format!("{victim}#key-1"), &mallory_key),
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
    let more = format!("[net]\nallow_private = [\"127.0.0.0/8\"]\n{}\n", allow_plain_http(&server));
    let Some(daemon) = running(&more) else { return };
    let did = |name: &str| format!("did:web:localhost%3A{}:{name}", server.port);
    let send = |peer: &Peer, name: &str, skid: &str| {
        let packed = authcrypt_as(peer, &did(name), &format!("{}{skid}", did(name)), &daemon, name);
        assert_eq!(daemon.post_status(packed), 202, "{name}");
    };
    for name in ["victim", "other", "signs", "foreign", "low", "twice", "huge", "deep", "elsewhere", "absent"] {
        send(&mallory, name, "#k");
    }
    // Mallory's server returned a document for the victim. It is not used for the victim's DID.
    let skid = format!("{}#key-1", alice.did());
    assert_eq!(daemon.post_status(authcrypt_as(&mallory, alice.did(), &skid, &daemon, "as Alice")), 202);
    send(&alice, "sound", "#k");
    daemon.wait_until("the message with a valid document arrived", |daemon| daemon.unread_texts() == ["sound"]);
    assert_eq!(daemon.unread()[0]["sender"], did("sound"));
    // A cached document is not requested again for each message.
    let requests = server.requests().len();
    for number in 0..20 {
        let mut text = alice.plaintext(&daemon.did, &format!("more {number} {}", seconds()));
        text["from"] = did("sound").into();
        let skid = format!("{}#k", did("sound"));
        let packed = Jwe::authcrypt_as(&alice.person, &skid, &alice.person.agree[0], &daemon.agreement_keys());
        assert_eq!(daemon.post_status(packed.seal(text.to_string())), 202);
    }
    daemon.wait_until("the messages arrived", |daemon| daemon.unread_texts().len() == 21);
    let sound = server.requests()[requests..].iter().filter(|request| request.path.contains("sound")).count();
    assert_eq!(sound, 0);
}

fn ok(body: String) -> Response {
    (200, "content-type: application/did+json\r\n".to_owned(), body)
}

/// The document of a did:web with one key agreement key for each pair of fragment and peer.
fn document_with_keys(did: &str, keys: &[(&str, &Peer)]) -> Value {
    let methods = keys.iter().map(|(fragment, peer)| {
        let jwk = json!(peer.person.agree[0].to_jwk());
        json!({"id": fragment, "type": "JsonWebKey2020", "controller": did, "publicKeyJwk": jwk})
    });
    json!({"id": did, "keyAgreement": methods.collect::<Vec<_>>()})
}

/// A server with documents that the test changes: status and body, by the name in the path.
struct Documents {
    served: Arc<Mutex<HashMap<String, (u16, String)>>>,
    server: Endpoint,
}

impl Documents {
    fn new() -> Self {
        let served = Arc::<Mutex<HashMap<String, (u16, String)>>>::default();
        let documents = served.clone();
        let server = Endpoint::new(move |request| {
            let name = request.path.trim_start_matches('/').split('/').next().unwrap_or_default();
            let (status, body) = documents.lock().unwrap().get(name).cloned().unwrap_or((404, String::new()));
            (status, String::new(), body)
        });
        Self { served, server }
    }

    fn did(&self, name: &str) -> String {
        format!("did:web:localhost%3A{}:{name}", self.server.port)
    }

    fn serve(&self, name: &str, status: u16, body: impl ToString) {
        self.served.lock().unwrap().insert(name.to_owned(), (status, body.to_string()));
    }

    fn fetches(&self, name: &str) -> usize {
        let path = format!("/{name}/did.json");
        self.server.requests().iter().filter(|request| request.path == path).count()
    }

    /// A daemon that may fetch the documents.
    fn daemon(&self, more: &str) -> Option<Daemon> {
        running(&format!("[net]\nallow_private = [\"127.0.0.0/8\"]\n{}\n{more}", allow_plain_http(&self.server)))
    }
}

/// A peer adds a key to its document, or replaces the key and keeps its id, and uses it at once. The document that the
/// daemon has cached is older.
#[test]
fn a_new_key_is_used_although_an_older_document_is_cached() {
    let documents = Documents::new();
    let Some(daemon) = documents.daemon("") else { return };
    let (old, new) = (Peer::new("old"), Peer::new("new"));
    for (name, keys, fragment) in
        [("adds", vec![("#1", &old), ("#2", &new)], "#2"), ("replaces", vec![("#1", &new)], "#1")]
    {
        let did = documents.did(name);
        documents.serve(name, 200, document_with_keys(&did, &[("#1", &old)]));
        let before = format!("{name} before");
        assert_eq!(daemon.post_status(authcrypt_as(&old, &did, &format!("{did}#1"), &daemon, &before)), 202);
        daemon.wait_until("the first message arrived", |daemon| daemon.unread_texts().contains(&before));
        documents.serve(name, 200, document_with_keys(&did, &keys));
        let after = format!("{name} after");
        let skid = format!("{did}{fragment}");
        assert_eq!(daemon.post_status(authcrypt_as(&new, &did, &skid, &daemon, &after)), 202);
        daemon.wait_until("the second message arrived", |daemon| daemon.unread_texts().contains(&after));
    }
}

/// Keys that are in no document do not make the daemon fetch it for each message.
#[test]
fn unknown_keys_do_not_cause_unlimited_fetches() {
    let documents = Documents::new();
    let more = "did_refetch_seconds = 3600\n[agent]\nwait_for_stranger_minutes = 0\nwait_for_sender_hours = 0\n";
    let Some(daemon) = documents.daemon(more) else { return };
    let (owner, mallory) = (Peer::new("owner"), Peer::new("mallory"));
    let did = documents.did("victim");
    documents.serve("victim", 200, document_with_keys(&did, &[("#1", &owner)]));
    assert_eq!(daemon.post_status(authcrypt_as(&owner, &did, &format!("{did}#1"), &daemon, "mine")), 202);
    daemon.wait_until("the honest message arrived", |daemon| daemon.unread_texts() == ["mine"]);
    for number in 0..30 {
        let skid = format!("{did}#no-{number}");
        assert_eq!(daemon.post_status(authcrypt_as(&mallory, &did, &skid, &daemon, "no")), 202);
    }
    daemon.wait_until_all_opened();
    assert_eq!(documents.fetches("victim"), 1);
    let given_up = "claviger_messages_handled_total{protocol=\"unopened\",result=\"unresolved\"}";
    assert_eq!(daemon.metric(given_up), 30.0);
    assert!(daemon.log().contains("waited 0 seconds for it"));
}

/// A server returns something else than the document for a moment. The messages wait.
#[test]
fn faults_of_a_document_server_are_waited_for() {
    let documents = Documents::new();
    let Some(daemon) = documents.daemon("") else { return };
    let peer = Peer::new("peer");
    let document = |name: &str| document_with_keys(&documents.did(name), &[("#k", &peer)]).to_string();
    let half = document("half");
    let faults = [
        ("absent", 404, String::new()),
        ("gone", 410, String::new()),
        ("page", 200, "<!DOCTYPE html><title>We are back soon</title>".to_owned()),
        ("large-page", 200, "<p>soon</p>".repeat(10_000)),
        ("half", 200, half[..half.len() / 2].to_owned()),
        ("empty", 200, String::new()),
        ("other", 200, document("another")),
        ("broken", 500, String::new()),
    ];
    for (name, status, body) in &faults {
        documents.serve(name, *status, body);
        let did = documents.did(name);
        let packed = authcrypt_as(&peer, &did, &format!("{did}#k"), &daemon, name);
        assert_eq!(daemon.post_status(packed), 202, "{name}");
    }
    daemon.wait_until("all documents were asked for", |_| faults.iter().all(|(name, ..)| documents.fetches(name) > 0));
    // An honest message is not delayed by those that wait.
    assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, "lunch?")), 202);
    daemon.wait_until("the honest message arrived", |daemon| daemon.unread_texts() == ["lunch?"]);
    for (name, ..) in &faults {
        documents.serve(name, 200, document(name));
    }
    daemon.wait_until("all messages arrived", |daemon| daemon.unread_texts().len() == faults.len() + 1);
}

/// A redirect is how a server means to answer. The message is refused at once, and the reason is said.
#[test]
fn a_redirect_is_refused_at_once() {
    let documents = Documents::new();
    let Some(daemon) = documents.daemon("") else { return };
    let peer = Peer::new("peer");
    for (name, status) in [("moved", 302), ("elsewhere", 301), ("temporarily", 307)] {
        documents.serve(name, status, "");
        let did = documents.did(name);
        assert_eq!(daemon.post_status(authcrypt_as(&peer, &did, &format!("{did}#k"), &daemon, name)), 202);
        daemon.wait_until_all_opened();
        let reason = format!("its server redirects with status {status}, and redirects are not followed");
        assert!(daemon.log().contains(&reason), "{}", daemon.log());
        let id = daemon.send_text(&did, "hello").unwrap();
        daemon.wait_until("the message is given up", |daemon| daemon.outbox_message(&id)["state"] == "failed");
        let problem = daemon.outbox_message(&id)["problem"].clone();
        assert!(problem.as_str().unwrap().contains(&reason), "{problem}");
    }
    assert!(daemon.unread_texts().is_empty());
}

/// `%3a` and `%3A` are the same (RFC 3986 section 6.2.2.1): a peer may write either, whichever its document has.
#[test]
fn percent_encodings_are_compared_without_case() {
    let documents = Documents::new();
    let Some(daemon) = documents.daemon("") else { return };
    let peer = Peer::new("peer");
    for (name, capital) in [("capital", true), ("small", false)] {
        let did = documents.did(name);
        let small = did.replace("%3A", "%3a");
        let id = if capital { &did } else { &small };
        documents.serve(name, 200, document_with_keys(id, &[("#k", &peer)]));
        for (number, (from, skid)) in [(&did, &did), (&small, &small), (&did, &small)].into_iter().enumerate() {
            let content = format!("{name} {number}");
            let packed = authcrypt_as(&peer, from, &format!("{skid}#k"), &daemon, &content);
            assert_eq!(daemon.post_status(packed), 202);
            daemon.wait_until("the message arrived", |daemon| daemon.unread_texts().contains(&content));
            assert_eq!(daemon.delivery(&content)["sender"], did, "{content}");
        }
        assert_eq!(documents.fetches(name), 1);
    }
}

/// A portable did:webvh has moved, and its log is still served at the former place too. The peer is reached by its former
/// name, under its newest name, and may write under either.
#[test]
fn a_moved_did_webvh_is_known_by_both_names() {
    let logs = Arc::<Mutex<String>>::default();
    let served = logs.clone();
    let server = Endpoint::new(move |request| match request.path.as_str() {
        "/old/did.jsonl" | "/new/did.jsonl" => (200, String::new(), served.lock().unwrap().clone()),
        _ => accepted(),
    });
    let peer = Peer::new("peer");
    let place = |name: &str| format!("localhost%3A{}:{name}", server.port);
    let log = Log::new(&place("old"), &key(1), |it| it["parameters"]["portable"] = true.into());
    let (old, new) = (log.did(), log.did().replace(":old", ":new"));
    let log = log.and(&key(1), |it| {
        it["state"] = document_with_keys(&new, &[("#k", &peer)]);
        it["state"]["alsoKnownAs"] = json!([old]);
        it["state"]["service"] =
            json!([{"id": "#s", "type": "DIDCommMessaging", "serviceEndpoint": {"uri": server.uri()}}]);
    });
    *logs.lock().unwrap() = log.text();
    let net = format!("[net]\nallow_private = [\"127.0.0.0/8\"]\n{}\n", allow_plain_http(&server));
    let Some(daemon) = running(&net) else { return };
    let document = Document::from_value(log.entries[1]["state"].clone()).unwrap();
    let own = block_on(identities(&peer.person.token, [document]));
    for (number, to) in [&old, &new].into_iter().enumerate() {
        daemon.send_text(to, "hello").unwrap();
        daemon.wait_until("the message arrived", |_| server.messages().len() == number + 1);
        let packed = &server.messages()[number];
        let opened = block_on(Message::unpack(packed, &LocalResolver::new(), &own, &UnpackOptions::default()));
        assert_eq!(opened.unwrap().0.to, Some(vec![new.clone()]));
    }
    for did in [&old, &new] {
        let packed = authcrypt_as(&peer, did, &format!("{did}#k"), &daemon, did);
        assert_eq!(daemon.post_status(packed), 202);
        daemon.wait_until("the message arrived", |daemon| daemon.unread_texts().contains(did));
        assert_eq!(daemon.delivery(did)["sender"], did.as_str());
    }
    // Two names are not taken for each other in one message.
    let mixed = authcrypt_as(&peer, &old, &format!("{new}#k"), &daemon, "mixed");
    assert_eq!(daemon.post_status(mixed), 202);
    daemon.wait_until_all_opened();
    assert_eq!(daemon.unread_texts().len(), 2);
}

/// Servers that accept connections and never answer hold a few workers. The others go on.
#[test]
fn servers_that_never_answer_do_not_hold_all_workers() {
    // Nobody accepts the connections, so the kernel holds them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let net = format!("did_web_plain_http_for = [\"localhost:{port}\"]");
    let Some(daemon) = running(&format!("[net]\nallow_private = [\"127.0.0.0/8\"]\n{net}\n")) else { return };
    let (mallory, honest) = (Peer::new("mallory"), Peer::new("honest"));
    // The responses are not waited for: each may take some seconds.
    let _posts: Vec<_> = (0..200)
        .map(|number| {
            let did = format!("did:web:localhost%3A{port}:{number}");
            let packed = authcrypt_as(&mallory, &did, &format!("{did}#k"), &daemon, "no").to_string();
            let mut stream = TcpStream::connect(("127.0.0.1", daemon.port)).unwrap();
            let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-type: application/didcomm-encrypted+json\r\n";
            write!(stream, "{head}content-length: {}\r\n\r\n{packed}", packed.len()).unwrap();
            stream
        })
        .collect();
    daemon.wait_until("all messages are stored", |daemon| daemon.metric("claviger_waiting{queue=\"inbox\"}") >= 200.0);
    assert_eq!(daemon.post_status(honest.pack_text(&daemon.did, "lunch?")), 202);
    daemon.wait_until("the honest message arrived", |daemon| daemon.unread_texts() == ["lunch?"]);
    // Each waits ten seconds for its server. If all workers did, the honest message would follow after most of them.
    let waited = daemon.log().matches("did not answer within").count();
    assert!(waited < 100, "{waited} messages were tried first");
}

/// A message that waits for its sender's server holds no memory that other messages need.
#[test]
fn servers_that_never_answer_hold_no_memory() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let net = format!("did_web_plain_http_for = [\"localhost:{port}\"]");
    let agent = "[agent]\nmax_opening_bytes = 65_536\n";
    let Some(daemon) = running(&format!("{agent}[net]\nallow_private = [\"127.0.0.0/8\"]\n{net}\n")) else { return };
    let (mallory, honest) = (Peer::new("mallory"), Peer::new("honest"));
    let did = format!("did:web:localhost%3A{port}");
    let large = authcrypt_as(&mallory, &did, &format!("{did}#k"), &daemon, &"x".repeat(100_000));
    assert_eq!(daemon.post_status(large), 202);
    let server = silent.accept().unwrap();
    assert_eq!(daemon.post_status(honest.pack_text(&daemon.did, "lunch?")), 202);
    daemon.wait_until("the honest message arrived", |daemon| daemon.unread_texts() == ["lunch?"]);
    assert!(!daemon.log().contains("did not answer within"), "the server was waited for");
    drop(server);
}
