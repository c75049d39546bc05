//! YubiKeys, on a virtual card.

mod attestation;
mod card;
mod examine;
mod foreign;
mod idle;
mod reports;
mod setup;
#[cfg(feature = "pkcs11")]
mod tools;
mod ykman;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held by a test that runs pcscd: there can be only one.
fn pcscd_lock() -> MutexGuard<'static, ()> {
    static PCSCD: Mutex<()> = Mutex::new(());
    PCSCD.lock().unwrap_or_else(PoisonError::into_inner)
}
