//! A session with a mediator: requests are answered on the same channel, and a delivered message is stored before it is
//! acknowledged.

use std::{collections::HashSet, time::Duration};

use hyper::body::Bytes;
use serde_json::{Value, json};

use super::{
    error::MediationError,
    exchange::Exchange,
    parts::MediationParts,
    versions::{CoordinationVersion, PickupVersion, belongs_to, routing_dids},
};
use crate::{
    agent::{
        inbox::Refusal,
        protocol::{
            discover_features::{DISCLOSE, QUERIES},
            report_message::PROBLEM_REPORT,
        },
    },
    didcomm::Message,
};

/// The time limit for an answer of the mediator.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The time limit for the answer to a discover-features query. Not every mediator answers such a query.
const DISCLOSURE_TIMEOUT: Duration = Duration::from_secs(5);
/// The number of messages after which one call of [`Session::fetch_all`] stops; the next call fetches the rest. Without
/// this limit a malicious mediator could keep the call going for ever.
const MAX_FETCHED: usize = 10_000;
/// The most characters of a problem report in an error.
const MAX_PROBLEM_CHARS: usize = 200;

/// An open channel to a mediator, and the protocol versions that are used on it.
pub(super) struct Session<'a> {
    exchange: Exchange<'a>,
    /// The versions that the mediator speaks, as far as they are known.
    pub coordination: CoordinationVersion,
    pub pickup: PickupVersion,
    /// Whether the mediator has announced more messages.
    pub has_more: bool,
}

