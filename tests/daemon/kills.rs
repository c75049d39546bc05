//! Agents and keepers are killed at random moments of an exchange. No accepted message is lost, and none is handled
//! twice (`docs/security-model.md`, "Promises and their proofs").
//!
//! `CLAVIGER_KILLS=1000 cargo test --all-features --test daemon kills -- --nocapture` runs a thousand kills.

use std::{
    collections::HashSet,
    thread,
    time::{Duration, Instant},
};

use crate::{
    chat_application::{ChatApplication, MessageRecord},
    daemon::Daemon,
    load::LoadGenerator,
    postgres::daemon_on,
    postgres_server::Server,
    random::Random,
};

/// The longest pause, in milliseconds, between a recovery and the next kill.
const MAX_PAUSE_MS: u64 = 150;
/// One kill in this many is of a keeper, the others of an agent.
const KILLS_PER_KEEPER_KILL: u64 = 4;
/// How long messages may wait at the end: the agent pauses before it tries an unreachable peer again.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(180);

#[test]
fn messages_survive_kills_and_are_handled_once() {
    let (Some(alice), Some(bob)) = (Daemon::running(""), Daemon::running("")) else { return };
    kill([alice, bob], rounds());
}

#[test]
fn messages_in_a_database_survive_kills_and_are_handled_once() {
    let Some(server) = Server::shared() else { return };
    let (Some(mut alice), Some(mut bob)) = (daemon_on(server), daemon_on(server)) else { return };
    alice.start();
    bob.start();
    kill([alice, bob], rounds());
}

fn rounds() -> usize {
    std::env::var("CLAVIGER_KILLS").map_or(10, |rounds| rounds.parse().expect("a number"))
}

/// Kills the agents and their keepers while they exchange messages, and checks what arrived.
fn kill([alice, bob]: [Daemon; 2], rounds: usize) {
    let applications =
        [ChatApplication::start("alice", &alice, &bob.did), ChatApplication::start("bob", &bob, &alice.did)];
    let load = LoadGenerator::start(&alice, 1);
    let mut daemons = [alice, bob];
    let mut random = Random::new();
    let mut recoveries = Vec::new();
    let (mut agents, mut keepers) = (0, 0);
    let begun = Instant::now();
    for round in 0..rounds {
        thread::sleep(Duration::from_millis(random.below(MAX_PAUSE_MS)));
        let daemon = &mut daemons[round % 2];
        let killed = Instant::now();
        if random.below(KILLS_PER_KEEPER_KILL) == 0 {
            let before = daemon.keepers();
            keepers += usize::from(daemon.kill_keepers());
            daemon.wait_until("another keeper serves", |daemon| {
                let now = daemon.keepers();
                now.iter().any(|keeper| !before.contains(keeper)) && daemon.is_token_ready()
            });
        } else {
            daemon.kill();
            agents += 1;
            daemon.start();
        }
        recoveries.push(killed.elapsed());
        if round % 100 == 99 {
            println!("{} kills in {:?}", round + 1, begun.elapsed());
        }
    }
    let load = load.stop();
    applications.iter().for_each(ChatApplication::stop_sending);
    let [alice, bob] = &daemons;
    alice.wait_until_within(DELIVERY_TIMEOUT, "all messages arrived", |_| {
        let [alice, bob] = &applications;
        let (alice, bob) = (alice.record(), bob.record());
        let arrived =
            |sent: &HashSet<String>, to: &MessageRecord| sent.iter().all(|content| to.received.contains_key(content));
        arrived(&alice.sent, &bob) && arrived(&bob.sent, &alice) && arrived(&load.accepted, &alice)
    });
    for daemon in [alice, bob] {
        daemon.wait_until_all_opened();
        daemon.wait_until("the outbox is empty", |daemon| daemon.metric("claviger_waiting{queue=\"outbox\"}") == 0.0);
        daemon.wait_until("the application has read all messages", |daemon| daemon.unread().is_empty());
    }
    let [alice, bob] = applications.map(ChatApplication::stop);
    let twice: Vec<_> = [&alice, &bob]
        .into_iter()
        .flat_map(|record| record.received.iter().filter(|(_, names)| names.len() > 1))
        .collect();
    let was_sent =
        |content: &String, from: &MessageRecord| from.sent.contains(content) || from.unconfirmed.contains(content);
    let not_sent = alice
        .received
        .keys()
        .filter(|it| !was_sent(it, &bob) && !load.accepted.contains(*it) && !load.unconfirmed.contains(*it));
    assert_eq!(
        not_sent.count() + bob.received.keys().filter(|it| !was_sent(it, &alice)).count(),
        0,
        "received messages that were not sent"
    );
    recoveries.sort();
    println!(
        "{agents} kills of agents, {keepers} of keepers; {} messages accepted by HTTP and {} from applications; \
         duplicates {}, lost 0; recovery median {:?}, longest {:?}; {:?} in all, seed {}",
        load.accepted.len(),
        alice.sent.len() + bob.sent.len(),
        twice.len(),
        recoveries[recoveries.len() / 2],
        recoveries[recoveries.len() - 1],
        begun.elapsed(),
        random.seed,
    );
    assert!(twice.is_empty(), "handled twice: {twice:?}");
}
