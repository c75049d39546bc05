//! Frames: a length of four bytes, big-endian, and content in postcard's format.
//!
//! The framing is written by hand, without a codec over a shared buffer: frames carry content keys, so every buffer
//! must be wiped.

use std::io;

use postcard::ser_flavors::Size;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

/// The longest content, in bytes. A message to sign has at most 1 MB, a wrap request for 100 recipients 32 KB.
const MAX_CONTENT: usize = 4 << 20;
/// The size of the length, in bytes.
const HEADER: usize = 4;
/// The initial size of a buffer, enough for several requests.
const INITIAL_SIZE: usize = 64 << 10;

/// Encodes a value as a frame.
///
/// # Errors
/// InvalidInput if the content is longer than 4 MiB.
pub(super) fn encode_frame(value: &impl Serialize) -> io::Result<Zeroizing<Vec<u8>>> {
    let length = postcard::serialize_with_flavor(value, Size::default()).map_err(io::Error::other)?;
    if length > MAX_CONTENT {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a frame of {length} bytes is too long")));
    }
    // Allocated at its full size: a vector that grows would leave a copy behind.
    let mut frame = Zeroizing::new(vec![0; HEADER + length]);
    frame[..HEADER].copy_from_slice(&u32::try_from(length).map_err(io::Error::other)?.to_be_bytes());
    postcard::to_slice(value, &mut frame[HEADER..]).map_err(io::Error::other)?;
    Ok(frame)
}

/// Decodes the content of a frame. Bytes after the value are an error.
pub(super) fn decode<'a, T: Deserialize<'a>>(content: &'a [u8]) -> io::Result<T> {
    match postcard::take_from_bytes(content) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(invalid_data("a frame has bytes after its value")),
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    }
}

fn invalid_data(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// Received bytes: whole frames, and perhaps the beginning of another.
pub(super) struct FrameBuffer {
    bytes: Zeroizing<Vec<u8>>,
    /// The received bytes are those from `start` to `end`.
    start: usize,
    end: usize,
}

impl FrameBuffer {
    pub(super) fn new() -> Self {
        Self { bytes: Zeroizing::new(vec![0; INITIAL_SIZE]), start: 0, end: 0 }
    }

    /// Takes the content of the next frame, if it is complete.
    ///
    /// # Errors
    /// InvalidData for a frame that is too long. The connection must be closed then.
    pub(super) fn next_frame(&mut self) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        let Some(length) = self.next_length()? else { return Ok(None) };
        if self.end - self.start < HEADER + length {
            return Ok(None);
        }
        let content = &mut self.bytes[self.start + HEADER..self.start + HEADER + length];
        let taken = Zeroizing::new(content.to_vec());
        content.zeroize();
        self.start += HEADER + length;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        Ok(Some(taken))
    }

    /// Free space to read into; never empty.
    ///
    /// # Errors
    /// InvalidData for a frame that is too long.
    pub(super) fn free_space(&mut self) -> io::Result<&mut [u8]> {
        let wanted = HEADER + self.next_length()?.unwrap_or(0);
        if self.start > 0 && (self.bytes.len() - self.start < wanted || self.end == self.bytes.len()) {
            self.bytes.copy_within(self.start..self.end, 0);
            let length = self.end - self.start;
            self.bytes[length..self.end].zeroize();
            (self.start, self.end) = (0, length);
        }
        if self.bytes.len() < wanted || self.end == self.bytes.len() {
            let mut larger = Zeroizing::new(vec![0; wanted.max(2 * self.bytes.len())]);
            larger[..self.end].copy_from_slice(&self.bytes[..self.end]);
            self.bytes = larger;
        }
        let end = self.end;
        Ok(&mut self.bytes[end..])
    }

    /// Adds this number of bytes, which were read into the free space.
    pub(super) fn add(&mut self, bytes: usize) {
        self.end += bytes;
    }

    /// The length of the next frame's content, if its header is complete.
    ///
    /// # Errors
    /// InvalidData for a frame that is too long.
    pub(super) fn next_length(&self) -> io::Result<Option<usize>> {
        let Some(header) = self.bytes[self.start..self.end].first_chunk::<HEADER>() else { return Ok(None) };
        let length = u32::from_be_bytes(*header) as usize;
        if length > MAX_CONTENT { Err(invalid_data("a frame is too long")) } else { Ok(Some(length)) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However the bytes are split on their way, the same frames come out, and nothing stays in the buffer.
        #[test]
        fn frames_survive_any_split(contents: Vec<Vec<u8>>, sizes in prop::collection::vec(1usize..200, 1..50)) {
            let sent: Vec<u8> = contents.iter().flat_map(|content| encode_frame(content).unwrap().to_vec()).collect();
            let (mut buffer, mut rest, mut received) = (FrameBuffer::new(), &sent[..], Vec::new());
            let mut sizes = sizes.iter().cycle();
            while !rest.is_empty() {
                let space = buffer.free_space().unwrap();
                let bytes = space.len().min(rest.len()).min(*sizes.next().unwrap());
                space[..bytes].copy_from_slice(&rest[..bytes]);
                buffer.add(bytes);
                rest = &rest[bytes..];
                while let Some(content) = buffer.next_frame().unwrap() {
                    received.push(decode::<Vec<u8>>(&content).unwrap());
                }
            }
            prop_assert_eq!(received, contents);
            prop_assert_eq!((buffer.start, buffer.end), (0, 0));
        }

        /// Arbitrary bytes are an error, or not a complete frame.
        #[test]
        fn arbitrary_bytes_do_no_harm(bytes: Vec<u8>) {
            let mut buffer = FrameBuffer::new();
            let taken = bytes.len().min(INITIAL_SIZE);
            buffer.free_space().unwrap()[..taken].copy_from_slice(&bytes[..taken]);
            buffer.add(taken);
            while let Ok(Some(content)) = buffer.next_frame() {
                let _ = decode::<Vec<Vec<u8>>>(&content);
            }
        }
    }

    #[test]
    fn a_frame_larger_than_the_buffer_is_read_and_one_too_long_is_refused() {
        let large = vec![7u8; 300_000];
        let sent = encode_frame(&large).unwrap();
        let (mut buffer, mut rest) = (FrameBuffer::new(), &sent[..]);
        while !rest.is_empty() {
            let space = buffer.free_space().unwrap();
            let bytes = space.len().min(rest.len());
            space[..bytes].copy_from_slice(&rest[..bytes]);
            buffer.add(bytes);
            rest = &rest[bytes..];
        }
        assert_eq!(decode::<Vec<u8>>(&buffer.next_frame().unwrap().unwrap()).unwrap(), large);
        assert!(buffer.bytes.iter().skip(HEADER).all(|byte| *byte == 0), "the taken frame is wiped");
        assert!(encode_frame(&vec![0u8; MAX_CONTENT + 1]).is_err());
        buffer.free_space().unwrap()[..HEADER].copy_from_slice(&u32::MAX.to_be_bytes());
        buffer.add(HEADER);
        assert!(buffer.next_frame().is_err() && buffer.free_space().is_err());
    }
}
