//! How tokens encode curves and points: CKA_KEY_TYPE, CKA_EC_PARAMS and CKA_EC_POINT (PKCS#11 v3.1 section 6.3).

use cryptoki::{mechanism::Mechanism, object::KeyType};

use super::der;
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

/// The curve that a token's CKA_EC_PARAMS name: by an OID, or by a name, which PKCS#11 3.0 allows as a PrintableString
/// and ykcs11 and pkcs11-tool write. The names are those of RFC 8032, RFC 7748, SEC 2, ANSI X9.62, NIST and RFC 8410.
pub(super) fn curve(params: &[u8]) -> Option<Curve> {
    const STRINGS: [u8; 3] = [0x0c, 0x13, 0x16]; // UTF8String, PrintableString, IA5String
    let (tag, content, _) = der::value(params).filter(|(_, _, rest)| rest.is_empty())?;
    let is_named = |names: &[&str]| {
        let text = std::str::from_utf8(content).unwrap_or_default();
        STRINGS.contains(&tag) && names.iter().any(|name| name.eq_ignore_ascii_case(text))
    };
    match (tag, content) {
        // OIDs of before RFC 8410: OpenSC's for OpenPGP cards, and what pkcs11-tool 0.23 writes for EC:Ed25519.
        (der::OBJECT_IDENTIFIER, b"\x2b\x06\x01\x04\x01\xda\x47\x0f\x01") => Some(Curve::Ed25519),
        (der::OBJECT_IDENTIFIER, b"\x2b\x06\x01\x04\x01\x97\x55\x01\x05\x01") => Some(Curve::X25519),
        (der::OBJECT_IDENTIFIER, oid) => Curve::ALL.into_iter().find(|curve| &ec_params(*curve)[2..] == oid),
        _ if is_named(&["edwards25519", "Ed25519"]) => Some(Curve::Ed25519),
        _ if is_named(&["curve25519", "X25519"]) => Some(Curve::X25519),
        _ if is_named(&["secp256r1", "prime256v1", "P-256"]) => Some(Curve::P256),
        _ if is_named(&["secp384r1", "P-384"]) => Some(Curve::P384),
        _ if is_named(&["secp521r1", "P-521"]) => Some(Curve::P521),
        _ if is_named(&["secp256k1"]) => Some(Curve::Secp256k1),
        _ => None,
    }
}

/// CKA_EC_PARAMS that name no curve of ours, in words.
pub(super) fn describe_params(params: &[u8]) -> String {
    match der::value(params) {
        Some((der::OBJECT_IDENTIFIER, oid, _)) => der::dotted(oid).unwrap_or_else(|| "a malformed OID".to_owned()),
        Some((der::SEQUENCE, ..)) => "explicit parameters".to_owned(),
        Some((0x0c | 0x13 | 0x16, name, _)) => format!("{:?}", String::from_utf8_lossy(&name[..name.len().min(32)])),
        _ if params.is_empty() => "no parameters".to_owned(),
        _ => "malformed parameters".to_owned(),
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
/// STRING, raw points, two OCTET STRINGs in each other, a SubjectPublicKeyInfo, or the coordinates alone.
pub(super) fn read_point(curve: Curve, point: &[u8]) -> Option<PublicKey> {
    let key = |point: &[u8]| PublicKey::from_bytes(curve, point).ok();
    let octets = |bytes| der::whole(der::OCTET_STRING, bytes);
    // The raw form is tried first: a compressed one is never as long as its DER form, so they cannot be confused.
    key(point)
        .or_else(|| key(octets(point)?))
        .or_else(|| key(der::bit_string(point)?))
        .or_else(|| key(octets(octets(point)?)?))
        .or_else(|| read_public_key_info(point).filter(|found| found.curve() == curve))
        .or_else(|| key(&[&[4], point].concat()).filter(|_| point.len() == 2 * curve.coordinate_length()))
}

/// The public key of a SubjectPublicKeyInfo, as CKA_PUBLIC_KEY_INFO and certificates have it (RFC 5480, RFC 8410).
pub(super) fn read_public_key_info(info: &[u8]) -> Option<PublicKey> {
    const EC_PUBLIC_KEY: &[u8] = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01";
    let (algorithm, point) = der::subject_public_key_info(info)?;
    PublicKey::from_bytes(curve(algorithm.strip_prefix(EC_PUBLIC_KEY).unwrap_or(algorithm))?, point).ok()
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
            let sequence = |content: &[u8]| [&[0x30, u8::try_from(content.len()).unwrap()], content].concat();
            let ec = if curve == Curve::X25519 { &[][..] } else { b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01" };
            let info = [sequence(&[ec, ec_params(curve)].concat()), bits.clone()].concat();
            let info = match info.len() {
                ..0x80 => sequence(&info),
                _ => [&[0x30, 0x81, u8::try_from(info.len()).unwrap()], &info[..]].concat(),
            };
            assert_eq!(read_public_key_info(&info).as_ref(), Some(&key), "{curve}");
            assert_eq!(read_point(curve, &info).as_ref(), Some(&key), "{curve}");
            assert_eq!(read_public_key_info(&info[..info.len() - 1]), None);
            let twice = octet_string(&octets);
            assert_eq!(read_point(curve, &twice).as_ref(), Some(&key), "{curve}");
            if curve != Curve::X25519 {
                assert_eq!(read_point(curve, &key.as_bytes()[1..]).as_ref(), Some(&key), "{curve}");
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
        assert_eq!(curve(b"\x13\x0cedwards25519"), Some(Curve::Ed25519));
        assert_eq!(curve(b"\x0c\x07Ed25519"), Some(Curve::Ed25519));
        assert_eq!(curve(b"\x13\x09secp256r1"), Some(Curve::P256));
        assert_eq!(curve(b"\x13\x0aprime256v1"), Some(Curve::P256));
        assert_eq!(curve(b"\x06\x81\x05\x2b\x81\x04\x00\x22"), Some(Curve::P384), "a length in two bytes");
        assert_eq!(curve(b"\x06\x09\x2b\x06\x01\x04\x01\xda\x47\x0f\x01"), Some(Curve::Ed25519));
        assert_eq!(curve(b"\x06\x0a\x2b\x06\x01\x04\x01\x97\x55\x01\x05\x01"), Some(Curve::X25519));
        for (other, words) in [
            (&b""[..], "no parameters"),
            (b"\x06\x05\x2b\x81\x04\x00\x21", "1.3.132.0.33"),
            (b"\x30\x03\x02\x01\x01", "explicit parameters"),
            (b"\x13\x05Ed448", "\"Ed448\""),
            (b"\x05\x00", "malformed parameters"),
        ] {
            assert_eq!((curve(other), &*describe_params(other)), (None, words));
        }
    }
}
