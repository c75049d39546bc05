//! Our side: agents whose keys were generated in one token.

use std::sync::Arc;

use claviger::did::{Document, LocalResolver};
use claviger::didcomm::Identities;
use claviger::keys::{Curve, PublicKey};
use claviger::secrets::pkcs11::OpenOptions;
use claviger::secrets::{Custodian, Custody, KeyUse, Keyring, NewKey};
use claviger_testkit::SoftToken;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

pub const OURS: &str = "did:example:ours";
/// The DID of [`OURS`] after a rotation.
pub const OURS_ANEW: &str = "did:example:ours-anew";
pub const OUR_MEDIATOR: &str = "did:example:our-mediator";

/// The environment variable with the URI of the token. Without it, the keys are in a [`SoftToken`].
pub const TOKEN: &str = "CLAVIGER_INTEROP_TOKEN";
/// The environment variable with the custody that the token must have.
pub const CUSTODY: &str = "CLAVIGER_INTEROP_CUSTODY";

/// The keys of [`OURS`] and of [`OURS_ANEW`], in the order of their documents. The last key is the mediator's.
const KEYS: [(&str, Curve, KeyUse); 10] = [
    ("ed25519", Curve::Ed25519, KeyUse::Signing),
    ("es256", Curve::P256, KeyUse::Signing),
    ("es256k", Curve::Secp256k1, KeyUse::Signing),
    ("x25519-1", Curve::X25519, KeyUse::Agreement),
    ("x25519-2", Curve::X25519, KeyUse::Agreement),
    ("p256-1", Curve::P256, KeyUse::Agreement),
    ("p256-2", Curve::P256, KeyUse::Agreement),
    ("p384", Curve::P384, KeyUse::Agreement),
    ("p521", Curve::P521, KeyUse::Agreement),
    ("mediator", Curve::X25519, KeyUse::Agreement),
];

/// The token of this process, and its keys in the order of [`KEYS`].
async fn token() -> &'static (Arc<Keyring>, Vec<PublicKey>) {
    static ONE: OnceCell<(Arc<Keyring>, Vec<PublicKey>)> = OnceCell::const_new();
    let make = async || match std::env::var(TOKEN) {
        Ok(uri) => with_keys(OpenOptions::new().open(&uri).unwrap()).await,
        Err(_) => with_keys(SoftToken::new("soft")).await,
    };
    ONE.get_or_init(make).await
}

async fn with_keys(token: impl Custodian + 'static) -> (Arc<Keyring>, Vec<PublicKey>) {
    // Kryoptic does not support secp256k1, so that key is in a second token.
    let (beside, kryoptic) = (SoftToken::new("beside"), custody() == Custody::KekInToken);
    let keys = KEYS.map(|(label, curve, usage)| {
        let key = NewKey { curve, usage, label: Some(label.into()) };
        let made = if kryoptic && curve == Curve::Secp256k1 { beside.generate(&key) } else { token.generate(&key) };
        made.unwrap().public
    });
    (Arc::new(Keyring::builder().token(token).token(beside).start().await.unwrap()), keys.to_vec())
}

/// The custody of the token of this process.
pub fn custody() -> Custody {
    std::env::var(CUSTODY).map_or(Custody::SharedSecretInProcess, |name| name.parse().unwrap())
}

/// Our documents, in a form that both sides can read.
pub async fn documents() -> Vec<Value> {
    let (_, keys) = token().await;
    let (mediator, own) = keys.split_last().unwrap();
    vec![
        document(OURS, &KEYS[..own.len()], own),
        document(OURS_ANEW, &KEYS[..own.len()], own),
        document(OUR_MEDIATOR, &KEYS[own.len()..], std::slice::from_ref(mediator)),
    ]
}

fn document(did: &str, names: &[(&str, Curve, KeyUse)], keys: &[PublicKey]) -> Value {
    let standing = |usage| -> Vec<Value> {
        let methods = names.iter().zip(keys).filter(|((_, _, its), _)| *its == usage);
        methods
            .map(|((name, ..), key)| {
                json!({
                    "id": format!("{did}#{name}"),
                    "type": "JsonWebKey2020",
                    "controller": did,
                    "publicKeyJwk": key.to_jwk(),
                })
            })
            .collect()
    };
    json!({
        "id": did,
        "authentication": standing(KeyUse::Signing),
        "keyAgreement": standing(KeyUse::Agreement),
    })
}

/// An agent with one DID of ours, whose keys are those of [`OURS`].
// Each test program uses a part of this module.
#[allow(dead_code)]
pub async fn identities(document: Document) -> Identities {
    Identities::new(token().await.0.clone(), [document]).await.unwrap()
}

/// An agent with these DIDs of ours, which resolves these documents.
pub struct Ours {
    pub me: Identities,
    pub resolver: LocalResolver,
}

impl Ours {
    pub async fn new(dids: &[&str], documents: &[Value]) -> Self {
        let documents = || documents.iter().map(|document| Document::from_value(document.clone()).unwrap());
        let own = documents().filter(|document| dids.contains(&document.id()));
        let me = Identities::new(token().await.0.clone(), own).await.unwrap();
        Self { me, resolver: LocalResolver::new().with_documents(documents()) }
    }
}
