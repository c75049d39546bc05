//! A peer in the test's process, with keys in a software token and a did:peer:2.

use std::{future::Future, sync::OnceLock};

use claviger::{
    did::{
        Document, LocalResolver, Relationship, Resolver, Service,
        peer::{create_2, create_4},
    },
    didcomm::{Message, MessageBuilder, Provenance, UnpackOptions},
    keys::{Curve, PublicKey},
};
use claviger_testkit::SoftToken;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::{
    api_client::SAY,
    daemon::{Daemon, status_of},
    support::{
        Person,
        forge::{Jwe, jws, jws_header},
        identities,
    },
};

/// The fragments of the ids of a peer's key agreement keys (`AGREE`) and signing keys (`SIGN`).
pub const AGREE: [&str; 2] = ["key-1", "key-2"];
pub const SIGN: [&str; 2] = ["key-3", "key-4"];

/// Runs a future of the library to its end.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap()).block_on(future)
}

/// Seconds since 1970.
pub fn seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

pub struct Peer {
    pub person: Person,
}

impl Peer {
    /// Makes a peer without an endpoint. It gets messages only on connections that it opens.
    pub fn new(name: &str) -> Self {
        Self::with_services(name, &[])
    }

    /// Makes a peer with an endpoint at this URI.
    pub fn with_endpoint(name: &str, uri: &str) -> Self {
        Self::with_services(name, &[Service::didcomm(uri, [])])
    }

    /// Makes a peer with a did:peer:4 in the long form, and an endpoint at this URI.
    pub fn with_long_form(name: &str, uri: Option<&str>) -> Self {
        let token = SoftToken::new(name);
        let agree = [Curve::X25519, Curve::P256].map(|curve| token.make(curve)).to_vec();
        let sign = [Curve::Ed25519, Curve::P256].map(|curve| token.make(curve)).to_vec();
        let mut builder = Document::builder();
        for (keys, names, relationship) in
            [(&agree, AGREE, Relationship::KeyAgreement), (&sign, SIGN, Relationship::Authentication)]
        {
            for (key, name) in keys.iter().zip(names) {
                builder = builder.method(name, key, &[relationship]);
            }
        }
        if let Some(uri) = uri {
            builder = builder.service(Service::didcomm(uri, []));
        }
        let document = create_4(&builder.input()).unwrap().long;
        let identities = block_on(identities(&token, [document.clone()]));
        Self { person: Person { did: document.id().to_owned(), document, token, identities, agree, sign } }
    }

    /// Makes a peer with these services.
    pub fn with_services(name: &str, services: &[Service]) -> Self {
        Self::with_curves(name, &[Curve::X25519, Curve::P256], services)
    }

    /// Makes a peer with key agreement keys on these curves, at most two, and with these services.
    pub fn with_curves(name: &str, curves: &[Curve], services: &[Service]) -> Self {
        let token = SoftToken::new(name);
        let agree: Vec<_> = curves.iter().map(|curve| token.make(*curve)).collect();
        let sign = [Curve::Ed25519, Curve::P256].map(|curve| token.make(curve)).to_vec();
        let keys = agree.iter().map(|key| (Relationship::KeyAgreement, key.clone()));
        let keys: Vec<_> = keys.chain(sign.iter().map(|key| (Relationship::Authentication, key.clone()))).collect();
        let document = create_2(&keys, services).unwrap();
        let identities = block_on(identities(&token, [document.clone()]));
        Self { person: Person { did: document.id().to_owned(), document, token, identities, agree, sign } }
    }

    pub fn did(&self) -> &str {
        &self.person.did
    }

    pub fn kid(&self, fragment: &str) -> String {
        self.person.kid(fragment)
    }

    /// A new message of the type [`SAY`], to be changed or packed.
    pub fn message(&self, to: &str, content: &str) -> MessageBuilder {
        Message::build(Message::new_id(), SAY, json!({"content": content}))
            .from(self.did())
            .to(to)
            .created_time(seconds())
    }

    /// The message that `message` makes, as JSON, to be made invalid.
    pub fn plaintext(&self, to: &str, content: &str) -> Value {
        serde_json::to_value(self.message(to, content).finalize()).unwrap()
    }

    /// Packs a message with authcrypt.
    pub fn pack(&self, message: &Message) -> String {
        let to = message.to.as_ref().unwrap()[0].clone();
        let (resolver, me) = (LocalResolver::new(), &self.person.identities);
        let packing = message.encrypt_to(&to).from(self.did()).forward(false);
        block_on(packing.pack(&resolver, me)).expect("the message is packed").0
    }

    /// A new message of the type [`SAY`], packed with authcrypt.
    pub fn pack_text(&self, to: &str, content: &str) -> String {
        self.pack(&self.message(to, content).finalize())
    }

    /// Unpacks a message. Panics if it is invalid.
    pub fn open(&self, packed: &str) -> (Message, Provenance) {
        self.try_open(packed).expect("the message opens")
    }

    /// Unpacks a message. Returns none if it is invalid, or for another peer.
    pub fn try_open(&self, packed: &str) -> Option<(Message, Provenance)> {
        let options = UnpackOptions::default();
        block_on(Message::unpack(packed, &LocalResolver::new(), &self.person.identities, &options)).ok()
    }

    /// An authcrypt message by its first key, to be changed before it is sealed.
    pub fn authcrypt(&self, to: &[(String, PublicKey)]) -> Jwe {
        Jwe::authcrypt_as(&self.person, &self.kid(AGREE[0]), &self.person.agree[0], to)
    }

    /// A valid JWS by its first signing key.
    pub fn signed(&self, payload: &str) -> Value {
        let key = &self.person.sign[0];
        jws(&self.person, key, &jws_header(key.curve()), &json!({"kid": self.kid(SIGN[0])}), payload)
    }
}

/// The key agreement keys of a did:peer or did:key, with their ids.
pub fn keys_of(did: &str) -> Vec<(String, PublicKey)> {
    let document = block_on(LocalResolver::new().resolve(did)).expect("a did:peer or a did:key");
    let methods = document.methods(Relationship::KeyAgreement);
    methods.map(|method| (method.id.clone(), method.key.clone().unwrap())).collect()
}

impl Daemon {
    /// The key agreement keys of the daemon's DID, with their ids.
    pub fn agreement_keys(&self) -> Vec<(String, PublicKey)> {
        keys_of(&self.did)
    }

    /// Posts a message. Returns the status, or 0 without a response.
    pub fn post_status(&self, packed: impl ToString) -> u16 {
        status_of(&self.post(packed.to_string().as_bytes()))
    }
}