/// The messages that may answer a request. An answer names the request in its `thid` or `pthid`, or has no `thid`.
enum Expected<'a> {
    /// One of these messages of this protocol.
    OneOf(&'a str, &'a [&'a str]),
    /// A message of this type.
    Type(&'a str),
}

impl<'a> Session<'a> {
    /// Opens a session over a WebSocket, if `websocket` is set and the mediator has one, otherwise over HTTP.
    pub async fn open(
        parts: &'a MediationParts,
        mediator_did: &str,
        own_did: &str,
        websocket: bool,
        (coordination, pickup): (CoordinationVersion, PickupVersion),
    ) -> Result<Self, MediationError> {
        let exchange = Exchange::open(parts, mediator_did, own_did, websocket).await?;
        Ok(Self { exchange, coordination, pickup, has_more: false })
    }

    /// Whether the mediator may send messages without a request.
    pub fn is_websocket(&self) -> bool {
        self.exchange.is_websocket()
    }

    /// Closes the channel to the mediator.
    pub async fn close(self) {
        self.exchange.close().await;
    }

    /// Asks for the versions that the mediator speaks (discover-features), and uses the newest that it discloses.
    /// Returns whether it discloses coordinate-mediation, or `None` if it does not answer.
    pub async fn discover_versions(&mut self) -> Result<Option<bool>, MediationError> {
        let families = ["coordinate-mediation/*", "messagepickup/*", "message-pickup/*"];
        let queries = families
            .map(|family| json!({ "feature-type": "protocol", "match": format!("https://didcomm.org/{family}") }));
        let expected = Expected::Type(DISCLOSE);
        let answer = match self.ask(QUERIES, json!({ "queries": queries }), &expected, DISCLOSURE_TIMEOUT).await {
            Ok(answer) => answer,
            // A mediator need not answer discover-features.
            Err(MediationError::Unreachable(_) | MediationError::Denied(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let disclosures = answer.body.get("disclosures").and_then(Value::as_array);
        let ids: Vec<&str> = disclosures.into_iter().flatten().filter_map(|it| it["id"].as_str()).collect();
        let speaks = |piuri: &str| ids.iter().any(|id| id.trim_end_matches('/') == piuri);
        let newest = [CoordinationVersion::V3, CoordinationVersion::V2].into_iter().find(|it| speaks(it.piuri()));
        self.coordination = newest.unwrap_or(self.coordination);
        let pickup = [PickupVersion::V4, PickupVersion::V3].into_iter().find(|it| speaks(it.piuri()));
        self.pickup = pickup.unwrap_or(self.pickup);
        Ok(Some(newest.is_some()))
    }

    /// Requests mediation. Returns the routing DIDs.
    pub async fn request_mediation(&mut self) -> Result<Vec<String>, MediationError> {
        let piuri = self.coordination.piuri();
        let expected = Expected::OneOf(piuri, &["mediate-grant", "mediate-deny"]);
        let answer = self.ask(&format!("{piuri}/mediate-request"), json!({}), &expected, ANSWER_TIMEOUT).await?;
        match name(&answer) {
            "mediate-grant" => Ok(routing_dids(&answer)),
            "mediate-deny" => Err(MediationError::Denied("it answers with mediate-deny".to_owned())),
            other => Err(MediationError::Unusable(format!("it answers mediate-request with {other}"))),
        }
    }

    /// Registers the DIDs in `add`, and unregisters those in `remove`. Returns the DIDs that the mediator registered.
    pub async fn update_keylist(&mut self, add: &[String], remove: &[String]) -> Result<Vec<String>, MediationError> {
        let (piuri, update) = (self.coordination.piuri(), self.coordination.update_name());
        let response = format!("{update}-response");
        let expected = Expected::OneOf(piuri, &[&response]);
        let body = CoordinationVersion::update_body(add, remove);
        let answer = self.ask(&format!("{piuri}/{update}"), body, &expected, ANSWER_TIMEOUT).await?;
        let updated = answer.body.get("updated").and_then(Value::as_array);
        let mut requested: HashSet<&String> = add.iter().collect();
        let mut registered = Vec::new();
        for entry in updated.into_iter().flatten().filter(|entry| entry["action"] != "remove") {
            let did = entry["recipient_did"].as_str().unwrap_or_default().to_owned();
            match entry["result"].as_str() {
                Some("success" | "no_change") => registered.extend(requested.take(&did).cloned()),
                result => {
                    let mediator = &self.exchange.mediator_did;
                    tracing::warn!(did, result, mediator, "DID not registered by mediator");
                }
            }
        }
        Ok(registered)
    }

    /// Asks the mediator to deliver messages as they arrive. Returns whether it will.
    pub async fn enable_live_delivery(&mut self) -> Result<bool, MediationError> {
        let piuri = self.pickup.piuri();
        let expected = Expected::OneOf(piuri, &["status"]);
        let change = format!("{piuri}/live-delivery-change");
        match self.ask(&change, json!({ "live_delivery": true }), &expected, ANSWER_TIMEOUT).await {
            Ok(status) => {
                self.handle(status).await?;
                Ok(true)
            }
            // The reason is "e.m.live-mode-not-supported", or another problem code.
            Err(MediationError::Denied(reason)) => {
                tracing::info!(mediator = self.exchange.mediator_did, reason, "live delivery refused by mediator");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Fetches the messages that wait at the mediator, up to `max_delivery` in one delivery, and about [`MAX_FETCHED`]
    /// in all.
    pub async fn fetch_all(&mut self, max_delivery: usize) -> Result<(), MediationError> {
        let piuri = self.pickup.piuri();
        let request = format!("{piuri}/delivery-request");
        let mut acknowledged = HashSet::new();
        loop {
            self.has_more = false;
            let expected = Expected::OneOf(piuri, &["delivery", "status"]);
            let body = self.pickup.delivery_request_body(max_delivery);
            let answer = self.ask(&request, body, &expected, ANSWER_TIMEOUT).await?;
            let before = acknowledged.len();
            if name(&answer) == "delivery" {
                acknowledged.extend(self.accept_delivery(&answer).await?);
            }
            // Stop if all messages of a delivery are acknowledged already: the mediator would repeat it for ever.
            if acknowledged.len() == before || acknowledged.len() > MAX_FETCHED {
                return Ok(());
            }
        }
    }

    /// Returns the next frame that the mediator sends without a request, still packed. The call may be cancelled and
    /// repeated.
    pub async fn receive(&mut self) -> Result<Bytes, MediationError> {
        let closed = || MediationError::Unreachable("it has closed the connection".to_owned());
        self.exchange.receive().await?.ok_or_else(closed)
    }

    /// Handles a frame that the mediator has sent without a request.
    pub async fn handle_frame(&mut self, frame: Bytes) -> Result<(), MediationError> {
        match self.exchange.unpack_or_forward(frame, self.protocols()).await? {
            Some(message) => self.handle(message).await,
            None => Ok(()),
        }
    }

    async fn handle(&mut self, message: Message) -> Result<(), MediationError> {
        match name(&message) {
            "delivery" => drop(self.accept_delivery(&message).await?),
            // This is the answer to an acknowledgement, and usually reports an empty queue.
            "status" => self.has_more |= message.body.get("message_count").and_then(Value::as_u64).unwrap_or(0) > 0,
            other => tracing::debug!(name = other, mediator = self.exchange.mediator_did, "mediator message ignored"),
        }
        Ok(())
    }

    /// Stores the delivered messages and acknowledges them, so that the mediator may delete them. Returns the ids of
    /// the acknowledged messages.
    async fn accept_delivery(&mut self, delivery: &Message) -> Result<Vec<String>, MediationError> {
        let mediator = &self.exchange.mediator_did;
        let mut acknowledged = Vec::new();
        let mut outcome = Ok(());
        for attachment in delivery.attachments.iter().flatten() {
            let Some(id) = &attachment.id else {
                tracing::warn!(mediator, "delivered message without an id ignored");
                continue;
            };
            let packed = match (attachment.data.bytes(), &attachment.data.json) {
                (Some(Ok(bytes)), _) => bytes,
                (_, Some(json)) => json.to_string().into_bytes(),
                _ => Vec::new(),
            };
            match self.exchange.parts.inbox.accept_fetched(packed).await {
                Ok(_) => acknowledged.push(id.clone()),
                Err(Refusal::Store(error)) => {
                    outcome = Err(error.into());
                    break;
                }
                // The mediator delivers the message again. By then it may be known whether the DID is ours.
                Err(Refusal::NotForUs { may_be_own: true }) => {}
                // Without an acknowledgement the message would be delivered again and again, and block later messages.
                Err(refusal) => {
                    tracing::warn!(reason = %refusal, mediator, "message not accepted");
                    acknowledged.push(id.clone());
                }
            }
        }
        if !acknowledged.is_empty() {
            let received = format!("{}/messages-received", self.pickup.piuri());
            let message = self.exchange.message(&received, json!({ "message_id_list": acknowledged }));
            self.exchange.send(&message).await?;
        }
        outcome.map(|()| acknowledged)
    }

    /// Sends a request, and waits up to `limit` for the answer. Messages that arrive before the answer are handled.
    async fn ask(
        &mut self,
        kind: &str,
        body: Value,
        expected: &Expected<'_>,
        limit: Duration,
    ) -> Result<Message, MediationError> {
        let request = self.exchange.message(kind, body);
        let answered = async {
            self.exchange.send(&request).await?;
            loop {
                let Some(message) = self.next_message().await? else {
                    return Err(MediationError::Unreachable(format!("it does not answer {kind}")));
                };
                let names_request = [&message.thid, &message.pthid].into_iter().flatten().any(|id| *id == request.id);
                if names_request && message.type_ == PROBLEM_REPORT {
                    return Err(MediationError::Denied(problem_text(&message)));
                }
                if expected.matches(&message) && (names_request || message.thid.is_none()) {
                    return Ok(message);
                }
                self.handle(message).await?;
            }
        };
        let timed_out =
            |_| MediationError::Unreachable(format!("it does not answer {kind} within {} s", limit.as_secs()));
        tokio::time::timeout(limit, answered).await.map_err(timed_out)?
    }

    /// Returns the mediator's next message in the mediation protocols. Other messages go to the inbox. `None` once no
    /// message is left.
    async fn next_message(&mut self) -> Result<Option<Message>, MediationError> {
        while let Some(frame) = self.exchange.receive().await? {
            if let Some(message) = self.exchange.unpack_or_forward(frame, self.protocols()).await? {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    fn protocols(&self) -> [&'static str; 2] {
        [self.coordination.piuri(), self.pickup.piuri()]
    }
}

impl Expected<'_> {
    fn matches(&self, message: &Message) -> bool {
        match self {
            Self::OneOf(piuri, names) => belongs_to(message, piuri) && names.contains(&name(message)),
            Self::Type(kind) => message.type_ == *kind,
        }
    }
}

fn name(message: &Message) -> &str {
    message.message_type().map_or("", |kind| kind.message)
}

/// The code and the comment of a problem report, in one line.
fn problem_text(report: &Message) -> String {
    let text = |name: &str| report.body.get(name).and_then(Value::as_str).unwrap_or_default();
    let line = format!("{} {}", text("code"), text("comment"));
    line.chars().filter(|letter| !letter.is_control()).take(MAX_PROBLEM_CHARS).collect()
}
