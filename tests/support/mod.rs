//! Test persons with keys in software tokens and DID documents, and a resolver that records its calls.
#![allow(dead_code)] // Each test program uses only a part of this module.

#[cfg(feature = "pkcs11")]
pub mod faulty_token;
pub mod forge;
mod modules;

#[allow(unused_imports)] // Some test programs need no module.
pub use modules::*;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use claviger::{
    did::{Document, LocalResolver, Relationship, ResolveError, Resolver, Service},
    didcomm::{Error, Identities, Message, PackEncrypted, Provenance, UnpackOptions},
    keys::{Curve, PublicKey},
    secrets::Keyring,
};
use claviger_testkit::SoftToken;
use serde_json::json;

/// The message type of test messages.
pub const LUNCH: &str = "https://example.org/lets_do_lunch/1.0/proposal";

/// A person with a DID document and its keys in a software token.
pub struct Person {
    pub did: String,
    pub document: Document,
    pub token: SoftToken,
    pub identities: Identities,
    /// The keys `#agree-1`, `#agree-2` ... in `keyAgreement`.
    pub agree: Vec<PublicKey>,
    /// The keys `#sign-1`, `#sign-2` ... in `authentication`.
    pub sign: Vec<PublicKey>,
}

impl Person {
    /// `did:example:NAME`, with a key on each of these curves.
    pub async fn new(name: &str, agree: &[Curve], sign: &[Curve]) -> Self {
        Self::with_service(name, agree, sign, None).await
    }

    /// Like `new`, with a service in the document.
    pub async fn with_service(name: &str, agree: &[Curve], sign: &[Curve], service: Option<Service>) -> Self {
        let did = format!("did:example:{name}");
        let token = SoftToken::new(name);
        let agree: Vec<PublicKey> = agree.iter().map(|curve| token.make(*curve)).collect();
        let sign: Vec<PublicKey> = sign.iter().map(|curve| token.make(*curve)).collect();
        let mut builder = Document::builder();
        for (number, key) in agree.iter().enumerate() {
            builder = builder.method(&format!("agree-{}", number + 1), key, &[Relationship::KeyAgreement]);
        }
        for (number, key) in sign.iter().enumerate() {
            builder = builder.method(&format!("sign-{}", number + 1), key, &[Relationship::Authentication]);
        }
        let document = service.into_iter().fold(builder, |builder, service| builder.service(service)).build(&did);
        let document = document.expect("a valid document");
        let identities = identities(&token, [document.clone()]).await;
        Self { did, document, token, identities, agree, sign }
    }

    /// The DID URL of a key.
    pub fn kid(&self, fragment: &str) -> String {
        format!("{}#{fragment}", self.did)
    }

    pub async fn unpack(&self, packed: &str, resolver: &dyn Resolver) -> Result<(Message, Provenance), Error> {
        Message::unpack(packed, resolver, &self.identities, &UnpackOptions::default()).await
    }
}

/// Identities with these documents, whose keys are in the token.
pub async fn identities(token: &SoftToken, documents: impl IntoIterator<Item = Document>) -> Identities {
    let keyring = Keyring::start([token.clone()]).await.expect("a software token starts");
    Identities::new(keyring, documents).await.expect("the token holds the keys")
}

/// A message from one person to another.
pub fn lunch(from: &Person, to: &Person) -> Message {
    Message::build(Message::new_id(), LUNCH, json!({"at": "noon"})).from(&*from.did).to(&*to.did).finalize()
}

/// Resolves the documents of persons, did:key and did:peer, and records the requested DIDs.
#[derive(Default)]
pub struct RecordingResolver {
    inner: LocalResolver,
    requests: Mutex<Vec<String>>,
}

impl RecordingResolver {
    pub fn of(people: &[&Person]) -> Self {
        Self::with(people.iter().map(|person| person.document.clone()))
    }

    pub fn with(documents: impl IntoIterator<Item = Document>) -> Self {
        Self { inner: LocalResolver::new().with_documents(documents), requests: Mutex::default() }
    }

    /// Returns the DIDs that were requested since the last call of this method.
    pub fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

#[async_trait]
impl Resolver for RecordingResolver {
    async fn resolve(&self, did: &str) -> Result<Arc<Document>, ResolveError> {
        self.requests.lock().unwrap().push(did.to_owned());
        self.inner.resolve(did).await
    }
}

/// Alice, who writes to Bob, and Mallory, who attacks.
pub struct People {
    pub alice: Person,
    pub bob: Person,
    pub mallory: Person,
    pub resolver: RecordingResolver,
}

impl People {
    /// Each person has two X25519 keys, a key on each NIST curve, and a key for each signature algorithm.
    pub async fn new() -> Self {
        const AGREE: [Curve; 5] = [Curve::X25519, Curve::X25519, Curve::P256, Curve::P384, Curve::P521];
        const SIGN: [Curve; 3] = [Curve::Ed25519, Curve::P256, Curve::Secp256k1];
        let person = |name| Person::new(name, &AGREE, &SIGN);
        let (alice, bob, mallory) = (person("alice").await, person("bob").await, person("mallory").await);
        let resolver = RecordingResolver::of(&[&alice, &bob, &mallory]);
        Self { alice, bob, mallory, resolver }
    }

    /// Bob's key agreement keys with these numbers, with their ids.
    pub fn keys_of_bob(&self, numbers: &[usize]) -> Vec<(String, PublicKey)> {
        let key = |number: &usize| (self.bob.kid(&format!("agree-{number}")), self.bob.agree[number - 1].clone());
        numbers.iter().map(key).collect()
    }

    /// A message from Alice to Bob, as JSON.
    pub fn plaintext(&self) -> serde_json::Value {
        serde_json::to_value(lunch(&self.alice, &self.bob)).unwrap()
    }

    pub async fn opened(&self, packed: impl ToString) -> (Message, Provenance) {
        self.bob.unpack(&packed.to_string(), &self.resolver).await.expect("Bob opens the message")
    }

    /// Returns the error with which Bob refuses a message.
    pub async fn refused(&self, packed: impl ToString) -> Error {
        self.bob.unpack(&packed.to_string(), &self.resolver).await.expect_err("Bob refuses the message")
    }

    /// Like `refused`. Asserts that Bob used neither his token nor the resolver.
    pub async fn refused_without_token_and_resolver(&self, packed: impl ToString) -> Error {
        self.resolver.take_requests();
        let error = self.refused_without_token(packed).await;
        assert_eq!(self.resolver.take_requests(), [""; 0], "{error}");
        error
    }

    /// Like `refused`. Asserts that Bob did not use his token.
    pub async fn refused_without_token(&self, packed: impl ToString) -> Error {
        let before = self.bob.token.counts();
        let error = self.refused(packed).await;
        assert_eq!(self.bob.token.counts(), before, "{error}");
        error
    }
}

/// Asserts that an error matches a pattern.
#[macro_export]
macro_rules! assert_error {
    ($error:expr, $($pattern:tt)+) => {{
        let error = $error;
        assert!(matches!(&error, $($pattern)+), "{error:?} is not {}", stringify!($($pattern)+));
    }};
}

/// `Message::encrypt_to` with a sender and a signer that may be absent.
pub fn packing<'a>(
    message: &'a Message,
    to: &'a str,
    from: Option<&'a str>,
    sign_by: Option<&'a str>,
) -> PackEncrypted<'a> {
    let mut packing = message.encrypt_to(to);
    if let Some(from) = from {
        packing = packing.from(from);
    }
    if let Some(signer) = sign_by {
        packing = packing.sign_by(signer);
    }
    packing
}
