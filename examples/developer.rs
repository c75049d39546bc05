//! The code a developer writes: keys in a PKCS#11 token, a message out, the same message in.
//!
//! ```sh
//! softhsm/token /tmp/tokens demo          # prints the environment to export, and a URI
//! cargo run --example developer -- 'pkcs11:token=demo?module-path=...&pin-source=file:...'
//! ```

use claviger::{
    did::{self, Relationship},
    didcomm::{Identities, Message},
    keys::Curve,
    secrets::{
        Custodian, KeyUse, Keyring, NewKey,
        pkcs11::{self, PinSource},
    },
};
use serde_json::json;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let uri = std::env::args().nth(1).ok_or("name a token: pkcs11:token=...?module-path=...&pin-source=file:...")?;
    // Where the PIN comes from stands in the URI; `PinSource::file("pin")` would name a file here.
    let token = pkcs11::open(&uri, PinSource::uri())?;

    // Once: two keys made in the token, and a DID that is made of their public halves.
    let agreement = token.generate(&NewKey { curve: Curve::X25519, usage: KeyUse::Agreement, label: None })?;
    let signing = token.generate(&NewKey { curve: Curve::Ed25519, usage: KeyUse::Signing, label: None })?;
    let keys = [(Relationship::KeyAgreement, agreement.public), (Relationship::Authentication, signing.public)];
    let document = did::peer::create_2(&keys, &[])?;
    let alice = document.id().to_owned();

    let secrets = Keyring::start([token]).await?;
    let me = Identities::new(secrets, [document]).await?; // an error names a method that no token holds
    let resolver = did::local(); // did:key, did:peer

    // To herself, so that one token is enough.
    let message =
        Message::build(Message::new_id(), "https://didcomm.org/basicmessage/2.0/message", json!({"content": "Hello"}))
            .from(&alice)
            .to(&alice)
            .finalize();
    let (packed, chosen) =
        message.pack_encrypted(&alice, Some(&alice), None, &resolver, &me, &Default::default()).await?;
    println!("{packed}\n\nfrom {:?}\nto   {:?}\n", chosen.from_kid, chosen.to_kids);

    let (message, provenance) = Message::unpack(&packed, &resolver, &me, &Default::default()).await?;
    println!("{}\n{}", serde_json::to_string_pretty(&message)?, serde_json::to_string_pretty(&provenance)?);
    Ok(())
}
