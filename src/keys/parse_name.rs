//! Parses curves and signature algorithms from their names.

use std::str::FromStr;

use super::{
    curve::{Curve, SignatureAlgorithm},
    error::KeyError,
};

impl FromStr for Curve {
    type Err = KeyError;

    /// Parses the `crv` of a JWK. The case is ignored, since people type curve names.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Curve::ALL
            .into_iter()
            .find(|curve| curve.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| KeyError::Unsupported(name.to_owned()))
    }
}

impl FromStr for SignatureAlgorithm {
    type Err = KeyError;

    /// Parses the `alg` of a JWS. JOSE algorithms are case-sensitive (RFC 7515 section 4.1.1).
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        [SignatureAlgorithm::EdDsa, SignatureAlgorithm::Es256, SignatureAlgorithm::Es256k]
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
            .ok_or_else(|| KeyError::Unsupported(name.to_owned()))
    }
}
