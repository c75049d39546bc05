//! The metrics for Prometheus. docs/operations.md lists them.
//!
//! The sender of a message chooses the message type. So a label holds the protocol of the type only if this agent
//! speaks that protocol, and `other` otherwise.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry as MetricsRegistry,
};

use super::{
    node_metrics::NodeMetrics,
    protocol::Registry,
    store::{Millis, StoreNode, Usage},
    token_report::{TokenReport, state_name},
};
use crate::secrets::KeyState;

/// The agent's metrics.
pub struct Metrics {
    protocols: Arc<Registry>,
    registry: MetricsRegistry,
    received: Family<Reception, Counter>,
    handled: Family<Outcome, Counter>,
    sent: Family<Outcome, Counter>,
    operations: Family<TokenOperation, Counter>,
    durations: Family<OperationKind, Histogram, fn() -> Histogram>,
    token_states: Family<TokenState, Gauge>,
    token_since: Family<TokenName, Gauge<f64, AtomicU64>>,
    token_problems: Family<TokenProblemLabel, Gauge>,
    refused_dids: Gauge,
    post_answers: Family<Status, Counter>,
    rejected_connections: Counter,
    rejected_api_connections: Counter,
    websockets: Gauge,
    dropped_replies: Counter,
    paused_servers: Gauge,
    queue_length: Family<Queue, Gauge>,
    queue_age: Family<Queue, Gauge<f64, AtomicU64>>,
    unread_bytes: Gauge,
    of_strangers: Family<OfStrangers, Gauge>,
    store_bytes: Gauge,
    store_available: Gauge,
    webhook_letters: Family<WebhookOutcome, Counter>,
    dead_letters: Family<WebhookName, Gauge>,
    webhook_paused: Family<WebhookName, Gauge>,
    nodes: Arc<NodeMetrics>,
    /// Held while the metrics are rendered: for Prometheus, or for the application.
    rendering: Mutex<()>,
}

/// The labels of an attempt to post a letter: the webhook's name in the configuration, and the result.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WebhookOutcome {
    webhook: String,
    result: &'static str,
}

/// The label of what is reported of a webhook.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WebhookName {
    webhook: String,
}

/// The label of a received message: accepted, or why it was refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reception {
    result: &'static str,
}

/// The labels of a handled message, or of an attempt to send a message: the message's protocol, and the result.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    protocol: String,
    result: &'static str,
}

/// The labels of a private-key operation: its kind and its result.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenOperation {
    kind: &'static str,
    result: &'static str,
}

/// The label of an operation's duration: the kind of the operation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationKind {
    kind: &'static str,
}

/// The labels of a token's state: the token's name, and the name of one of [`STATES`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenState {
    token: String,
    state: &'static str,
}

/// The label of what is reported of a token.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenName {
    token: String,
}

/// The labels of why a token cannot be used: the token's name, and one of the codes of the command line.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenProblemLabel {
    token: String,
    code: &'static str,
}

/// The label of a response to a POST: the HTTP status.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Status {
    status: u16,
}

/// The label of what strangers have left: unread messages, their bytes, what is remembered, or marks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfStrangers {
    what: &'static str,
}

/// The label of a queue: inbox, application or outbox.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Queue {
    queue: &'static str,
}

/// The protocol label of a message that was not opened.
pub(super) const UNOPENED: &str = "unopened";
/// The protocol label of a message type that the agent does not know.
const OTHER: &str = "other";
/// The histogram's buckets in seconds. They range from the speed of SoftHSM to a person's touch of a YubiKey.
const BUCKETS: [f64; 13] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0];
/// The results of an attempt to post a letter; and `dead`, that a letter was set aside.
const WEBHOOK_RESULTS: [&str; 5] = ["accepted", "away", "refused", "gone", "dead"];
/// The states of a token.
const STATES: [KeyState; 3] = [KeyState::Ready, KeyState::Away, KeyState::Locked];

