//! Shared by the benches: tokens, parties, and the token's own derivation.

// Each bench uses a part of this module.
#![allow(dead_code)]

use std::{
    collections::HashMap,
    process::{Command, ExitCode},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use claviger::{
    did::{Document, LocalResolver},
    didcomm::{Identities, Message, PackEncrypted},
    keys::{Curve, PublicKey},
    secrets::{
        Custodian, KeyUse, Keyring, NewKey, Token,
        keeper::{KeeperClient, KeeperConnector},
        pkcs11::{OpenOptions, Pkcs11Token, Uri},
    },
};
use claviger_interop::{
    Peer,
    didcomm::{Message as TheirMessage, PackEncryptedOptions as TheirOptions},
    tokens::{Module, ThrowAway},
};
use claviger_testkit::{PrivateKey, SoftToken};
use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    mechanism::{
        Mechanism,
        elliptic_curve::{EcKdf, Ecdh1DeriveParams},
    },
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// The curves that both libraries support.
pub const CURVES: [Curve; 2] = [Curve::P256, Curve::X25519];
/// More peers than the 256 shared secrets that a session keeps, so that each is unknown when its turn comes again.
pub const PEERS: usize = 300;
/// The largest number of keys of a DID.
pub const KEYS: usize = 100;

/// Runs a bench with new tokens, in a process of its own, since modules read their configuration from the environment.
pub fn with_tokens(bench: impl FnOnce(&Runtime, &Tokens)) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    if std::env::var_os(READY).is_some() {
        bench(&runtime, &Tokens::from_environment());
        return ExitCode::SUCCESS;
    }
    let mut again = Command::new(std::env::current_exe().expect("this program"));
    again.args(std::env::args_os().skip(1)).env(READY, "1");
    let softhsm = ThrowAway::new(Module::SoftHsm, "bench");
    match &softhsm {
        Some(token) => {
            let crowded = token.another("crowded");
            again.env(&token.env.0, &token.env.1).env(SOFTHSM, &token.uri).env(CROWDED, crowded);
        }
        None => eprintln!("skipped: SoftHSM is missing"),
    }
    let kryoptic = ThrowAway::new(Module::Kryoptic, "bench");
    match &kryoptic {
        Some(token) => {
            again.env(&token.env.0, &token.env.1).env(KRYOPTIC, &token.uri);
        }
        None => eprintln!("skipped: Kryoptic is missing; CLAVIGER_TEST_KRYOPTIC says where it is"),
    }
    let status = again.status().expect("this program starts again");
    if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

const READY: &str = "CLAVIGER_BENCH_READY";
const SOFTHSM: &str = "CLAVIGER_BENCH_SOFTHSM";
const CROWDED: &str = "CLAVIGER_BENCH_CROWDED";
const KRYOPTIC: &str = "CLAVIGER_BENCH_KRYOPTIC";

/// Whether to measure less: `CLAVIGER_BENCH_QUICK=1`.
pub fn quick() -> bool {
    std::env::var("CLAVIGER_BENCH_QUICK").is_ok_and(|value| value == "1")
}

/// Whether to run everything once only, without measuring: `cargo bench -- --test`.
pub fn smoke() -> bool {
    std::env::args().any(|argument| argument == "--test")
}

/// The URIs of the available tokens.
pub struct Tokens {
    /// With their names in the results: `softhsm` and `kryoptic`.
    pub devices: Vec<(&'static str, String)>,
    /// A SoftHSM token for many keys.
    pub crowded: Option<String>,
}

impl Tokens {
    fn from_environment() -> Self {
        let uri = |name| std::env::var(name).ok();
        let devices = [("softhsm", uri(SOFTHSM)), ("kryoptic", uri(KRYOPTIC))];
        Self {
            devices: devices.into_iter().filter_map(|(name, uri)| Some((name, uri?))).collect(),
            crowded: uri(CROWDED),
        }
    }
}

/// Our DID with this many keys, all on one curve: `did:example:me-p-256-10`.
pub fn me(curve: Curve, keys: usize) -> String {
    did("me", curve, keys)
}

/// The DID of a peer with one key.
pub fn peer(curve: Curve, number: usize) -> String {
    did("peer", curve, number)
}

/// The DID of a peer with this many keys.
pub fn peer_with_keys(curve: Curve, keys: usize) -> String {
    did("peer-with-keys", curve, keys)
}

fn did(name: &str, curve: Curve, number: usize) -> String {
    format!("did:example:{name}-{}-{number}", curve.name().to_lowercase())
}

/// A document with keys for key agreement, in a form that both libraries read.
fn document<'k>(did: &str, keys: impl IntoIterator<Item = &'k PublicKey>) -> Value {
    let methods = (1..).zip(keys).map(|(number, key)| {
        json!({
            "id": format!("{did}#key-{number}"),
            "type": "JsonWebKey2020",
            "controller": did,
            "publicKeyJwk": key.to_jwk(),
        })
    });
    json!({ "id": did, "keyAgreement": methods.collect::<Vec<_>>() })
}

/// Peers with keys in memory. They pack the messages that the parties unpack.
pub struct Peers {
    keys: HashMap<Curve, Vec<PrivateKey>>,
    documents: Vec<Value>,
}

impl Peers {
    pub fn new() -> Self {
        let keys: HashMap<Curve, Vec<PrivateKey>> = CURVES
            .into_iter()
            .map(|curve| (curve, (0..PEERS).map(|_| PrivateKey::generate(curve)).collect()))
            .collect();
        let mut documents = Vec::new();
        for (&curve, keys) in &keys {
            let single = keys.iter().enumerate();
            documents.extend(single.map(|(number, key)| document(&peer(curve, number), [key.public()])));
            let crowds = key_counts()
                .map(|count| document(&peer_with_keys(curve, count), keys[..count].iter().map(PrivateKey::public)));
            documents.extend(crowds);
        }
        Self { keys, documents }
    }

    /// Packs one message from each of the first `senders` peers to a DID, or the same number of anonymous messages.
    pub fn write(
        &self,
        runtime: &Runtime,
        to: &str,
        document: &Value,
        senders: usize,
        curve: Curve,
        authcrypt: bool,
    ) -> Vec<String> {
        let token = SoftToken::new("peers");
        for key in &self.keys[&curve][..senders] {
            token.import(key.to_import(KeyUse::Agreement, None)).expect("a fresh key");
        }
        let own = (0..senders).map(|number| peer(curve, number));
        let own: Vec<Document> = own.map(|did| self.document(&did)).collect();
        let resolver = LocalResolver::new().with_documents([read(document)]);
        runtime.block_on(async {
            let keyring = Keyring::start([token]).await.expect("a token in memory");
            let me = Identities::new(keyring, own).await.expect("its keys");
            let mut packed = Vec::new();
            for number in 0..senders {
                let from = peer(curve, number);
                let sender = authcrypt.then_some(from.as_str());
                let message = message(&from, to);
                packed.push(encrypt(&message, to, sender).pack(&resolver, &me).await.unwrap().0);
            }
            packed
        })
    }

    fn document(&self, did: &str) -> Document {
        read(self.documents.iter().find(|document| document["id"] == did).expect("a peer"))
    }
}

fn key_counts() -> impl Iterator<Item = usize> {
    [1, 10, KEYS].into_iter()
}

fn read(document: &Value) -> Document {
    Document::from_value(document.clone()).expect("a document")
}

/// A party with DIDs of 1, 10 and 100 P-256 keys and one X25519 key. It can resolve the peers.
pub struct Party {
    pub name: String,
    pub kind: Kind,
    /// The party's documents, by DID.
    pub documents: HashMap<String, Value>,
}

pub enum Kind {
    Didcomm(Box<Peer>),
    Claviger { me: Box<Identities>, resolver: LocalResolver },
}

impl Party {
    /// `didcomm`, with keys in memory.
    pub fn didcomm(peers: &Peers) -> Self {
        let keys: HashMap<Curve, Vec<PrivateKey>> = wanted_keys()
            .map(|(curve, count)| (curve, (0..count).map(|_| PrivateKey::generate(curve)).collect()))
            .collect();
        let own = own_documents(|curve| keys[&curve].iter().map(|key| key.public().clone()).collect());
        let mut secrets = Vec::new();
        for (did, document) in &own {
            for method in document["keyAgreement"].as_array().into_iter().flatten() {
                let public = &method["publicKeyJwk"];
                let private = keys.values().flatten().find(|key| json!(key.public().to_jwk()) == *public).expect(did);
                let mut secret = public.clone();
                secret["kid"] = method["id"].clone();
                secret["d"] = URL_SAFE_NO_PAD.encode(&*private.to_bytes()).into();
                secrets.push(secret);
            }
        }
        let documents = own.values().cloned().chain(peers.documents.clone()).collect();
        Self { name: "didcomm".into(), kind: Kind::Didcomm(Box::new(Peer::new(documents, secrets))), documents: own }
    }

    /// Claviger, with keys in a token. The token is returned too, to measure it directly.
    pub fn claviger(runtime: &Runtime, name: &str, uri: &str, peers: &Peers) -> (Self, Arc<Pkcs11Token>) {
        let token = OpenOptions::new().open(uri).expect("the token opens");
        let keys: HashMap<Curve, Vec<PublicKey>> = wanted_keys()
            .map(|(curve, count)| (curve, (0..count).map(|number| make_key(&token, curve, number)).collect()))
            .collect();
        Self::over(runtime, name, token, &keys, peers)
    }

    fn over(
        runtime: &Runtime,
        name: &str,
        token: Pkcs11Token,
        keys: &HashMap<Curve, Vec<PublicKey>>,
        peers: &Peers,
    ) -> (Self, Arc<Pkcs11Token>) {
        let token = Arc::new(token);
        let documents = own_documents(|curve| keys[&curve].clone());
        let shared: Arc<dyn Token> = token.clone();
        let me = runtime.block_on(async {
            let keyring = Keyring::builder().shared_token(shared).start().await.expect("the keys are found");
            Identities::new(keyring, documents.values().map(read)).await.expect("the token holds them")
        });
        let resolver = LocalResolver::new().with_documents(peers.documents.iter().map(read));
        (Self { name: name.to_owned(), kind: Kind::Claviger { me: Box::new(me), resolver }, documents }, token)
    }

    /// A party with the same DIDs, which uses their token through a keeper.
    pub fn through_keeper(runtime: &Runtime, of: &Self, connect: KeeperConnector, peers: &Peers) -> Self {
        let me = runtime.block_on(async {
            let keeper = KeeperClient::start("bench", connect).await.expect("a keeper");
            Identities::new(keeper, of.documents.values().map(read)).await.expect("its token holds them")
        });
        let resolver = LocalResolver::new().with_documents(peers.documents.iter().map(read));
        let kind = Kind::Claviger { me: Box::new(me), resolver };
        Self { name: format!("{}, keeper", of.name), kind, documents: of.documents.clone() }
    }

    /// Claviger, with a token that holds this many keys.
    pub fn crowded(runtime: &Runtime, uri: &str, keys: usize, peers: &Peers) -> Self {
        let token = OpenOptions::new().open(uri).expect("the token opens");
        for number in KEYS..keys {
            make_key(&token, Curve::P256, number);
        }
        drop(token);
        Self::claviger(runtime, &format!("softhsm, {keys} keys in the token"), uri, peers).0
    }

    pub async fn unpack(&self, packed: &str) {
        match &self.kind {
            Kind::Didcomm(peer) => {
                peer.unpack(packed).await.expect("it is for us");
            }
            Kind::Claviger { me, resolver } => {
                Message::unpack(packed, resolver, me, &Default::default()).await.expect("it is for us");
            }
        }
    }

    pub async fn pack(&self, letter: &Letter, from: Option<&str>) -> String {
        match &self.kind {
            Kind::Didcomm(peer) => {
                let options = TheirOptions::default();
                peer.pack_encrypted(&letter.theirs, &letter.to, from, None, &options).await.expect("it packs").0
            }
            Kind::Claviger { me, resolver } => {
                encrypt(&letter.ours, &letter.to, from).pack(resolver, me).await.expect("it packs").0
            }
        }
    }
}

fn encrypt<'a>(message: &'a Message, to: &'a str, from: Option<&'a str>) -> PackEncrypted<'a> {
    let packing = message.encrypt_to(to);
    match from {
        Some(from) => packing.from(from),
        None => packing,
    }
}

