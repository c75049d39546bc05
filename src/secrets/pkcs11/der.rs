//! The little of DER (X.690) that is needed to read public keys in a token: values one after the other,
//! SubjectPublicKeyInfo, and the one in a certificate (RFC 5280 section 4.1).

pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;

/// The first value in `bytes`: its tag, its content and what follows. Tags have one byte, lengths one to three.
pub(super) fn value(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (length, rest) = match bytes.get(1..)? {
        [length @ ..=0x7f, rest @ ..] => (usize::from(*length), rest),
        [0x81, length, rest @ ..] => (usize::from(*length), rest),
        [0x82, high, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        // 0x80 would be the indefinite length, which DER does not allow.
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((bytes[0], content, rest))
}

/// The content of the value with `tag`, if that value is the whole of `bytes`.
pub(super) fn whole(tag: u8, bytes: &[u8]) -> Option<&[u8]> {
    value(bytes).filter(|(found, _, rest)| *found == tag && rest.is_empty()).map(|(_, content, _)| content)
}

/// The bytes of a BIT STRING that is the whole of `bytes`, without unused bits.
pub(super) fn bit_string(bytes: &[u8]) -> Option<&[u8]> {
    whole(BIT_STRING, bytes)?.strip_prefix(&[0])
}

/// The parts of a SubjectPublicKeyInfo: the content of its algorithm, and its key.
pub(super) fn subject_public_key_info(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (tag, algorithm, key) = value(whole(SEQUENCE, bytes)?)?;
    Some((algorithm, bit_string(key)?)).filter(|_| tag == SEQUENCE)
}

/// The SubjectPublicKeyInfo of an X.509 certificate.
pub(super) fn public_key_info_of_certificate(certificate: &[u8]) -> Option<&[u8]> {
    const VERSION: u8 = 0xa0;
    // A certificate in a token may be followed by padding.
    let (_, certificate, _) = value(certificate).filter(|(tag, ..)| *tag == SEQUENCE)?;
    let (_, mut rest, _) = value(certificate).filter(|(tag, ..)| *tag == SEQUENCE)?;
    if let Some((VERSION, _, after)) = value(rest) {
        rest = after;
    }
    // The serial number, the signature's algorithm, the issuer, the validity and the subject.
    for _ in 0..5 {
        rest = value(rest)?.2;
    }
    let after = value(rest)?.2;
    Some(&rest[..rest.len() - after.len()])
}

/// An object identifier in dots, from its content.
pub(super) fn dotted(oid: &[u8]) -> Option<String> {
    let mut numbers: Vec<u64> = Vec::new();
    let mut number: u64 = 0;
    for byte in oid {
        number = number.checked_mul(128)?.checked_add(u64::from(byte & 0x7f))?;
        if byte & 0x80 == 0 {
            numbers.push(number);
            number = 0;
        }
    }
    let (first, rest) = numbers.split_first()?;
    let root = (first / 40).min(2);
    let dotted = [root, first - 40 * root].iter().chain(rest).map(ToString::to_string).collect::<Vec<_>>();
    Some(dotted.join("."))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values() {
        assert_eq!(value(&[4, 1, 7, 8]), Some((4, &[7][..], &[8][..])));
        assert_eq!(value(&[4, 0x81, 1, 7]), Some((4, &[7][..], &[][..])));
        assert_eq!(value(&[4, 0x82, 0, 1, 7]), Some((4, &[7][..], &[][..])));
        for bad in [&[][..], &[4], &[4, 2, 7], &[4, 0x80, 0, 0], &[4, 0x83, 0, 0, 1, 7]] {
            assert_eq!(value(bad), None, "{bad:?}");
        }
        assert_eq!(whole(4, &[4, 1, 7, 8]), None);
        assert_eq!(bit_string(&[3, 2, 0, 9]), Some(&[9][..]));
        assert_eq!(bit_string(&[3, 2, 1, 8]), None, "with an unused bit");
    }

    #[test]
    fn object_identifiers() {
        assert_eq!(dotted(b"\x2a\x86\x48\xce\x3d\x03\x01\x07").as_deref(), Some("1.2.840.10045.3.1.7"));
        assert_eq!(dotted(b"\x2b\x24\x03\x03\x02\x08\x01\x01\x07").as_deref(), Some("1.3.36.3.3.2.8.1.1.7"));
        assert_eq!(dotted(&[0xff; 12]), None);
        assert_eq!(dotted(&[]), None);
    }

    proptest! {
        #[test]
        fn no_input_panics(bytes: Vec<u8>, tag in prop::sample::select(vec![0x30u8, 0x04, 0xa0]), length: u8) {
            for bytes in [bytes.clone(), [&[tag, length][..], &bytes].concat(), [&[0x30, 0x82, 0, length, 0x30, 0x7f][..], &bytes].concat()] {
                let _ = (value(&bytes), bit_string(&bytes), subject_public_key_info(&bytes), dotted(&bytes));
                let _ = public_key_info_of_certificate(&bytes);
            }
        }
    }
}
