//! User profile 1.0 (didcomm.org/user-profile/1.0): a name, a picture and a description.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    connections::{find_connection, is_stranger},
    handler::Protocol,
    problem::{HandleError, Problem},
    received::Received,
    record::RecordType,
    text::{id_as_key, truncate_to},
    transaction::Transaction,
};
use crate::{
    agent::clock::Millis,
    didcomm::{Attachment, Message},
};

/// The type of a profile.
pub const PROFILE: &str = "https://didcomm.org/user-profile/1.0/profile";
/// The type of a request for a profile.
pub const REQUEST_PROFILE: &str = "https://didcomm.org/user-profile/1.0/request-profile";
/// The record key of the profile of all our DIDs that have no profile of their own.
pub const OWN: &str = "own";

/// The longest text, in bytes.
const MAX_TEXT: usize = 1024;
/// The largest picture, in bytes of its attachment as JSON.
const MAX_PICTURE: usize = 64 * 1024;
/// The longest language tag that is remembered, in bytes (RFC 5646 section 4.4.1).
const MAX_LANG: usize = 35;
/// The names of a profile's fields in a message.
const NAME: &str = "displayName";
const PICTURE: &str = "displayPicture";
const DESCRIPTION: &str = "description";

/// Returns the key of the profile of one of our DIDs.
pub fn own_key(own_did: &str) -> String {
    format!("{OWN}:{own_did}")
}

/// The record of a profile. The key is the peer's DID, or [`own_key`] or [`OWN`]. Nobody has verified what a peer's
/// profile says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Profile {
    /// The name to show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// The picture: embedded, or a link. The agent does not follow the link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_picture: Option<Attachment>,
    /// A short description.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The language of the texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lang: Option<String>,
    /// When the profile was last changed, in milliseconds since 1970.
    pub time: Millis,
}

impl RecordType for Profile {
    const KIND: &'static str = "profile";
    const ABOUT_SENDER: bool = true;
}

/// Remembers the profiles of peers, and sends ours on request.
#[derive(Debug, Clone, Copy)]
pub struct UserProfile;

#[async_trait]
impl Protocol for UserProfile {
    fn piuri(&self) -> &str {
        "https://didcomm.org/user-profile/1.0"
    }

    fn roles(&self) -> &[&str] {
        &["sender", "receiver"]
    }

    async fn handle(&self, received: &Received, tx: &mut Transaction<'_>) -> Result<(), HandleError> {
        let body = &received.message.body;
        if received.is("profile") {
            update_profile(received, tx).await?;
            tx.deliver();
            if body.get("send_back_yours") == Some(&Value::Bool(true)) && !is_reply(received, tx).await? {
                send_own_profile(received, &[NAME, PICTURE, DESCRIPTION], tx).await?;
            }
            Ok(())
        } else if received.is("request-profile") {
            let query = body.get("query").and_then(Value::as_array);
            let is_requested = |name: &&str| query.is_none_or(|query| query.iter().any(|requested| requested == name));
            let fields: Vec<&str> = [NAME, PICTURE, DESCRIPTION].into_iter().filter(is_requested).collect();
            send_own_profile(received, &fields, tx).await
        } else {
            Err(received.unknown_type().into())
        }
    }
}

/// Updates the stored profile of the sender. "Any absent field means that there is no change on that field."
async fn update_profile(received: &Received, tx: &mut Transaction<'_>) -> Result<(), HandleError> {
    let Some(fields) = received.message.body.get("profile").and_then(Value::as_object) else {
        return Err(Problem::new("e.m.msg.no-profile", "The message has no object body.profile.").into());
    };
    let Some(sender) = &received.sender else { return Ok(()) };
    let is_stranger = is_stranger(received, tx).await?;
    let mut profile: Profile = tx.get(sender).await?.unwrap_or_default();
    if let Some(name) = text_field(fields, NAME)? {
        profile.display_name = name.map(str::to_owned);
    }
    if let Some(description) = text_field(fields, DESCRIPTION)? {
        profile.description = description.map(str::to_owned);
    }
    if let Some(reference) = text_field(fields, PICTURE)? {
        let picture = reference.map(|reference| find_picture(&received.message, reference)).transpose()?;
        // A stranger's picture is only in the message for the application.
        profile.display_picture = picture.filter(|_| !is_stranger);
    }
    if let Some(lang) = &received.message.lang {
        profile.lang = Some(truncate_to(lang, MAX_LANG).to_owned());
    }
    profile.time = received.time;
    tx.put(sender, &profile, None);
    Ok(())
}

