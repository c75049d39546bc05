//! YubiKeys, on a virtual card.

mod card;
mod setup;
#[cfg(feature = "pkcs11")]
mod tools;
