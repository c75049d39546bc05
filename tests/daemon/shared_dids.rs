//! Two daemons on one database and one token, each with a folder of documents: what a command changes at one, both serve.

use std::{
    fs,
    os::unix::fs::symlink,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    api_client::ApiClient,
    daemon::{Daemon, free_port, http, status_of, write_with_mode},
    home::{CommandOutput, Home},
    peer::Peer,
    postgres::daemon_on,
    postgres_server::{PASSWORD, Server},
};

/// The daemons `a`, which has a DID, and `b`, whose folder is empty.
fn two_nodes() -> Option<(Daemon, Daemon)> {
    let mut a = daemon_on(Server::shared()?)?;
    let file = a.home.path().join("claviger.toml");
    let text = fs::read_to_string(&file).unwrap() + "node = \"a\"\n";
    fs::write(&file, &text).unwrap();
    let (home, port, ops_port) = (Home::new(), free_port(), free_port());
    fs::remove_dir(home.path().join("tokens")).unwrap();
    symlink(a.home.path().join("tokens"), home.path().join("tokens")).unwrap();
    let listens = |port: u16| format!("listen = \"127.0.0.1:{port}\"");
    let text = text.replace(&listens(a.port), &listens(port)).replace(&listens(a.ops_port), &listens(ops_port));
    home.write("claviger.toml", &text.replace("node = \"a\"", "node = \"b\""));
    home.write("user.pin", crate::home::PIN);
    write_with_mode(&home, "store.password", PASSWORD, 0o600);
    let mut b = Daemon::from_home(home, &a.did, port, ops_port);
    a.start();
    b.start_without_token();
    b.wait_until("the DID of the other node is served", |b| served(b).contains(&b.did));
    Some((a, b))
}

fn served(node: &Daemon) -> Vec<String> {
    let page = ApiClient::new(node).get("/v1/dids").json(200);
    page["dids"].as_array().unwrap().iter().map(|own| own["did"].as_str().unwrap().to_owned()).collect()
}

