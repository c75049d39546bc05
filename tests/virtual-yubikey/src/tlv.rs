//! The part of BER-TLV that PIV uses (NIST SP 800-73-4 part 2, ISO/IEC 7816-4 section 5.2.2): reads tags of one byte,
//! writes tags of any length.

use crate::status::Status;

/// A list of elements, in order.
pub(crate) struct List<'a>(Vec<(u8, &'a [u8])>);

impl<'a> List<'a> {
    /// Parses a list to its end.
    pub(crate) fn parse(mut bytes: &'a [u8]) -> Result<Self, Status> {
        let mut list = Vec::new();
        while !bytes.is_empty() {
            let (tag, value, rest) = split(bytes).ok_or(Status::WRONG_DATA)?;
            list.push((tag, value));
            bytes = rest;
        }
        Ok(Self(list))
    }

    /// Parses the list in the element with this tag.
    pub(crate) fn parse_in(tag: u8, bytes: &'a [u8]) -> Result<Self, Status> {
        Self::parse(Self::parse(bytes)?.find(tag).ok_or(Status::WRONG_DATA)?)
    }

    /// The first element with this tag.
    pub(crate) fn find(&self, tag: u8) -> Option<&'a [u8]> {
        self.0.iter().find(|(found, _)| *found == tag).map(|(_, value)| *value)
    }

    /// The only byte of the first element with this tag; none if there is no such element.
    pub(crate) fn byte(&self, tag: u8) -> Result<Option<u8>, Status> {
        match self.find(tag) {
            None => Ok(None),
            Some([byte]) => Ok(Some(*byte)),
            Some(_) => Err(Status::WRONG_DATA),
        }
    }

    /// The first element.
    pub(crate) fn first(&self) -> Option<(u8, &'a [u8])> {
        self.0.first().copied()
    }
}

/// Encodes an element.
pub(crate) fn write(tag: &[u8], value: &[u8]) -> Vec<u8> {
    let length = value.len();
    let mut element = tag.to_vec();
    match length {
        0..=0x7F => element.push(length as u8),
        0x80..=0xFF => element.extend([0x81, length as u8]),
        _ => element.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    element.extend(value);
    element
}

/// The tag and value of the first element, and the rest.
fn split(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (length, rest) = match *bytes.get(1)? {
        short @ 0..=0x7F => (usize::from(short), &bytes[2..]),
        0x81 => (usize::from(*bytes.get(2)?), &bytes[3..]),
        0x82 => (usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?])), &bytes[4..]),
        _ => return None,
    };
    let (value, rest) = rest.split_at_checked(length)?;
    Some((bytes[0], value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_each_form() {
        for length in [0, 1, 0x7F, 0x80, 0xFF, 0x100, 3072] {
            let value = vec![7; length];
            let bytes = [write(&[0x53], &value), write(&[0xAA], &[1])].concat();
            let list = List::parse(&bytes).unwrap_or_else(|status| panic!("{length}: {status:?}"));
            assert_eq!(list.find(0x53), Some(&value[..]));
            assert_eq!(list.byte(0xAA), Ok(Some(1)));
        }
    }

    #[test]
    fn truncated_lists_are_errors() {
        for bytes in [&[0x53][..], &[0x53, 1], &[0x53, 0x81], &[0x53, 0x82, 1], &[0x53, 0x83, 0, 0, 0]] {
            assert!(List::parse(bytes).is_err(), "{bytes:02x?}");
        }
    }
}
