//! How tokens encode curves and points: CKA_KEY_TYPE, CKA_EC_PARAMS and CKA_EC_POINT (PKCS#11 v3.1 section 6.3).

use cryptoki::{mechanism::Mechanism, object::KeyType};

use crate::keys::{Curve, PublicKey};

/// How a peer's point is encoded for the token (PKCS#11 v3.1 section 6.3.19: raw must be accepted, DER may be).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PointEncoding {
    /// The raw point.
    Raw,
    /// A DER OCTET STRING, the only form that some tokens accept. This form fails for X25519 on Kryoptic 1.5.4.
    Der,
}

/// The curve's OID in DER, which every token understands in CKA_EC_PARAMS.
pub(super) fn ec_params(curve: Curve) -> &'static [u8] {
    match curve {
        Curve::P256 => b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07",
        Curve::P384 => b"\x06\x05\x2b\x81\x04\x00\x22",
        Curve::P521 => b"\x06\x05\x2b\x81\x04\x00\x23",
        Curve::Secp256k1 => b"\x06\x05\x2b\x81\x04\x00\x0a",
        Curve::Ed25519 => b"\x06\x03\x2b\x65\x70",
        Curve::X25519 => b"\x06\x03\x2b\x65\x6e",
    }
}

/// X25519 as a PrintableString, which PKCS#11 3.0 allows too. ykcs11 accepts no other form.
pub(super) const X25519_NAME: &[u8] = b"\x13\x0acurve25519";

/// The curve that a token's CKA_EC_PARAMS name: an OID, or the PrintableString that PKCS#11 3.0 allows and
/// ykcs11 writes.
pub(super) fn curve(params: &[u8]) -> Option<Curve> {
    match params {
        b"\x13\x0cedwards25519" => Some(Curve::Ed25519),
        X25519_NAME => Some(Curve::X25519),
        oid => Curve::ALL.into_iter().find(|curve| ec_params(*curve) == oid),
    }
}

/// The mechanism that generates key pairs of a key type.
pub(super) fn generation_mechanism(key_type: KeyType) -> Mechanism<'static> {
    match key_type {
        KeyType::EC_MONTGOMERY => Mechanism::EccMontgomeryKeyPairGen,
        KeyType::EC_EDWARDS => Mechanism::EccEdwardsKeyPairGen,
        _ => Mechanism::EccKeyPairGen,
    }
}

/// The public key of a CKA_EC_POINT.
///
/// The specification wants a DER OCTET STRING for NIST curves and raw bytes for the 25519 curves. Kryoptic 1.5.4
/// follows the specification. SoftHSM 2.6.1 writes an OCTET STRING for both kinds of curve. Other tokens write a BIT
/// STRING or raw points.
pub(super) fn read_point(curve: Curve, point: &[u8]) -> Option<PublicKey> {
    // The raw form is tried first: a compressed one is never as long as its DER form, so they cannot be confused.
    PublicKey::from_bytes(curve, point)
        .ok()
        .or_else(|| PublicKey::from_bytes(curve, der(0x04, point)?).ok())
        .or_else(|| PublicKey::from_bytes(curve, der(0x03, point)?.strip_prefix(&[0])?).ok())
}

/// The content of the DER value with `tag`, if that value is the whole of `bytes`. The content has at most 255 bytes.
fn der(tag: u8, bytes: &[u8]) -> Option<&[u8]> {
    let (length, content) = match bytes.strip_prefix(&[tag])? {
        [0x81, length, content @ ..] => (*length, content),
        // 0x80 would be the indefinite length, which DER does not allow.
        [length @ ..=0x7f, content @ ..] => (*length, content),
        _ => return None,
    };
    (content.len() == usize::from(length)).then_some(content)
}

/// A point as a DER OCTET STRING.
pub(super) fn octet_string(point: &[u8]) -> Vec<u8> {
    let length = u8::try_from(point.len()).expect("the longest point has 133 bytes");
    let mut der = match length {
        ..0x80 => vec![0x04, length],
        _ => vec![0x04, 0x81, length],
    };
    der.extend_from_slice(point);
    der
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::EphemeralKey;

    #[test]
    fn points_in_every_encoding() {
        for curve in [Curve::X25519, Curve::P256, Curve::P384, Curve::P521] {
            let key = EphemeralKey::generate(curve).unwrap().public().clone();
            let octets = octet_string(key.as_bytes());
            let mut bits = octet_string(&[&[0], key.as_bytes()].concat());
            bits[0] = 0x03;
            for form in [key.as_bytes(), &octets, &bits] {
                assert_eq!(read_point(curve, form).as_ref(), Some(&key), "{curve}");
            }
            let short = &octets[..octets.len() - 1];
            assert_eq!(read_point(curve, short), None);
        }
        assert_eq!(read_point(Curve::P256, &[]), None);
        assert_eq!(octet_string(&[4; 133])[..3], [0x04, 0x81, 133]);
    }

    #[test]
    fn curves_by_oid_and_by_name() {
        for known in Curve::ALL {
            assert_eq!(curve(ec_params(known)), Some(known));
        }
        assert_eq!(curve(b"\x13\x0ccurve25519"), None);
        assert_eq!(curve(b"\x13\x0acurve25519"), Some(Curve::X25519));
    }
}
