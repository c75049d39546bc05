//! `didcomm` reads what we pack, and we read what `didcomm` packs.
//!
//! Our keys are generated in a token. All tests run with a software token, and again with SoftHSM and with Kryoptic,
//! each in its own process.

use std::process::Command;

use claviger::crypto::ContentEncryption;
use claviger::didcomm::{Forward, FromPrior, Layer, Message, PackEncrypted, Warning};
use claviger::keys::SignatureAlgorithm;
use claviger::secrets::Custody;
use claviger_interop::Peer;
use claviger_interop::didcomm;
use claviger_interop::didcomm::algorithms::{AnonCryptAlg, AuthCryptAlg, SignAlg};
use claviger_interop::didcomm::protocols::routing::try_parse_forward;
use claviger_interop::tokens::{Module, ThrowAway};
use common::{ALICE, BOB, keys};
use ours::{OUR_MEDIATOR, OURS, OURS_ANEW, Ours};
use serde_json::{Value, json};

#[path = "../common/mod.rs"]
mod common;
mod ours;

const ALICE_ANEW: &str = "did:example:alice-anew";
const PEER_MEDIATOR: &str = "did:example:peer-mediator";

const ENCRYPTIONS: [(ContentEncryption, AnonCryptAlg); 3] = [
    (ContentEncryption::A256CbcHs512, AnonCryptAlg::A256cbcHs512EcdhEsA256kw),
    (ContentEncryption::A256Gcm, AnonCryptAlg::A256gcmEcdhEsA256kw),
    (ContentEncryption::Xc20P, AnonCryptAlg::Xc20pEcdhEsA256kw),
];

/// Each algorithm with our key and with Alice's.
const SIGNATURES: [(SignatureAlgorithm, SignAlg, &str, &str); 3] = [
    (SignatureAlgorithm::EdDsa, SignAlg::EdDSA, "did:example:ours#ed25519", "did:example:alice#key-1"),
    (SignatureAlgorithm::Es256, SignAlg::ES256, "did:example:ours#es256", "did:example:alice#key-2"),
    (SignatureAlgorithm::Es256k, SignAlg::ES256K, "did:example:ours#es256k", "did:example:alice#key-3"),
];

#[tokio::test]
async fn authcrypt_from_us() {
    let documents = documents().await;
    let (ours, peer) = (Ours::new(&[OURS], &documents).await, peer(&documents));
    for (from, to, slots) in [("x25519-1", ALICE, 1), ("p256-1", ALICE, 1), ("x25519-2", BOB, 3), ("p256-2", BOB, 2)] {
        let from = format!("{OURS}#{from}");
        let letter = letter(OURS, to);
        let (packed, sent) = ours.pack(&letter, to, Some(&from), None, |packing| packing).await;
        assert_eq!(sent.to_kids.len(), slots);

        let (message, read) = peer.unpack(&packed).await.unwrap();
        assert_eq!(serde_json::to_value(message).unwrap(), letter);
        assert!(read.authenticated && !read.anonymous_sender && !read.non_repudiation);
        assert_eq!(read.enc_alg_auth, Some(AuthCryptAlg::A256cbcHs512Ecdh1puA256kw));
        assert_eq!(read.encrypted_from_kid, Some(from));
        assert_eq!(read.encrypted_to_kids, Some(sent.to_kids));
    }
}

#[tokio::test]
async fn authcrypt_to_us() {
    let documents = documents().await;
    let (ours, peer) = (Ours::new(&[OURS], &documents).await, peer(&documents));
    let letter = letter(ALICE, OURS);
    for (from, to) in [("x25519-1", ["x25519-1", "x25519-2"]), ("p256-1", ["p256-1", "p256-2"])] {
        let from = format!("{ALICE}#key-{from}");
        let to = to.map(|name| format!("{OURS}#{name}"));
        // Encrypts to the DID, which means both its keys on the curve, and then to the second key alone.
        for (name, slots) in [(OURS, &to[..]), (&to[1], &to[1..])] {
            let (packed, _) = peer
                .pack_encrypted(&theirs(&letter), name, Some(&from), None, &didcomm::PackEncryptedOptions::default())
                .await
                .unwrap();
            let (message, provenance) = ours.unpack(&packed).await;
            assert_eq!(serde_json::to_value(message).unwrap(), letter);
            assert!(provenance.authenticated && !provenance.anonymous_sender && !provenance.non_repudiation);
            assert_eq!(
                provenance.layers,
                [Layer::Authcrypt {
                    alg: "ECDH-1PU+A256KW",
                    enc: ContentEncryption::A256CbcHs512,
                    skid: from.clone(),
                    kid: slots[0].clone(),
                    recipients: slots.to_vec(),
                    custody: Some(ours::custody()),
                }]
            );
            assert_eq!(provenance.warnings, []);
        }
    }
}