fn wanted_keys() -> impl Iterator<Item = (Curve, usize)> {
    [(Curve::P256, KEYS), (Curve::X25519, 1)].into_iter()
}

fn own_documents(keys: impl Fn(Curve) -> Vec<PublicKey>) -> HashMap<String, Value> {
    let mut documents = HashMap::new();
    for (curve, most) in wanted_keys() {
        for count in key_counts().filter(|count| *count <= most) {
            documents.insert(me(curve, count), document(&me(curve, count), &keys(curve)[..count]));
        }
    }
    documents
}

/// Makes a key in a token, under the label by which [`Raw`] finds it.
pub fn make_key(token: &Pkcs11Token, curve: Curve, number: usize) -> PublicKey {
    let label = label(curve, number);
    let key = NewKey { curve, usage: KeyUse::Agreement, label: Some(label.into()) };
    token.generate(&key).expect("a key is made").public
}

fn label(curve: Curve, number: usize) -> String {
    format!("{}-{number}", curve.name())
}

/// A message of 1 KB in the types of both libraries.
pub struct Letter {
    pub to: String,
    pub ours: Message,
    theirs: TheirMessage,
}

impl Letter {
    pub fn new(from: &str, to: &str) -> Self {
        let ours = message(from, to);
        let theirs = serde_json::from_str(&ours.to_json()).expect("a message is a message");
        Self { to: to.to_owned(), ours, theirs }
    }
}

