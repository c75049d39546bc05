//! Messages that are too large or too deeply nested, and forwards inside forwards.

use crate::support::{
    People,
    forge::{Jwe, b64, signed},
};
use claviger::{
    didcomm::{Error, FORWARD, Layer, Message, MessageError, UnpackOptions},
    jose::{Envelope, JoseError, Limits},
    keys::Curve,
};
use claviger_testkit::Counts;
use serde_json::{Value, json};

#[tokio::test]
async fn a_message_over_the_limit_is_not_parsed() {
    let people = People::new().await;
    let huge = "[".repeat(1_000_001);
    let error = people.refused_without_token_and_resolver(&huge).await;
    assert_error!(error, Error::Envelope(JoseError::TooLarge { size: 1_000_001, limit: 1_000_000 }));

    // The limit also applies to the decrypted content, which is always shorter.
    let mut text = people.plaintext();
    text["body"]["x"] = "x".repeat(500_000).into();
    let packed = Jwe::anoncrypt(&people.keys_of_bob(&[1])).seal(text.to_string()).to_string();
    people.opened(&packed).await;
    let options = UnpackOptions {
        limits: Limits { bytes: packed.len() - 1, recipients: 100, ..Limits::default() },
        ..Default::default()
    };
    let refused = Message::unpack(&packed, &people.resolver, &people.bob.identities, &options).await;
    assert_error!(refused.unwrap_err(), Error::Envelope(JoseError::TooLarge { .. }));
}

