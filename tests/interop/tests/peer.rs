//! Tests the peer against itself, before it is used to test Claviger.

use claviger_interop::Peer;
use claviger_interop::didcomm::algorithms::{AnonCryptAlg, AuthCryptAlg, SignAlg};
use claviger_interop::didcomm::error::ErrorKind;
use claviger_interop::didcomm::protocols::routing::try_parse_forward;
use claviger_interop::didcomm::{FromPrior, PackEncryptedOptions};
use common::{ALICE, BOB, alice, bob, documents, keys, lunch};
use serde_json::{Value, json};

mod common;

const CONTENT_ENCRYPTIONS: [AnonCryptAlg; 3] =
    [AnonCryptAlg::A256cbcHs512EcdhEsA256kw, AnonCryptAlg::A256gcmEcdhEsA256kw, AnonCryptAlg::Xc20pEcdhEsA256kw];

#[tokio::test]
async fn authcrypt_on_both_curves() {
    for curve in ["x25519", "p256"] {
        let from = format!("{ALICE}#key-{curve}-1");
        let (packed, sent) =
            alice().pack_encrypted(&lunch(), BOB, Some(&from), None, &Default::default()).await.unwrap();
        assert_eq!(sent.from_kid.as_deref(), Some(from.as_str()));

        let (message, read) = bob().unpack(&packed).await.unwrap();
        assert_eq!(message, lunch());
        assert!(read.encrypted && read.authenticated);
        assert!(!read.non_repudiation && !read.anonymous_sender);
        assert_eq!(read.encrypted_from_kid, Some(from));
        assert_eq!(read.enc_alg_auth, Some(AuthCryptAlg::A256cbcHs512Ecdh1puA256kw));
        assert_eq!(read.encrypted_to_kids, Some(sent.to_kids));
    }
}

#[tokio::test]
async fn anoncrypt_with_each_content_encryption() {
    for (to, enc_alg_anon) in ["x25519", "p256"]
        .into_iter()
        .flat_map(|curve| CONTENT_ENCRYPTIONS.map(|enc| (format!("{BOB}#key-{curve}-1"), enc)))
    {
        let options = PackEncryptedOptions { enc_alg_anon: enc_alg_anon.clone(), ..Default::default() };
        let (packed, _) = alice().pack_encrypted(&lunch(), &to, None, None, &options).await.unwrap();
        let (message, read) = bob().unpack(&packed).await.unwrap();
        assert_eq!(message, lunch());
        assert!(read.encrypted && read.anonymous_sender && !read.authenticated);
        assert_eq!(read.enc_alg_anon, Some(enc_alg_anon));
        assert_eq!(read.encrypted_to_kids, Some(vec![to]));
    }
}

#[tokio::test]
async fn each_signature_algorithm_alone_and_within_authcrypt() {
    let algorithms = [SignAlg::EdDSA, SignAlg::ES256, SignAlg::ES256K];
    for (number, algorithm) in (1..).zip(algorithms) {
        let kid = format!("{ALICE}#key-{number}");
        let (signed, sent) = alice().pack_signed(&lunch(), &kid).await.unwrap();
        assert_eq!(sent.sign_by_kid, kid);
        let (sealed, _) =
            alice().pack_encrypted(&lunch(), BOB, Some(ALICE), Some(&kid), &Default::default()).await.unwrap();
        for (packed, encrypted) in [(signed, false), (sealed, true)] {
            let (message, read) = bob().unpack(&packed).await.unwrap();
            assert_eq!(message, lunch());
            assert_eq!(read.encrypted, encrypted);
            assert!(read.authenticated && read.non_repudiation);
            assert_eq!(read.sign_from.as_ref(), Some(&kid));
            assert_eq!(read.sign_alg.as_ref(), Some(&algorithm));
        }
    }
}

#[tokio::test]
async fn protected_sender() {
    let options = PackEncryptedOptions { protect_sender: true, ..Default::default() };
    let (packed, _) = alice().pack_encrypted(&lunch(), BOB, Some(ALICE), None, &options).await.unwrap();
    let (message, read) = bob().unpack(&packed).await.unwrap();
    assert_eq!(message, lunch());
    assert!(read.anonymous_sender && read.authenticated);
}

