//! PKCS#11: real modules, and real modules behind one that injects faults.

mod devices;
mod doctor;
mod fault;
mod foreign_keys;
mod healing;
mod interfaces;
mod locked_pin;
mod login;
mod many_keys;
mod p11_kit;
mod pin_rules;
mod reports;
mod shim;
mod token_suite;
mod tokens;
