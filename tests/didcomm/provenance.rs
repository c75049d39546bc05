//! What is proved about the sender of a message, and receivers who require it.

use crate::support::{LUNCH, Person, Stage, lunch};
use claviger::{
    did::Resolver,
    didcomm::{Attachment, Error, FORWARD, Layer, Message, UnpackOptions},
};
use serde_json::{Value, json};

#[tokio::test]
async fn sender_and_signer_of_each_envelope() {
    let stage = Stage::new().await;
    let (did, me, directory) = (stage.alice.did.as_str(), &stage.alice.me, &stage.directory);
    let message = lunch(&stage.alice, &stage.bob);
    let to_bob = || message.encrypt_to(&stage.bob.did);
    for (packed, sender, is_signed) in [
        (message.pack_plaintext().unwrap(), None, false),
        (to_bob().pack(directory, me).await.unwrap().0, None, false),
        (to_bob().from(did).pack(directory, me).await.unwrap().0, Some(did), false),
        (to_bob().from(did).protect_sender(true).pack(directory, me).await.unwrap().0, Some(did), false),
        (message.pack_signed(did, me).await.unwrap().0, Some(did), true),
        (to_bob().sign_by(did).pack(directory, me).await.unwrap().0, Some(did), true),
        (to_bob().from(did).sign_by(did).pack(directory, me).await.unwrap().0, Some(did), true),
    ] {
        let (_, provenance) = stage.opened(&packed).await;
        assert_eq!(provenance.sender(), sender);
        assert_eq!(provenance.signer(), is_signed.then_some("did:example:alice#sign-1"));
        assert_eq!(provenance.sender().is_some(), provenance.authenticated);
        assert_eq!(provenance.signer().is_some(), provenance.non_repudiation);

        let authenticated = unpack_authenticated(&packed, &stage.bob, directory).await;
        match sender {
            Some(_) => assert_eq!(authenticated.unwrap(), message),
            None => {
                let error = authenticated.unwrap_err();
                assert!(error.to_string().contains("the sender is not authenticated"), "{error}");
                assert!(!error.is_retryable());
                assert_error!(error, Error::NotAuthenticated);
            }
        }
    }
}

/// The mediator that forwards a message is not its sender, even if the mediator is authenticated.
#[tokio::test]
async fn the_carrier_of_a_forward_is_not_the_sender() {
    let stage = Stage::new().await;
    let (bob, directory) = (&stage.bob.did, &stage.directory);
    let message = lunch(&stage.alice, &stage.bob);
    let to_bob = || message.encrypt_to(bob);
    for (inner, sender) in [
        (to_bob().pack(directory, &stage.alice.me).await.unwrap().0, None),
        (to_bob().from(&stage.alice.did).pack(directory, &stage.alice.me).await.unwrap().0, Some("did:example:alice")),
    ] {
        let inner: Value = serde_json::from_str(&inner).unwrap();
        let forward = Message::build("1", FORWARD, json!({ "next": bob }))
            .from(&*stage.mallory.did)
            .to(&**bob)
            .attachment(Attachment::json(inner).finalize())
            .finalize();
        let carrier = &stage.mallory;
        let packing = forward.encrypt_to(bob).from(&carrier.did).sign_by(&carrier.did);
        let (packed, _) = packing.pack(directory, &carrier.me).await.unwrap();

        let (read, provenance) = stage.opened(&packed).await;
        assert_eq!(read.type_, LUNCH);
        assert!(matches!(
            &provenance.layers[..3],
            [Layer::Authcrypt { .. }, Layer::Signed { .. }, Layer::Forward { .. }]
        ));
        assert_eq!((provenance.sender(), provenance.signer()), (sender, None));
        let authenticated = unpack_authenticated(&packed, &stage.bob, directory).await;
        assert_eq!(authenticated.is_ok(), sender.is_some());
    }
}

async fn unpack_authenticated(packed: &str, recipient: &Person, resolver: &dyn Resolver) -> Result<Message, Error> {
    let options = UnpackOptions { require_authenticated: true, ..Default::default() };
    Message::unpack(packed, resolver, &recipient.me, &options).await.map(|(message, _)| message)
}
