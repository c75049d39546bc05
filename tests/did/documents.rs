//! Documents in the forms that peers use (conformance.md 57, 58 and 76), and invalid ones.

use claviger::{
    did::{Document, DocumentError, Relationship, ServiceEndpoint},
    keys::{Curve, KeyError, PublicKey},
};
use serde_json::{Value, json};

const DID: &str = "did:example:a";
const ED25519: &str = "z6MkqRYqQiSgvZQdnBytw86Qbs2ZWUkGv22od935YF4s8M7V";
const X25519: &str = "z6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc";
const P256: &str = "zDnaerDaTF5BXEavCrfRZEk316dpbLsfPDZ3WJ5hRTPFU2169";
const SECP256K1: &str = "zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme";

fn key(multikey: &str) -> PublicKey {
    PublicKey::from_multikey(multikey).unwrap()
}

fn base58(multikey: &str) -> String {
    bs58::encode(key(multikey).as_bytes()).into_string()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The point in SEC 1 form, compressed.
fn compressed(multikey: &str) -> Vec<u8> {
    bs58::decode(&multikey[1..]).into_vec().unwrap().split_off(2)
}

/// The key of the only method of a document.
fn read(mut method: Value) -> Result<PublicKey, KeyError> {
    method["id"] = "#key-1".into();
    let document = json!({ "id": DID, "verificationMethod": [method], "authentication": ["#key-1"] });
    let document = Document::from_value(document).unwrap();
    document.method("did:example:a#key-1", Relationship::Authentication).unwrap().key.clone()
}

#[test]
fn keys_in_every_format_are_read() {
    for (multikey, method) in [
        (P256, json!({ "type": "JsonWebKey2020", "publicKeyJwk": key(P256).to_jwk() })),
        (X25519, json!({ "type": "JsonWebKey", "publicKeyJwk": key(X25519).to_jwk() })),
        (P256, json!({ "type": "P256Key2021", "publicKeyJwk": key(P256).to_jwk() })),
        (SECP256K1, json!({ "type": "EcdsaSecp256k1VerificationKey2019", "publicKeyJwk": key(SECP256K1).to_jwk() })),
        (SECP256K1, json!({ "type": "EcdsaSecp256k1VerificationKey2019", "publicKeyBase58": base58(SECP256K1) })),
        (P256, json!({ "type": "Multikey", "publicKeyMultibase": P256 })),
        (ED25519, json!({ "type": "Ed25519VerificationKey2018", "publicKeyBase58": base58(ED25519) })),
        (X25519, json!({ "type": "X25519KeyAgreementKey2019", "publicKeyBase58": base58(X25519) })),
        (ED25519, json!({ "type": "Ed25519VerificationKey2020", "publicKeyMultibase": ED25519 })),
        (X25519, json!({ "type": "X25519KeyAgreementKey2020", "publicKeyMultibase": X25519 })),
        // Without the multicodec, as in older did:peer libraries and in example 13 of DID Core.
        (
            ED25519,
            json!({ "type": "Ed25519VerificationKey2020", "publicKeyMultibase": format!("z{}", base58(ED25519)) }),
        ),
        (X25519, json!({ "type": "X25519KeyAgreementKey2020", "publicKeyMultibase": format!("z{}", base58(X25519)) })),
        // The type of 2019 with a multibase, as in the extensions' own example of keyAgreement.
        (X25519, json!({ "type": "X25519KeyAgreementKey2019", "publicKeyMultibase": format!("z{}", base58(X25519)) })),
        // Deprecated, and as Veramo 7.0.1 serves them by did:web.
        (
            SECP256K1,
            json!({ "type": "EcdsaSecp256k1VerificationKey2019", "publicKeyHex": hex(key(SECP256K1).as_bytes()) }),
        ),
        (SECP256K1, json!({ "type": "Secp256k1VerificationKey2018", "publicKeyHex": hex(&compressed(SECP256K1)) })),
        (P256, json!({ "type": "EcdsaSecp256r1VerificationKey2019", "publicKeyHex": hex(&compressed(P256)) })),
        (P256, json!({ "type": "Secp256r1VerificationKey2018", "publicKeyHex": hex(&key(P256).as_bytes()[1..]) })),
        (
            P256,
            json!({ "type": "P256Key2021", "publicKeyHex": format!("0x{}", hex(&compressed(P256)).to_uppercase()) }),
        ),
        (ED25519, json!({ "type": "Ed25519VerificationKey2018", "publicKeyHex": hex(key(ED25519).as_bytes()) })),
        (X25519, json!({ "type": "X25519KeyAgreementKey2019", "publicKeyHex": hex(key(X25519).as_bytes()) })),
        (
            ED25519,
            json!({ "type": "Ed25519VerificationKey2018", "publicKeyBase64":
            format!("{}=", key(ED25519).to_jwk().x.replace('-', "+").replace('_', "/")) }),
        ),
        (
            SECP256K1,
            json!({ "type": "EcdsaSecp256k1VerificationKey2019", "publicKeyJwk": {
            "kty": "EC", "crv": "P-256K", "x": key(SECP256K1).to_jwk().x, "y": key(SECP256K1).to_jwk().y
        } }),
        ),
        (ED25519, json!({ "type": ["Ed25519VerificationKey2018"], "publicKeyBase58": base58(ED25519) })),
        // Another base.
        (P256, json!({ "type": "Multikey", "publicKeyMultibase": multibase('u', P256) })),
        (X25519, json!({ "type": "X25519KeyAgreementKey2020", "publicKeyMultibase": multibase('f', X25519) })),
        // Padded base64url.
        (
            ED25519,
            json!({ "type": "JsonWebKey2020", "publicKeyJwk":
            { "kty": "OKP", "crv": "Ed25519", "x": format!("{}=", key(ED25519).to_jwk().x) } }),
        ),
        // The same key in two formats.
        (P256, json!({ "type": "JsonWebKey", "publicKeyJwk": key(P256).to_jwk(), "publicKeyMultibase": P256 })),
        (
            P256,
            json!({ "type": "JsonWebKey2020", "publicKeyJwk": key(P256).to_jwk(), "publicKeyBase58": base58(P256) }),
        ),
        // A deprecated member that nobody can read beside a key.
        (P256, json!({ "type": "JsonWebKey2020", "publicKeyJwk": key(P256).to_jwk(), "publicKeyHex": "0xab" })),
    ] {
        assert_eq!(read(method.clone()), Ok(key(multikey)), "{method}");
    }
}

/// The multikey in another base of multibase.
fn multibase(base: char, multikey: &str) -> String {
    let bytes = bs58::decode(&multikey[1..]).into_vec().unwrap();
    match base {
        'f' => format!("f{}", hex(&bytes)),
        _ => format!("u{}", base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, bytes)),
    }
}

