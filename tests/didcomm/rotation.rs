//! DID rotation (DIDComm v2.1 "DID Rotation"): the token signs a `from_prior`, and the peer reads it.

use crate::support::{LUNCH, Person, RecordingResolver, identities};
use claviger::{
    did::{Document, Relationship, peer},
    didcomm::{Error, FromPrior, FromPriorError, Identities, Message, UnpackOptions},
    keys::Curve,
    secrets::{KeyOperation, Keyring, Policy, SecretsError},
};
use claviger_testkit::SoftToken;
use serde_json::{Value, json};

const IAT: i64 = 1_516_269_022;

// Conformance 60, 61, 62, 64.
#[tokio::test]
async fn a_rotation_is_sent_under_the_new_did() {
    for curve in [Curve::Ed25519, Curve::P256, Curve::Secp256k1] {
        let (me, old, new) = alice_with_two_dids(curve).await;
        let bob = Person::new("bob", &[Curve::X25519], &[]).await;
        let directory = RecordingResolver::with([bob.document.clone()]);
        let claims = FromPrior::rotation(old.id(), new.id(), IAT);
        let (jwt, kid) = claims.pack(None, &me).await.unwrap();
        assert_eq!(kid, format!("{}#key-1", old.id()));
        let header: Value = part(&jwt, 0);
        assert_eq!(header["typ"], "JWT");
        assert_eq!(header["kid"], kid);
        assert_eq!(header["alg"], curve.signature_algorithm().unwrap().name());
        assert_eq!(part(&jwt, 1), json!({"iss": old.id(), "sub": new.id(), "iat": IAT}));
        assert_eq!(FromPrior::unpack(&jwt, &directory).await.unwrap(), (claims, kid.clone()));

        let message = Message::build("1", LUNCH, json!({})).from(new.id()).to(&*bob.did).from_prior(&*jwt).finalize();
        let packed = message.encrypt_to(&bob.did).from(new.id()).pack(&directory, &me).await;
        let (read, provenance) = bob.unpack(&packed.unwrap().0, &directory).await.unwrap();
        assert_eq!(read.from_prior, Some(jwt));
        let prior = provenance.from_prior.unwrap();
        assert_eq!((&*prior.iss, prior.sub.as_deref()), (old.id(), Some(new.id())));
        assert_eq!((prior.iat, prior.kid), (Some(IAT), kid));
        assert_eq!(provenance.warnings, []);
    }
}

// Conformance 66.
#[tokio::test]
async fn an_ending_has_no_sub_and_no_from() {
    let (me, old, _) = alice_with_two_dids(Curve::Ed25519).await;
    let bob = Person::new("bob", &[Curve::X25519], &[]).await;
    let directory = RecordingResolver::with([bob.document.clone()]);
    let (jwt, _) = FromPrior::ending(old.id(), IAT).pack(None, &me).await.unwrap();
    assert_eq!(part(&jwt, 1), json!({"iss": old.id(), "iat": IAT}));
    let message =
        Message::build("1", "https://didcomm.org/empty/1.0/empty", json!({})).to(&*bob.did).from_prior(jwt).finalize();
    let packed = message.encrypt_to(&bob.did).pack(&directory, &me).await;
    let (_, provenance) = bob.unpack(&packed.unwrap().0, &directory).await.unwrap();
    let prior = provenance.from_prior.unwrap();
    assert_eq!((&*prior.iss, prior.sub), (old.id(), None));
    assert_eq!(provenance.warnings, []);
}

// Conformance 62, 110: the key belongs to the old DID, under either form of the DID.
#[tokio::test]
async fn only_a_key_of_the_old_did_signs() {
    let (me, old, new) = alice_with_two_dids(Curve::Ed25519).await;
    let rotation = FromPrior::rotation(old.id(), new.id(), IAT);
    let by = async |kid: &str| rotation.pack(Some(kid), &me).await;
    assert!(by(&format!("{}#key-1", old.id())).await.is_ok());
    assert_error!(by(&format!("{}#key-1", new.id())).await.unwrap_err(), Error::FromPrior(FromPriorError::Issuer));
    assert_error!(by(new.id()).await.unwrap_err(), Error::FromPrior(FromPriorError::Issuer));
    for kid in ["#key-2", "#key-9"] {
        assert_error!(by(&format!("{}{kid}", old.id())).await.unwrap_err(), Error::NotOurs { .. });
    }
    let foreign = FromPrior::rotation("did:example:mallory", new.id(), IAT);
    assert_error!(foreign.pack(None, &me).await.unwrap_err(), Error::NotOurs { .. });

    let token = SoftToken::new("alice");
    let key = token.make(Curve::Ed25519);
    let input = Document::builder().method("sign", &key, &[Relationship::Authentication]).input();
    let four = peer::create_4(&input).unwrap();
    let me = identities(&token, [four.short.clone()]).await;
    // The old DID is in long form and its key id in short form, and the reader has seen neither before.
    let rotation = FromPrior::rotation(four.long.id(), "did:example:new", IAT);
    let (jwt, kid) = rotation.pack(Some(four.short.id()), &me).await.unwrap();
    assert_eq!(kid, format!("{}#sign", four.short.id()));
    assert_eq!(FromPrior::unpack(&jwt, &RecordingResolver::default()).await.unwrap().0, rotation);
}

/// An attacker who controls the agent cannot sign a rotation, which would give away the DID: a policy forbids it.
#[tokio::test]
async fn a_policy_can_forbid_signing_rotations() {
    let token = SoftToken::new("alice");
    let key = token.make(Curve::Ed25519);
    let document = peer::create_2(&[(Relationship::Authentication, key.clone())], &[]).unwrap();
    let policy = Policy { allow: Some(vec![KeyOperation::SignMessage]), ..Default::default() };
    let keyring = Keyring::builder().token(token.clone()).key_policy(key, policy).start().await.unwrap();
    let me = Identities::new(keyring, [document.clone()]).await.unwrap();
    let refused = FromPrior::rotation(document.id(), "did:example:new", IAT).pack(None, &me).await;
    assert!(refused.unwrap_err().to_string().contains("sign:from-prior"));
    assert_eq!(token.counts().signatures, 0);
    // The key may sign messages, which cannot be read as a JWT.
    let message = Message::build("1", LUNCH, json!({})).from(document.id()).header("iss", json!(document.id()));
    let refused = message.finalize().pack_signed(document.id(), &me).await.unwrap_err();
    assert_error!(refused, Error::Envelope(claviger::jose::JoseError::Secrets(SecretsError::InvalidRequest(_))));
    assert_eq!(token.counts().signatures, 0);
    let message = Message::build("1", LUNCH, json!({})).from(document.id()).finalize();
    let (packed, _) = message.pack_signed(document.id(), &me).await.unwrap();
    Message::unpack(&packed, &RecordingResolver::default(), &me, &UnpackOptions::default()).await.unwrap();
}

/// Two did:peer:2 with keys in one token. `key-1` is for signatures, and `key-2` for key agreement.
async fn alice_with_two_dids(signing: Curve) -> (Identities, Document, Document) {
    let token = SoftToken::new("alice");
    let did = || {
        let keys = [
            (Relationship::Authentication, token.make(signing)),
            (Relationship::KeyAgreement, token.make(Curve::X25519)),
        ];
        peer::create_2(&keys, &[]).unwrap()
    };
    let (old, new) = (did(), did());
    (identities(&token, [old.clone(), new.clone()]).await, old, new)
}

fn part(jwt: &str, number: usize) -> Value {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(jwt.split('.').nth(number).unwrap()).unwrap()).unwrap()
}
