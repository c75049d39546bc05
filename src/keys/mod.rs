//! Public keys, and the three ways of writing them: raw bytes, JWK and multikey.
//!
//! A [`PublicKey`] is checked when it is made: its point is on its curve, and a key on a 25519 curve does not have low
//! order. Code that has a `PublicKey` need not check it again (RFC 7518 section 6.2.1, RFC 7748 section 6.1, DIDComm
//! v2.1 "ECDH-1PU key wrapping and common protected headers").
//!
//! This module knows no private key, no DID and no token.

mod curve;
mod error;
mod jwk;
mod multikey;
mod parse_name;
mod point;
mod public_key;

pub use curve::{Curve, SignatureAlgorithm};
pub use error::KeyError;
pub use jwk::Jwk;
pub use public_key::PublicKey;