#[tokio::test]
async fn anoncrypt_from_us_with_each_content_encryption() {
    let documents = documents().await;
    let (ours, peer) = (Ours::new(&[OURS], &documents).await, peer(&documents));
    for key in ["x25519-1", "p256-1"] {
        for (enc, expected) in ENCRYPTIONS {
            let letter = letter(OURS, BOB);
            let to = format!("{BOB}#key-{key}");
            let (packed, _) = ours.pack(&letter, &to, None, None, |packing| packing.enc(enc)).await;
            let (message, read) = peer.unpack(&packed).await.unwrap();
            assert_eq!(serde_json::to_value(message).unwrap(), letter);
            assert!(read.anonymous_sender && !read.authenticated);
            assert_eq!(read.enc_alg_anon, Some(expected));
            assert_eq!(read.encrypted_to_kids, Some(vec![to]));
        }
    }
}

#[tokio::test]
async fn anoncrypt_to_us_with_each_content_encryption() {
    let documents = documents().await;
    let (ours, peer) = (Ours::new(&[OURS], &documents).await, peer(&documents));
    for key in ["x25519-1", "p256-2"] {
        for (expected, enc_alg_anon) in ENCRYPTIONS {
            let letter = letter(ALICE, OURS);
            let to = format!("{OURS}#{key}");
            let options = didcomm::PackEncryptedOptions { enc_alg_anon, ..Default::default() };
            let (packed, _) = peer.pack_encrypted(&theirs(&letter), &to, None, None, &options).await.unwrap();
            let (message, provenance) = ours.unpack(&packed).await;
            assert_eq!(serde_json::to_value(message).unwrap(), letter);
            assert!(provenance.anonymous_sender && !provenance.authenticated);
            assert_eq!(
                provenance.layers,
                [Layer::Anoncrypt {
                    alg: "ECDH-ES+A256KW",
                    enc: expected,
                    kid: to.clone(),
                    recipients: vec![to],
                    custody: Some(ours::custody()),
                }]
            );
        }
    }
}

/// Signed; signed and anoncrypted; signed and authcrypted, which is packed only on request.
#[tokio::test]
async fn each_signature_algorithm_from_us() {
    let documents = documents().await;
    let (ours, peer) = (Ours::new(&[OURS], &documents).await, peer(&documents));
    let letter = letter(OURS, BOB);
    for (_, expected, kid, _) in SIGNATURES {
        let (signed, sent) = ours_message(&letter).pack_signed(kid, &ours.me).await.unwrap();
        assert_eq!(sent.sign_by_kid, kid);
        let (sealed, _) = ours.pack(&letter, BOB, None, Some(kid), |packing| packing).await;
        let (proved, _) = ours.pack(&letter, BOB, Some(OURS), Some(kid), |packing| packing).await;
        for (packed, encrypted, from) in [(signed, false, false), (sealed, true, false), (proved, true, true)] {
            let (message, read) = peer.unpack(&packed).await.unwrap();
            assert_eq!(serde_json::to_value(message).unwrap(), letter);
            assert_eq!((read.encrypted, read.encrypted_from_kid.is_some()), (encrypted, from));
            assert!(read.authenticated && read.non_repudiation);
            assert_eq!(read.sign_from.as_deref(), Some(kid));
            assert_eq!(read.sign_alg.as_ref(), Some(&expected));
        }
    }
}

