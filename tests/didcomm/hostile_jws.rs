//! Signed messages with valid signatures that prove nothing: by a key of another DID or relationship, for another
//! purpose, or for another recipient. Each is refused with its own error. A key id of another DID is never resolved.

use crate::support::{
    People,
    forge::{Jwe, b64, jws, jws_header, signed},
};
use claviger::{
    did::Relationship,
    didcomm::{Error, Message, MessageError, UnpackOptions},
    jose::JoseError,
    keys::Curve,
};
use serde_json::{Value, json};

// Conformance 48, 49, 51.
#[tokio::test]
async fn an_honest_forgery_opens() {
    let people = People::new().await;
    let text = people.plaintext().to_string();
    for number in 1..=3 {
        let key = &people.alice.sign[number - 1];
        let kid = json!({"kid": people.alice.kid(&format!("sign-{number}"))});
        let header = jws_header(key.curve());
        let mut protected = header.clone();
        protected["kid"] = kid["kid"].clone();
        let general = jws(&people.alice, key, &header, &kid, &text);
        let mut flattened = general["signatures"][0].clone();
        flattened["payload"] = general["payload"].clone();
        for packed in [
            general,
            flattened,
            jws(&people.alice, key, &protected, &json!({}), &text),
            // Affinidi's library writes `kid` in both headers.
            jws(&people.alice, key, &protected, &kid, &text),
        ] {
            let (_, provenance) = people.opened(packed).await;
            assert!(provenance.authenticated && provenance.non_repudiation && !provenance.encrypted);
        }
    }
}

#[tokio::test]
async fn unsupported_signature_algorithms_are_refused() {
    let people = People::new().await;
    for alg in ["none", "None", "HS256", "RS256", "PS256", "ES384", "ES512", "Ed25519", "eddsa", ""] {
        let error = people.refused_without_token_and_resolver(with_header(&people, "alg", alg.into())).await;
        assert_error!(error, Error::Envelope(JoseError::UnsupportedAlgorithm(name)) if name == alg);
    }
    // An empty signature, which `none` has, is refused too.
    let mut packed = with_header(&people, "alg", "none".into());
    packed["signatures"][0]["signature"] = "".into();
    assert_error!(
        people.refused_without_token_and_resolver(packed).await,
        Error::Envelope(JoseError::UnsupportedAlgorithm(_))
    );
}

/// A key has one algorithm, whatever the header says.
#[tokio::test]
async fn the_algorithm_must_fit_the_key() {
    let people = People::new().await;
    for alg in ["ES256", "ES256K"] {
        let error = people.refused(with_header(&people, "alg", alg.into())).await;
        assert_error!(error, Error::Envelope(JoseError::AlgorithmMismatch { curve: Curve::Ed25519, .. }));
    }
}

#[tokio::test]
async fn extensions_are_refused_in_both_headers() {
    let people = People::new().await;
    for (name, value) in
        [("crit", json!(["exp"])), ("crit", json!(["b64"])), ("b64", json!(false)), ("zip", json!("DEF"))]
    {
        let mut unprotected = signed(&people.alice, people.plaintext().to_string());
        unprotected["signatures"][0]["header"][name] = value.clone();
        for packed in [with_header(&people, name, value), unprotected] {
            let error = people.refused_without_token_and_resolver(packed).await;
            assert_error!(error, Error::Envelope(JoseError::RefusedParameter(refused)) if refused == name);
        }
    }
}

#[tokio::test]
async fn duplicate_header_parameters_are_refused() {
    let people = People::new().await;
    // Two different `kid` would name two signers.
    let error =
        people.refused_without_token_and_resolver(with_header(&people, "kid", people.alice.kid("sign-2").into())).await;
    assert_error!(error, Error::Envelope(JoseError::DuplicateParameter(name)) if name == "kid");
    for name in ["alg", "typ"] {
        let mut packed = signed(&people.alice, people.plaintext().to_string());
        packed["signatures"][0]["header"][name] = jws_header(Curve::Ed25519)[name].clone();
        let error = people.refused_without_token_and_resolver(packed).await;
        assert_error!(error, Error::Envelope(JoseError::DuplicateParameter(found)) if found == name);
    }
    // A parameter is refused in the unprotected header alone, too.
    let kid = json!({"kid": people.alice.kid("sign-1"), "alg": "EdDSA"});
    let packed = jws(&people.alice, &people.alice.sign[0], &json!({}), &kid, people.plaintext().to_string());
    let error = people.refused_without_token_and_resolver(packed).await;
    assert_eq!(
        error.to_string(),
        "the header parameter `alg` is in the signature's unprotected `header`; DIDComm wants it in `protected`"
    );
    let packed = jws(
        &people.alice,
        &people.alice.sign[0],
        &jws_header(Curve::Ed25519),
        &json!({}),
        people.plaintext().to_string(),
    );
    let error = people.refused_without_token_and_resolver(packed).await;
    assert_error!(error, Error::Envelope(JoseError::Missing("kid")));
}

