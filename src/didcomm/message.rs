//! The plaintext message (DIDComm v2.1 "Plaintext Message Structure").

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, de::Error};
use serde_json::{Map, Value};

use super::{
    attachment::{Attachment, give_ids},
    attachment_problem::{AttachmentNote, MAX_NOTES},
    headers::Headers,
    media_type::PLAIN,
    message_error::MessageError,
    message_type::MessageType,
};

/// A plaintext message. Every header of the specification has a field. Other headers are in `extra_headers`.
///
/// With the feature `exact-numbers`, the numbers in it keep all their digits.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Message {
    /// The id, unique for the sender.
    pub id: String,
    /// The media type. It is optional.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub typ: Option<String>,
    /// The message type URI.
    #[serde(rename = "type")]
    pub type_: String,
    /// The content that the message type defines: a JSON object. An absent body, which v2.1 allows, reads as
    /// an empty object.
    pub body: Value,
    /// The sender's DID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The recipients' DIDs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Vec<String>>,
    /// The thread id. It is absent in the first message of a thread, whose `id` is the thread id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thid: Option<String>,
    /// The id of the parent thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pthid: Option<String>,
    /// When the message was created, in seconds since 1970 (UTC).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_time: Option<u64>,
    /// When the message expires, in seconds since 1970 (UTC).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_time: Option<u64>,
    /// A JWT with which the sender's previous DID names its successor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_prior: Option<String>,
    /// The ids of messages that the recipient should acknowledge. An empty string means this message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub please_ack: Option<Vec<String>>,
    /// The ids of messages that this one acknowledges, oldest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ack: Option<Vec<String>>,
    /// The language of the text in the message (IETF BCP 47).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lang: Option<String>,
    /// The languages that the sender accepts, in order of preference.
    #[serde(rename = "accept-lang", skip_serializing_if = "Option::is_none")]
    pub accept_lang: Option<Vec<String>>,
    /// Whether the recipient may send messages back on the same connection: `none`, `all` or `thread`
    /// (extension `return_route`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub return_route: Option<String>,
    /// The thread id for `return_route: thread`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub return_route_thread: Option<String>,
    /// The attachments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attachments: Option<Vec<Attachment>>,
    /// Headers without a field, among them those of extensions (`trace`, `delay_milli`, `web_redirect`,
    /// `sender_order`, `received_orders`).
    #[serde(flatten)]
    pub extra_headers: Map<String, Value>,
}

/// The headers that have a field. They must not be in `extra_headers` too, or the JSON would have them twice.
const HEADERS_WITH_FIELD: [&str; 18] = [
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

impl Message {
    /// Begins a message. [`Message::new_id`] makes a new id. `type_` must be a message type URI and `body` a JSON
    /// object; both are checked when the message is packed.
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

    /// A random id: a UUID in 32 hexadecimal digits, the longest id that the specification allows.
    pub fn new_id() -> String {
        uuid::Uuid::new_v4().simple().to_string()
    }

    /// Reads a message from a JSON object, and checks its headers. [`Attachment::problem`] says what is wrong with an
    /// attachment.
    ///
    /// # Errors
    /// If the id is absent, `type` is not a message type URI, the body is not an object, a header has the wrong type,
    /// or the content of an attachment has another hash than the attachment says. A time is a whole number, also in a form
    /// such as `1700000000.0`, or an RFC 3339 text in UTC. `null` means that a header is absent.
    pub fn from_object(map: Map<String, Value>) -> Result<Self, MessageError> {
        Self::received(map).map(|(message, _)| message)
    }

    /// Like [`from_object`](Self::from_object). Returns also what is wrong with attachments, at most [`MAX_NOTES`] notes.
    pub(super) fn received(map: Map<String, Value>) -> Result<(Self, Vec<AttachmentNote>), MessageError> {
        let message = Self::read(map)?;
        message.check_headers()?;
        let mut notes = Vec::new();
        for (attachment, content) in message.attachments.iter().flatten().enumerate() {
            let problem = content.check_received(attachment)?.filter(|_| notes.len() < MAX_NOTES);
            notes.extend(problem.map(|problem| AttachmentNote { attachment, problem }));
        }
        Ok((message, notes))
    }

    /// Reads a message, and checks only the types of the headers.
    fn read(map: Map<String, Value>) -> Result<Self, MessageError> {
        let mut headers = Headers(map);
        Ok(Self {
            id: headers.string("id")?.ok_or(MessageError::NoId)?,
            typ: headers.string("typ")?,
            type_: headers.string("type")?.ok_or(MessageError::NoType)?,
            body: headers.any("body").unwrap_or_else(|| Map::new().into()),
            from: headers.string("from")?,
            to: headers.strings("to")?,
            thid: headers.string("thid")?,
            pthid: headers.string("pthid")?,
            created_time: headers.time("created_time")?,
            expires_time: headers.time("expires_time")?,
            from_prior: headers.string("from_prior")?,
            please_ack: headers.strings("please_ack")?,
            ack: headers.strings("ack")?,
            lang: headers.string("lang")?,
            accept_lang: headers.strings("accept-lang")?,
            return_route: headers.string("return_route")?,
            return_route_thread: headers.string("return_route_thread")?,
            attachments: headers.attachments()?,
            extra_headers: headers.0,
        })
    }

    /// Reads a message from JSON text.
    ///
    /// # Errors
    /// If the text is not a JSON object, has duplicate members or more JSON values than the default of
    /// [`Limits::json_values`](crate::jose::Limits), and those of [`from_object`](Self::from_object).
    pub fn from_json(text: &str) -> Result<Self, MessageError> {
        let map =
            crate::jose::parse_json_object("message", text.as_bytes(), crate::jose::Limits::default().json_values)
                .map_err(|error| MessageError::Json(error.to_string()))?;
        Self::from_object(map)
    }

    /// Writes the message as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a message's members are JSON")
    }

    /// Checks a message that is sent: its headers, and that nothing is wrong with its attachments.
    pub(super) fn check(&self) -> Result<(), MessageError> {
        self.check_headers()?;
        self.attachments.iter().flatten().enumerate().try_for_each(|(number, attachment)| attachment.check(number))
    }

    /// Checks the headers, and that no header is in `extra_headers` that has a field.
    fn check_headers(&self) -> Result<(), MessageError> {
        if self.id.is_empty() {
            return Err(MessageError::NoId);
        }
        if MessageType::parse(&self.type_).is_none() {
            return Err(MessageError::Type(self.type_.clone()));
        }
        if !self.body.is_object() {
            return Err(MessageError::Body);
        }
        if let Some(name) = self.extra_headers.keys().find(|name| HEADERS_WITH_FIELD.contains(&name.as_str())) {
            return Err(MessageError::Header(format!("{name:?} has a field, and is in extra_headers too")));
        }
        Ok(())
    }

    /// Returns the message with an id for each attachment.
    pub(crate) fn with_attachment_ids(&self) -> Cow<'_, Self> {
        if self.attachments.iter().flatten().all(Attachment::has_id) {
            return Cow::Borrowed(self);
        }
        let mut message = self.clone();
        if let Some(attachments) = &mut message.attachments {
            give_ids(attachments);
        }
        Cow::Owned(message)
    }

    /// The parts of the message type. `None` if it is not a message type URI.
    pub fn message_type(&self) -> Option<MessageType<'_>> {
        MessageType::parse(&self.type_)
    }

    /// The id of the message's thread: `thid`, or `id` if the message begins the thread.
    pub fn thread(&self) -> &str {
        self.thid.as_deref().unwrap_or(&self.id)
    }
}

