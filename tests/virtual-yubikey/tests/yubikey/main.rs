//! What the virtual YubiKey does, command by command, as a host sees it.

mod attestation;
mod faults;
mod host;
mod keys;
mod management;
mod objects;
mod pin;
mod policies;
mod transport;
