//! A daemon whose store is in PostgreSQL, over TCP and TLS: a database that is used by another agent, that refuses the login,
//! and that is away while messages come.

use std::{
    fs,
    net::TcpListener,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    api_client::{ApiClient, SAY},
    backup::{copy_folder, new_home_of},
    daemon::{Daemon, free_port, status_of, write_with_mode},
    endpoint::{Endpoint, accepted},
    load::LoadGenerator,
    peer::Peer,
    pooler::Pooler,
    postgres_server::{PASSWORD, Server},
};

/// How long the database is away, unless `CLAVIGER_AWAY_SECONDS` says otherwise. The agent must not run out of something
/// meanwhile.
const AWAY: u64 = 15;

/// A daemon, which is not started, and whose store is a new database of the server.
pub fn daemon_on(server: &Server) -> Option<Daemon> {
    let certificate = server.certificate();
    let net = format!("[net]\nallow_private = [\"127.0.0.0/8\"]\nca = \"{}\"", certificate.display());
    let daemon = Daemon::with_config(&net, &store_section(server, &server.database()))?;
    write_with_mode(&daemon.home, "store.password", PASSWORD, 0o600);
    Some(daemon)
}

fn store_section(server: &Server, database: &str) -> String {
    format!("[store]\nurl = \"{}\"\npassword_file = \"store.password\"\n", server.url_at("localhost", database))
}

/// Has the daemon receive the messages "one" and "two", and send an answer. Returns the id of the answer in the outbox.
fn receive_and_answer(alice: &Daemon) -> String {
    let endpoint = Endpoint::accepting();
    let peer = Peer::with_endpoint("peer", &endpoint.uri());
    for text in ["one", "two"] {
        assert_eq!(status_of(&alice.post(peer.pack_text(&alice.did, text).as_bytes())), 202);
    }
    alice.wait_until("the messages arrived", |alice| alice.unread_texts() == ["one", "two"]);
    let id = alice.send_text(peer.did(), "answer").unwrap();
    alice.wait_until("the answer is sent", |alice| alice.outbox_message(&id)["state"] == "sent");
    id
}

#[test]
fn messages_are_kept_in_a_database() {
    let Some(server) = Server::shared() else { return };
    let Some(mut alice) = daemon_on(server) else { return };
    alice.start();
    let id = receive_and_answer(&alice);
    assert!(alice.run(&["serve", "--check"]).success().contains(" at localhost"));
    alice.stop();
    assert!(alice.run(&["serve", "--check"]).success().contains(" at localhost"));
    alice.start();
    assert_eq!(alice.unread_texts(), ["one", "two"]);
    assert_eq!(alice.outbox_message(&id)["state"], "sent");
    assert!(!alice.home.path().join("state/agent").exists(), "nothing is kept in a file");
    assert!(!alice.log().contains(PASSWORD));
}

