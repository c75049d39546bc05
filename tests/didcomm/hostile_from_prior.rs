//! `from_prior` (DIDComm v2.1 "DID Rotation") with valid signatures that were copied, forged or made for
//! another purpose.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::{
    People, Person,
    forge::{Jwe, jwt, signed},
};
use claviger::{
    did::Relationship,
    didcomm::{Error, FromPrior, FromPriorError, Message, UnpackOptions, Warning},
    jose::JoseError,
    keys::Curve,
};
use serde_json::{Value, json};

const IAT: i64 = 1_516_269_022;

// Conformance 60, 61, 65.
#[tokio::test]
async fn a_valid_from_prior_is_read() {
    let rotation = Rotation::new().await;
    let text = rotation.message(&rotation.jwt(&header(), &rotation.claims()));
    let jwe = Jwe::authcrypt(&rotation.people.alice, &rotation.people.keys_of_bob(&[1]));
    let (_, provenance) = rotation.people.opened(jwe.seal(text.to_string())).await;
    let prior = provenance.from_prior.unwrap();
    assert_eq!(
        (&*prior.iss, prior.sub.as_deref(), prior.iat),
        ("did:example:old", Some("did:example:alice"), Some(IAT))
    );
    assert_eq!(prior.kid, "did:example:old#sign-1");
    assert_eq!(provenance.warnings, []);
    // The example of the specification has a `crv` in the header.
    let mut sample = header();
    sample["crv"] = "Ed25519".into();
    assert!(rotation.read(&rotation.jwt(&sample, &rotation.claims())).await.is_ok());
}

/// A `from_prior` names no audience, so anyone who received it can attach it to a message. Therefore its `sub` must be
/// the `from` of the message.
#[tokio::test]
async fn a_copied_from_prior_is_refused() {
    let rotation = Rotation::new().await;
    let Rotation { people, .. } = &rotation;
    let stolen = rotation.jwt(&header(), &rotation.claims());
    let mut text = rotation.message(&stolen);
    text["from"] = people.mallory.did.clone().into();
    let jwe = Jwe::authcrypt(&people.mallory, &people.keys_of_bob(&[1]));
    people.resolver.take_requests();
    assert_error!(people.refused(jwe.seal(text.to_string())).await, Error::FromPrior(FromPriorError::Subject));
    assert_eq!(people.resolver.take_requests(), ["did:example:mallory"], "the old DID is not resolved for it");
    // With Alice's `from` the message is not authcrypted by Alice.
    let jwe = Jwe::authcrypt(&people.mallory, &people.keys_of_bob(&[1]));
    assert_error!(people.refused(jwe.seal(rotation.message(&stolen).to_string())).await, Error::FromMismatch { .. });
    // In an anonymous message it has no effect, and the receiver gets a warning.
    for packed in [
        Jwe::anoncrypt(&people.keys_of_bob(&[1])).seal(rotation.message(&stolen).to_string()),
        signed(&people.alice, rotation.message(&stolen).to_string()),
        rotation.message(&stolen),
    ] {
        let (_, provenance) = people.opened(packed).await;
        assert!(provenance.warnings.contains(&Warning::UnauthenticatedFromPrior));
    }
    // The message has no `from`.
    text.as_object_mut().unwrap().shift_remove("from");
    let jwe = Jwe::anoncrypt(&people.keys_of_bob(&[1]));
    assert_error!(people.refused(jwe.seal(text.to_string())).await, Error::FromPrior(FromPriorError::Subject));
}