#[tokio::test]
async fn each_signature_algorithm_to_us() {
    let documents = documents().await;
    let (ours, peer) = (Ours::new(&[OURS], &documents).await, peer(&documents));
    let letter = letter(ALICE, OURS);
    let message = theirs(&letter);
    let options = didcomm::PackEncryptedOptions::default();
    for (expected, _, _, kid) in SIGNATURES {
        let (signed, _) = peer.pack_signed(&message, kid).await.unwrap();
        let (sealed, _) = peer.pack_encrypted(&message, OURS, None, Some(kid), &options).await.unwrap();
        let (proved, _) = peer.pack_encrypted(&message, OURS, Some(ALICE), Some(kid), &options).await.unwrap();
        for (packed, layers, warnings) in
            [(signed, 1, &[][..]), (sealed, 2, &[][..]), (proved, 2, &[Warning::DiscouragedNesting][..])]
        {
            let (message, provenance) = ours.unpack(&packed).await;
            assert_eq!(serde_json::to_value(message).unwrap(), letter);
            assert!(provenance.authenticated && provenance.non_repudiation);
            assert_eq!(provenance.layers.len(), layers);
            assert_eq!(
                provenance.layers.last(),
                Some(&Layer::Signed { alg: expected, kid: kid.to_owned() }),
                "the innermost"
            );
            assert_eq!(provenance.warnings, warnings);
        }
    }
}

#[tokio::test]
async fn protected_sender() {
    let documents = documents().await;
    let (ours, peer) = (Ours::new(&[OURS], &documents).await, peer(&documents));
    for (key, (enc, enc_alg_anon)) in
        ["x25519-1", "p256-1"].into_iter().flat_map(|key| ENCRYPTIONS.map(|encryption| (key, encryption)))
    {
        let letter_out = letter(OURS, BOB);
        let from = format!("{OURS}#{key}");
        let packed = ours.pack(&letter_out, BOB, Some(&from), None, |packing| packing.protect_sender(true).enc(enc));
        let (packed, _) = packed.await;
        let (message, read) = peer.unpack(&packed).await.unwrap();
        assert_eq!(serde_json::to_value(message).unwrap(), letter_out);
        assert!(read.authenticated && read.anonymous_sender);
        assert_eq!(read.enc_alg_anon.as_ref(), Some(&enc_alg_anon));
        assert_eq!(read.encrypted_from_kid, Some(from));

        let letter_in = letter(ALICE, OURS);
        let from = format!("{ALICE}#key-{key}");
        let options = didcomm::PackEncryptedOptions { protect_sender: true, enc_alg_anon, ..Default::default() };
        let (packed, _) = peer.pack_encrypted(&theirs(&letter_in), OURS, Some(&from), None, &options).await.unwrap();
        let (message, provenance) = ours.unpack(&packed).await;
        assert_eq!(serde_json::to_value(message).unwrap(), letter_in);
        assert!(provenance.authenticated && provenance.anonymous_sender);
        let [Layer::Anoncrypt { enc: outer, .. }, Layer::Authcrypt { skid, .. }] = &provenance.layers[..] else {
            panic!("{:?}", provenance.layers)
        };
        assert_eq!((*outer, skid), (enc, &from));
    }
}

/// `didcomm` can sign, authcrypt and anoncrypt a message, which the specification forbids. It is read with a warning,
/// or refused with `strict_nesting`.
#[tokio::test]
async fn protected_sender_and_signature_to_us() {
    let documents = documents().await;
    let (ours, peer) = (Ours::new(&[OURS], &documents).await, peer(&documents));
    let letter = letter(ALICE, OURS);
    let options = didcomm::PackEncryptedOptions { protect_sender: true, ..Default::default() };
    let (packed, _) = peer.pack_encrypted(&theirs(&letter), OURS, Some(ALICE), Some(ALICE), &options).await.unwrap();
    let (message, provenance) = ours.unpack(&packed).await;
    assert_eq!(serde_json::to_value(message).unwrap(), letter);
    assert_eq!(provenance.layers.len(), 3);
    assert_eq!(provenance.warnings, [Warning::ForbiddenNesting]);

    let strict = claviger::didcomm::UnpackOptions { strict_nesting: true, ..Default::default() };
    let refused = Message::unpack(&packed, &ours.resolver, &ours.me, &strict).await.unwrap_err();
    assert!(
        matches!(refused, claviger::didcomm::Error::ForbiddenNesting { outer: "authcrypt", inner: "signed" }),
        "{refused}"
    );
}

