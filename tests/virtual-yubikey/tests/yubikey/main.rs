//! Tests of the virtual YubiKey's commands, from the host's side.

mod attestation;
mod faults;
mod host;
mod keys;
mod management;
mod objects;
mod pin;
mod policies;
mod transport;
