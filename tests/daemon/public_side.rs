//! What the public side answers strangers besides messages, and what that may cost.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use claviger::{
    agent::protocol::out_of_band::Invitation,
    did::{Relationship, peer::create_2},
    keys::Curve,
    secrets::KeyUse,
};
use claviger_testkit::PrivateKey;
use serde_json::Value;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::{
    daemon::{Daemon, TIMEOUT, free_port, http, status_of},
    home::{Home, plaintext, softhsm_module},
    peer::Peer,
    websocket_client::{WebSocketClient, closed_within},
};

fn get(port: u16, host: &str, path: &str) -> String {
    http(port, &format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"), b"")
}

/// Strangers get no picture of their URLs, and none of their words is shown under our name. Our own invitations have their
/// page, whatever is appended to their URLs.
#[test]
fn only_our_own_invitations_are_drawn() {
    let Some(daemon) = Daemon::running("") else { return };
    let of_url = |url: &str| url[url.find("/?").unwrap()..].to_owned();
    let mut foreign = Invitation::new("did:example:stranger".to_owned());
    foreign.goal = Some("Enter your password".to_owned());
    let page = get(daemon.port, "a", &of_url(&foreign.to_url("http://a/")));
    assert!(!page.contains("<svg") && !page.contains("password"), "{page}");
    assert_eq!(status_of(&page), 404);
    let made = daemon.json(&["invite", "--goal", "Lunch"]);
    let path = of_url(made["url"].as_str().unwrap());
    let pages = [path.clone(), format!("{path}&x=1"), format!("{path}&x=2")].map(|path| get(daemon.port, "a", &path));
    assert!(pages.iter().all(|page| page.contains("<svg") && page.contains("Lunch")));
    let svg = |page: &String| page[page.find("<svg").unwrap()..].to_owned();
    assert!(svg(&pages[0]) == svg(&pages[1]) && svg(&pages[1]) == svg(&pages[2]));
    // The id of an invitation of ours in an invitation of another's.
    let mut stolen = Invitation::parse(made["url"].as_str().unwrap()).map(own_invitation).unwrap();
    stolen.from = "did:example:stranger".to_owned();
    assert_eq!(status_of(&get(daemon.port, "a", &of_url(&stolen.to_url("http://a/")))), 404);
    for unknown in ["/x", "/.well-known/did.json", "/?x"] {
        assert!(matches!(status_of(&get(daemon.port, "a", unknown)), 404 | 200), "{unknown}");
    }
}

fn own_invitation(parsed: claviger::agent::protocol::out_of_band::ParsedInvitation) -> Invitation {
    match parsed {
        claviger::agent::protocol::out_of_band::ParsedInvitation::Invitation(invitation) => *invitation,
        other => panic!("{other:?}"),
    }
}

/// The headers of a response that a browser looks at, in lower case and in the order of their names.
fn cors_headers(response: &str) -> Vec<String> {
    let head = response.split("\r\n\r\n").next().unwrap().to_lowercase();
    let mut found: Vec<String> =
        head.lines().filter(|line| line.starts_with("access-control-")).map(str::to_owned).collect();
    found.sort();
    found
}

/// A page of any origin may send messages and read every answer, and none of the answers is for a request with cookies
/// or other credentials. `browser.rs` tries it in a browser.
#[test]
fn every_answer_is_for_any_origin() {
    let Some(mut daemon) = Daemon::with_config("rate_per_address = 20", "") else { return };
    daemon.start();
    let invitation = daemon.json(&["invite"]);
    let path_of = |name: &str| {
        let url = invitation[name].as_str().unwrap();
        url[url.find("/?").unwrap()..].to_owned()
    };
    let encrypted = "content-type: application/didcomm-encrypted+json\r\n";
    let peer = Peer::new("peer");
    let (message, foreign) = (peer.pack_text(&daemon.did, "hello"), peer.pack_text(peer.did(), "hello"));
    let too_large = format!("{encrypted}content-length: 1000000000\r\n");
    let (short_url, url) = (format!("GET {}", path_of("short_url")), format!("GET {}", path_of("url")));
    let requests = [
        ("POST /", encrypted, message.as_str(), 202),
        ("POST /any/path", encrypted, "{}", 400),
        ("POST /", encrypted, foreign.as_str(), 404),
        ("POST /", too_large.as_str(), "", 413),
        ("POST /", "content-type: text/plain\r\n", "{}", 415),
        ("PUT /", encrypted, "{}", 405),
        ("GET /", "", "", 200),
        ("GET /nowhere", "", "", 404),
        (short_url.as_str(), "", "", 307),
        (url.as_str(), "", "", 200),
        ("GET /?_oobid=unknown", "", "", 404),
        ("GET /?_oob=damaged", "", "", 400),
    ];
    for (request, headers, body, status) in requests {
        let length =
            if headers.contains("length") { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        for origin in ["", "origin: https://wallet.example\r\ncookie: a=b\r\n"] {
            let head = format!("{request} HTTP/1.1\r\nhost: a\r\n{origin}{headers}{length}connection: close\r\n\r\n");
            let response = http(daemon.port, &head, body.as_bytes());
            assert_eq!(status_of(&response), status, "{request}: {response}");
            assert_eq!(cors_headers(&response), ["access-control-allow-origin: *"], "{request}");
        }
    }
    let preflight = "OPTIONS / HTTP/1.1\r\nhost: a\r\norigin: https://wallet.example\r\n\
                     access-control-request-method: POST\r\naccess-control-request-headers: content-type\r\n\
                     access-control-request-private-network: true\r\nconnection: close\r\n\r\n";
    let response = http(daemon.port, preflight, b"");
    assert_eq!(status_of(&response), 204, "{response}");
    let allowed = [
        "access-control-allow-headers: content-type, *",
        "access-control-allow-methods: get, post",
        "access-control-allow-origin: *",
        "access-control-max-age: 86400",
    ];
    assert_eq!(cors_headers(&response), allowed);
    daemon.wait_until("messages are too many", |daemon| {
        let responses: Vec<String> = thread::scope(|scope| {
            let posts: Vec<_> = (0..30).map(|_| scope.spawn(|| daemon.post(b"{}"))).collect();
            posts.into_iter().map(|post| post.join().unwrap()).collect()
        });
        let refused = responses.iter().find(|response| status_of(response) == 429);
        refused.is_some_and(|response| {
            let allowed = ["access-control-allow-origin: *", "access-control-expose-headers: retry-after"];
            assert_eq!(cors_headers(response), allowed);
            true
        })
    });
    daemon.wait_until("the messages arrived", |daemon| daemon.unread_texts() == ["hello"]);
}

/// Two did:web of ours with the same path are told apart by their hosts.
#[test]
fn did_webs_with_one_path_are_told_apart_by_host() {
    let Some(mut daemon) = Daemon::new("") else { return };
    let dids = ["a.example", "b.example:8443"].map(|host| {
        let host = ["did", "create", "--method", "web", "--host", host];
        let made = daemon.json(&[&host[..], &["--service", "https://a.example"]].concat());
        made["did"].as_str().unwrap().to_owned()
    });
    let path = ["did", "create", "--method", "web", "--host", "a.example", "--path", "x"];
    let with_path = daemon.json(&[&path[..], &["--service", "https://a.example"]].concat())["did"].clone();
    daemon.start();
    let did_at = |host: &str, path: &str| -> Option<String> {
        let response = get(daemon.port, host, path);
        let document: Value = serde_json::from_str(response.split_once("\r\n\r\n")?.1).ok()?;
        Some(document["id"].as_str()?.to_owned())
    };
    let did_of = |host: &str| did_at(host, "/.well-known/did.json");
    assert_eq!(did_of("a.example").as_ref(), Some(&dids[0]));
    assert_eq!(did_of("A.EXAMPLE:443").as_ref(), Some(&dids[0]));
    assert_eq!(did_of("b.example:8443").as_ref(), Some(&dids[1]));
    assert_eq!(did_of("c.example"), None);
    // A proxy changes the port, or the host of the only document at a path. Another host of ours has no document there.
    assert_eq!(did_of("b.example").as_ref(), Some(&dids[1]));
    for host in ["a.example", "a.example:8080", "c.example", "127.0.0.1"] {
        assert_eq!(did_at(host, "/x/did.json").as_deref(), with_path.as_str(), "{host}");
    }
    assert_eq!(did_at("b.example:8443", "/x/did.json"), None);
    assert_eq!(did_at("a.example", "http://b.example:8443/.well-known/did.json").as_ref(), Some(&dids[1]));
}

/// The limits hold for all listening sockets together.
#[test]
fn connections_are_limited_over_all_listening_sockets() {
    let Some(mut daemon) = Daemon::with_config("connections_per_address = 4\nheader_seconds = 300", "") else { return };
    let second = free_port();
    let file = daemon.home.path().join("claviger.toml");
    let text = fs::read_to_string(&file).unwrap();
    let one = format!("listen = \"127.0.0.1:{}\"\npublic_url", daemon.port);
    let both = format!("listen = [\"127.0.0.1:{}\", \"127.0.0.1:{second}\"]\npublic_url", daemon.port);
    assert!(text.contains(&one), "{text}");
    fs::write(&file, text.replace(&one, &both)).unwrap();
    daemon.start();
    // Each of the four has got an answer, so it was admitted, and stays open.
    let mut open = Vec::new();
    for number in 0..4 {
        daemon.wait_until("a connection is accepted", |daemon| {
            let mut stream = TcpStream::connect(("127.0.0.1", [daemon.port, second][number % 2])).unwrap();
            stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
            let is_answered = stream.read_exact(&mut [0]).is_ok();
            open.extend(is_answered.then_some(stream));
            is_answered
        });
    }
    let is_turned_away = |port| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        closed_within(&mut stream, TIMEOUT).expect("it is closed").is_empty()
    };
    for port in [daemon.port, second] {
        daemon.wait_until("further connections are refused", |_| is_turned_away(port));
    }
    drop(open);
    daemon.wait_until("a connection is accepted again", |_| !is_turned_away(second));
}

/// A document in `[did] documents` may belong to a DID of ours whose token was not seen since the start. Its peers are
/// asked to come again, on HTTP and on a WebSocket.
#[test]
fn a_message_for_a_did_without_its_token_is_to_be_sent_again() {
    let Some(elsewhere) = Home::with_token() else { return };
    elsewhere.configure(&softhsm_module().unwrap(), "");
    let [without_token, nobody] = ["", ""].map(|_| elsewhere.run("--json did create --method peer:2").json());
    let Some(mut daemon) = Daemon::new("") else { return };
    daemon.home.write("documents.json", &without_token["document"].to_string());
    let file = daemon.home.path().join("claviger.toml");
    let configuration = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{configuration}[did]\ndocuments = [\"documents.json\"]\n")).unwrap();
    daemon.start();
    let [for_us, for_nobody] = [&without_token, &nobody].map(|did| {
        let message = plaintext(None, did["did"].as_str(), "At noon?");
        elsewhere.run_with_stdin(&format!("pack --to {}", did["did"].as_str().unwrap()), &message).success().to_owned()
    });
    let response = daemon.post(for_us.as_bytes());
    assert!(response.starts_with("HTTP/1.1 503") && response.to_lowercase().contains("retry-after:"), "{response}");
    assert_eq!(
        cors_headers(&response),
        ["access-control-allow-origin: *", "access-control-expose-headers: retry-after"]
    );
    assert_eq!(daemon.post_status(&for_nobody), 404);
    for (packed, code) in [(&for_us, CloseCode::Again), (&for_nobody, CloseCode::Policy)] {
        let mut socket = WebSocketClient::open(daemon.port);
        socket.send(packed).unwrap();
        assert_eq!(socket.close_code(), Some(code));
    }
}

