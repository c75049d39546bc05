//! did:key and did:peer against the examples of their specifications.

use std::sync::Arc;

use claviger::{
    did::{
        Document, LocalResolver, Relationship, ResolveError, Resolver, Service,
        key::{self, derived_key_agreement},
        peer::{PeerError, create_2, create_4, short_form},
    },
    keys::{Curve, Jwk, KeyError, PublicKey},
};
use serde_json::{Value, json};

fn vectors(json: &str) -> Value {
    serde_json::from_str(json).unwrap()
}

async fn resolve(did: &str) -> Result<Arc<Document>, ResolveError> {
    LocalResolver::new().resolve(did).await
}

fn ids(document: &Document, relationship: Relationship) -> Vec<&str> {
    document.methods(relationship).map(|method| method.id.as_str()).collect()
}

#[tokio::test]
async fn did_key_of_every_curve() {
    let vectors = vectors(include_str!("../vectors/did/key.json"));
    for (curve, dids) in vectors["dids"].as_object().unwrap() {
        let curve: Curve = curve.parse().unwrap();
        for did in dids.as_array().unwrap() {
            let did = did.as_str().unwrap();
            let document = resolve(did).await.unwrap();
            let key = PublicKey::from_multikey(&did[8..]).unwrap();
            assert_eq!((document.id(), key.curve()), (did, curve));
            assert_eq!(key::create(&key), *document);
            let own = format!("{did}#{}", &did[8..]);
            let agreement: Vec<_> = document.methods(Relationship::KeyAgreement).collect();
            match curve {
                Curve::Secp256k1 => assert!(agreement.is_empty()),
                Curve::Ed25519 => assert_eq!(agreement[0].key.as_ref().unwrap().curve(), Curve::X25519),
                _ => assert_eq!((agreement.len(), &agreement[0].id), (1, &own)),
            }
            let signs = document.method(&own, Relationship::Authentication);
            assert_eq!(signs.is_some(), curve != Curve::X25519);
        }
    }
    for did in vectors["unsupported"].as_array().unwrap() {
        let error = resolve(did.as_str().unwrap()).await.unwrap_err();
        assert!(matches!(error, ResolveError::Key { source: KeyError::Unsupported(_), .. }), "{error}");
    }
}

/// conformance.md 111: peers derive this key, and no token holds it.
#[tokio::test]
async fn an_ed25519_did_key_has_the_derived_x25519_key() {
    let vectors = vectors(include_str!("../vectors/did/key.json"));
    let key = |curve: &str| {
        let jwk: Jwk = serde_json::from_value(vectors["derived"][curve].clone()).unwrap();
        PublicKey::from_jwk(&jwk).unwrap()
    };
    let derived = derived_key_agreement(&key("Ed25519")).unwrap();
    assert_eq!(derived, key("X25519"));
    assert_eq!(derived.to_multikey(), vectors["derived"]["fragment"]);
    assert_eq!(derived_key_agreement(&derived), None);

    let example = &vectors["document"];
    let document = resolve(example["did"].as_str().unwrap()).await.unwrap();
    assert_eq!(ids(&document, Relationship::KeyAgreement), [example["agrees"].as_str().unwrap()]);
    for relationship in Relationship::ALL.into_iter().filter(|one| *one != Relationship::KeyAgreement) {
        assert_eq!(ids(&document, relationship), [example["signs"].as_str().unwrap()]);
    }
    let signs = example["signs"].as_str().unwrap();
    assert!(document.method(signs, Relationship::KeyAgreement).is_none());
}

#[tokio::test]
async fn only_the_canonical_did_key_resolves() {
    let key = PublicKey::from_multikey("zDnaerDaTF5BXEavCrfRZEk316dpbLsfPDZ3WJ5hRTPFU2169").unwrap();
    let uncompressed = bs58::encode([&[0x80, 0x24], key.as_bytes()].concat()).into_string();
    assert!(matches!(resolve(&format!("did:key:z{uncompressed}")).await, Err(ResolveError::Key { .. })));
    for did in ["did:key:", "did:key:z", "did:key:6Mk", "did:key:z6Mk!", "did:key", "key", ""] {
        assert!(resolve(did).await.is_err(), "{did}");
    }
    let long = format!("did:key:z{}", "2".repeat(1_000_000));
    let error = resolve(&long).await.unwrap_err();
    assert!(error.to_string().len() < 200, "a stranger's DID stands shortened in the error");
}

