//! Packing and unpacking between two agents: each envelope, each DID method, and the choice of the keys.

use crate::support::{LUNCH, People, Person, RecordingResolver, identities, lunch, packing};
use claviger::{
    crypto::ContentEncryption,
    did::{Document, Relationship, key, peer},
    didcomm::{
        Error, Identities, Layer, Message, PackEncrypted, PackEncryptedMetadata, Provenance, UnpackOptions, Warning,
    },
    jose::JoseError,
    keys::{Curve, KeyError, SignatureAlgorithm},
    secrets::{Keyring, SecretsError, TokenError},
};
use claviger_testkit::{Counts, SoftToken};
use serde_json::{Value, json};

// Conformance 3, 11, 32, 34, 36, 37, 38, 39, 43.
#[tokio::test]
async fn authcrypt_on_every_curve() {
    let people = People::new().await;
    for number in 1..=5 {
        let before = (people.alice.token.counts(), people.bob.token.counts());
        let to = people.bob.kid(&format!("agree-{number}"));
        let (packed, metadata) = pack(&people, &to, true, None, as_is).await.unwrap();
        let (message, provenance) = people.opened(&packed).await;

        assert_eq!(message.from.as_deref(), Some(&*people.alice.did));
        assert!(provenance.authenticated && provenance.encrypted);
        assert!(!provenance.anonymous_sender && !provenance.non_repudiation);
        assert_eq!(provenance.warnings, []);
        let skid = metadata.from_kid.unwrap();
        assert_eq!(metadata.to_kids, [&*to]);
        let [Layer::Authcrypt { alg, enc, skid: shown, kid, recipients, custody }] = &provenance.layers[..] else {
            panic!("{provenance:?}")
        };
        assert_eq!((*alg, *enc), ("ECDH-1PU+A256KW", ContentEncryption::A256CbcHs512));
        assert_eq!((shown, kid, &recipients[..]), (&skid, &to, &[to.clone()][..]));
        assert!(custody.is_some());

        let header = protected(&packed);
        assert_eq!(header["typ"], "application/didcomm-encrypted+json");
        assert_eq!(header["skid"], skid);
        assert_eq!(header["apu"], crate::support::forge::b64(&skid));
        assert_eq!(header["apv"], crate::support::forge::b64(crate::support::forge::apv([&*to].into_iter())));
        assert_eq!(header["epk"]["crv"], people.bob.agree[number - 1].curve().name());
        // The sender derives Zs in one call; the recipient derives Ze and Zs.
        let packing = Counts { derivations: 1, wraps: 1, ..Counts::default() };
        assert_eq!(people.alice.token.counts() - before.0, packing);
        assert_eq!(people.bob.token.counts() - before.1, Counts { derivations: 2, unwraps: 1, ..Counts::default() });
    }
}

// Conformance 11, 34, 35, 36, 38: anoncrypt names no sender and needs no private key of the sender.
#[tokio::test]
async fn anoncrypt_with_every_curve_and_content_encryption() {
    let people = People::new().await;
    for number in 1..=5 {
        for enc in ContentEncryption::ALL {
            let to = people.bob.kid(&format!("agree-{number}"));
            let before = people.alice.token.counts();
            let (packed, metadata) = pack(&people, &to, false, None, |packing| packing.enc(enc)).await.unwrap();
            assert_eq!(people.alice.token.counts(), before);
            assert_eq!(metadata.from_kid, None);
            let header = protected(&packed);
            assert_eq!((header.get("skid"), header.get("apu")), (None, None));
            assert_eq!(header["enc"], enc.name());

            let (_, provenance) = people.opened(&packed).await;
            assert!(provenance.encrypted && provenance.anonymous_sender && !provenance.authenticated);
            assert!(matches!(&provenance.layers[..], [Layer::Anoncrypt { enc: shown, .. }] if *shown == enc));
        }
    }
}