impl<'de> Deserialize<'de> for Message {
    /// Reads a message, and checks only the types of the headers. [`Message::from_object`] makes the other checks.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::read(Map::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// Builds a [`Message`].
#[derive(Debug, Clone)]
#[must_use]
pub struct MessageBuilder(Message);

impl MessageBuilder {
    setters! {
        /// Sets the sender's DID.
        from: impl Into<String> => from.into();
        /// Sets the thread id.
        thid: impl Into<String> => thid.into();
        /// Sets the id of the parent thread.
        pthid: impl Into<String> => pthid.into();
        /// Sets the creation time, in seconds since 1970.
        created_time: u64 => created_time;
        /// Sets the expiry time, in seconds since 1970.
        expires_time: u64 => expires_time;
        /// Sets the JWT of a DID rotation.
        from_prior: impl Into<String> => from_prior.into();
        /// Sets the ids of messages that the recipient should acknowledge.
        please_ack: Vec<String> => please_ack;
        /// Sets the ids of messages that are acknowledged.
        ack: Vec<String> => ack;
        /// Sets the language.
        lang: impl Into<String> => lang.into();
        /// Sets the accepted languages.
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

    /// Sets a header that has no field in [`Message`].
    pub fn header(mut self, name: impl Into<String>, value: Value) -> Self {
        self.0.extra_headers.insert(name.into(), value);
        self
    }

    /// Returns the message.
    pub fn finalize(self) -> Message {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::didcomm::{AttachmentData, HashError};

    fn parse(text: &str) -> Result<Message, MessageError> {
        Message::from_json(text)
    }

    #[test]
    fn unknown_headers_are_kept() {
        let text =
            r#"{"id":"1","type":"https://example.org/a/1.0/b","body":{"x":1},"accept-lang":["de"],"y":{"z":[]}}"#;
        let message = parse(text).unwrap();
        assert_eq!(message.accept_lang.as_deref(), Some(&["de".to_owned()][..]));
        assert_eq!(message.extra_headers["y"], serde_json::json!({"z": []}));
        assert_eq!(message.to_json(), text);
    }

    #[test]
    fn invalid_messages_are_refused_with_a_reason() {
        assert!(parse(r#"{"id":"1","type":"https://example.org/a/1.0/b"}"#).unwrap().body.is_object());
        assert!(matches!(parse(r#"{"type":"https://example.org/a/1.0/b"}"#), Err(MessageError::NoId)));
        assert!(matches!(parse(r#"{"id":"","type":"https://example.org/a/1.0/b"}"#), Err(MessageError::NoId)));
        assert!(matches!(parse(r#"{"id":"1","type":"b"}"#), Err(MessageError::Type(_))));
        assert!(matches!(
            parse(r#"{"id":"1","type":"https://example.org/a/1.0/b","body":[]}"#),
            Err(MessageError::Body)
        ));
        assert!(matches!(
            parse(r#"{"id":"1","type":"a/1.0/b","to":"did:example:bob"}"#),
            Err(MessageError::HeaderValue { header: "to", .. })
        ));
        assert!(matches!(parse(r#"{"id":"1","id":"2","type":"a/1.0/b"}"#), Err(MessageError::Json(_))));
        let with = |data: &str| parse(&format!(r#"{{"id":"1","type":"a/1.0/b","attachments":[{data}]}}"#));
        assert!(matches!(with("1"), Err(MessageError::HeaderValue { header: "attachments", .. })));
        let hash = AttachmentData::multihash(b"other");
        let with_hash = with(&format!(r#"{{"data":{{"base64":"AAAA","hash":"{hash}"}}}}"#));
        assert!(matches!(with_hash, Err(MessageError::AttachmentHash { error: HashError::Mismatch, .. })));
    }
}