impl Metrics {
    /// Metrics at zero, for an agent that speaks these protocols.
    pub(super) fn new(protocols: Arc<Registry>) -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(BUCKETS);
        let mut metrics = Self {
            protocols,
            registry: MetricsRegistry::with_prefix("claviger"),
            received: Family::default(),
            handled: Family::default(),
            sent: Family::default(),
            operations: Family::default(),
            durations: Family::new_with_constructor(histogram),
            token_states: Family::default(),
            token_since: Family::default(),
            token_problems: Family::default(),
            refused_dids: Gauge::default(),
            post_answers: Family::default(),
            rejected_connections: Counter::default(),
            rejected_api_connections: Counter::default(),
            websockets: Gauge::default(),
            dropped_replies: Counter::default(),
            paused_servers: Gauge::default(),
            queue_length: Family::default(),
            queue_age: Family::default(),
            unread_bytes: Gauge::default(),
            of_strangers: Family::default(),
            store_bytes: Gauge::default(),
            store_available: Gauge::default(),
            webhook_letters: Family::default(),
            dead_letters: Family::default(),
            webhook_paused: Family::default(),
            nodes: Arc::default(),
            rendering: Mutex::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "messages_received",
            "Messages received, by whether they were accepted",
            self.received.clone(),
        );
        registry.register("messages_handled", "Messages handled, by protocol and result", self.handled.clone());
        registry.register("messages_sent", "Attempts to send a message, by protocol and result", self.sent.clone());
        registry.register("token_operations", "Private-key operations, by kind and result", self.operations.clone());
        registry.register(
            "token_operation_seconds",
            "Duration of private-key operations, by kind",
            self.durations.clone(),
        );
        registry.register("token_state", "1 for the current state of a token, else 0", self.token_states.clone());
        let since = "Since when a token is in its state, in seconds since 1970";
        registry.register("token_since_seconds", since, self.token_since.clone());
        let problems = self.token_problems.clone();
        registry.register("token_problem", "1 for the reason why a token cannot be used", problems);
        let refused = self.refused_dids.clone();
        registry.register(
            "refused_dids",
            "DIDs of ours that are refused: a key of the document is not proved",
            refused,
        );
        registry.register("http_answers", "Responses to POSTed messages, by HTTP status", self.post_answers.clone());
        let rejected = self.rejected_connections.clone();
        registry.register("connections_turned_away", "Connections rejected by a connection limit", rejected);
        let rejected = self.rejected_api_connections.clone();
        registry.register("api_connections_turned_away", "Connections of other machines rejected by the API", rejected);
        registry.register("websockets", "Open WebSockets", self.websockets.clone());
        let dropped = self.dropped_replies.clone();
        registry.register("replies_dropped", "Messages whose replies were dropped by a limit", dropped);
        let paused = self.paused_servers.clone();
        registry.register("paused_servers", "Servers of peers that get no messages for a while", paused);
        registry.register("waiting", "Messages waiting, by queue", self.queue_length.clone());
        registry.register("oldest_seconds", "Age of the oldest waiting message, by queue", self.queue_age.clone());
        registry.register(
            "unread_bytes",
            "Bytes of messages that the application has not acknowledged",
            self.unread_bytes.clone(),
        );
        let of_strangers = self.of_strangers.clone();
        registry.register("of_strangers", "What all strangers have left in the store", of_strangers);
        registry.register("store_bytes", "Size of the store's files", self.store_bytes.clone());
        let help = "1 if the store can be read now, else 0";
        registry.register("store_available", help, self.store_available.clone());
        let letters = self.webhook_letters.clone();
        registry.register("webhook_letters", "Attempts to post a letter to a webhook, by result", letters);
        registry.register("dead_letters", "Dead letters, by webhook", self.dead_letters.clone());
        registry.register("webhook_paused", "1 for a webhook that is paused, else 0", self.webhook_paused.clone());
        registry.register_collector(Box::new(self.nodes.clone()));
    }

    /// Records that a message was received: accepted, or refused for this reason.
    pub(super) fn message_received(&self, result: &'static str) {
        self.received.get_or_create(&Reception { result }).inc();
    }

    /// Records the result of handling a message of type `kind`: [`UNOPENED`] for a message that was not opened.
    pub(super) fn message_handled(&self, kind: &str, result: &'static str) {
        self.handled.get_or_create(&Outcome { protocol: self.protocol(kind), result }).inc();
    }

    /// Records the result of one attempt to send a message of this type.
    pub(super) fn send_attempted(&self, kind: &str, result: &'static str) {
        self.sent.get_or_create(&Outcome { protocol: self.protocol(kind), result }).inc();
    }

    /// Records a private-key operation, its result and its duration.
    pub(super) fn token_operation(&self, kind: &'static str, result: &'static str, took: Duration) {
        self.operations.get_or_create(&TokenOperation { kind, result }).inc();
        self.durations.get_or_create(&OperationKind { kind }).observe(took.as_secs_f64());
    }

    /// Records the HTTP status of the response to a POST.
    pub(super) fn post_answered(&self, status: u16) {
        self.post_answers.get_or_create(&Status { status }).inc();
    }

    /// Records that a connection limit rejected a connection.
    pub(super) fn connection_rejected(&self) {
        self.rejected_connections.inc();
    }

    /// Records that the API has rejected a connection of another machine.
    pub(super) fn api_connection_rejected(&self) {
        self.rejected_api_connections.inc();
    }

    /// Adds `difference` to the number of open WebSockets.
    pub(super) fn websockets_changed(&self, difference: i64) {
        self.websockets.inc_by(difference);
    }

    /// Records that a limit dropped the replies to a message.
    pub(super) fn replies_dropped(&self) {
        self.dropped_replies.inc();
    }

    /// Sets how many servers of peers get no messages for a while.
    pub(super) fn set_paused_servers(&self, count: usize) {
        self.paused_servers.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Sets what is in the store at `now`, in milliseconds since 1970.
    pub(super) fn set_usage(&self, usage: &Usage, now: Millis) {
        let queues = [
            ("inbox", usage.envelopes, usage.oldest_envelope),
            ("application", usage.deliveries, usage.oldest_delivery),
            ("outbox", usage.outgoing, usage.oldest_outgoing),
        ];
        for (queue, waiting, oldest) in queues {
            let label = Queue { queue };
            self.queue_length.get_or_create(&label).set(i64::try_from(waiting).unwrap_or(i64::MAX));
            let age = oldest.map_or(0, |oldest| now.saturating_sub(oldest).max(0));
            self.queue_age.get_or_create(&label).set(age as f64 / 1000.0);
        }
        self.unread_bytes.set(i64::try_from(usage.delivery_bytes).unwrap_or(i64::MAX));
        let of_strangers = [
            ("unread", usage.stranger_deliveries),
            ("unread-bytes", usage.stranger_delivery_bytes),
            ("remembered-bytes", usage.stranger_record_bytes),
            ("marks", usage.stranger_marks),
        ];
        for (what, amount) in of_strangers {
            self.of_strangers.get_or_create(&OfStrangers { what }).set(i64::try_from(amount).unwrap_or(i64::MAX));
        }
        self.store_bytes.set(i64::try_from(usage.bytes).unwrap_or(i64::MAX));
    }

    /// Sets whether the store can be read.
    pub(super) fn set_store_available(&self, is_available: bool) {
        self.store_available.set(i64::from(is_available));
    }

    /// Sets which nodes use the store; none if the store has no nodes.
    pub(super) fn set_nodes(&self, nodes: Vec<StoreNode>) {
        self.nodes.set(nodes);
    }

    /// Records the result of an attempt to post a letter, or that a letter was set aside.
    pub(super) fn webhook_answered(&self, webhook: &str, result: &'static str) {
        self.webhook_letters.get_or_create(&WebhookOutcome { webhook: webhook.to_owned(), result }).inc();
    }

    /// Sets the number of dead letters of a webhook.
    pub(super) fn set_dead_letters(&self, webhook: &str, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.dead_letters.get_or_create(&WebhookName { webhook: webhook.to_owned() }).set(count);
    }

    /// Sets which webhooks there are.
    pub(super) fn set_webhooks<'a>(&self, webhooks: impl Iterator<Item = &'a str>) {
        self.webhook_paused.clear();
        webhooks.for_each(|webhook| self.begin_webhook(webhook));
    }

    /// Begins the series of a webhook, which is not paused. They begin with 0, so that each change is seen.
    pub(super) fn begin_webhook(&self, webhook: &str) {
        self.set_webhook_paused(webhook, false);
        drop(self.dead_letters.get_or_create(&WebhookName { webhook: webhook.to_owned() }));
        for result in WEBHOOK_RESULTS {
            drop(self.webhook_letters.get_or_create(&WebhookOutcome { webhook: webhook.to_owned(), result }));
        }
    }

    /// Removes how the webhooks are doing, because another node posts.
    pub(super) fn end_webhooks(&self) {
        self.webhook_paused.clear();
        self.dead_letters.clear();
    }

    /// Sets whether a webhook is paused.
    pub(super) fn set_webhook_paused(&self, webhook: &str, is_paused: bool) {
        self.webhook_paused.get_or_create(&WebhookName { webhook: webhook.to_owned() }).set(i64::from(is_paused));
    }

    fn protocol(&self, kind: &str) -> String {
        match self.protocols.find(kind) {
            _ if kind == UNOPENED => kind.to_owned(),
            Ok(Some(protocol)) => protocol.piuri().to_owned(),
            _ => OTHER.to_owned(),
        }
    }

    /// All metrics in the text format of OpenMetrics 1.0. `tokens` and `refused_dids` are the state of the tokens and of our DIDs.
    pub(super) fn render(&self, tokens: &[TokenReport], refused_dids: usize) -> String {
        self.refused_dids.set(i64::try_from(refused_dids).unwrap_or(i64::MAX));
        // A problem that is past must not be reported beside the present one. A rendering at the same time would miss one.
        let _rendering = self.rendering.lock().unwrap_or_else(PoisonError::into_inner);
        self.token_problems.clear();
        for TokenReport { name, state: current, since, problem } in tokens {
            for state in STATES {
                let label = TokenState { token: name.clone(), state: state_name(state) };
                self.token_states.get_or_create(&label).set(i64::from(state == *current));
            }
            let label = TokenName { token: name.clone() };
            self.token_since.get_or_create(&label).set(*since as f64 / 1000.0);
            if let Some(problem) = problem {
                let label = TokenProblemLabel { token: name.clone(), code: problem.code };
                self.token_problems.get_or_create(&label).set(1);
            }
        }
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::protocol::built_in;

    /// Message types that a stranger invents do not become labels.
    #[test]
    fn unknown_message_types_share_one_label() {
        let registry = Registry::new(built_in(&Default::default(), &Default::default(), false)).unwrap();
        let metrics = Metrics::new(Arc::new(registry));
        let kinds = ["https://didcomm.org/trust-ping/2.0/ping", "https://didcomm.org/TrustPing/2.7/ping", UNOPENED];
        for kind in kinds {
            metrics.message_handled(kind, "done");
        }
        for number in 0..100 {
            metrics.message_handled(&format!("https://example.org/flood/{number}.0/drop"), "done");
            metrics.message_handled(&format!("https://didcomm.org/trust-ping/{}.0/ping", 3 + number), "problem");
            metrics.send_attempted(&format!("no type at all {number}"), "sent");
        }
        let text = metrics.render(&[], 0);
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("claviger_messages")).collect();
        assert_eq!(lines.len(), 5, "{lines:#?}");
        let ping = "claviger_messages_handled_total{protocol=\"https://didcomm.org/trust-ping/2.0\",result=\"done\"} 2";
        assert!(lines.contains(&ping), "{lines:#?}");
    }
}