#[tokio::test]
async fn did_peer_0_is_a_did_key() {
    let multikey = "z6MkpTHR8VNsBxYAAWHut2Geadd9jSwuBV8xRoAnwWsdvktH";
    let key = resolve(&format!("did:key:{multikey}")).await.unwrap();
    let peer = resolve(&format!("did:peer:0{multikey}")).await.unwrap();
    let text = key.as_value().to_string().replace("did:key:", "did:peer:0");
    assert_eq!(*peer.as_value(), serde_json::from_str::<Value>(&text).unwrap());
    let legacy = format!("{}#{}", peer.id(), &multikey[1..]);
    assert!(peer.method(&legacy, Relationship::Authentication).is_some());
    assert!(peer.method(&legacy, Relationship::KeyAgreement).is_none());
}

/// conformance.md 109.
#[tokio::test]
async fn did_peer_2_of_the_specification() {
    let vectors = vectors(include_str!("../vectors/did/peer-2.json"));
    let did = vectors["did"].as_str().unwrap();
    let document = resolve(did).await.unwrap();
    let mut expected = vectors["document"].clone();
    // `alsoKnownAs` is optional. The example has a did:peer:3 there, which is not supported.
    expected.as_object_mut().unwrap().shift_remove("alsoKnownAs").unwrap();
    assert_eq!(*document.as_value(), expected);
    assert_eq!(ids(&document, Relationship::Authentication), [format!("{did}#key-1")]);
    assert_eq!(ids(&document, Relationship::KeyAgreement), [format!("{did}#key-2")]);
    let services: Vec<_> = document.didcomm_services().collect();
    assert_eq!(services[0].id, format!("{did}#service"));
    assert_eq!(services[1].id, format!("{did}#service-1"));
    assert_eq!(services[1].endpoints[0].uri, "http://example.com/another");
    assert_eq!(services[1].endpoints[0].routing_keys, ["did:example:123456789abcdefghi#key-2"]);
    assert!(services[0].endpoints[0].accepts_v2());
}

#[tokio::test]
async fn did_peer_2_of_older_libraries() {
    let vectors = vectors(include_str!("../vectors/did/peer-2.json"));
    let did = vectors["legacy"]["did"].as_str().unwrap();
    let document = resolve(did).await.unwrap();
    let endpoint = &document.didcomm_services().next().unwrap().endpoints[0];
    assert_eq!(endpoint.uri, "https://example.com/endpoint");
    assert_eq!(endpoint.routing_keys, ["did:example:somemediator#somekey"]);
    assert_eq!(endpoint.accept.as_deref().unwrap(), ["didcomm/v2", "didcomm/aip2;env=rfc587"]);
    for fragment in ["6LSbysY2", "6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc", "key-1"] {
        let id = format!("{did}#{fragment}");
        let method = document.method(&id, Relationship::KeyAgreement).unwrap();
        assert_eq!(method.id, format!("{did}#key-1"));
        assert!(document.method(&id, Relationship::Authentication).is_none());
    }
    for fragment in ["6LSbysY", "6LSbysY2x", "", "6MkqRYqQ"] {
        assert!(document.method(&format!("{did}#{fragment}"), Relationship::KeyAgreement).is_none());
    }

    let services = r#"[{"t":"dm","s":"https://a.example","r":[]},{"t":["dm"],"s":[{"uri":"https://b.example"}]}]"#;
    let key = "Ez6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc";
    let encoded = base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, services);
    let document = resolve(&format!("did:peer:2.{key}.S{encoded}")).await.unwrap();
    let uris: Vec<_> = document.didcomm_services().map(|service| service.endpoints[0].uri.as_str()).collect();
    assert_eq!(uris, ["https://a.example", "https://b.example"]);
}