#[test]
fn an_unusable_key_keeps_its_error() {
    let unsupported = |method| assert!(matches!(read(method), Err(KeyError::Unsupported(_))));
    unsupported(json!({ "type": "JsonWebKey2020", "publicKeyJwk": { "kty": "RSA", "n": "AQAB", "e": "AQAB" } }));
    unsupported(json!({ "type": "Bls12381G2Key2020", "publicKeyBase58": "zUC7" }));
    unsupported(json!({ "type": "EcdsaSecp256k1RecoveryMethod2020", "blockchainAccountId": "eip155:1:0xab" }));
    unsupported(json!({ "type": "X25519KeyAgreementKey2020", "publicKeyMultibase": ED25519 }));
    unsupported(json!({}));
    let malformed = |method: Value| assert!(matches!(read(method.clone()), Err(KeyError::Malformed(_))), "{method}");
    malformed(json!({ "type": "Multikey", "publicKeyMultibase": 1 }));
    unsupported(json!({ "type": "Multikey", "publicKeyMultibase": "uABC" }));
    unsupported(json!({ "type": "JsonWebKey2020", "publicKeyHex": hex(&compressed(P256)) }));
    unsupported(json!({ "type": "EcdsaSecp256k1RecoveryMethod2020", "ethereumAddress": "0xab" }));
    malformed(json!({ "type": "Multikey", "publicKeyMultibase": "A" }));
    malformed(json!({ "type": "EcdsaSecp256k1VerificationKey2019", "publicKeyHex": "0xabc" }));
    malformed(json!({ "type": "EcdsaSecp256k1VerificationKey2019", "publicKeyHex": "0".repeat(30_000) }));
    let other = hex(&compressed(P256));
    malformed(json!({ "type": "P256Key2021", "publicKeyHex": other, "publicKeyMultibase": X25519 }));
    malformed(json!({ "type": "Multikey", "publicKeyMultibase": format!("z{}", "2".repeat(30_000)) }));
    malformed(json!({ "type": "Ed25519VerificationKey2018", "publicKeyBase58": "2".repeat(30_000) }));
    malformed(json!({ "type": "JsonWebKey", "publicKeyJwk": "x" }));
    malformed(json!({ "type": "JsonWebKey", "publicKeyJwk": key(P256).to_jwk(), "publicKeyMultibase": X25519 }));
    let mut private = json!(key(P256).to_jwk());
    private["d"] = "AQAB".into();
    malformed(json!({ "type": "JsonWebKey", "publicKeyJwk": private }));
    let jwk = json!({ "kty": "EC", "crv": "P-256", "x": "AQAB", "y": "AQAB" });
    assert_eq!(read(json!({ "type": "JsonWebKey", "publicKeyJwk": jwk })), Err(KeyError::NotOnCurve(Curve::P256)));
    let jwk = json!({ "kty": "OKP", "crv": "X25519", "x": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" });
    assert_eq!(read(json!({ "type": "JsonWebKey", "publicKeyJwk": jwk })), Err(KeyError::LowOrder(Curve::X25519)));
}

/// conformance.md 57 and 58: embedded and referenced methods are found, in their own relationship only.
#[test]
fn methods_are_found_in_their_relationships() {
    let method = |id: &str, multikey: &str| json!({ "id": id, "type": "Multikey", "controller": "did:example:other", "publicKeyMultibase": multikey });
    let document = Document::from_value(json!({
        "id": DID,
        "verificationMethod": [method("did:example:a#v", ED25519), method("#none", P256)],
        "authentication": ["#v", method("#embedded", SECP256K1), "did:example:foreign#key-1", "#v"],
        "assertionMethod": "did:example:a#v",
        "keyAgreement": [method("did:example:a#x", X25519), "#p", "#nowhere"],
        "capabilityInvocation": [method("did:example:a#p", P256)]
    }))
    .unwrap();
    let ids = |relationship| document.methods(relationship).map(|method| method.id.as_str()).collect::<Vec<_>>();
    assert_eq!(ids(Relationship::Authentication), ["did:example:a#v", "did:example:a#embedded"]);
    assert_eq!(ids(Relationship::AssertionMethod), ["did:example:a#v"]);
    assert_eq!(ids(Relationship::KeyAgreement), ["did:example:a#x", "did:example:a#p"]);
    assert_eq!(document.all_methods().len(), 5);
    for relationship in Relationship::ALL {
        assert!(document.method("did:example:a#none", relationship).is_none());
    }
    assert!(document.method("did:example:a#v", Relationship::KeyAgreement).is_none());
    assert!(document.method("#v", Relationship::Authentication).is_none(), "ids are absolute");
    assert_eq!(document.methods(Relationship::KeyAgreement).next().unwrap().controller, "did:example:other");
}

/// Fragments without `#`, and the members of documents from before DID Core 1.0.
#[test]
fn documents_in_older_forms_are_read() {
    let hex_key = hex(&compressed(SECP256K1));
    let document = Document::from_value(json!({
        "id": DID,
        "publicKey": [
            { "id": "key-1", "type": "Secp256k1VerificationKey2018", "owner": "did:example:o", "publicKeyHex": hex_key },
            { "id": "did:example:a#key-2", "type": "Multikey", "publicKeyMultibase": P256 },
        ],
        "authentication": [
            "key-1",
            { "type": "Secp256k1SignatureAuthentication2018", "publicKey": "did:example:a#key-2" },
            { "type": "Secp256k1SignatureAuthentication2018", "publicKey": ["#key-1"] },
        ],
        "keyAgreement": ["key-2"],
        "service": [{ "id": "files", "type": "DIDCommMessaging", "serviceEndpoint": "https://1.example" }],
    }))
    .unwrap();
    let ids = |relationship| document.methods(relationship).map(|method| method.id.as_str()).collect::<Vec<_>>();
    assert_eq!(ids(Relationship::Authentication), ["did:example:a#key-1", "did:example:a#key-2"]);
    assert_eq!(ids(Relationship::KeyAgreement), ["did:example:a#key-2"]);
    let method = document.method("did:example:a#key-1", Relationship::Authentication).unwrap();
    assert_eq!((method.controller.as_str(), method.key.as_ref()), ("did:example:o", Ok(&key(SECP256K1))));
    assert_eq!(document.services()[0].id, "did:example:a#files");
    assert_eq!(document.unused_parts(), []);
    // An absolute id of another form is left as it is.
    let urn =
        json!({ "id": DID, "authentication": [{ "id": "urn:x:1", "type": "Multikey", "publicKeyMultibase": P256 }] });
    assert_eq!(Document::from_value(urn).unwrap().all_methods()[0].id, "urn:x:1");
}

#[test]
fn unused_parts_are_named_with_the_reason() {
    let document = Document::from_value(json!({
        "id": DID,
        "verificationMethod": [
            { "id": "#good", "type": "Multikey", "publicKeyMultibase": P256 },
            { "id": "#eth", "type": "EcdsaSecp256k1RecoveryMethod2020", "blockchainAccountId": "eip155:1:0xab" },
            { "id": "#rsa", "type": "JsonWebKey2020", "publicKeyJwk": { "kty": "RSA" } },
            { "id": "#ed", "type": "Multikey", "publicKeyMultibase": ED25519 },
        ],
        "authentication": ["#good", "#eth", "did:example:other#key-1"],
        "keyAgreement": ["#gone", "#ed"],
        "service": [
            { "id": "#1", "type": "DIDCommMessaging", "serviceEndpoint": { "uri": "https://1.example" } },
            { "id": "#2", "type": "did-communication", "serviceEndpoint": "https://2.example" },
            { "id": "#3", "type": "DIDCommMessaging", "serviceEndpoint": [{ "uri": "https://3.example" }, { "url": "x" }] },
            { "id": "#4", "type": "DIDCommMessaging", "serviceEndpoint": { "uri": "https://4", "accept": ["didcomm/aip1"] } },
            { "id": "#5", "type": "DIDCommMessaging" },
            "https://6.example",
        ],
    }))
    .unwrap();
    let texts: Vec<String> = document.unused_parts().iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            r##"the key "#eth": the key type "EcdsaSecp256k1RecoveryMethod2020" is not supported"##,
            r##"the key "#rsa": the key type "RSA" is not supported"##,
            r##"authentication names "did:example:other#key-1", which the document does not have"##,
            r##"keyAgreement names "#gone", which the document does not have"##,
            r##"the key "#ed": DIDComm does not use Ed25519 for keyAgreement"##,
            r##"the service "#2": its type is not DIDCommMessaging"##,
            r##"the service "#3": an endpoint has no uri"##,
            r##"the service "#4": an endpoint does not accept didcomm/v2"##,
            r##"the service "#5": it has no serviceEndpoint"##,
            r##"the service "": it is not an object"##,
        ]
    );
}

