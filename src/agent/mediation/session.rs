//! A conversation with a mediator: what is asked is answered on the same line, and what it delivers is kept before it is told so.

use std::{collections::HashSet, time::Duration};

use hyper::body::Bytes;
use serde_json::{Value, json};

use super::{
    MediationError, Parts,
    line::Line,
    versions::{Coordination, Pickup, is_of, routing_dids},
};
use crate::{
    agent::{
        Intent,
        clock::now,
        inbox::{
            Refusal,
            verdict::{self, Verdict},
        },
        ours::canonical,
        protocol::{
            discover_features::{DISCLOSE, QUERIES},
            report_problem::PROBLEM_REPORT,
        },
    },
    did::{Document, did_of},
    didcomm::{Error, Message, UnpackOptions},
    jose::{Envelope, Limits},
};

/// How long a mediator has for an answer.
const ANSWER: Duration = Duration::from_secs(30);
/// How long it is waited for what it says about itself: not every mediator does.
const DISCLOSURE: Duration = Duration::from_secs(5);

/// Messages that are fetched in one go, at most; the rest with the next look.
const DRAINED: usize = 10_000;

pub(super) struct Session<'a> {
    parts: &'a Parts,
    line: Line,
    /// Its DID.
    theirs: String,
    /// Our DID that it knows.
    ours: String,
    /// The versions that it speaks, as far as that is known.
    pub coordination: Coordination,
    pub pickup: Pickup,
    /// The most that it may say at once, in bytes.
    largest: usize,
    /// It has said, or it seems, that more waits there.
    pub more: bool,
}