// Conformance 62.
#[tokio::test]
async fn only_the_old_did_can_sign_a_from_prior() {
    let rotation = Rotation::new().await;
    let mallory = &rotation.people.mallory;
    // Mallory signs with her own key id for the old DID. This is refused before her document is resolved.
    let mut kid = header();
    kid["kid"] = mallory.kid("sign-1").into();
    let forged = jwt(mallory, &mallory.sign[0], &kid, &rotation.claims());
    rotation.people.resolver.take_requests();
    assert_error!(rotation.read(&forged).await.unwrap_err(), Error::FromPrior(FromPriorError::Issuer));
    assert_eq!(rotation.people.resolver.take_requests(), [""; 0]);
    // Mallory signs with her own key and the key id of the old DID.
    let forged = jwt(mallory, &mallory.sign[0], &header(), &rotation.claims());
    assert_error!(rotation.read(&forged).await.unwrap_err(), Error::Envelope(JoseError::InvalidSignature));
    // A key of the old DID that is for key agreement signs.
    let mut agreement = header();
    agreement["kid"] = "did:example:old#agree-1".into();
    agreement["alg"] = "ES256".into();
    let forged = jwt(&rotation.old, &rotation.old.agree[0], &agreement, &rotation.claims());
    assert_error!(
        rotation.read(&forged).await.unwrap_err(),
        Error::NotAuthorised { relationship: Relationship::Authentication, .. }
    );
    for (iss, kid) in [("did:example:old#sign-1", "did:example:old#sign-1"), ("", ""), ("old", "old#sign-1")] {
        let mut claims = rotation.claims();
        claims["iss"] = iss.into();
        let mut header = header();
        header["kid"] = kid.into();
        let error = rotation.read(&rotation.jwt(&header, &claims)).await.unwrap_err();
        assert_error!(error, Error::FromPrior(FromPriorError::Issuer) | Error::InvalidKeyId(_));
    }
}

