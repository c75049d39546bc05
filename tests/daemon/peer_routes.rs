//! Peers with several services and endpoints, of which some cannot be used, and peers whose documents are not there or
//! are out of date for a while.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use claviger::{
    did::{Service, ServiceEndpoint},
    didcomm::Forward,
    keys::PublicKey,
};
use serde_json::{Value, json};

use crate::{
    api_client::ApiClient,
    daemon::{Daemon, free_port},
    endpoint::{Endpoint, Response, accepted},
    peer::Peer,
};

const QUEUE: &str = "didcomm:transport/queue";

fn closed() -> String {
    format!("http://127.0.0.1:{}", free_port())
}

fn accepting(uri: &str, profiles: &[&str]) -> ServiceEndpoint {
    let accept = profiles.iter().map(|&profile| profile.to_owned()).collect();
    ServiceEndpoint { uri: uri.to_owned(), accept: Some(accept), routing_keys: Vec::new() }
}

#[test]
fn the_routes_of_a_peer_are_tried_in_turn() {
    let Some(daemon) = Daemon::running("") else { return };
    let (other_profile, live) = (Endpoint::accepting(), Endpoint::accepting());
    let mut mixed = Service::didcomm(closed(), []);
    mixed.endpoints.push(accepting(&other_profile.uri(), &["didcomm/aip2;env=rfc19"]));
    mixed.endpoints.push(accepting("http://10.255.255.1/private", &["didcomm/v2"]));
    let peers = [
        // The first is closed, the second is for another profile.
        vec![mixed.clone(), Service::didcomm(live.uri(), [])],
        vec![Service::didcomm(QUEUE, []), Service::didcomm(live.uri(), [])],
        vec![Service::didcomm("carrier-pigeon:loft/7", []), mixed, Service::didcomm(live.uri(), [])],
        // A routing key that cannot be used, and a mediator without a route.
        vec![
            Service::didcomm(closed(), ["did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK".to_owned()]),
            Service::didcomm(Peer::new("mediator").did(), []),
            Service::didcomm(live.uri(), []),
        ],
    ];
    for (number, services) in peers.iter().enumerate() {
        let peer = Peer::with_services("peer", services);
        let id = daemon.send_text(peer.did(), &number.to_string()).unwrap();
        daemon.wait_until("the message is sent", |daemon| daemon.outbox_message(&id)["state"] == "sent");
        let packed = live.messages().pop().unwrap();
        assert_eq!(peer.open(&packed).0.body["content"], number.to_string());
        assert_eq!(daemon.outbox_message(&id)["tries"], 1, "all in one attempt");
    }
    assert_eq!(live.messages().len(), peers.len());
    assert_eq!(other_profile.connections(), 0);
}

/// The endpoint is the DID of a mediator with two endpoints, of which the first is closed.
#[test]
fn the_endpoints_of_a_mediator_are_tried_in_turn() {
    let Some(daemon) = Daemon::running("") else { return };
    let live = Endpoint::accepting();
    let mediator = Peer::with_services("mediator", &[Service::didcomm(closed(), []), Service::didcomm(live.uri(), [])]);
    let peer = Peer::with_services("peer", &[Service::didcomm(mediator.did(), [])]);
    let id = daemon.send_text(peer.did(), "through a mediator").unwrap();
    daemon.wait_until("the message is sent", |daemon| daemon.outbox_message(&id)["state"] == "sent");
    let (message, _) = mediator.open(&live.messages()[0]);
    let forward = Forward::from_message(&message).unwrap().unwrap();
    assert_eq!(forward.next, peer.did());
    assert_eq!(peer.open(&forward.forwarded[0]).0.body["content"], "through a mediator");
}

/// The message waits, and goes back on the connection that the peer opens. The reason is visible meanwhile.
#[test]
fn a_peer_without_a_usable_route_is_waited_for() {
    let Some(daemon) = Daemon::running("") else { return };
    for (services, reason) in [
        (vec![Service::didcomm(QUEUE, [])], QUEUE),
        (vec![Service::didcomm("carrier-pigeon:loft/7", [])], "carrier-pigeon"),
        (vec![Service::didcomm("http://10.255.255.1/", [])], "10.255.255.1"),
        (vec![Service::didcomm(Peer::new("mediator").did(), [])], "mediator"),
        (vec![], "no endpoint"),
    ] {
        let peer = Peer::with_services("peer", &services);
        let id = daemon.send_text(peer.did(), "when you call").unwrap();
        daemon.wait_until("the reason is visible", |daemon| {
            daemon.outbox_message(&id)["problem"].as_str().is_some_and(|problem| problem.contains(reason))
        });
        assert_eq!(daemon.outbox_message(&id)["state"], "waiting", "{reason}");
        let call = peer.message(&daemon.did, "hello").return_route("all").finalize();
        let answer = daemon.post(peer.pack(&call).as_bytes());
        assert!(answer.starts_with("HTTP/1.1 200"), "{reason}: {answer}\n{}", daemon.log());
        let packed = answer.split_once("\r\n\r\n").unwrap().1;
        assert_eq!(peer.open(packed).0.body["content"], "when you call", "{reason}");
        daemon.wait_until("the message is sent", |daemon| daemon.outbox_message(&id)["state"] == "sent");
    }
}

