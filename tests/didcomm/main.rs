//! `src/jose` and `src/didcomm`: messages that are packed and unpacked, and hostile ones that are refused.

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod appendix;
mod attachments;
mod conformance;
mod foreign;
mod forward;
mod headers;
mod hostile;
mod hostile_from_prior;
mod hostile_jwe;
mod hostile_jws;
mod message;
#[cfg(feature = "exact-numbers")]
mod numbers;
mod properties;
mod provenance;
mod refused;
mod rotation;
mod roundtrip;
mod unavailable_tokens;
