//! Out of band 2.0 (DIDComm v2.1 "Out Of Band Messages"): an invitation as JSON, as a URL and as a QR code.
//!
//! Anyone who sees an invitation can read it. So an invitation must contain nothing private, and an inviter rotates to
//! another DID over the secure connection ("Privacy Considerations").

use async_trait::async_trait;
use qrcode::{
    EcLevel, QrCode,
    render::{svg, unicode::Dense1x2},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    handler::Protocol,
    problem::{HandleError, Problem},
    received::Received,
    transaction::Transaction,
};
use crate::{
    did::is_did,
    didcomm::{Attachment, Message, MessageError, MessageType},
    encoding::{from_base64, json_to_base64url},
};

/// The type of an invitation.
pub const INVITATION: &str = "https://didcomm.org/out-of-band/2.0/invitation";
/// The longest invitation as JSON or as a URL, in bytes.
pub const MAX_LENGTH: usize = 64 * 1024;
/// The most attachments of an invitation.
const MAX_ATTACHMENTS: usize = 16;

/// An invitation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Invitation {
    /// The id. It is the `pthid` of the response.
    pub id: String,
    /// The DID of the inviter.
    pub from: String,
    /// The goal, for programs, in the inviter's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal_code: Option<String>,
    /// The goal, for people, in the inviter's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<String>,
    /// The profiles of DIDComm that the endpoint supports, best first, such as `didcomm/v2`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accept: Vec<String>,
    /// Messages, best first. The recipient of the invitation acts on one of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Attachment>,
    /// When the invitation was made, in seconds since 1970, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_time: Option<u64>,
    /// When the invitation expires, in seconds since 1970, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_time: Option<u64>,
    /// The language of the goal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lang: Option<String>,
}

/// The invitation in a text, or the URL to fetch the invitation from.
#[derive(Debug, Clone, PartialEq)]
pub enum ParsedInvitation {
    /// An invitation.
    Invitation(Box<Invitation>),
    /// A short URL with `_oobid`. The invitation must be fetched by HTTP GET ("Short URL Message Retrieval"). The
    /// address of the redirect, or the response body, is then given to [`Invitation::parse`].
    Url(String),
}

/// Why a text contains no invitation.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum InvitationError {
    /// The invitation is too long, or has too many attachments.
    #[error("the invitation is longer than {MAX_LENGTH} bytes, or has more than {MAX_ATTACHMENTS} attachments")]
    TooLong,
    /// The text is neither JSON nor a URL with `_oob` or `_oobid`.
    #[error("this is neither an invitation nor a URL with _oob= or _oobid=")]
    NotFound,
    /// The parameter `_oob` is not base64 of a text.
    #[error("the parameter _oob is not a text in base64url or base64")]
    Base64,
    /// The JSON is no DIDComm message.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The message is not an invitation.
    #[error("the message is not an invitation")]
    Type,
    /// `from` is missing, or no DID.
    #[error("the invitation's member `from` is not a DID")]
    From,
    /// A member of the body has a wrong type.
    #[error("the invitation's member `{0}` is malformed")]
    Member(&'static str),
    /// The text does not fit into a QR code.
    #[error("the text is too long for a QR code: publish the invitation under a short URL")]
    QrCode,
}

impl Invitation {
    /// Makes an invitation of a DID, with a new id.
    pub fn new(from: impl Into<String>) -> Self {
        let accept = vec!["didcomm/v2".to_owned()];
        Self { id: Message::new_id(), from: from.into(), accept, ..Default::default() }
    }

    /// Parses what a person scanned or pasted: a URL, or the invitation as JSON.
    ///
    /// # Errors
    /// If the text contains no valid invitation.
    pub fn parse(text: &str) -> Result<ParsedInvitation, InvitationError> {
        let text = text.trim();
        if text.len() > MAX_LENGTH {
            return Err(InvitationError::TooLong);
        }
        if text.starts_with('{') {
            return Self::from_json(text).map(Box::new).map(ParsedInvitation::Invitation);
        }
        if let Some(encoded) = parameter(text, "_oob") {
            return Self::from_encoded(encoded).map(Box::new).map(ParsedInvitation::Invitation);
        }
        let is_http = |text: &str| text.starts_with("https://") || text.starts_with("http://");
        match parameter(text, "_oobid") {
            Some(id) if !id.is_empty() && is_http(text) => Ok(ParsedInvitation::Url(text.to_owned())),
            _ => Err(InvitationError::NotFound),
        }
    }