/// A message goes from us through the peer's mediator and then through ours, as Bob's document says.
#[tokio::test]
async fn forward_from_us() {
    let mut documents = documents().await;
    serve(&mut documents, BOB, [&peer_mediator_key(), &our_mediator_key()]);
    let (ours, bob) = (Ours::new(&[OURS], &documents).await, peer(&documents));
    let first = peer_mediator(&documents);
    let second = Ours::new(&[OUR_MEDIATOR], &documents).await;

    for (enc, expected) in ENCRYPTIONS {
        let letter = letter(OURS, BOB);
        let (packed, sent) = ours.pack(&letter, BOB, Some(OURS), None, |packing| packing.enc(enc)).await;
        assert_eq!(sent.messaging_service.unwrap().service_endpoint, "https://example.org/in");

        let (forward, read) = first.unpack(&packed).await.unwrap();
        assert_eq!(read.enc_alg_anon, Some(expected));
        let forward = try_parse_forward(&forward).unwrap();
        assert_eq!(forward.next, our_mediator_key());

        let (forward, _) = second.unpack(&forward.forwarded_msg.to_string()).await;
        let forward = Forward::from_message(&forward).unwrap().unwrap();
        assert_eq!(forward.next, BOB);
        let [onward] = &forward.forwarded[..] else { panic!("{forward:?}") };

        let (message, read) = bob.unpack(onward).await.unwrap();
        assert_eq!(serde_json::to_value(message).unwrap(), letter);
        assert!(read.authenticated);
    }
}

/// A message goes from the peer through our mediator and then through the peer's, as our document says.
#[tokio::test]
async fn forward_to_us() {
    let mut documents = documents().await;
    serve(&mut documents, OURS, [&our_mediator_key(), &peer_mediator_key()]);
    let (ours, alice) = (Ours::new(&[OURS], &documents).await, peer(&documents));
    let first = Ours::new(&[OUR_MEDIATOR], &documents).await;
    let second = peer_mediator(&documents);

    for (expected, enc_alg_anon) in ENCRYPTIONS {
        let letter = letter(ALICE, OURS);
        let options = didcomm::PackEncryptedOptions { enc_alg_anon, ..Default::default() };
        let (packed, sent) = alice.pack_encrypted(&theirs(&letter), OURS, Some(ALICE), None, &options).await.unwrap();
        assert!(sent.messaging_service.is_some());

        let (forward, provenance) = first.unpack(&packed).await;
        assert!(matches!(&provenance.layers[..], [Layer::Anoncrypt { enc, .. }] if *enc == expected));
        let forward = Forward::from_message(&forward).unwrap().unwrap();
        assert_eq!(forward.next, peer_mediator_key());
        let [onward] = &forward.forwarded[..] else { panic!("{forward:?}") };

        let (forward, _) = second.unpack(onward).await.unwrap();
        let forward = try_parse_forward(&forward).unwrap();
        assert_eq!(forward.next, OURS);

        let (message, provenance) = ours.unpack(&forward.forwarded_msg.to_string()).await;
        assert_eq!(serde_json::to_value(message).unwrap(), letter);
        assert!(provenance.authenticated);
    }
}

#[tokio::test]
async fn from_prior_from_us() {
    let documents = documents().await;
    let (ours, peer) = (Ours::new(&[OURS, OURS_ANEW], &documents).await, peer(&documents));
    for (_, _, kid, _) in SIGNATURES {
        let rotation = FromPrior::rotation(OURS, OURS_ANEW, 1_700_000_000);
        let (jwt, signed_by) = rotation.pack(Some(kid), &ours.me).await.unwrap();
        assert_eq!(signed_by, kid);
        let mut letter = letter(OURS_ANEW, BOB);
        letter["from_prior"] = jwt.into();
        let (packed, _) = ours.pack(&letter, BOB, Some(OURS_ANEW), None, |packing| packing).await;

        let (message, read) = peer.unpack(&packed).await.unwrap();
        assert_eq!(serde_json::to_value(message).unwrap(), letter);
        let prior = read.from_prior.unwrap();
        assert_eq!((prior.iss.as_str(), prior.sub.as_str(), prior.iat), (OURS, OURS_ANEW, Some(1_700_000_000)));
        assert_eq!(read.from_prior_issuer_kid.as_deref(), Some(kid));
    }
}