/// A key that another program puts into the token while the daemon runs is found because a message asks for it, and not
/// after ten minutes (`check_keys_seconds`).
#[test]
fn a_key_of_another_program_is_found_when_a_message_asks_for_it() {
    let Some(mut daemon) = Daemon::new("") else { return };
    let key = PrivateKey::generate(Curve::X25519);
    let document = create_2(&[(Relationship::KeyAgreement, key.public().clone())], &[]).unwrap();
    daemon.home.write("documents.json", &document.as_value().to_string());
    let file = daemon.home.path().join("claviger.toml");
    let configuration = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{configuration}[did]\ndocuments = [\"documents.json\"]\n")).unwrap();
    daemon.start();
    let peer = Peer::new("peer");
    let packed = peer.pack_text(document.id(), "for the new key");
    assert_eq!(daemon.post_status(&packed), 503);
    let jwk = serde_json::json!({
        "kty": "OKP", "crv": "X25519", "x": URL_SAFE_NO_PAD.encode(key.public().as_bytes()),
        "d": URL_SAFE_NO_PAD.encode(&*key.to_import(KeyUse::Agreement, None).private), "kid": "new",
    });
    daemon.home.write("key.jwk", &jwk.to_string());
    // Another process, which tells the daemon nothing.
    daemon.home.run("key import --token soft --jwk key.jwk").success();
    daemon.wait_until("the message is accepted", |daemon| daemon.post_status(&packed) == 202);
    daemon.wait_until("the message is read", |daemon| daemon.unread_texts() == ["for the new key"]);
    // One search for many requests: 503s are cheap.
    let searches = daemon.log().matches("searching the tokens again").count();
    assert!((1..=8).contains(&searches), "{searches}");
}

/// A WebSocket that stays open has stored what came on it: a message that is refused closes it.
#[test]
fn a_refused_message_closes_the_websocket() {
    let Some(daemon) = Daemon::running("") else { return };
    let peer = Peer::new("peer");
    let two = [peer.pack_text(&daemon.did, "a"), peer.pack_text(&daemon.did, "b")].concat();
    for nonsense in ["", "{}", "hello", &two, "null"] {
        let mut socket = WebSocketClient::open(daemon.port);
        socket.send(&peer.pack_text(&daemon.did, "before")).unwrap();
        socket.send(nonsense).unwrap();
        assert_eq!(socket.close_code_within(Duration::from_secs(30)), Some(Some(CloseCode::Policy)), "{nonsense}");
    }
    daemon.wait_until("what came before is stored", |daemon| daemon.unread_texts() == ["before"; 5]);
}