#[test]
fn a_database_is_refused_for_a_reason() {
    let Some(server) = Server::shared() else { return };
    let Some(mut alice) = daemon_on(server) else { return };
    let file = alice.home.path().join("claviger.toml");
    let right = fs::read_to_string(&file).unwrap();
    let configure = |from: &str, to: &str| {
        assert!(right.contains(from), "{from}");
        fs::write(&file, right.replacen(from, to, 1)).unwrap();
    };
    for (from, to, reason) in [
        ("password_file = \"store.password\"", "", "password missing"),
        ("?sslmode=verify-full", "?sslmode=disable", "no encryption"),
        ("@localhost", "@127.0.0.1", "certificate not valid for name"),
        ("/store_", "/no_store_", "does not exist"),
    ] {
        configure(from, to);
        for command in ["serve", "serve --check"] {
            let refused = alice.home.run(&format!("--json {command}"));
            assert_eq!(refused.error(1), "store-unavailable");
            assert!(refused.stderr().contains(reason), "{command}: {}", refused.stderr());
        }
    }
    for (from, to, reason) in [
        ("@localhost", ":secret@localhost", "password"),
        ("postgres://agent@localhost", "postgres:///x?host=/tmp&user=agent&application_name=", "Unix socket"),
        ("\"store.password\"", "\"other.password\"", "other.password"),
        ("[store]", "[store]\npath = \"agent.db\"", "both path and url"),
        ("[store]\nurl = ", "[store]\nlisten_url = ", "listen_url without url"),
        ("[store]\nurl = ", "[store]\nnode = \"a\"\n#", "node without url"),
        (
            "[store]\nurl = ",
            "[store]\nkeys = [\"z6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc\"]\n#",
            "keys without url",
        ),
        ("[store]", "[store]\nkeys = [\"z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK\"]", "on Ed25519"),
        ("[store]", "[store]\nkeys = [\"a label\"]", "is not a multikey"),
        ("[store]", "[store]\nnode = \"A node\"", "node in [store]"),
        ("[store]", "[store]\nlisten_url = \"postgres://a:secret@localhost/x\"", "listen_url in [store]"),
        ("[store]", "[store]\nlisten_url = \"postgres:///x?host=/tmp&user=a\"", "listen_url in [store] names a Unix"),
    ] {
        configure(from, to);
        let refused = alice.home.run("--json serve --check");
        assert_eq!(refused.error(2), "bad-config");
        let text = refused.stderr();
        assert!(text.contains(reason) && !text.contains("secret"), "{text}");
    }
    fs::write(&file, &right).unwrap();
    write_with_mode(&alice.home, "store.password", "wrong", 0o600);
    let refused = alice.home.run("--json serve");
    assert_eq!(refused.error(1), "store-unavailable");
    assert!(refused.stderr().contains("password authentication failed"), "{}", refused.stderr());
    write_with_mode(&alice.home, "store.password", PASSWORD, 0o644);
    assert_eq!(alice.home.run("--json serve").error(2), "bad-config");
    write_with_mode(&alice.home, "store.password", PASSWORD, 0o600);

    // Another agent has the database, or the name.
    let Some(bob) = daemon_on(server) else { return };
    let of_alice = right.lines().find(|line| line.starts_with("url = ")).unwrap();
    let bobs_file = bob.home.path().join("claviger.toml");
    let text = fs::read_to_string(&bobs_file).unwrap();
    let of_bob = text.lines().find(|line| line.starts_with("url = ")).unwrap();
    let with_node = |text: &str, node: &str| text.replace("[store]\n", &format!("[store]\n{node}"));
    let named = "node = \"a\"\n";
    for (of_first, of_second) in [("", ""), ("", named), (named, ""), (named, named)] {
        fs::write(&file, with_node(&right, of_first)).unwrap();
        fs::write(&bobs_file, with_node(&text.replace(of_bob, of_alice), of_second)).unwrap();
        alice.start();
        for command in ["serve", "serve --check"] {
            assert_eq!(bob.home.run(&format!("--json {command}")).error(1), "agent-there", "{of_first} {of_second}");
        }
        assert!(alice.is_ready());
        alice.stop();
        bob.home.run("serve --check").success();
    }
}

/// Through a pooler in transaction mode, over TCP with a password. Without a direct connection, the agent does not start.
#[test]
fn a_database_is_used_through_a_pooler() {
    let (Some(server), Some(pooler)) = (Server::shared(), Pooler::shared()) else { return };
    let Some(mut alice) = daemon_on(server) else { return };
    let file = alice.home.path().join("claviger.toml");
    let text = fs::read_to_string(&file).unwrap();
    let direct = text.lines().find(|line| line.starts_with("url = ")).unwrap();
    let database = direct.rsplit('/').next().and_then(|name| name.split('?').next()).unwrap();
    let only_pooled = text.replace(direct, &format!("url = \"{}\"", pooler.url_over_tcp(database)));
    fs::write(&file, &only_pooled).unwrap();
    for command in ["serve", "serve --check"] {
        let refused = alice.home.run(&format!("--json {command}"));
        assert_eq!(refused.error(1), "store-unusable");
        assert!(refused.stderr().contains("listen_url"), "{}", refused.stderr());
    }
    let with_direct = |url: &str| only_pooled.replace("[store]", &format!("[store]\nlisten_{url}"));
    fs::write(&file, with_direct(&direct.replace(database, &server.database()))).unwrap();
    let refused = alice.home.run("--json serve --check");
    assert_eq!(refused.error(1), "store-unavailable");
    assert!(refused.stderr().contains("not the same database"), "{}", refused.stderr());

    fs::write(&file, with_direct(direct)).unwrap();
    alice.start();
    assert!(alice.run(&["serve", "--check"]).success().contains(" at 127.0.0.1"));
    receive_and_answer(&alice);
    let folder = alice.home.path().join("copy");
    alice.run(&["backup", folder.to_str().unwrap()]).success();
    alice.stop();
    alice.run(&["store", "check"]).success();
}

