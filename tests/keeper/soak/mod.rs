//! The soak: very many operations on a token that fails now and then, and on a token that does not.
//!
//! `CLAVIGER_SOAK` sets the [`Length`].

mod failing;
mod keepers;
mod memory;
mod operations;

use claviger::{
    keys::{Curve, PublicKey},
    secrets::{Custodian, KeyUse, NewKey, pkcs11::Pkcs11Token},
};

/// How long the soak is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    /// Seconds, as in `make test`.
    Slice,
    /// A minute or two, as in CI: `CLAVIGER_SOAK=short`.
    Short,
    /// 64 tasks of 10,000 operations, and 1,000,000 derivations: `CLAVIGER_SOAK=whole`, as in `make soak`.
    Whole,
}

impl Length {
    fn from_environment() -> Self {
        match std::env::var("CLAVIGER_SOAK").as_deref() {
            Ok("whole") => Self::Whole,
            Ok("short") => Self::Short,
            Ok(other) => panic!("CLAVIGER_SOAK is `short` or `whole`, not `{other}`"),
            Err(_) => Self::Slice,
        }
    }
}

/// Chooses by the soak's length.
fn by_length<T>(slice: T, short: T, whole: T) -> T {
    match Length::from_environment() {
        Length::Slice => slice,
        Length::Short => short,
        Length::Whole => whole,
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn generate(token: &Pkcs11Token, curve: Curve) -> PublicKey {
    token.generate(&NewKey { curve, usage: KeyUse::of(curve), label: None }).expect("a new key").public
}
