//! The token suite of `claviger-testkit` on SoftHSM and Kryoptic, in each custody tier that they have.

use crate::support::{Module, with_fresh_token};
use claviger::{
    keys::Curve,
    secrets::{
        Custody,
        pkcs11::{OpenOptions, Pkcs11Token},
    },
};
use claviger_testkit::suite::{self, Capabilities};

fn run(module: Module, tier: Custody, capabilities: Capabilities) {
    with_fresh_token(module, |fresh| {
        let open = || -> Pkcs11Token { OpenOptions::new().tiers([tier]).open(&fresh.uri).expect("a token") };
        let (token, capabilities) = (open(), capabilities.with_custody(tier));
        suite::run(&token, &capabilities);
        suite::keys::are_the_same_when_opened_again(&token, &capabilities, open);
    });
}

#[test]
fn softhsm_shared_secret_in_process() {
    run(Module::SoftHsm, Custody::SharedSecretInProcess, Capabilities::all());
}

#[test]
fn softhsm_kek_in_process() {
    run(Module::SoftHsm, Custody::KekInProcess, Capabilities::all());
}

#[test]
fn kryoptic_shared_secret_in_process() {
    run(Module::Kryoptic, Custody::SharedSecretInProcess, Capabilities::all().without(Curve::Secp256k1));
}

#[test]
fn kryoptic_kek_in_process() {
    run(Module::Kryoptic, Custody::KekInProcess, Capabilities::all().without(Curve::Secp256k1));
}

#[test]
fn kryoptic_kek_in_token() {
    run(Module::Kryoptic, Custody::KekInToken, Capabilities::all().without(Curve::Secp256k1));
}