    /// Reads a message as an invitation.
    ///
    /// # Errors
    /// If the message is no valid invitation.
    pub fn from_message(message: &Message) -> Result<Self, InvitationError> {
        let kind = MessageType::parse(INVITATION).ok_or(InvitationError::Type)?;
        if !message.message_type().is_some_and(|other| other.is_compatible_with(&kind)) {
            return Err(InvitationError::Type);
        }
        let from = message.from.clone().filter(|from| is_did(from)).ok_or(InvitationError::From)?;
        let attachments = message.attachments.clone().unwrap_or_default();
        if attachments.len() > MAX_ATTACHMENTS {
            return Err(InvitationError::TooLong);
        }
        let text = |name: &'static str| match message.body.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value.as_str().map(|text| Some(text.to_owned())).ok_or(InvitationError::Member(name)),
        };
        let accept = match message.body.get("accept") {
            None | Some(Value::Null) => Vec::new(),
            Some(value) => serde_json::from_value(value.clone()).map_err(|_| InvitationError::Member("accept"))?,
        };
        Ok(Self {
            id: message.id.clone(),
            from,
            goal_code: text("goal_code")?,
            goal: text("goal")?,
            accept,
            attachments,
            created_time: message.created_time,
            expires_time: message.expires_time,
            lang: message.lang.clone(),
        })
    }

    /// Returns the invitation as a message. An attachment without an id gets one.
    pub fn to_message(&self) -> Message {
        let mut body = Map::new();
        for (name, text) in [("goal_code", &self.goal_code), ("goal", &self.goal)] {
            if let Some(text) = text {
                body.insert(name.to_owned(), json!(text));
            }
        }
        if !self.accept.is_empty() {
            body.insert("accept".to_owned(), json!(self.accept));
        }
        let mut message = Message::build(&self.id, INVITATION, body.into()).from(&self.from).finalize();
        // Without `typ` the QR code is smaller.
        message.typ = None;
        message.created_time = self.created_time;
        message.expires_time = self.expires_time;
        message.lang.clone_from(&self.lang);
        message.attachments = (!self.attachments.is_empty()).then(|| self.attachments.clone());
        message.with_attachment_ids().into_owned()
    }

    /// Returns a URL that contains the invitation as base64url without padding, in letters and digits only: some peers
    /// read standard base64. `base` is the URL of a page for people who have no agent, and may have parameters of its own.
    pub fn to_url(&self, base: &str) -> String {
        let encoded = json_to_base64url(&self.to_message().to_json());
        let (base, fragment) = base.split_at(base.find('#').unwrap_or(base.len()));
        let separator = match base.split_once('?') {
            None => "?",
            Some((_, "")) => "",
            Some(_) => "&",
        };
        format!("{base}{separator}_oob={encoded}{fragment}")
    }

    fn from_json(text: &str) -> Result<Self, InvitationError> {
        Self::from_message(&Message::from_json(text)?)
    }

    /// Decodes the parameter `_oob`. The specification wants base64url. Standard base64, padding and percent-encoding are
    /// read too.
    fn from_encoded(encoded: &str) -> Result<Self, InvitationError> {
        let bytes = from_base64(encoded).ok_or(InvitationError::Base64)?;
        let json = String::from_utf8(bytes).map_err(|_| InvitationError::Base64)?;
        Self::from_json(&json)
    }
}

/// Returns the value of a parameter in a URL's query, without decoding it.
fn parameter<'a>(url: &'a str, name: &str) -> Option<&'a str> {
    let (url, _) = url.split_once('#').unwrap_or((url, ""));
    let (_, query) = url.split_once('?')?;
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// Returns a QR code for a terminal with light text on a dark background. Each character shows two modules.
///
/// # Errors
/// If the text is too long.
pub fn qr_text(text: &str) -> Result<String, InvitationError> {
    // The terminal draws the light modules, so dark and light are swapped.
    Ok(qr(text)?.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build())
}