/// A server of did:web documents, by path.
struct DidServer {
    documents: Arc<Mutex<HashMap<String, Response>>>,
    server: Endpoint,
}

impl DidServer {
    fn new() -> Self {
        let documents: Arc<Mutex<HashMap<String, Response>>> = Arc::default();
        let served = documents.clone();
        let absent = || (404, String::new(), String::new());
        let server =
            Endpoint::new(move |request| served.lock().unwrap().get(&request.path).cloned().unwrap_or_else(absent));
        Self { server, documents }
    }

    fn did(&self, name: &str) -> String {
        format!("did:web:localhost%3A{}:{name}", self.server.port)
    }

    fn serve(&self, name: &str, status: u16, body: &str) {
        let answer = (status, String::new(), body.to_owned());
        self.documents.lock().unwrap().insert(format!("/{name}/did.json"), answer);
    }

    /// The document of a DID with this key and endpoint.
    fn document(&self, name: &str, kid: &str, key: &PublicKey, endpoint: &str) -> String {
        let did = self.did(name);
        let method = json!({"id": format!("{did}#{kid}"), "type": "JsonWebKey2020", "controller": did,
            "publicKeyJwk": key.to_jwk()});
        let service = json!({"id": format!("{did}#s"), "type": "DIDCommMessaging",
            "serviceEndpoint": [{"uri": endpoint, "accept": ["didcomm/v2"]}]});
        json!({"id": did, "keyAgreement": [method], "service": [service]}).to_string()
    }

    fn daemon(&self) -> Option<Daemon> {
        let plain = format!("did_web_plain_http_for = [\"localhost:{}\"]", self.server.port);
        let mut daemon = Daemon::with_config(&format!("[net]\nallow_private = [\"127.0.0.0/8\"]\n{plain}"), "")?;
        daemon.start();
        Some(daemon)
    }
}

#[test]
fn a_document_that_is_not_there_for_a_while_is_waited_for() {
    let (documents, live, peer) = (DidServer::new(), Endpoint::accepting(), Peer::new("peer"));
    let Some(daemon) = documents.daemon() else { return };
    let sound = |name: &str| documents.document(name, "k", &peer.person.agree[0], &live.uri());
    let half = sound("half");
    let half = &half[..half.len() / 2];
    let no_key = sound("nokey").replace("keyAgreement", "authentication");
    let html = "<html>Back soon.</html>";
    let faults =
        [("absent", 404, ""), ("gone", 410, ""), ("page", 200, html), ("half", 200, half), ("nokey", 200, &no_key)];
    let send = |(name, status, body): (&str, u16, &str)| {
        documents.serve(name, status, body);
        daemon.send_text(&documents.did(name), name).unwrap()
    };
    let ids = faults.map(send);
    for id in &ids {
        daemon.wait_until("the document was asked for", |daemon| !daemon.outbox_message(id)["problem"].is_null());
        assert_eq!(daemon.outbox_message(id)["state"], "waiting", "{}", daemon.outbox_message(id));
    }
    for (name, ..) in faults {
        documents.serve(name, 200, &sound(name));
    }
    // The pauses, and that of the server of the documents, grow up to a minute meanwhile.
    let (api, mut retried) = (ApiClient::new(&daemon), Instant::now());
    daemon.wait_until("all messages are sent", |daemon| {
        if retried.elapsed() > Duration::from_secs(1) {
            ids.iter().for_each(|id| drop(api.post(&format!("/v1/messages/{id}/retry"), &json!({}))));
            retried = Instant::now();
        }
        ids.iter().all(|id| daemon.outbox_message(id)["state"] == "sent")
    });
}

/// The peer has replaced its key, and refuses what is encrypted to the old one. The agent has the old document in its
/// cache.
#[test]
fn a_replaced_key_is_fetched_when_the_peer_refuses_the_old_one() {
    let (documents, peer, later) = (DidServer::new(), Peer::new("peer"), Peer::new("later"));
    let current = Arc::new(Mutex::new("#old"));
    let expected = current.clone();
    let endpoint = Endpoint::new(move |request| {
        let jwe: Value = serde_json::from_str(&request.body).unwrap();
        let kid = jwe["recipients"][0]["header"]["kid"].as_str().unwrap();
        match kid.ends_with(*expected.lock().unwrap()) {
            true => accepted(),
            false => (400, String::new(), String::new()),
        }
    });
    let Some(daemon) = documents.daemon() else { return };
    let key = &peer.person.agree[0];
    documents.serve("peer", 200, &documents.document("peer", "old", key, &endpoint.uri()));
    let first = daemon.send_text(&documents.did("peer"), "to the old key").unwrap();
    daemon.wait_until("the message is sent", |daemon| daemon.outbox_message(&first)["state"] == "sent");
    *current.lock().unwrap() = "#new";
    documents.serve("peer", 200, &documents.document("peer", "new", &later.person.agree[0], &endpoint.uri()));
    let second = daemon.send_text(&documents.did("peer"), "to the new key").unwrap();
    daemon.wait_until("the message is sent", |daemon| daemon.outbox_message(&second)["state"] == "sent");
}
