//! DID rotation and the end of relationships, on both sides; and the store after a rotation and with several tokens.

use std::os::unix::process::CommandExt;

use claviger::secrets::FromPriorClaims;

use crate::{
    api_client::ApiClient,
    daemon::Daemon,
    endpoint::Endpoint,
    home::softhsm_module,
    peer::{Peer, block_on, seconds},
};

/// Two running agents with a connection.
fn connected_agents() -> Option<(Daemon, Daemon)> {
    let (alice, bob) = (Daemon::running("")?, Daemon::running("")?);
    // The short URL: Bob fetches the invitation from it.
    let url = alice.json(&["invite"])["short_url"].as_str().unwrap().to_owned();
    bob.json(&["accept", &url]);
    alice.wait_until("Bob is known", |alice| alice.json(&["connections"])["connections"][0]["theirs"] == bob.did);
    Some((alice, bob))
}

#[test]
fn a_peer_follows_a_rotated_did() {
    let Some((alice, bob)) = connected_agents() else { return };
    let rotated = alice.json(&["did", "rotate", &alice.did]);
    let new = rotated["to"].as_str().unwrap();
    assert_ne!(new, alice.did);
    assert_eq!(rotated["peers"], serde_json::json!([bob.did]));
    bob.wait_until("Bob knows the new DID", |bob| {
        let known = bob.json(&["connections"]);
        let known = known["connections"].as_array().unwrap();
        known.iter().any(|it| it["theirs"] == new && it["previous"][0] == alice.did)
    });

    // Bob sends to the old DID, and Alice from it: the agents use the new one.
    bob.json(&["send", "--to", &alice.did, "to the old one", "--within", "30"]);
    alice.wait_until("the message arrived", |alice| alice.unread_texts() == ["to the old one"]);
    assert_eq!(alice.delivery("to the old one")["recipient"], new);
    alice.json(&["send", "--to", &bob.did, "--from", &alice.did, "from the old one", "--within", "30"]);
    bob.wait_until("the message arrived", |bob| bob.unread_texts() == ["from the old one"]);
    assert_eq!(bob.delivery("from the old one")["sender"], new);

    // Bob has written to the new DID, so Alice no longer sends from_prior.
    alice.json(&["send", "--to", &bob.did, "again", "--within", "30"]);
    bob.wait_until("the message arrived", |bob| bob.unread_texts().len() == 2);
    let again = bob.delivery("again");
    assert!(again["provenance"]["from_prior"].is_null(), "{again}");
    // Peers ignore messages from a DID that has rotated, so there is no way back.
    let back = alice.run(&["did", "rotate", new, "--to", &alice.did]);
    assert_eq!(back.error(1), "bad-message");
    assert!(back.stderr().contains("has rotated to"), "{}", back.stderr());
    // The new keys work after a restart.
    let mut alice = alice;
    alice.stop();
    alice.start();
    bob.json(&["ping", new]);
}

#[test]
fn the_api_refuses_a_forged_from_prior() {
    let Some((alice, bob)) = connected_agents() else { return };
    let next = alice.home.create_did("--method peer:2");
    let forged = serde_json::json!({
        "from": alice.did, "to": next, "from_prior": "e30.e30.e30", "overlap_days": 1
    });
    let answer = ApiClient::new(&alice).post("/v1/dids/rotate", &forged);
    assert_eq!(answer.status, 400, "{}", answer.body);
    let connection = &alice.json(&["connections"])["connections"][0];
    assert_eq!((connection["ours"].as_str(), connection["theirs"].as_str()), (Some(&*alice.did), Some(&*bob.did)));
}

#[test]
fn nothing_is_sent_after_a_relationship_ends() {
    let Some((alice, bob)) = connected_agents() else { return };
    bob.json(&["connections", "--end", &alice.did]);
    alice.wait_until("Alice knows that it ended", |alice| {
        !alice.json(&["connections"])["connections"][0]["ended"].is_null()
    });
    // No other DID of Alice is chosen, since that would tell Bob who she is.
    let refused = alice.run(&["send", "--to", &bob.did, "are you there?"]);
    assert_eq!(refused.error(1), "connection-ended");
    assert!(refused.stderr().contains("has ended"), "{}", refused.stderr());
    let refused = alice.run(&["send", "--to", &bob.did, "--from", &alice.did, "are you there?"]);
    assert_eq!(refused.error(1), "connection-ended");
    assert!(bob.unread_texts().is_empty());
}