// Conformance 48, 49, 51, 52.
#[tokio::test]
async fn signed_with_every_algorithm() {
    let people = People::new().await;
    let message = lunch(&people.alice, &people.bob);
    for (number, alg) in
        [(1, SignatureAlgorithm::EdDsa), (2, SignatureAlgorithm::Es256), (3, SignatureAlgorithm::Es256k)]
    {
        let kid = people.alice.kid(&format!("sign-{number}"));
        let (packed, metadata) = message.pack_signed(&kid, &people.alice.identities).await.unwrap();
        assert_eq!(metadata.sign_by_kid, kid);
        let value: Value = serde_json::from_str(&packed).unwrap();
        assert_eq!(value["signatures"][0]["header"], json!({"kid": kid}), "unprotected, as the vectors have it");

        let (read, provenance) = people.opened(&packed).await;
        assert_eq!(read, message);
        assert_eq!(provenance.layers, [Layer::Signed { alg, kid }]);
        assert!(provenance.authenticated && provenance.non_repudiation && !provenance.encrypted);
    }
    // If only the DID is given, the first key of its document signs.
    let (_, metadata) = message.pack_signed(&people.alice.did, &people.alice.identities).await.unwrap();
    assert_eq!(metadata.sign_by_kid, people.alice.kid("sign-1"));
}

// Conformance 6, 7, 10, 47, 52.
#[tokio::test]
async fn every_allowed_nesting_is_packed() {
    let people = People::new().await;
    let kinds = |provenance: &Provenance| -> Vec<&'static str> {
        let kind = |layer: &Layer| match layer {
            Layer::Authcrypt { .. } => "authcrypt",
            Layer::Anoncrypt { .. } => "anoncrypt",
            Layer::Signed { .. } => "signed",
            other => panic!("{other:?}"),
        };
        provenance.layers.iter().map(kind).collect()
    };
    let hidden: Options = |packing| packing.protect_sender(true).enc(ContentEncryption::Xc20P);
    let plain: Options = as_is;
    let sign_by = Some(people.alice.did.as_str());
    for (from, sign_by, options, expected, warning) in [
        (false, sign_by, plain, &["anoncrypt", "signed"][..], None),
        (true, None, hidden, &["anoncrypt", "authcrypt"], None),
        (true, sign_by, plain, &["authcrypt", "signed"], Some(Warning::DiscouragedNesting)),
    ] {
        let (packed, metadata) = pack(&people, &people.bob.did, from, sign_by, options).await.unwrap();
        assert_eq!(metadata.sign_by_kid.is_some(), sign_by.is_some());
        let (_, provenance) = people.opened(&packed).await;
        assert_eq!(kinds(&provenance), expected);
        assert_eq!(provenance.warnings, Vec::from_iter(warning));
        assert!(provenance.authenticated && provenance.encrypted);
        assert_eq!(provenance.non_repudiation, sign_by.is_some());
        assert_eq!(provenance.anonymous_sender, expected[0] == "anoncrypt");
        assert_eq!(protected(&packed).get("skid").is_some(), expected[0] == "authcrypt");
    }
}

// Conformance 8, 9, 17, 52.
#[tokio::test]
async fn forbidden_combinations_are_not_packed() {
    let people = People::new().await;
    let hidden: Options = |packing| packing.protect_sender(true);
    let sign_by = Some(people.alice.did.as_str());
    assert_error!(
        pack(&people, &people.bob.did, true, sign_by, hidden).await.unwrap_err(),
        Error::ForbiddenCombination(_)
    );
    assert_error!(
        pack(&people, &people.bob.did, false, None, hidden).await.unwrap_err(),
        Error::ForbiddenCombination(_)
    );

    let refused = async |message: Message, from: Option<&str>, sign_by: Option<&str>| {
        let (bob, me) = (&people.bob.did, &people.alice.identities);
        let before = people.alice.token.counts();
        let packed = packing(&message, bob, from, sign_by).pack(&people.resolver, me).await;
        assert_eq!(people.alice.token.counts(), before);
        match packed {
            Err(Error::HeaderMismatch { header, .. }) => header,
            other => panic!("{other:?}"),
        }
    };
    let (alice, honest) = (Some(people.alice.did.as_str()), lunch(&people.alice, &people.bob));
    let with = |change: fn(&mut Message)| {
        let mut message = honest.clone();
        change(&mut message);
        message
    };
    let nobody = with(|message| message.from = None);
    assert_eq!(refused(nobody.clone(), alice, None).await, "from");
    assert_eq!(refused(nobody, None, alice).await, "from");
    assert_eq!(refused(with(|message| message.from = Some("did:example:mallory".into())), alice, None).await, "from");
    assert_eq!(refused(with(|message| message.to = None), None, alice).await, "to");
    assert_eq!(refused(with(|message| message.to = Some(vec!["did:example:carol".into()])), alice, None).await, "to");
    // Conformance 15, 17: `from` and `to` are DIDs, not DID URLs.
    let url = with(|message| message.to.as_mut().unwrap().push("did:example:carol#key-1".into()));
    assert_eq!(refused(url, alice, None).await, "to");
    assert_eq!(
        refused(with(|message| message.from = Some("did:example:alice#agree-1".into())), None, None).await,
        "from"
    );
}

