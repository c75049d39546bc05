//! Multikeys: a multicodec prefix and a key in base58btc (W3C Controlled Identifiers 1.0 section 2.2.2, did:key 1.0).

use super::{curve::Curve, error::KeyError, public_key::PublicKey};
use crate::encoding::from_base58;

/// The multicodec of a public key on the curve, encoded as an unsigned varint.
fn codec(curve: Curve) -> [u8; 2] {
    match curve {
        Curve::X25519 => [0xec, 0x01],
        Curve::Ed25519 => [0xed, 0x01],
        Curve::Secp256k1 => [0xe7, 0x01],
        Curve::P256 => [0x80, 0x24],
        Curve::P384 => [0x81, 0x24],
        Curve::P521 => [0x82, 0x24],
    }
}

impl PublicKey {
    /// The key as a multikey: `z` and base58btc. NIST and secp256k1 points are compressed.
    pub fn to_multikey(&self) -> String {
        let mut bytes = codec(self.curve()).to_vec();
        match self.coordinates() {
            Some((x, y)) => {
                bytes.push(2 + (y[y.len() - 1] & 1));
                bytes.extend_from_slice(x);
            }
            None => bytes.extend_from_slice(self.as_bytes()),
        }
        format!("z{}", bs58::encode(bytes).into_string())
    }

    /// The key in a multikey. The base must be base58btc (`z`), as did:key and did:peer demand.
    ///
    /// # Errors
    /// If the text is not a multikey, its key type is not supported, or its point is invalid.
    pub fn from_multikey(text: &str) -> Result<Self, KeyError> {
        Self::from_multicodec(&multicodec(text)?)
    }

    /// Checks the form of a multikey: that its key type is supported, and its point is compressed. Whether the point is on
    /// the curve takes ten times as long, and is not checked.
    ///
    /// # Errors
    /// [`KeyError::Malformed`], [`KeyError::Unsupported`] or [`KeyError::Length`].
    pub(crate) fn check_multikey_form(text: &str) -> Result<(), KeyError> {
        let bytes = multicodec(text)?;
        let (curve, point) = split_multicodec(&bytes)?;
        let n = curve.coordinate_length();
        let (compressed, uncompressed) = match curve {
            Curve::X25519 | Curve::Ed25519 => (n, None),
            _ => (1 + n, Some(1 + 2 * n)),
        };
        match point.len() {
            length if length == compressed => Ok(()),
            length if Some(length) == uncompressed => {
                Err(KeyError::Malformed("the multikey, whose point must be compressed,"))
            }
            length => Err(KeyError::Length { curve, length }),
        }
    }

    /// The key in a multicodec prefix and a point.
    ///
    /// # Errors
    /// If there is no prefix, its key type is not supported, or the point is invalid.
    pub(crate) fn from_multicodec(bytes: &[u8]) -> Result<Self, KeyError> {
        let (curve, point) = split_multicodec(bytes)?;
        Self::from_bytes(curve, point)
    }
}

/// The bytes of a multikey.
fn multicodec(text: &str) -> Result<Vec<u8>, KeyError> {
    let base58 = text.strip_prefix('z').ok_or(KeyError::Malformed("the multikey's multibase prefix"))?;
    // The longest useful text is that of an uncompressed P-521 key, with less than 200 characters.
    from_base58(base58).ok_or(KeyError::Malformed("the multikey's base58"))
}

/// Splits a multicodec into the curve of its prefix and the point.
fn split_multicodec(bytes: &[u8]) -> Result<(Curve, &[u8]), KeyError> {
    let (prefix, point) = bytes.split_at_checked(2).ok_or(KeyError::Malformed("the multikey"))?;
    let curve = Curve::ALL
        .into_iter()
        .find(|curve| codec(*curve) == prefix)
        .ok_or_else(|| KeyError::Unsupported(format!("multicodec {prefix:02x?}")))?;
    Ok((curve, point))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_checked_without_the_point() {
        let form = |curve, point: &[u8]| {
            let bytes = [&codec(curve)[..], point].concat();
            PublicKey::check_multikey_form(&format!("z{}", bs58::encode(bytes).into_string()))
        };
        for curve in Curve::ALL {
            let n = curve.coordinate_length();
            let length = if curve.point_length() == n { n } else { 1 + n };
            assert_eq!(form(curve, &vec![0xff; length]), Ok(()), "{curve}");
            assert_eq!(form(curve, &vec![0xff; length + 1]), Err(KeyError::Length { curve, length: length + 1 }));
            if curve.point_length() != length {
                assert!(matches!(form(curve, &vec![4; curve.point_length()]), Err(KeyError::Malformed(_))), "{curve}");
            }
        }
        assert!(matches!(PublicKey::check_multikey_form("z0"), Err(KeyError::Malformed(_))));
        assert!(matches!(PublicKey::check_multikey_form("z6"), Err(KeyError::Malformed(_))));
        assert!(matches!(PublicKey::check_multikey_form("z6LS"), Err(KeyError::Unsupported(_))));
    }

    /// did:key 1.0, test vectors: one of each kind.
    #[test]
    fn did_key_vectors() {
        for (curve, multikey) in [
            (Curve::Ed25519, "z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp"),
            (Curve::X25519, "z6LSeu9HkTHSfLLeUs2nnzUSNedgDUevfNQgQjQC23ZCit6F"),
            (Curve::Secp256k1, "zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme"),
            (Curve::P256, "zDnaerDaTF5BXEavCrfRZEk316dpbLsfPDZ3WJ5hRTPFU2169"),
            (Curve::P384, "z82Lm1MpAkeJcix9K8TMiLd5NMAhnwkjjCBeWHXyu3U4oT2MVJJKXkcVBgjGhnLBn2Kaau9"),
        ] {
            let key = PublicKey::from_multikey(multikey).unwrap();
            assert_eq!(key.curve(), curve);
            assert_eq!(key.to_multikey(), multikey);
        }
    }
}