#[tokio::test]
async fn create_2_makes_a_did_peer_2() {
    let sign = PublicKey::from_multikey("z6Mkj3PUd1WjvaDhNZhhhXQdz5UnZXmS7ehtx8bsPpD47kKc").unwrap();
    let agree = PublicKey::from_multikey("z6LSg8zQom395jKLrGiBNruB9MM6V8PWuf2FpEy4uRFiqQBR").unwrap();
    let keys = [(Relationship::Authentication, sign.clone()), (Relationship::KeyAgreement, agree)];
    let services = [
        Service::didcomm("https://example.com", ["did:example:mediator#k".to_owned()]),
        Service { id: "#files".into(), kind: vec!["Files".into()], endpoints: vec![] },
        Service::didcomm("did:example:mediator", []),
    ];
    let document = create_2(&keys, &services).unwrap();
    assert!(document.id().starts_with("did:peer:2.Vz6Mkj3PUd1WjvaDhNZhhhXQdz5UnZXmS7ehtx8bsPpD47kKc.Ez6LSg8z"));
    assert_eq!(*resolve(document.id()).await.unwrap(), document);
    let ids: Vec<_> = document.services().iter().map(|service| service.id.split_once('#').unwrap().1).collect();
    assert_eq!(ids, ["service", "files", "service-1"]);
    // The default id of the first service is left out, also if it is given. The ids of the others are written.
    let explicit = Service { id: "#service".into(), ..services[0].clone() };
    assert_eq!(create_2(&keys, &[explicit, services[1].clone(), services[2].clone()]).unwrap(), document);
    let written: Vec<_> = services_in(document.id()).iter().map(|service| service["id"].clone()).collect();
    assert_eq!(written, [Value::Null, json!("#files"), json!("#service-1")]);
    let files_first = create_2(&keys, &[services[1].clone(), services[0].clone()]).unwrap();
    let written: Vec<_> = services_in(files_first.id()).iter().map(|service| service["id"].clone()).collect();
    assert_eq!(written, [json!("#files"), json!("#service")]);
    assert_eq!(document.services()[0].endpoints, services[0].endpoints);

    assert!(matches!(create_2(&[], &[]), Err(PeerError::Input(_))));
    let absolute = Service { id: "did:example:a#s".into(), ..Service::default() };
    assert!(matches!(create_2(&keys, &[absolute]), Err(PeerError::Input(_))));
    let many = vec![(Relationship::Authentication, sign); 101];
    assert!(matches!(create_2(&many, &[]), Err(PeerError::Document(_))));
}

/// The services in a did:peer:2, as they are written.
fn services_in(did: &str) -> Vec<Value> {
    let elements = did.split('.').filter_map(|element| element.strip_prefix('S'));
    let decode = |text| base64::Engine::decode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, text).unwrap();
    elements.map(|element| serde_json::from_slice(&decode(element)).unwrap()).collect()
}

