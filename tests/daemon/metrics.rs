//! The metrics of a running daemon. docs/operations.md must list each of them, and no other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use crate::{
    daemon::{Daemon, free_port},
    webhook::daemon_with_webhook,
};

/// The label names of each metric, by its name.
type Metrics = BTreeMap<String, BTreeSet<String>>;

/// The metrics of the table in docs/operations.md.
fn documented() -> Metrics {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let text = fs::read_to_string(file).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `claviger_")?.split('`').next());
    let metric = |row: &str| {
        let (name, labels) = row.trim_end_matches('}').split_once('{').unwrap_or((row, ""));
        let labels = labels.split(',').filter(|label| !label.is_empty()).map(str::to_owned);
        (format!("claviger_{name}"), labels.collect())
    };
    rows.map(metric).collect()
}

/// The metrics of an agent that shares its store, which this test has not: see `src/agent/node_metrics.rs`.
fn of_nodes() -> Metrics {
    let metric = |name: &str, labels: &[&str]| (name.to_owned(), labels.iter().map(|it| (*it).to_owned()).collect());
    let info = metric("claviger_node_info", &["node", "version"]);
    [info, metric("claviger_leads", &[]), metric("claviger_nodes", &[])].into()
}

/// The names of all metrics in docs/operations.md, such as those in alarms.
fn mentioned() -> BTreeSet<String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md")).unwrap();
    let of_name = |letter: char| letter.is_ascii_lowercase() || letter == '_';
    let names = text.split("claviger_").skip(1).map(|rest| rest.split(|letter| !of_name(letter)).next().unwrap());
    names.map(|name| format!("claviger_{}", name.trim_end_matches("_bucket"))).collect()
}