/// After the overlap the old DID can be retired, which deletes its keys. The store is then opened with the keys of the
/// new DID.
#[test]
fn a_rotated_did_is_retired_and_its_keys_are_deleted() {
    let Some((alice, bob)) = connected_agents() else { return };
    let keys = |daemon: &Daemon| daemon.json(&["key", "list"]).as_array().unwrap().len();
    bob.json(&["send", "--to", &alice.did, "kept", "--within", "30"]);
    alice.wait_until("the message arrived", |alice| alice.unread_texts() == ["kept"]);
    let retire = |daemon: &Daemon| daemon.run(&["did", "retire", &alice.did, "--yes"]);
    // The DID was not rotated yet. After its rotation, its overlap has not ended.
    assert_eq!(retire(&alice).error(1), "bad-message");
    let new = alice.json(&["did", "rotate", &alice.did, "--overlap", "1"])["to"].as_str().unwrap().to_owned();
    let refused = retire(&alice);
    assert!(refused.stderr().contains("are read until"), "{}", refused.stderr());
    assert_eq!((refused.error(1).as_str(), keys(&alice)), ("bad-message", 4));
    // A second rotation ends the overlap at once.
    alice.json(&["did", "rotate", &alice.did, "--to", &new, "--overlap", "0"]);
    let retired = retire(&alice).json();
    assert_eq!((retired["deleted"].as_array().unwrap().len(), keys(&alice)), (2, 2));
    assert_eq!(retire(&alice).error(1), "not-ours");
    let mut alice = alice;
    alice.stop();
    alice.start();
    assert_eq!(alice.unread_texts(), ["kept"]);
    bob.json(&["ping", &new]);
    // A message to the retired DID is answered from the new one.
    let kept = alice.delivery("kept");
    assert_eq!(kept["recipient"], alice.did);
    alice.json(&["reply", kept["id"].as_str().unwrap(), "an answer", "--within", "30"]);
    bob.wait_until("the answer arrived", |bob| bob.unread_texts() == ["an answer"]);
    assert_eq!(bob.delivery("an answer")["sender"], new);
    bob.json(&["send", "--to", &new, "and on", "--within", "30"]);
    alice.wait_until("the message arrived", |alice| alice.unread_texts() == ["kept", "and on"]);
    assert!(!alice.json(&["connections"])["connections"].as_array().unwrap().is_empty());
}

/// Any one of the tokens opens the store, even if a DID was made while that token was missing.
/// What a person sees of a rotation, and what is refused before anything is asked or made.
#[test]
fn a_rotation_is_shown() {
    let Some((alice, _bob)) = connected_agents() else { return };
    let old = alice.did.clone();
    let refused = alice.run(&["did", "retire", &old]);
    assert_eq!(refused.error(1), "bad-message");
    assert!(refused.stderr().contains("has not rotated"), "{}", refused.stderr());

    let new = alice.json(&["did", "rotate", &old])["to"].as_str().unwrap().to_owned();
    let listed = alice.json(&["did", "list"]);
    let own = |did: &str| listed.as_array().unwrap().iter().find(|own| own["did"] == did).unwrap().clone();
    assert_eq!(own(&old)["rotated_to"], new);
    let days = (own(&old)["read_until"].as_i64().unwrap() / 1000 - i64::try_from(seconds()).unwrap()) / 86_400;
    assert!((29..=30).contains(&days), "{listed}");
    assert!(own(&new)["rotated_to"].is_null(), "{listed}");
    assert!(alice.home.run("did list").success().contains("rotated to did:peer:2"));
    assert!(alice.home.run("connections list").success().contains(", which has rotated to did:peer:2"));
    // Nobody is asked whether keys may be deleted that are needed for a month.
    let refused = alice.run(&["did", "retire", &old]);
    assert_eq!(refused.error(1), "bad-message");
    assert!(
        refused.stderr().contains("are read until") && refused.stderr().contains("--overlap 0"),
        "{}",
        refused.stderr()
    );
    let again = alice.run(&["did", "rotate", &old]);
    assert_eq!(again.error(2), "bad-arguments");
    assert!(again.stderr().contains("goes on from there"), "{}", again.stderr());
    assert_eq!(alice.json(&["did", "list"]).as_array().unwrap().len(), 2, "no further DID was made");
}

#[test]
fn any_one_token_opens_the_store() {
    let Some(module) = softhsm_module() else { return };
    let Some(mut alice) = Daemon::new("") else { return };
    let Some(bob) = Daemon::running("") else { return };
    let module = module.display();
    let token = |name: &str| {
        let uri = format!("pkcs11:token={name}?module-path={module}&pin-source=file:user.pin");
        format!("[[token]]\nname = \"{name}\"\nuri = \"{uri}\"\n")
    };
    let configuration = std::fs::read_to_string(alice.home.path().join("claviger.toml")).unwrap();
    let rest = configuration.replace(&token("soft"), "");
    let configure = |alice: &Daemon, tokens: &[&str]| {
        let tokens: String = tokens.iter().map(|name| token(name)).collect();
        alice.home.write("claviger.toml", &rest.replacen("[http]", &format!("{tokens}[http]"), 1));
    };
    configure(&alice, &["soft", "spare"]);
    alice.home.run("token init spare --so-pin-source file:so.pin").success();
    let service = format!("http://127.0.0.1:{}", alice.port);
    let did = alice.home.create_did(&format!("--method peer:2 --service {service} --token soft --token spare"));
    alice.start();
    bob.json(&["send", "--to", &did, "kept", "--within", "30"]);
    alice.wait_until("the message arrived", |alice| alice.unread_texts() == ["kept"]);
    alice.stop();
    // The spare token is missing while a DID is made, for whose key the store key is wrapped. Then it is the
    // only token.
    configure(&alice, &["soft"]);
    alice.start();
    alice.json(&["did", "create", "--method", "peer:2", "--service", &service]);
    alice.stop();
    configure(&alice, &["spare"]);
    alice.start();
    assert_eq!(alice.unread_texts(), ["kept"]);
}