/// The patterns of peerdid 0.5.2, @aviarytech/did-peer 0.0.22, Veramo 7.0.1 and Credo 0.7.0 have no `-` and no `_`.
#[tokio::test]
async fn the_services_of_a_did_peer_2_are_letters_and_digits() {
    let agree = PublicKey::from_multikey("z6LSg8zQom395jKLrGiBNruB9MM6V8PWuf2FpEy4uRFiqQBR").unwrap();
    for uri in [
        "https://example.com/~a?b=c>d",
        "https://example.com/~ab?b=c>d",
        "https://example.com/~abc?b=c>d",
        "ws://é\u{1F511}",
    ] {
        let service = Service::didcomm(uri, ["did:example:mediator?x=~#k".to_owned()]);
        let document = create_2(&[(Relationship::KeyAgreement, agree.clone())], &[service]).unwrap();
        assert!(document.id()["did:peer:2.".len()..].bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.'));
        let endpoint = &document.services()[0].endpoints[0];
        assert_eq!((endpoint.uri.as_str(), endpoint.routing_keys[0].as_str()), (uri, "did:example:mediator?x=~#k"));
        assert_eq!(*resolve(document.id()).await.unwrap(), document);
    }
}

/// Every spelling of base64 is read, if the DID is valid: `=`, `+` and `/` are percent-encoded.
#[tokio::test]
async fn the_services_of_a_did_peer_2_are_read_in_every_spelling() {
    let key = "Ez6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc";
    let service = r#"{"t":"dm","s":{"uri":"https://a.example/?>~"}}"#;
    let encoded = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, service);
    assert!(encoded.contains('=') && encoded.contains(['+', '/']), "{encoded}");
    let url_safe = encoded.replace('+', "-").replace('/', "_");
    let percent = |text: &str| text.replace('+', "%2B").replace('/', "%2f").replace('=', "%3D");
    for encoded in [
        url_safe.trim_end_matches('='),
        &percent(&url_safe),
        &percent(&encoded),
        percent(encoded.trim_end_matches('=')).as_str(),
    ] {
        let document = resolve(&format!("did:peer:2.{key}.S{encoded}")).await.unwrap();
        assert_eq!(document.services()[0].endpoints[0].uri, "https://a.example/?>~", "{encoded}");
    }
    // A DID has no `=` (DID Core section 3.1).
    let error = resolve(&format!("did:peer:2.{key}.S{url_safe}")).await.unwrap_err();
    assert!(matches!(error, ResolveError::NotADid(_)), "{error}");
}

#[tokio::test]
async fn malformed_did_peer_2_are_refused() {
    let key = "z6LSg8zQom395jKLrGiBNruB9MM6V8PWuf2FpEy4uRFiqQBR";
    for (elements, expected) in [
        ("", PeerError::Purpose),
        (".", PeerError::Purpose),
        (".E", KeyError::Malformed("the multikey's multibase prefix").into()),
        (&format!(".X{key}"), PeerError::Purpose),
        (&format!("E{key}"), PeerError::Purpose),
        (".S", PeerError::Service),
        (".Se30!", PeerError::Service),
        (".SIng", PeerError::Service),
    ] {
        let error = resolve(&format!("did:peer:2{elements}")).await;
        match error {
            Err(ResolveError::Peer { source, .. }) => assert_eq!(source, expected, "{elements}"),
            // `!` is not allowed in a DID, so this is refused earlier.
            other => assert!(elements.contains('!') && matches!(other, Err(ResolveError::NotADid(_))), "{elements}"),
        }
    }
    // An unsupported key does not affect the others.
    let bls = "zUC7K4ndUaGZgV7Cp2yJy6JtMoUHY6u7tkcSYUvPrEidqBmLCTLmi6d5WvwnUqejscAkERJ3bfjEiSYtdPkRSE8kSa11hFBr4sTgnbZ95SJj19PN2jdvJjyzpSZgxkyyxNnBNnY";
    let document = resolve(&format!("did:peer:2.A{bls}.E{key}")).await.unwrap();
    assert!(document.methods(Relationship::AssertionMethod).next().unwrap().key.is_err());
    assert_eq!(ids(&document, Relationship::KeyAgreement), [format!("{}#key-2", document.id())]);

    let long = format!("did:peer:2{}", format!(".E{key}").repeat(1000));
    assert!(matches!(resolve(&long).await, Err(ResolveError::Peer { source: PeerError::TooLong { .. }, .. })));
    for did in
        ["did:peer:1zQmZMygzYqNwU6Uhmewx5Xepf2VLp5S4HLSwwgf2aiKZuwa", "did:peer:3zQm", "did:peer:x", "did:peer:9"]
    {
        assert!(matches!(resolve(did).await, Err(ResolveError::UnsupportedMethod(_))), "{did}");
    }
}

