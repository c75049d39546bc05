//! One side packs a message and the other opens it.

use claviger::crypto::ContentEncryption;
use claviger::did::{Document, LocalResolver, Relationship, did_of};
use claviger::didcomm::{Identities, Layer, Message};
use claviger::keys::{Curve, PublicKey, SignatureAlgorithm};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::common;
use crate::dids;
use crate::driver::Driver;
use crate::operation::{Envelope, Kind, Method};
use crate::ours::{self, OURS, Ours};
use crate::roster::Peer;
use crate::table::{Outcome, Results};

const THEIRS: &str = "did:example:peer";

/// Both sides, and what the peer must be told to act for its own.
struct Scene {
    me: Identities,
    resolver: LocalResolver,
    ours: Document,
    theirs: Document,
    /// The documents of both, unless the peer resolves them by its own means.
    documents: Vec<Value>,
    secrets: Vec<Value>,
}

pub fn try_both_ways(runtime: &Runtime, driver: &mut dyn Driver, peer: &Peer, envelope: &Envelope) -> Results {
    let scene = if envelope.over_peer_2 { Scene::over_peer_2(runtime, driver, peer) } else { Ok(Scene::new(runtime)) };
    match scene {
        Ok(scene) => Results {
            read: scene.read(runtime, driver, peer, envelope),
            written: scene.written(runtime, driver, peer, envelope),
        },
        Err(error) => Results { read: Outcome::Fails(error.clone()), written: Outcome::Fails(error) },
    }
}

impl Scene {
    /// Both sides with a key of every kind, and documents that the peer is given.
    fn new(runtime: &Runtime) -> Self {
        let ours = referenced(runtime.block_on(ours::documents()).swap_remove(0));
        let renamed = |secret: &Value| {
            let (_, fragment) = kid(secret).split_once('#').unwrap();
            private_jwk(secret, &format!("{THEIRS}#{fragment}"))
        };
        let secrets: Vec<_> = secrets().iter().map(renamed).collect();
        let theirs = document(&secrets);
        let documents = vec![ours, theirs];
        let Ours { me, resolver } = runtime.block_on(Ours::new(&[OURS], &documents));
        let [ours, theirs] = [0, 1].map(|index| Document::from_value(documents[index].clone()).unwrap());
        Self { me, resolver, ours, theirs, documents, secrets }
    }

    /// Both sides with a did:peer:2, which each resolves by its own means.
    fn over_peer_2(runtime: &Runtime, driver: &mut dyn Driver, peer: &Peer) -> Result<Self, String> {
        let resolver = LocalResolver::new();
        let theirs = dids::theirs(runtime, driver, peer, Method::Peer2)?.expect("it makes did:peer:2");
        let ours = runtime.block_on(dids::our_peer_2());
        let me = runtime.block_on(ours::identities(ours.clone()));
        let id = |secret: &Value| {
            let held = theirs.all_methods().iter().find(|method| method.key.as_ref().ok() == Some(&public(secret)));
            Some(private_jwk(secret, &held?.id))
        };
        let secrets = secrets().iter().filter_map(id).collect();
        Ok(Self { me, resolver, ours, theirs, documents: vec![], secrets })
    }

    /// The peer packs, and Claviger opens.
    fn read(&self, runtime: &Runtime, driver: &mut dyn Driver, peer: &Peer, envelope: &Envelope) -> Outcome {
        let letter = letter(envelope, self.theirs.id(), self.ours.id());
        let (from, to) = keys(envelope, &self.theirs, &self.ours);
        let mut request = self.request(peer, "pack", envelope);
        request["from"] = from.into();
        request["to"] = to.clone().into();
        request["message"] = letter.clone();
        let packed = match driver.ask(&request) {
            Ok(packed) => packed.as_str().unwrap().to_owned(),
            Err(error) => return Outcome::Fails(format!("it does not pack this ({error})")),
        };
        let opened =
            runtime.block_on(async { Message::unpack(&packed, &self.resolver, &self.me, &Default::default()).await });
        match opened {
            Ok((message, provenance)) => match fault(envelope, &provenance.layers, &to, self.theirs.id()) {
                Some(fault) => Outcome::Fails(fault),
                None => compare(&letter, &serde_json::from_str(&message.to_json()).unwrap()),
            },
            Err(error) => Outcome::Fails(format!("Claviger refuses it ({error})")),
        }
    }

