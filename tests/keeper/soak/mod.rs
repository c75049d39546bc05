//! The soak: very many operations on a token that fails now and then, and on one that does not.
//!
//! `make test` runs a slice of seconds. `CLAVIGER_SOAK=whole`, as `make soak` sets it, runs all: 64 tasks of 10,000
//! operations, and 1,000,000 derivations.

mod failing;
mod keepers;
mod memory;
mod questions;

use claviger::{
    keys::{Curve, PublicKey},
    secrets::{Custodian, KeyUse, NewKey, pkcs11::Pkcs11Token},
};

fn whole() -> bool {
    std::env::var_os("CLAVIGER_SOAK").is_some_and(|soak| soak == "whole")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn generate(token: &Pkcs11Token, curve: Curve) -> PublicKey {
    token.generate(&NewKey { curve, usage: KeyUse::of(curve), label: None }).expect("a new key").public
}
