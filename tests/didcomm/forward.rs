//! Forwards (DIDComm v2.1 "Routing Protocol 2.0"): mediators, endpoints that are DIDs, and the choice of the service.

use crate::support::{Person, RecordingResolver, identities, lunch};
use claviger::{
    crypto::ContentEncryption,
    did::{Document, Relationship, Service, ServiceEndpoint, key},
    didcomm::{
        Error, FORWARD, Forward, Layer, Message, PackEncrypted, PackEncryptedMetadata, UnpackOptions, Warning,
        wrap_in_forward,
    },
    keys::Curve,
};
use claviger_testkit::SoftToken;
use serde_json::{Map, Value, json};

// Conformance 68, 69, 71, 74.
#[tokio::test]
async fn forward_through_one_mediator() {
    let mediator = Person::new("mediator", &[Curve::P256, Curve::X25519], &[]).await;
    let route =
        Route::new(Service::didcomm("https://mediator.example.org", [mediator.kid("agree-2")]), &[&mediator]).await;
    let (packed, metadata) = route.send(|packing| packing).await.unwrap();
    let service = metadata.messaging_service.unwrap();
    assert_eq!(service.service_endpoint, "https://mediator.example.org");
    assert_eq!(service.id, "did:example:bob#service");

    let carried = carry(&mediator, &route, &packed, &route.bob.did).await;
    let (message, provenance) = route.bob.unpack(&carried, &route.resolver).await.unwrap();
    assert_eq!(message, route.message);
    assert!(provenance.authenticated);
}

// Conformance 69: the forward for the last routing key is the innermost, and each forward names the next recipient.
#[tokio::test]
async fn forward_through_two_mediators() {
    let first = Person::new("first", &[Curve::P384], &[]).await;
    let second = Person::new("second", &[Curve::X25519], &[]).await;
    // One routing key is a DID URL, the other a DID.
    let keys = [first.kid("agree-1"), second.did.clone()];
    let route = Route::new(Service::didcomm("https://first.example.org", keys), &[&first, &second]).await;
    let (packed, _) = route.send(|packing| packing).await.unwrap();
    let carried = carry(&first, &route, &packed, &second.did).await;
    let carried = carry(&second, &route, &carried, &route.bob.did).await;
    assert_eq!(route.bob.unpack(&carried, &route.resolver).await.unwrap().0, route.message);
    // Nobody else can open a layer.
    assert_error!(second.unpack(&packed, &route.resolver).await.unwrap_err(), Error::NotForUs(_));
    assert_error!(route.bob.unpack(&packed, &route.resolver).await.unwrap_err(), Error::NotForUs(_));
}

// Conformance 70: the mediator's keys are prepended to the routing keys.
#[tokio::test]
async fn forward_to_an_endpoint_that_is_a_did() {
    let outer = Person::new("outer", &[Curve::X25519], &[]).await;
    let service = Service::didcomm("wss://mediator.example.org", [outer.kid("agree-1")]);
    let mediator = Person::with_service("mediator", &[Curve::P256], &[], Some(service)).await;
    let inner = Person::new("inner", &[Curve::P256], &[]).await;
    let service = Service::didcomm(&*mediator.did, [inner.kid("agree-1")]);
    let route = Route::new(service, &[&outer, &mediator, &inner]).await;
    let (packed, metadata) = route.send(|packing| packing).await.unwrap();
    assert_eq!(metadata.messaging_service.unwrap().service_endpoint, "wss://mediator.example.org");
    let carried = carry(&outer, &route, &packed, &mediator.did).await;
    let carried = carry(&mediator, &route, &carried, &inner.kid("agree-1")).await;
    let carried = carry(&inner, &route, &carried, &route.bob.did).await;
    assert_eq!(route.bob.unpack(&carried, &route.resolver).await.unwrap().0, route.message);
}

// Conformance 70: recursion is limited, and a mediator must have a URL.
#[tokio::test]
async fn unusable_mediators_are_refused() {
    let circular = Service::didcomm("did:example:mediator", []);
    let mediator = Person::with_service("mediator", &[Curve::P256], &[], Some(circular.clone())).await;
    let route = Route::new(circular, &[&mediator]).await;
    assert_error!(route.send(|packing| packing).await.unwrap_err(), Error::UnusableService { .. });

    let url = Service::didcomm("did:example:other#service", []);
    let mediator = Person::with_service("mediator", &[Curve::P256], &[], Some(url)).await;
    let route = Route::new(Service::didcomm("did:example:mediator", []), &[&mediator]).await;
    assert_error!(route.send(|packing| packing).await.unwrap_err(), Error::UnusableService { .. });

    let mediator = Person::new("mediator", &[Curve::P256], &[]).await;
    let route = Route::new(Service::didcomm("did:example:mediator", []), &[&mediator]).await;
    assert_error!(route.send(|packing| packing).await.unwrap_err(), Error::UnusableService { .. });
    let route = Route::new(Service::didcomm("did:example:nobody", []), &[]).await;
    assert_error!(route.send(|packing| packing).await.unwrap_err(), Error::Resolve(_));
    // The routing key is for signing only.
    let mediator = Person::new("mediator", &[Curve::P256], &[Curve::P256]).await;
    let route = Route::new(Service::didcomm("https://m.example.org", [mediator.kid("sign-1")]), &[&mediator]).await;
    assert_error!(route.send(|packing| packing).await.unwrap_err(), Error::NotAuthorised { .. });
}