// Conformance 110: both forms of a did:peer:4 name the same DID. 109, 111: did:peer:2 and did:key.
#[tokio::test]
async fn every_pair_of_did_methods_exchanges_messages() {
    let alice = every_method("alice").await;
    let bob = every_method("bob").await;
    let resolver = RecordingResolver::default();
    for (from, alice) in &alice {
        for (to, bob) in &bob {
            let message = Message::build("1", LUNCH, json!({})).from(from).to(to).finalize();
            for sign_by in [None, Some(from.as_str())] {
                let packed = packing(&message, to, Some(from), sign_by).pack(&resolver, alice).await;
                let packed = packed.unwrap_or_else(|error| panic!("{from} to {to}: {error}")).0;
                let opened = Message::unpack(&packed, &resolver, bob, &UnpackOptions::default()).await;
                let (read, provenance) = opened.unwrap_or_else(|error| panic!("{from} to {to}: {error}"));
                assert_eq!(read, message);
                assert!(provenance.authenticated);
            }
        }
    }
}

/// A did:peer:2 and a did:peer:4 in both forms, with a P-256 key for key agreement and an Ed25519 key for signatures,
/// and the did:key of the P-256 key.
async fn every_method(name: &str) -> Vec<(String, Identities)> {
    let token = SoftToken::new(name);
    let (agree, sign) = (token.make(Curve::P256), token.make(Curve::Ed25519));
    let two = peer::create_2(
        &[(Relationship::Authentication, sign.clone()), (Relationship::KeyAgreement, agree.clone())],
        &[],
    );
    let four = Document::builder().method("sign", &sign, &[Relationship::Authentication]).method(
        "agree",
        &agree,
        &[Relationship::KeyAgreement],
    );
    let four = peer::create_4(&four.input()).unwrap();
    let mut all = Vec::new();
    for document in [two.unwrap(), four.long, key::create(&agree)] {
        all.push((document.id().to_owned(), identities(&token, [document]).await));
    }
    // The long form comes first: once it was resolved, the resolver knows the short form.
    all.push((four.short.id().to_owned(), identities(&token, [four.short]).await));
    all
}

/// A first message may have the long form of a did:peer:4 in `from`, and the short form in the key id.
#[tokio::test]
async fn the_long_form_in_from_resolves_the_short_form_in_kid() {
    let token = SoftToken::new("alice");
    let key = token.make(Curve::Ed25519);
    let input = Document::builder().method("sign", &key, &[Relationship::Authentication]).input();
    let four = peer::create_4(&input).unwrap();
    let short = identities(&token, [four.short.clone()]).await;
    let message = Message::build("1", LUNCH, json!({})).from(four.long.id()).finalize();
    let (packed, metadata) = message.pack_signed(four.short.id(), &short).await.unwrap();
    assert_eq!(metadata.sign_by_kid, format!("{}#sign", four.short.id()));

    let bob = Person::new("bob", &[Curve::P256], &[]).await;
    let (_, provenance) = bob.unpack(&packed, &RecordingResolver::default()).await.unwrap();
    assert!(provenance.non_repudiation);
}

/// A key id in the form of libraries that are older than the clarifications of did:peer:2 is found.
#[tokio::test]
async fn a_legacy_fragment_of_our_did_peer_2_is_our_key() {
    let token = SoftToken::new("bob");
    let key = token.make(Curve::X25519);
    let document = peer::create_2(&[(Relationship::KeyAgreement, key.clone())], &[]).unwrap();
    let bob = identities(&token, [document.clone()]).await;
    let multikey = key.to_multikey();
    let message = Message::build("1", LUNCH, json!({})).to(document.id()).finalize();
    for fragment in [&multikey, &multikey[1..], &multikey[1..9], "key-1"] {
        let kid = format!("{}#{fragment}", document.id());
        let jwe = crate::support::forge::Jwe::anoncrypt(&[(kid, key.clone())]).seal(message.to_json());
        Message::unpack(&jwe.to_string(), &RecordingResolver::default(), &bob, &UnpackOptions::default())
            .await
            .unwrap();
    }
}

