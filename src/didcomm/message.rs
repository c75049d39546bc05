//! The plaintext message (DIDComm v2.1 "Plaintext Message Structure").

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Attachment, MessageType, PLAIN, attachment::HashError};
use crate::jose::quoted;

/// A plaintext message. Every header of the specification has a field; the others are kept in `extra_headers`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Message {
    /// Unique for its sender.
    pub id: String,
    /// The media type of this form; optional in a plaintext.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub typ: Option<String>,
    /// The message type URI.
    #[serde(rename = "type")]
    pub type_: String,
    /// What the protocol says: a JSON object. An absent one (v2.1 allows it) reads as an empty one.
    #[serde(default = "empty_object")]
    pub body: Value,
    /// The sender's DID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The recipients' DIDs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Vec<String>>,
    /// The thread; absent in its first message, whose `id` names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thid: Option<String>,
    /// The thread that this thread grew out of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pthid: Option<String>,
    /// When it was made: seconds since 1970, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_time: Option<u64>,
    /// When its sender gives it up: seconds since 1970, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_time: Option<u64>,
    /// A JWT by which the sender's old DID names its new one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_prior: Option<String>,
    /// Messages that the sender asks to have acknowledged; an empty string is this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub please_ack: Option<Vec<String>>,
    /// Messages that it acknowledges, oldest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ack: Option<Vec<String>>,
    /// The language of the text in it (IETF BCP 47).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lang: Option<String>,
    /// The languages that the sender reads, best first.
    #[serde(rename = "accept-lang", skip_serializing_if = "Option::is_none")]
    pub accept_lang: Option<Vec<String>>,
    /// Whether the next hop may answer on the same connection: `none`, `all` or `thread` (extension `return_route`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub return_route: Option<String>,
    /// The thread that `return_route: thread` means.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub return_route_thread: Option<String>,
    /// What comes with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attachments: Option<Vec<Attachment>>,
    /// Headers that we do not know, among them those of extensions (`trace`, `delay_milli`, `web_redirect`,
    /// `sender_order`, `received_orders`).
    #[serde(flatten)]
    pub extra_headers: Map<String, Value>,
}

/// Why an object is no message.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// It has no `id`, or an empty one.
    #[error("the message has no id")]
    NoId,
    /// Its `type` is no message type URI.
    #[error("the message type {} is no message type URI", quoted(.0))]
    Type(String),
    /// Its body is no JSON object.
    #[error("the body of the message is no JSON object")]
    Body,
    /// A header has the wrong type.
    #[error("a header of the message is wrong: {}", quoted(.0))]
    Header(String),
    /// An attachment has no data.
    #[error("the attachment {} has no data: jws, hash, links, base64 or json", quoted(.0))]
    AttachmentData(String),
    /// An attachment's hash is wrong, or absent where it must be there.
    #[error("the attachment {}: {error}", quoted(id))]
    AttachmentHash {
        /// The attachment's id, or its number.
        id: String,
        /// What is wrong.
        error: HashError,
    },
}

/// The headers that have a field: one in `extra_headers` as well would stand twice in the JSON.
const FIELDS: [&str; 18] = [
    "id",
    "typ",
    "type",
    "body",
    "from",
    "to",
    "thid",
    "pthid",
    "created_time",
    "expires_time",
    "from_prior",
    "please_ack",
    "ack",
    "lang",
    "accept-lang",
    "return_route",
    "return_route_thread",
    "attachments",
];

fn empty_object() -> Value {
    Value::Object(Map::new())
}

impl Message {
    /// Begins a message; a fresh id is 32 hexadecimal digits ([`Message::new_id`]).
    pub fn build(id: impl Into<String>, type_: impl Into<String>, body: Value) -> MessageBuilder {
        MessageBuilder(Message {
            id: id.into(),
            typ: Some(PLAIN.to_owned()),
            type_: type_.into(),
            body,
            from: None,
            to: None,
            thid: None,
            pthid: None,
            created_time: None,
            expires_time: None,
            from_prior: None,
            please_ack: None,
            ack: None,
            lang: None,
            accept_lang: None,
            return_route: None,
            return_route_thread: None,
            attachments: None,
            extra_headers: Map::new(),
        })
    }

    /// A random id: a UUID in 32 hexadecimal digits, the length the specification allows.
    pub fn new_id() -> String {
        uuid::Uuid::new_v4().simple().to_string()
    }

    /// The message that an object is; its headers and attachments are checked.
    pub fn from_object(map: Map<String, Value>) -> Result<Self, MessageError> {
        if map.get("id").and_then(Value::as_str).is_none_or(str::is_empty) {
            return Err(MessageError::NoId);
        }
        let message: Self =
            serde_json::from_value(Value::Object(map)).map_err(|e| MessageError::Header(e.to_string()))?;
        message.check()?;
        Ok(message)
    }