    /// Claviger packs, and the peer opens.
    fn written(&self, runtime: &Runtime, driver: &mut dyn Driver, peer: &Peer, envelope: &Envelope) -> Outcome {
        let letter = letter(envelope, self.ours.id(), self.theirs.id());
        let (from, to) = keys(envelope, &self.ours, &self.theirs);
        let mut request = self.request(peer, "open", envelope);
        request["packed"] = runtime.block_on(self.pack(envelope, &letter, from.as_deref(), &to)).into();
        match driver.ask(&request) {
            Ok(message) => compare(&letter, &message),
            Err(error) => Outcome::Fails(format!("it does not open it ({error})")),
        }
    }

    async fn pack(&self, envelope: &Envelope, letter: &Value, from: Option<&str>, to: &[String]) -> String {
        let message = Message::from_json(&letter.to_string()).unwrap();
        match envelope.kind {
            Kind::Plain => return message.pack_plaintext().unwrap(),
            Kind::Signed(_) => return message.pack_signed(from.unwrap(), &self.me).await.unwrap().0,
            _ => {}
        }
        // A DID means all its keys on a curve.
        let to = if envelope.to_two { self.theirs.id() } else { &to[0] };
        let mut packing = message.encrypt_to(to);
        packing = match envelope.kind {
            Kind::Authcrypt(_) => packing.from(from.unwrap()),
            Kind::AnoncryptAuthcrypt => packing.from(from.unwrap()).protect_sender(true),
            Kind::AnoncryptSigned => packing.sign_by(from.unwrap()),
            _ => packing,
        };
        if let Some(enc) = envelope.enc {
            packing = packing.enc(enc);
        }
        packing.pack(&self.resolver, &self.me).await.unwrap().0
    }

    fn request(&self, peer: &Peer, action: &str, envelope: &Envelope) -> Value {
        let alg = match envelope.kind {
            Kind::Signed(alg) => Some(alg.name()),
            _ => None,
        };
        json!({
            "peer": peer.driver,
            "do": action,
            "kind": envelope.kind.name(),
            "alg": alg,
            "enc": envelope.enc.unwrap_or(ContentEncryption::A256CbcHs512).name(),
            "did": self.theirs.id(),
            "documents": self.documents,
            "secrets": self.secrets,
        })
    }
}

/// The ids of the keys for an envelope: the sender's, and the recipient's.
fn keys(envelope: &Envelope, sender: &Document, recipient: &Document) -> (Option<String>, Vec<String>) {
    let on = |document: &Document, relationship, curve| -> Vec<String> {
        let methods = document.methods(relationship);
        let methods = methods.filter(|method| method.key.as_ref().is_ok_and(|key| key.curve() == curve));
        methods.map(|method| method.id.clone()).collect()
    };
    let agreement = |document, curve| on(document, Relationship::KeyAgreement, curve);
    let count = if envelope.to_two { 2 } else { 1 };
    let signing = |alg: SignatureAlgorithm| on(sender, Relationship::Authentication, alg.curve()).swap_remove(0);
    match envelope.kind {
        Kind::Plain => (None, vec![]),
        Kind::Signed(alg) => (Some(signing(alg)), vec![]),
        Kind::AnoncryptSigned => {
            (Some(signing(SignatureAlgorithm::EdDsa)), agreement(recipient, Curve::X25519)[..1].to_vec())
        }
        Kind::AnoncryptAuthcrypt => {
            (Some(agreement(sender, Curve::X25519).swap_remove(0)), agreement(recipient, Curve::X25519)[..1].to_vec())
        }
        Kind::Anoncrypt(curve) => (None, agreement(recipient, curve)[..count].to_vec()),
        Kind::Authcrypt(curve) => {
            (Some(agreement(sender, curve).swap_remove(0)), agreement(recipient, curve)[..count].to_vec())
        }
    }
}

/// How a message that was opened is not the one that the peer was asked for.
fn fault(envelope: &Envelope, layers: &[Layer], to: &[String], sender: &str) -> Option<String> {
    let same = match (envelope.kind, layers) {
        (Kind::Plain, []) => true,
        (Kind::Signed(expected), [Layer::Signed { alg, .. }]) => *alg == expected,
        (Kind::Anoncrypt(_), [Layer::Anoncrypt { enc, recipients, .. }]) => {
            envelope.enc.is_none_or(|expected| *enc == expected) && recipients.len() == to.len()
        }
        (Kind::AnoncryptSigned, [Layer::Anoncrypt { .. }, Layer::Signed { .. }]) => true,
        (Kind::AnoncryptAuthcrypt, [Layer::Anoncrypt { .. }, Layer::Authcrypt { .. }]) => true,
        (Kind::Authcrypt(_), [Layer::Authcrypt { skid, recipients, .. }]) => {
            did_of(skid) == Some(sender) && recipients.len() == to.len()
        }
        _ => false,
    };
    let layers = layers.iter().map(|layer| match layer {
        Layer::Signed { alg, .. } => format!("signed with {}", alg.name()),
        Layer::Anoncrypt { enc, recipients, .. } => format!("anoncrypt with {enc} for {}", recipients.len()),
        Layer::Authcrypt { enc, recipients, .. } => format!("authcrypt with {enc} for {}", recipients.len()),
        other => format!("{other:?}"),
    });
    (!same).then(|| format!("it sends another envelope: {}", layers.collect::<Vec<_>>().join(", ")))
}