/// conformance.md 110.
#[tokio::test]
async fn did_peer_4_of_the_specification() {
    let vectors = vectors(include_str!("../vectors/did/peer-4.json"));
    let (long, short) = (vectors["long"].as_str().unwrap(), vectors["short"].as_str().unwrap());
    let resolver = LocalResolver::new();
    assert!(matches!(resolver.resolve(short).await, Err(ResolveError::LongFormUnknown(_))));
    let long_document = resolver.resolve(long).await.unwrap();
    let short_document = resolver.resolve(short).await.unwrap();
    assert_eq!(*long_document.as_value(), vectors["long_document"]);
    assert_eq!(*short_document.as_value(), vectors["short_document"]);

    let made = create_4(&vectors["input"]).unwrap();
    assert_eq!((made.long.id(), made.short.id()), (long, short));
    assert_eq!((&made.long, &made.short), (&*long_document, &*short_document));

    // Each form names the other in `alsoKnownAs`, and keys are found under both.
    for document in [&long_document, &short_document] {
        assert!(document.is_about(long) && document.is_about(short) && !document.is_about("did:example:a"));
        assert!(!document.is_about(&format!("{short}:zJunk")));
        for did in [long, short] {
            let method = document.method(&format!("{did}#6MkrCD1c"), Relationship::Authentication).unwrap();
            assert_eq!(method.id, format!("{}#6MkrCD1c", document.id()));
            assert_eq!(method.controller, document.id());
            assert!(document.method(&format!("{did}#6MkrCD1c"), Relationship::KeyAgreement).is_none());
        }
    }
    assert_eq!((short_form(long), short_form(short)), (Some(short), Some(short)));
    assert_eq!(short_form("did:peer:2.Ez6LS"), None);
}

#[tokio::test]
async fn malformed_did_peer_4_are_refused() {
    let vectors = vectors(include_str!("../vectors/did/peer-4.json"));
    let long = vectors["long"].as_str().unwrap();
    let flipped = format!("{}y", &long[..long.len() - 1]);
    let is = |outcome: Result<_, _>, expected: PeerError| match outcome {
        Err(ResolveError::Peer { source, .. }) => assert_eq!(source, expected),
        other => panic!("{other:?}"),
    };
    is(resolve(&flipped).await, PeerError::Hash);
    is(resolve(&long.replacen("4zQm", "4zQn", 1)).await, PeerError::Hash);
    is(
        resolve(&format!("did:peer:4zQm:z{}", "2".repeat(30_000))).await,
        PeerError::TooLong { length: 30_000 + 15, limit: 20 * 1024 },
    );
    // The hash is right, but the content is no document.
    for content in [&b"\x80\x04[]"[..], b"\x80\x04{", b"{}", b"", b"\x00\x80\x04{}"] {
        let encoded = format!("z{}", bs58::encode(content).into_string());
        let digest = <sha2::Sha256 as sha2::Digest>::digest(encoded.as_bytes());
        let hash = bs58::encode([&[0x12, 0x20], &digest[..]].concat()).into_string();
        is(resolve(&format!("did:peer:4z{hash}:{encoded}")).await, PeerError::Encoding);
    }
    assert!(matches!(create_4(&json!({"id": "did:e:a"})), Err(PeerError::Input(_))));
    assert!(matches!(create_4(&json!([])), Err(PeerError::Input(_))));
    // A short text would become a long document: it has thousands of methods, each with the DID as controller.
    let bomb = json!({ "verificationMethod": vec![json!({}); 4000] });
    assert!(matches!(create_4(&bomb), Err(PeerError::Document(_))));
}

/// A peer can write any DID into `alsoKnownAs`. That DID does not become a name of the document.
#[tokio::test]
async fn also_known_as_is_not_trusted() {
    let key = PublicKey::from_multikey("z6LSg8zQom395jKLrGiBNruB9MM6V8PWuf2FpEy4uRFiqQBR").unwrap();
    let builder = Document::builder().method("key-1", &key, &[Relationship::KeyAgreement]);
    let made = create_4(&builder.also_known_as("did:example:victim").input()).unwrap();
    assert!(made.long.also_known_as().iter().any(|name| name == "did:example:victim"));
    assert!(!made.long.is_about("did:example:victim"));
    assert!(made.long.method("did:example:victim#key-1", Relationship::KeyAgreement).is_none());
}