/// A mediator may give Bob a did:key as routing key.
#[tokio::test]
async fn a_routing_key_may_be_a_did_key() {
    let token = SoftToken::new("mediator");
    let document = key::create(&token.make(Curve::P256));
    let (did, me) = (document.id().to_owned(), identities(&token, [document.clone()]).await);
    let kid = document.methods(Relationship::KeyAgreement).next().unwrap().id.clone();
    for routing_key in [did, kid] {
        let route = Route::new(Service::didcomm("https://mediator.example.org", [routing_key]), &[]).await;
        let (packed, _) = route.send(|packing| packing).await.unwrap();
        let opened = Message::unpack(&packed, &route.resolver, &me, &UnpackOptions::default()).await;
        let (forward, provenance) = opened.unwrap();
        assert_eq!(forward.type_, FORWARD);
        assert!(provenance.warnings.is_empty() && !provenance.authenticated);
    }
}

// Conformance 68: a forward expires no later than the message that it carries.
#[tokio::test]
async fn forwards_have_expiry_and_given_headers() {
    let mediator = Person::new("mediator", &[Curve::P256], &[]).await;
    let mut route =
        Route::new(Service::didcomm("https://mediator.example.org", [mediator.kid("agree-1")]), &[&mediator]).await;
    route.message.expires_time = Some(4_102_444_800);
    let (packed, _) = route.send(|packing| packing).await.unwrap();
    let (forward, _) = mediator.unpack(&packed, &route.resolver).await.unwrap();
    assert_eq!(forward.expires_time, Some(4_102_444_800));
    assert_eq!(forward.please_ack, None, "conformance 24");
    assert_eq!(forward.to.as_deref(), Some(&[mediator.did.clone()][..]));

    let headers = Map::from_iter([("delay_milli".to_owned(), json!(50)), ("expires_time".to_owned(), json!(1))]);
    let (packed, _) = route.send(|packing| packing.forward_headers(headers)).await.unwrap();
    let (forward, provenance) = mediator.unpack(&packed, &route.resolver).await.unwrap();
    assert_eq!((forward.expires_time, &forward.extra_headers["delay_milli"]), (Some(1), &json!(50)));
    assert_eq!(provenance.warnings, [Warning::Expired]);
    // The forward does not outlive its message.
    let headers = Map::from_iter([("expires_time".to_owned(), json!(4_102_444_801_u64))]);
    let (packed, _) = route.send(|packing| packing.forward_headers(headers)).await.unwrap();
    let (forward, _) = mediator.unpack(&packed, &route.resolver).await.unwrap();
    assert_eq!(forward.expires_time, Some(4_102_444_800));
    // A header that the forward has already must not be given.
    for name in ["id", "type", "to", "body", "attachments"] {
        let headers = Map::from_iter([(name.to_owned(), Value::Null)]);
        let refused = route.send(|packing| packing.forward_headers(headers)).await;
        assert_error!(refused.unwrap_err(), Error::Forward(_));
    }
}

// Conformance 75, 76, 77.
#[tokio::test]
async fn the_first_service_that_accepts_v2_is_used() {
    let endpoint = |uri: &str, accept: &[&str]| ServiceEndpoint {
        uri: uri.to_owned(),
        accept: Some(accept.iter().map(|profile| (*profile).to_owned()).collect()),
        routing_keys: Vec::new(),
    };
    let service = |id: &str, kind: &str, endpoints: Vec<ServiceEndpoint>| Service {
        id: id.to_owned(),
        kind: vec![kind.to_owned()],
        endpoints,
    };
    let bob = Person::new("bob", &[Curve::X25519], &[]).await;
    let document = [
        service("#v1", "did-communication", vec![endpoint("https://v1.example.org", &[])]),
        service("#aip", "DIDCommMessaging", vec![endpoint("https://aip.example.org", &["didcomm/aip2;env=rfc19"])]),
        service(
            "#both",
            "DIDCommMessaging",
            vec![
                endpoint("https://aip.example.org", &["didcomm/aip1"]),
                endpoint("https://v2.example.org", &["didcomm/aip1", "didcomm/v2"]),
            ],
        ),
        service("#any", "DIDCommMessaging", vec![endpoint("https://any.example.org", &[])]),
    ]
    .into_iter()
    .fold(Document::builder().method("agree-1", &bob.agree[0], &[Relationship::KeyAgreement]), |builder, service| {
        builder.service(service)
    })
    .build(&bob.did)
    .unwrap();
    let alice = Person::new("alice", &[Curve::X25519], &[]).await;
    let resolver = RecordingResolver::with([document, alice.document.clone()]);
    let route = Route { message: lunch(&alice, &bob), resolver, alice, bob };
    let chosen = async |id: Option<&str>| {
        let (packed, metadata) = match id.map(|id| format!("did:example:bob#{id}")) {
            Some(service) => {
                route.packing().messaging_service(&service).pack(&route.resolver, &route.alice.identities).await?
            }
            None => route.send(|packing| packing).await?,
        };
        // Without routing keys the message is not wrapped.
        assert_eq!(route.bob.unpack(&packed, &route.resolver).await.unwrap().0, route.message);
        Ok::<_, Error>(metadata.messaging_service.unwrap().service_endpoint)
    };
    assert_eq!(chosen(None).await.unwrap(), "https://v2.example.org");
    assert_eq!(chosen(Some("any")).await.unwrap(), "https://any.example.org");
    for id in ["v1", "aip", "absent"] {
        assert_error!(chosen(Some(id)).await.unwrap_err(), Error::UnusableService { .. });
    }
}

