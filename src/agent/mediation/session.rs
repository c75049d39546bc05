//! A session with a mediator: requests are answered on the same channel, and a delivered message is stored before it is
//! acknowledged.
//!
//! An answer should name its request in `thid`, and a problem report in `pthid`. Several mediators name nothing, or
//! themselves. Over HTTP the response to a request is its answer all the same. On a WebSocket a message without such a
//! name is taken for the answer if none with the name follows soon.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use hyper::body::Bytes;
use serde_json::{Value, json};

use super::{
    channel::Transport,
    delivered::Delivered,
    error::MediationError,
    exchange::{Exchange, Frame},
    options::MediationOptions,
    parts::MediationParts,
    patience::Patience,
    versions::{CoordinationVersion, PickupVersion, belongs_to, routing_dids},
};
use crate::{
    agent::protocol::{
        discover_features::{DISCLOSE, QUERIES},
        report_message::PROBLEM_REPORT,
    },
    didcomm::Message,
};

/// How long a mediator that owes an answer may be silent.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The time limit for the answer to a discover-features query. Not every mediator answers such a query.
const DISCLOSURE_TIMEOUT: Duration = Duration::from_secs(5);
/// The time limit for the answer to a request in a version that the mediator has not disclosed.
const UNDISCLOSED_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer that names its request may come after one that names none, on a WebSocket.
const NAMED_ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// The most DIDs in one keylist update. A mediator limits the size of a message.
const MAX_UPDATES: usize = 100;
/// How many acknowledgements are remembered, so that their answers are not taken for those of requests.
const MAX_ACKNOWLEDGEMENTS: usize = 100;
/// The most frames in a row that the mediator may send without a request and that bring nothing new, between two
/// fetches. Each costs the token an operation.
const MAX_IDLE_FRAMES: usize = 500;
/// The most characters of a problem report in an error.
const MAX_PROBLEM_CHARS: usize = 200;

/// An open channel to a mediator, and the protocol versions that are used on it.
pub(super) struct Session<'a> {
    pub(super) exchange: Exchange<'a>,
    /// The versions that the mediator speaks, as far as they are known.
    pub coordination: CoordinationVersion,
    pub pickup: PickupVersion,
    /// Whether the mediator has announced more messages.
    pub has_more: bool,
    /// What the mediator has delivered in this session.
    pub(super) delivered: Delivered,
    /// The ids of the last acknowledgements.
    pub(super) acknowledgements: VecDeque<String>,
    /// Whether the mediator's answers do not name their requests.
    answers_unnamed: bool,
    /// How many frames in a row have brought nothing new.
    idle_frames: usize,
}

