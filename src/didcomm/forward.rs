//! Forward messages (DIDComm v2.1 "Routing Protocol 2.0"): a packed message inside a message for a mediator.

use serde_json::{Map, Value, json};

use super::{
    attachment::Attachment, error::Error, media_type::ENCRYPTED, message::Message, message_type::MessageType,
    recipients::anoncrypt_to,
};
use crate::{
    crypto::ContentEncryption,
    did::{Resolver, did_of},
};

/// The message type of a forward.
pub const FORWARD: &str = "https://didcomm.org/routing/2.0/forward";

/// The content of a forward.
#[derive(Debug, Clone, PartialEq)]
pub struct Forward {
    /// The recipient of the attached messages: a DID, or the DID URL of a key.
    pub next: String,
    /// The packed messages, in order.
    pub forwarded: Vec<String>,
}

impl Forward {
    /// Reads a forward from a message. `None` if the message has another type.
    ///
    /// # Errors
    /// [`Error::Forward`] if `next` is absent, there is no attachment, or an attachment is neither JSON nor base64.
    pub fn from_message(message: &Message) -> Option<Result<Self, Error>> {
        let forward = MessageType::parse(FORWARD)?;
        message.message_type()?.is_compatible_with(&forward).then(|| Self::read(message))
    }

    fn read(message: &Message) -> Result<Self, Error> {
        let next = message.body.get("next").and_then(Value::as_str).ok_or(Error::Forward("next is absent"))?;
        let attachments = message.attachments.as_deref().unwrap_or_default();
        let forwarded: Result<Vec<String>, Error> = attachments.iter().map(attached_message).collect();
        let forwarded = forwarded?;
        if forwarded.is_empty() {
            return Err(Error::Forward("it has no attachment"));
        }
        Ok(Self { next: next.to_owned(), forwarded })
    }
}

/// The packed message in an attachment, as JSON or base64. Links are not followed.
fn attached_message(attachment: &Attachment) -> Result<String, Error> {
    let unreadable = Error::Forward("an attachment is neither JSON nor base64");
    match (&attachment.data.json, attachment.data.bytes()) {
        (Some(Value::String(text)), _) => Ok(text.clone()),
        (Some(json), _) => Ok(json.to_string()),
        (None, Some(bytes)) => bytes.ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or(unreadable),
        (None, None) => Err(unreadable),
    }
}

/// Wraps a packed message for `next` into one forward per routing key. The forward for the last key is the innermost.
///
/// A routing key is the DID URL of a key, or a DID. A forward for a DID is encrypted to all `keyAgreement` keys on the
/// curve of the DID's first usable key. The `next` of the innermost forward is `next`; the `next` of each other forward
/// is the routing key of the forward inside it. Without routing keys, `packed` is returned unchanged. `headers` are
/// added to each forward, and each forward is encrypted with `enc`.
///
/// # Errors
/// If a routing key does not resolve to a usable `keyAgreement` key, `packed` is not JSON, or `headers` contains a
/// header that every forward has already.
pub async fn wrap_in_forward(
    packed: &str,
    headers: Option<&Map<String, Value>>,
    next: &str,
    routing_keys: &[String],
    enc: ContentEncryption,
    resolver: &dyn Resolver,
) -> Result<String, Error> {
    let mut packed = packed.to_owned();
    let mut next = next;
    for key in routing_keys.iter().rev() {
        // The message is attached as JSON, which every peer can read. Some peers cannot read base64.
        let content: Value =
            serde_json::from_str(&packed).map_err(|_| Error::Forward("the message to forward is not JSON"))?;
        let attachment = Attachment::json(content).id("1").media_type(ENCRYPTED).finalize();
        let mut forward =
            Message::build(Message::new_id(), FORWARD, json!({"next": next})).attachment(attachment).finalize();
        forward.to = did_of(key).map(|did| vec![did.to_owned()]);
        let forward = with_headers(&forward, headers)?;
        packed = anoncrypt_to(forward.to_json().as_bytes(), key, enc, resolver).await?.0;
        next = key;
    }
    Ok(packed)
}

/// Adds headers to a forward. They must not replace headers that the forward has.
fn with_headers(forward: &Message, headers: Option<&Map<String, Value>>) -> Result<Message, Error> {
    let Ok(Value::Object(mut map)) = serde_json::to_value(forward) else { unreachable!("a message is an object") };
    for (name, value) in headers.into_iter().flatten() {
        if map.insert(name.clone(), value.clone()).is_some() {
            return Err(Error::Forward("a header to add is one that the forward has already"));
        }
    }
    Ok(Message::from_object(map)?)
}
