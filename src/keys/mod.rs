//! Public keys: their curves and the three ways of writing them down (raw, JWK, multikey).
//!
//! A [`PublicKey`] is checked when it is made: its point is on its curve, and an X25519 key is not of low order. What
//! holds one may use it without looking again (RFC 7518 section 6.2.1, RFC 7748 section 6.1, DIDComm v2.1 "ECDH-1PU key
//! wrapping and common protected headers").
//!
//! This module knows nothing of private keys, DIDs or tokens.

mod curve;
mod jwk;
mod multikey;
mod point;

pub use curve::{Curve, SignatureAlgorithm};
pub use jwk::Jwk;

use std::fmt;

/// A public key, known to be valid on its curve.
///
/// Two keys are equal if their curves and points are.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey {
    curve: Curve,
    /// 32 raw bytes for the 25519 curves, else an uncompressed SEC 1 point (`04 || x || y`).
    bytes: Box<[u8]>,
}

/// Why bytes, a JWK or a multikey are no public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The bytes have the wrong length for the curve.
    #[error("a {curve} public key does not have {length} bytes")]
    Length {
        /// The curve asked for.
        curve: Curve,
        /// The bytes that came.
        length: usize,
    },
    /// The point is not on the curve, or is its point at infinity.
    #[error("the point is not on {0}")]
    NotOnCurve(Curve),
    /// The point has low order, so every shared secret with it is known to all.
    #[error("the {0} point is of low order")]
    LowOrder(Curve),
    /// The curve or key type is none of ours.
    #[error("the key type {0:?} is not supported")]
    Unsupported(String),
    /// A member of a JWK is absent.
    #[error("the JWK has no member {0:?}")]
    MissingMember(&'static str),
    /// A member or multibase string is not well-formed.
    #[error("{0} is not well-formed")]
    Malformed(&'static str),
}

impl PublicKey {
    /// A key from its point: 32 raw bytes for X25519 and Ed25519; for the others a SEC 1 point, compressed or not.
    pub fn from_bytes(curve: Curve, bytes: &[u8]) -> Result<Self, KeyError> {
        let bytes = match curve {
            Curve::X25519 => point::x25519(bytes)?,
            Curve::Ed25519 => point::ed25519(bytes)?,
            Curve::P256 | Curve::P384 | Curve::P521 | Curve::Secp256k1 => point::sec1(curve, bytes)?,
        };
        Ok(Self { curve, bytes })
    }

    /// A key from the affine coordinates of its point, big-endian. Short ones, as some peers write them, are padded.
    pub fn from_coordinates(curve: Curve, x: &[u8], y: &[u8]) -> Result<Self, KeyError> {
        let n = curve.coordinate_length();
        if x.len() > n || y.len() > n {
            return Err(KeyError::Length { curve, length: 1 + x.len() + y.len() });
        }
        let mut point = vec![0u8; 1 + 2 * n];
        point[0] = 4;
        point[1 + n - x.len()..1 + n].copy_from_slice(x);
        point[1 + 2 * n - y.len()..].copy_from_slice(y);
        Self::from_bytes(curve, &point)
    }

    /// The curve the point is on.
    pub fn curve(&self) -> Curve {
        self.curve
    }

    /// 32 raw bytes for the 25519 curves, else the uncompressed SEC 1 point: 65 bytes for P-256 and secp256k1, 97 for
    /// P-384, 133 for P-521.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The affine coordinates, at full length, of a key that is not on a 25519 curve.
    pub fn coordinates(&self) -> Option<(&[u8], &[u8])> {
        match self.curve {
            Curve::X25519 | Curve::Ed25519 => None,
            _ => Some(self.bytes[1..].split_at(self.curve.coordinate_length())),
        }
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// The multikey, which names curve and point in one word.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_multikey())
    }
}
