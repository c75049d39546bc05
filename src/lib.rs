//! DIDComm v2 with private keys that never leave the hardware.
//!
//! Claviger packs and unpacks [DIDComm Messaging v2.1](https://identity.foundation/didcomm-messaging/spec/v2.1/)
//! messages. A PKCS#11 token or a YubiKey does every private-key operation: key agreement and signatures. Private keys
//! stay in the device; the process sees public keys and, for each message, its content key and plaintext.
//!
//! Until the first release, depend on the crate by path or by git. The package also contains the program
//! `claviger`, which is a command line and a daemon. To install the program from a clone, run `cargo install --path
//! . --features cli,yubikey`.
//!
//! # Example
//!
//! One token is enough, since Alice writes to herself. `examples/developer.rs` is this example as a complete program.
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
//! Tests need no device: `claviger-testkit` has a token in software.
//!
//! # Features
//!
//! | feature | default | what it adds | needs |
//! |---|---|---|---|
//! | `pkcs11` | yes | PKCS#11 tokens: [`secrets::pkcs11`] | a vendor's PKCS#11 module at run time |
//! | `yubikey` | | YubiKeys over PC/SC: `secrets::piv` | libpcsclite |
//! | `http` | | `net`: HTTPS for `did:web` and `did:webvh`; limits time and size, refuses private addresses | |
//! | `keeper` | | `secrets::keeper`: the tokens in their own process; `process`: hardening | Linux for the sandbox |
//! | `agent` | | `agent`: the daemon as a library, with SQLite, HTTP and WebSocket; implies `http` and `keeper` | |
//! | `postgres` | | `agent::store::PostgresStore`, beside the store in SQLite; implies `agent` | PostgreSQL 15 or newer |
//! | `exact-numbers` | | numbers in messages keep all their digits; changes `serde_json` in your whole program | |
//! | `cli` | | the program `claviger`; implies `agent`, `pkcs11` and `exact-numbers` | |
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
//! - [`jose`]: the JWE and JWS envelopes of messages.
//! - [`secrets`]: the trait [`Secrets`], through which every private-key operation passes, and the tokens behind it.
//! - [`crypto`], [`keys`]: cryptographic functions without state, and public keys.
//! - `process` (feature `keeper`): hardening of a process, and the agent's sandbox.
//!
//! No module uses a module above it in this list. Outside `secrets`, no code holds a long-term private key, nor a
//! shared secret or key-encryption key that was computed with such a key.
//!
//! If you know the crate `didcomm`, read `docs/from-didcomm.md` for the differences.
#![cfg_attr(docsrs, feature(doc_cfg))]
// Only `secrets::pkcs11::raw` allows unsafe code.
#![deny(unsafe_code)]

#[cfg(feature = "agent")]
pub mod agent;
pub mod crypto;
pub mod did;
pub mod didcomm;
mod encoding;
pub mod jose;
mod json;
pub mod keys;
#[cfg(feature = "http")]
pub mod net;
#[cfg(feature = "keeper")]
pub mod process;
pub mod secrets;

pub use didcomm::{Identities, Message, Provenance, UnpackOptions};
pub use secrets::{Keyring, Secrets};
