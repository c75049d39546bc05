//! The six curves: which are for key agreement, and which for signatures.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A curve that DIDComm v2.1 names (sections "ECDH-1PU key wrapping" and "Algorithms" of signed messages).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Curve {
    /// Key agreement (RFC 7748).
    X25519,
    /// Key agreement, and ES256 signatures (FIPS 186-5).
    #[serde(rename = "P-256")]
    P256,
    /// Key agreement (FIPS 186-5).
    #[serde(rename = "P-384")]
    P384,
    /// Key agreement (FIPS 186-5).
    #[serde(rename = "P-521")]
    P521,
    /// EdDSA signatures (RFC 8032).
    Ed25519,
    /// ES256K signatures (SEC 2).
    #[serde(rename = "secp256k1")]
    Secp256k1,
}

/// A JWS algorithm for signed DIDComm messages.
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
    /// All curves, in the order in which we prefer to generate keys.
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

    /// The length in bytes of a coordinate, and of a private scalar.
    pub fn coordinate_length(self) -> usize {
        match self {
            Curve::X25519 | Curve::Ed25519 | Curve::P256 | Curve::Secp256k1 => 32,
            Curve::P384 => 48,
            Curve::P521 => 66,
        }
    }

    /// The length in bytes of a point as [`PublicKey::as_bytes`](super::PublicKey::as_bytes) returns it.
    pub fn point_length(self) -> usize {
        match self {
            Curve::X25519 | Curve::Ed25519 => 32,
            _ => 1 + 2 * self.coordinate_length(),
        }
    }

    /// Whether DIDComm uses the curve for key agreement.
    pub fn supports_key_agreement(self) -> bool {
        matches!(self, Curve::X25519 | Curve::P256 | Curve::P384 | Curve::P521)
    }

    /// The algorithm of signatures by keys on the curve. `None` if DIDComm does not use the curve for signatures.
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

    /// The curve of the algorithm's keys.
    pub fn curve(self) -> Curve {
        match self {
            SignatureAlgorithm::EdDsa => Curve::Ed25519,
            SignatureAlgorithm::Es256 => Curve::P256,
            SignatureAlgorithm::Es256k => Curve::Secp256k1,
        }
    }

    /// The length of every signature in bytes. An ECDSA signature is `r || s`.
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
