//! PKCS#11: real modules, and real modules behind one that injects faults.

mod devices;
mod doctor;
mod fault;
mod healing;
mod interfaces;
mod login;
mod many_keys;
mod pin_rules;
mod shim;
mod token_suite;
mod tokens;
