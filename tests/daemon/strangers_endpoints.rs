//! Replies to strangers whose endpoints are closed, never answer, or are servers of the operator.

use std::{
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use claviger::didcomm::Message;
use serde_json::json;

use crate::{
    daemon::{Daemon, TIMEOUT, free_port, write_with_mode},
    endpoint::{Endpoint, accepted},
    peer::{Peer, seconds},
    webhook::{SECRET, WebhookServer},
};

const PING: &str = "https://didcomm.org/trust-ping/2.0/ping";

/// Private-key operations for outgoing messages.
fn packs(daemon: &Daemon) -> f64 {
    daemon.metric("claviger_token_operations_total{kind=\"wrap\",result=\"done\"}")
}

/// Ping responses with this result of an attempt.
fn responses(daemon: &Daemon, result: &str) -> f64 {
    let text = daemon.get_ops("/metrics");
    let name =
        format!("claviger_messages_sent_total{{protocol=\"https://didcomm.org/trust-ping/2.0\",result=\"{result}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0.0, |value| value.parse().unwrap())
}

fn ping(daemon: &Daemon, peer: &Peer) {
    let message = Message::build(Message::new_id(), PING, json!({"response_requested": true}))
        .from(peer.did())
        .to(&daemon.did)
        .created_time(seconds())
        .finalize();
    assert_eq!(daemon.post_status(peer.pack(&message)), 202);
}

/// A peer with an endpoint of its own, to which the application has written.
struct HonestPeer {
    peer: Peer,
    endpoint: Endpoint,
}

impl HonestPeer {
    fn known_to(daemon: &Daemon) -> Self {
        let endpoint = Endpoint::accepting();
        let peer = Peer::with_endpoint("honest", &endpoint.uri());
        let id = daemon.send_text(peer.did(), "good morning").unwrap();
        daemon.wait_until("the message is sent", |daemon| daemon.outbox_message(&id)["state"] == "sent");
        Self { peer, endpoint }
    }

    /// Pings this many times, and returns how long the answers took.
    fn ping(&self, daemon: &Daemon, times: usize) -> Duration {
        let begun = Instant::now();
        for _ in 0..times {
            let before = self.endpoint.messages().len();
            ping(daemon, &self.peer);
            daemon.wait_until_within(4 * TIMEOUT, "the ping is answered", |_| self.endpoint.messages().len() > before);
        }
        begun.elapsed()
    }
}

/// Accepts connections on many ports, and never answers.
struct SilentServer {
    listeners: Vec<TcpListener>,
    _open: Arc<Mutex<Vec<TcpStream>>>,
}

impl SilentServer {
    fn new(ports: usize) -> Self {
        let listeners: Vec<_> = (0..ports).map(|_| TcpListener::bind(("127.0.7.1", 0)).unwrap()).collect();
        let open: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        for listener in &listeners {
            let (listener, open) = (listener.try_clone().unwrap(), open.clone());
            thread::spawn(move || {
                while let Ok((stream, _)) = listener.accept() {
                    open.lock().unwrap().push(stream);
                }
            });
        }
        Self { listeners, _open: open }
    }

    fn uri(&self, number: usize) -> String {
        let listener = &self.listeners[number % self.listeners.len()];
        format!("http://{}/{number}", listener.local_addr().unwrap())
    }
}

fn honest_stranger() -> (Peer, Endpoint) {
    let endpoint = Endpoint::accepting();
    (Peer::with_endpoint("honest", &endpoint.uri()), endpoint)
}

#[test]
fn closed_endpoints_cost_no_operation_with_a_private_key() {
    let Some(daemon) = Daemon::running("") else { return };
    let (before, port) = (packs(&daemon), free_port());
    for number in 0..100 {
        ping(&daemon, &Peer::with_endpoint("stranger", &format!("http://127.0.0.1:{port}/{number}")));
    }
    daemon.wait_until("each stranger's endpoint was tried", |daemon| responses(daemon, "later") >= 100.0);
    assert_eq!(packs(&daemon), before);
    // An honest stranger is answered at once.
    let (honest, endpoint) = honest_stranger();
    ping(&daemon, &honest);
    daemon.wait_until("the ping is answered", |_| endpoint.messages().len() == 1);
    assert!(daemon.metric("claviger_paused_servers ") <= 1.0);
}

/// Most of the endpoints that never answer are at one port, the others at many ports of one address. There are 300
/// strangers, or CLAVIGER_STRANGERS.
#[test]
fn silent_endpoints_hold_few_permits_and_delay_no_honest_peer() {
    let Some(daemon) = Daemon::running("") else { return };
    let honest = HonestPeer::known_to(&daemon);
    let strangers = std::env::var("CLAVIGER_STRANGERS").map_or(300, |text| text.parse().expect("a number"));
    let quiet = honest.ping(&daemon, 5);
    let (one_port, many_ports) = (SilentServer::new(1), SilentServer::new(50));
    let before = packs(&daemon);
    for number in 0..strangers {
        let server = if number % 3 == 0 { &many_ports } else { &one_port };
        ping(&daemon, &Peer::with_endpoint("stranger", &server.uri(number)));
    }
    daemon.wait_until_all_opened();
    // Without bounds, the first answer takes as long as the time limit of a request, 30 seconds.
    let attacked = honest.ping(&daemon, 5);
    println!("5 pings took {quiet:.1?}, and {attacked:.1?} with {strangers} strangers that never answer");
    assert!(attacked < Duration::from_secs(15), "{attacked:?}");
    // An honest stranger at another address is not in the attacker's line.
    let (stranger, endpoint) = honest_stranger();
    ping(&daemon, &stranger);
    daemon.wait_until_within(Duration::from_secs(15), "the ping is answered", |_| endpoint.messages().len() == 1);
    let packed = packs(&daemon) - before - 6.0;
    assert!(packed < strangers as f64 / 5.0, "{packed} messages were packed for strangers that never answer");
}

#[test]
fn replies_to_strangers_have_a_limit_that_known_peers_do_not_share() {
    let Some(daemon) = Daemon::running("[store]\nmax_replies_to_strangers = 5\n") else { return };
    let honest = HonestPeer::known_to(&daemon);
    for _ in 0..20 {
        ping(&daemon, &Peer::new("no endpoint"));
    }
    daemon.wait_until_all_opened();
    daemon.wait_until("replies are dropped", |daemon| daemon.metric("claviger_replies_dropped_total ") >= 10.0);
    // What is handled at the same time may pass the limit.
    assert!(daemon.metric("claviger_waiting{queue=\"outbox\"}") <= 10.0);
    honest.ping(&daemon, 3);
}

/// The webhook is at a private address. The agent posts events there, whatever `allow_private` says, and no messages to
/// strangers.
#[test]
fn the_operators_servers_are_no_licence_for_strangers() {
    for allowed in ["[]", "[\"127.0.0.0/8\"]"] {
        let port = free_port();
        let hook = WebhookServer::listen(port, &[]);
        let url = format!("[api.webhook]\nurl = \"http://127.0.0.1:{port}/hook\"\nsecret_file = \"webhook.secret\"\n");
        let Some(mut daemon) = Daemon::with_config(&format!("[net]\nallow_private = {allowed}"), &url) else { return };
        write_with_mode(&daemon.home, "webhook.secret", SECRET, 0o600);
        daemon.start();
        let inside = Endpoint::new(|_| accepted());
        let ops = format!("http://127.0.0.1:{}/metrics", daemon.ops_port);
        let mut endpoints = vec![format!("http://127.0.0.1:{port}/hook"), format!("http://localhost:{port}/hook"), ops];
        if allowed == "[]" {
            endpoints.push(inside.uri());
        }
        for uri in &endpoints {
            ping(&daemon, &Peer::with_endpoint("mallory", uri));
            let id = daemon.send_text(Peer::with_endpoint("another", uri).did(), "no").unwrap();
            daemon.wait_until("the reason is visible", |daemon| !daemon.outbox_message(&id)["problem"].is_null());
            let message = daemon.outbox_message(&id);
            let problem = message["problem"].as_str().unwrap();
            assert!(problem.contains("are refused"), "{uri}: {problem}");
            assert_eq!(problem.matches("refused").count(), 1, "{problem}");
            assert_eq!(message["state"], "waiting");
        }
        // The webhook itself works.
        daemon.post_status(Peer::new("peer").pack_text(&daemon.did, "an event"));
        daemon.wait_until("the event is posted", |_| !hook.requests().is_empty());
        assert!(hook.requests().iter().all(|request| !request.head.contains("didcomm-encrypted")));
        assert_eq!(inside.connections(), 0);
    }
}
