//! [`KeyError`]: why bytes, a JWK or a multikey are not a valid public key.

use super::curve::Curve;

/// Why bytes, a JWK or a multikey are not a public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The bytes have the wrong length for the curve.
    #[error("a {curve} public key does not have {length} bytes")]
    Length {
        /// The expected curve.
        curve: Curve,
        /// The number of bytes given.
        length: usize,
    },
    /// The point is not on the curve, or is the point at infinity.
    #[error("the point is not on {0}")]
    NotOnCurve(Curve),
    /// The point has low order: anyone can compute the shared secrets of such a point.
    #[error("the {0} point is of low order")]
    LowOrder(Curve),
    /// The curve or key type is not supported.
    #[error("the key type {0:?} is not supported")]
    Unsupported(String),
    /// A member of a JWK is absent.
    #[error("the JWK has no member {0:?}")]
    MissingMember(&'static str),
    /// A member or a multibase string is malformed.
    #[error("{0} is not well-formed")]
    Malformed(&'static str),
}
