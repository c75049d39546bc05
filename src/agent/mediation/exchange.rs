//! Packs messages to a mediator, unpacks the mediator's own messages, and passes all others to the inbox.

use hyper::body::Bytes;
use serde_json::Value;

use super::{channel::Channel, error::MediationError, parts::MediationParts, versions::belongs_to};
use crate::{
    agent::{
        canonical_did::canonical_did,
        inbox::{
            Refusal,
            failure::{UnpackFailure, classify},
        },
        outgoing_message::{OutgoingMessage, new_message},
        protocol::{discover_features::DISCLOSE, report_message::PROBLEM_REPORT},
    },
    did::did_of,
    didcomm::{Error, Message, UnpackOptions},
    jose::{Envelope, Limits},
};

/// The channel to a mediator, and the DIDs on both ends.
pub(super) struct Exchange<'a> {
    pub parts: &'a MediationParts,
    channel: Channel,
    pub mediator_did: String,
    /// Our DID in the relationship with the mediator.
    own_did: String,
    /// The largest frame that is accepted, in bytes.
    max_frame_bytes: usize,
}

impl<'a> Exchange<'a> {
    /// Opens a channel to the mediator: a WebSocket, if `websocket` is set and the mediator has one, otherwise HTTP.
    pub async fn open(
        parts: &'a MediationParts,
        mediator_did: &str,
        own_did: &str,
        websocket: bool,
    ) -> Result<Self, MediationError> {
        let document = parts.resolver.resolve(mediator_did).await;
        let document = document.map_err(|error| MediationError::Unreachable(error.to_string()))?;
        // base64 makes a message in a delivery a third longer, and the encrypted delivery another third.
        let max_frame_bytes = 4 * parts.inbox.max_bytes();
        let channel = Channel::open(parts, &document, websocket, max_frame_bytes).await?;
        let (mediator_did, own_did) = (mediator_did.to_owned(), own_did.to_owned());
        Ok(Self { parts, channel, mediator_did, own_did, max_frame_bytes })
    }

    /// Whether the mediator may send messages without a request.
    pub fn is_websocket(&self) -> bool {
        self.channel.is_websocket()
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
        let packed = self.parts.outbox.pack_to(outgoing, canonical_did(&self.mediator_did)).await?;
        self.channel.send(packed).await
    }

    /// Returns the next message of the mediator, still packed, or `None` as for [`Channel::receive`]. The call may be
    /// cancelled and repeated.
    pub async fn receive(&mut self) -> Result<Option<Bytes>, MediationError> {
        self.channel.receive().await
    }

    /// Unpacks a frame that is a message of the mediator in one of `protocols`, a discover-features disclosure or a
    /// problem report. Any other frame goes to the inbox, and the result is `None`: for live delivery, some mediators
    /// send our messages as they are, without a `delivery` around them.
    pub async fn unpack_or_forward(
        &self,
        frame: Bytes,
        protocols: [&str; 2],
    ) -> Result<Option<Message>, MediationError> {
        if let Some(message) = self.unpack(&frame, protocols).await? {
            return Ok(Some(message));
        }
        match self.parts.inbox.accept_fetched(frame.to_vec()).await {
            Ok(_) => {}
            Err(Refusal::Store(error)) => return Err(error.into()),
            Err(refusal) => tracing::warn!(reason = %refusal, mediator = self.mediator_did, "message not accepted"),
        }
        Ok(None)
    }

    /// Unpacks a frame as a message of the mediator. Returns `None` if it is anything else.
    async fn unpack(&self, frame: &[u8], protocols: [&str; 2]) -> Result<Option<Message>, MediationError> {
        let limits = Limits { bytes: self.max_frame_bytes, ..Limits::default() };
        let Ok(Envelope::Encrypted(jwe)) = Envelope::parse(frame, &limits) else { return Ok(None) };
        let own_dids = &self.parts.own_dids;
        let own_document = own_dids.document(&self.own_did);
        let is_own = |kid: &str| {
            let did = own_dids.recipient(kid).map(|(did, _)| did);
            did.is_some_and(|did| own_document.as_ref().is_some_and(|document| document.is_about(&did)))
        };
        let Some(text) = std::str::from_utf8(frame).ok().filter(|_| jwe.recipient_kids().any(is_own)) else {
            return Ok(None);
        };
        // If the header names another sender, the frame is for the inbox, without a token operation or a prompt here.
        let is_mediator = |did: &str| canonical_did(did) == canonical_did(&self.mediator_did);
        if !jwe.sender_kid().is_none_or(|kid| did_of(kid).is_some_and(is_mediator)) {
            return Ok(None);
        }
        let prompt_for = Some(vec![self.mediator_did.clone()]);
        let options = UnpackOptions { limits, prompt_for, ..UnpackOptions::default() };
        let identities = own_dids.identities();
        let message = match Message::unpack(text, &self.parts.resolver, &identities, &options).await {
            Ok((message, provenance)) if provenance.authenticated => message,
            // A message for another DID of ours, or from an unknown sender, is for the inbox.
            Ok(_) | Err(Error::NotForUs(_) | Error::PromptNotAllowed { .. }) => return Ok(None),
            // The mediator keeps the message, since it was not acknowledged.
            Err(error) if classify(&error) == UnpackFailure::RetryLater => {
                return Err(MediationError::TokenUnavailable(error.to_string()));
            }
            Err(_) => return Ok(None),
        };
        let is_known_type = protocols.iter().any(|piuri| belongs_to(&message, piuri))
            || [DISCLOSE, PROBLEM_REPORT].contains(&message.type_.as_str());
        Ok(Some(message).filter(|message| message.from.as_deref().is_some_and(is_mediator) && is_known_type))
    }
}