#[tokio::test]
async fn exactly_one_signature_is_required() {
    let people = People::new().await;
    let honest = signed(&people.alice, people.plaintext().to_string());
    for count in [0, 2, 3] {
        let mut packed = honest.clone();
        packed["signatures"] = vec![honest["signatures"][0].clone(); count].into();
        let error = people.refused_without_token_and_resolver(packed).await;
        assert_error!(error, Error::Envelope(JoseError::SignatureCount(found)) if *found == count);
    }
    // General and flattened JSON at once.
    let mut packed = honest.clone();
    packed["signature"] = honest["signatures"][0]["signature"].clone();
    let error = people.refused_without_token_and_resolver(packed).await;
    assert_error!(error, Error::Envelope(JoseError::DuplicateParameter(name)) if name == "signature");
    // DIDComm does not use the compact serialization.
    let part = |pointer| honest.pointer(pointer).unwrap().as_str().unwrap();
    let compact = [part("/signatures/0/protected"), part("/payload"), part("/signatures/0/signature")].join(".");
    let error = people.refused_without_token_and_resolver(compact).await;
    assert_error!(error, Error::Envelope(JoseError::Serialization("JWS Compact Serialization")));
}

#[tokio::test]
async fn lax_base64_and_lengths_are_refused() {
    let people = People::new().await;
    let honest = signed(&people.alice, people.plaintext().to_string());
    for (name, pointer) in
        [("protected", "/signatures/0/protected"), ("payload", "/payload"), ("signature", "/signatures/0/signature")]
    {
        for suffix in ["=", "==", "\n", "+", "."] {
            let mut packed = honest.clone();
            let value = packed.pointer_mut(pointer).unwrap();
            *value = format!("{}{suffix}", value.as_str().unwrap()).into();
            let error = people.refused_without_token_and_resolver(packed).await;
            assert_error!(error, Error::Envelope(JoseError::InvalidBase64(found)) if *found == name);
        }
    }
    for length in [0, 63, 65, 70] {
        let mut packed = honest.clone();
        packed["signatures"][0]["signature"] = b64(vec![1; length]).into();
        let error = people.refused_without_token_and_resolver(packed).await;
        assert_error!(error, Error::Envelope(JoseError::InvalidLength("signature")));
    }
}

// Conformance 50, 51, 56: any relay can write the key id, so `from` is checked before the key id is resolved.
#[tokio::test]
async fn a_kid_of_another_did_is_refused_before_resolution() {
    let people = People::new().await;
    let text = people.plaintext().to_string();
    let header = jws_header(Curve::Ed25519);
    let mallory = (&people.mallory, &people.mallory.sign[0]);
    for kid in ["did:example:mallory#sign-1", "did:web:169.254.169.254#sign-1", "did:example:alice2#sign-1"] {
        let packed = jws(mallory.0, mallory.1, &header, &json!({"kid": kid}), &text);
        let error = people.refused_without_token_and_resolver(packed).await;
        assert_error!(error, Error::FromMismatch { from, kid: found } if from == "did:example:alice" && found == kid);
    }
    for kid in ["https://example.org/key", "#sign-1", "did:example:alice#a#b", ""] {
        let packed = jws(mallory.0, mallory.1, &header, &json!({"kid": kid}), &text);
        assert_error!(people.refused_without_token_and_resolver(packed).await, Error::InvalidKeyId(found) if found == kid);
    }
    // Alice's key id with Mallory's signature: it is resolved, and the signature is wrong.
    let packed = jws(mallory.0, mallory.1, &header, &json!({"kid": people.alice.kid("sign-1")}), &text);
    assert_error!(people.refused(packed).await, Error::Envelope(JoseError::InvalidSignature));
}

// Conformance 50.
#[tokio::test]
async fn a_signed_message_needs_from() {
    let people = People::new().await;
    let mut text = people.plaintext();
    for from in [None, Some(Value::Null), Some(json!(["did:example:alice"]))] {
        text.as_object_mut().unwrap().shift_remove("from");
        if let Some(from) = from {
            text["from"] = from;
        }
        let error = people.refused_without_token_and_resolver(signed(&people.alice, text.to_string())).await;
        assert_error!(error, Error::FromAbsent(kid) if *kid == people.alice.kid("sign-1"));
    }
}

// Conformance 50, 57.
#[tokio::test]
async fn the_signers_key_must_be_in_authentication() {
    let people = People::new().await;
    // A P-256 key could sign, but is in Alice's document for key agreement only.
    let (kid, key) = (people.alice.kid("agree-3"), &people.alice.agree[2]);
    let text = people.plaintext().to_string();
    let packed = jws(&people.alice, key, &jws_header(key.curve()), &json!({"kid": kid}), text);
    let error = people.refused(packed).await;
    assert_error!(
        error,
        Error::NotAuthorised { kid: found, relationship: Relationship::Authentication } if *found == kid
    );
}

