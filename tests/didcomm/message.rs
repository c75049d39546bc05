//! Plaintext messages: every header and every kind of attachment, packed and unpacked.

use crate::support::{LUNCH, People, forge::Jwe, lunch};
use claviger::{
    didcomm::{
        Attachment, AttachmentData, ENCRYPTED, Error, HashError, Message, MessageError, MessageType, PLAIN, SIGNED,
        Warning,
    },
    jose::{Envelope, Limits},
};
use serde_json::{Value, json};

// Conformance 1, 4.
#[test]
fn media_types() {
    assert_eq!(
        [PLAIN, SIGNED, ENCRYPTED],
        ["application/didcomm-plain+json", "application/didcomm-signed+json", "application/didcomm-encrypted+json"]
    );
}

// Conformance 3, 13, 15, 17, 18, 19, 20, 22, 24, 25, 27, 28, 29.
#[tokio::test]
async fn every_header_survives_packing() {
    let people = People::new().await;
    let message = Message::build("1", LUNCH, json!({"at": "noon"}))
        .from(&*people.alice.did)
        .to(&*people.bob.did)
        .to("did:example:carol")
        .thid("thread")
        .pthid("parent")
        .created_time(1_516_269_022)
        .expires_time(4_102_444_800)
        .please_ack(vec![String::new(), "0".into()])
        .ack(vec!["a".into(), "b".into()])
        .lang("de")
        .accept_lang(vec!["de".into(), "en".into()])
        .return_route("all")
        .header("delay_milli", json!(-1000))
        .header("web_redirect", json!({"status": "OK", "redirectUrl": "https://example.org"}))
        .header("sender_order", json!(1))
        .header("x", json!([null, true, 1.5, {"y": "ü"}]))
        .finalize();
    let expected = json!({
        "id": "1",
        "typ": PLAIN,
        "type": LUNCH,
        "body": {"at": "noon"},
        "from": "did:example:alice",
        "to": ["did:example:bob", "did:example:carol"],
        "thid": "thread",
        "pthid": "parent",
        "created_time": 1_516_269_022,
        "expires_time": 4_102_444_800_u64,
        "please_ack": ["", "0"],
        "ack": ["a", "b"],
        "lang": "de",
        "accept-lang": ["de", "en"],
        "return_route": "all",
        "delay_milli": -1000,
        "web_redirect": {"status": "OK", "redirectUrl": "https://example.org"},
        "sender_order": 1,
        "x": [null, true, 1.5, {"y": "ü"}],
    });
    let text = message.pack_plaintext().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
    let (read, provenance) = people.opened(Jwe::authcrypt(&people.alice, &people.keys_of_bob(&[1])).seal(&text)).await;
    assert_eq!(read, message);
    assert_eq!(provenance.warnings, []);
    assert_eq!(read.extra_headers.len(), 4, "all others have a field");
}

