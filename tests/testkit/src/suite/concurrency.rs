//! Many threads on one token.

use std::thread;

use claviger::{keys::Curve, secrets::Custodian};

use super::{Capabilities, agreement, signing, temporary::Temporary};

const THREADS: usize = 8;
const ROUNDS: usize = 10;

/// All threads use one key of each curve.
pub fn keys_serve_many_threads(token: &dyn Custodian, capabilities: &Capabilities) {
    let keys: Vec<_> = capabilities.curves().map(|curve| Temporary::generate(token, curve)).collect();
    thread::scope(|scope| {
        for first in 0..THREADS {
            let keys = &keys;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    // Each thread begins with another key.
                    use_once(token, &keys[(first + round) % keys.len()]);
                }
            });
        }
    });
}

/// Each thread makes, uses and deletes its own keys at the same time.
pub fn keys_come_and_go_while_others_work(token: &dyn Custodian, capabilities: &Capabilities) {
    let curves: Vec<Curve> = capabilities.curves().collect();
    thread::scope(|scope| {
        for first in 0..THREADS {
            let curves = &curves;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let key = Temporary::generate(token, curves[(first + round) % curves.len()]);
                    use_once(token, &key);
                }
            });
        }
    });
}

fn use_once(token: &dyn Custodian, key: &Temporary<'_>) {
    if key.held.usage.allows_key_agreement() {
        agreement::check_unwraps(token, key.public());
    }
    if key.held.usage.allows_signing() {
        signing::check_signs(token, key.public(), b"input");
    }
}
