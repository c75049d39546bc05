//! A DID whose document has a key that no token proves is named and refused, at start and while the daemon runs.

use std::fs;

use claviger::keys::{Curve, PublicKey};

use crate::{
    daemon::{Daemon, status_of},
    peer::{Peer, keys_of},
    token_objects::{Template, make_pair, replace_by_stranger, replace_public_half},
};

/// The status of the answer to a message from `peer` to a DID.
fn post(daemon: &Daemon, peer: &Peer, to: &str) -> u16 {
    status_of(&daemon.post(peer.pack_text(to, "hello").as_bytes()))
}

fn agreement_key(did: &str) -> PublicKey {
    keys_of(did)[0].1.clone()
}

/// Waits until this DID is refused, and checks that it is named everywhere.
fn check_refused(daemon: &Daemon, peer: &Peer, did: &str, why: &str) {
    daemon.wait_until("the DID is refused", |daemon| daemon.metric("claviger_refused_dids") == 1.0);
    let status = daemon.json(&["status"])["status"].clone();
    let refused = &status["refused"][0];
    assert_eq!((&refused["did"], status["refused"].as_array().unwrap().len()), (&did.into(), 1), "{status}");
    let key = &refused["keys"][0];
    assert_eq!(key["key"], agreement_key(did).to_multikey());
    assert!(key["why"].as_str().unwrap().contains(why), "{key}");
    assert!(daemon.home.run("status").stderr().contains("is refused"));
    let ready = daemon.get_ops("/ready");
    assert!(ready.contains("DID refused") && ready.contains(key["id"].as_str().unwrap()), "{ready}");
    daemon.wait_until("the log names the DID", |daemon| {
        daemon.log().lines().any(|line| line.contains("DID refused") && line.contains(did))
    });
    assert_eq!(post(daemon, peer, did), 503);
}

#[test]
fn a_document_whose_key_is_not_proved_is_refused_at_start() {
    let Some(mut daemon) = Daemon::new("") else { return };
    let (did, peer) = (daemon.did.clone(), Peer::new("alice"));
    let other = daemon.home.create_did("--method peer:2");
    let ours = agreement_key(&did);
    let stranger = replace_by_stranger(&daemon.home, &ours);
    daemon.start();
    check_refused(&daemon, &peer, &did, "every token has shown its keys");
    assert_eq!(post(&daemon, &peer, &other), 202);
    daemon.stop();
    // A token that is away says nothing about its keys.
    daemon.disconnect_token();
    daemon.start_without_token();
    assert_eq!((post(&daemon, &peer, &did), post(&daemon, &peer, &other)), (202, 202));
    assert_eq!(daemon.metric("claviger_refused_dids"), 0.0);
    daemon.stop();
    daemon.reconnect_token();
    // The DID that was refused is served once its key is proved, and the message that waited is read.
    replace_public_half(&daemon.home, &stranger, &ours);
    daemon.start();
    assert_eq!(daemon.metric("claviger_refused_dids"), 0.0);
    daemon.wait_until("both messages are read", |daemon| {
        daemon.json(&["status"])["status"]["waiting"]["deliveries"] == 3
    });
}

/// A pair that the token holds and the keeper does not serve, here because it is extractable.
#[test]
fn a_document_with_a_key_that_is_not_served_is_refused() {
    let Some(mut daemon) = Daemon::new("") else { return };
    let loose = Template { derive: true, sign: false, extractable: true };
    make_pair(&daemon.home, Curve::X25519, "loose", loose);
    let configuration = fs::read_to_string(daemon.home.path().join("claviger.toml")).unwrap();
    let allowing = "name = \"soft\"\nallow_unprotected = [\"loose\"]";
    daemon.home.write("claviger.toml", &configuration.replace("name = \"soft\"", allowing));
    let did = daemon.home.create_did("--method peer:2 --agreement loose");
    daemon.start();
    assert_eq!((daemon.metric("claviger_refused_dids"), post(&daemon, &Peer::new("alice"), &did)), (0.0, 202));
    daemon.stop();
    daemon.home.write("claviger.toml", &configuration);
    daemon.start();
    check_refused(&daemon, &Peer::new("bob"), &did, "extractable");
}

#[test]
fn a_document_whose_key_is_replaced_is_refused_while_the_daemon_runs() {
    let Some(mut daemon) = Daemon::new("[keeper]\ncheck_keys_seconds = 1\n") else { return };
    let (did, peer) = (daemon.did.clone(), Peer::new("alice"));
    let other = daemon.home.create_did("--method peer:2");
    daemon.start();
    assert_eq!((post(&daemon, &peer, &did), post(&daemon, &peer, &other)), (202, 202));
    let ours = agreement_key(&did);
    let stranger = replace_by_stranger(&daemon.home, &ours);
    check_refused(&daemon, &peer, &did, "every token has shown its keys");
    assert_eq!(post(&daemon, &peer, &other), 202);
    replace_public_half(&daemon.home, &stranger, &ours);
    daemon.wait_until("the DID is served again", |daemon| daemon.metric("claviger_refused_dids") == 0.0);
    assert_eq!(post(&daemon, &peer, &did), 202);
    daemon
        .wait_until("all messages are read", |daemon| daemon.json(&["status"])["status"]["waiting"]["deliveries"] == 4);
}

#[test]
fn no_did_is_rotated_to_a_key_that_is_not_proved() {
    let Some(daemon) = Daemon::running("") else { return };
    let new = daemon.home.create_did("--method peer:2");
    replace_by_stranger(&daemon.home, &agreement_key(&new));
    let ran = daemon.run(&["did", "rotate", &daemon.did, "--to", &new]);
    assert_eq!(ran.error(1), "key-unknown", "no token holds the key of the document any more");
    let ran = daemon.run(&["did", "rotate", &daemon.did]);
    assert_eq!(ran.status(), 0, "{}", ran.stderr());
}

/// `did create` says whether a running agent has the DID already.
#[test]
fn did_create_says_who_serves_the_document() {
    let Some(mut daemon) = Daemon::new("") else { return };
    let create = |daemon: &Daemon, path: &str| {
        let ran = daemon.home.run(&format!("did create --method web --host example.org --path {path}"));
        ran.success();
        ran.stderr().to_owned()
    };
    assert!(create(&daemon, "first").contains("`claviger serve` does that"));
    daemon.start();
    assert!(create(&daemon, "second").contains("the running agent does that now"));
    let answer = crate::daemon::http(
        daemon.port,
        "GET /second/did.json HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n",
        b"",
    );
    assert_eq!(status_of(&answer), 200, "{answer}");
}
