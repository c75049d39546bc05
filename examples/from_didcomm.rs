//! A program that used the crate `didcomm`, ported to claviger. The comments show the old code.
//!
//! ```sh
//! cargo run --example from_didcomm
//! ```
//!
//! One trait is different. `didcomm` asks a `SecretsResolver` for private keys and computes with them. Claviger asks
//! `Secrets` to compute, and no private key comes out. `Identities` joins the two: it maps each verification method of
//! our DID documents to a key in a token. `docs/from-didcomm.md` has the whole list of differences.
//!
//! [`document_from_did_doc`] and [`jwk_from_secret`] translate the old documents and secrets. Copy them if you
//! need them.

use claviger::{
    Identities, Keyring, Message, UnpackOptions,
    did::{Document, DocumentError, LocalResolver},
    secrets::{Custodian, ImportKey},
};
use claviger_testkit::SoftToken;
use serde_json::{Map, Value, json};

const ALICE: &str = "did:example:alice";
const BOB: &str = "did:example:bob";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Documents: `Document` reads the JSON of any valid DID document. A `DIDDoc` in memory becomes JSON first,
    // by `serde_json::to_value(&did_doc)?`.
    //
    //     let resolver = ExampleDIDResolver::new(vec![alice_did_doc(), bob_did_doc()]);
    let alice_document = document_from_did_doc(did_doc(ALICE, &alice_secrets()))?;
    let bob_document = document_from_did_doc(did_doc(BOB, &bob_secrets()))?;
    let resolver = LocalResolver::new().with_documents([alice_document.clone(), bob_document.clone()]);

    // Secrets: a token replaces the resolver that handed out private keys.
    //
    //     let secrets = ExampleSecretsResolver::new(alice_secrets());
    let alice = identities(alice_secrets(), alice_document).await?;

    // Messages: `build` accepts &str too, and keeps unknown headers.
    //
    //     let msg = Message::build("example-1".to_owned(), "example/v1".to_owned(), json!("example-body"))
    //         .to(BOB.to_owned()).from(ALICE.to_owned()).finalize();
    //
    // The type must be a message type URI, and the body an object, as the specification says. Both are checked.
    let message = Message::build("example-1", "https://example.org/greeting/1.0/hello", json!({"text": "Hello, Bob"}))
        .to(BOB)
        .from(ALICE)
        .finalize();

    // Packing: a builder replaces the positional arguments, so that sender and signer cannot be swapped.
    //
    //     let (packed, metadata) = msg.pack_encrypted(BOB, Some(ALICE), None, &resolver, &secrets,
    //         &PackEncryptedOptions { forward: false, ..Default::default() }).await?;
    //
    // `enc_alg_anon` is the method `enc`. Its default is A256CBC-HS512. The default of `didcomm` is XC20P, which no
    // peer has to support. `enc_alg_auth` is gone, since authcrypt has one content encryption only.
    let (packed, metadata) = message.encrypt_to(BOB).from(ALICE).forward(false).pack(&resolver, &alice).await?;
    println!(
        "From {} to {}:\n{packed}\n",
        metadata.from_kid.as_deref().unwrap_or("nobody"),
        metadata.to_kids.join(", ")
    );

    // Unpacking: `Provenance` replaces `UnpackMetadata`. It lists the verified layers, outermost first.
    //
    //     let (msg, metadata) = Message::unpack(&packed, &resolver, &secrets, &UnpackOptions::default()).await?;
    //     assert!(metadata.encrypted && metadata.authenticated);
    //
    // Claviger refuses messages that `didcomm` accepts: `from` is not the DID of the key that encrypted or signed, `to`
    // does not name the recipient, or a key is not in the verification relationship that its use requires.
    let bob = identities(bob_secrets(), bob_document).await?;
    let options = UnpackOptions { require_authenticated: true, ..Default::default() };
    let (message, provenance) = Message::unpack(&packed, &resolver, &bob, &options).await?;
    assert!(provenance.encrypted && provenance.sender() == Some(ALICE));
    println!("Bob reads {}, by {}", message.body, serde_json::to_string_pretty(&provenance.layers)?);
    Ok(())
}

/// Our document from the JSON of a `DIDDoc`.
///
/// Versions 0.4 of `didcomm` write a DID document of DID Core, which needs no translation. Versions 0.3 and earlier
/// have other member names, and the key of a verification method under `verification_material`.
pub fn document_from_did_doc(did_doc: Value) -> Result<Document, DocumentError> {
    let Value::Object(members) = did_doc else { return Document::from_value(did_doc) };
    let mut document = Map::new();
    for (name, value) in members {
        let (name, value) = match (name.as_str(), value) {
            ("did", value) => ("id", value),
            ("key_agreement" | "key_agreements", value) => ("keyAgreement", value),
            ("authentications", value) => ("authentication", value),
            ("verification_method" | "verification_methods" | "verificationMethod", Value::Array(methods)) => {
                ("verificationMethod", methods.into_iter().map(verification_method).collect())
            }
            ("services" | "service", Value::Array(services)) => {
                ("service", services.into_iter().map(service).collect())
            }
            (name, value) => (name, value),
        };
        document.insert(name.to_owned(), value);
    }
    Document::from_value(Value::Object(document))
}

