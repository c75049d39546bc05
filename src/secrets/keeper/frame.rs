//! Frames: four bytes of length, big-endian, and so many of postcard.
//!
//! By hand, and not by a codec over a shared buffer: content keys pass here, and every buffer they were in is wiped.

use std::io;

use postcard::ser_flavors::Size;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

/// A frame's longest content, in bytes: a message to be signed has at most 1 MB, and a wrap for 100 recipients 32 KB.
pub(super) const LONGEST: usize = 4 << 20;
/// The four bytes before it.
const HEAD: usize = 4;
/// Room for some requests at once.
const ROOM: usize = 64 << 10;

/// A value as a frame.
pub(super) fn frame(value: &impl Serialize) -> io::Result<Zeroizing<Vec<u8>>> {
    let length = postcard::serialize_with_flavor(value, Size::default()).map_err(io::Error::other)?;
    if length > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a frame of {length} bytes is too long")));
    }
    // At its full size from the start, so that no copy is left behind when it grows.
    let mut frame = Zeroizing::new(vec![0; HEAD + length]);
    frame[..HEAD].copy_from_slice(&u32::try_from(length).map_err(io::Error::other)?.to_be_bytes());
    postcard::to_slice(value, &mut frame[HEAD..]).map_err(io::Error::other)?;
    Ok(frame)
}

/// The value of a frame, all of it.
pub(super) fn value<'a, T: Deserialize<'a>>(content: &'a [u8]) -> io::Result<T> {
    match postcard::take_from_bytes(content) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(malformed("a frame has more than its value")),
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    }
}

fn malformed(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// What has been read and is not yet taken.
pub(super) struct Inbox {
    buffer: Zeroizing<Vec<u8>>,
    start: usize,
    end: usize,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self { buffer: Zeroizing::new(vec![0; ROOM]), start: 0, end: 0 }
    }

    /// The content of the next frame, if all of it is there.
    ///
    /// # Errors
    /// InvalidData for a frame that is too long: whoever sends such a thing is not to be listened to further.
    pub(super) fn next(&mut self) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        let Some(length) = self.length()? else { return Ok(None) };
        if self.end - self.start < HEAD + length {
            return Ok(None);
        }
        let content = &mut self.buffer[self.start + HEAD..self.start + HEAD + length];
        let taken = Zeroizing::new(content.to_vec());
        content.zeroize();
        self.start += HEAD + length;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        Ok(Some(taken))
    }

    /// Where more can be read into; never empty.
    pub(super) fn room(&mut self) -> io::Result<&mut [u8]> {
        let wanted = HEAD + self.length()?.unwrap_or(0);
        if self.start > 0 && (self.buffer.len() - self.start < wanted || self.end == self.buffer.len()) {
            self.buffer.copy_within(self.start..self.end, 0);
            let left = self.end - self.start;
            self.buffer[left..self.end].zeroize();
            (self.start, self.end) = (0, left);
        }
        if self.buffer.len() < wanted || self.end == self.buffer.len() {
            let mut larger = Zeroizing::new(vec![0; wanted.max(2 * self.buffer.len())]);
            larger[..self.end].copy_from_slice(&self.buffer[..self.end]);
            self.buffer = larger;
        }
        let end = self.end;
        Ok(&mut self.buffer[end..])
    }

    /// So many bytes were read into the room.
    pub(super) fn filled(&mut self, bytes: usize) {
        self.end += bytes;
    }

    /// The length of the next frame's content, if its head is there.
    ///
    /// # Errors
    /// InvalidData if it is too long.
    pub(super) fn length(&self) -> io::Result<Option<usize>> {
        let Some(head) = self.buffer[self.start..self.end].first_chunk::<HEAD>() else { return Ok(None) };
        let length = u32::from_be_bytes(*head) as usize;
        if length > LONGEST { Err(malformed("a frame is too long")) } else { Ok(Some(length)) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However the bytes are cut on their way, the same frames come out, and nothing stays in the buffer.
        #[test]
        fn frames_survive_any_cut(contents: Vec<Vec<u8>>, cuts in prop::collection::vec(1usize..200, 1..50)) {
            let sent: Vec<u8> = contents.iter().flat_map(|content| frame(content).unwrap().to_vec()).collect();
            let (mut inbox, mut rest, mut came) = (Inbox::new(), &sent[..], Vec::new());
            let mut cuts = cuts.iter().cycle();
            while !rest.is_empty() {
                let room = inbox.room().unwrap();
                let bytes = room.len().min(rest.len()).min(*cuts.next().unwrap());
                room[..bytes].copy_from_slice(&rest[..bytes]);
                inbox.filled(bytes);
                rest = &rest[bytes..];
                while let Some(content) = inbox.next().unwrap() {
                    came.push(value::<Vec<u8>>(&content).unwrap());
                }
            }
            prop_assert_eq!(came, contents);
            prop_assert_eq!((inbox.start, inbox.end), (0, 0));
        }

        /// Foreign bytes are an error, or no frame yet.
        #[test]
        fn foreign_bytes_do_no_harm(bytes: Vec<u8>) {
            let mut inbox = Inbox::new();
            let taken = bytes.len().min(ROOM);
            inbox.room().unwrap()[..taken].copy_from_slice(&bytes[..taken]);
            inbox.filled(taken);
            while let Ok(Some(content)) = inbox.next() {
                let _ = value::<Vec<Vec<u8>>>(&content);
            }
        }
    }

    #[test]
    fn a_frame_larger_than_the_room_and_one_too_large() {
        let large = vec![7u8; 300_000];
        let sent = frame(&large).unwrap();
        let (mut inbox, mut rest) = (Inbox::new(), &sent[..]);
        while !rest.is_empty() {
            let room = inbox.room().unwrap();
            let bytes = room.len().min(rest.len());
            room[..bytes].copy_from_slice(&rest[..bytes]);
            inbox.filled(bytes);
            rest = &rest[bytes..];
        }
        assert_eq!(value::<Vec<u8>>(&inbox.next().unwrap().unwrap()).unwrap(), large);
        assert!(inbox.buffer.iter().skip(HEAD).all(|byte| *byte == 0), "what was taken is wiped");
        assert!(frame(&vec![0u8; LONGEST + 1]).is_err());
        inbox.room().unwrap()[..HEAD].copy_from_slice(&u32::MAX.to_be_bytes());
        inbox.filled(HEAD);
        assert!(inbox.next().is_err() && inbox.room().is_err());
    }
}
