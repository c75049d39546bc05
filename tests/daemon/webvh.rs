//! The agent's own did:webvh: created, served, updated, and refused when someone else has changed its log. Updates
//! of did:web.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::PathBuf,
    thread,
    time::Duration,
};

use claviger::did::webvh::OwnLog;
use serde_json::Value;

use crate::{
    daemon::{Daemon, http},
    home::{CommandOutput, Home, softhsm_module},
};

/// Alice, with a did:webvh at her port, and Bob, who may fetch it without TLS. Does not start them.
fn alice_with_webvh_and_bob() -> Option<(Daemon, String, Daemon)> {
    let (alice, bob) = (Daemon::new("")?, Daemon::new("")?);
    let port = alice.port;
    let made = alice.json(&[
        "did",
        "create",
        "--method",
        "webvh",
        "--host",
        &format!("localhost:{port}"),
        "--service",
        &format!("http://127.0.0.1:{port}"),
    ]);
    let did = made["did"].as_str().unwrap().to_owned();
    assert!(did.starts_with("did:webvh:Qm") && did.ends_with(&format!(":localhost%3A{port}")), "{did}");
    let keys: Vec<_> = made["keys"].as_array().unwrap().iter().map(|key| key["algorithm"].as_str().unwrap()).collect();
    assert_eq!(keys, ["X25519", "Ed25519", "Ed25519"]);
    assert_eq!(made["keys"][2]["kids"], serde_json::json!([]), "the key that changes the DID is not in its document");
    let settings = bob.home.path().join("claviger.toml");
    let text = fs::read_to_string(&settings).unwrap();
    let plain = format!("[net]\ndid_web_plain_http_for = [\"localhost:{port}\"]");
    fs::write(settings, text.replace("[net]", &plain)).unwrap();
    Some((alice, did, bob))
}

/// Runs a command, and again while it finds no token: SoftHSM writes to the token's file at each login, and a process
/// that reads it at that moment finds no token. After each change the agent's keepers log in again.
#[track_caller]
fn run_with_retry(agent: &Daemon, words: &[&str]) -> CommandOutput {
    let absent = |output: &CommandOutput| output.status() == 3 && output.error(3) == "token-absent";
    let mut output = agent.run(words);
    for _ in 0..50 {
        if !absent(&output) {
            break;
        }
        thread::sleep(Duration::from_millis(100));
        output = agent.run(words);
    }
    output
}

/// The log that the agent serves.
fn served_log(agent: &Daemon) -> OwnLog {
    let answer =
        http(agent.port, "GET /.well-known/did.jsonl HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", b"");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.to_ascii_lowercase().contains("content-type: text/jsonl"), "{head}");
    OwnLog::read(body.to_owned()).unwrap()
}

fn log_file(agent: &Daemon) -> PathBuf {
    let files = fs::read_dir(agent.home.path().join("state/documents")).unwrap().map(|entry| entry.unwrap().path());
    files.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "jsonl")).unwrap()
}