// Conformance 7: the inner signer is the authcrypt sender.
#[tokio::test]
async fn signer_and_sender_must_be_the_same() {
    let people = People::new().await;
    let to = people.keys_of_bob(&[1]);
    let alices = signed(&people.alice, people.plaintext().to_string()).to_string();
    assert!(people.opened(Jwe::authcrypt(&people.alice, &to).seal(&alices)).await.1.non_repudiation);

    // Mallory authcrypts what Alice signed.
    let error = people.refused(Jwe::authcrypt(&people.mallory, &to).seal(&alices)).await;
    assert_error!(error, Error::FromMismatch { from, kid } if from == "did:example:alice" && *kid == people.mallory.kid("agree-1"));
    // The other way round.
    let mallorys = signed(&people.mallory, people.plaintext().to_string()).to_string();
    let error = people.refused(Jwe::authcrypt(&people.alice, &to).seal(mallorys)).await;
    assert_error!(error, Error::FromMismatch { from, kid } if from == "did:example:alice" && *kid == people.mallory.kid("sign-1"));
}

// Conformance 52: otherwise Bob could encrypt to Carol what Alice signed for him, and Carol would believe that Alice
// wrote it to her.
#[tokio::test]
async fn a_signed_message_for_another_recipient_is_refused() {
    let people = People::new().await;
    let mut text = people.plaintext();
    text["to"] = json!(["did:example:mallory"]);
    let packed = Jwe::anoncrypt(&people.keys_of_bob(&[1])).seal(signed(&people.alice, text.to_string()).to_string());
    assert_error!(people.refused(packed).await, Error::ToMismatch { .. });

    text.as_object_mut().unwrap().shift_remove("to");
    let packed = signed(&people.alice, text.to_string()).to_string();
    for jwe in [Jwe::anoncrypt(&people.keys_of_bob(&[1])), Jwe::authcrypt(&people.alice, &people.keys_of_bob(&[1]))] {
        assert_error!(people.refused(jwe.seal(&packed)).await, Error::ToAbsent);
    }
    people.opened(packed).await;
}

/// A signed JWT is refused as a message, even if it has all members of one.
#[tokio::test]
async fn a_jwt_is_refused_as_signed_message() {
    let people = People::new().await;
    for typ in ["JWT", "jwt", "application/jwt"] {
        let error = people.refused_without_token_and_resolver(with_header(&people, "typ", typ.into())).await;
        assert_error!(error, Error::Envelope(JoseError::RefusedParameter(name)) if name == "typ");
    }
    // Conformance 5: other values of `typ` are only a hint, such as the one in the specification's example.
    for typ in ["JWM", "application/didcomm-signed+json", "didcomm-signed+json", "x"] {
        people.opened(with_header(&people, "typ", typ.into())).await;
    }
}

// Conformance 12.
#[tokio::test]
async fn the_signed_payload_must_be_a_message() {
    let people = People::new().await;
    let error =
        people.refused(signed(&people.alice, r#"{"from":"did:example:alice","type":"https://e.org/a/1/b"}"#)).await;
    assert_error!(error, Error::Message(MessageError::NoId));
    for text in ["", "[]", "null", r#"{"from":"did:example:alice","from":"did:example:alice"}"#] {
        let error = people.refused_without_token_and_resolver(signed(&people.alice, text)).await;
        assert_error!(error, Error::Envelope(JoseError::Json { name: "payload", .. }));
    }
}

/// The payload or the protected header was changed after the signature was made.
#[tokio::test]
async fn a_changed_payload_is_refused() {
    let people = People::new().await;
    let mut text = people.plaintext();
    let honest = signed(&people.alice, text.to_string());
    text["body"]["at"] = "midnight".into();
    let mut packed = honest.clone();
    packed["payload"] = b64(text.to_string()).into();
    let resolver = &people.resolver;
    let opened =
        Message::unpack(&packed.to_string(), resolver, &people.bob.identities, &UnpackOptions::default()).await;
    assert_error!(opened.unwrap_err(), Error::Envelope(JoseError::InvalidSignature));
    let mut packed = honest;
    packed["signatures"][0]["protected"] = b64(r#"{"alg":"EdDSA"}"#).into();
    assert_error!(people.refused(packed).await, Error::Envelope(JoseError::InvalidSignature));
}

/// A message that Alice signs with her first key, with this member added or changed in the protected header.
fn with_header(people: &People, name: &str, value: Value) -> Value {
    let mut protected = jws_header(Curve::Ed25519);
    protected[name] = value;
    let kid = json!({"kid": people.alice.kid("sign-1")});
    jws(&people.alice, &people.alice.sign[0], &protected, &kid, people.plaintext().to_string())
}