/// conformance.md 76.
#[test]
fn services_in_every_form_are_read() {
    let document = Document::from_value(json!({
        "id": DID,
        "service": [
            { "id": "#one", "type": "DIDCommMessaging", "serviceEndpoint": { "uri": "https://1.example", "accept": ["didcomm/v2"], "routingKeys": ["did:e:m#k"] } },
            { "id": "did:example:a#many", "type": ["DIDCommMessaging"], "serviceEndpoint": [{ "uri": "https://2.example" }, { "uri": "wss://3.example", "accept": ["didcomm/aip1"] }] },
            { "id": "#bare", "type": "DIDCommMessaging", "serviceEndpoint": "https://4.example" },
            { "id": "#v1", "type": "did-communication", "priority": 0, "recipientKeys": ["#k"], "routingKeys": [], "serviceEndpoint": "https://5.example" },
            { "id": "#links", "type": "LinkedDomains", "serviceEndpoint": { "origins": ["https://6.example"] } },
            { "id": "#broken", "type": "DIDCommMessaging", "serviceEndpoint": 7 },
            "broken"
        ]
    }))
    .unwrap();
    let services: Vec<_> = document.didcomm_services().collect();
    let uris: Vec<_> = services.iter().flat_map(|service| &service.endpoints).map(|one| one.uri.as_str()).collect();
    assert_eq!(uris, ["https://1.example", "https://2.example", "wss://3.example", "https://4.example"]);
    assert_eq!(services[0].id, "did:example:a#one");
    assert_eq!(
        services[0].endpoints[0],
        ServiceEndpoint {
            uri: "https://1.example".into(),
            accept: Some(vec!["didcomm/v2".into()]),
            routing_keys: vec!["did:e:m#k".into()]
        }
    );
    assert!(services[1].endpoints[0].accepts_v2() && !services[1].endpoints[1].accepts_v2());
    let v1 = &document.services()[3];
    assert!(!v1.is_didcomm() && v1.endpoints[0].uri == "https://5.example");
    assert_eq!(document.services().len(), 6);
}

