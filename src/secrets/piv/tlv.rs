//! The part of BER-TLV that PIV uses: tags of one or two bytes, definite lengths up to 65,535 (ISO 7816-4
//! section 5.2.2).

use zeroize::Zeroizing;

/// Encodes a tag, a length and a value. The buffer never grows, since the value may be secret.
pub(super) fn tlv(tag: &[u8], value: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(tag.len() + 3 + value.len()));
    out.extend_from_slice(tag);
    let length = value.len();
    match length {
        0..=0x7f => out.push(length as u8),
        0x80..=0xff => out.extend([0x81, length as u8]),
        _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend_from_slice(value);
    out
}

/// The first tag and value of `data`, and the rest; none if `data` is truncated.
fn read(data: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (tag, rest) = match data {
        [first, second, rest @ ..] if first & 0x1f == 0x1f => (u16::from_be_bytes([*first, *second]), rest),
        [tag, rest @ ..] => (u16::from(*tag), rest),
        [] => return None,
    };
    let (length, rest) = match rest {
        [length @ 0..=0x7f, rest @ ..] => (usize::from(*length), rest),
        [0x81, length, rest @ ..] => (usize::from(*length), rest),
        [0x82, high, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        _ => return None,
    };
    let (value, rest) = rest.split_at_checked(length)?;
    Some((tag, value, rest))
}

/// The value of the first member with this tag.
pub(super) fn find(mut data: &[u8], wanted: u16) -> Option<&[u8]> {
    while let Some((tag, value, rest)) = read(data) {
        if tag == wanted {
            return Some(value);
        }
        data = rest;
    }
    None
}

/// The value of the member `inner` within the member `outer`.
pub(super) fn find_in(data: &[u8], outer: u16, inner: u16) -> Option<&[u8]> {
    find(find(data, outer)?, inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_encoded_value_is_found(before: Vec<u8>, value in prop::collection::vec(any::<u8>(), 0..700)) {
            let mut data = tlv(&[0x53], &before).to_vec();
            data.extend_from_slice(&tlv(&[0x7f, 0x49], &value));
            prop_assert_eq!(find(&data, 0x7f49), Some(&value[..]));
            prop_assert_eq!(find(&data, 0x53), Some(&before[..]));
            prop_assert_eq!(find(&data[..data.len() - 1], 0x7f49), None);
        }

        /// The bytes may come from another program or another card.
        #[test]
        fn no_input_panics(data: Vec<u8>, tag: u16) {
            let _ = find(&data, tag);
        }
    }
}