/// A backup has the database as a file. It is restored to an empty database, or to a file.
#[test]
fn a_database_is_backed_up_and_restored() {
    let Some(server) = Server::shared() else { return };
    let Some(mut alice) = daemon_on(server) else { return };
    alice.start();
    let peer = Peer::new("peer");
    let receive = |alice: &Daemon, text: &str| {
        assert_eq!(status_of(&alice.post(peer.pack_text(&alice.did, text).as_bytes())), 202);
        alice.wait_until("the message arrived", |alice| alice.unread_texts().last().is_some_and(|last| last == text));
    };
    receive(&alice, "before");
    let folder = alice.home.path().join("copy");
    let folder = folder.to_str().unwrap();
    let made = alice.json(&["backup", folder]);
    let paths: Vec<&str> = made["files"].as_array().unwrap().iter().map(|it| it["path"].as_str().unwrap()).collect();
    let at_top: Vec<_> = paths.iter().filter(|path| !path.contains('/')).collect();
    assert_eq!(at_top, [&"agent.db"], "{paths:?}");
    receive(&alice, "after");
    let cursor = ApiClient::new(&alice).get("/v1/inbox").json(200)["cursor"].as_i64().unwrap();
    assert_eq!(alice.run(&["restore", folder]).error(1), "agent-there");
    alice.stop();
    // What is in the database is not replaced.
    let refused = alice.run(&["restore", folder]);
    assert_eq!(refused.error(1), "store-unusable");
    assert!(refused.stderr().contains("is not empty"), "{}", refused.stderr());
    alice.start();
    assert_eq!(alice.unread_texts(), ["before", "after"]);
    alice.stop();

    let file = alice.home.path().join("claviger.toml");
    let text = fs::read_to_string(&file).unwrap();
    let url = text.lines().find(|line| line.starts_with("url = ")).unwrap();
    let empty = format!("url = \"{}\"", server.url_at("localhost", &server.database()));
    let in_file = text.replace(url, "path = \"restored.db\"").replace("password_file = \"store.password\"", "");
    for (changed, store) in [(text.replace(url, &empty), " at localhost"), (in_file, "restored.db")] {
        fs::write(&file, changed).unwrap();
        let restored = alice.json(&["restore", folder]);
        assert!(restored["store"].as_str().unwrap().contains(store), "{restored}");
        alice.start();
        assert_eq!(alice.unread_texts(), ["before"]);
        let page = ApiClient::new(&alice).get(&format!("/v1/inbox?after={cursor}"));
        assert_eq!(page.error(409), "cursor-unknown");
        receive(&alice, "anew");
        alice.stop();
        alice.run(&["store", "check"]).success();
    }
}

/// An agent on another machine, with the same database, the same keys and the same documents, stands by: its service manager
/// starts it again and again. When the machine of the first agent fails, it goes on with what that one has left.
#[test]
fn another_agent_takes_over() {
    let Some(server) = Server::shared() else { return };
    let Some(mut alice) = daemon_on(server) else { return };
    alice.start();
    let (port, ops_port) = (free_port(), free_port());
    let mut bob = new_home_of(&alice);
    let text = fs::read_to_string(bob.home.path().join("claviger.toml")).unwrap();
    let listens = |port: u16| format!("listen = \"127.0.0.1:{port}\"");
    let text = text.replace(&listens(alice.port), &listens(port)).replace(&listens(alice.ops_port), &listens(ops_port));
    bob.home.write("claviger.toml", &text);
    (bob.port, bob.ops_port) = (port, ops_port);
    write_with_mode(&bob.home, "store.password", PASSWORD, 0o600);
    copy_folder(&alice.home.path().join("state/documents"), &bob.home.path().join("state/documents"));

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = Peer::with_endpoint("peer", &format!("http://{}", listener.local_addr().unwrap()));
    let receive = |agent: &Daemon, text: &str| {
        assert_eq!(status_of(&agent.post(peer.pack_text(&agent.did, text).as_bytes())), 202);
        agent.wait_until("the message arrived", |agent| agent.unread_texts().last().is_some_and(|last| last == text));
    };
    receive(&alice, "one");
    let cursor = ApiClient::new(&alice).get("/v1/inbox").json(200)["cursor"].as_i64().unwrap();
    let refusing = Endpoint::with_listener(listener.try_clone().unwrap(), |_| (503, String::new(), String::new()));
    let id = alice.send_text(peer.did(), "answer").unwrap();
    alice.wait_until("the peer refuses it", |alice| alice.outbox_message(&id)["problem"] != Value::Null);
    assert_eq!(bob.home.run("--json serve").error(1), "agent-there");
    receive(&alice, "two");

    alice.kill();
    bob.start();
    drop(refusing);
    let endpoint = Endpoint::with_listener(listener, |_| accepted());
    assert_eq!(bob.unread_texts(), ["one", "two"]);
    let page = ApiClient::new(&bob).get(&format!("/v1/inbox?after={cursor}")).json(200);
    assert_eq!(page["messages"].as_array().unwrap().len(), 1, "the cursor holds");
    receive(&bob, "three");
    bob.run(&["outbox", "retry", "--to", peer.did()]).success();
    bob.wait_until("the answer is sent", |bob| bob.outbox_message(&id)["state"] == "sent");
    assert_eq!(endpoint.messages().len(), 1);
    assert_eq!(alice.home.run("--json serve").error(1), "agent-there");
}