// Conformance 31, 33, 37: encrypts to all keys of the first curve, in the recipient's order, on which the sender has
// a key.
#[tokio::test]
async fn the_recipients_order_decides_the_curve() {
    use Curve::{P256, P384, X25519};
    let bob = Person::new("bob", &[P384, X25519, P256, X25519], &[]).await;
    for (ours, fragments) in
        [(&[P256, X25519][..], &["agree-2", "agree-4"][..]), (&[P256], &["agree-3"]), (&[X25519, P384], &["agree-1"])]
    {
        let alice = Person::new("alice", ours, &[]).await;
        let directory = RecordingResolver::of(&[&alice, &bob]);
        let message = lunch(&alice, &bob);
        let (packed, metadata) =
            message.encrypt_to(&bob.did).from(&alice.did).pack(&directory, &alice.identities).await.unwrap();
        let kids: Vec<String> = fragments.iter().map(|fragment| bob.kid(fragment)).collect();
        assert_eq!(metadata.to_kids, kids);
        bob.unpack(&packed, &directory).await.unwrap();
        // Anoncrypt does not depend on the curves of the sender.
        let (_, metadata) = message.encrypt_to(&bob.did).pack(&directory, &alice.identities).await.unwrap();
        assert_eq!(metadata.to_kids, [bob.kid("agree-1")]);
    }
}

// Conformance 33, 76: an unusable part of a document does not affect the rest.
#[tokio::test]
async fn unusable_recipient_keys_are_skipped() {
    let people = People::new().await;
    let key = people.bob.agree[2].to_multikey();
    let document = json!({
        "id": people.bob.did,
        "keyAgreement": [
            {"id": "#x448", "type": "JsonWebKey2020", "publicKeyJwk": {"kty": "OKP", "crv": "X448", "x": "AAAA"}},
            {"id": "#low", "type": "JsonWebKey2020", "publicKeyJwk": {"kty": "OKP", "crv": "X25519", "x": "A".repeat(43)}},
            {"id": "#signs", "type": "Multikey", "publicKeyMultibase": people.bob.sign[0].to_multikey()},
            {"id": "#agree-3", "type": "Multikey", "publicKeyMultibase": key},
        ],
        "service": [{"id": "#v1", "type": "did-communication", "serviceEndpoint": "https://v1.example.org"}],
    });
    let directory = RecordingResolver::with([Document::from_value(document).unwrap()]);
    let message = lunch(&people.alice, &people.bob);
    let pack = async |to: &str| {
        message.encrypt_to(to).from(&people.alice.did).pack(&directory, &people.alice.identities).await
    };
    let (packed, metadata) = pack(&people.bob.did).await.unwrap();
    assert_eq!(metadata.to_kids, [people.bob.kid("agree-3")]);
    assert_eq!(metadata.messaging_service, None);
    people.opened(packed).await;
    // If an unusable key is named, the error says why it is unusable.
    assert_error!(
        pack(&people.bob.kid("x448")).await.unwrap_err(),
        Error::UnusableKey { error: KeyError::Unsupported(_), .. }
    );
    assert_error!(
        pack(&people.bob.kid("low")).await.unwrap_err(),
        Error::UnusableKey { error: KeyError::LowOrder(_), .. }
    );
    assert_error!(pack(&people.bob.kid("signs")).await.unwrap_err(), Error::NoRecipientKey(_));
}

// Conformance 45: nonce, ephemeral key and content key are fresh each time, even for the same message.
#[tokio::test]
async fn nonces_and_keys_are_fresh_for_each_message() {
    let people = People::new().await;
    for authcrypt in [true, false] {
        let mut seen = std::collections::HashSet::new();
        for _ in 0..8 {
            let (packed, _) = pack(&people, &people.bob.did, authcrypt, None, as_is).await.unwrap();
            let value: Value = serde_json::from_str(&packed).unwrap();
            for part in [&value["iv"], &value["ciphertext"], &value["tag"], &protected(&packed)["epk"]["x"]] {
                assert!(seen.insert(part.to_string()), "{part} again");
            }
        }
    }
}

