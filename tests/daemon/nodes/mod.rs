//! Several daemons, each on a host of its own, on one PostgreSQL, behind a round robin. Daemons and keepers are killed and links are
//! cut at random, while peers send, answer and hold WebSockets. What was answered with 202 is handled once, nothing is sent with
//! two ids, and the messages of a thread are sent in their order.
//!
//! `CLAVIGER_SOAK` sets the length: seconds in `make test`, a minute with `short` (CI), five minutes with `whole` (`make soak`).
//! The random choices are repeated with the printed seed in `CLAVIGER_SEED`.

mod applications;
mod cluster;
mod exchange;
mod network;
mod peers;
mod record;
mod round_robin;
mod troubles;

use std::{
    thread,
    time::{Duration, Instant},
};

use self::{
    cluster::{Cluster, Node, status},
    exchange::Exchange,
    network::{Cut, in_own_network},
    troubles::{Figures, SLEEP, trouble, trouble_database},
};
use crate::random::Random;

/// How long the exchange may stand still after a failure of a node: until its lease has ended, and others are told.
const TAKE_OVER: Duration = Duration::from_secs(60);

fn length() -> Duration {
    Duration::from_secs(match std::env::var("CLAVIGER_SOAK").as_deref() {
        Ok("whole") => 300,
        Ok("short") => 60,
        Ok(other) => panic!("CLAVIGER_SOAK is `short` or `whole`, not `{other}`"),
        Err(_) => 15,
    })
}

#[test]
fn three_nodes_survive_kills_and_cut_links() {
    in_own_network(|| trouble_nodes(3));
}

/// A single daemon has no other that takes over, and loses nothing either.
#[test]
fn one_node_survives_kills_and_cut_links() {
    in_own_network(|| trouble_nodes(1));
}

fn trouble_nodes(count: usize) {
    let Some(cluster) = Cluster::new(count) else { return };
    let mut nodes: Vec<Node> = (0..count).map(|_| cluster.join()).collect();
    let mut random = Random::new();
    println!("seed {}", random.seed);
    let (exchange, figures) = (Exchange::start(&cluster, &nodes, &mut random), Figures::default());
    exchange.wait_for_progress(20, TAKE_OVER);
    let (begun, until) = (Instant::now(), Instant::now() + length());
    // A node sleeps once, unless the run is too short for it.
    let sleeps = (length() > SLEEP * 2).then(|| begun + length() / 3);
    thread::scope(|scope| {
        for (number, node) in nodes.iter_mut().enumerate() {
            let (mut random, figures) = (random.another(), &figures);
            let sleeps = sleeps.filter(|_| number == 0);
            scope.spawn(move || trouble(node, &mut random, until, sleeps, figures));
        }
        trouble_database(&cluster.database, &mut random, until, &figures);
    });
    println!("{figures:?}");
    exchange.finish(&mut nodes);
    println!("seed {}", random.seed);
}

/// A node whose machine slept for longer than its lease finds that another has its messages.
#[test]
fn a_node_that_slept_changes_nothing() {
    in_own_network(|| {
        let Some(cluster) = Cluster::new(2) else { return };
        let mut nodes: Vec<Node> = (0..2).map(|_| cluster.join()).collect();
        let exchange = Exchange::start(&cluster, &nodes, &mut Random::new());
        exchange.wait_for_progress(20, TAKE_OVER);
        nodes[0].sleep(SLEEP);
        exchange.wait_for_progress(20, TAKE_OVER);
        exchange.finish(&mut nodes);
    });
}

/// Each node has a token of its own, and the DID has keys of both. The token of one is away for a while.
#[test]
fn nodes_with_a_token_each_do_the_work_of_one_another() {
    in_own_network(|| {
        let Some(cluster) = Cluster::with_own_tokens(2) else { return };
        let mut nodes: Vec<Node> = (0..2).map(|_| cluster.join()).collect();
        let exchange = Exchange::start(&cluster, &nodes, &mut Random::new());
        exchange.wait_for_progress(20, TAKE_OVER);
        nodes[0].set_token_away(true);
        let leads = |node: &Node| {
            let status = status(&node.api()).unwrap_or_default();
            let nodes = status["nodes"].as_array().into_iter().flatten();
            nodes.filter(|node| node["this"] == true).any(|node| node["leads"] == true)
        };
        let until = Instant::now() + TAKE_OVER;
        while !leads(&nodes[1]) || leads(&nodes[0]) {
            assert!(Instant::now() < until, "the node with a token does not lead\n{}", nodes[0].log());
            thread::sleep(Duration::from_millis(100));
        }
        // Peers and applications go on to use both.
        exchange.wait_for_progress(50, TAKE_OVER);
        nodes[0].set_token_away(false);
        nodes[0].wait_until_ready();
        exchange.wait_for_progress(20, TAKE_OVER);
        exchange.finish(&mut nodes);
    });
}

/// The nodes of a rolling update: one after the other joins, and an older one leaves.
#[test]
fn nodes_join_and_leave_under_load() {
    in_own_network(|| {
        let Some(cluster) = Cluster::new(3) else { return };
        let mut nodes = vec![cluster.join()];
        let exchange = Exchange::start(&cluster, &nodes, &mut Random::new());
        for _ in 0..2 {
            exchange.wait_for_progress(20, TAKE_OVER);
            let next = cluster.join();
            exchange.add(&next);
            exchange.wait_for_progress(20, TAKE_OVER);
            exchange.remove_first();
            let mut first = nodes.remove(0);
            println!("a node left in {:?}", first.stop());
            nodes.push(next);
        }
        exchange.wait_for_progress(20, TAKE_OVER);
        exchange.finish(&mut nodes);
    });
}

/// Messages wait while the peers are not reached, and are then sent in their order.
#[test]
fn threads_keep_their_order_while_peers_are_away() {
    in_own_network(|| {
        let Some(cluster) = Cluster::new(1) else { return };
        let mut nodes = vec![cluster.join()];
        let exchange = Exchange::start(&cluster, &nodes, &mut Random::new());
        exchange.wait_for_progress(20, TAKE_OVER);
        for _ in 0..6 {
            nodes[0].host.cut_for(Cut::NoRoute, Duration::from_millis(2500));
            thread::sleep(Duration::from_millis(1500));
        }
        exchange.finish(&mut nodes);
    });
}
