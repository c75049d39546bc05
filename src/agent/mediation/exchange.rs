//! Packs messages to a mediator, unpacks the mediator's own messages, and passes all others to the inbox.

use hyper::body::Bytes;
use serde_json::Value;

use super::{
    channel::{Channel, Transport},
    error::MediationError,
    parts::MediationParts,
    rotation::record_rotation,
    versions::belongs_to,
};
use crate::{
    agent::{
        canonical_did::canonical_did,
        inbox::{
            Acceptance, Refusal,
            failure::{UnpackFailure, classify},
        },
        outgoing_message::{OutgoingMessage, new_message},
        protocol::{discover_features::DISCLOSE, report_message::PROBLEM_REPORT},
    },
    did::{did_of, is_mutable},
    didcomm::{Error, Message, Provenance, UnpackOptions, Warning},
    jose::{Envelope, Jwe, Limits},
};

/// The most JSON values in one message of a mediator. A delivered message has about twenty.
const MAX_JSON_VALUES: usize = 100_000;

/// The channel to a mediator, and the DIDs on both ends.
pub(super) struct Exchange<'a> {
    pub parts: &'a MediationParts,
    channel: Channel,
    /// The DID from which the mediator writes. It can change during the conversation.
    pub mediator_did: String,
    /// Our DID in the relationship with the mediator.
    own_did: String,
    /// The mediator's routing DIDs, if it has granted mediation before. Its messages may be encrypted to DIDs of ours that
    /// name one of them.
    pub routing_dids: Vec<String>,
    /// The largest frame that is accepted, in bytes.
    max_frame_bytes: usize,
    /// Why the mediator's last message that was not understood was refused.
    refused: Option<String>,
}

/// What a frame was.
pub(super) enum Frame {
    /// A message of the mediator.
    Message(Box<Message>),
    /// Something else, which went to the inbox. `is_new` says whether the inbox has stored it.
    Passed { is_new: bool },
}

impl<'a> Exchange<'a> {
    /// Opens a channel to the mediator. `max_frame_bytes` limits each frame of the mediator.
    pub async fn open(
        parts: &'a MediationParts,
        mediator_did: &str,
        own_did: &str,
        transport: Transport,
        max_frame_bytes: usize,
    ) -> Result<Self, MediationError> {
        let document = parts.resolver.resolve(mediator_did).await;
        let document = document.map_err(|error| MediationError::Unreachable(error.to_string()))?;
        // base64 makes a message in a delivery a third longer, and the encrypted delivery another third.
        let max_frame_bytes = max_frame_bytes.max(4 * parts.inbox.max_bytes());
        let channel = Channel::open(parts, &document, transport, max_frame_bytes).await?;
        let (mediator_did, own_did) = (mediator_did.to_owned(), own_did.to_owned());
        Ok(Self { parts, channel, mediator_did, own_did, routing_dids: Vec::new(), max_frame_bytes, refused: None })
    }

    /// Whether the mediator may send messages without a request.
    pub fn is_websocket(&self) -> bool {
        self.channel.is_websocket()
    }

    /// Why the mediator's last message that was not understood was refused; `None` if there was none since the last call.
    pub fn take_refused(&mut self) -> Option<String> {
        self.refused.take()
    }

    /// Closes the channel.
    pub async fn close(self) {
        self.channel.close().await;
    }

    /// Builds a message to the mediator. `return_route` "must be set each time the communication channel is
    /// established" (messagepickup 3.0).
    pub fn message(&self, kind: &str, body: Value) -> Message {
        new_message(kind, body).from(&self.own_did).to(&self.mediator_did).return_route("all").finalize()
    }

    /// Packs a message for the mediator, and sends it on the channel.
    pub async fn send(&mut self, message: &Message) -> Result<(), MediationError> {
        let outgoing = OutgoingMessage::new(message.clone());
        let packed = self.parts.outbox.pack_to(outgoing, &canonical_did(&self.mediator_did)).await?;
        self.channel.send(packed).await
    }

    /// Returns the next message of the mediator, still packed, or `None` as for [`Channel::receive`]. The call may be
    /// cancelled and repeated.
    pub async fn receive(&mut self) -> Result<Option<Bytes>, MediationError> {
        self.channel.receive().await
    }

    /// Unpacks a frame that is a message of the mediator in one of `protocols`, a discover-features disclosure or a
    /// problem report. Any other frame goes to the inbox: for live delivery, some mediators send our messages as they are,
    /// without a `delivery` around them. `is_awaited` says whether the frame may be the answer to a request.
    pub async fn unpack_or_forward(
        &mut self,
        frame: Bytes,
        protocols: [&str; 2],
        is_awaited: bool,
    ) -> Result<Frame, MediationError> {
        if let Some(message) = self.unpack(&frame, protocols, is_awaited).await? {
            return Ok(Frame::Message(Box::new(message)));
        }
        let is_new = match self.parts.inbox.accept_delivered(frame.to_vec()).await {
            Ok(Acceptance::Stored) => true,
            Ok(Acceptance::Known) => false,
            // The mediator delivers it again if it keeps what was not acknowledged.
            Ok(Acceptance::NoRoomYet(reason)) => {
                tracing::info!(reason, mediator = self.mediator_did, "message not accepted yet");
                false
            }
            Err(Refusal::Store(error)) => return Err(error.into()),
            Err(refusal) => {
                tracing::warn!(reason = %refusal, mediator = self.mediator_did, "message not accepted");
                false
            }
        };
        Ok(Frame::Passed { is_new })
    }

