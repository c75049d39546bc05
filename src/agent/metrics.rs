//! Figures for Prometheus; docs/operations.md has the list of them.
//!
//! Who sends a message chooses its type: a label has the name of a protocol that this agent speaks, or `other`.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry as Figures,
};

use super::{
    protocol::Registry,
    store::{Millis, Usage},
};
use crate::secrets::KeyState;

/// What is counted.
pub struct Metrics {
    protocols: Arc<Registry>,
    figures: Figures,
    received: Family<Received, Counter>,
    handled: Family<Outcome, Counter>,
    sent: Family<Outcome, Counter>,
    operations: Family<Operation, Counter>,
    seconds: Family<Kind, Histogram, fn() -> Histogram>,
    tokens: Family<TokenIs, Gauge>,
    answers: Family<Status, Counter>,
    turned_away: Counter,
    sockets: Gauge,
    waiting: Family<Queue, Gauge>,
    oldest: Family<Queue, Gauge<f64, AtomicU64>>,
    unread_bytes: Gauge,
    store_bytes: Gauge,
}

/// The tokens by name, and how they are now.
pub type TokenStates = Vec<(String, KeyState)>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Received {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    protocol: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    kind: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenIs {
    token: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Status {
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Queue {
    queue: &'static str,
}

/// The protocol of a message that was not opened.
pub(super) const UNOPENED: &str = "unopened";
/// That of a type that the agent does not know.
const OTHER: &str = "other";
/// From SoftHSM in memory to a person who is asked for a touch, in seconds.
const BUCKETS: [f64; 13] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0];
const STATES: [(KeyState, &str); 3] =
    [(KeyState::Ready, "ready"), (KeyState::Away, "away"), (KeyState::Locked, "locked")];

impl Metrics {
    /// With nothing counted, of an agent that speaks these protocols.
    pub(super) fn new(protocols: Arc<Registry>) -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(BUCKETS);
        let mut metrics = Self {
            protocols,
            figures: Figures::with_prefix("claviger"),
            received: Family::default(),
            handled: Family::default(),
            sent: Family::default(),
            operations: Family::default(),
            seconds: Family::new_with_constructor(histogram),
            tokens: Family::default(),
            answers: Family::default(),
            turned_away: Counter::default(),
            sockets: Gauge::default(),
            waiting: Family::default(),
            oldest: Family::default(),
            unread_bytes: Gauge::default(),
            store_bytes: Gauge::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let figures = &mut self.figures;
        figures.register("messages_received", "Messages that came, by whether they were taken", self.received.clone());
        figures.register("messages_handled", "Messages, by what became of them", self.handled.clone());
        figures.register("messages_sent", "Tries to send a message, by what became of them", self.sent.clone());
        figures.register("token_operations", "Operations with a private key", self.operations.clone());
        figures.register("token_operation_seconds", "How long they took", self.seconds.clone());
        figures.register("token_state", "1 for the state that a token is in", self.tokens.clone());
        figures.register("http_answers", "Answers to POSTed messages, by status", self.answers.clone());
        let turned_away = self.turned_away.clone();
        figures.register("connections_turned_away", "Connections for which there was no room", turned_away);
        figures.register("websockets", "WebSockets that are open", self.sockets.clone());
        figures.register("waiting", "Messages that wait, by queue", self.waiting.clone());
        figures.register("oldest_seconds", "How long the oldest message has waited, by queue", self.oldest.clone());
        figures.register("unread_bytes", "The bytes that the application has not read", self.unread_bytes.clone());
        figures.register("store_bytes", "The size of the store's files", self.store_bytes.clone());
    }

    /// A message came.
    pub(super) fn received(&self, result: &'static str) {
        self.received.get_or_create(&Received { result }).inc();
    }

    /// A message of this type, or [`UNOPENED`], was done with, or is to be tried again.
    pub(super) fn handled(&self, kind: &str, result: &'static str) {
        self.handled.get_or_create(&Outcome { protocol: self.protocol(kind), result }).inc();
    }

    /// A message of this type was tried to be sent.
    pub(super) fn sent(&self, kind: &str, result: &'static str) {
        self.sent.get_or_create(&Outcome { protocol: self.protocol(kind), result }).inc();
    }

    /// A token was asked to do something.
    pub(super) fn operated(&self, kind: &'static str, result: &'static str, took: Duration) {
        self.operations.get_or_create(&Operation { kind, result }).inc();
        self.seconds.get_or_create(&Kind { kind }).observe(took.as_secs_f64());
    }

    /// A POST was answered.
    pub(super) fn answered(&self, status: u16) {
        self.answers.get_or_create(&Status { status }).inc();
    }

    /// There was no room for a connection.
    pub(super) fn turned_away(&self) {
        self.turned_away.inc();
    }

    /// So many WebSockets more.
    pub(super) fn sockets(&self, more: i64) {
        self.sockets.inc_by(more);
    }

    fn protocol(&self, kind: &str) -> String {
        match self.protocols.find(kind) {
            _ if kind == UNOPENED => kind.to_owned(),
            Ok(Some(protocol)) => protocol.piuri().to_owned(),
            _ => OTHER.to_owned(),
        }
    }

    /// All figures in the text format of OpenMetrics 1.0, with what the store holds and how the tokens are now.
    pub(super) fn text(&self, usage: &Usage, tokens: &TokenStates, now: Millis) -> String {
        for (token, is) in tokens {
            for (state, name) in STATES {
                let label = TokenIs { token: token.clone(), state: name };
                self.tokens.get_or_create(&label).set(i64::from(state == *is));
            }
        }
        let queues = [
            ("inbox", usage.envelopes, usage.oldest_envelope),
            ("application", usage.deliveries, usage.oldest_delivery),
            ("outbox", usage.outgoing, usage.oldest_outgoing),
        ];
        for (queue, waiting, oldest) in queues {
            let label = Queue { queue };
            self.waiting.get_or_create(&label).set(i64::try_from(waiting).unwrap_or(i64::MAX));
            let age = oldest.map_or(0, |oldest| now.saturating_sub(oldest).max(0));
            self.oldest.get_or_create(&label).set(age as f64 / 1000.0);
        }
        self.unread_bytes.set(i64::try_from(usage.delivery_bytes).unwrap_or(i64::MAX));
        self.store_bytes.set(i64::try_from(usage.bytes).unwrap_or(i64::MAX));
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.figures);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::protocol::{Options, built_in};

    /// Types that strangers think of make no label of their own.
    #[test]
    fn a_stranger_makes_no_new_label() {
        let registry = Registry::new(built_in(&Options::default())).unwrap();
        let metrics = Metrics::new(Arc::new(registry));
        let kinds = ["https://didcomm.org/trust-ping/2.0/ping", "https://didcomm.org/TrustPing/2.7/ping", UNOPENED];
        for kind in kinds {
            metrics.handled(kind, "done");
        }
        for number in 0..100 {
            metrics.handled(&format!("https://example.org/flood/{number}.0/drop"), "done");
            metrics.handled(&format!("https://didcomm.org/trust-ping/{}.0/ping", 3 + number), "problem");
            metrics.sent(&format!("no type at all {number}"), "sent");
        }
        let text = metrics.text(&Usage::default(), &Vec::new(), 0);
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("claviger_messages")).collect();
        assert_eq!(lines.len(), 5, "{lines:#?}");
        let ping = "claviger_messages_handled_total{protocol=\"https://didcomm.org/trust-ping/2.0\",result=\"done\"} 2";
        assert!(lines.contains(&ping), "{lines:#?}");
    }
}
