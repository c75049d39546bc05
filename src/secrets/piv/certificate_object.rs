//! The certificate in a data object of the card, as it is or compressed (NIST SP 800-73-4 part 1 appendix A).

use std::{borrow::Cow, io::Read};

use flate2::read::{GzDecoder, ZlibDecoder};

use super::tlv::find;

/// The bit of CertInfo that says that the certificate is compressed.
const COMPRESSED: u8 = 0x01;
/// The longest certificate, in bytes. An object holds about 3,000 bytes, and other programs wrote it.
const MAX_CERTIFICATE: u64 = 32 << 10;

/// The certificate in a data object, in DER; none if the object holds none, or one that cannot be decompressed.
///
/// `ykman piv certificates import --compress` writes gzip. Net iD writes zlib after a header of four bytes: 01 00 and
/// the length of the certificate, low byte first.
pub(super) fn certificate(object: &[u8]) -> Option<Cow<'_, [u8]>> {
    let value = find(object, 0x70)?;
    let is_compressed = find(object, 0x71).and_then(<[u8]>::first).is_some_and(|info| info & COMPRESSED != 0);
    match value {
        value if !is_compressed => Some(Cow::Borrowed(value)),
        [0x1f, 0x8b, ..] => decompressed(GzDecoder::new(value)),
        [0x01, 0x00, low, high, rest @ ..] => {
            let length = usize::from(u16::from_le_bytes([*low, *high]));
            decompressed(ZlibDecoder::new(rest)).filter(|certificate| certificate.len() == length)
        }
        value => decompressed(ZlibDecoder::new(value)),
    }
}

fn decompressed(decoder: impl Read) -> Option<Cow<'static, [u8]>> {
    let mut certificate = Vec::new();
    // One byte more than allowed: what is cut there must not be taken for the whole.
    let length = decoder.take(MAX_CERTIFICATE + 1).read_to_end(&mut certificate).ok()?;
    (length as u64 <= MAX_CERTIFICATE).then_some(Cow::Owned(certificate))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write};
    use proptest::prelude::*;

    use super::{super::tlv::tlv, *};

    fn object(value: &[u8], info: u8) -> Vec<u8> {
        [tlv(&[0x70], value).to_vec(), tlv(&[0x71], &[info]).to_vec(), tlv(&[0xfe], &[]).to_vec()].concat()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = write::GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = write::ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    proptest! {
        #[test]
        fn a_certificate_is_read_in_each_form(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let length = (bytes.len() as u16).to_le_bytes();
            let net_id = [&[1, 0], &length[..], &zlib(&bytes)].concat();
            let forms = [object(&bytes, 0), object(&gzip(&bytes), 1), object(&zlib(&bytes), 1), object(&net_id, 1)];
            for form in forms {
                let read = certificate(&form);
                prop_assert_eq!(read.as_deref(), Some(&bytes[..]));
            }
        }

        #[test]
        fn no_object_panics(bytes: Vec<u8>, info: u8) {
            let _ = certificate(&bytes);
            let _ = certificate(&object(&bytes, info));
        }
    }

    #[test]
    fn a_certificate_that_is_cut_or_too_long_is_none() {
        let long = vec![0; MAX_CERTIFICATE as usize + 1];
        assert!(gzip(&long).len() < 200);
        assert_eq!(certificate(&object(&gzip(&long), 1)), None);
        assert!(certificate(&object(&gzip(&long[1..]), 1)).is_some());
        let cut = gzip(b"certificate");
        assert_eq!(certificate(&object(&cut[..cut.len() - 9], 1)), None);
        let wrong_length = [&[1, 0, 7, 0], &zlib(b"certificate")[..]].concat();
        assert_eq!(certificate(&object(&wrong_length, 1)), None);
    }
}
