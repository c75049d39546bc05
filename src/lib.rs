//! DIDComm v2 with private keys that never leave the hardware.
//!
//! Claviger packs and unpacks [DIDComm Messaging v2.1](https://identity.foundation/didcomm-messaging/spec/v2.1/)
//! messages. A PKCS#11 token or a YubiKey does every private-key operation: key agreement and signatures. Private keys
//! stay in the device; the process sees public keys and, for each message, its content key and plaintext.
//!
//! Until the first release, name the crate as a path or git dependency. The same package has the program `claviger`, a
//! command line and a daemon. It needs the feature `cli`: `cargo install --path . --features cli,yubikey` in a clone.
//!
//! # Example
//!
//! One token is enough to try this: Alice writes to herself. `examples/developer.rs` is the same as a whole program.
//!
#![cfg_attr(feature = "pkcs11", doc = "```no_run")]
#![cfg_attr(not(feature = "pkcs11"), doc = "```ignore")]
//! use claviger::{Identities, Keyring, Message, UnpackOptions, did, did::Document, secrets::pkcs11};
//! use serde_json::json;
//!
//! # async fn example(alice_document: Document) -> Result<(), Box<dyn std::error::Error>> {
//! // A token with Alice's keys. The PIN is read from a file when it is needed.
//! let uri = "pkcs11:token=alice?module-path=/usr/lib/softhsm/libsofthsm2.so";
//! let token = pkcs11::open(uri, pkcs11::PinSource::file("/run/secrets/pin"))?;
//!
//! // Alice's DID document says which of the token's keys stand for which DID. This fails if a key is missing.
//! let alice = alice_document.id().to_owned();
//! let me = Identities::new(Keyring::start([token]).await?, [alice_document]).await?;
//!
//! // Resolves did:key and did:peer. See `did` for did:web and did:webvh.
//! let resolver = did::local();
//!
//! let message = Message::build(
//!     Message::new_id(),
//!     "https://didcomm.org/basicmessage/2.0/message",
//!     json!({ "content": "Hello" }),
//! )
//! .from(&alice)
//! .to(&alice)
//! .finalize();
//! let (packed, _) = message.encrypt_to(&alice).from(&alice).pack(&resolver, &me).await?;
//!
//! let options = UnpackOptions { require_authenticated: true, ..Default::default() };
//! let (message, provenance) = Message::unpack(&packed, &resolver, &me, &options).await?;
//! println!("{} from {:?}", message.body, provenance.sender());
//! # Ok(())
//! # }
//! ```
//!
//! A test needs no token: `claviger-testkit` has one in software.
//!
//! # Features
//!
//! | feature | default | what it adds | needs |
//! |---|---|---|---|
//! | `pkcs11` | yes | PKCS#11 tokens: [`secrets::pkcs11`] | a vendor's PKCS#11 module at run time |
//! | `yubikey` | | YubiKeys over PC/SC: `secrets::piv` | libpcsclite |
//! | `http` | | `net`: an HTTPS client for `did:web` and `did:webvh`, bounded, without access to private addresses | |
//! | `keeper` | | `secrets::keeper`: the tokens in their own process; `process`: hardening | Linux for the sandbox |
//! | `agent` | | `agent`: the daemon as a library, with SQLite, HTTP and WebSocket; implies `http` and `keeper` | |
//! | `cli` | | the program `claviger`; implies `agent` and `pkcs11` | |
//! | `otel` | | OpenTelemetry spans of the daemon; implies `cli` | |
//!
//! Without default features the crate is the DIDComm, JOSE and DID layers over the trait [`Secrets`].
//!
//! # Modules
//!
//! - `agent` (feature `agent`): the agent: protocols, store, transports, the application's API.
//! - `net` (feature `http`): clients for HTTP and WebSocket, and the guard against private addresses.
//! - [`didcomm`]: messages, packing and unpacking. Start here.
//! - [`did`]: DIDs, DID documents and resolvers.
//! - [`secrets`]: the trait [`Secrets`], through which every private-key operation passes, and the tokens behind it.
//! - [`jose`], [`crypto`], [`keys`]: what the modules above are built on.
//! - `process` (feature `keeper`): hardening of a process, and the agent's sandbox.
//!
//! Each module uses only those below it. Outside `secrets`, no code holds a long-term private key, nor a shared secret
//! or key-encryption key that was made with one.
//!
//! Users of the crate `didcomm` find the differences in `docs/from-didcomm.md`.
#![cfg_attr(docsrs, feature(doc_cfg))]
// `secrets::pkcs11::raw` alone is exempt.
#![deny(unsafe_code)]

#[cfg(feature = "agent")]
pub mod agent;
pub mod crypto;
pub mod did;
pub mod didcomm;
pub mod jose;
pub mod keys;
#[cfg(feature = "http")]
pub mod net;
#[cfg(feature = "keeper")]
pub mod process;
pub mod secrets;

pub use didcomm::{Identities, Message, Provenance, UnpackOptions};
pub use secrets::{Keyring, Secrets};
