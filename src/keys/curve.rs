//! The six curves, and which of them agrees on keys and which signs.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A curve that DIDComm v2.1 names (sections "ECDH-1PU key wrapping" and "Algorithms" of signed messages).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Curve {
    /// RFC 7748; key agreement.
    X25519,
    /// FIPS 186-5; key agreement, and ES256.
    #[serde(rename = "P-256")]
    P256,
    /// FIPS 186-5; key agreement.
    #[serde(rename = "P-384")]
    P384,
    /// FIPS 186-5; key agreement.
    #[serde(rename = "P-521")]
    P521,
    /// RFC 8032; EdDSA.
    Ed25519,
    /// SEC 2; ES256K.
    #[serde(rename = "secp256k1")]
    Secp256k1,
}

/// A JWS algorithm that a DIDComm message is signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SignatureAlgorithm {
    /// Ed25519 over the whole input (RFC 8037).
    #[serde(rename = "EdDSA")]
    EdDsa,
    /// ECDSA on P-256 with SHA-256 (RFC 7518 section 3.4).
    #[serde(rename = "ES256")]
    Es256,
    /// ECDSA on secp256k1 with SHA-256 (RFC 8812).
    #[serde(rename = "ES256K")]
    Es256k,
}

impl Curve {
    /// All of them, in the order in which we prefer to make keys.
    pub const ALL: [Curve; 6] =
        [Curve::X25519, Curve::P256, Curve::P384, Curve::P521, Curve::Ed25519, Curve::Secp256k1];

    /// The `crv` of a JWK (RFC 7518, RFC 8037, RFC 8812).
    pub fn name(self) -> &'static str {
        match self {
            Curve::X25519 => "X25519",
            Curve::P256 => "P-256",
            Curve::P384 => "P-384",
            Curve::P521 => "P-521",
            Curve::Ed25519 => "Ed25519",
            Curve::Secp256k1 => "secp256k1",
        }
    }

    /// The length of a coordinate, and of a private scalar, in bytes.
    pub fn coordinate_length(self) -> usize {
        match self {
            Curve::X25519 | Curve::Ed25519 | Curve::P256 | Curve::Secp256k1 => 32,
            Curve::P384 => 48,
            Curve::P521 => 66,
        }
    }

    /// The length of a point as [`PublicKey::as_bytes`](super::PublicKey::as_bytes) gives it, in bytes.
    pub fn point_length(self) -> usize {
        match self {
            Curve::X25519 | Curve::Ed25519 => 32,
            _ => 1 + 2 * self.coordinate_length(),
        }
    }

    /// Whether DIDComm agrees on keys over it.
    pub fn agrees(self) -> bool {
        matches!(self, Curve::X25519 | Curve::P256 | Curve::P384 | Curve::P521)
    }

    /// The algorithm that a key on it signs with, if DIDComm has one.
    pub fn signature_algorithm(self) -> Option<SignatureAlgorithm> {
        match self {
            Curve::Ed25519 => Some(SignatureAlgorithm::EdDsa),
            Curve::P256 => Some(SignatureAlgorithm::Es256),
            Curve::Secp256k1 => Some(SignatureAlgorithm::Es256k),
            Curve::X25519 | Curve::P384 | Curve::P521 => None,
        }
    }
}

impl SignatureAlgorithm {
    /// The `alg` of a JWS header.
    pub fn name(self) -> &'static str {
        match self {
            SignatureAlgorithm::EdDsa => "EdDSA",
            SignatureAlgorithm::Es256 => "ES256",
            SignatureAlgorithm::Es256k => "ES256K",
        }
    }

    /// The curve its keys are on.
    pub fn curve(self) -> Curve {
        match self {
            SignatureAlgorithm::EdDsa => Curve::Ed25519,
            SignatureAlgorithm::Es256 => Curve::P256,
            SignatureAlgorithm::Es256k => Curve::Secp256k1,
        }
    }

    /// The length of every signature, in bytes; ECDSA's is `r || s`.
    pub const LENGTH: usize = 64;
}

impl fmt::Display for Curve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for SignatureAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A curve's JWK name, read without regard to case, as a person types it.
impl FromStr for Curve {
    type Err = super::KeyError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Curve::ALL
            .into_iter()
            .find(|curve| curve.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| super::KeyError::Unsupported(name.to_owned()))
    }
}

impl FromStr for SignatureAlgorithm {
    type Err = super::KeyError;

    /// The exact name: a JOSE algorithm is compared by case (RFC 7515 section 4.1.1).
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        [SignatureAlgorithm::EdDsa, SignatureAlgorithm::Es256, SignatureAlgorithm::Es256k]
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
            .ok_or_else(|| super::KeyError::Unsupported(name.to_owned()))
    }
}
