//! Attachments as peers write them: a bad one does not cost the message. We send none that is bad, and none without an id.

use claviger::{
    did::Document,
    didcomm::{Attachment, AttachmentData, AttachmentNote, AttachmentProblem, Error, HashError, Message, MessageError},
    jose::{Envelope, Limits},
};
use serde_json::{Value, json};

use crate::support::{
    LUNCH, People,
    forge::{Jwe, b64},
};

/// Attachments with something wrong, and the code and text of the note.
fn bad_attachments() -> Vec<(Value, &'static str, &'static str)> {
    let sha3 = format!("1620{}", "00".repeat(32));
    vec![
        (json!({"data": {"base64": "?"}}), "not-base64", "the content is not base64"),
        (
            json!({"data": {"base64": "?", "hash": AttachmentData::multihash(b"x")}}),
            "not-base64",
            "the content is not base64",
        ),
        (json!({"data": {}}), "no-data", "it has no data: jws, hash, links, base64 or json"),
        (json!({"id": "x"}), "no-data", "it has no data: jws, hash, links, base64 or json"),
        (json!({"data": null}), "no-data", "it has no data: jws, hash, links, base64 or json"),
        (json!({"data": {"links": ["https://example.org"]}}), "no-hash", "links need a hash"),
        (json!({"data": {"json": {}, "hash": "z0OIl"}}), "malformed-hash", "the hash is not a multihash"),
        (json!({"data": {"json": {}, "hash": "z".repeat(100_000)}}), "malformed-hash", "the hash is not a multihash"),
        (
            json!({"data": {"base64": "AAAA", "hash": sha3}}),
            "unsupported-hash",
            "the hash function with multicodec 0x16 is not supported",
        ),
        (json!({"id": 7, "data": {"json": 1}}), "wrong-type", "its id has a wrong type"),
        (json!({"byte_count": "7", "data": {"json": 1}}), "wrong-type", "its byte_count has a wrong type"),
        (json!({"lastmod_time": "today", "data": {"json": 1}}), "wrong-type", "its lastmod_time has a wrong type"),
        (json!({"data": "aGVsbG8"}), "wrong-type", "its data has a wrong type"),
        (json!({"data": {"base64": 7}}), "wrong-type", "its data.base64 has a wrong type"),
        (
            json!({"data": {"links": "https://example.org", "hash": "1620"}}),
            "wrong-type",
            "its data.links has a wrong type",
        ),
    ]
}

// Conformance 23.
#[tokio::test]
async fn a_bad_attachment_is_delivered_with_a_note() {
    let people = People::new().await;
    let good = json!({"id": "good", "data": {"base64": b64("hello")}});
    for (bad, code, problem) in bad_attachments() {
        let mut text = people.plaintext();
        text["attachments"] = json!([good, bad]);
        let sealed = Jwe::authcrypt(&people.alice, &people.keys_of_bob(&[1])).seal(text.to_string());
        let (message, provenance) = people.opened(sealed).await;
        assert_eq!(
            serde_json::to_value(&provenance).unwrap()["attachment_notes"],
            json!([{"attachment": 1, "code": code, "problem": problem}]),
            "{bad}"
        );
        let attachments = message.attachments.as_deref().unwrap();
        assert_eq!(attachments[0].data.bytes().unwrap().unwrap(), b"hello");
        assert_eq!(attachments[0].problem(), None);
        let [AttachmentNote { problem, .. }] = provenance.attachment_notes.as_slice() else { panic!("{bad}") };
        assert_eq!(attachments[1].problem().as_ref(), Some(problem));
        // What the peer wrote is still there, and is read the same again.
        let read = Message::from_json(&message.to_json()).unwrap();
        assert_eq!(read, message, "{bad}");
        // We do not send it on.
        assert!(matches!(
            message.pack_plaintext(),
            Err(Error::Message(
                MessageError::AttachmentData(_)
                    | MessageError::AttachmentMember { .. }
                    | MessageError::AttachmentHash { .. }
            ))
        ));
    }
}

#[tokio::test]
async fn the_notes_on_a_message_are_bounded() {
    let people = People::new().await;
    let mut text = people.plaintext();
    text["attachments"] = vec![json!({}); 150].into();
    let (message, provenance) = people.opened(text).await;
    assert_eq!(message.attachments.unwrap().len(), 150);
    assert_eq!(provenance.attachment_notes.len(), 100);
    assert_eq!(provenance.attachment_notes[99].attachment, 99);
}

