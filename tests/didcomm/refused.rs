//! What `Message::unpack_or_refuse` returns of a message that was opened and is refused.

use crate::support::{
    LUNCH, People, Person,
    forge::{Jwe, jwt, signed},
};
use claviger::{
    didcomm::{Error, Message, RefusedMessage, UnpackOptions},
    keys::Curve,
};
use serde_json::{Value, json};

async fn refusal(people: &People, packed: impl ToString) -> (Error, Option<Box<RefusedMessage>>) {
    let (options, packed) = (UnpackOptions::default(), packed.to_string());
    Message::unpack_or_refuse(&packed, &people.resolver, &people.bob.identities, &options).await.unwrap_err()
}

/// A message of Alice's to Mallory, which asks for a return route.
fn to_mallory(people: &People) -> Value {
    let mut text = people.plaintext();
    text["to"] = json!([people.mallory.did]);
    text["return_route"] = "all".into();
    text
}

/// Mallory encrypts to Bob what Alice signed for her. Nothing shows that Alice sent it to Bob.
#[tokio::test]
async fn what_another_did_signed_is_not_reported() {
    let people = People::new().await;
    let bob = people.keys_of_bob(&[1]);
    let (mallory, anyone) = (Jwe::authcrypt(&people.mallory, &bob), Jwe::anoncrypt(&bob));
    for mut text in [to_mallory(&people), people.plaintext()] {
        text["return_route"] = "all".into();
        let of_alice = signed(&people.alice, text.to_string()).to_string();
        let (error, refused) = refusal(&people, mallory.seal(&of_alice)).await;
        assert_error!(error, Error::FromMismatch { .. });
        assert!(refused.is_none(), "{refused:?}");
        let hidden = anyone.seal(mallory.seal(&of_alice).to_string());
        assert!(refusal(&people, hidden).await.1.is_none());
    }
    let of_alice = signed(&people.alice, to_mallory(&people).to_string()).to_string();
    let (error, refused) = refusal(&people, anyone.seal(&of_alice)).await;
    assert_error!(error, Error::ToMismatch { .. });
    assert!(refused.is_none(), "{refused:?}");
    let mut bad = people.plaintext();
    bad["created_time"] = "yesterday".into();
    let of_alice = signed(&people.alice, bad.to_string()).to_string();
    for packed in [of_alice.clone(), anyone.seal(&of_alice).to_string()] {
        assert!(refusal(&people, packed).await.1.is_none());
    }
}

#[tokio::test]
async fn what_its_sender_authcrypts_is_reported_to_it() {
    let people = People::new().await;
    let alice = Jwe::authcrypt(&people.alice, &people.keys_of_bob(&[1]));
    let anyone = Jwe::anoncrypt(&people.keys_of_bob(&[1]));
    let mut text = people.plaintext();
    text["created_time"] = "yesterday".into();
    let text = text.to_string();
    let of_alice = signed(&people.alice, &text).to_string();
    let hidden = anyone.seal(alice.seal(&text).to_string());
    for packed in [alice.seal(&text), alice.seal(&of_alice), hidden] {
        let refused = refusal(&people, packed).await.1.unwrap();
        assert_eq!((refused.header, refused.message.from), ("created_time", Some(people.alice.did.clone())));
    }
    // Whoever it claims to be, the report goes to who encrypted it.
    let mallory = Jwe::authcrypt(&people.mallory, &people.keys_of_bob(&[1])).seal(people.plaintext().to_string());
    let refused = refusal(&people, mallory).await.1.unwrap();
    assert_eq!((refused.header, refused.message.from), ("from", Some(people.mallory.did.clone())));
}

/// Otherwise a peer could ask us about hosts of our network, by the issuers that it names.
#[tokio::test]
async fn a_from_prior_whose_issuer_does_not_resolve_is_not_reported() {
    let people = People::new().await;
    let former = Person::new("former", &[], &[Curve::Ed25519]).await;
    let packed = |issuer: &Person, kid: &str, iss: &str| {
        let header = json!({"typ": "JWT", "alg": "EdDSA", "kid": kid});
        let claims = json!({"iss": iss, "sub": people.alice.did, "iat": 1});
        let mut text = people.plaintext();
        text["from_prior"] = jwt(issuer, &issuer.sign[0], &header, &claims).into();
        assert_eq!(text["type"], LUNCH);
        Jwe::authcrypt(&people.alice, &people.keys_of_bob(&[1])).seal(text.to_string())
    };
    for iss in [&*former.did, "did:web:127.0.0.1", "did:web:nobody.example"] {
        let (error, refused) = refusal(&people, packed(&former, &format!("{iss}#sign-1"), iss)).await;
        assert_error!(error, Error::Resolve(_));
        assert!(refused.is_none(), "{refused:?}");
    }
    // The document is there, and has no such key.
    let mallory = &people.mallory;
    let refused = refusal(&people, packed(mallory, &mallory.kid("sign-9"), &mallory.did)).await.1.unwrap();
    assert_eq!((refused.header, &*refused.reason), ("from_prior", "its key cannot be used"));
}
