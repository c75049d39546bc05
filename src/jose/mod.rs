//! JWE and JWS as DIDComm v2.1 uses them: General JSON with ECDH-1PU+A256KW or ECDH-ES+A256KW, and JSON signatures.
//!
//! [`Envelope::parse`] parses a received message, and [`Jwt::parse`] parses a received `from_prior`. Their results have
//! passed every check that needs no key: the algorithms are allowed, no parameter is given twice, `apv` is correct, and
//! `epk` is valid on its curve. So no malformed input reaches a token.
//!
//! This module resolves no DID. Key ids are strings here, and callers supply the keys.

mod b64;
mod encrypt;
mod envelope;
mod error;
mod header;
mod json;
mod jwe;
mod jws;
mod jwt;
mod limits;

pub use encrypt::{Recipient, anoncrypt, authcrypt};
pub use envelope::Envelope;
pub use error::JoseError;
pub use jwe::{Jwe, KeyAgreement};
pub use jws::Jws;
pub use jwt::Jwt;
pub use limits::Limits;

pub(crate) use error::quoted;
pub(crate) use json::parse_object as parse_json_object;
pub(crate) use jws::general_json;