/// The metrics of a response in OpenMetrics. A histogram is one metric, without the label of its buckets.
fn served(text: &str) -> Metrics {
    let body = text.split_once("\r\n\r\n").unwrap().1;
    let mut metrics = Metrics::new();
    for line in body.lines().filter(|line| line.starts_with("claviger_")) {
        let (series, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.trim_end_matches('}').split_once('{').unwrap_or((series, ""));
        let name = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        // No label value of ours has a comma or a quote.
        let labels = labels.split(',').filter_map(|label| label.split_once('=')).map(|(name, _)| name.to_owned());
        metrics.entry(name.to_owned()).or_default().extend(labels.filter(|label| label != "le"));
    }
    metrics
}

/// The settings that limit something, from docs/settings.md.
fn limiting_settings() -> BTreeSet<String> {
    let others =
        ["connections", "workers", "rate", "messages", "audit_refusals", "strangers_percent", "known_peer_percent"];
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/settings.md")).unwrap();
    let names = text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let limits = |name: &&str| {
        name.starts_with("max_") || name.contains("_per_") || name.ends_with("_attempts") || others.contains(name)
    };
    names.filter(limits).map(str::to_owned).collect()
}

/// Each setting that limits something is in a table of `Sizes and limits`, with a metric if a peer can reach the limit.
#[test]
fn every_limit_is_in_the_table() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md")).unwrap();
    let (_, section) = text.split_once("## Sizes and limits").unwrap();
    let rows: Vec<Vec<&str>> = section
        .lines()
        .take_while(|line| !line.starts_with("## "))
        .filter(|line| line.starts_with("| "))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert!(rows.iter().all(|row| row.len() == 6), "{rows:#?}");
    let listed: BTreeSet<String> =
        rows.iter().flat_map(|row| row[1].split('`').skip(1).step_by(2)).map(|name| name.to_owned()).collect();
    let missing: Vec<String> = limiting_settings().into_iter().filter(|name| !listed.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let is_seen_by_peers = |row: &&Vec<&str>| !row[4].is_empty() && row[4] != "what the peer sees";
    let without_metric: Vec<_> =
        rows.iter().filter(is_seen_by_peers).filter(|row| !row[3].contains("claviger_")).collect();
    assert!(without_metric.is_empty(), "{without_metric:#?}");
}

#[test]
fn the_served_metrics_are_the_documented_ones() {
    // The webhook wants none of the messages.
    let webhook = daemon_with_webhook(free_port(), "types = [\"https://example.org/offers/1.0/offer\"]\n");
    let (Some(mut alice), Some(bob)) = (webhook, Daemon::running("")) else { return };
    alice.start();
    bob.json(&["send", "--to", &alice.did, "lunch at noon?", "--within", "30"]);
    assert!(alice.post(b"{}").starts_with("HTTP/1.1 400"));
    alice.wait_until("the message arrived", |alice| alice.unread_texts() == ["lunch at noon?"]);
    bob.json(&["ping", &alice.did]);
    let mut all = served(&alice.get_ops("/metrics"));
    all.extend(served(&bob.get_ops("/metrics")));
    let Some(mut refused) = Daemon::new("") else { return };
    refused.home.write("user.pin", "wrong-pin");
    refused.start_without_token();
    let problem = "claviger_token_problem{token=\"soft\",code=\"pin-refused\"} 1";
    refused.wait_until("the PIN is refused", |refused| refused.get_ops("/metrics").contains(problem));
    all.extend(served(&refused.get_ops("/metrics")));
    all.extend(of_nodes());
    assert_eq!(all, documented());
    assert_eq!(all.into_keys().collect::<BTreeSet<_>>(), mentioned());

    let chat = "protocol=\"https://didcomm.org/basicmessage/2.0\"";
    assert_eq!(alice.metric(&format!("claviger_messages_handled_total{{{chat},result=\"done\"}}")), 1.0);
    assert_eq!(bob.metric(&format!("claviger_messages_sent_total{{{chat},result=\"sent\"}}")), 1.0);
    assert_eq!(alice.metric("claviger_messages_received_total{result=\"taken\"}"), 2.0);
    assert_eq!(alice.metric("claviger_messages_received_total{result=\"malformed\"}"), 1.0);
    let unwrapped = alice.metric("claviger_token_operations_total{kind=\"unwrap\",result=\"done\"}");
    assert!(unwrapped >= 2.0, "{unwrapped}");
    assert_eq!(alice.metric("claviger_token_operation_seconds_count{kind=\"unwrap\"}"), unwrapped);
    assert!(alice.metric("claviger_token_operation_seconds_sum{kind=\"unwrap\"}") > 0.0);
    assert_eq!(token_state(&alice), "ready");
}

/// The state of the token `soft`. Asserts that the metric of exactly one state is 1. Reads all states in one response,
/// as the state may change between two.
fn token_state(agent: &Daemon) -> String {
    let text = agent.get_ops("/metrics");
    let one = |line: &str| {
        let state = line.strip_prefix("claviger_token_state{token=\"soft\",state=\"")?;
        state.strip_suffix("\"} 1").map(str::to_owned)
    };
    let states: Vec<String> = text.lines().filter_map(one).collect();
    assert_eq!(states.len(), 1, "{text}");
    states.concat()
}

#[test]
fn metrics_show_token_states_and_an_unreachable_peer() {
    let (Some(mut alice), Some(bob)) = (Daemon::new(""), Daemon::running("")) else { return };
    bob.json(&["send", "--to", &alice.did, "are you there?"]);
    let chat = "protocol=\"https://didcomm.org/basicmessage/2.0\"";
    let later = format!("claviger_messages_sent_total{{{chat},result=\"later\"}}");
    bob.wait_until("the agent tried to send", |bob| bob.get_ops("/metrics").contains(&later));
    assert_eq!(bob.metric("claviger_waiting{queue=\"outbox\"}"), 1.0);

    alice.disconnect_token();
    alice.start_without_token();
    alice.wait_until("the token is away", |alice| token_state(alice) == "away");
    alice.stop();

    alice.reconnect_token();
    alice.home.write("user.pin", "wrong-pin");
    alice.start_without_token();
    alice.wait_until("the PIN is refused", |alice| token_state(alice) == "locked");
    alice.home.write("user.pin", crate::home::PIN);
    alice.wait_until("the token is ready", |alice| token_state(alice) == "ready");
}
