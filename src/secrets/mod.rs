//! Every operation with a long-term private key in the program.
//!
//! The layers above use [`Secrets`]. A [`Token`] is one device, with blocking calls; a [`Custodian`] also makes,
//! imports and deletes its keys. [`Keyring`] implements `Secrets` over tokens in the same process,
//! `keeper::KeeperClient` over a token in another process, and [`FailoverSecrets`] over several of these. No method of
//! `Secrets` or `Token` takes or returns a long-term private key, nor a Z or a KEK that was computed with one.
//!
//! A key is identified by its public half. This module knows no DID.
//!
//! # When a token is away
//!
//! An HSM that was unplugged, a lost network connection, or a refused PIN puts the token *out of service*
//! ([`Outage`]). The keyring's documentation ([`Keyring`]) says how an outage is detected, what callers get, and how
//! the token comes back into service. The message itself waits above this module: the inbox keeps it, still encrypted,
//! until a key is ready again.

mod backoff;
mod context;
mod custody;
mod error;
mod failover;
mod held_key;
mod import;
mod interface;
#[cfg(feature = "keeper")]
pub mod keeper;
mod key_use;
mod keyring;
mod latency;
mod lazy_token;
mod look_again;
mod mutex;
mod outage;
mod person;
#[cfg(any(feature = "pkcs11", feature = "yubikey"))]
pub mod pin;
#[cfg(feature = "yubikey")]
pub mod piv;
#[cfg(feature = "pkcs11")]
pub mod pkcs11;
mod policy;
mod prove;
mod purpose;
mod request;
#[cfg(any(feature = "pkcs11", feature = "yubikey"))]
mod shell_word;
mod signing;
mod slot;
mod test_peers;
mod token;

pub use backoff::Backoff;
pub use context::Context;
pub use custody::Custody;
pub use error::{Cause, SecretsError, TokenError};
pub use failover::FailoverSecrets;
pub use held_key::{HeldKey, HeldKeys, KeyState, Origin, UnpairedKey};
pub use import::{ImportError, ImportKey};
pub use interface::Secrets;
pub use key_use::KeyUse;
pub use keyring::{Keyring, KeyringBuilder, TokenStatus};
pub use lazy_token::LazyToken;
pub use outage::Outage;
pub use policy::{KeyOperation, Policy};
pub use prove::prove_keys;
pub use purpose::Purpose;
pub use request::{Ecdh1puSender, UnwrapRequest, WrapRequest};
pub use signing::{FromPriorClaims, SignRequest, Signature};
pub use slot::{PinPolicy, Slot, SlotOptions, TouchPolicy};
pub use token::{Custodian, NewKey, Token, TokenInfo};