#[tokio::test]
async fn the_caller_can_wrap_forwards() {
    let mediator = Person::new("mediator", &[Curve::P256], &[]).await;
    let service = Service::didcomm("https://mediator.example.org", [mediator.kid("agree-1")]);
    let route = Route::new(service, &[&mediator]).await;
    let (packed, metadata) = route.send(|packing| packing.forward(false)).await.unwrap();
    assert!(metadata.messaging_service.is_some());
    route.bob.unpack(&packed, &route.resolver).await.unwrap();

    let keys = [mediator.kid("agree-1")];
    let wrapped =
        wrap_in_forward(&packed, None, &route.bob.did, &keys, ContentEncryption::A256CbcHs512, &route.resolver)
            .await
            .unwrap();
    let carried = carry(&mediator, &route, &wrapped, &route.bob.did).await;
    route.bob.unpack(&carried, &route.resolver).await.unwrap();
    let wrapped =
        wrap_in_forward("no JSON", None, &route.bob.did, &keys, ContentEncryption::A256CbcHs512, &route.resolver).await;
    assert_error!(wrapped.unwrap_err(), Error::Forward(_));
}

// Conformance 72: a mediator that wraps again for the recipient itself.
#[tokio::test]
async fn unwrap_forward_opens_a_forward_to_us() {
    let route = Route::new(Service::didcomm("https://bob.example.org", []), &[]).await;
    let (packed, _) = route.send(|packing| packing).await.unwrap();
    let keys = [route.bob.did.clone()];
    let enc = ContentEncryption::A256CbcHs512;
    let again = wrap_in_forward(&packed, None, &route.bob.did, &keys, enc, &route.resolver).await.unwrap();

    let (message, provenance) = route.bob.unpack(&again, &route.resolver).await.unwrap();
    assert_eq!(message, route.message);
    assert!(matches!(
        &provenance.layers[..],
        [Layer::Anoncrypt { .. }, Layer::Forward { next }, Layer::Authcrypt { .. }] if *next == route.bob.did
    ));
    // The carrier was anonymous, not the sender.
    assert!(provenance.authenticated && !provenance.anonymous_sender);

    let options = UnpackOptions { unwrap_forward: false, ..Default::default() };
    let (message, _) = Message::unpack(&again, &route.resolver, &route.bob.identities, &options).await.unwrap();
    assert_eq!(message.type_, FORWARD);
}

/// Alice writes to Bob, whose document has a service.
struct Route {
    alice: Person,
    bob: Person,
    resolver: RecordingResolver,
    message: Message,
}

impl Route {
    async fn new(service: Service, others: &[&Person]) -> Self {
        let alice = Person::new("alice", &[Curve::X25519], &[]).await;
        let bob = Person::with_service("bob", &[Curve::X25519], &[], Some(service)).await;
        let mut people = vec![&alice, &bob];
        people.extend(others);
        let resolver = RecordingResolver::of(&people);
        Self { message: lunch(&alice, &bob), resolver, alice, bob }
    }

    fn packing(&self) -> PackEncrypted<'_> {
        self.message.encrypt_to(&self.bob.did).from(&self.alice.did)
    }

    async fn send(
        &self,
        options: impl for<'a> FnOnce(PackEncrypted<'a>) -> PackEncrypted<'a>,
    ) -> Result<(String, PackEncryptedMetadata), Error> {
        options(self.packing()).pack(&self.resolver, &self.alice.identities).await
    }
}

/// Acts as a mediator: opens the forward, checks its `next`, and returns the message inside.
async fn carry(mediator: &Person, route: &Route, packed: &str, next: &str) -> String {
    let (message, provenance) = mediator.unpack(packed, &route.resolver).await.unwrap();
    assert!(provenance.encrypted && !provenance.authenticated);
    assert_eq!(message.from, None);
    let forward = Forward::from_message(&message).expect("a forward").unwrap();
    assert_eq!(forward.next, next);
    let [carried] = &forward.forwarded[..] else { panic!("{forward:?}") };
    carried.clone()
}