#[tokio::test]
async fn a_key_is_chosen_by_its_did_url() {
    let people = People::new().await;
    let (to, from) = (people.bob.kid("agree-2"), people.alice.kid("agree-2"));
    let message = lunch(&people.alice, &people.bob);
    let packed = message.encrypt_to(&to).from(&from).pack(&people.resolver, &people.alice.identities).await;
    let (packed, metadata) = packed.unwrap();
    assert_eq!((metadata.from_kid.as_deref(), &metadata.to_kids[..]), (Some(&*from), &[to][..]));
    people.opened(packed).await;

    // A signing key of the recipient, a key that does not exist, and a text that is not a DID URL.
    for (to, from) in [("sign-2", "agree-3"), ("agree-9", "agree-1")] {
        let (to, from) = (people.bob.kid(to), people.alice.kid(from));
        let refused = message.encrypt_to(&to).from(&from).pack(&people.resolver, &people.alice.identities).await;
        assert_error!(refused.unwrap_err(), Error::NotAuthorised { kid, .. } if *kid == to);
    }
    for from in [people.alice.kid("sign-1"), people.alice.kid("agree-9")] {
        let (bob, alice) = (&people.bob.did, &people.alice.identities);
        let refused = message.encrypt_to(bob).from(&from).pack(&people.resolver, alice).await;
        assert_error!(refused.unwrap_err(), Error::NotOurs { name, relationship: "keyAgreement" } if *name == from);
        let refused = message.pack_signed(&people.alice.kid("agree-3"), &people.alice.identities).await;
        assert_error!(refused.unwrap_err(), Error::NotOurs { relationship: "authentication", .. });
    }
    let refused = message.encrypt_to("bob").pack(&people.resolver, &people.alice.identities).await;
    assert_error!(refused.unwrap_err(), Error::InvalidKeyId(_));
}

#[tokio::test]
async fn the_error_without_a_common_curve_names_both_sides() {
    let alice = Person::new("alice", &[Curve::P256, Curve::P521], &[]).await;
    let bob = Person::new("bob", &[Curve::X25519, Curve::P384], &[]).await;
    let directory = RecordingResolver::of(&[&alice, &bob]);
    let message = lunch(&alice, &bob);
    let refused = message.encrypt_to(&bob.did).from(&alice.did).pack(&directory, &alice.identities).await;
    let error = refused.unwrap_err();
    assert_eq!(
        error.to_string(),
        "did:example:bob has keyAgreement keys over X25519, P-384, and did:example:alice over P-256, P-521: there is no \
         common curve"
    );
    assert_error!(error, Error::NoCommonCurve { .. });
    // A recipient without key agreement keys.
    let carol = Person::new("carol", &[], &[Curve::Ed25519]).await;
    let directory = RecordingResolver::of(&[&carol]);
    let message = lunch(&alice, &carol);
    let refused = message.encrypt_to(&carol.did).pack(&directory, &alice.identities).await;
    assert_error!(refused.unwrap_err(), Error::NoRecipientKey(did) if *did == carol.did);
}

#[tokio::test]
async fn identities_name_the_method_that_no_token_holds() {
    let people = People::new().await;
    let (held, stranger) = (SoftToken::new("held"), SoftToken::new("stranger").make(Curve::X25519));
    let ours = held.make(Curve::Ed25519);
    let document = Document::builder()
        .method("sign", &ours, &[Relationship::Authentication])
        .method("agree", &stranger, &[Relationship::KeyAgreement])
        .build("did:example:alice")
        .unwrap();
    let keyring = Keyring::start([held.clone()]).await.unwrap();
    let Err(error) = Identities::new(keyring, [document.clone()]).await else { panic!("no token holds it") };
    assert_error!(error, Error::KeyNotHeld(kid) if kid == "did:example:alice#agree");

    let keyring = Keyring::start([held]).await.unwrap();
    let (me, missing) = Identities::with_missing_keys(keyring, [document, people.bob.document.clone()]);
    assert_eq!(missing[0], "did:example:alice#agree");
    assert_eq!(missing.len(), 1 + 8, "and all of Bob's");
    assert!(me.key("did:example:alice#sign", Relationship::Authentication).is_some());
    assert!(me.key("did:example:alice#sign", Relationship::KeyAgreement).is_none());
    assert!(me.document(&people.bob.did).is_none(), "not ours at all");
}

