//! Tokens that are unavailable: which errors a later attempt may recover from, and how much work an attempt may cause.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use claviger::{
    crypto::{Cek, EncryptedKey},
    did::{Document, Relationship},
    didcomm::{Error, Identities, Message, UnpackOptions},
    jose::JoseError,
    keys::{Curve, PublicKey},
    secrets::{
        Context, HeldKeys, Keyring, Secrets, SecretsError, SignRequest, Signature, TokenError, UnwrapRequest,
        WrapRequest,
    },
};
use claviger_testkit::SoftToken;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::support::{LUNCH, Person, RecordingResolver};

const BOB: &str = "did:example:bob";

/// A document of Bob's with a key of each of these tokens, on X25519.
fn document(tokens: &[&SoftToken]) -> Document {
    let keys: Vec<_> = tokens.iter().map(|token| token.make(Curve::X25519)).collect();
    let names = ["first", "second", "third"];
    let add = |builder: claviger::did::DocumentBuilder, (name, key): (&&str, &PublicKey)| {
        builder.method(name, key, &[Relationship::KeyAgreement])
    };
    names.iter().zip(&keys).fold(Document::builder(), add).build(BOB).unwrap()
}

fn lunch(from: &str) -> Message {
    Message::build("1", LUNCH, json!({})).from(from).to(BOB).finalize()
}

async fn unpack(packed: &str, directory: &RecordingResolver, me: &Identities) -> Error {
    Message::unpack(packed, directory, me, &UnpackOptions::default()).await.expect_err("the message does not open")
}

/// Whichever key comes first: a key whose token is away may still open the message.
#[tokio::test]
async fn a_wrong_key_does_not_hide_a_token_that_is_away() {
    let (here, away) = (SoftToken::new("here"), SoftToken::new("away"));
    for (tokens, wrong) in [([&away, &here], 1), ([&here, &away], 0)] {
        let document = document(&tokens);
        let keyring = Keyring::start([here.clone(), away.clone()]).await.unwrap();
        let bob = Identities::new(keyring, [document.clone()]).await.unwrap();
        let alice = Person::new("alice", &[Curve::X25519], &[]).await;
        let directory = RecordingResolver::with([alice.document.clone(), document]);
        for authcrypt in [false, true] {
            let message = lunch(&alice.did);
            let packing = message.encrypt_to(BOB);
            let packing = if authcrypt { packing.from(&alice.did) } else { packing };
            let (packed, _) = packing.pack(&directory, &alice.identities).await.unwrap();
            let mut packed: Value = serde_json::from_str(&packed).unwrap();
            packed["recipients"][wrong]["encrypted_key"] = packed["recipients"][1 - wrong]["encrypted_key"].clone();
            away.set_away(true);
            let error = unpack(&packed.to_string(), &directory, &bob).await;
            away.set_away(false);
            if authcrypt && wrong == 0 {
                // The first attempt cost the two derivations that a layer may cost.
                assert!(matches!(error, Error::Envelope(JoseError::Decrypt(_))), "{error:?}");
                continue;
            }
            assert!(error.is_retryable(), "{error:?}");
        }
    }
}

/// [`Secrets`] whose operations fail.
struct Failing {
    keys: watch::Receiver<HeldKeys>,
    error: SecretsError,
    operations: Arc<AtomicUsize>,
}

#[async_trait]
impl Secrets for Failing {
    fn keys(&self) -> watch::Receiver<HeldKeys> {
        self.keys.clone()
    }

    async fn sign(&self, _: &PublicKey, _: &SignRequest<'_>, _: &Context) -> Result<Signature, SecretsError> {
        Err(self.error.clone())
    }

    async fn unwrap_cek(&self, _: &PublicKey, _: &UnwrapRequest, _: &Context) -> Result<Cek, SecretsError> {
        self.operations.fetch_add(1, Ordering::SeqCst);
        Err(self.error.clone())
    }

    async fn wrap_cek(&self, _: &PublicKey, _: &WrapRequest, _: &Context) -> Result<Vec<EncryptedKey>, SecretsError> {
        Err(self.error.clone())
    }
}