#[tokio::test]
async fn forward_by_hand_and_by_service() {
    let mut documents = documents();
    documents.push(mediator_document());
    documents[1]["service"] = json!([{
        "id": "#didcomm",
        "type": "DIDCommMessaging",
        "serviceEndpoint": [{ "uri": "https://example.org/in", "routingKeys": [MEDIATOR_KEY] }],
    }]);
    let alice = Peer::new(documents.clone(), keys("alice"));
    let mediator = Peer::new(documents.clone(), vec![mediator_secret()]);
    let bob = Peer::new(documents, keys("bob"));

    let direct = PackEncryptedOptions { forward: false, ..Default::default() };
    let (inner, sent) = alice.pack_encrypted(&lunch(), BOB, Some(ALICE), None, &direct).await.unwrap();
    assert!(sent.messaging_service.is_none());
    let by_hand = alice
        .wrap_in_forward(&inner, None, BOB, &[MEDIATOR_KEY.to_owned()], &AnonCryptAlg::A256cbcHs512EcdhEsA256kw)
        .await
        .unwrap();

    let (by_service, sent) = alice.pack_encrypted(&lunch(), BOB, Some(ALICE), None, &Default::default()).await.unwrap();
    let service = sent.messaging_service.unwrap();
    assert_eq!(service.id, format!("{BOB}#didcomm"));
    assert_eq!(service.service_endpoint, "https://example.org/in");

    for wrapped in [by_hand, by_service] {
        let refused = bob.unpack(&wrapped).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::SecretNotFound);
        let (forward, read) = mediator.unpack(&wrapped).await.unwrap();
        assert!(!read.authenticated);
        let forward = try_parse_forward(&forward).unwrap();
        assert_eq!(forward.next, BOB);
        let onward = forward.forwarded_msg.to_string();
        assert_eq!(bob.unpack(&onward).await.unwrap().0, lunch());
    }
}

#[tokio::test]
async fn from_prior_in_each_algorithm() {
    const NEW_ALICE: &str = "did:example:alice-again";
    for number in 1..=3 {
        let kid = format!("{ALICE}#key-{number}");
        let rotation = FromPrior::build(ALICE.to_owned(), NEW_ALICE.to_owned()).iat(1_700_000_000).finalize();
        let (jwt, signed_by) = alice().pack_from_prior(&rotation, Some(&kid)).await.unwrap();
        assert_eq!(signed_by, kid);
        let read = bob().unpack_from_prior(&jwt).await.unwrap();
        assert_eq!(read, (rotation.clone(), kid.clone()));

        let mut message = lunch();
        message.from = Some(NEW_ALICE.to_owned());
        message.from_prior = Some(jwt);
        let (packed, _) = alice().pack_encrypted(&message, BOB, None, None, &Default::default()).await.unwrap();
        let (_, read) = bob().unpack(&packed).await.unwrap();
        assert_eq!(read.from_prior, Some(rotation));
        assert_eq!(read.from_prior_issuer_kid, Some(kid));
    }
}

/// `Multikey`, `JsonWebKey`, references and relative ids are translated for `didcomm`.
#[tokio::test]
async fn current_documents_are_translated() {
    let key = &documents()[1]["keyAgreement"][0]["publicKeyJwk"];
    let document = json!({
        "id": "did:example:modern",
        "verificationMethod": [
            { "id": "#jwk", "type": "JsonWebKey", "publicKeyJwk": key },
            { "id": "#multikey", "type": "Multikey",
              "publicKeyMultibase": "z6LSghwSE437wnDE1pt3X6hVDUQzSjsHzinpX3XFvMjRAm7y" },
        ],
        "keyAgreement": ["#jwk", "did:example:modern#multikey"],
        "service": [{ "id": "#web", "type": "LinkedDomains", "serviceEndpoint": "https://example.org" }],
    });
    let peer = Peer::new(vec![document], vec![]);
    let (_, sent) = peer
        .pack_encrypted(&message_to("did:example:modern"), "did:example:modern", None, None, &Default::default())
        .await
        .unwrap();
    let expected = ["did:example:modern#jwk", "did:example:modern#multikey"];
    assert_eq!(sent.to_kids, expected);
    assert!(sent.messaging_service.is_none());
}

const MEDIATOR_KEY: &str = "did:example:mediator#key-1";

fn mediator_document() -> Value {
    let mut public = mediator_secret();
    public.as_object_mut().unwrap().remove("d");
    json!({
        "id": "did:example:mediator",
        "keyAgreement": [{
            "id": MEDIATOR_KEY,
            "type": "JsonWebKey2020",
            "controller": "did:example:mediator",
            "publicKeyJwk": public,
        }],
    })
}

/// One of Alice's keys. It only matters that Bob does not hold it.
fn mediator_secret() -> Value {
    let mut key = keys("alice")[3].clone();
    key["kid"] = MEDIATOR_KEY.into();
    key
}

fn message_to(did: &str) -> claviger_interop::didcomm::Message {
    let mut message = lunch();
    message.from = None;
    message.to = Some(vec![did.to_owned()]);
    message
}