/// Moves the key out of `verification_material`: `{"format": "JWK", "value": ...}`, or `{"JWK": ...}`.
fn verification_method(mut method: Value) -> Value {
    let Some(members) = method.as_object_mut() else { return method };
    let Some(Value::Object(mut material)) = members.remove("verification_material") else { return method };
    let (format, value) = match (material.remove("format"), material.remove("value")) {
        (Some(Value::String(format)), Some(value)) => (format, value),
        _ => match material.into_iter().next() {
            Some(named) => named,
            None => return method,
        },
    };
    let name = match format.as_str() {
        "JWK" => "publicKeyJwk",
        "Multibase" => "publicKeyMultibase",
        "Base58" => "publicKeyBase58",
        // `Document` keeps such a method, and reports that its key is unsupported when it is used.
        _ => return method,
    };
    members.insert(name.to_owned(), value);
    method
}

/// Renames the members of a service and of its endpoint.
fn service(mut service: Value) -> Value {
    let Some(members) = service.as_object_mut() else { return service };
    // {"id": ..., "kind": {"DIDCommMessaging": {"service_endpoint": ..., "accept": ..., "route_keys": ...}}}
    if let Some(endpoint) = members.get_mut("kind").and_then(|kind| Some(kind.get_mut("DIDCommMessaging")?.take())) {
        members.remove("kind");
        members.insert("type".to_owned(), "DIDCommMessaging".into());
        members.insert("serviceEndpoint".to_owned(), endpoint);
    }
    if let Some(endpoint) = members.get_mut("serviceEndpoint").and_then(Value::as_object_mut) {
        for (old, new) in [("service_endpoint", "uri"), ("route_keys", "routingKeys"), ("routing_keys", "routingKeys")]
        {
            if let Some(value) = endpoint.remove(old) {
                endpoint.insert(new.to_owned(), value);
            }
        }
        endpoint.retain(|_, value| !value.is_null());
    }
    service
}

/// The private JWK, with its `kid`, from the JSON of a `Secret`: the form that [`ImportKey::from_jwk`] takes. `None`
/// for secrets in another form than a JWK.
///
/// Versions 0.4 write `privateKeyJwk`, earlier versions `secret_material`.
pub fn jwk_from_secret(secret: &Value) -> Option<Value> {
    let material = || secret.get("secret_material").filter(|material| material["format"] == "JWK")?.get("value");
    let mut jwk = secret.get("privateKeyJwk").or_else(material)?.clone();
    jwk["kid"] = secret.get("id")?.clone();
    Some(jwk)
}

/// Imports the private keys into a token, once. From then on the program names the token only.
///
/// This token is in software, so that the example runs anywhere. With an HSM it is
///
/// ```ignore
/// let token = claviger::secrets::pkcs11::open("pkcs11:token=prod?module-path=...", PinSource::file("pin"))?;
/// ```
///
/// A key that was in memory may have been copied. It is better to `generate` new keys in the token, to put them into
/// the document, and to tell the peers by `from_prior`.
async fn identities(secrets: Vec<Value>, document: Document) -> Result<Identities, Box<dyn std::error::Error>> {
    let token = SoftToken::new("a token");
    for secret in &secrets {
        let jwk = jwk_from_secret(secret).ok_or("only secrets that are JWKs are imported")?;
        let (key, _kid) = ImportKey::from_jwk(&jwk)?;
        token.import(key)?;
    }
    // This fails unless the token holds every key of the document. `didcomm` reports a missing key with the
    // first message.
    Ok(Identities::new(Keyring::start([token]).await?, [document]).await?)
}

/// The JSON of a `DIDDoc` of `didcomm` 0.4 with these keys for key agreement.
fn did_doc(did: &str, secrets: &[Value]) -> Value {
    let methods = secrets.iter().map(|secret| {
        let mut public = secret["privateKeyJwk"].clone();
        public.as_object_mut().and_then(|jwk| jwk.remove("d"));
        json!({ "id": secret["id"], "type": "JsonWebKey2020", "controller": did, "publicKeyJwk": public })
    });
    json!({
        "id": did,
        "keyAgreement": secrets.iter().map(|secret| &secret["id"]).collect::<Vec<_>>(),
        "authentication": [],
        "verificationMethod": methods.collect::<Vec<_>>(),
        "service": [],
    })
}

