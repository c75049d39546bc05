//! A peer in the test's own process: its keys are in a software token, and its DID says all there is to know.

use std::{future::Future, sync::OnceLock};

use claviger::{
    did::{LocalResolver, Relationship, Resolver, Service, peer::create_2},
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

/// Its keys by the fragments of their ids, two of which agree and two of which sign.
pub const AGREE: [&str; 2] = ["key-1", "key-2"];
pub const SIGN: [&str; 2] = ["key-3", "key-4"];

/// Runs something of the library's.
pub fn wait<T>(future: impl Future<Output = T>) -> T {
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
    /// Nobody can send to it, unless it connects.
    pub fn new(name: &str) -> Self {
        Self::make(name, None)
    }

    /// One that is reached at a URI.
    pub fn with_endpoint(name: &str, uri: &str) -> Self {
        Self::make(name, Some(uri))
    }

    fn make(name: &str, uri: Option<&str>) -> Self {
        let token = SoftToken::new(name);
        let agree = [Curve::X25519, Curve::P256].map(|curve| token.make(curve)).to_vec();
        let sign = [Curve::Ed25519, Curve::P256].map(|curve| token.make(curve)).to_vec();
        let keys = agree.iter().map(|key| (Relationship::KeyAgreement, key.clone()));
        let keys: Vec<_> = keys.chain(sign.iter().map(|key| (Relationship::Authentication, key.clone()))).collect();
        let services: Vec<Service> = uri.map(|uri| Service::didcomm(uri, [])).into_iter().collect();
        let document = create_2(&keys, &services).unwrap();
        let me = wait(identities(&token, [document.clone()]));
        Self { person: Person { did: document.id().to_owned(), document, token, me, agree, sign } }
    }

    pub fn did(&self) -> &str {
        &self.person.did
    }

    pub fn kid(&self, fragment: &str) -> String {
        self.person.kid(fragment)
    }

    /// A message to be changed or packed: it is new, and says something to the application.
    pub fn message(&self, to: &str, content: &str) -> MessageBuilder {
        Message::build(Message::new_id(), SAY, json!({"content": content}))
            .from(self.did())
            .to(to)
            .created_time(seconds())
    }

    /// The same as JSON, for one who breaks rules.
    pub fn plaintext(&self, to: &str, content: &str) -> Value {
        serde_json::to_value(self.message(to, content).finalize()).unwrap()
    }

    /// Authcrypt, as an honest peer packs it.
    pub fn pack(&self, message: &Message) -> String {
        let to = message.to.as_ref().unwrap()[0].clone();
        let (resolver, me) = (LocalResolver::new(), &self.person.me);
        let packing = message.encrypt_to(&to).from(self.did()).forward(false);
        wait(packing.pack(&resolver, me)).expect("it is packed").0
    }

    /// Something said to the daemon's application, packed.
    pub fn pack_text(&self, to: &str, content: &str) -> String {
        self.pack(&self.message(to, content).finalize())
    }

    /// Opens what came for it.
    pub fn open(&self, packed: &str) -> (Message, Provenance) {
        let options = UnpackOptions::default();
        wait(Message::unpack(packed, &LocalResolver::new(), &self.person.me, &options)).expect("it opens")
    }

    /// Authcrypt in the making, by the first of its keys.
    pub fn authcrypt(&self, to: &[(String, PublicKey)]) -> Jwe {
        Jwe::authcrypt_as(&self.person, &self.kid(AGREE[0]), &self.person.agree[0], to)
    }

    /// A sound signature around something.
    pub fn signed(&self, payload: &str) -> Value {
        let key = &self.person.sign[0];
        jws(&self.person, key, &jws_header(key.curve()), &json!({"kid": self.kid(SIGN[0])}), payload)
    }
}

/// The key agreement keys of a DID that a LocalResolver knows, with their ids.
pub fn keys_of(did: &str) -> Vec<(String, PublicKey)> {
    let document = wait(LocalResolver::new().resolve(did)).expect("a did:peer or a did:key");
    let methods = document.methods(Relationship::KeyAgreement);
    methods.map(|method| (method.id.clone(), method.key.clone().unwrap())).collect()
}

impl Daemon {
    /// Its key for agreement.
    pub fn agreement_keys(&self) -> Vec<(String, PublicKey)> {
        keys_of(&self.did)
    }

    /// Posts a message; the status of the answer.
    pub fn post_status(&self, packed: impl ToString) -> u16 {
        status_of(&self.post(packed.to_string().as_bytes()))
    }
}