fn compare(sent: &Value, opened: &Value) -> Outcome {
    let sent = sent.as_object().unwrap();
    // The media type is the envelope's affair, and not every peer shows it.
    let members = sent.iter().filter(|(name, _)| *name != "typ");
    let changed = members.filter(|(name, value)| opened.get(name.as_str()) != Some(*value));
    let changed: Vec<_> = changed.map(|(name, _)| format!("`{name}`")).collect();
    if changed.is_empty() { Outcome::Works } else { Outcome::But(format!("changes {}", changed.join(", "))) }
}

fn letter(envelope: &Envelope, from: &str, to: &str) -> Value {
    let mut letter = json!({
        "id": "1234567890",
        "typ": "application/didcomm-plain+json",
        "type": "https://example.org/letters/1.0/letter",
        "from": from,
        "to": [to],
        "thid": "a-thread",
        "pthid": "its-parent",
        "created_time": 1_700_000_000,
        "body": { "text": "Grüße, \"quoted\" and \\escaped\\ \u{1F511}", "numbers": [0, -1, 1.5], "nothing": null },
        "attachments": [{ "id": "1", "media_type": "text/plain", "data": { "base64": "SGFsbG8" } }],
    });
    // An anonymous message names no sender.
    if let Kind::Anoncrypt(_) = envelope.kind {
        letter.as_object_mut().unwrap().remove("from");
    }
    letter
}

/// Private keys of the appendix of DIDComm v2.1: first one for each signature algorithm, then two on X25519, and one on each
/// other curve.
pub fn secrets() -> Vec<Value> {
    let find = |(of, fragment)| common::keys(of).into_iter().find(|key| kid(key).ends_with(fragment)).unwrap();
    SIGNING.into_iter().chain(AGREEMENT).map(find).collect()
}

const SIGNING: [(&str, &str); 3] = [("alice", "#key-1"), ("alice", "#key-2"), ("alice", "#key-3")];
// The two on X25519 are not in alphabetical order: some peers expect the recipients of a JWE in the order of `apv`.
const AGREEMENT: [(&str, &str); 5] = [
    ("bob", "#key-x25519-2"),
    ("bob", "#key-x25519-1"),
    ("bob", "#key-p256-1"),
    ("bob", "#key-p384-1"),
    ("bob", "#key-p521-1"),
];

pub fn public(secret: &Value) -> PublicKey {
    PublicKey::from_jwk(&serde_json::from_value(public_jwk(secret)).unwrap()).unwrap()
}

fn public_jwk(secret: &Value) -> Value {
    let mut jwk = secret.clone();
    jwk.as_object_mut().unwrap().retain(|name, _| ["kty", "crv", "x", "y"].contains(&name.as_str()));
    jwk
}

/// The id of a key. Bob's keys in the specification have the member `"kid "`.
fn kid(secret: &Value) -> &str {
    secret.get("kid").or(secret.get("kid ")).unwrap().as_str().unwrap()
}

/// The private key under another id, without the spelling `"kid "`.
fn private_jwk(secret: &Value, kid: &str) -> Value {
    let mut jwk = public_jwk(secret);
    jwk["d"] = secret["d"].clone();
    jwk["kid"] = kid.into();
    jwk
}

/// The document of [`THEIRS`].
fn document(secrets: &[Value]) -> Value {
    let methods = |secrets: &[Value]| -> Vec<Value> {
        let method = |secret: &Value| {
            json!({
                "id": secret["kid"],
                "type": "JsonWebKey2020",
                "controller": THEIRS,
                "publicKeyJwk": public_jwk(secret),
            })
        };
        secrets.iter().map(method).collect()
    };
    let (signing, agreement) = secrets.split_at(SIGNING.len());
    referenced(json!({ "id": THEIRS, "authentication": methods(signing), "keyAgreement": methods(agreement) }))
}

/// The document with its methods in `verificationMethod`, which some peers require.
fn referenced(mut document: Value) -> Value {
    let mut methods = vec![];
    for relationship in ["authentication", "keyAgreement"] {
        for entry in document[relationship].as_array_mut().unwrap() {
            let id = entry["id"].clone();
            methods.push(std::mem::replace(entry, id));
        }
    }
    document["verificationMethod"] = methods.into();
    document
}