#[tokio::test]
async fn from_prior_to_us() {
    let documents = documents().await;
    let (ours, peer) = (Ours::new(&[OURS], &documents).await, peer(&documents));
    for (_, _, _, kid) in SIGNATURES {
        let rotation = didcomm::FromPrior::build(ALICE.to_owned(), ALICE_ANEW.to_owned()).iat(1_700_000_000).finalize();
        let (jwt, _) = peer.pack_from_prior(&rotation, Some(kid)).await.unwrap();
        let mut letter = letter(ALICE_ANEW, OURS);
        letter["from_prior"] = jwt.into();
        let (packed, _) = peer
            .pack_encrypted(&theirs(&letter), OURS, Some(ALICE_ANEW), None, &didcomm::PackEncryptedOptions::default())
            .await
            .unwrap();

        let (message, provenance) = ours.unpack(&packed).await;
        assert_eq!(serde_json::to_value(message).unwrap(), letter);
        assert_eq!(provenance.warnings, []);
        let prior = provenance.from_prior.unwrap();
        assert_eq!((prior.iss.as_str(), prior.sub.as_deref()), (ALICE, Some(ALICE_ANEW)));
        assert_eq!((prior.iat, prior.kid.as_str()), (Some(1_700_000_000), kid));
    }
}

/// The control: neither side reads a message for another recipient, nor a changed message.
#[tokio::test]
async fn messages_for_others_and_changed_messages_are_refused() {
    let documents = documents().await;
    let (ours, mediator) = (Ours::new(&[OURS], &documents).await, Ours::new(&[OUR_MEDIATOR], &documents).await);
    let peer = peer(&documents);
    let options = didcomm::PackEncryptedOptions::default();
    let (packed, _) =
        peer.pack_encrypted(&theirs(&letter(ALICE, OURS)), OURS, Some(ALICE), None, &options).await.unwrap();
    let refused = Message::unpack(&packed, &mediator.resolver, &mediator.me, &Default::default()).await.unwrap_err();
    assert!(matches!(refused, claviger::didcomm::Error::NotForUs(_)), "{refused}");

    let (sent, _) = ours.pack(&letter(OURS, BOB), BOB, Some(OURS), None, |packing| packing).await;
    assert!(Message::unpack(&flipped(&packed), &ours.resolver, &ours.me, &Default::default()).await.is_err());
    assert!(peer.unpack(&sent).await.is_ok() && peer.unpack(&flipped(&sent)).await.is_err());
}

#[test]
fn everything_with_softhsm() {
    everything_with(Module::SoftHsm, Custody::KekInProcess);
}

#[test]
fn everything_with_kryoptic() {
    everything_with(Module::Kryoptic, Custody::KekInToken);
}

/// Runs all tests above in another process, because the module reads its configuration from the environment.
fn everything_with(module: Module, custody: Custody) {
    if std::env::var_os(ours::TOKEN).is_some() {
        return;
    }
    let Some(token) = ThrowAway::new(module, "interop") else {
        eprintln!("skipped: {module:?} is missing");
        return;
    };
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.env(&token.env.0, &token.env.1).env(ours::TOKEN, &token.uri).env(ours::CUSTODY, custody.name());
    let output = again.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "over {module:?} ({}):\n{out}\n{err}", output.status);
    // The number includes the two tests that call this function. They do nothing in the other process.
    assert!(out.contains("15 passed; 0 failed; 0 ignored"), "{out}");
}

impl Ours {
    async fn pack(
        &self,
        letter: &Value,
        to: &str,
        from: Option<&str>,
        sign_by: Option<&str>,
        options: impl for<'a> FnOnce(PackEncrypted<'a>) -> PackEncrypted<'a>,
    ) -> (String, claviger::didcomm::PackEncryptedMetadata) {
        let message = ours_message(letter);
        let mut packing = message.encrypt_to(to);
        if let Some(from) = from {
            packing = packing.from(from);
        }
        if let Some(signer) = sign_by {
            packing = packing.sign_by(signer);
        }
        options(packing).pack(&self.resolver, &self.me).await.unwrap()
    }

    async fn unpack(&self, packed: &str) -> (Message, claviger::didcomm::Provenance) {
        Message::unpack(packed, &self.resolver, &self.me, &Default::default()).await.unwrap()
    }
}