/// Reads a field. The outer `None` means absent. The inner `None` means that the field must be removed ("explicitly set
/// to null or an empty string").
fn text_field<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<Option<Option<&'a str>>, Problem> {
    match fields.get(name) {
        None => Ok(None),
        Some(Value::Null) => Ok(Some(None)),
        Some(Value::String(text)) if text.len() <= MAX_TEXT => {
            Ok(Some(Some(text.as_str()).filter(|text| !text.is_empty())))
        }
        Some(Value::String(_)) => Err(Problem::new("e.m.me.res.storage.too-long", "{1} is longer than {2} bytes.")
            .arg(name)
            .arg(MAX_TEXT.to_string())),
        Some(_) => Err(Problem::new("e.m.msg.bad-field", "{1} is no text.").arg(name)),
    }
}

/// Returns the attachment that a reference such as `#item1` names. The specification's own example has the id in `@id`.
fn find_picture(message: &Message, reference: &str) -> Result<Attachment, Problem> {
    let id = reference.strip_prefix('#').unwrap_or(reference);
    let has_id = |attachment: &&Attachment| {
        let other = attachment.extra.get("@id").and_then(Value::as_str);
        attachment.id.as_deref().or(other) == Some(id)
    };
    let Some(attachment) = message.attachments.iter().flatten().find(has_id) else {
        return Err(Problem::new("e.m.msg.no-picture", "There is no attachment that displayPicture names."));
    };
    if serde_json::to_vec(attachment).map_or(true, |json| json.len() > MAX_PICTURE) {
        return Err(Problem::new("e.m.me.res.storage.picture-too-big", "The picture is larger than {1} bytes.")
            .arg(MAX_PICTURE.to_string()));
    }
    Ok(attachment.clone())
}

/// Whether a profile is a reply: it continues a thread that another message began. The request for our profile in a
/// reply is ignored, so that two agents do not exchange profiles for ever. A child thread of the invitation that began
/// the connection does not make a profile a reply.
async fn is_reply(received: &Received, tx: &mut Transaction<'_>) -> Result<bool, HandleError> {
    let Some(pthid) = &received.message.pthid else { return Ok(received.message.thread() != received.message.id) };
    let invitation = find_connection(received, tx).await?.and_then(|connection| connection.invitation);
    Ok(invitation.is_none_or(|invitation| invitation != id_as_key(pthid)))
}

/// Sends these fields of our profile, if there is one, in a child thread of the received message.
async fn send_own_profile(received: &Received, fields: &[&str], tx: &mut Transaction<'_>) -> Result<(), HandleError> {
    let Some(sender) = &received.sender else { return Ok(()) };
    let profile = match tx.get::<Profile>(&own_key(&received.recipient)).await? {
        Some(profile) => Some(profile),
        None => tx.get::<Profile>(OWN).await?,
    };
    let Some(profile) = profile.filter(|_| !fields.is_empty()) else { return Ok(()) };
    tx.send(profile_message(&profile, &received.recipient, sender, fields, &received.message.id));
    Ok(())
}

