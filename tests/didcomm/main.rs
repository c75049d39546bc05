//! `src/jose` and `src/didcomm`: messages that are packed and unpacked, and hostile ones that are refused.

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod appendix;
mod conformance;
mod forward;
mod hostile;
mod hostile_from_prior;
mod hostile_jwe;
mod hostile_jws;
mod message;
mod properties;
mod provenance;
mod rotation;
mod roundtrip;
mod unavailable_tokens;
