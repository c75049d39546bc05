//! Forwards (DIDComm v2.1 "Routing Protocol 2.0"): a packed message inside one that its carrier can open.

use serde_json::{Map, Value, json};

use super::{Attachment, Error, Message, pack::anoncrypt_to};
use crate::{
    crypto::ContentEncryption,
    did::{Resolver, did_of},
};

/// The type of a forward.
pub const FORWARD: &str = "https://didcomm.org/routing/2.0/forward";

/// What a forward says.
#[derive(Debug, Clone, PartialEq)]
pub struct Forward {
    /// To whom the attachments go: a DID, or a key's DID URL.
    pub next: String,
    /// The packed messages, in their order.
    pub forwarded: Vec<String>,
}

impl Forward {
    /// Reads a message as a forward; nothing if it is none.
    pub fn from_message(message: &Message) -> Option<Result<Self, Error>> {
        let forward = super::MessageType::parse(FORWARD)?;
        message.message_type()?.is(&forward).then(|| Self::read(message))
    }

    fn read(message: &Message) -> Result<Self, Error> {
        let next = message.body.get("next").and_then(Value::as_str).ok_or(Error::Forward("next is absent"))?;
        let attachments = message.attachments.as_deref().unwrap_or_default();
        let forwarded: Result<Vec<String>, Error> = attachments.iter().map(packed).collect();
        let forwarded = forwarded?;
        if forwarded.is_empty() {
            return Err(Error::Forward("it has no attachment"));
        }
        Ok(Self { next: next.to_owned(), forwarded })
    }
}

/// The message in an attachment: JSON or base64; what is linked is not fetched.
fn packed(attachment: &Attachment) -> Result<String, Error> {
    let unreadable = Error::Forward("an attachment is neither JSON nor base64");
    match (&attachment.data.json, attachment.data.bytes()) {
        (Some(Value::String(text)), _) => Ok(text.clone()),
        (Some(json), _) => Ok(json.to_string()),
        (None, Some(bytes)) => bytes.ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or(unreadable),
        (None, None) => Err(unreadable),
    }
}

/// Wraps a packed message for `next` into one forward for each routing key, the last key innermost.
///
/// A routing key is a key's DID URL, or a DID, all of whose keys of one curve can then open the layer. The innermost
/// `next` is `next`; that of each layer around is the routing key of the layer within. Nothing is wrapped if there is no
/// routing key.
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
        // JSON, which every peer reads; some do not read base64.
        let content: Value = serde_json::from_str(&packed).map_err(|_| Error::Forward("it is no JSON message"))?;
        let attachment = Attachment::json(content).id("1").media_type(super::ENCRYPTED).finalize();
        let mut forward =
            Message::build(Message::new_id(), FORWARD, json!({"next": next})).attachment(attachment).finalize();
        forward.to = did_of(key).map(|did| vec![did.to_owned()]);
        let forward = with_headers(&forward, headers)?;
        packed = anoncrypt_to(forward.to_json().as_bytes(), key, enc, resolver).await?.0;
        next = key;
    }
    Ok(packed)
}

/// The forward with more headers, of which none may take the place of one that it has.
fn with_headers(forward: &Message, headers: Option<&Map<String, Value>>) -> Result<Message, Error> {
    let Ok(Value::Object(mut map)) = serde_json::to_value(forward) else { unreachable!("a message is an object") };
    for (name, value) in headers.into_iter().flatten() {
        if map.insert(name.clone(), value.clone()).is_some() {
            return Err(Error::Forward("a header given for it is one that it has already"));
        }
    }
    Ok(Message::from_object(map)?)
}