/// `typ` and `kid` of a `from_prior` must be in the protected header, so that no signed message passes for
/// a `from_prior`.
#[tokio::test]
async fn a_signed_message_is_refused_as_from_prior() {
    let rotation = Rotation::new().await;
    for typ in [json!("application/didcomm-signed+json"), json!("JWM"), json!(""), json!(1)] {
        let mut header = header();
        header["typ"] = typ;
        let error = rotation.read(&rotation.jwt(&header, &rotation.claims())).await.unwrap_err();
        assert_error!(error, Error::Envelope(JoseError::InvalidMember("typ")));
    }
    let without = |name: &str| {
        let mut header = header();
        header.as_object_mut().unwrap().shift_remove(name);
        rotation.jwt(&header, &rotation.claims())
    };
    let error = rotation.read(&without("typ")).await.unwrap_err();
    assert_error!(&error, Error::Envelope(JoseError::Missing("typ")));
    assert_eq!(error.to_string(), r#"the member "typ" is absent"#);
    assert_error!(rotation.read(&without("kid")).await.unwrap_err(), Error::Envelope(JoseError::Missing("kid")));
    assert_error!(rotation.read(&without("alg")).await.unwrap_err(), Error::Envelope(JoseError::Missing("alg")));
    // A real signed message in the compact serialization.
    let message = signed(&rotation.old, rotation.claims().to_string());
    let part = |pointer| message.pointer(pointer).unwrap().as_str().unwrap();
    let compact = [part("/signatures/0/protected"), part("/payload"), part("/signatures/0/signature")].join(".");
    assert_error!(rotation.read(&compact).await.unwrap_err(), Error::Envelope(JoseError::InvalidMember("typ")));
    // The token builds the header and checks the payload, so it never signs a `from_prior` as a message.
    assert!(
        rotation
            .old
            .identities
            .secrets()
            .sign(
                &rotation.old.sign[0],
                &claviger::secrets::SignRequest::Message(rotation.claims().to_string().as_bytes()),
                &Default::default(),
            )
            .await
            .is_err()
    );
}

#[tokio::test]
async fn malformed_from_priors_are_refused() {
    let rotation = Rotation::new().await;
    for (name, value) in [("crit", json!(["exp"])), ("b64", json!(false)), ("zip", json!("DEF"))] {
        let mut header = header();
        header[name] = value;
        let error = rotation.read(&rotation.jwt(&header, &rotation.claims())).await.unwrap_err();
        assert_error!(error, Error::Envelope(JoseError::RefusedParameter(refused)) if refused == name);
    }
    for alg in ["none", "HS256", "ES384"] {
        let mut header = header();
        header["alg"] = alg.into();
        let error = rotation.read(&rotation.jwt(&header, &rotation.claims())).await.unwrap_err();
        assert_error!(error, Error::Envelope(JoseError::UnsupportedAlgorithm(name)) if name == alg);
    }
    let mut es256 = header();
    es256["alg"] = "ES256".into();
    let error = rotation.read(&rotation.jwt(&es256, &rotation.claims())).await.unwrap_err();
    assert_error!(error, Error::Envelope(JoseError::AlgorithmMismatch { curve: Curve::Ed25519, .. }));

    for (name, value) in [("iss", json!(null)), ("iss", json!(1)), ("sub", json!(["x"])), ("iat", json!("today"))] {
        let mut claims = rotation.claims();
        claims[name] = value;
        let error = rotation.read(&rotation.jwt(&header(), &claims)).await.unwrap_err();
        assert_error!(error, Error::FromPrior(FromPriorError::Claims(_)));
    }
    let sound = rotation.jwt(&header(), &rotation.claims());
    for broken in [format!("{sound}."), format!("{sound}.AA"), sound.replacen('.', "", 1), String::new()] {
        let error = rotation.read(&broken).await.unwrap_err();
        assert_error!(error, Error::Envelope(JoseError::InvalidMember("from_prior")));
    }
    for broken in [format!("{sound}="), format!("{sound}\n"), format!(" {sound}")] {
        assert_error!(rotation.read(&broken).await.unwrap_err(), Error::Envelope(JoseError::InvalidBase64(_)));
    }
}

/// RFC 7519 sections 4.1.3 to 4.1.5, with five minutes between the clocks. All of it is checked before the old DID is
/// resolved.
#[tokio::test]
async fn a_from_prior_is_valid_at_its_time_and_for_its_audience() {
    let rotation = Rotation::new().await;
    let people = &rotation.people;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let with = |more: Value| {
        let mut claims = rotation.claims();
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let text = rotation.message(&rotation.jwt(&header(), &claims)).to_string();
        Jwe::authcrypt(&people.alice, &people.keys_of_bob(&[1])).seal(text)
    };
    for more in [
        json!({"exp": now + 1.5, "nbf": now - 1.5}),
        json!({"exp": now - 200.0, "nbf": now + 200.0}),
        json!({"exp": null, "nbf": null, "aud": null}),
        json!({"exp": 253_402_300_799_u64, "nbf": 0}),
        json!({"aud": "did:example:bob"}),
        json!({"aud": ["did:example:mallory", "did:example:bob"]}),
        json!({"iat": 1_516_269_022.5, "jti": "1", "crv": 7}),
    ] {
        let (_, provenance) = people.opened(with(more)).await;
        assert_eq!(provenance.from_prior.unwrap().iat, Some(IAT));
    }
    people.resolver.take_requests();
    for (more, expected) in [
        (json!({"exp": now - 400.0}), FromPriorError::Expired),
        (json!({"exp": 0}), FromPriorError::Expired),
        (json!({"exp": -1.5}), FromPriorError::Expired),
        (json!({"nbf": now + 400.0}), FromPriorError::NotYetValid),
        (json!({"aud": "did:example:mallory"}), FromPriorError::Audience),
        (json!({"aud": ["did:example:alice", "did:example:bobby"]}), FromPriorError::Audience),
        (json!({"aud": []}), FromPriorError::Audience),
        (json!({"exp": "tomorrow"}), claim("exp must be a number of seconds since 1970, and is a string")),
        (json!({"nbf": true}), claim("nbf must be a number of seconds since 1970, and is true or false")),
        (json!({"iat": 1e300}), claim("iat must be a number of seconds since 1970, and is a number that is too large")),
        (json!({"aud": 7}), claim("aud must be a string or an array of strings, and is a number")),
        (json!({"aud": [7]}), claim("aud must be a string or an array of strings, and is a number")),
    ] {
        let error = people.refused(with(more.clone())).await;
        assert_error!(error, Error::FromPrior(found) if *found == expected);
        let requests = people.resolver.take_requests();
        assert!(!requests.contains(&"did:example:old".to_owned()), "{more}: {requests:?}");
    }
    // Without a recipient nobody is the audience.
    let mut claims = rotation.claims();
    claims["aud"] = "did:example:bob".into();
    let error = rotation.read(&rotation.jwt(&header(), &claims)).await.unwrap_err();
    assert_error!(error, Error::FromPrior(FromPriorError::Audience));
}

/// A message that waited, for a token for example, is judged by the time at which it came.
#[tokio::test]
async fn a_from_prior_does_not_expire_while_its_message_waits() {
    let rotation = Rotation::new().await;
    let people = &rotation.people;
    let mut claims = rotation.claims();
    claims["exp"] = (IAT + 60).into();
    let text = rotation.message(&rotation.jwt(&header(), &claims)).to_string();
    let packed = Jwe::authcrypt(&people.alice, &people.keys_of_bob(&[1])).seal(text).to_string();
    for (arrived, is_read) in [(IAT + 50, true), (IAT + 350, true), (IAT + 370, false)] {
        let arrived = Some(UNIX_EPOCH + Duration::from_secs(arrived.unsigned_abs()));
        let options = UnpackOptions { arrived, ..UnpackOptions::default() };
        let read = Message::unpack(&packed, &people.resolver, &people.bob.identities, &options).await;
        assert_eq!(read.is_ok(), is_read, "{read:?}");
    }
}

fn claim(words: &str) -> FromPriorError {
    FromPriorError::Claims(words.to_owned())
}

// Conformance 66: an ending has no `sub`, and its message has no `from`, so it is anoncrypted.
#[tokio::test]
async fn an_ending_must_be_encrypted_and_have_no_from() {
    let rotation = Rotation::new().await;
    let people = &rotation.people;
    let ending = rotation.jwt(&header(), &json!({"iss": "did:example:old", "iat": IAT}));
    let mut text = rotation.message(&ending);
    let jwe = Jwe::authcrypt(&people.alice, &people.keys_of_bob(&[1])).seal(text.to_string());
    assert_error!(people.refused(jwe).await, Error::FromPrior(FromPriorError::Ending));
    text.as_object_mut().unwrap().shift_remove("from");
    let (_, provenance) = people.opened(Jwe::anoncrypt(&people.keys_of_bob(&[1])).seal(text.to_string())).await;
    assert_eq!(provenance.from_prior.unwrap().sub, None);
    assert_eq!(provenance.warnings, []);
    // Anyone on the way could have attached the ending to an unencrypted message.
    let (_, provenance) = people.opened(text).await;
    assert!(provenance.warnings.contains(&Warning::UnauthenticatedFromPrior));
}

/// Alice, whose DID was `did:example:old` before.
struct Rotation {
    people: People,
    old: Person,
}

impl Rotation {
    async fn new() -> Self {
        let mut people = People::new().await;
        let old = Person::new("old", &[Curve::P256], &[Curve::Ed25519]).await;
        people.resolver = crate::support::RecordingResolver::of(&[&people.alice, &people.bob, &people.mallory, &old]);
        Self { people, old }
    }

    fn claims(&self) -> Value {
        json!({"iss": "did:example:old", "sub": "did:example:alice", "iat": IAT})
    }

    /// Signs any claims with the key of the old DID.
    fn jwt(&self, header: &Value, claims: &Value) -> String {
        jwt(&self.old, &self.old.sign[0], header, claims)
    }

    async fn read(&self, jwt: &str) -> Result<(FromPrior, String), Error> {
        FromPrior::unpack(jwt, &self.people.resolver).await
    }

    /// A message from Alice to Bob with this `from_prior`.
    fn message(&self, from_prior: &str) -> Value {
        let mut text = self.people.plaintext();
        text["from_prior"] = from_prior.into();
        text
    }
}

fn header() -> Value {
    json!({"typ": "JWT", "alg": "EdDSA", "kid": "did:example:old#sign-1"})
}