// Conformance 0.2, 21.
#[tokio::test]
async fn an_absent_body_is_read_and_written_as_empty() {
    let read = Message::from_json(&format!(r#"{{"id":"1","type":"{LUNCH}"}}"#)).unwrap();
    assert_eq!(read.body, json!({}));
    assert!(read.to_json().contains(r#""body":{}"#));
}

// Conformance 12, 13, 18.
#[test]
fn ids_and_threads() {
    let id = Message::new_id();
    assert_eq!(id.len(), 32);
    assert!(id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)), "{id}");
    assert_ne!(id, Message::new_id());

    let first = Message::build("a", LUNCH, json!({})).finalize();
    assert_eq!(first.thread(), "a");
    let second = Message::build("b", LUNCH, json!({})).thid(first.thread()).finalize();
    assert_eq!(second.thread(), "a");
    // Peers use longer ids than the specification allows: a UUID with hyphens has 36 characters.
    assert!(Message::from_json(&format!(r#"{{"id":"{}","type":"{LUNCH}"}}"#, "0123456789ab-".repeat(3))).is_ok());
    assert!(Message::build("", LUNCH, json!({})).finalize().pack_plaintext().is_err());
}

// Conformance 14, 99.
#[test]
fn message_types_are_compared_by_the_specification() {
    let parse = |uri| MessageType::parse(uri).unwrap();
    let ours = parse("https://didcomm.org/trust-ping/2.0/ping");
    for same in ["https://didcomm.org/TrustPing/2.9/Ping", "https://didcomm.org/trust_ping/2/p.i-n_g"] {
        assert!(ours.is_compatible_with(&parse(same)), "{same}");
    }
    for other in [
        "https://didcomm.org/trust-ping/3.0/ping",
        "https://didcomm.org/trust-ping/2.0/ping-response",
        "https://example.org/trust-ping/2.0/ping",
        "did:sov:BzCbsNYhMrjHiqZDTUASHg;spec/trust-ping/2.0/ping",
    ] {
        assert!(!ours.is_compatible_with(&parse(other)), "{other}");
    }
    assert_eq!(parse("https://didcomm.org/lets_do.lunch-1/1.0.3/x").version, "1.0.3");
}

// Conformance 16: an absent `to` is a warning. So is an unencrypted message whose `to` does not name us.
#[tokio::test]
async fn to_may_be_absent() {
    let people = People::new().await;
    let mut message = lunch(&people.alice, &people.bob);
    message.to = None;
    for packed in [
        Jwe::authcrypt(&people.alice, &people.keys_of_bob(&[1])).seal(message.to_json()).to_string(),
        message.to_json(),
        message.pack_signed(&people.alice.did, &people.alice.identities).await.unwrap().0,
    ] {
        let (_, provenance) = people.opened(packed).await;
        assert_eq!(provenance.warnings, [Warning::ToAbsent]);
    }
    message.to = Some(vec!["did:example:carol".into()]);
    let (_, provenance) = people.opened(message.to_json()).await;
    assert_eq!(provenance.warnings, [Warning::NotAddressedToUs]);
    assert!(!provenance.authenticated && !provenance.encrypted && provenance.layers.is_empty());
}

// Conformance 20: expiry is a warning, since protocols may refine its meaning.
#[tokio::test]
async fn expiry_is_a_warning() {
    let people = People::new().await;
    let mut message = lunch(&people.alice, &people.bob);
    message.expires_time = Some(1);
    assert_eq!(people.opened(message.to_json()).await.1.warnings, [Warning::Expired]);
    message.expires_time = Some(4_102_444_800);
    assert_eq!(people.opened(message.to_json()).await.1.warnings, []);
}

// Conformance 23.
#[tokio::test]
async fn every_kind_of_attachment_survives_packing() {
    let people = People::new().await;
    let content = "Grüße".as_bytes();
    let hash = AttachmentData::multihash(content);
    let detached = json!({"protected": "e30", "signature": "AAAA", "header": {"kid": "did:example:alice#sign-1"}});
    let mut message = lunch(&people.alice, &people.bob);
    message.attachments = Some(vec![
        Attachment::base64(content)
            .id("1")
            .description("a greeting")
            .filename("greeting.txt")
            .media_type("text/plain")
            .format("example/1.0")
            .lastmod_time(1_516_269_022)
            .byte_count(7)
            .hash(&hash)
            .jws(detached)
            .finalize(),
        Attachment::json(json!({"x": [1, {"y": null}]})).id("2").finalize(),
        Attachment::links(vec!["https://example.org/a".into(), "ipfs://x".into()], &hash).id("3").finalize(),
    ]);
    let (read, _) =
        people.opened(Jwe::authcrypt(&people.alice, &people.keys_of_bob(&[1])).seal(message.to_json())).await;
    assert_eq!(read, message);
    let attachments = read.attachments.unwrap();
    assert_eq!(attachments[0].data.bytes().unwrap().unwrap(), content);
    assert_eq!(attachments[2].data.verify(content), Ok(()));
    assert_eq!(attachments[2].data.verify(b"another"), Err(HashError::Mismatch));
}

/// Padded and standard base64, unknown members, and an attachment without id.
#[test]
fn attachments_in_the_forms_of_peers_are_read() {
    let message = |data: Value| {
        let text = json!({"id": "1", "type": LUNCH, "attachments": [{"data": data, "x": 1}]});
        Message::from_json(&text.to_string())
    };
    for base64 in ["-_8", "-_8=", "+/8="] {
        let read = message(json!({"base64": base64, "y": 2})).unwrap();
        let attachment = &read.attachments.as_ref().unwrap()[0];
        assert_eq!(attachment.data.bytes().unwrap().unwrap(), [0xfb, 0xff]);
        assert_eq!((&attachment.extra["x"], &attachment.data.extra["y"]), (&json!(1), &json!(2)));
    }
    assert!(message(json!({"jws": {"protected": "e30"}})).is_ok());
    let without_data = message(json!({"z": 1})).unwrap();
    assert!(matches!(
        without_data.pack_plaintext(),
        Err(Error::Message(MessageError::AttachmentData(id))) if id == "0"
    ));
}

/// A header with a field must not be in `extra_headers`: it would be written twice, and parsers would read
/// different messages.
#[test]
fn a_header_with_a_field_is_refused_in_extra_headers() {
    for name in ["id", "type", "from", "to", "accept-lang", "expires_time", "attachments", "body"] {
        let message = Message::build("1", LUNCH, json!({})).header(name, json!("x")).finalize();
        assert!(message.pack_plaintext().is_err(), "{name}");
    }
}

// Conformance 2.
#[test]
fn typ_may_be_short_or_absent() {
    for typ in [r#""typ":"didcomm-plain+json","#, r#""typ":"application/didcomm-plain+json","#, ""] {
        let text = format!(r#"{{{typ}"id":"1","type":"{LUNCH}"}}"#);
        assert!(matches!(Envelope::parse(text.as_bytes(), &Limits::default()), Ok(Envelope::Plain(_))));
        assert!(Message::from_json(&text).is_ok());
    }
}