/// While the database is away, nothing is accepted, and peers and applications are told to come again. Then the agent goes on by
/// itself: what was accepted is there once, and cursors hold.
#[test]
fn an_agent_waits_for_its_database() {
    let Some(server) = Server::start() else { return };
    let Some(mut alice) = daemon_on(&server) else { return };
    alice.start();
    let endpoint = Endpoint::accepting();
    let peer = Peer::with_endpoint("peer", &endpoint.uri());
    assert_eq!(status_of(&alice.post(peer.pack_text(&alice.did, "before").as_bytes())), 202);
    alice.wait_until("the message arrived", |alice| alice.unread_texts() == ["before"]);
    let application = ApiClient::new(&alice);
    let cursor = application.get("/v1/inbox").json(200)["cursor"].as_i64().unwrap();
    let load = LoadGenerator::start(&alice, 2);
    alice.wait_until("messages are accepted", |_| load.accepted() > 20);

    server.crash();
    let away = Instant::now();
    let refused = alice.post(peer.pack_text(&alice.did, "not taken").as_bytes());
    assert_eq!(status_of(&refused), 503, "{refused}");
    assert!(refused.to_lowercase().contains("retry-after: "), "{refused}");
    let message = json!({"to": peer.did(), "type": SAY, "body": {"content": "not taken"}});
    let response = application.post("/v1/messages", &message);
    assert_eq!(response.error(503), "store-unavailable");
    assert!(response.header("retry-after").is_some());
    alice.wait_until("the health check fails", |alice| !alice.is_ready());
    assert!(alice.is_live());
    // What is not in the store is told.
    let status = application.get("/v1/status").json(200);
    assert!(status["store_problem"].as_str().unwrap().starts_with("the store cannot be used now: "), "{status}");
    assert!(status["waiting"].is_null() && status["token_ready"] == true, "{status}");
    assert_eq!(alice.metric("claviger_store_available"), 0.0);
    let shown = alice.home.run_args(&["status"], "");
    assert!(
        shown.stderr().contains("warning: the store cannot be used now: ") && !shown.stdout().contains("to be read"),
        "{}",
        shown.stderr()
    );
    let while_away = load.accepted();
    let seconds = std::env::var("CLAVIGER_AWAY_SECONDS").map_or(AWAY, |seconds| seconds.parse().expect("a number"));
    std::thread::sleep(Duration::from_secs(seconds).saturating_sub(away.elapsed()));
    assert_eq!(load.accepted(), while_away);

    server.restart();
    alice.wait_until("the agent goes on", Daemon::is_ready);
    assert_eq!(alice.metric("claviger_store_available"), 1.0);
    let after = load.accepted();
    alice.wait_until("messages are accepted again", |_| load.accepted() > after + 20);
    let id = alice.send_text(peer.did(), "after").unwrap();
    alice.wait_until("a message is sent", |alice| alice.outbox_message(&id)["state"] == "sent");
    assert_eq!(endpoint.messages().len(), 1);
    let mut sent = load.stop();
    sent.accepted.insert("before".to_owned());
    sent.assert_each_delivered_once(&alice, Duration::from_secs(60));
    // The cursor that was given out before is known.
    let page = application.get(&format!("/v1/inbox?limit=1&after={cursor}")).json(200);
    assert_ne!(page["messages"][0]["message"]["body"]["content"], "before");
}