/// The messages that may answer a request.
enum Expected<'a> {
    /// One of these messages of this protocol.
    OneOf(&'a str, &'a [&'a str]),
    /// A message of this type.
    Type(&'a str),
}

impl<'a> Session<'a> {
    /// Opens a session.
    pub async fn open(
        parts: &'a MediationParts,
        mediator_did: &str,
        own_did: &str,
        transport: Transport,
        (coordination, pickup): (CoordinationVersion, PickupVersion),
        options: &MediationOptions,
    ) -> Result<Self, MediationError> {
        let exchange = Exchange::open(parts, mediator_did, own_did, transport, options.max_delivery_bytes).await?;
        Ok(Self {
            exchange,
            coordination,
            pickup,
            has_more: false,
            delivered: Delivered::default(),
            acknowledgements: VecDeque::new(),
            answers_unnamed: false,
            idle_frames: 0,
        })
    }

    /// Whether the mediator may send messages without a request.
    pub fn is_websocket(&self) -> bool {
        self.exchange.is_websocket()
    }

    /// The DID from which the mediator writes. It may be another than the one that the session was opened with.
    pub fn mediator_did(&self) -> &str {
        &self.exchange.mediator_did
    }

    /// Closes the channel to the mediator.
    pub async fn close(self) {
        self.exchange.close().await;
    }

    /// Asks for the versions that the mediator speaks (discover-features), and uses the newest that it discloses.
    /// Returns whether it discloses coordinate-mediation, or `None` if it does not answer.
    pub async fn discover_versions(&mut self) -> Result<Option<bool>, MediationError> {
        // Some mediators read the pattern as a regular expression, so it must have the same meaning as one.
        let families =
            ["coordinate-mediation/3.*", "coordinate-mediation/2.*", "messagepickup/3.*", "message-pickup/4.*"];
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
        // Some disclose the types of messages.
        let speaks = |piuri: &str| {
            ids.iter().filter_map(|id| id.strip_prefix(piuri)).any(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let newest = [CoordinationVersion::V3, CoordinationVersion::V2].into_iter().find(|it| speaks(it.piuri()));
        self.coordination = newest.unwrap_or(self.coordination);
        let pickup = [PickupVersion::V4, PickupVersion::V3].into_iter().find(|it| speaks(it.piuri()));
        self.pickup = pickup.unwrap_or(self.pickup);
        Ok(Some(newest.is_some()))
    }

    /// Requests mediation. Returns the routing DIDs, or `None` if the mediator denies. `is_disclosed` says whether the
    /// mediator has disclosed the version.
    pub async fn request_mediation(&mut self, is_disclosed: bool) -> Result<Option<Vec<String>>, MediationError> {
        let piuri = self.coordination.piuri();
        let expected = Expected::OneOf(piuri, &["mediate-grant", "mediate-deny"]);
        let limit = if is_disclosed { ANSWER_TIMEOUT } else { UNDISCLOSED_TIMEOUT };
        let answer = self.ask(&format!("{piuri}/mediate-request"), json!({}), &expected, limit).await?;
        Ok(Some(routing_dids(&answer)).filter(|_| name(&answer) == "mediate-grant"))
    }

    /// Registers the DIDs in `add`, and unregisters those in `remove`. Returns the DIDs that the mediator registered, and
    /// why it did not register the first of the others.
    pub async fn update_keylist(
        &mut self,
        add: &[String],
        remove: &[String],
    ) -> Result<(Vec<String>, Option<String>), MediationError> {
        let (mut registered, mut problem) = (Vec::new(), None);
        let parts = add.chunks(MAX_UPDATES).map(|add| (add, &remove[..0]));
        for (add, remove) in parts.chain(remove.chunks(MAX_UPDATES).map(|remove| (&add[..0], remove))) {
            let (some, reason) = self.update_part(add, remove).await?;
            registered.extend(some);
            problem = problem.or(reason);
        }
        Ok((registered, problem))
    }

    async fn update_part(
        &mut self,
        add: &[String],
        remove: &[String],
    ) -> Result<(Vec<String>, Option<String>), MediationError> {
        let (piuri, update) = (self.coordination.piuri(), self.coordination.update_name());
        let response = format!("{update}-response");
        let expected = Expected::OneOf(piuri, &[&response]);
        let body = CoordinationVersion::update_body(add, remove);
        let answer = self.ask(&format!("{piuri}/{update}"), body, &expected, ANSWER_TIMEOUT).await?;
        let updated = answer.body.get("updated").and_then(Value::as_array);
        let mut requested: HashSet<&String> = add.iter().collect();
        let (mut registered, mut problem) = (Vec::new(), None);
        for entry in updated.into_iter().flatten().filter(|entry| entry["action"] != "remove") {
            let did = entry["recipient_did"].as_str().unwrap_or_default().to_owned();
            match entry["result"].as_str() {
                Some("success" | "no_change") => registered.extend(requested.take(&did).cloned()),
                result => {
                    let mediator = &self.exchange.mediator_did;
                    tracing::warn!(did, result, mediator, "DID not registered by mediator");
                    problem.get_or_insert_with(|| one_line(result.unwrap_or("no result")));
                }
            }
        }
        Ok((registered, problem))
    }

    /// Asks the mediator to deliver messages as they arrive. Returns whether it will.
    pub async fn enable_live_delivery(&mut self) -> Result<bool, MediationError> {
        let piuri = self.pickup.piuri();
        let expected = Expected::OneOf(piuri, &["status"]);
        let change = format!("{piuri}/live-delivery-change");
        match self.ask(&change, json!({ "live_delivery": true }), &expected, ANSWER_TIMEOUT).await {
            Ok(status) => {
                let is_live = status.body.get("live_delivery") != Some(&Value::Bool(false));
                self.handle(status).await?;
                Ok(is_live)
            }
            // The reason is "e.m.live-mode-not-supported", or another problem code.
            Err(MediationError::Denied(reason)) => {
                tracing::info!(mediator = self.exchange.mediator_did, reason, "live delivery refused by mediator");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the next frame that the mediator sends without a request, still packed. The call may be cancelled and
    /// repeated.
    pub async fn receive(&mut self) -> Result<Bytes, MediationError> {
        let closed = || MediationError::Unreachable("it has closed the connection".to_owned());
        self.exchange.receive().await?.ok_or_else(closed)
    }

    /// Handles a frame that the mediator has sent without a request.
    ///
    /// # Errors
    /// Also if the mediator sends many frames that bring nothing new.
    pub async fn handle_frame(&mut self, frame: Bytes) -> Result<(), MediationError> {
        let is_new = match self.exchange.unpack_or_forward(frame, self.protocols(), false).await? {
            Frame::Message(message) => self.handle(*message).await?,
            Frame::Passed { is_new } => is_new,
        };
        self.count_idle(is_new)
    }

    /// Counts a frame that the mediator has sent without a request.
    ///
    /// # Errors
    /// If too many in a row bring nothing new.
    fn count_idle(&mut self, is_new: bool) -> Result<(), MediationError> {
        self.idle_frames = if is_new { 0 } else { self.idle_frames + 1 };
        if self.idle_frames > MAX_IDLE_FRAMES {
            let reason = format!("it has sent {MAX_IDLE_FRAMES} messages in a row that bring nothing new");
            return Err(MediationError::Unusable(reason));
        }
        Ok(())
    }

    /// Begins to count the frames that bring nothing new.
    pub(super) fn reset_idle_frames(&mut self) {
        self.idle_frames = 0;
    }

    /// Handles a message that answers no request. Returns whether it has brought a message that was not delivered before.
    async fn handle(&mut self, message: Message) -> Result<bool, MediationError> {
        match name(&message) {
            "delivery" => return Ok(self.accept_delivery(&message).await?.fresh > 0),
            // This is the answer to an acknowledgement, and usually reports an empty queue.
            "status" => self.has_more |= message_count(&message) > 0,
            other => tracing::debug!(name = other, mediator = self.exchange.mediator_did, "mediator message ignored"),
        }
        Ok(false)
    }

    /// Asks for messages: at most `count`. Returns a `delivery`, or a `status` if there is none.
    pub(super) async fn request_delivery(&mut self, count: usize) -> Result<Message, MediationError> {
        let piuri = self.pickup.piuri();
        let expected = Expected::OneOf(piuri, &["delivery", "status"]);
        let body = self.pickup.delivery_request_body(count);
        self.ask(&format!("{piuri}/delivery-request"), body, &expected, ANSWER_TIMEOUT).await
    }

    /// Lets the mediator delete these messages.
    pub(super) async fn acknowledge(&mut self, ids: &[String]) -> Result<(), MediationError> {
        let received = format!("{}/messages-received", self.pickup.piuri());
        let message = self.exchange.message(&received, json!({ "message_id_list": ids }));
        self.acknowledgements.truncate(MAX_ACKNOWLEDGEMENTS - 1);
        self.acknowledgements.push_front(message.id.clone());
        self.exchange.send(&message).await
    }

    /// Handles the responses to acknowledgements, which over HTTP are here already. A delivery among them comes again with
    /// the next request.
    pub(super) async fn handle_responses(&mut self) -> Result<(), MediationError> {
        while !self.is_websocket()
            && let Some(message) = self.next_message(&mut Patience::new(ANSWER_TIMEOUT)).await?
        {
            self.has_more |= name(&message) == "status" && message_count(&message) > 0;
        }
        Ok(())
    }

    /// Sends a request, and waits for the answer until the mediator was silent for `limit`. Messages that arrive before the
    /// answer are handled.
    async fn ask(
        &mut self,
        kind: &str,
        body: Value,
        expected: &Expected<'_>,
        limit: Duration,
    ) -> Result<Message, MediationError> {
        let mut patience = Patience::new(limit);
        let silent = |refused: Option<String>| {
            let refused = refused.map(|reason| format!("; what it has sent is not accepted: {reason}"));
            let reason = format!("it does not answer {kind} within {} s", limit.as_secs());
            MediationError::Unreachable(format!("{reason}{}", refused.unwrap_or_default()))
        };
        let request = self.exchange.message(kind, body);
        self.exchange.take_refused();
        patience.wait(self.exchange.send(&request)).await.ok_or_else(|| silent(None))??;
        // An answer that does not name the request.
        let mut unnamed: Option<Message> = None;
        loop {
            let next = self.next_message(&mut patience).await?;
            let Some(message) = next else {
                self.answers_unnamed |= unnamed.is_some();
                let refused = self.exchange.take_refused();
                return unnamed.ok_or_else(|| silent(refused)).and_then(answer);
            };
            match self.relation(&message, &request.id, expected) {
                Relation::Answer => {
                    if let Some(earlier) = unnamed {
                        self.handle(earlier).await?;
                    }
                    return answer(message);
                }
                Relation::Unnamed if self.answers_unnamed || !self.is_websocket() => return answer(message),
                Relation::Unnamed if unnamed.is_none() => {
                    unnamed = Some(message);
                    patience.limit(NAMED_ANSWER_TIMEOUT);
                }
                Relation::Unnamed | Relation::None => {
                    // A status may answer one of many acknowledgements.
                    let is_delivery = name(&message) == "delivery";
                    let is_new = self.handle(message).await?;
                    if is_delivery {
                        self.count_idle(is_new)?;
                    }
                }
            }
        }
    }

    /// How a message is related to a request.
    fn relation(&self, message: &Message, request: &str, expected: &Expected<'_>) -> Relation {
        if !expected.matches(message) && !is_problem_report(message) {
            return Relation::None;
        }
        let names = |id: &str| [&message.thid, &message.pthid].into_iter().flatten().any(|it| it == id);
        if names(request) {
            return Relation::Answer;
        }
        if self.acknowledgements.iter().any(|id| names(id)) {
            return Relation::None;
        }
        Relation::Unnamed
    }

    /// Returns the mediator's next message in the mediation protocols. Other messages go to the inbox. `None` once no
    /// message is left, or the patience has ended. Only the wait for a frame ends then: a frame that was received is handled,
    /// since the mediator may have forgotten it.
    async fn next_message(&mut self, patience: &mut Patience) -> Result<Option<Message>, MediationError> {
        while let Some(frame) = patience.wait(self.exchange.receive()).await
            && let Some(frame) = frame?
        {
            match self.exchange.unpack_or_forward(frame, self.protocols(), true).await? {
                Frame::Message(message) => return Ok(Some(*message)),
                Frame::Passed { is_new } => self.count_idle(is_new)?,
            }
        }
        Ok(None)
    }

    fn protocols(&self) -> [&'static str; 2] {
        [self.coordination.piuri(), self.pickup.piuri()]
    }
}

/// How a message is related to a request.
enum Relation {
    /// It answers the request, and says so.
    Answer,
    /// It may answer the request: it has the right type, and does not name another request.
    Unnamed,
    None,
}

impl Expected<'_> {
    fn matches(&self, message: &Message) -> bool {
        match self {
            Self::OneOf(piuri, names) => belongs_to(message, piuri) && names.contains(&name(message)),
            Self::Type(kind) => message.type_ == *kind,
        }
    }
}

/// A problem report answers a request with a refusal.
fn answer(message: Message) -> Result<Message, MediationError> {
    match is_problem_report(&message) {
        true => Err(MediationError::Denied(problem_text(&message))),
        false => Ok(message),
    }
}

/// Whether a message is a problem report, in report-problem or in the protocol that the problem is about: message-pickup 4.0
/// has such a type.
fn is_problem_report(message: &Message) -> bool {
    message.type_ == PROBLEM_REPORT || name(message) == "problem-report"
}

/// The name of a message's type, without its protocol.
pub(super) fn name(message: &Message) -> &str {
    message.message_type().map_or("", |kind| kind.message)
}

/// How many messages wait, by a `status`.
pub(super) fn message_count(status: &Message) -> u64 {
    status.body.get("message_count").and_then(Value::as_u64).unwrap_or(0)
}

/// The code and the comment of a problem report, in one line.
fn problem_text(report: &Message) -> String {
    let text = |name: &str| report.body.get(name).and_then(Value::as_str).unwrap_or_default();
    one_line(&format!("{} {}", text("code"), text("comment")))
}

fn one_line(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(MAX_PROBLEM_CHARS).collect::<String>().trim_end().to_owned()
}