/// What a mediator's answer is known by, where it does not name what it answers.
enum Wanted<'a> {
    /// One of these messages of this protocol.
    Of(&'a str, &'a [&'a str]),
    /// A message of this type.
    Type(&'a str),
}

impl<'a> Session<'a> {
    /// By a WebSocket if it has one and `live` says so, else by HTTP.
    pub async fn open(
        parts: &'a Parts,
        theirs: &str,
        ours: &str,
        live: bool,
        (coordination, pickup): (Coordination, Pickup),
    ) -> Result<Self, MediationError> {
        let document = parts.resolver.resolve(theirs).await;
        let document = document.map_err(|error| MediationError::Away(error.to_string()))?;
        // A message in a delivery is a third longer in base64, and so is the delivery.
        let largest = 4 * parts.inbox.max_bytes();
        let line = open_line(parts, &document, live, largest).await?;
        let (theirs, ours) = (theirs.to_owned(), ours.to_owned());
        Ok(Self { parts, line, theirs, ours, coordination, pickup, largest, more: false })
    }

    pub fn is_live(&self) -> bool {
        self.line.is_live()
    }

    pub async fn close(self) {
        self.line.close().await;
    }

    /// Asks which versions it speaks. What it does not say is left as it is: whether it says that it is a mediator, if it says
    /// anything.
    pub async fn discover(&mut self) -> Result<Option<bool>, MediationError> {
        let families = ["coordinate-mediation/*", "messagepickup/*", "message-pickup/*"];
        let queries = families
            .map(|family| json!({ "feature-type": "protocol", "match": format!("https://didcomm.org/{family}") }));
        let wanted = Wanted::Type(DISCLOSE);
        let answer = match self.ask(QUERIES, json!({ "queries": queries }), &wanted, DISCLOSURE).await {
            Ok(answer) => answer,
            // It may be there all the same.
            Err(MediationError::Away(_) | MediationError::Denied(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let disclosed = answer.body.get("disclosures").and_then(Value::as_array);
        let ids: Vec<&str> = disclosed.into_iter().flatten().filter_map(|it| it["id"].as_str()).collect();
        let speaks = |piuri: &str| ids.iter().any(|id| id.trim_end_matches('/') == piuri);
        let best = [Coordination::V3, Coordination::V2].into_iter().find(|it| speaks(it.piuri()));
        self.coordination = best.unwrap_or(self.coordination);
        let pickup = [Pickup::V4, Pickup::V3].into_iter().find(|it| speaks(it.piuri()));
        self.pickup = pickup.unwrap_or(self.pickup);
        Ok(Some(best.is_some()))
    }

    /// Asks it to be our mediator: the DIDs that route to it.
    pub async fn request(&mut self) -> Result<Vec<String>, MediationError> {
        let piuri = self.coordination.piuri();
        let wanted = Wanted::Of(piuri, &["mediate-grant", "mediate-deny"]);
        let answer = self.ask(&format!("{piuri}/mediate-request"), json!({}), &wanted, ANSWER).await?;
        match name(&answer) {
            "mediate-grant" => Ok(routing_dids(&answer)),
            "mediate-deny" => Err(MediationError::Denied("it denies it".to_owned())),
            other => Err(MediationError::Unusable(format!("it answers mediate-request with {other}"))),
        }
    }

    /// Has it take messages for these DIDs of ours, and for those no more. The DIDs for which it does so.
    pub async fn update(&mut self, add: &[String], remove: &[String]) -> Result<Vec<String>, MediationError> {
        let (piuri, update) = (self.coordination.piuri(), self.coordination.update());
        let response = format!("{update}-response");
        let wanted = Wanted::Of(piuri, &[&response]);
        let body = Coordination::updates(add, remove);
        let answer = self.ask(&format!("{piuri}/{update}"), body, &wanted, ANSWER).await?;
        let updated = answer.body.get("updated").and_then(Value::as_array);
        let mut taken = Vec::new();
        for entry in updated.into_iter().flatten().filter(|entry| entry["action"] != "remove") {
            let did = entry["recipient_did"].as_str().unwrap_or_default();
            match entry["result"].as_str() {
                Some("success" | "no_change") => taken.extend(add.iter().find(|known| *known == did).cloned()),
                result => {
                    tracing::warn!(did, result, mediator = self.theirs, "a mediator does not take messages for a DID")
                }
            }
        }
        Ok(taken)
    }

    /// Asks for messages as they come. Whether they will.
    pub async fn go_live(&mut self) -> Result<bool, MediationError> {
        let piuri = self.pickup.piuri();
        let wanted = Wanted::Of(piuri, &["status"]);
        let change = format!("{piuri}/live-delivery-change");
        match self.ask(&change, json!({ "live_delivery": true }), &wanted, ANSWER).await {
            Ok(status) => {
                self.on(status).await?;
                Ok(true)
            }
            // "e.m.live-mode-not-supported", in whatever words.
            Err(MediationError::Denied(why)) => {
                tracing::info!(mediator = self.theirs, why, "a mediator does not deliver as messages come");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Fetches all that waits there, so many at once. How many messages there were.
    pub async fn drain(&mut self, at_once: usize) -> Result<usize, MediationError> {
        let piuri = self.pickup.piuri();
        let request = format!("{piuri}/delivery-request");
        let mut had = HashSet::new();
        loop {
            self.more = false;
            let wanted = Wanted::Of(piuri, &["delivery", "status"]);
            let answer = self.ask(&request, self.pickup.limit(at_once), &wanted, ANSWER).await?;
            let before = had.len();
            if name(&answer) == "delivery" {
                had.extend(self.take_over(&answer).await?);
            }
            if had.len() > DRAINED {
                // A mediator that makes up more and more has no end.
                return Ok(had.len());
            }
            if had.len() == before {
                // Nothing, or what was acknowledged already: to ask for ever would not help.
                return Ok(had.len());
            }
        }
    }

    /// Something that it says unasked, still packed. It may be given up and called again.
    pub async fn frame(&mut self) -> Result<Bytes, MediationError> {
        let closed = || MediationError::Away("it has closed the connection".to_owned());
        self.line.next().await?.ok_or_else(closed)
    }

    /// Sees to what it said unasked.
    pub async fn hear(&mut self, frame: Bytes) -> Result<(), MediationError> {
        match self.sort(frame).await? {
            Some(message) => self.on(message).await,
            None => Ok(()),
        }
    }

    async fn on(&mut self, message: Message) -> Result<(), MediationError> {
        match name(&message) {
            "delivery" => drop(self.take_over(&message).await?),
            // Empty after an acknowledgement, as a rule.
            "status" => self.more |= message.body.get("message_count").and_then(Value::as_u64).unwrap_or(0) > 0,
            other => tracing::debug!(other, mediator = self.theirs, "a mediator's message is passed over"),
        }
        Ok(())
    }

    /// Keeps what was delivered, and then says so: from then on the mediator may forget it. The names that it has for it.
    async fn take_over(&mut self, delivery: &Message) -> Result<Vec<String>, MediationError> {
        let mut had = Vec::new();
        let mut outcome = Ok(());
        for attachment in delivery.attachments.iter().flatten() {
            let Some(id) = &attachment.id else {
                tracing::warn!(
                    mediator = self.theirs,
                    "a mediator delivers a message without a name, which is passed over"
                );
                continue;
            };
            let packed = match (attachment.data.bytes(), &attachment.data.json) {
                (Some(Ok(bytes)), _) => bytes,
                (_, Some(json)) => json.to_string().into_bytes(),
                _ => Vec::new(),
            };
            match self.parts.inbox.take_fetched(packed).await {
                Ok(_) => had.push(id.clone()),
                Err(Refusal::Store(error)) => {
                    outcome = Err(error.into());
                    break;
                }
                // It comes again with the next look, and is ours or not by then.
                Err(Refusal::NotForUs { undecided: true }) => {}
                // It would come again for ever, and what comes behind it never.
                Err(refusal) => {
                    tracing::warn!(%refusal, mediator = self.theirs, "a message that a mediator delivers is not taken");
                    had.push(id.clone());
                }
            }
        }
        if !had.is_empty() {
            let received = format!("{}/messages-received", self.pickup.piuri());
            self.send(&self.message(&received, json!({ "message_id_list": had }))).await?;
        }
        outcome.map(|()| had)
    }

    /// Asks, and waits for the answer; what comes before it is seen to.
    async fn ask(
        &mut self,
        kind: &str,
        body: Value,
        wanted: &Wanted<'_>,
        within: Duration,
    ) -> Result<Message, MediationError> {
        let asked = self.message(kind, body);
        let answered = async {
            self.send(&asked).await?;
            loop {
                let Some(message) = self.next().await? else {
                    return Err(MediationError::Away(format!("it does not answer {kind}")));
                };
                let named = message.thid.as_deref() == Some(&asked.id) || message.pthid.as_deref() == Some(&asked.id);
                if named && message.type_ == PROBLEM_REPORT {
                    return Err(MediationError::Denied(problem(&message)));
                }
                if wanted.is(&message) && (named || message.thid.is_none()) {
                    return Ok(message);
                }
                self.on(message).await?;
            }
        };
        let late = |_| MediationError::Away(format!("it does not answer {kind} within {} s", within.as_secs()));
        tokio::time::timeout(within, answered).await.map_err(late)?
    }

    fn message(&self, kind: &str, body: Value) -> Message {
        // "This header must be set each time the communication channel is established".
        let message = Message::build(Message::new_id(), kind, body).from(&self.ours).to(&self.theirs);
        message.return_route("all").created_time(now().unsigned_abs() / 1000).finalize()
    }

    async fn send(&mut self, message: &Message) -> Result<(), MediationError> {
        let intent = Intent { message: message.clone(), sign: false, protect_sender: false };
        let packed = self.parts.outbox.pack_to(intent, canonical(&self.theirs)).await?;
        self.line.send(packed).await
    }

    /// The mediator's next message of its own protocols.
    async fn next(&mut self) -> Result<Option<Message>, MediationError> {
        while let Some(frame) = self.line.next().await? {
            if let Some(message) = self.sort(frame).await? {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    /// A message of the mediator's own protocols. What is for others, or of other protocols, goes to the inbox: some mediators
    /// deliver as messages come by sending them on as they are.
    async fn sort(&self, frame: Bytes) -> Result<Option<Message>, MediationError> {
        if let Some(message) = self.read(&frame).await? {
            return Ok(Some(message));
        }
        match self.parts.inbox.take_fetched(frame.to_vec()).await {
            Ok(_) => {}
            Err(Refusal::Store(error)) => return Err(error.into()),
            Err(refusal) => tracing::warn!(%refusal, mediator = self.theirs, "a mediator's message is not taken"),
        }
        Ok(None)
    }

    /// A message as the mediator's in this conversation; none if it is something else.
    async fn read(&self, frame: &[u8]) -> Result<Option<Message>, MediationError> {
        let limits = Limits { bytes: self.largest, ..Limits::default() };
        let Ok(Envelope::Encrypted(jwe)) = Envelope::parse(frame, &limits) else { return Ok(None) };
        let me = self.parts.ours.document(&self.ours);
        let mine = |kid: &str| {
            self.parts.ours.recipient(kid).is_some_and(|(did, _)| me.as_ref().is_some_and(|me| me.names(&did)))
        };
        let Some(text) = std::str::from_utf8(frame).ok().filter(|_| jwe.recipient_kids().any(mine)) else {
            return Ok(None);
        };
        // Others' frames cost no token anything here, and no person is asked for them.
        let from_it = |kid: &str| did_of(kid).is_some_and(|did| canonical(did) == canonical(&self.theirs));
        if !jwe.sender_kid().is_none_or(from_it) {
            return Ok(None);
        }
        let prompt_for = Some(vec![self.theirs.clone()]);
        let options = UnpackOptions { limits, prompt_for, ..UnpackOptions::default() };
        let identities = self.parts.ours.identities();
        let message = match Message::unpack(text, &self.parts.resolver, &identities, &options).await {
            Ok((message, provenance)) if provenance.authenticated => message,
            // The inbox knows what to do with what is for somebody else inside, or from a stranger.
            Ok(_) | Err(Error::NotForUs(_) | Error::Stranger { .. }) => return Ok(None),
            // The mediator keeps what it has not been told of.
            Err(error) if verdict::of(&error) == Verdict::AwaitsToken => {
                return Err(MediationError::Token(error.to_string()));
            }
            Err(_) => return Ok(None),
        };
        let from_it = message.from.as_deref().is_some_and(|from| canonical(from) == canonical(&self.theirs));
        let of_it = [self.coordination.piuri(), self.pickup.piuri()].iter().any(|piuri| is_of(&message, piuri))
            || [DISCLOSE, PROBLEM_REPORT].contains(&message.type_.as_str());
        Ok(Some(message).filter(|_| from_it && of_it))
    }
}

impl Wanted<'_> {
    fn is(&self, message: &Message) -> bool {
        match self {
            Self::Of(piuri, names) => is_of(message, piuri) && names.contains(&name(message)),
            Self::Type(kind) => message.type_ == *kind,
        }
    }
}

fn name(message: &Message) -> &str {
    message.message_type().map_or("", |kind| kind.message)
}

/// A problem report in a line.
fn problem(report: &Message) -> String {
    let text = |name: &str| report.body.get(name).and_then(Value::as_str).unwrap_or_default();
    format!("{} {}", text("code"), text("comment")).chars().filter(|letter| !letter.is_control()).take(200).collect()
}

/// The first endpoint that opens: those of WebSockets before those of HTTP, each in the document's order.
async fn open_line(parts: &Parts, document: &Document, live: bool, largest: usize) -> Result<Line, MediationError> {
    let endpoints = || document.didcomm_services().flat_map(|service| &service.endpoints).map(|it| it.uri.as_str());
    let of = |schemes: [&'static str; 2]| {
        endpoints().filter(move |uri| uri.split_once(':').is_some_and(|(scheme, _)| schemes.contains(&scheme)))
    };
    let mut why = None;
    for uri in of(["wss", "ws"]).filter(|_| live) {
        let Some(sockets) = &parts.sockets else { break };
        match sockets.with_message_limit(largest).connect(uri).await {
            Ok((sender, receiver)) => {
                return Ok(Line::Socket { sender: Box::new(sender), receiver: Box::new(receiver) });
            }
            Err(error) => why = Some(MediationError::from(error)),
        }
    }
    if let (Some(uri), Some(client)) = (of(["https", "http"]).next(), &parts.http) {
        return Ok(Line::Http {
            client: Box::new(client.clone()),
            uri: uri.to_owned(),
            largest,
            answers: Default::default(),
        });
    }
    Err(why.unwrap_or_else(|| {
        MediationError::Unusable("its document names no endpoint of HTTP or WebSocket that this agent uses".to_owned())
    }))
}
