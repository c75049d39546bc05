//! A program of the `didcomm` crate, ported: what it was stands in comments, what it is now beneath.
//!
//! ```sh
//! cargo run --example from_didcomm
//! ```
//!
//! One trait changes. `didcomm` asks a `SecretsResolver` for private keys and computes with them; claviger asks
//! `Secrets` to compute, and no private key comes out. Between the two stand `Identities`: they say which of our DIDs'
//! methods is which key of a token. `Message` keeps its API, but for what is marked here.

// use didcomm::{did::{resolvers::ExampleDIDResolver, DIDDoc}, secrets::{resolvers::ExampleSecretsResolver, Secret}, ..};
use claviger::{
    did::{Document, LocalResolver},
    didcomm::{Identities, Message, PackEncryptedOptions, UnpackOptions},
    secrets::{Custodian, ImportKey, Keyring},
};
use claviger_testkit::SoftToken;
use serde_json::{Value, json};

const ALICE: &str = "did:example:alice";
const BOB: &str = "did:example:bob";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Documents: a Value instead of a struct, and any that is valid. `DIDDoc` wants every relationship, and methods
    // referenced, not embedded.
    //
    //     let resolver = ExampleDIDResolver::new(vec![alice_did_doc(), bob_did_doc()]);
    let documents = [document(ALICE, &alice_secrets())?, document(BOB, &bob_secrets())?];
    let resolver = LocalResolver::new().with_documents(documents.clone());
    let [alice_document, bob_document] = documents;

    // Secrets: what handed out private keys becomes a token.
    //
    //     let secrets = ExampleSecretsResolver::new(alice_secrets());
    let alice = identities(alice_secrets(), alice_document).await?;

    // Messages: `build` takes &str too, and unknown headers are kept.
    //
    //     let msg = Message::build("example-1".to_owned(), "example/v1".to_owned(), json!("example-body"))
    //         .to(BOB.to_owned()).from(ALICE.to_owned()).finalize();
    //
    // The type must be a message type URI and the body an object, as the specification has it: both are checked.
    let message = Message::build("example-1", "https://example.org/greeting/1.0/hello", json!({"text": "Hello, Bob"}))
        .to(BOB)
        .from(ALICE)
        .finalize();

    // Packing: `&alice` stands where `&secrets` stood, and that is all.
    //
    //     let (packed, metadata) = msg.pack_encrypted(BOB, Some(ALICE), None, &resolver, &secrets,
    //         &PackEncryptedOptions { forward: false, ..Default::default() }).await?;
    //
    // `enc_alg_anon` is called `enc`, and is A256CBC-HS512 if not said (there: XC20P, which no peer must read);
    // `enc_alg_auth` is gone, as authcrypt has but one.
    let options = PackEncryptedOptions { forward: false, ..Default::default() };
    let (packed, metadata) = message.pack_encrypted(BOB, Some(ALICE), None, &resolver, &alice, &options).await?;
    println!(
        "From {} to {}:\n{packed}\n",
        metadata.from_kid.as_deref().unwrap_or("nobody"),
        metadata.to_kids.join(", ")
    );

    // Unpacking: the same change. What comes with the message is a `Provenance`: the layers, outermost first, each
    // verified, instead of a field for each thing that may have been there.
    //
    //     let (msg, metadata) = Message::unpack(&packed, &resolver, &secrets, &UnpackOptions::default()).await?;
    //     assert!(metadata.encrypted && metadata.authenticated);
    //
    // Errors that `didcomm` does not have: `from` that is not the DID of the key that encrypted or signed, `to` that
    // leaves the recipient out, a key that stands in another relationship.
    let bob = identities(bob_secrets(), bob_document).await?;
    let (message, provenance) = Message::unpack(&packed, &resolver, &bob, &UnpackOptions::default()).await?;
    assert!(provenance.encrypted && provenance.authenticated);
    println!("Bob reads {}, by {}", message.body, serde_json::to_string_pretty(&provenance.layers)?);
    Ok(())
}

/// The private keys, put into a token once; from then on the program names the token only.
///
/// This one is in software, so that the example runs anywhere. With an HSM it is
///
/// ```ignore
/// let token = claviger::secrets::pkcs11::open("pkcs11:token=prod?module-path=...", PinSource::file("pin"))?;
/// ```
///
/// A key that was in memory may have been copied. Better is to `generate` new ones in the token, to put those in the
/// document, and to tell the peers by `from_prior`.
async fn identities(secrets: Vec<Value>, document: Document) -> Result<Identities, Box<dyn std::error::Error>> {
    let token = SoftToken::new("a token");
    for jwk in &secrets {
        let (key, _kid) = ImportKey::from_jwk(jwk)?;
        token.import(key)?;
    }
    // An error here names a method of the document that no token holds. `didcomm` says so at the first message.
    Ok(Identities::new(Keyring::start([token]).await?, [document]).await?)
}

/// A document with these keys for key agreement.
fn document(did: &str, secrets: &[Value]) -> Result<Document, Box<dyn std::error::Error>> {
    let methods = secrets.iter().map(|secret| {
        let mut public = secret.clone();
        let id = public["kid"].take();
        for member in ["kid", "d"] {
            public.as_object_mut().and_then(|jwk| jwk.remove(member));
        }
        json!({ "id": id, "type": "JsonWebKey2020", "controller": did, "publicKeyJwk": public })
    });
    Ok(Document::from_value(json!({ "id": did, "keyAgreement": methods.collect::<Vec<_>>() }))?)
}

/// Keys of the specification's appendix A.
fn alice_secrets() -> Vec<Value> {
    vec![json!({
        "kid": "did:example:alice#key-x25519-1",
        "kty": "OKP",
        "crv": "X25519",
        "x": "avH0O2Y4tqLAq8y9zpianr8ajii5m4F_mICrzNlatXs",
        "d": "r-jK2cO3taR8LQnJB1_ikLBTAnOtShJOsHXRUWT-aZA",
    })]
}

fn bob_secrets() -> Vec<Value> {
    vec![json!({
        "kid": "did:example:bob#key-x25519-1",
        "kty": "OKP",
        "crv": "X25519",
        "x": "GDTrI66K0pFfO54tlCSvfjjNapIs44dzpneBgyx0S3E",
        "d": "b9NnuOCB0hm7YGNvaE9DMhwH_wjZA1-gWD6dA0JWdL0",
    })]
}