#[tokio::test]
async fn deeply_nested_json_is_refused_everywhere() {
    let people = People::new().await;
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let deep = nested(100_000);
    let message = |body: &str| {
        format!(r#"{{"id":"1","type":"https://e.org/a/1.0/b","from":"did:example:alice","body":{{"x":{body}}}}}"#)
    };
    for text in [deep.clone(), format!(r#"{{"ciphertext":{deep}}}"#), message(&deep)] {
        let error = people.refused_without_token_and_resolver(text).await;
        assert_error!(error, Error::Envelope(JoseError::Json { name: "message", .. }));
    }
    let error = people.refused_without_token_and_resolver(signed(&people.alice, message(&deep))).await;
    assert_error!(error, Error::Envelope(JoseError::Json { name: "payload", .. }));
    let jwe = Jwe::anoncrypt(&people.keys_of_bob(&[1]));
    let header = jwe.header.to_string().replacen('{', &format!(r#"{{"x":{deep},"#), 1);
    let error = people.refused_without_token_and_resolver(jwe.seal_under(&header, "{}")).await;
    assert_error!(error, Error::Envelope(JoseError::Json { name: "protected header", .. }));
    // A reasonable depth is accepted.
    people.opened(message(&nested(100))).await;
}

/// A message of no kind is an error. A message with members of two kinds is read as the outermost kind, strictly.
#[tokio::test]
async fn ambiguous_envelopes_are_refused() {
    let people = People::new().await;
    for text in [r#"{}"#, r#"{"id":"1"}"#, r#"{"payload":"e30"}"#, r#"{"recipients":[],"protected":"e30"}"#] {
        assert_error!(people.refused_without_token_and_resolver(text).await, Error::Envelope(JoseError::Unrecognised));
    }
    let mut both = signed(&people.alice, people.plaintext().to_string());
    both["ciphertext"] = "AAAA".into();
    assert_error!(
        people.refused_without_token_and_resolver(both).await,
        Error::Envelope(JoseError::Missing("protected"))
    );
    let mut both = people.plaintext();
    both["ciphertext"] = "AAAA".into();
    assert_error!(
        people.refused_without_token_and_resolver(both).await,
        Error::Envelope(JoseError::Missing("protected"))
    );
    // DIDComm does not use the compact serialization.
    assert_error!(
        people.refused_without_token_and_resolver("e30.AA.AA.AA.AA").await,
        Error::Envelope(JoseError::Serialization("JWE Compact Serialization"))
    );
}

// Conformance 2, 5.
#[tokio::test]
async fn the_structure_decides_the_kind_of_envelope() {
    let people = People::new().await;
    for typ in ["application/didcomm-signed+json", "didcomm-encrypted+json", "application/didcomm-plain+json", "x"] {
        let mut jwe = Jwe::anoncrypt(&people.keys_of_bob(&[1]));
        jwe.header["typ"] = typ.into();
        let mut text = people.plaintext();
        text["typ"] = typ.into();
        let packed = jwe.seal(text.to_string()).to_string();
        assert!(matches!(Envelope::parse(packed.as_bytes(), &Limits::default()), Ok(Envelope::Encrypted(_))));
        people.opened(packed).await;
    }
}

// Conformance 6, 8, 10.
#[tokio::test]
async fn only_allowed_nestings_are_opened() {
    let people = People::new().await;
    let text = people.plaintext().to_string();
    let sign = |inner: &str| signed(&people.alice, inner).to_string();
    let auth = |inner: &str| Jwe::authcrypt(&people.alice, &people.keys_of_bob(&[1])).seal(inner).to_string();
    let anon = |inner: &str| Jwe::anoncrypt(&people.keys_of_bob(&[1])).seal(inner).to_string();
    for (packed, refused, derivations) in [
        (auth(&auth(&text)), ("authcrypt", "authcrypt"), 2),
        (auth(&anon(&text)), ("authcrypt", "anoncrypt"), 2),
        (anon(&anon(&text)), ("anoncrypt", "anoncrypt"), 1),
        (anon(&auth(&auth(&text))), ("authcrypt", "authcrypt"), 3),
        (anon(&auth(&anon(&text))), ("authcrypt", "anoncrypt"), 3),
        (anon(&auth(&sign(&sign(&text)))), ("signed", "signed"), 3),
        (anon(&sign(&sign(&text))), ("signed", "signed"), 1),
        (sign(&sign(&text)), ("signed", "signed"), 0),
        (sign(&auth(&text)), ("signed", "encrypted"), 0),
        (sign(&anon(&sign(&text))), ("signed", "encrypted"), 0),
    ] {
        let before = people.bob.token.counts();
        let error = people.refused(packed).await;
        assert_error!(error, Error::ForbiddenNesting { outer, inner } if (*outer, *inner) == refused);
        assert_eq!((people.bob.token.counts() - before).derivations, derivations, "{refused:?}");
    }
    // A `from` beside the ciphertext does not lead to a resolution.
    let mut inner: Value = serde_json::from_str(&anon(&text)).unwrap();
    inner["from"] = people.alice.did.clone().into();
    let error = people.refused_without_token_and_resolver(sign(&inner.to_string())).await;
    assert_error!(error, Error::ForbiddenNesting { outer: "signed", inner: "encrypted" });
}

// Conformance 68, 72, 74.
#[tokio::test]
async fn a_forward_inside_a_forward_to_us_is_refused() {
    let people = People::new().await;
    let inner = Jwe::authcrypt(&people.alice, &people.keys_of_bob(&[1])).seal(people.plaintext().to_string());
    let forward = |next: &str, attachments: Value| -> Value {
        let text = json!({
            "id": "1", "type": FORWARD, "to": [people.bob.did], "body": {"next": next}, "attachments": attachments,
        });
        Jwe::anoncrypt(&people.keys_of_bob(&[1])).seal(text.to_string())
    };
    let holding = |inner: &Value| json!([{"data": {"json": inner}}]);
    let bob = &people.bob.did;

    let before = people.bob.token.counts();
    let (message, provenance) = people.opened(forward(bob, holding(&inner))).await;
    assert_eq!(message.type_, crate::support::LUNCH);
    assert!(matches!(&provenance.layers[1], Layer::Forward { next } if next == bob));
    assert_eq!(people.bob.token.counts() - before, Counts { derivations: 3, unwraps: 2, ..Counts::default() });
    // Addressed to one of our keys, and attached as base64.
    let base64 = json!([{"data": {"base64": b64(inner.to_string())}}]);
    people.opened(forward(&people.bob.kid("agree-1"), base64)).await;

    let twice = forward(bob, holding(&forward(bob, holding(&inner))));
    let before = people.bob.token.counts();
    assert_error!(people.refused(twice).await, Error::ForwardLoop);
    assert_eq!((people.bob.token.counts() - before).derivations, 2, "the third is not opened");

    let many = json!([{"data": {"json": inner}}, {"data": {"json": inner}}]);
    assert_error!(people.refused(forward(bob, many)).await, Error::Forward(_));
    assert_error!(people.refused(forward(bob, json!([]))).await, Error::Forward(_));
    let links = json!([{"data": {"links": ["https://example.org"], "hash": multihash(&inner)}}]);
    assert_error!(people.refused(forward(bob, links)).await, Error::Forward(_));
    let not_text = json!([{"data": {"base64": b64([0xff])}}]);
    assert_error!(people.refused(forward(bob, not_text)).await, Error::Forward(_));
    // The inner message proves its sender; the carrier does not.
    let mut lie = people.plaintext();
    lie["from"] = people.mallory.did.clone().into();
    let (_, provenance) = people.opened(forward(bob, holding(&lie))).await;
    assert!(!provenance.authenticated && !provenance.encrypted);
    // A forward for someone else is returned as a message. Forwarding it is the task of a mediator.
    let (message, _) = people.opened(forward(&people.mallory.did, holding(&inner))).await;
    assert_eq!(message.type_, FORWARD);
}

fn multihash(content: &Value) -> String {
    claviger::didcomm::AttachmentData::multihash(content.to_string().as_bytes())
}

#[tokio::test]
async fn received_attachments_and_headers_are_checked() {
    let people = People::new().await;
    let with = |name: &str, value: Value| {
        let mut text = people.plaintext();
        text[name] = value;
        text
    };
    let changed = json!([{"id": "1", "data": {"base64": "AAAA", "hash": multihash(&json!(1))}}]);
    let error = people.refused_without_token_and_resolver(with("attachments", changed)).await;
    assert_error!(error, Error::Message(MessageError::AttachmentHash { .. }));
    for (name, value) in [
        ("to", json!("did:example:bob")),
        ("created_time", json!("today")),
        ("created_time", json!(1.5)),
        ("created_time", json!(-1)),
        ("expires_time", json!(18_446_744_073_709_551_616u128 as f64)),
        ("thid", json!(1)),
        ("from_prior", json!({})),
        ("attachments", json!({})),
        ("please_ack", json!(true)),
    ] {
        let error = people.refused_without_token_and_resolver(with(name, value)).await;
        assert_error!(error, Error::Message(MessageError::HeaderValue { header, .. }) if *header == name);
    }
    assert_error!(
        people.refused_without_token_and_resolver(with("body", json!([]))).await,
        Error::Message(MessageError::Body)
    );
    assert_error!(
        people.refused_without_token_and_resolver(with("id", json!(""))).await,
        Error::Message(MessageError::NoId)
    );
    for type_ in ["", "lunch", "https://example.org", "https://example.org/a/x/b", "https://example.org/a/1.0/"] {
        let error = people.refused_without_token_and_resolver(with("type", type_.into())).await;
        assert_error!(error, Error::Message(MessageError::Type(_)));
    }
}

/// A valid message that is for none of our keys costs no token operation and no resolution.
#[tokio::test]
async fn a_message_for_others_costs_no_token_and_no_resolution() {
    let people = People::new().await;
    let eve = crate::support::Person::new("eve", &[Curve::X25519], &[]).await;
    let to = [(eve.kid("agree-1"), eve.agree[0].clone())];
    let packed = Jwe::authcrypt(&people.alice, &to).seal(people.plaintext().to_string());
    assert_error!(people.refused_without_token_and_resolver(packed).await, Error::NotForUs(_));
}

/// A peer can neither fill the log nor write lines into it.
#[tokio::test]
async fn errors_quote_received_text_cut_and_escaped() {
    let people = People::new().await;
    let long = format!("line\nbreak\u{1b}[31m{}", "x".repeat(10_000));
    let mut texts = Vec::new();
    for member in ["from", "id", "type", "to", "created_time", "from_prior"] {
        let mut text = people.plaintext();
        text[member] = long.clone().into();
        let sealed = [
            Jwe::authcrypt(&people.alice, &people.keys_of_bob(&[1])).seal(text.to_string()),
            signed(&people.alice, text.to_string()),
        ];
        for packed in sealed {
            texts.extend(people.bob.unpack(&packed.to_string(), &people.resolver).await.err());
        }
    }
    for name in ["alg", "enc", "skid", "typ"] {
        let mut jwe = Jwe::anoncrypt(&people.keys_of_bob(&[1]));
        jwe.header[name] = long.clone().into();
        texts.extend(people.bob.unpack(&jwe.seal("{}").to_string(), &people.resolver).await.err());
    }
    let mut jwe = Jwe::anoncrypt(&people.keys_of_bob(&[1]));
    jwe.recipients[0].header["kid"] = long.clone().into();
    jwe.fit_apv();
    texts.push(people.refused(jwe.seal("{}")).await);
    jwe.recipients[0].header[&long] = 1.into();
    jwe.header[&long] = 1.into();
    texts.push(people.refused(jwe.seal("{}")).await);
    let twice = format!(r#"{{{0}:1,{0}:2}}"#, json!(long));
    texts.push(people.refused(twice).await);
    assert!(texts.len() > 12, "{}", texts.len());
    for text in texts.iter().map(ToString::to_string) {
        assert!(text.len() < 1000 && !text.contains(['\n', '\u{1b}']), "{text}");
    }
}

/// A JSON value takes much more memory than its text, so a message may have only so many.
#[tokio::test]
async fn too_many_json_values_are_refused_in_each_layer() {
    let people = People::new().await;
    let text = |values: usize| {
        let mut text = people.plaintext();
        text["body"]["x"] = vec![1; values].into();
        text.to_string()
    };
    let keys = people.keys_of_bob(&[1]);
    people.opened(&Jwe::anoncrypt(&keys).seal(text(19_000)).to_string()).await;
    let inner = Jwe::anoncrypt(&keys).seal(text(20_001)).to_string();
    let mut outer = Jwe::anoncrypt(&keys).seal("{}");
    outer["x"] = vec![1; 20_001].into();
    let mut header = Jwe::anoncrypt(&keys);
    header.header["x"] = vec![1; 1001].into();
    for packed in [inner, outer.to_string(), header.seal("{}").to_string(), text(20_001)] {
        let error = people.refused(&packed).await;
        assert!(
            matches!(&error, Error::Envelope(JoseError::Json { reason, .. }) if reason.contains("values")),
            "{error}"
        );
    }
}