#[test]
fn documents_of_the_didcomm_specification() {
    for (json, agreement, authentication) in [
        (&include_bytes!("../vectors/didcomm-v2.1/documents/alice.json")[..], 3, 3),
        (&include_bytes!("../vectors/didcomm-v2.1/documents/bob.json")[..], 9, 0),
    ] {
        let document = Document::from_json(json).unwrap();
        let count = |relationship| document.methods(relationship).filter(|method| method.key.is_ok()).count();
        assert_eq!(
            (count(Relationship::KeyAgreement), count(Relationship::Authentication)),
            (agreement, authentication)
        );
    }
}

#[test]
fn invalid_documents_are_refused() {
    let member = |value: Value, member| match Document::from_value(value.clone()) {
        Err(DocumentError::Member { member: found, .. }) => assert_eq!(found, member, "{value}"),
        other => panic!("{value}: {other:?}"),
    };
    member(json!([]), "content");
    member(json!({}), "id");
    member(json!({ "id": 1 }), "id");
    member(json!({ "id": "did:example:a#b" }), "id");
    member(json!({ "id": DID, "alsoKnownAs": [1] }), "alsoKnownAs");
    member(json!({ "id": DID, "keyAgreement": 1 }), "keyAgreement");
    member(json!({ "id": DID, "verificationMethod": ["#a"] }), "verificationMethod");
    member(json!({ "id": DID, "verificationMethod": [{ "id": 1 }] }), "verificationMethod id");
    assert!(matches!(Document::from_json(b"{"), Err(DocumentError::Json { line: 1, column: 1 })));
    let deep = format!("{{\"id\":\"{DID}\",\"x\":{}1{}}}", "[".repeat(1000), "]".repeat(1000));
    assert!(matches!(Document::from_json(deep.as_bytes()), Err(DocumentError::Json { .. })));

    let method = |id: &str, multikey: &str| json!({ "id": id, "type": "Multikey", "publicKeyMultibase": multikey });
    let two =
        |second: Value| json!({ "id": DID, "authentication": [method("#a", ED25519)], "assertionMethod": [second] });
    assert!(Document::from_value(two(method("did:example:a#a", ED25519))).is_ok(), "one method, embedded twice");
    let id = "did:example:a#a".to_owned();
    assert_eq!(Document::from_value(two(method("#a", P256))), Err(DocumentError::DuplicateMethod(id)));
}

