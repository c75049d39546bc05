//! `src/crypto` and `src/keys`, by the vectors of their specifications and of Project Wycheproof.

#[path = "../support/mod.rs"]
mod support;
#[macro_use]
#[path = "../support/every_token.rs"]
mod every_token;

mod canonical_json;
mod kdf_vectors;
mod wycheproof;