/// Alice's key of appendix A of the specification, as `didcomm` 0.4 writes a `Secret`.
fn alice_secrets() -> Vec<Value> {
    vec![json!({
        "id": "did:example:alice#key-x25519-1",
        "type": "JsonWebKey2020",
        "privateKeyJwk": {
            "kty": "OKP",
            "crv": "X25519",
            "x": "avH0O2Y4tqLAq8y9zpianr8ajii5m4F_mICrzNlatXs",
            "d": "r-jK2cO3taR8LQnJB1_ikLBTAnOtShJOsHXRUWT-aZA",
        },
    })]
}

fn bob_secrets() -> Vec<Value> {
    vec![json!({
        "id": "did:example:bob#key-x25519-1",
        "type": "JsonWebKey2020",
        "privateKeyJwk": {
            "kty": "OKP",
            "crv": "X25519",
            "x": "GDTrI66K0pFfO54tlCSvfjjNapIs44dzpneBgyx0S3E",
            "d": "b9NnuOCB0hm7YGNvaE9DMhwH_wjZA1-gWD6dA0JWdL0",
        },
    })]
}

#[cfg(test)]
mod tests {
    use claviger::did::Relationship;

    use super::*;

    #[test]
    fn the_example_runs() {
        main().unwrap();
    }

    #[test]
    fn documents_of_every_version_are_translated_alike() {
        let jwk = json!({ "kty": "OKP", "crv": "X25519", "x": "avH0O2Y4tqLAq8y9zpianr8ajii5m4F_mICrzNlatXs" });
        let (kid, uri) = ("did:example:alice#key-1", "https://mediator.example.org");
        let routing_keys = json!(["did:example:mediator#key-1"]);
        let endpoint = json!({ "uri": uri, "accept": ["didcomm/v2"], "routingKeys": routing_keys });
        for did_doc in [
            // 0.4
            json!({
                "id": ALICE, "keyAgreement": [kid], "authentication": [],
                "verificationMethod":
                    [{ "id": kid, "type": "JsonWebKey2020", "controller": ALICE, "publicKeyJwk": jwk }],
                "service": [{ "id": "did:example:alice#s", "type": "DIDCommMessaging", "serviceEndpoint": endpoint }],
            }),
            // 0.3
            json!({
                "did": ALICE, "key_agreements": [kid], "authentications": [],
                "verification_methods": [{
                    "id": kid, "type": "JsonWebKey2020", "controller": ALICE,
                    "verification_material": { "format": "JWK", "value": jwk },
                }],
                "services": [{
                    "id": "did:example:alice#s",
                    "kind": { "DIDCommMessaging": {
                        "service_endpoint": uri, "accept": ["didcomm/v2"], "route_keys": routing_keys,
                    } },
                }],
            }),
            json!({
                "did": ALICE, "key_agreements": [kid], "authentications": [],
                "verification_methods": [{
                    "id": kid, "type": "JsonWebKey2020", "controller": ALICE, "verification_material": { "JWK": jwk },
                }],
                "services": [{
                    "id": "did:example:alice#s", "type": "DIDCommMessaging",
                    "serviceEndpoint": { "uri": uri, "accept": null, "routing_keys": routing_keys },
                }],
            }),
        ] {
            let document = document_from_did_doc(did_doc).unwrap();
            assert_eq!(document.id(), ALICE);
            let method = document.method(kid, Relationship::KeyAgreement).unwrap();
            assert_eq!(serde_json::to_value(method.key.as_ref().unwrap().to_jwk()).unwrap(), jwk);
            let service = document.didcomm_services().next().unwrap();
            assert_eq!((&*service.id, &*service.endpoints[0].uri), ("did:example:alice#s", uri));
            assert_eq!(json!(service.endpoints[0].routing_keys), routing_keys);
        }
        assert!(document_from_did_doc(json!("did:example:alice")).is_err());
    }

    #[test]
    fn secrets_of_every_version_are_translated_alike() {
        let secret = alice_secrets().remove(0);
        let earlier = json!({
            "id": secret["id"], "type": "JsonWebKey2020",
            "secret_material": { "format": "JWK", "value": secret["privateKeyJwk"] },
        });
        let jwk = jwk_from_secret(&secret).unwrap();
        assert_eq!(jwk["kid"], secret["id"]);
        assert_eq!(jwk_from_secret(&earlier), Some(jwk));
        assert_eq!(jwk_from_secret(&json!({ "id": "did:example:alice#key-1", "privateKeyBase58": "x" })), None);
    }
}