    /// Reads a plaintext message, strictly: no member twice.
    pub fn from_json(text: &str) -> Result<Self, MessageError> {
        let map = crate::jose::json_object("message", text.as_bytes())
            .map_err(|error| MessageError::Header(error.to_string()))?;
        Self::from_object(map)
    }

    /// The message as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a message's members are JSON")
    }

    pub(super) fn check(&self) -> Result<(), MessageError> {
        if self.id.is_empty() {
            return Err(MessageError::NoId);
        }
        if MessageType::parse(&self.type_).is_none() {
            return Err(MessageError::Type(self.type_.clone()));
        }
        if !self.body.is_object() {
            return Err(MessageError::Body);
        }
        if let Some(name) = self.extra_headers.keys().find(|name| FIELDS.contains(&name.as_str())) {
            return Err(MessageError::Header(format!("{name:?} has a field, and stands in extra_headers")));
        }
        for (number, attachment) in self.attachments.iter().flatten().enumerate() {
            attachment.check(number)?;
        }
        Ok(())
    }

    /// Its type, taken apart.
    pub fn message_type(&self) -> Option<MessageType<'_>> {
        MessageType::parse(&self.type_)
    }

    /// The thread it belongs to: its `thid`, or its `id` if it begins one.
    pub fn thread(&self) -> &str {
        self.thid.as_deref().unwrap_or(&self.id)
    }
}

/// Makes a [`Message`], header by header.
#[derive(Debug, Clone)]
#[must_use]
pub struct MessageBuilder(Message);

impl MessageBuilder {
    setters! {
        /// Sets the sender's DID.
        from: impl Into<String> => from.into();
        /// Sets the thread.
        thid: impl Into<String> => thid.into();
        /// Sets the parent thread.
        pthid: impl Into<String> => pthid.into();
        /// Sets the time it was made, in seconds since 1970.
        created_time: u64 => created_time;
        /// Sets the time it expires, in seconds since 1970.
        expires_time: u64 => expires_time;
        /// Sets the JWT of a DID rotation.
        from_prior: impl Into<String> => from_prior.into();
        /// Sets the messages to be acknowledged.
        please_ack: Vec<String> => please_ack;
        /// Sets the messages that are acknowledged.
        ack: Vec<String> => ack;
        /// Sets the language.
        lang: impl Into<String> => lang.into();
        /// Sets the languages that are read.
        accept_lang: Vec<String> => accept_lang;
        /// Sets the return route.
        return_route: impl Into<String> => return_route.into();
    }

    /// Adds a recipient's DID.
    pub fn to(mut self, to: impl Into<String>) -> Self {
        self.0.to.get_or_insert_default().push(to.into());
        self
    }

    /// Adds an attachment.
    pub fn attachment(mut self, attachment: Attachment) -> Self {
        self.0.attachments.get_or_insert_default().push(attachment);
        self
    }

    /// Sets a header that has no field.
    pub fn header(mut self, name: impl Into<String>, value: Value) -> Self {
        self.0.extra_headers.insert(name.into(), value);
        self
    }

    /// The message.
    pub fn finalize(self) -> Message {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Message, MessageError> {
        Message::from_json(text)
    }

    #[test]
    fn a_message_keeps_what_it_does_not_know() {
        let text =
            r#"{"id":"1","type":"https://example.org/a/1.0/b","body":{"x":1},"accept-lang":["de"],"y":{"z":[]}}"#;
        let message = parse(text).unwrap();
        assert_eq!(message.accept_lang.as_deref(), Some(&["de".to_owned()][..]));
        assert_eq!(message.extra_headers["y"], serde_json::json!({"z": []}));
        assert_eq!(message.to_json(), text);
    }

    #[test]
    fn what_is_no_message_says_why() {
        assert!(parse(r#"{"id":"1","type":"https://example.org/a/1.0/b"}"#).unwrap().body.is_object());
        assert!(matches!(parse(r#"{"type":"https://example.org/a/1.0/b"}"#), Err(MessageError::NoId)));
        assert!(matches!(parse(r#"{"id":"","type":"https://example.org/a/1.0/b"}"#), Err(MessageError::NoId)));
        assert!(matches!(parse(r#"{"id":"1","type":"b"}"#), Err(MessageError::Type(_))));
        assert!(matches!(
            parse(r#"{"id":"1","type":"https://example.org/a/1.0/b","body":[]}"#),
            Err(MessageError::Body)
        ));
        assert!(matches!(parse(r#"{"id":"1","type":"a/1.0/b","to":"did:example:bob"}"#), Err(MessageError::Header(_))));
        assert!(matches!(parse(r#"{"id":"1","id":"2","type":"a/1.0/b"}"#), Err(MessageError::Header(_))));
        let with = |data: &str| parse(&format!(r#"{{"id":"1","type":"a/1.0/b","attachments":[{{"data":{data}}}]}}"#));
        assert!(matches!(with("{}"), Err(MessageError::AttachmentData(_))));
        assert!(matches!(with(r#"{"links":["https://example.org"]}"#), Err(MessageError::AttachmentHash { .. })));
    }
}
