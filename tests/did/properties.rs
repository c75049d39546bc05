//! Property tests: DIDs and documents from any keys, and parsers on any input from peers.

use claviger::{
    did::{
        DidUrl, Document, LocalResolver, Relationship, Resolver, Service, did_of, is_did, key,
        peer::{create_2, create_4, short_form},
    },
    keys::{Curve, PublicKey},
};
use proptest::{prelude::*, sample::select};
use serde_json::Value;

fn resolve(did: &str) -> Option<Document> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(LocalResolver::new().resolve(did)).ok().map(|document| (*document).clone())
}

/// A key on any curve. About half of all numbers are coordinates of a point.
fn any_key() -> impl Strategy<Value = PublicKey> {
    (select(Curve::ALL.to_vec()), prop::collection::vec(any::<u8>(), 66), any::<bool>()).prop_filter_map(
        "not a point",
        |(curve, mut bytes, odd)| {
            let length = curve.coordinate_length();
            bytes.truncate(length);
            match curve {
                Curve::X25519 | Curve::Ed25519 => return PublicKey::from_bytes(curve, &bytes).ok(),
                Curve::P521 => bytes[0] &= 1,
                _ => {}
            }
            bytes.insert(0, 2 + u8::from(odd));
            PublicKey::from_bytes(curve, &bytes).ok()
        },
    )
}

fn any_keys() -> impl Strategy<Value = Vec<(Relationship, PublicKey)>> {
    prop::collection::vec((select(Relationship::ALL.to_vec()), any_key()), 1..6)
}

fn any_service() -> impl Strategy<Value = Service> {
    ("(https://|did:e:)[a-z]{1,9}", prop::collection::vec("did:e:[a-z]{1,9}#k", 0..3))
        .prop_map(|(uri, routing_keys)| Service::didcomm(uri, routing_keys))
}

fn any_json() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        ".{0,9}",
        select(vec![
            "did:e:a",
            "#k",
            "did:e:a#k",
            "Multikey",
            "z6MkqRYqQiSgvZQdnBytw86Qbs2ZWUkGv22od935YF4s8M7V",
            "EC",
            "P-256",
            "dm"
        ])
        .prop_map(str::to_owned)
    ];
    let name = prop_oneof![
        ".{0,5}",
        select(vec![
            "id",
            "type",
            "controller",
            "verificationMethod",
            "keyAgreement",
            "authentication",
            "service",
            "serviceEndpoint",
            "uri",
            "routingKeys",
            "accept",
            "publicKeyJwk",
            "publicKeyMultibase",
            "publicKeyBase58",
            "publicKeyHex",
            "publicKeyBase64",
            "publicKey",
            "owner",
            "kty",
            "crv",
            "x",
            "y",
            "alsoKnownAs",
            "t",
            "s"
        ])
        .prop_map(str::to_owned)
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        text.prop_map(Value::from)
    ];
    leaf.prop_recursive(5, 60, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..8)
                .prop_map(|members| Value::Object(members.into_iter().collect()))
        ]
    })
}

proptest! {
    #[test]
    fn did_keys_resolve_to_their_document(key in any_key()) {
        let document = key::create(&key);
        prop_assert_eq!(resolve(document.id()), Some(document.clone()));
        let signs = key.curve() != Curve::X25519;
        let relationship = if signs { Relationship::Authentication } else { Relationship::KeyAgreement };
        prop_assert_eq!(document.methods(relationship).next().unwrap().key.as_ref(), Ok(&key));
    }

    #[test]
    fn did_peer_2_resolve_to_their_document(keys in any_keys(), services in prop::collection::vec(any_service(), 0..4)) {
        let document = create_2(&keys, &services).unwrap();
        prop_assert!(is_did(document.id()));
        prop_assert_eq!(resolve(document.id()), Some(document.clone()));
        for (number, (relationship, key)) in keys.iter().enumerate() {
            let id = format!("{}#key-{}", document.id(), number + 1);
            prop_assert_eq!(document.method(&id, *relationship).unwrap().key.as_ref(), Ok(key));
        }
        let endpoints = |services: &[Service]| services.iter().flat_map(|one| one.endpoints.clone()).collect::<Vec<_>>();
        prop_assert_eq!(endpoints(document.services()), endpoints(&services));
    }

    #[test]
    fn did_peer_4_resolve_to_their_document(keys in any_keys(), service in any_service()) {
        let mut builder = Document::builder().service(service);
        for (number, (relationship, key)) in keys.iter().enumerate() {
            builder = builder.method(&format!("k{number}"), key, &[*relationship]);
        }
        let made = create_4(&builder.input()).unwrap();
        prop_assert!(is_did(made.long.id()));
        prop_assert_eq!(short_form(made.long.id()), Some(made.short.id()));
        prop_assert_eq!(resolve(made.long.id()), Some(made.long.clone()));
        for (number, (relationship, key)) in keys.iter().enumerate() {
            let id = format!("{}#k{number}", made.short.id());
            prop_assert_eq!(made.long.method(&id, *relationship).unwrap().key.as_ref(), Ok(key));
        }
    }

    #[test]
    fn no_text_panics(text in ".*", tail in "(did:)?(key:|peer:[0-9])?[.:#/?%SEVzZ1-9A-Za-z]{0,60}") {
        for text in [&text, &tail, &format!("did:peer:2.S{tail}"), &format!("did:peer:4{tail}"), &format!("did:key:z{tail}")] {
            let did = did_of(text);
            prop_assert_eq!(DidUrl::parse(text).ok().map(|url| url.did().to_owned()), did.map(str::to_owned));
            prop_assert!(did.is_none_or(is_did));
            short_form(text);
            if let Some(document) = resolve(text) {
                prop_assert_eq!(document.id(), text);
            }
        }
    }

    #[test]
    fn no_document_panics(value in any_json(), text in "did:e:a(#.{0,5})?") {
        let mut value = value;
        if let Value::Object(members) = &mut value {
            members.insert("id".into(), "did:e:a".into());
        }
        if let Ok(document) = Document::from_value(value.clone()) {
            prop_assert_eq!(document.as_value(), &value);
            for relationship in Relationship::ALL {
                for method in document.methods(relationship) {
                    prop_assert_eq!(document.method(&method.id, relationship), Some(method));
                }
                document.method(&text, relationship);
            }
            document.didcomm_services().count();
            for part in document.unused_parts() {
                prop_assert!(part.to_string().len() < 2000);
            }
        }
        let _ = Document::from_json(value.to_string().as_bytes());
        if let Value::Object(members) = &mut value {
            members.shift_remove("id");
        }
        if let Ok(made) = create_4(&value) {
            prop_assert_eq!(resolve(made.long.id()), Some(made.long));
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Document::from_json(&bytes);
    }
}
