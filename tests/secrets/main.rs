//! `src/secrets`: the keyring, the keeper, and tokens of each kind, by the library's own interface.

#[cfg(feature = "yubikey")]
#[path = "../support/connected_card.rs"]
mod connected_card;
#[path = "../support/mod.rs"]
mod support;

mod blame;
#[cfg(feature = "keeper")]
mod keeper;
mod keyring;
#[cfg(feature = "yubikey")]
mod piv;
#[cfg(feature = "pkcs11")]
mod pkcs11;
mod prove;
