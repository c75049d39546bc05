//! `from_prior` (DIDComm v2.1 "DID Rotation") with valid signatures that were copied, forged or made for
//! another purpose.

use crate::support::{
    People, Person,
    forge::{Jwe, jwt, signed},
};
use claviger::{
    did::Relationship,
    didcomm::{Error, FromPrior, FromPriorError, Warning},
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
    assert_error!(rotation.read(&without("typ")).await.unwrap_err(), Error::Envelope(JoseError::InvalidMember("typ")));
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