/// Content that is not what its hash says was changed by somebody, so the message is refused.
#[tokio::test]
async fn only_another_hash_refuses_the_message() {
    let people = People::new().await;
    let mut text = people.plaintext();
    let other = AttachmentData::multihash(b"other");
    text["attachments"] = json!([{"data": {}}, {"id": "letter", "data": {"base64": "AAAA", "hash": other}}]);
    let error = people.refused_without_token_and_resolver(&text).await;
    assert_error!(
        &error,
        Error::Message(MessageError::AttachmentHash { id, error: HashError::Mismatch }) if id == "letter"
    );
    assert_eq!(error.to_string(), r#"the attachment "letter": the content does not have the hash"#);
    // Also if a member beside it has a wrong type.
    text["attachments"][1]["filename"] = 7.into();
    assert_error!(people.refused(&text).await, Error::Message(MessageError::AttachmentHash { .. }));
}

/// Identus writes standard base64, also without padding; a form encoder leaves percent-encoding.
#[test]
fn every_spelling_of_base64_is_read() {
    let content = br#"{"q":"why?>?~"}"#;
    let text = b64(content);
    let standard = text.replace('-', "+").replace('_', "/");
    assert_ne!(text, standard);
    let padded = format!("{standard}{}", "=".repeat((4 - standard.len() % 4) % 4));
    let percent = padded.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    let lines = format!("{}\r\n{}\n", &padded[..8], &padded[8..]);
    for text in [text, standard, padded, percent, lines] {
        let message = json!({"id": "1", "type": LUNCH, "attachments": [{"data": {"base64": text}}]});
        let read = Message::from_json(&message.to_string()).unwrap().attachments.unwrap();
        assert_eq!(read[0].data.bytes().unwrap().unwrap(), content, "{text}");
        assert_eq!(read[0].problem(), None);
        // The hash is that of the content, not of the text.
        let mut hashed = message;
        hashed["attachments"][0]["data"]["hash"] = AttachmentData::multihash(content).into();
        assert!(Message::from_json(&hashed.to_string()).is_ok(), "{text}");
    }
}

#[test]
fn null_is_an_absent_member() {
    let attachment = json!({
        "id": "1", "description": null, "filename": null, "media_type": null, "format": null, "lastmod_time": null,
        "byte_count": null, "data": {"base64": "AAAA", "jws": null, "hash": null, "links": null, "json": null},
    });
    let read: Attachment = serde_json::from_value(attachment).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), json!({"id": "1", "data": {"base64": "AAAA"}}));
    assert_eq!(read.problem(), None);
}

#[test]
fn a_problem_has_a_code_and_words() {
    let read: Attachment = serde_json::from_value(json!({"data": {"base64": "AAAA", "hash": "1220"}})).unwrap();
    assert_eq!(read.problem(), Some(AttachmentProblem::Hash(HashError::Malformed)));
    let other = Attachment::base64("a").hash(AttachmentData::multihash(b"b")).finalize().problem().unwrap();
    assert_eq!((other.code(), other.to_string().as_str()), ("wrong-hash", "the content does not have the hash"));
}

/// Identus drops attachments without an id.
#[tokio::test]
async fn sent_attachments_have_an_id() {
    let people = People::new().await;
    let mut text = people.plaintext();
    let data = json!({"json": 1});
    text["attachments"] = json!([
        {"data": data}, {"id": "3", "data": data}, {"id": "", "data": data}, {"id": "a", "data": data}, {"data": data},
    ]);
    let message = Message::from_json(&text.to_string()).unwrap();
    let expected = ["1", "3", "4", "a", "5"];
    let ids = |message: &Message| -> Vec<String> {
        message.attachments.iter().flatten().map(|attachment| attachment.id.clone().unwrap_or_default()).collect()
    };
    let plain = Message::from_json(&message.pack_plaintext().unwrap()).unwrap();
    assert_eq!(ids(&plain), expected);
    let (alice, bob) = (&people.alice, &people.bob);
    let (signed, _) = message.pack_signed(&alice.did, &alice.identities).await.unwrap();
    assert_eq!(ids(&people.opened(signed).await.0), expected);
    for packing in [message.encrypt_to(&bob.did).from(&alice.did), message.encrypt_to(&bob.did)] {
        let (packed, _) = packing.pack(&people.resolver, &alice.identities).await.unwrap();
        assert_eq!(ids(&people.opened(packed).await.0), expected);
    }
    assert_eq!(ids(&message), ["", "3", "", "a", ""], "the caller's message is not changed");
}

/// A peer that hashes the key ids in the order of the message gets the same `apv`.
#[tokio::test]
async fn the_recipients_of_a_jwe_are_in_the_order_of_their_key_ids() {
    let people = People::new().await;
    let (alice, bob) = (&people.alice, &people.bob);
    // Bob's document with his two X25519 keys in another order.
    let mut document = bob.document.as_value().clone();
    document["keyAgreement"].as_array_mut().unwrap().swap(0, 1);
    let resolver = crate::support::RecordingResolver::with([Document::from_value(document).unwrap()]);
    let message = crate::support::lunch(alice, bob);
    for packing in [message.encrypt_to(&bob.did).from(&alice.did), message.encrypt_to(&bob.did)] {
        let (packed, _) = packing.pack(&resolver, &alice.identities).await.unwrap();
        let Ok(Envelope::Encrypted(jwe)) = Envelope::parse(packed.as_bytes(), &Limits::default()) else { panic!() };
        let kids: Vec<&str> = jwe.recipient_kids().collect();
        assert!(kids.len() == 2 && kids.is_sorted(), "{kids:?}");
        let value: Value = serde_json::from_str(&packed).unwrap();
        let header = protected_header(&value);
        let apv = <sha2::Sha256 as sha2::Digest>::digest(kids.join("."));
        assert_eq!(header["apv"], b64(apv));
    }
}

/// The protected header of a JWE.
fn protected_header(jwe: &Value) -> Value {
    let protected = jwe["protected"].as_str().unwrap();
    let bytes = base64::Engine::decode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, protected).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}