    /// Unpacks a frame as a message of the mediator. Returns `None` if it is anything else.
    async fn unpack(
        &mut self,
        frame: &[u8],
        protocols: [&str; 2],
        is_awaited: bool,
    ) -> Result<Option<Message>, MediationError> {
        let limits = Limits { bytes: self.max_frame_bytes, json_values: MAX_JSON_VALUES, ..Limits::default() };
        let sender = match Envelope::parse(frame, &limits) {
            Ok(Envelope::Encrypted(jwe)) if self.may_be_of_mediator(&jwe, is_awaited) => {
                jwe.sender_kid().and_then(did_of).map(str::to_owned)
            }
            // The report that a message of ours was not understood may be signed, and for nobody in particular.
            Ok(Envelope::Signed(_)) if is_awaited => None,
            _ => return Ok(None),
        };
        let Ok(text) = std::str::from_utf8(frame) else { return Ok(None) };
        // The response to a request may come from a DID of the mediator that is not known yet. On a WebSocket a stranger's
        // message may come in between, which must not prompt anyone.
        let responding = sender.filter(|_| !self.is_websocket());
        let prompt_for = [Some(self.mediator_did.clone()), responding].into_iter().flatten().collect();
        let options =
            UnpackOptions { limits, prompt_for: Some(prompt_for), from_by_key: true, ..UnpackOptions::default() };
        let identities = self.parts.own_dids.identities();
        let (message, provenance) = match Message::unpack(text, &self.parts.resolver, &identities, &options).await {
            Ok(opened) => opened,
            // A message for another DID of ours, or from an unknown sender, is for the inbox.
            Err(Error::NotForUs(_) | Error::PromptNotAllowed { .. }) => return Ok(None),
            // The mediator keeps the message, since it was not acknowledged.
            Err(error) if classify(&error) == UnpackFailure::RetryLater => {
                return Err(MediationError::TokenUnavailable(error.to_string()));
            }
            Err(error) => {
                self.refused = Some(error.to_string());
                return Ok(None);
            }
        };
        let is_known_type = match provenance.encrypted {
            true => {
                protocols.iter().any(|piuri| belongs_to(&message, piuri))
                    || [DISCLOSE, PROBLEM_REPORT].contains(&message.type_.as_str())
            }
            false => message.type_ == PROBLEM_REPORT,
        };
        if !provenance.authenticated || !is_known_type {
            return Ok(None);
        }
        if !self.follow_sender(&message, &provenance).await? {
            let from = message.from.as_deref().unwrap_or("nobody");
            self.refused = Some(format!("it is from {from}, and not from {}", self.mediator_did));
            return Ok(None);
        }
        Ok(Some(message))
    }

    /// Whether an envelope may be a message of the mediator, judged by its header. If not, it is for the inbox, without a
    /// token operation or a prompt here.
    fn may_be_of_mediator(&self, jwe: &Jwe, is_awaited: bool) -> bool {
        let own_dids = &self.parts.own_dids;
        let recipient = |kid: &str| own_dids.recipient(kid).map(|(did, _)| did);
        let own_document = own_dids.document(&self.own_did);
        let is_own = |kid: &str| {
            recipient(kid).is_some_and(|did| own_document.as_ref().is_some_and(|document| document.is_about(&did)))
        };
        let sender = jwe.sender_kid().map(|kid| did_of(kid).unwrap_or(kid));
        if sender.is_some_and(|did| self.is_mediator(did)) {
            // Some mediators encrypt a live delivery to the DID of ours that the message inside is for. To acknowledge one to
            // any other DID would tell the mediator that the DID is ours too.
            let is_routed = || {
                let routed = own_dids.routed_through(&self.routing_dids);
                jwe.recipient_kids().filter_map(recipient).any(|did| routed.contains(&did))
            };
            return jwe.recipient_kids().any(is_own) || is_routed();
        }
        // A first answer may come from another DID of the mediator. On a WebSocket it may as well be a stranger's message,
        // whose sender must not choose a server that is waited for here.
        let may_send = sender.is_none_or(|did| is_awaited && (!self.is_websocket() || !is_mutable(did)));
        may_send && jwe.recipient_kids().any(is_own)
    }

    /// Whether the sender of a message is the mediator. A DID that the mediator has rotated to is the mediator from then
    /// on.
    async fn follow_sender(&mut self, message: &Message, provenance: &Provenance) -> Result<bool, MediationError> {
        let Some(from) = message.from.as_deref() else { return Ok(false) };
        if self.is_mediator(from) {
            return Ok(true);
        }
        let Some(prior) = &provenance.from_prior else { return Ok(false) };
        let is_proved = !provenance.warnings.contains(&Warning::UnauthenticatedFromPrior);
        let is_successor = prior.sub.as_deref().is_some_and(|did| canonical_did(did) == canonical_did(from));
        if !(is_proved && is_successor && self.is_mediator(&prior.iss)) {
            return Ok(false);
        }
        if !record_rotation(self.parts, &self.own_did, &self.mediator_did, from).await? {
            return Ok(false);
        }
        tracing::info!(from = self.mediator_did, to = from, "mediator answers from another DID");
        from.clone_into(&mut self.mediator_did);
        Ok(true)
    }

    fn is_mediator(&self, did: &str) -> bool {
        canonical_did(did) == canonical_did(&self.mediator_did)
    }
}
