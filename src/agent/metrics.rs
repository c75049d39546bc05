//! Figures for Prometheus.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::store::{Millis, Usage};

/// What is counted.
pub struct Metrics {
    registry: Registry,
    received: Family<Kind, Counter>,
    answers: Family<Status, Counter>,
    turned_away: Counter,
    sockets: Gauge,
    waiting: Family<Queue, Gauge>,
    oldest: Family<Queue, Gauge<f64, AtomicU64>>,
    store_bytes: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    protocol: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Status {
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Queue {
    queue: &'static str,
}

impl Metrics {
    /// With nothing counted.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("claviger");
        let received = Family::default();
        registry.register("messages_handled", "Messages that were opened and handled, by protocol", received.clone());
        let answers = Family::default();
        registry.register("http_answers", "Answers to POSTed messages, by status", answers.clone());
        let turned_away = Counter::default();
        registry.register("connections_turned_away", "Connections for which there was no room", turned_away.clone());
        let sockets = Gauge::default();
        registry.register("websockets", "WebSockets that are open", sockets.clone());
        let waiting = Family::default();
        registry.register("waiting", "Messages that wait, by queue", waiting.clone());
        let oldest = Family::default();
        registry.register("oldest_seconds", "How long the oldest message has waited, by queue", oldest.clone());
        let store_bytes = Gauge::default();
        registry.register("store_bytes", "The size of the store's files", store_bytes.clone());
        Self { registry, received, answers, turned_away, sockets, waiting, oldest, store_bytes }
    }

    /// A message of a protocol was handled; `other` for those that the agent does not know, since strangers choose their names.
    pub(super) fn handled(&self, protocol: &str) {
        self.received.get_or_create(&Kind { protocol: protocol.to_owned() }).inc();
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

    /// All figures in the text format of OpenMetrics 1.0, with what the store holds now.
    pub fn text(&self, usage: &Usage, now: Millis) -> String {
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
        self.store_bytes.set(i64::try_from(usage.bytes).unwrap_or(i64::MAX));
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
