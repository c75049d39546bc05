//! One side makes a DID and the other resolves it.

use std::time::{Duration, SystemTime};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use claviger::did::peer::{create_2, create_4};
use claviger::did::webvh::{EntryDraft, OwnLog};
use claviger::did::{Document, LocalResolver, Relationship, Resolver, Service, WebvhResolver, key};
use claviger::keys::{Curve, PublicKey};
use claviger_testkit::PrivateKey;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::driver::Driver;
use crate::envelopes::{public, secrets};
use crate::logs::{Has, signed};
use crate::operation::{Method, Operation};
use crate::ours;
use crate::roster::Peer;
use crate::table::{Outcome, Results};

/// Its base64url, which is in a did:peer:2 unless the service is escaped, has a `-`.
const ENDPOINT: &str = "https://example.com/~~~/in";
/// The place of a did:webvh.
const LOCATION: &str = "example.com%3A8443:a:b";

pub fn try_both_ways(runtime: &Runtime, driver: &mut dyn Driver, peer: &Peer, operation: Operation) -> Results {
    let Operation::Did(method) = operation else { panic!("{operation} is about a message") };
    let read = match theirs(runtime, driver, peer, method) {
        Ok(Some(document)) => missing(method, document.as_value(), &their_keys(), THEIR_ENDPOINT),
        Ok(None) => Outcome::Absent,
        Err(error) => Outcome::Fails(error),
    };
    // Claviger makes no did:peer:0.
    let written = if method == Method::Peer0 { Outcome::Absent } else { written(runtime, driver, peer, method) };
    Results { read, written }
}

const THEIR_ENDPOINT: &str = "https://example.com/in";

/// The document that Claviger resolves of a DID that the peer made. `None` if the peer makes no such DIDs. With an error,
/// what failed.
pub fn theirs(
    runtime: &Runtime,
    driver: &mut dyn Driver,
    peer: &Peer,
    method: Method,
) -> Result<Option<Document>, String> {
    let secrets = secrets();
    // The first on each curve.
    let first = |crv: &str| private_key(secrets.iter().find(|secret| secret["crv"] == crv).unwrap());
    let keys = json!({ "Ed25519": first("Ed25519"), "X25519": first("X25519") });
    let service = json!({
        "type": "DIDCommMessaging",
        "serviceEndpoint": { "uri": THEIR_ENDPOINT, "accept": ["didcomm/v2"] },
    });
    let made = driver.ask(&json!({
        "peer": peer.driver,
        "do": "create",
        "method": method.name(),
        "keys": keys,
        "service": service,
        "location": LOCATION,
    }));
    let made = made.map_err(|error| format!("it makes none ({error})"))?;
    if made.is_null() {
        return Ok(None);
    }
    let did = made["did"].as_str().unwrap();
    let resolved = runtime.block_on(async {
        match made["log"].as_str() {
            Some(log) => WebvhResolver::new(Has(log.to_owned())).resolve(did).await,
            None => LocalResolver::new().resolve(did).await,
        }
    });
    match resolved {
        Ok(document) => Ok(Some((*document).clone())),
        Err(error) => Err(format!("Claviger does not resolve it ({error})")),
    }
}

/// A private key as peers need it: as JWK, as multikey, and in hexadecimal digits.
fn private_key(secret: &Value) -> Value {
    let public = public(secret);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let private = URL_SAFE_NO_PAD.decode(secret["d"].as_str().unwrap()).unwrap();
    let mut jwk = secret.clone();
    jwk.as_object_mut().unwrap().retain(|name, _| !name.starts_with("kid"));
    json!({ "jwk": jwk, "multikey": public.to_multikey(), "public": hex(public.as_bytes()), "private": hex(&private) })
}

/// Their signing key, and their key agreement key.
fn their_keys() -> [PublicKey; 2] {
    [Curve::Ed25519, Curve::X25519]
        .map(|curve| secrets().iter().map(public).find(|key| key.curve() == curve).expect("one on each curve"))
}

/// Our did:peer:2, with a signing key, a key agreement key and a service.
pub async fn our_peer_2() -> Document {
    let [signing, agreement] = our_keys().await;
    let keys = [(Relationship::Authentication, signing), (Relationship::KeyAgreement, agreement)];
    create_2(&keys, &[Service::didcomm(ENDPOINT, [])]).unwrap()
}

async fn our_keys() -> [PublicKey; 2] {
    let document = Document::from_value(ours::documents().await.swap_remove(0)).unwrap();
    let mut keys = document.all_methods().iter().filter_map(|method| method.key.clone().ok());
    [Curve::Ed25519, Curve::X25519].map(|curve| keys.find(|key| key.curve() == curve).expect("one on each curve"))
}

fn written(runtime: &Runtime, driver: &mut dyn Driver, peer: &Peer, method: Method) -> Outcome {
    let [signing, agreement] = runtime.block_on(our_keys());
    let document = Document::builder()
        .method("key-1", &signing, &[Relationship::Authentication])
        .method("key-2", &agreement, &[Relationship::KeyAgreement])
        .service(Service::didcomm(ENDPOINT, []));
    let (did, log) = match method {
        Method::Key => (key::create(&signing).id().to_owned(), None),
        Method::Peer0 => panic!("Claviger makes no did:peer:0"),
        Method::Peer2 => (runtime.block_on(our_peer_2()).id().to_owned(), None),
        Method::Peer4 => (create_4(&document.input()).unwrap().long.id().to_owned(), None),
        Method::Webvh => {
            let update = PrivateKey::generate(Curve::Ed25519);
            let then = SystemTime::now() - Duration::from_secs(3600);
            let draft = EntryDraft::first(LOCATION, update.public(), |did| document.draft(did), then);
            let log = signed(draft, &update) + "\n";
            let own = OwnLog::read(log.clone()).unwrap();
            (own.document().id().to_owned(), Some(log))
        }
    };
    match driver.ask(&json!({ "peer": peer.driver, "do": "resolve", "did": did, "log": log })) {
        Ok(resolved) => missing(method, &resolved, &[signing, agreement], ENDPOINT),
        Err(error) => Outcome::Fails(format!("it does not resolve it ({error})")),
    }
}

/// What a resolved document lacks.
fn missing(method: Method, document: &Value, keys: &[PublicKey; 2], endpoint: &str) -> Outcome {
    // A DID may contain the keys, so look for them in the members that have keys only.
    let mut text = String::new();
    collect(document, &mut text);
    let has = |key: &PublicKey| text.contains(&key.to_multikey()[1..]) || text.contains(&key.to_jwk().x);
    let mut missing = vec![];
    // A did:key and a did:peer:0 are one key, without a service. The did:webvh that peers make have only the other key.
    let of_one_key = [Method::Key, Method::Peer0].contains(&method);
    if !has(&keys[0]) && method != Method::Webvh {
        missing.push("the signing key");
    }
    if !has(&keys[1]) && !of_one_key {
        missing.push("the key agreement key");
    }
    if !document["service"].to_string().contains(endpoint) && !of_one_key && method != Method::Webvh {
        missing.push("the service");
    }
    if missing.is_empty() {
        Outcome::Works
    } else {
        Outcome::Fails(format!("the resolved document lacks {}", missing.join(", ")))
    }
}

/// Appends all members of the document that hold a public key.
fn collect(value: &Value, text: &mut String) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                match name.starts_with("publicKey") {
                    true => *text += &value.to_string(),
                    false => collect(value, text),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, text)),
        _ => {}
    }
}