/// A peer got no answer and sends a message again, after one of the two has rotated to another DID. The message is
/// handled once.
#[test]
fn a_message_that_is_repeated_after_a_rotation_is_handled_once() {
    let Some(daemon) = Daemon::running("") else { return };
    let (before, after) = (Peer::new("before"), Peer::new("after"));
    let message = before.message(&daemon.did, "once").finalize();
    assert_eq!(daemon.post_status(before.pack(&message)), 202);
    daemon.wait_until("the message arrived", |daemon| daemon.unread_texts() == ["once"]);
    // The peer rotates. The first repetition says so, the second does not.
    let claims = FromPriorClaims::rotation(before.did(), after.did(), i64::try_from(seconds()).unwrap());
    let (proof, _) = block_on(claims.pack(None, &before.person.identities)).unwrap();
    let repeat = |to: &str, proof: Option<&str>| {
        let mut again = after.message(to, "once").finalize();
        again.id.clone_from(&message.id);
        again.from_prior = proof.map(str::to_owned);
        again
    };
    for proof in [Some(proof.as_str()), None] {
        assert_eq!(daemon.post_status(after.pack(&repeat(&daemon.did, proof))), 202);
        daemon.wait_until_all_opened();
    }
    assert_eq!(daemon.unread_texts(), ["once"]);
    // The rotation took effect.
    let connections = daemon.json(&["connections"])["connections"].clone();
    assert_eq!(
        (&connections[0]["theirs"], &connections[0]["previous"][0]),
        (&after.did().into(), &before.did().into())
    );

    // The daemon rotates too, and the peer repeats the message to its new DID.
    let new = daemon.json(&["did", "rotate", &daemon.did])["to"].as_str().unwrap().to_owned();
    assert_eq!(daemon.post_status(after.pack(&repeat(&new, None))), 202);
    assert_eq!(daemon.post_status(after.pack_text(&new, "more")), 202);
    daemon.wait_until("the other message arrived", |daemon| daemon.unread_texts().contains(&"more".to_owned()));
    daemon.wait_until_all_opened();
    assert_eq!(daemon.unread_texts(), ["once", "more"]);
}

/// Without `--from`, the DID of the connection sends, also if the peer is named by the long form of its did:peer:4.
#[test]
fn the_did_of_the_connection_sends() {
    let Some(daemon) = Daemon::running("") else { return };
    let endpoint = Endpoint::accepting();
    let peer = Peer::with_long_form("peer", Some(&endpoint.uri()));
    assert_eq!(daemon.post_status(peer.pack_text(&daemon.did, "hello")), 202);
    daemon.wait_until("the message arrived", |daemon| daemon.unread_texts() == ["hello"]);
    let newest = daemon.json(&["did", "create", "--method", "peer:2", "--service", "http://127.0.0.1:1"]);
    assert_ne!(newest["did"], daemon.did.as_str());
    let sent = daemon.json(&["send", "--to", peer.did(), "hello to you", "--within", "30"]);
    assert_eq!(sent["from"], daemon.did.as_str());
    assert_eq!(sent["tries"], 1, "{sent}");
    assert_eq!(endpoint.messages().len(), 1);
}

/// The store key is wrapped for the new keys, and neither that nor the end of the daemon is a failure.
#[test]
fn new_dids_and_the_end_of_the_daemon_are_no_failures() {
    let Some(mut alice) = Daemon::running("") else { return };
    for _ in 0..3 {
        alice.home.create_did("--method peer:2 --service http://127.0.0.1:1/");
    }
    alice.json(&["did", "rotate", &alice.did]);
    alice.stop();
    // systemd sends SIGTERM to all processes of the service.
    let mut command = alice.home.command(&claviger_testkit::program!());
    command.process_group(0);
    alice.start_with(command);
    alice.wait_until_token_ready();
    let group = rustix::process::Pid::from_raw(alice.pid().try_into().unwrap()).unwrap();
    rustix::process::kill_process_group(group, rustix::process::Signal::TERM).unwrap();
    alice.wait();
    let log = alice.log();
    assert!(!log.contains("store key not wrapped") && !log.contains("connection to the keeper lost"), "{log}");
}