/// A message that names three of our keys may cost two derivations. An operation of which nobody knows whether the token
/// performed it counts. What did not reach the token does not.
#[tokio::test]
async fn operations_that_ended_badly_count() {
    let token = SoftToken::new("bob");
    let document = document(&[&token, &token, &token]);
    let keyring = Keyring::start([token]).await.unwrap();
    let alice = Person::new("alice", &[Curve::X25519], &[]).await;
    let directory = RecordingResolver::with([alice.document.clone(), document.clone()]);
    let message = lunch(&alice.did);
    let (packed, _) = message.encrypt_to(BOB).pack(&directory, &alice.identities).await.unwrap();
    let of_token = |error| SecretsError::Token { token: "bob".into(), error };
    let device = TokenError::Device { operation: "C_DeriveKey".into(), reason: "CKR_DEVICE_ERROR".into() };
    for (error, operations) in [
        (SecretsError::DeadlineExceeded { token: "bob".into() }, 2),
        (SecretsError::Interrupted { token: "bob".into() }, 2),
        (SecretsError::AuditFailed("the disk is full".into()), 2),
        (of_token(device), 2),
        (of_token(TokenError::Refused("C_DeriveKey: CKR_GENERAL_ERROR".into())), 2),
        (of_token(TokenError::Away("it is away".into())), 3),
        (SecretsError::Busy { token: "bob".into() }, 3),
    ] {
        let count = Arc::<AtomicUsize>::default();
        let failing = Failing { keys: keyring.keys(), error: error.clone(), operations: count.clone() };
        let bob = Identities::new(failing, [document.clone()]).await.unwrap();
        let failed = unpack(&packed, &directory, &bob).await;
        assert_eq!(count.load(Ordering::SeqCst), operations, "{error:?}");
        assert_eq!(failed.is_retryable(), error.is_retryable(), "{failed:?}");
        assert!(failed.is_retryable());
    }
}

/// A sender with a key on the recipient's curve may send later, even if only its keys on other curves are ready now.
#[tokio::test]
async fn a_curve_whose_token_is_away_is_a_common_curve() {
    let (here, away) = (SoftToken::new("here"), SoftToken::new("away"));
    let (p256, x25519) = (here.make(Curve::P256), away.make(Curve::X25519));
    let alice = "did:example:alice";
    let own = Document::builder()
        .method("p256", &p256, &[Relationship::KeyAgreement, Relationship::Authentication])
        .method("x25519", &x25519, &[Relationship::KeyAgreement])
        .build(alice)
        .unwrap();
    let keyring = Keyring::start([here.clone(), away.clone()]).await.unwrap();
    let me = Identities::new(keyring, [own.clone()]).await.unwrap();
    let on_x25519 = Person::new("bob", &[Curve::X25519], &[]).await;
    let on_p384 = Person::new("carol", &[Curve::P384], &[]).await;
    let directory = RecordingResolver::with([on_x25519.document.clone(), on_p384.document.clone()]);
    let send = async |me: &Identities, from: &str, to: &str| {
        let message = Message::build("1", LUNCH, json!({})).from(from).to(to).finalize();
        message.encrypt_to(to).from(from).pack(&directory, me).await
    };
    assert!(send(&me, alice, &on_x25519.did).await.is_ok());
    away.set_away(true);
    // The token is found to be away by the first operation.
    assert!(send(&me, alice, &on_x25519.did).await.unwrap_err().is_retryable());
    let error = send(&me, alice, &on_x25519.did).await.unwrap_err();
    assert!(matches!(error, Error::NoReadyKey { .. }) && error.is_retryable(), "{error:?}");
    let error = send(&me, alice, &on_p384.did).await.unwrap_err();
    assert!(matches!(error, Error::NoCommonCurve { .. }) && !error.is_retryable(), "{error:?}");

    // A token that was absent from the start has shown no key of the DID.
    let absent = Keyring::builder().allow_absent_tokens().token(away.clone()).start().await.unwrap();
    let (me, missing) = Identities::with_missing_keys(absent, [own]);
    assert_eq!(missing.len(), 2);
    let error = send(&me, alice, &on_x25519.did).await.unwrap_err();
    assert!(matches!(error, Error::NoReadyKey { .. }) && error.is_retryable(), "{error:?}");
    let error = send(&me, "did:example:mallory", &on_x25519.did).await.unwrap_err();
    assert!(matches!(error, Error::NotOurs { .. }) && !error.is_retryable(), "{error:?}");
}