/// Runs a command, and again while SoftHSM finds no token or refuses the login, because the other daemon logs in: SoftHSM then
/// writes the token's file.
#[track_caller]
fn run(node: &Daemon, words: &str) -> CommandOutput {
    let words: Vec<&str> = words.split_whitespace().collect();
    let mut output = node.run(&words);
    for _ in 0..50 {
        if output.status() != 3 && !output.stderr().contains("C_Login failed") {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        output = node.run(&words);
    }
    output
}

/// The body of what a node publishes on the host, and its status.
fn published(node: &Daemon, file: &str) -> (u16, String) {
    let request = format!("GET /.well-known/{file} HTTP/1.1\r\nhost: b.example\r\nconnection: close\r\n\r\n");
    let answer = http(node.port, &request, b"");
    (status_of(&answer), answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

fn document_at(node: &Daemon) -> Value {
    serde_json::from_str(&published(node, "did.json").1).unwrap_or_default()
}

/// How long `holds` takes to become true.
#[track_caller]
fn time_until(node: &Daemon, what: &str, holds: impl FnMut(&Daemon) -> bool) -> Duration {
    let begun = Instant::now();
    node.wait_until(what, holds);
    println!("{what}: {:?}", begun.elapsed());
    begun.elapsed()
}

#[test]
fn a_did_that_one_node_makes_is_served_by_the_other() {
    let Some((a, b)) = two_nodes() else { return };
    // A peer that writes to the other node as soon as the command has ended.
    let peer = Peer::new("peer");
    for number in 0..3 {
        let did = run(&a, "did create --method peer:2").json()["did"].as_str().unwrap().to_owned();
        let mut statuses = Vec::new();
        let packed = peer.pack_text(&did, &format!("message {number}"));
        time_until(&b, "the message is accepted", |b| {
            statuses.push(b.post_status(&packed));
            statuses.last() == Some(&202)
        });
        assert!(statuses.iter().all(|status| [202, 503].contains(status)), "{statuses:?}");
        b.wait_until("the message arrived", |b| b.unread_texts().contains(&format!("message {number}")));
        assert_eq!(served(&b)[0], did, "the newest comes first");
    }
    let nobody = Peer::new("nobody");
    assert_eq!(b.post_status(peer.pack_text(nobody.did(), "hello")), 404);

    // A did:web, made, changed and changed back.
    let web = "did:web:b.example";
    run(&a, "did create --method web --host b.example --service https://b.example/one").success();
    let endpoint = |node: &Daemon| document_at(node)["service"][0]["serviceEndpoint"].to_string();
    for path in ["one", "two", "one"] {
        if !endpoint(&a).contains(path) {
            run(&a, &format!("did update {web} --service https://b.example/{path}")).success();
        }
        time_until(&b, "the document is published", |b| endpoint(b).contains(path));
        assert!(endpoint(&a).contains(path));
    }
    // A did:webvh.
    let made = run(&a, "did create --method webvh --host b.example --service https://b.example/one").json();
    let webvh = made["did"].as_str().unwrap();
    b.wait_until("the log is published", |b| published(b, "did.jsonl").0 == 200);
    run(&a, &format!("did update {webvh} --service https://b.example/two")).success();
    time_until(&b, "the longer log is published", |b| published(b, "did.jsonl").1.lines().count() == 2);
    assert_eq!(published(&a, "did.jsonl"), published(&b, "did.jsonl"));

    // The commands of the other node know of these DIDs, and change them once their documents are fetched.
    let listed = run(&b, "did list").json();
    let listed = listed.as_array().unwrap();
    assert!(
        listed.len() == 6 && listed.iter().all(|row| row["in_folder"] == false && row["served"] == true),
        "{listed:?}"
    );
    assert!(b.home.run("did list").success().contains("not in the state folder"));
    let refused = run(&b, &format!("did update {web} --service https://b.example/three"));
    assert_eq!(refused.error(1), "not-ours");
    let fetched = run(&b, "did fetch").json()["fetched"].as_array().unwrap().len();
    assert_eq!((fetched, run(&b, "did fetch").json()["fetched"].as_array().unwrap().len()), (6, 0));
    let order = |node: &Daemon| {
        let rows = run(node, "did list").json();
        rows.as_array().unwrap().iter().map(|row| row["did"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(order(&a), order(&b));
    run(&b, &format!("did update {web} --service https://b.example/three")).success();
    run(&b, &format!("did update {webvh} --service https://b.example/three")).success();
    time_until(&a, "the document is published", |a| endpoint(a).contains("three"));
    a.wait_until("the longer log is published", |a| published(a, "did.jsonl").1.lines().count() == 3);
    for did in [web, webvh] {
        let refused = run(&a, &format!("did update {did} --service https://b.example/four"));
        assert_eq!(refused.error(1), "did-outdated", "{}", refused.stderr());
    }
    assert!(a.home.run("did list").success().contains("changed at another node"));
    run(&a, "did fetch").success();
    run(&a, &format!("did update {web} --service https://b.example/four")).success();
    b.wait_until("the document is published", |b| endpoint(b).contains("four"));
}

#[test]
fn a_did_that_one_node_retires_is_gone_at_the_other() {
    let Some((a, mut b)) = two_nodes() else { return };
    run(&b, "did fetch").success();
    // The rotation of the one node is that of the other.
    let new = run(&a, &format!("did rotate {} --overlap 0", a.did)).json()["to"].as_str().unwrap().to_owned();
    b.wait_until("the new DID is served", |b| served(b).contains(&new));
    run(&a, &format!("did retire {} --yes", a.did)).success();
    time_until(&b, "the old DID is gone", |b| !served(b).contains(&b.did));
    assert_eq!(served(&a), served(&b));
    let peer = Peer::new("peer");
    let packed = peer.pack_text(&b.did, "too late");
    assert_eq!((a.post_status(&packed), b.post_status(&packed)), (404, 404));

    // The file that the other node still has does not bring it back, also not after a restart.
    assert_eq!(fs::read_dir(b.home.path().join("state/documents")).unwrap().count(), 1);
    b.stop();
    b.start();
    b.wait_until("the DIDs are read", |b| served(b) == [new.clone()]);
    a.wait_until("the DIDs are the same", |a| served(a) == [new.clone()]);

    // SIGHUP reads the folder, and a file in the folder of retired DIDs retires one.
    let made = run(&a, "did create --method peer:4").json()["did"].as_str().unwrap().to_owned();
    b.wait_until("the DID is served", |b| served(b).contains(&made));
    let file = |folder: &str| {
        let entries =
            fs::read_dir(a.home.path().join("state").join(folder)).unwrap().map(|entry| entry.unwrap().path());
        entries.into_iter().find(|path| fs::read_to_string(path).unwrap().contains(&made)).unwrap()
    };
    let here = file("documents");
    let there = a.home.path().join("state/retired").join(here.file_name().unwrap());
    fs::rename(&here, &there).unwrap();
    a.signal(Signal::HUP);
    for node in [&a, &b] {
        time_until(node, "the DID is retired", |node| !served(node).contains(&made));
    }
    assert!(a.log().contains("documents of our DIDs shared"), "{}", a.log());
}