#[test]
fn a_did_webvh_is_served_and_updated_and_peers_follow() {
    let Some((mut alice, did, mut bob)) = alice_with_webvh_and_bob() else { return };
    alice.start();
    bob.start();
    let first = served_log(&alice);
    assert_eq!((first.document().id(), first.states().count()), (did.as_str(), 1));

    // Bob resolves the DID to send to it, and to verify Alice's signature.
    bob.json(&["send", "--to", &did, "hello", "--within", "30"]);
    alice.wait_until("the message arrived", |alice| alice.unread_texts() == ["hello"]);
    assert_eq!(alice.delivery("hello")["recipient"], did);
    alice.json(&["send", "--from", &did, "--to", &bob.did, "--sign", "welcome", "--within", "30"]);
    bob.wait_until("the message arrived", |bob| bob.unread_texts() == ["welcome"]);
    assert_eq!(bob.delivery("welcome")["sender"], did);

    // The key agreement key is replaced while the agent runs.
    let key =
        run_with_retry(&alice, &["key", "generate", "--alg", "X25519", "--use", "agreement", "--name", "new"]).json();
    let changed = run_with_retry(&alice, &["did", "update", &did, "--agreement", "new"]).json();
    assert!(changed["version"].as_str().unwrap().starts_with("2-Qm"), "{changed}");
    assert_eq!(changed["document"]["keyAgreement"], serde_json::json!([format!("{did}#key-3")]));
    assert_eq!(changed["document"]["authentication"], serde_json::json!([format!("{did}#key-2")]));
    let second = served_log(&alice);
    assert_eq!((second.version(), second.states().count()), (changed["version"].as_str().unwrap(), 2));
    let held: Vec<Value> = second.states().nth(1).unwrap()["verificationMethod"].as_array().unwrap().clone();
    assert_eq!(held[0]["publicKeyMultibase"], key["key"]);
    // A restart clears the cache of Bob: he encrypts to the new key.
    bob.stop();
    bob.start();
    bob.json(&["send", "--to", &did, "to the new key", "--within", "30"]);
    alice.wait_until("the message arrived", |alice| alice.unread_texts().contains(&"to the new key".to_owned()));

    // The update key is replaced. The old one is not needed any more.
    run_with_retry(&alice, &["key", "generate", "--alg", "Ed25519", "--use", "signing", "--name", "next"]).json();
    run_with_retry(&alice, &["did", "update", &did, "--update-key", "next"]).json();
    let before = second.update_keys()[0].to_multikey();
    run_with_retry(&alice, &["key", "delete", &before, "--yes"]).json();
    run_with_retry(&alice, &["did", "update", &did, "--service", "http://127.0.0.1:1"]).json();
    let last = served_log(&alice);
    assert_eq!(last.states().count(), 4);
    assert_ne!(last.update_keys(), second.update_keys());
    assert_eq!(last.document().services()[0].endpoints[0].uri, "http://127.0.0.1:1");

    assert_eq!(run_with_retry(&alice, &["did", "update", &did]).error(2), "bad-arguments");
    assert_eq!(run_with_retry(&alice, &["did", "update", &did, "--update-key", "new"]).error(2), "use-unfit");
    assert_eq!(run_with_retry(&alice, &["did", "update", &did, "--authentication", "new"]).error(2), "use-unfit");
    assert_eq!(run_with_retry(&alice, &["did", "update", &alice.did, "--service", "http://a"]).error(1), "not-ours");

    // Pre-rotation: only the key that was committed to can sign the next update.
    let safe =
        run_with_retry(&alice, &["key", "generate", "--alg", "Ed25519", "--use", "signing", "--name", "safe"]).json();
    run_with_retry(&alice, &["did", "update", &did, "--next-update-key", safe["key"].as_str().unwrap()]).json();
    for more in [&[][..], &["--update-key", "next"]] {
        let refused =
            run_with_retry(&alice, &[&["did", "update", &did, "--service", "http://127.0.0.1:2"], more].concat());
        assert_eq!(refused.error(2), "bad-arguments");
    }
    let committed = ["did", "update", &did, "--service", "http://127.0.0.1:2", "--update-key", "safe"];
    run_with_retry(&alice, &committed).json();
    let last = served_log(&alice);
    assert_eq!((last.states().count(), last.is_pre_rotated()), (6, false));
    assert_eq!(last.update_keys()[0].to_multikey(), safe["key"]);

    // A second log at the same place is refused.
    let again = ["did", "create", "--method", "webvh", "--host", &format!("localhost:{}", alice.port)];
    assert_eq!(run_with_retry(&alice, &again).error(2), "bad-arguments");
    assert_eq!(served_log(&alice).version(), last.version());
}

/// A did:web is updated in place.
#[test]
fn a_did_web_is_updated_without_a_log() {
    let Some(home) = Home::with_token() else { return };
    home.configure(&softhsm_module().unwrap(), "");
    let did = home.create_did("--method web --host example.com --service https://example.com");
    let other = home.create_did("--method peer:2");
    home.run("key generate --alg X25519 --use agreement --name new").success();
    let changed = home.run(&format!("--json did update {did} --agreement new --agreement {did}#key-1")).json();
    let kids = [format!("{did}#key-3"), format!("{did}#key-1")];
    assert_eq!(changed["document"]["keyAgreement"], serde_json::json!(kids));
    assert_eq!(changed["document"]["service"][0]["serviceEndpoint"]["uri"], "https://example.com");
    assert_eq!(home.run(&format!("did resolve {did}")).json(), changed["document"]);
    for (words, code) in [("", "bad-arguments"), ("--update-key new", "bad-arguments")] {
        assert_eq!(home.run(&format!("--json did update {did} {words}")).error(2), code);
    }
    assert_eq!(home.run(&format!("--json did update {other} --service https://a")).error(1), "not-ours");
}

