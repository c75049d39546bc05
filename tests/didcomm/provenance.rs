//! What is proved about the sender of a message, and receivers that require an authenticated sender.

use crate::support::{LUNCH, People, Person, lunch};
use claviger::{
    did::Resolver,
    didcomm::{Attachment, Error, FORWARD, Layer, Message, UnpackOptions},
};
use serde_json::{Value, json};

#[tokio::test]
async fn sender_and_signer_of_each_envelope() {
    let people = People::new().await;
    let (did, me, directory) = (people.alice.did.as_str(), &people.alice.identities, &people.resolver);
    let message = lunch(&people.alice, &people.bob);
    let to_bob = || message.encrypt_to(&people.bob.did);
    for (packed, sender, is_signed) in [
        (message.pack_plaintext().unwrap(), None, false),
        (to_bob().pack(directory, me).await.unwrap().0, None, false),
        (to_bob().from(did).pack(directory, me).await.unwrap().0, Some(did), false),
        (to_bob().from(did).protect_sender(true).pack(directory, me).await.unwrap().0, Some(did), false),
        (message.pack_signed(did, me).await.unwrap().0, Some(did), true),
        (to_bob().sign_by(did).pack(directory, me).await.unwrap().0, Some(did), true),
        (to_bob().from(did).sign_by(did).pack(directory, me).await.unwrap().0, Some(did), true),
    ] {
        let (_, provenance) = people.opened(&packed).await;
        assert_eq!(provenance.sender(), sender);
        assert_eq!(provenance.signer(), is_signed.then_some("did:example:alice#sign-1"));
        assert_eq!(provenance.sender().is_some(), provenance.authenticated);
        assert_eq!(provenance.signer().is_some(), provenance.non_repudiation);

        let authenticated = unpack_authenticated(&packed, &people.bob, directory).await;
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
    let people = People::new().await;
    let (bob, directory) = (&people.bob.did, &people.resolver);
    let message = lunch(&people.alice, &people.bob);
    let to_bob = || message.encrypt_to(bob);
    for (inner, sender) in [
        (to_bob().pack(directory, &people.alice.identities).await.unwrap().0, None),
        (
            to_bob().from(&people.alice.did).pack(directory, &people.alice.identities).await.unwrap().0,
            Some("did:example:alice"),
        ),
    ] {
        let inner: Value = serde_json::from_str(&inner).unwrap();
        let forward = Message::build("1", FORWARD, json!({ "next": bob }))
            .from(&*people.mallory.did)
            .to(&**bob)
            .attachment(Attachment::json(inner).finalize())
            .finalize();
        let carrier = &people.mallory;
        let packing = forward.encrypt_to(bob).from(&carrier.did).sign_by(&carrier.did);
        let (packed, _) = packing.pack(directory, &carrier.identities).await.unwrap();

        let (read, provenance) = people.opened(&packed).await;
        assert_eq!(read.type_, LUNCH);
        assert!(matches!(
            &provenance.layers[..3],
            [Layer::Authcrypt { .. }, Layer::Signed { .. }, Layer::Forward { .. }]
        ));
        assert_eq!((provenance.sender(), provenance.signer()), (sender, None));
        let authenticated = unpack_authenticated(&packed, &people.bob, directory).await;
        assert_eq!(authenticated.is_ok(), sender.is_some());
    }
}

async fn unpack_authenticated(packed: &str, recipient: &Person, resolver: &dyn Resolver) -> Result<Message, Error> {
    let options = UnpackOptions { require_authenticated: true, ..Default::default() };
    Message::unpack(packed, resolver, &recipient.identities, &options).await.map(|(message, _)| message)
}