fn message(from: &str, to: &str) -> Message {
    let text: String = "All that is gold does not glitter. ".chars().cycle().take(1000).collect();
    Message::build(Message::new_id(), "https://example.org/letters/1.0/letter", json!({ "text": text }))
        .from(from)
        .to(to)
        .created_time(1_700_000_000)
        .finalize()
}

/// The token's own ECDH, called through PKCS#11 only.
pub struct Raw {
    session: Session,
    key: ObjectHandle,
    peer: Vec<u8>,
    length: usize,
}

impl Raw {
    /// Uses the first key on the curve. This process must have opened the token and logged in.
    pub fn new(uri: &str, curve: Curve) -> Self {
        let uri: Uri = uri.parse().expect("a pkcs11: URI");
        let context = Pkcs11::new(uri.module_path.expect("its module")).expect("a module");
        // Claviger has initialised the module already.
        let _ = context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK));
        let slots = context.get_slots_with_token().expect("slots").into_iter();
        let wanted = uri.token.expect("a label");
        let mut slots = slots.filter(|slot| context.get_token_info(*slot).is_ok_and(|info| info.label() == wanted));
        let session = context.open_ro_session(slots.next().expect("the token")).expect("a session");
        let template = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Label(label(curve, 0).into_bytes())];
        let key = session.find_objects(&template).expect("a search")[0];
        let peer = PrivateKey::generate(curve).public().as_bytes().to_vec();
        Self { session, key, peer, length: curve.coordinate_length() }
    }

    /// C_DeriveKey into a secret that stays in the token, and C_DestroyObject.
    pub fn derive_and_destroy(&self) {
        let secret = self.derive(true);
        self.session.destroy_object(secret).expect("it is destroyed");
    }

    /// C_DeriveKey, C_GetAttributeValue of the secret, C_DestroyObject.
    pub fn derive_read_and_destroy(&self) -> Vec<Attribute> {
        let secret = self.derive(false);
        let value = self.session.get_attributes(secret, &[AttributeType::Value]).expect("it is read");
        self.session.destroy_object(secret).expect("it is destroyed");
        assert_eq!(value.len(), 1);
        value
    }

    fn derive(&self, sensitive: bool) -> ObjectHandle {
        let mechanism = Mechanism::Ecdh1Derive(Ecdh1DeriveParams::new(EcKdf::null(), &self.peer));
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::GENERIC_SECRET),
            Attribute::Token(false),
            Attribute::Private(true),
            Attribute::Sensitive(sensitive),
            Attribute::Extractable(!sensitive),
            Attribute::Derive(true),
            Attribute::ValueLen((self.length as u64).into()),
        ];
        self.session.derive_key(&mechanism, self.key, &template).expect("it derives")
    }
}
