//! `src/secrets`: the keyring, the keeper, and tokens of each kind, by the library's own interface.

#[cfg(feature = "yubikey")]
#[path = "../support/connected_card.rs"]
mod connected_card;
#[path = "../support/p11_kit.rs"]
mod p11_kit;
#[path = "../support/mod.rs"]
mod support;
#[cfg(feature = "yubikey")]
#[path = "../support/yubikey_report.rs"]
mod yubikey_report;

mod blame;
#[cfg(feature = "keeper")]
mod keeper;
mod keyring;
#[cfg(feature = "yubikey")]
mod piv;
#[cfg(feature = "pkcs11")]
mod pkcs11;
mod prove;
