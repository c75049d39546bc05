//! A DID with keys in software.

use claviger::{
    did::{Document, Relationship, peer},
    didcomm::Identities,
    keys::Curve,
    secrets::{Custodian, KeyUse, Keyring, NewKey},
};

use crate::SoftToken;

/// An identity for tests: a new did:peer:2 with an X25519 and a P-256 key for key agreement and an Ed25519 key for
/// signing, in a [`SoftToken`] of this name. [`LocalResolver`](claviger::did::LocalResolver) resolves it.
///
/// ```
/// use claviger::{did::LocalResolver, didcomm::{Message, UnpackOptions}};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let (alice, bob) = (claviger_testkit::identity("alice").await, claviger_testkit::identity("bob").await);
/// let did = |me: &claviger::didcomm::Identities| me.documents().next().expect("one").id().to_owned();
/// let body = serde_json::json!({"at": "noon"});
/// let lunch = Message::build(Message::new_id(), "https://example.org/lunch/1.0/proposal", body)
///     .from(did(&alice)).to(did(&bob)).finalize();
/// let resolver = LocalResolver::new();
/// let (packed, _) = lunch
///     .encrypt_to(&did(&bob)).from(&did(&alice)).pack(&resolver, &alice).await?;
/// let (read, provenance) = Message::unpack(&packed, &resolver, &bob, &UnpackOptions::default()).await?;
/// assert_eq!(read.id, lunch.id);
/// assert!(provenance.authenticated);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub async fn identity(name: &str) -> Identities {
    identity_in(&SoftToken::new(name)).await.1
}

/// Like [`identity`], with the keys in this token, so that a test can count its operations and cause faults. Returns
/// the DID's document too.
pub async fn identity_in(token: &SoftToken) -> (Document, Identities) {
    let make = |curve, usage| token.generate(&NewKey { curve, usage, label: None }).expect("a fitting use").public;
    let keys = [
        (Relationship::KeyAgreement, make(Curve::X25519, KeyUse::Agreement)),
        (Relationship::KeyAgreement, make(Curve::P256, KeyUse::Agreement)),
        (Relationship::Authentication, make(Curve::Ed25519, KeyUse::Signing)),
    ];
    let document = peer::create_2(&keys, &[]).expect("three keys make a DID");
    let keyring = Keyring::start([token.clone()]).await.expect("a software token starts");
    let identities = Identities::new(keyring, [document.clone()]).await.expect("the token holds the keys");
    (document, identities)
}