/// After a rotation, the old document still decrypts, and only the current keys encrypt.
#[tokio::test]
async fn old_documents_decrypt_and_do_not_encrypt() {
    let token = SoftToken::new("bob");
    let (old, new) = (token.make(Curve::X25519), token.make(Curve::X25519));
    let document = |fragment: &str, key| {
        let builder = Document::builder().method(fragment, key, &[Relationship::KeyAgreement]);
        builder.build("did:example:bob").unwrap()
    };
    let bob = identities(&token, [document("new", &new), document("old", &old)]).await;
    let alice = Person::new("alice", &[Curve::X25519], &[]).await;
    // Alice has the old document.
    let directory = RecordingResolver::with([alice.document.clone(), document("old", &old)]);
    let message = Message::build("1", LUNCH, json!({})).from(&*alice.did).to("did:example:bob").finalize();
    let packed = message.encrypt_to("did:example:bob").from(&alice.did).pack(&directory, &alice.identities);
    let (packed, _) = packed.await.unwrap();
    Message::unpack(&packed, &directory, &bob, &UnpackOptions::default()).await.unwrap();

    let answer = Message::build("2", LUNCH, json!({})).from("did:example:bob").to(&*alice.did).finalize();
    let packed = answer.encrypt_to(&alice.did).from("did:example:bob").pack(&directory, &bob).await;
    assert_eq!(packed.unwrap().1.from_kid.as_deref(), Some("did:example:bob#new"));
}

// Conformance 46: every recipient key of ours is tried, and an unavailable token costs the others nothing.
#[tokio::test]
async fn an_unavailable_token_does_not_block_the_others() {
    let (here, away) = (SoftToken::new("here"), SoftToken::new("away"));
    let (first, second) = (away.make(Curve::X25519), here.make(Curve::X25519));
    let document = Document::builder()
        .method("first", &first, &[Relationship::KeyAgreement])
        .method("second", &second, &[Relationship::KeyAgreement])
        .build("did:example:bob")
        .unwrap();
    let keyring = Keyring::start([here.clone(), away.clone()]).await.unwrap();
    let bob = Identities::new(keyring, [document.clone()]).await.unwrap();
    let alice = Person::new("alice", &[Curve::X25519], &[]).await;
    let directory = RecordingResolver::with([alice.document.clone(), document]);
    let message = Message::build("1", LUNCH, json!({})).from(&*alice.did).to("did:example:bob").finalize();
    let packed = message.encrypt_to("did:example:bob").from(&alice.did).pack(&directory, &alice.identities);
    let (packed, _) = packed.await.unwrap();

    away.set_away(true);
    let (_, provenance) = Message::unpack(&packed, &directory, &bob, &UnpackOptions::default()).await.unwrap();
    assert!(matches!(&provenance.layers[0], Layer::Authcrypt { kid, .. } if kid == "did:example:bob#second"));
    // With both tokens unavailable, the error is retryable: the sender is not at fault.
    here.set_away(true);
    let error = Message::unpack(&packed, &directory, &bob, &UnpackOptions::default()).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert_error!(error, Error::Envelope(JoseError::Secrets(SecretsError::Token { error: TokenError::Away(_), .. })));
    here.set_away(false);
    let deadline = Some(std::time::Instant::now());
    let options = UnpackOptions { deadline, ..Default::default() };
    let error = Message::unpack(&packed, &directory, &bob, &options).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
}

/// Sets options of a message before it is packed.
type Options = fn(PackEncrypted<'_>) -> PackEncrypted<'_>;

fn as_is(packing: PackEncrypted<'_>) -> PackEncrypted<'_> {
    packing
}

async fn pack(
    people: &People,
    to: &str,
    authcrypt: bool,
    sign_by: Option<&str>,
    options: impl for<'a> FnOnce(PackEncrypted<'a>) -> PackEncrypted<'a>,
) -> Result<(String, PackEncryptedMetadata), Error> {
    let from = authcrypt.then_some(people.alice.did.as_str());
    let message = lunch(&people.alice, &people.bob);
    options(packing(&message, to, from, sign_by)).pack(&people.resolver, &people.alice.identities).await
}

fn protected(packed: &str) -> Value {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let packed: Value = serde_json::from_str(packed).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(packed["protected"].as_str().unwrap()).unwrap()).unwrap()
}
