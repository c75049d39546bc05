//! Checks that bytes encode a valid point of a curve.

use p256::elliptic_curve::sec1::ToSec1Point;

use super::{curve::Curve, error::KeyError};

/// Checks that a SEC 1 point is on the curve and is not the point at infinity. Returns the point uncompressed.
///
/// For an uncompressed point, which a JWK contains, the check costs no more than one evaluation of the curve equation.
pub(super) fn sec1(curve: Curve, bytes: &[u8]) -> Result<Box<[u8]>, KeyError> {
    macro_rules! check {
        ($curve:ident) => {{
            let key = $curve::PublicKey::from_sec1_bytes(bytes).map_err(|_| KeyError::NotOnCurve(curve))?;
            Ok(key.to_sec1_point(false).as_bytes().into())
        }};
    }
    let n = curve.coordinate_length();
    if bytes.len() != 1 + n && bytes.len() != 1 + 2 * n {
        return Err(KeyError::Length { curve, length: bytes.len() });
    }
    // SEC 1 section 2.3.3: 2 and 3 compressed, 4 uncompressed. The libraries also read a form without the sign, with which one
    // key would have two encodings of one length.
    if !matches!(bytes.first(), Some(2..=4)) {
        return Err(KeyError::NotOnCurve(curve));
    }
    match curve {
        Curve::P256 => check!(p256),
        Curve::P384 => check!(p384),
        Curve::P521 => check!(p521),
        Curve::Secp256k1 => check!(k256),
        Curve::X25519 | Curve::Ed25519 => Err(KeyError::NotOnCurve(curve)),
    }
}

/// Checks that a `u` coordinate does not have low order.
///
/// RFC 7748 section 6.1 lets a receiver check for the all-zero shared secret. The shared secret may stay inside a
/// token, so the coordinates that lead to zero are refused instead. [`X25519_LOW_ORDER`] lists these coordinates.
/// X25519 ignores the highest bit of a coordinate, so the check ignores it too.
pub(super) fn x25519(bytes: &[u8]) -> Result<Box<[u8]>, KeyError> {
    let u: [u8; 32] = exact(Curve::X25519, bytes)?;
    let mut masked = u;
    masked[31] &= 0x7f;
    if X25519_LOW_ORDER.contains(&masked) {
        return Err(KeyError::LowOrder(Curve::X25519));
    }
    Ok(u.into())
}

/// Checks that a compressed Edwards point is on the curve and does not have low order.
pub(super) fn ed25519(bytes: &[u8]) -> Result<Box<[u8]>, KeyError> {
    let point: [u8; 32] = exact(Curve::Ed25519, bytes)?;
    let key = ed25519_dalek::VerifyingKey::from_bytes(&point).map_err(|_| KeyError::NotOnCurve(Curve::Ed25519))?;
    if key.is_weak() {
        return Err(KeyError::LowOrder(Curve::Ed25519));
    }
    Ok(point.into())
}

fn exact(curve: Curve, bytes: &[u8]) -> Result<[u8; 32], KeyError> {
    bytes.try_into().map_err(|_| KeyError::Length { curve, length: bytes.len() })
}

const fn little_endian(first: u8, middle: u8, last: u8) -> [u8; 32] {
    let mut bytes = [middle; 32];
    bytes[0] = first;
    bytes[31] = last;
    bytes
}

/// The `u` coordinates of low order: 0, 1, the two coordinates of order 8, p - 1, and p and p + 1, which are equal to 0
/// and 1.
const X25519_LOW_ORDER: [[u8; 32]; 7] = [
    little_endian(0, 0, 0),
    little_endian(1, 0, 0),
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09,
        0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04, 0x44,
        0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
    ],
    little_endian(0xec, 0xff, 0x7f),
    little_endian(0xed, 0xff, 0x7f),
    little_endian(0xee, 0xff, 0x7f),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The list is right if a throw-away scalar, which is clamped and so a multiple of 8, takes each entry to zero.
    #[test]
    fn every_low_order_u_gives_zero_and_is_refused() {
        for low in X25519_LOW_ORDER {
            for top in [0, 0x80] {
                let mut u = low;
                u[31] |= top;
                assert_eq!(x25519_dalek::x25519([0x5a; 32], u), [0; 32]);
                assert_eq!(x25519(&u), Err(KeyError::LowOrder(Curve::X25519)));
            }
        }
        let mut nine = [0; 32];
        nine[0] = 9;
        assert!(x25519(&nine).is_ok());
    }

    /// SEC 1 as the libraries read it has a third form, of the length of a compressed point.
    #[test]
    fn a_point_without_its_sign_is_refused() {
        for curve in [Curve::P256, Curve::P384, Curve::P521, Curve::Secp256k1] {
            let n = curve.coordinate_length();
            for first in [0, 1, 5, 6, 7] {
                for length in [1 + n, 1 + 2 * n] {
                    let mut bytes = vec![1; length];
                    bytes[0] = first;
                    assert_eq!(sec1(curve, &bytes), Err(KeyError::NotOnCurve(curve)));
                }
            }
        }
    }

    #[test]
    fn a_point_off_its_curve_is_refused() {
        for curve in [Curve::P256, Curve::P384, Curve::P521, Curve::Secp256k1] {
            let mut point = vec![1u8; curve.point_length()];
            point[0] = 4;
            assert_eq!(sec1(curve, &point), Err(KeyError::NotOnCurve(curve)));
            assert!(matches!(sec1(curve, &[0]), Err(KeyError::Length { .. })), "infinity");
        }
        assert_eq!(ed25519(&little_endian(1, 0, 0)), Err(KeyError::LowOrder(Curve::Ed25519)));
        assert_eq!(ed25519(&little_endian(2, 0, 0)), Err(KeyError::NotOnCurve(Curve::Ed25519)));
    }
}