/// The agent uses the updated document: the from_prior is signed by the new authentication key.
#[test]
fn an_updated_did_web_is_rotated() {
    let Some(mut alice) = Daemon::new("") else { return };
    let at = (format!("localhost:{}", alice.port), format!("http://127.0.0.1:{}", alice.port));
    let did = alice.home.create_did(&format!("--method web --host {} --service {}", at.0, at.1));
    alice.start();
    run_with_retry(&alice, &["key", "generate", "--alg", "Ed25519", "--use", "signing", "--name", "new"]).json();
    let changed = run_with_retry(&alice, &["did", "update", &did, "--authentication", "new"]).json();
    assert_eq!(changed["document"]["authentication"], serde_json::json!([format!("{did}#key-3")]));
    let moved = run_with_retry(&alice, &["did", "rotate", &did, "--to", &alice.did]).json();
    assert_eq!(moved["to"], alice.did);
}

/// One update is made on top of the other, and none is lost.
#[test]
fn simultaneous_updates_both_apply() {
    let Some(home) = Home::with_token() else { return };
    home.configure(&softhsm_module().unwrap(), "");
    let did = home.create_did("--method webvh --host example.com --service https://example.com");
    home.run("key generate --alg X25519 --use agreement --name new").success();
    let change = |words: &str| {
        let output = home.run(&format!("--json did update {did} {words}"));
        // A process finds no token at the moment when another one logs in. The command is tried once more.
        if output.status() == 3 { home.run(&format!("--json did update {did} {words}")).json() } else { output.json() }
    };
    let changed = thread::scope(|scope| {
        let other = scope.spawn(|| change("--service https://example.org"));
        [change("--agreement new"), other.join().unwrap()]
    });
    let mut versions = changed.map(|it| it["version"].as_str().unwrap()[..2].to_owned());
    versions.sort();
    assert_eq!(versions, ["2-", "3-"]);
    let document = home.run(&format!("did resolve {did}")).json();
    assert_eq!(document["service"][0]["serviceEndpoint"]["uri"], "https://example.org");
    assert_eq!(document["keyAgreement"], serde_json::json!([format!("{did}#key-3")]));
}

/// Updates without a keeper. `allow` of the configuration is obeyed, with a keeper and without.
#[test]
fn updates_without_a_keeper_obey_the_policy() {
    let Some(home) = Home::with_token() else { return };
    home.configure(&softhsm_module().unwrap(), "[keeper]\nin_process = true\n");
    let did = home.create_did("--method webvh --host example.com --path a/b");
    assert!(did.ends_with(":example.com:a:b"), "{did}");
    home.run(&format!("did update {did} --service https://example.com")).success();
    for keeper in ["", "[keeper]\nin_process = true\n"] {
        home.configure(&softhsm_module().unwrap(), &format!("allow = [\"sign:message\"]\n{keeper}"));
        let refused = home.run(&format!("--json did update {did} --service https://example.org"));
        assert_ne!(refused.status(), 0);
        assert!(refused.stderr().contains("sign:webvh-entry"), "{}", refused.stderr());
    }
    let log = fs::read_dir(home.path().join("state/documents")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(fs::read_to_string(log).unwrap().lines().count(), 2);
}

/// Someone who can write to the disk, or controls the server, cannot change the DID without the token.
#[test]
fn a_modified_log_is_refused() {
    let Some((mut alice, did, mut bob)) = alice_with_webvh_and_bob() else { return };
    let path = log_file(&alice);
    let log = fs::read_to_string(&path).unwrap();
    let tampered = log.replace(&format!("http://127.0.0.1:{}", alice.port), "http://127.0.0.1:1");
    assert_ne!(tampered, log);

    // The owner refuses to serve it.
    fs::write(&path, &tampered).unwrap();
    let output = alice.home.run("--json serve --check");
    assert_eq!(output.error(2), "bad-document");
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(output.stderr().contains(name) && output.stderr().contains("entry 1 of its log"), "{}", output.stderr());

    // A peer refuses it.
    let listener = TcpListener::bind(("127.0.0.1", alice.port)).unwrap();
    let mallory = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", tampered.len());
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(tampered.as_bytes())).unwrap();
    });
    bob.start();
    bob.json(&["send", "--to", &did, "hello"]);
    mallory.join().unwrap();
    bob.wait_until("the log is refused", |bob| bob.log().contains("entry 1 of its log is not valid"));

    // With the original log, both work again.
    fs::write(&path, log).unwrap();
    alice.start();
    bob.stop();
    bob.start();
    bob.json(&["send", "--to", &did, "hello again", "--within", "30"]);
    alice.wait_until("the message arrived", |alice| alice.unread_texts().contains(&"hello again".to_owned()));
}
