//! JWE and JWS as DIDComm v2.1 uses them: General JSON with ECDH-1PU+A256KW or ECDH-ES+A256KW, and JSON signatures.
//!
//! [`Envelope::parse`] is the one place where foreign bytes become a type. What it returns has passed every check that
//! needs no key: closed lists of algorithms, no parameter twice, `apv` recomputed, `epk` valid on its curve. So nothing
//! malformed ever reaches a token.
//!
//! This module resolves no DID: a key id is a string here, and its caller brings the key.

mod b64;
mod encrypt;
mod envelope;
mod error;
mod json;
mod jwe;
mod jws;
mod jwt;

pub use encrypt::{Recipient, anoncrypt, authcrypt};
pub use envelope::{Envelope, Limits};
pub use error::JoseError;
pub use jwe::{Jwe, KeyAgreement};
pub use jws::Jws;
pub use jwt::Jwt;

pub(crate) use error::quoted;
pub(crate) use json::object as json_object;
pub(crate) use jws::general_json;
