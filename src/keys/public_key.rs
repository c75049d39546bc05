//! [`PublicKey`]: a public key whose point was checked.

use std::fmt;

use super::{curve::Curve, error::KeyError, point};

/// A public key that is valid on its curve.
///
/// Two keys are equal if their curves and points are equal.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey {
    curve: Curve,
    /// 32 raw bytes for the 25519 curves, otherwise an uncompressed SEC 1 point (`04 || x || y`).
    bytes: Box<[u8]>,
}

impl PublicKey {
    /// A key from its point: 32 raw bytes for X25519 and Ed25519, otherwise a SEC 1 point, compressed or uncompressed.
    ///
    /// # Errors
    /// If the length is wrong, the point is not on the curve, or the point has low order.
    pub fn from_bytes(curve: Curve, bytes: &[u8]) -> Result<Self, KeyError> {
        let bytes = match curve {
            Curve::X25519 => point::x25519(bytes)?,
            Curve::Ed25519 => point::ed25519(bytes)?,
            Curve::P256 | Curve::P384 | Curve::P521 | Curve::Secp256k1 => point::sec1(curve, bytes)?,
        };
        Ok(Self { curve, bytes })
    }

    /// A key from the affine coordinates of its point, big-endian. Shorter coordinates, which some peers write, are
    /// padded with zeros on the left.
    ///
    /// # Errors
    /// Those of [`from_bytes`](Self::from_bytes).
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

    /// The key's curve.
    pub fn curve(&self) -> Curve {
        self.curve
    }

    /// 32 raw bytes for the 25519 curves, otherwise the uncompressed SEC 1 point: 65 bytes for P-256 and secp256k1, 97
    /// for P-384, 133 for P-521.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The affine coordinates at full length. `None` for the 25519 curves.
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

/// Writes the key as a multikey.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_multikey())
    }
}