/// Returns a QR code as SVG.
///
/// # Errors
/// If the text is too long.
pub fn qr_svg(text: &str) -> Result<String, InvitationError> {
    Ok(qr(text)?.render::<svg::Color<'_>>().min_dimensions(256, 256).build())
}

fn qr(text: &str) -> Result<QrCode, InvitationError> {
    // A code on a screen is not damaged, so the lowest level of error correction suffices. It makes the largest
    // modules.
    QrCode::with_error_correction_level(text, EcLevel::L).map_err(|_| InvitationError::QrCode)
}

/// Hands invitations to the application, which decides whether to accept them.
#[derive(Debug, Clone, Copy)]
pub struct OutOfBand;

#[async_trait]
impl Protocol for OutOfBand {
    fn piuri(&self) -> &str {
        "https://didcomm.org/out-of-band/2.0"
    }

    fn roles(&self) -> &[&str] {
        &["sender", "receiver"]
    }

    async fn handle(&self, received: &Received, tx: &mut Transaction<'_>) -> Result<(), HandleError> {
        if !received.is("invitation") {
            return Err(received.unknown_type().into());
        }
        if let Err(error) = Invitation::from_message(&received.message) {
            tracing::info!(%error, sender = received.sender, "invitation refused: it is malformed");
            return Err(Problem::new("e.m.msg.bad-invitation", "The invitation is malformed.").into());
        }
        tx.deliver();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        agent::protocol::testing::{ALICE, Harness, from},
        encoding::to_base64url,
    };

    /// The example of the specification.
    const URL: &str = "https://example.com/path?_oob=eyJ0eXBlIjoiaHR0cHM6Ly9kaWRjb21tLm9yZy9vdXQtb2YtYmFuZC8yLjAvaW52aXRhdGlvbiIsImlkIjoiNjkyMTJhM2EtZDA2OC00ZjlkLWEyZGQtNDc0MWJjYTg5YWYzIiwiZnJvbSI6ImRpZDpleGFtcGxlOmFsaWNlIiwiYm9keSI6eyJnb2FsX2NvZGUiOiIiLCJnb2FsIjoiIn0sImF0dGFjaG1lbnRzIjpbeyJpZCI6InJlcXVlc3QtMCIsIm1lZGlhX3R5cGUiOiJhcHBsaWNhdGlvbi9qc29uIiwiZGF0YSI6eyJqc29uIjoiPGpzb24gb2YgcHJvdG9jb2wgbWVzc2FnZT4ifX1dfQ";

    fn found(text: &str) -> Invitation {
        match Invitation::parse(text) {
            Ok(ParsedInvitation::Invitation(invitation)) => *invitation,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_example_is_read() {
        let attachment =
            Attachment::json(json!("<json of protocol message>")).id("request-0").media_type("application/json");
        let expected = Invitation {
            id: "69212a3a-d068-4f9d-a2dd-4741bca89af3".into(),
            from: "did:example:alice".into(),
            goal_code: Some(String::new()),
            goal: Some(String::new()),
            attachments: vec![attachment.finalize()],
            ..Default::default()
        };
        assert_eq!(found(URL), expected);
        assert_eq!(found(&format!("  {URL}==#x\n")), expected);
        assert_eq!(found(&format!("{}&coupon=1", URL.replace("?_oob", "?a=b&_oob"))), expected);
        assert_eq!(found(&format!("{URL}%3D%3d&_oobid=1")), expected);
        assert_eq!(found(&URL.replace('L', "%4C")), expected);
        assert_eq!(found(&expected.to_message().to_json()), expected);
    }

    #[test]
    fn the_url_has_no_padding_and_keeps_its_base() {
        let mut invitation = Invitation::new(ALICE);
        for (base, start, end) in [
            ("https://example.com/x", "https://example.com/x?_oob=", ""),
            ("https://example.com/x?a=b", "https://example.com/x?a=b&_oob=", ""),
            ("https://example.com/x?#top", "https://example.com/x?_oob=", "#top"),
        ] {
            for goal in ["", "a", "ab", "abc"] {
                invitation.goal = Some(goal.into());
                let url = invitation.to_url(base);
                assert!(url.starts_with(start) && url.ends_with(end), "{url}");
                assert!(!url[start.len()..].contains(['=', ' ', '+', '/', '-', '_']), "{url}");
                assert_eq!(found(&url), invitation);
            }
        }
    }

    /// Identus writes standard base64, with padding (Kotlin) and without (TypeScript).
    #[test]
    fn every_spelling_of_base64_is_read() {
        let invitation = Invitation { goal: Some("why?>? é~".into()), ..Invitation::new(ALICE) };
        let url = |encoded: String| format!("https://example.com/path?_oob={encoded}");
        // As it was written, with characters that have other letters in the two alphabets.
        let encoded = to_base64url(invitation.to_message().to_json());
        let standard = encoded.replace('-', "+").replace('_', "/");
        assert_ne!(encoded, standard);
        let padded = format!("{standard}{}", "=".repeat((4 - standard.len() % 4) % 4));
        let percent = padded.replace('+', "%2B").replace('/', "%2f").replace('=', "%3D");
        for encoded in [encoded, standard, padded, percent] {
            assert_eq!(found(&url(encoded.clone())), invitation, "{encoded}");
        }
    }

    #[test]
    fn attachments_of_an_invitation_have_an_id() {
        let attachment = |text: &str| Attachment::json(json!(text)).finalize();
        let invitation = Invitation { attachments: vec![attachment("a"), attachment("b")], ..Invitation::new(ALICE) };
        let ids: Vec<_> =
            found(&invitation.to_url("https://example.com/")).attachments.into_iter().map(|it| it.id).collect();
        assert_eq!(ids, [Some("1".to_owned()), Some("2".to_owned())]);
    }

    #[test]
    fn a_short_url_is_recognized() {
        let url = "https://example.com/path?_oobid=5f0e3ffb-3f92-4648-9868-0d6f8889e6f3";
        assert_eq!(Invitation::parse(url).unwrap(), ParsedInvitation::Url(url.to_owned()));
        for text in
            ["", "https://example.com", "https://example.com/?_oobid=", "file:///x?_oobid=1", "x_oob=1", "?_oobx=1"]
        {
            assert!(matches!(Invitation::parse(text), Err(InvitationError::NotFound)), "{text}");
        }
    }

    #[test]
    fn an_invalid_invitation_is_refused() {
        let message = |from: Value, kind: &str, body: Value| {
            Invitation::parse(&json!({"id": "1", "type": kind, "from": from, "body": body}).to_string())
        };
        assert!(matches!(message(json!("alice"), INVITATION, json!({})), Err(InvitationError::From)));
        assert!(matches!(message(Value::Null, INVITATION, json!({})), Err(InvitationError::From)));
        let ping = "https://didcomm.org/trust-ping/2.0/ping";
        assert!(matches!(message(json!(ALICE), ping, json!({})), Err(InvitationError::Type)));
        let old = "https://didcomm.org/out-of-band/1.1/invitation";
        assert!(matches!(message(json!(ALICE), old, json!({})), Err(InvitationError::Type)));
        for (body, name) in [(json!({"goal": 1}), "goal"), (json!({"accept": "didcomm/v2"}), "accept")] {
            let error = message(json!(ALICE), INVITATION, body).unwrap_err();
            assert!(matches!(error, InvitationError::Member(member) if member == name), "{error}");
        }
        assert!(matches!(Invitation::parse("https://example.com?_oob=!"), Err(InvitationError::Base64)));
        assert!(matches!(Invitation::parse("https://example.com?_oob=_w"), Err(InvitationError::Base64)));
        assert!(matches!(Invitation::parse(r#"{"id":"1","id":"1"}"#), Err(InvitationError::Message(_))));
        assert!(matches!(Invitation::parse(&"x".repeat(MAX_LENGTH + 1)), Err(InvitationError::TooLong)));
        let data = json!({"data": {"json": 1}});
        let many = json!({"id": "1", "type": INVITATION, "from": ALICE, "body": {}, "attachments": vec![data; 17]});
        assert!(matches!(Invitation::parse(&many.to_string()), Err(InvitationError::TooLong)));
    }

    #[test]
    fn a_qr_code_is_drawn() {
        let url = Invitation::new(ALICE).to_url("https://example.com/");
        let picture = qr_text(&url).unwrap();
        assert!(picture.lines().count() > 20 && picture.chars().all(|c| " ▀▄█\n".contains(c)));
        // The margin is light, and light modules are drawn.
        assert!(picture.starts_with("████"));
        assert!(qr_svg(&url).unwrap().contains("<svg"));
        assert!(matches!(qr_text(&"x".repeat(3000)), Err(InvitationError::QrCode)));
    }

    #[tokio::test]
    async fn a_received_invitation_is_delivered() {
        let harness = Harness::default();
        let invitation = from(ALICE, INVITATION, json!({"goal": "To talk"}));
        let outcome = harness.handle(&OutOfBand, &invitation).await.unwrap();
        assert!(outcome.delivered && outcome.sent.is_empty() && outcome.written.is_empty());
        let bad = from(ALICE, INVITATION, json!({"goal": 1}));
        assert_eq!(harness.problem(&OutOfBand, &bad).await, "e.m.msg.bad-invitation");
    }

    proptest! {
        #[test]
        fn nothing_panics(text: String, query in "[a-zA-Z0-9_=%&?#-]{0,100}") {
            let _ = Invitation::parse(&text);
            let _ = Invitation::parse(&format!("https://example.com/?_oob={text}"));
            let _ = Invitation::parse(&format!("https://example.com/?_oob={}", to_base64url(&text)));
            let _ = Invitation::parse(&format!("https://example.com/?{query}"));
        }

        #[test]
        fn a_url_is_read_as_it_was_written(
            goal in proptest::option::of(any::<String>()),
            accept in prop::collection::vec("[a-z0-9/;=]{1,20}", 0..3),
            content in prop::collection::vec(any::<String>(), 0..3),
            expires_time: Option<u64>,
            base in "https://[a-z]{1,10}/[a-z]{0,5}(\\?[a-z]=[a-z0-9%]{0,5})?(#[a-z_=&?]{0,9})?",
        ) {
            let attachment = |text: &String| Attachment::json(json!({ "x": text })).id(text).finalize();
            let attachments = content.iter().filter(|text| !text.is_empty()).map(attachment).collect();
            let invitation = Invitation { goal, accept, attachments, expires_time, ..Invitation::new(ALICE) };
            prop_assert_eq!(found(&invitation.to_url(&base)), invitation);
        }
    }
}