/// Documents of both sides.
async fn documents() -> Vec<Value> {
    let mut documents = ours::documents().await;
    let peers = common::documents();
    documents.push(renamed(&peers[0], ALICE, ALICE_ANEW));
    documents.extend(peers);
    let mut key = peer_mediator_secret();
    key.as_object_mut().unwrap().retain(|member, _| ["kty", "crv", "x"].contains(&member.as_str()));
    let method = json!({
        "id": peer_mediator_key(), "type": "JsonWebKey2020", "controller": PEER_MEDIATOR, "publicKeyJwk": key,
    });
    documents.push(json!({ "id": PEER_MEDIATOR, "keyAgreement": [method] }));
    documents
}

/// A peer with the keys of Alice, before and after a rotation, and of Bob.
fn peer(documents: &[Value]) -> Peer {
    let alice = keys("alice");
    let anew = alice.iter().map(|key| renamed(key, ALICE, ALICE_ANEW));
    Peer::new(documents.to_vec(), anew.chain(alice.clone()).chain(keys("bob")).collect())
}

fn peer_mediator(documents: &[Value]) -> Peer {
    Peer::new(documents.to_vec(), vec![peer_mediator_secret()])
}

/// One of Alice's keys, under another id.
fn peer_mediator_secret() -> Value {
    let mut key = keys("alice").into_iter().find(|key| key["crv"] == "X25519").unwrap();
    key["kid"] = peer_mediator_key().into();
    key
}

fn peer_mediator_key() -> String {
    format!("{PEER_MEDIATOR}#key-1")
}

fn our_mediator_key() -> String {
    format!("{OUR_MEDIATOR}#mediator")
}

/// Adds a service with routing keys to a document.
fn serve(documents: &mut [Value], did: &str, routing_keys: [&str; 2]) {
    let document = documents.iter_mut().find(|document| document["id"] == did).unwrap();
    document["service"] = json!([{
        "id": format!("{did}#didcomm"),
        "type": "DIDCommMessaging",
        "serviceEndpoint": [{ "uri": "https://example.org/in", "accept": ["didcomm/v2"], "routingKeys": routing_keys }],
    }]);
}

fn renamed(value: &Value, from: &str, to: &str) -> Value {
    serde_json::from_str(&value.to_string().replace(from, to)).unwrap()
}

/// A message with every header that both sides support.
fn letter(from: &str, to: &str) -> Value {
    json!({
        "id": "1234567890",
        "typ": "application/didcomm-plain+json",
        "type": "https://example.org/letters/1.0/letter",
        "from": from,
        "to": [to],
        "thid": "a-thread",
        "pthid": "its-parent",
        "created_time": 1_700_000_000,
        "body": { "text": "Grüße, \"quoted\" and \\escaped\\ \u{1F511}", "numbers": [0, -1, 1.5], "nothing": null },
        "attachments": [
            { "id": "1", "media_type": "text/plain", "data": { "base64": "SGFsbG8" } },
            { "id": "2", "description": "an object", "data": { "json": { "a": [true] } } },
        ],
        "goal_code": "org.example.letters",
    })
}

fn ours_message(letter: &Value) -> Message {
    Message::from_json(&letter.to_string()).unwrap()
}

fn theirs(letter: &Value) -> didcomm::Message {
    serde_json::from_value(letter.clone()).unwrap()
}

/// Flips one bit of the ciphertext.
fn flipped(packed: &str) -> String {
    let mut jwe: Value = serde_json::from_str(packed).unwrap();
    let mut ciphertext = jwe["ciphertext"].as_str().unwrap().to_owned();
    let first = if ciphertext.starts_with('A') { "B" } else { "A" };
    ciphertext.replace_range(..1, first);
    jwe["ciphertext"] = ciphertext.into();
    jwe.to_string()
}