#[test]
fn the_limits() {
    let many = |member: &str, number: usize| {
        let entry = |n| json!({ "id": format!("#{n}"), "type": "t" });
        Document::from_value(json!({ "id": DID, member: (0..number).map(entry).collect::<Vec<_>>() }))
    };
    for member in ["verificationMethod", "service", "keyAgreement"] {
        assert!(many(member, 100).is_ok());
        assert!(matches!(many(member, 101), Err(DocumentError::TooMany { length: 101, limit: 100, .. })));
    }
    let entry = |n| json!({ "id": format!("#{n}"), "type": "t" });
    let entries = |range: std::ops::Range<usize>| range.map(entry).collect::<Vec<_>>();
    let spread = json!({ "id": DID, "verificationMethod": entries(0..60), "keyAgreement": entries(60..120) });
    assert!(matches!(Document::from_value(spread), Err(DocumentError::TooMany { .. })));
    let long = json!({ "id": DID, "x": "x".repeat(70_000) });
    assert!(matches!(Document::from_json(long.to_string().as_bytes()), Err(DocumentError::TooLong { .. })));
    assert!(matches!(Document::from_value(long), Err(DocumentError::TooLong { .. })));
    assert!(matches!(Document::from_json(&vec![b' '; 1 << 20]), Err(DocumentError::TooLong { .. })));
}

#[test]
fn the_builder_makes_a_document() {
    let document = Document::builder()
        .method("x", &key(X25519), &[Relationship::KeyAgreement])
        .method("p", &key(P256), &[Relationship::Authentication, Relationship::KeyAgreement])
        .also_known_as("https://a.example")
        .service(claviger::did::Service::didcomm("https://a.example", []))
        .build("did:web:a.example")
        .unwrap();
    assert_eq!(document.id(), "did:web:a.example");
    let keys: Vec<_> = document.methods(Relationship::KeyAgreement).map(|method| method.key.clone().unwrap()).collect();
    assert_eq!(keys, [key(X25519), key(P256)]);
    assert_eq!(document.services()[0].id, "did:web:a.example#service");
    assert_eq!(Document::from_value(document.as_value().clone()).unwrap(), document);
    assert!(Document::builder().build("web").is_err());
}
