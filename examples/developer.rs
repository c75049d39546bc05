//! Packs and unpacks a message with keys in a PKCS#11 token.
//!
//! ```sh
//! softhsm/token /tmp/tokens demo          # prints variables to export, and the URI of the token
//! cargo run --example developer -- 'pkcs11:token=demo?module-path=...&pin-source=file:...'
//! ```

use claviger::{
    Identities, Keyring, Message,
    did::{self, Relationship},
    keys::Curve,
    secrets::{
        Custodian, KeyUse, NewKey,
        pkcs11::{self, PinSource},
    },
};
use serde_json::json;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let uri = std::env::args().nth(1).ok_or("name a token: pkcs11:token=...?module-path=...&pin-source=file:...")?;
    // The URI says where the PIN comes from. `PinSource::file("pin")` names a file here instead.
    let token = pkcs11::open(&uri, PinSource::uri())?;

    // Do this once: make two keys in the token, and a DID from their public halves.
    let agreement = token.generate(&NewKey { curve: Curve::X25519, usage: KeyUse::Agreement, label: None })?;
    let signing = token.generate(&NewKey { curve: Curve::Ed25519, usage: KeyUse::Signing, label: None })?;
    let keys = [(Relationship::KeyAgreement, agreement.public), (Relationship::Authentication, signing.public)];
    let document = did::peer::create_2(&keys, &[])?;
    let alice = document.id().to_owned();

    let secrets = Keyring::start([token]).await?;
    let me = Identities::new(secrets, [document]).await?; // fails if any key of the document is in no token
    let resolver = did::local(); // resolves did:key and did:peer

    // Alice writes to herself, so one token is enough.
    let message =
        Message::build(Message::new_id(), "https://didcomm.org/basicmessage/2.0/message", json!({"content": "Hello"}))
            .from(&alice)
            .to(&alice)
            .finalize();
    let (packed, chosen) = message.encrypt_to(&alice).from(&alice).pack(&resolver, &me).await?;
    println!("{packed}\n\nfrom {:?}\nto   {:?}\n", chosen.from_kid, chosen.to_kids);

    let (message, provenance) = Message::unpack(&packed, &resolver, &me, &Default::default()).await?;
    println!("{}\n{}", serde_json::to_string_pretty(&message)?, serde_json::to_string_pretty(&provenance)?);
    Ok(())
}
