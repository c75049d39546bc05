//! Peers and applications that exchange messages through daemons on one database, and the check of what was exchanged.

use std::{
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    applications::{Applications, Nodes, Recipient},
    cluster::{Cluster, Node, status},
    peers::RunningPeer,
    record::{Item, Record},
};
use crate::{
    api_client::{ApiClient, SAY},
    random::Random,
};

const WRITING_PEERS: usize = 5;
const SOCKET_PEERS: usize = 2;
const APPLICATIONS: usize = 3;
/// How long messages may wait at the end: the agent pauses before it tries an unreachable peer again.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(180);
/// How long a copy of a message may take to arrive.
const SETTLE_TIME: Duration = Duration::from_secs(2);

pub struct Exchange {
    pub record: Arc<Record>,
    nodes: Nodes,
    peers: Vec<RunningPeer>,
    applications: Applications,
    begun: Instant,
}

impl Exchange {
    /// Starts to exchange messages through these nodes.
    pub fn start(cluster: &Cluster, nodes: &[Node], random: &mut Random) -> Self {
        let record = Arc::<Record>::default();
        let apis: Vec<ApiClient> = nodes.iter().map(Node::api).collect();
        let greet = |peer: &Recipient| greet(&apis[0], &cluster.did, peer, &record);
        let writing = (0..WRITING_PEERS).map(|number| format!("peer{number}"));
        let mut peers: Vec<RunningPeer> =
            writing.map(|name| RunningPeer::writing(&name, &cluster.did, &record, greet)).collect();
        let holding = (0..SOCKET_PEERS).map(|number| format!("socket{number}"));
        peers.extend(holding.map(|name| RunningPeer::holding_socket(&name, &cluster.did, &record, greet)));
        let recipients: Vec<Recipient> = peers.iter().map(|peer| peer.recipient.clone()).collect();
        let nodes = Arc::new(Mutex::new(apis));
        let applications = Applications::start(APPLICATIONS, &nodes, &cluster.did, &recipients, &record, random);
        Self { record, nodes, peers, applications, begun: Instant::now() }
    }

    /// Has the applications use this node as well.
    pub fn add(&self, node: &Node) {
        self.nodes.lock().unwrap().push(node.api());
    }

    /// Has the applications use the first node no more.
    pub fn remove_first(&self) {
        self.nodes.lock().unwrap().remove(0);
    }

    /// Waits until messages went both ways again, this many of each.
    #[track_caller]
    pub fn wait_for_progress(&self, count: usize, within: Duration) {
        let so_far = || (self.record.received().arrived.len(), self.record.sent().arrived.len());
        let (before, until) = (so_far(), Instant::now() + within);
        while so_far().0 < before.0 + count || so_far().1 < before.1 + count {
            let now = so_far();
            assert!(Instant::now() < until, "no {count} messages within {within:?}: {before:?}, {now:?}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends the exchange, waits until all that was accepted has arrived, and checks it. The nodes must run.
    #[track_caller]
    pub fn finish(self, nodes: &mut [Node]) {
        let lasted = self.begun.elapsed();
        let record = &self.record;
        record.answers().end();
        [record.received(), record.sent()].iter_mut().for_each(|messages| messages.end_measurement());
        self.applications.stop_writing();
        // Peers that hold sockets go on, and get what waits for them.
        self.peers.iter().filter(|peer| !peer.recipient.holds_socket).for_each(RunningPeer::stop_sending);
        nodes.iter_mut().for_each(Node::wait_until_ready);
        self.wait_until_all_arrived(nodes);
        let drained = self.begun.elapsed() - lasted;
        thread::sleep(SETTLE_TIME);
        self.peers.into_iter().for_each(RunningPeer::stop);
        self.applications.stop();

        let (received, pings, sent) = (record.received(), record.pings(), record.sent());
        let (on_sockets, socket_pings) = (record.on_sockets(), record.socket_pings());
        println!(
            "{lasted:.0?} and {drained:.1?} to drain: {} messages accepted and {} handled, {} pings accepted and {} answered; \
             {} messages of applications accepted and {} received by peers, {} again under the same id; on WebSockets {} \
             accepted and {} received, {} of {} pings answered; longest time without a 202 {:.1?}, without a delivery {:.1?}, \
             without a message at a peer {:.1?}; overtaken in their thread: {} received, {} sent, {} on WebSockets",
            received.accepted.len(),
            received.arrived.len(),
            pings.accepted.len(),
            pings.arrived.len(),
            sent.accepted.len(),
            sent.arrived.len(),
            sent.repeated + pings.repeated,
            on_sockets.accepted.len(),
            on_sockets.arrived.len(),
            socket_pings.arrived.len(),
            socket_pings.unconfirmed.len(),
            record.answers().longest,
            received.longest_gap(),
            sent.longest_gap(),
            received.overtaken.len(),
            sent.overtaken.len(),
            on_sockets.overtaken.len(),
        );
        for (what, messages) in [
            ("deliveries", &received),
            ("responses to pings", &pings),
            ("sent messages", &sent),
            ("messages on WebSockets", &on_sockets),
            ("responses on WebSockets", &socket_pings),
        ] {
            messages.assert_right(what);
        }
        // The messages of a thread are sent one after the other. What is received may be opened in another order.
        for messages in [&sent, &on_sockets] {
            assert!(messages.overtaken.is_empty(), "overtaken in their thread: {:?}", messages.overtaken);
        }
        let faults = record.faults();
        assert!(faults.is_empty(), "{} faults: {faults:#?}", faults.len());
        for node in nodes {
            assert!(!node.log().contains("panicked"), "{}", node.log());
        }
    }

    #[track_caller]
    fn wait_until_all_arrived(&self, nodes: &[Node]) {
        let record = &self.record;
        let until = Instant::now() + DELIVERY_TIMEOUT;
        let is_empty = |node: &Node| {
            let waiting = status(&node.api()).map(|status| status["waiting"].clone()).unwrap_or_default();
            ["envelopes", "deliveries", "outgoing"].iter().all(|queue| waiting[queue] == 0)
        };
        loop {
            let missing = || {
                [record.received(), record.pings(), record.sent()].map(|it| it.missing().cloned().collect::<Vec<_>>())
            };
            if missing().iter().all(Vec::is_empty) && nodes.iter().all(is_empty) {
                return;
            }
            if Instant::now() > until {
                let states: Vec<_> = nodes.iter().map(|node| status(&node.api())).collect();
                panic!(
                    "not within {DELIVERY_TIMEOUT:?}: received, pings, sent miss {:#?}\n{states:#?}\nfaults: {:#?}",
                    missing(),
                    record.faults(),
                );
            }
            thread::sleep(Duration::from_millis(200));
        }
    }
}

/// Writes to a peer, so that it is known to the agent.
fn greet(api: &ApiClient, from: &str, peer: &Recipient, record: &Record) {
    let item = Item::new(&format!("hello-{}", peer.name), 0);
    let message = json!({
        "id": item.content(), "to": peer.did, "from": from, "type": SAY, "hold": peer.holds_socket,
        "body": {"content": item.content()},
    });
    api.post("/v1/messages", &message).json(202);
    match peer.holds_socket {
        true => record.on_sockets().accept(&item),
        false => record.sent().accept(&item),
    }
}