/// Makes the message of a profile. `pthid` is the id of the message that asked for the profile. An empty field is sent
/// as null, since the peer may have an earlier value.
fn profile_message(profile: &Profile, from: &str, to: &str, fields: &[&str], pthid: &str) -> Message {
    let mut body = Map::new();
    let mut picture = None;
    for &field in fields {
        let value = match field {
            NAME => json!(profile.display_name),
            DESCRIPTION => json!(profile.description),
            _ => {
                picture = profile.display_picture.clone();
                json!(picture.as_ref().map(|_| "#picture"))
            }
        };
        body.insert(field.to_owned(), value);
    }
    let mut message =
        Message::build(Message::new_id(), PROFILE, json!({ "profile": body })).from(from).to(to).pthid(pthid);
    if let Some(lang) = &profile.lang {
        message = message.lang(lang);
    }
    if let Some(mut picture) = picture {
        picture.id = Some("picture".to_owned());
        message = message.attachment(picture);
    }
    message.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::protocol::{
        connections::Connection,
        testing::{ALICE, Harness, NOW, OWN_DID, from, from_with},
    };

    fn profile(fields: Value) -> Received {
        from(ALICE, PROFILE, json!({ "profile": fields }))
    }

    fn peer_profile(harness: &Harness) -> Profile {
        harness.record(ALICE).unwrap()
    }

    fn own_profile(name: &str) -> Profile {
        let picture = Attachment::base64("png").media_type("image/png").finalize();
        Profile {
            display_name: Some(name.into()),
            display_picture: Some(picture),
            lang: Some("en".into()),
            ..Default::default()
        }
    }

    /// The example of the specification, with its `@id`.
    #[tokio::test]
    async fn a_profile_is_remembered_and_changed() {
        let harness = Harness::default();
        let mut first =
            profile(json!({"displayName": "John Doe", "displayPicture": "#item1", "description": "My bio"}));
        let mut attachment = Attachment::base64("png").media_type("image/png").finalize();
        attachment.extra.insert("@id".into(), json!("item1"));
        first.message.attachments = Some(vec![attachment.clone()]);
        let outcome = harness.handle(&UserProfile, &first).await.unwrap();
        assert!(outcome.delivered && outcome.sent.is_empty());
        // A stranger's picture is not remembered.
        let remembered = peer_profile(&harness);
        assert_eq!((remembered.display_name.as_deref(), remembered.display_picture), (Some("John Doe"), None));
        harness.set(&Connection::key(OWN_DID, ALICE), &Connection::new(OWN_DID, ALICE, NOW));
        harness.handle(&UserProfile, &first).await.unwrap();
        let expected = Profile {
            display_name: Some("John Doe".into()),
            display_picture: Some(attachment),
            description: Some("My bio".into()),
            lang: None,
            time: NOW,
        };
        assert_eq!(peer_profile(&harness), expected);

        harness.handle(&UserProfile, &profile(json!({"displayPicture": null, "description": ""}))).await.unwrap();
        assert_eq!(peer_profile(&harness), Profile { display_picture: None, description: None, ..expected });
    }

    #[tokio::test]
    async fn a_malformed_or_oversized_profile_is_reported() {
        let harness = Harness::default();
        for (received, code) in [
            (from(ALICE, PROFILE, json!({})), "e.m.msg.no-profile"),
            (profile(json!({"displayName": 1})), "e.m.msg.bad-field"),
            (profile(json!({"description": "x".repeat(1025)})), "e.m.me.res.storage.too-long"),
            (profile(json!({"displayPicture": "#1"})), "e.m.msg.no-picture"),
        ] {
            assert_eq!(harness.problem(&UserProfile, &received).await, code);
        }
        let mut big = profile(json!({"displayPicture": "1"}));
        big.message.attachments = Some(vec![Attachment::base64(vec![0; MAX_PICTURE]).id("1").finalize()]);
        assert_eq!(harness.problem(&UserProfile, &big).await, "e.m.me.res.storage.picture-too-big");
        assert_eq!(harness.count::<Profile>(), 0);
    }

    #[tokio::test]
    async fn own_profile_is_sent_back_on_request() {
        let harness = Harness::default();
        let body = json!({"profile": {}, "send_back_yours": true});
        let asking = from(ALICE, PROFILE, body.clone());
        assert!(harness.handle(&UserProfile, &asking).await.unwrap().sent.is_empty());

        harness.set(OWN, &own_profile("Everyone's"));
        let outcome = harness.handle(&UserProfile, &asking).await.unwrap();
        let [sent] = &outcome.sent[..] else { panic!("{outcome:?}") };
        let picture = "#picture";
        let fields = json!({"displayName": "Everyone's", "displayPicture": picture, "description": null});
        assert_eq!((sent.type_.as_str(), &sent.body), (PROFILE, &json!({ "profile": fields })));
        assert_eq!((sent.pthid.as_deref(), &sent.thid), (Some(asking.message.id.as_str()), &None));
        assert_eq!(sent.attachments.as_ref().unwrap()[0].id.as_deref(), Some("picture"));
        assert_eq!(sent.lang.as_deref(), Some("en"));

        // A reply gets no reply.
        let reply = from_with(ALICE, PROFILE, body.clone(), |message| message.pthid(&sent.id));
        assert!(harness.handle(&UserProfile, &reply).await.unwrap().sent.is_empty());
        let reply = from_with(ALICE, PROFILE, body.clone(), |message| message.thid(&sent.id));
        assert!(harness.handle(&UserProfile, &reply).await.unwrap().sent.is_empty());
        // A child thread of the invitation is no reply.
        for id in ["OOB", "an invitation's id with blanks", &"x".repeat(100)] {
            let invitation = Some(id_as_key(id).into_owned());
            let invited = Connection { invitation, ..Connection::new(OWN_DID, ALICE, NOW) };
            harness.set(&Connection::key(OWN_DID, ALICE), &invited);
            let first = from_with(ALICE, PROFILE, body.clone(), |message| message.pthid(id));
            assert_eq!(harness.handle(&UserProfile, &first).await.unwrap().sent.len(), 1, "{id}");
        }
    }

    #[tokio::test]
    async fn a_request_gets_the_fields_that_it_names() {
        let harness = Harness::default();
        harness.set(OWN, &own_profile("Everyone's"));
        harness.set(&own_key(OWN_DID), &own_profile("This DID's"));
        for (body, fields) in [
            (json!({"query": ["displayName", "shoeSize"]}), json!({"displayName": "This DID's"})),
            (json!({"query": ["description"]}), json!({"description": null})),
            (json!({}), json!({"displayName": "This DID's", "displayPicture": "#picture", "description": null})),
        ] {
            let request = from(ALICE, REQUEST_PROFILE, body);
            let outcome = harness.handle(&UserProfile, &request).await.unwrap();
            assert_eq!(outcome.sent[0].body, json!({ "profile": fields }));
            assert_eq!(outcome.sent[0].pthid, Some(request.message.id));
        }
        let nothing = from(ALICE, REQUEST_PROFILE, json!({"query": []}));
        assert!(harness.handle(&UserProfile, &nothing).await.unwrap().sent.is_empty());
    }
}
