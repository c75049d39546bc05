//! The hash chain of the audit: how a line names the lines before it.
//!
//! The last two members of a line are its number and a hash: `,"seq":813,"prev":"9f86…"}`. The hash is the SHA-256 of
//! the file from the beginning of the last chained line before it up to this line. That is one line, unless bytes that
//! are no chained line stand between: what a write left that did not end, or a line of a program without the chain.
//! `sed -n 812p audit.jsonl | sha256sum` prints the `prev` of line 813.
//!
//! The first line of a new file names the last line of the file before it. Only a chain's very first line has the number
//! 1. Its hash is that of the line before it, whatever that is; `null` if there is none.

use std::{fmt, fs::File, io, os::unix::fs::FileExt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A SHA-256 in the audit's chain. Its text has 64 digits, in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AuditHash([u8; 32]);

/// The longest line that can be a chained one, in bytes with its end. The keeper's lines are far shorter.
pub(super) const MAX_LINE: usize = 64 << 10;
/// How many bytes at the end of a file are searched for the last chained line: first few, then many.
const SEARCHED: [u64; 2] = [16 << 10, 1 << 20];

/// The members by which a line is in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) seq: u64,
    pub(super) prev: Option<AuditHash>,
    /// Whether the line ends its file.
    pub(super) closes: bool,
}

/// The end of a chain: what the next line must name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChainEnd {
    /// The number of the last chained line. 0 if there is none.
    pub(super) seq: u64,
    /// The `prev` of the next line.
    pub(super) prev: Option<AuditHash>,
    /// The SHA-256 of the last chained line alone.
    pub(super) head: Option<AuditHash>,
    /// Whether the file's last line has no end.
    pub(super) is_torn: bool,
    /// Whether the last chained line says that the chain goes on in another file.
    pub(super) is_closed: bool,
}

/// The operation of the line that ends a file: the chain goes on in another one.
pub(super) const ROTATE: &str = "rotate";

impl ChainEnd {
    /// The end of an empty file that has no predecessor.
    pub(super) const NOTHING: Self = Self { seq: 0, prev: None, head: None, is_torn: false, is_closed: false };

    /// Appends `line`, a JSON object with its line end, to `text` as the next line of the chain.
    pub(super) fn append(&mut self, line: &[u8], text: &mut Vec<u8>) {
        self.seq += 1;
        let begin = text.len();
        text.extend_from_slice(line.strip_suffix(b"}\n").unwrap_or(line));
        text.extend_from_slice(format!(",\"seq\":{},\"prev\":", self.seq).as_bytes());
        match self.prev {
            Some(prev) => {
                text.push(b'"');
                text.extend_from_slice(&prev.digits());
                text.extend_from_slice(b"\"}\n");
            }
            None => text.extend_from_slice(b"null}\n"),
        }
        self.prev = Some(AuditHash::of(&text[begin..]));
        self.head = self.prev;
        self.is_closed = false;
    }

    /// Reads the end of the chain from the end of a file of `size` bytes.
    pub(super) fn read(file: &File, size: u64) -> io::Result<Self> {
        if size == 0 {
            return Ok(Self::NOTHING);
        }
        let mut last_line = Self::NOTHING;
        for searched in SEARCHED {
            let mut bytes = vec![0; usize::try_from(searched.min(size)).map_err(io::Error::other)?];
            let begin = size - bytes.len() as u64;
            file.read_exact_at(&mut bytes, begin)?;
            let is_torn = !bytes.ends_with(b"\n");
            if is_torn {
                bytes.push(b'\n');
            }
            // The beginnings of the lines, last first. The first bytes may be the end of a longer line.
            let ends = bytes[..bytes.len() - 1].iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
            let begins = ends.map(|(at, _)| at + 1).chain((searched >= size).then_some(0));
            let mut end_of_line = bytes.len();
            for (count, begin) in begins.enumerate() {
                let prev = || Some(AuditHash::of(&bytes[begin..]));
                let line = &bytes[begin..end_of_line];
                if let Some(link) = Link::parse(line) {
                    let Link { seq, closes: is_closed, .. } = link;
                    return Ok(Self { seq, prev: prev(), head: Some(AuditHash::of(line)), is_torn, is_closed });
                }
                if count == 0 {
                    last_line = Self { prev: prev(), is_torn, ..Self::NOTHING };
                }
                end_of_line = begin;
            }
            if searched >= size {
                break;
            }
        }
        Ok(last_line)
    }
}

impl Link {
    /// The link of a line, with its line end; `None` if the line is not in the chain.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Members<'a> {
            seq: u64,
            #[serde(deserialize_with = "present")]
            prev: Option<&'a str>,
            #[serde(borrow)]
            operation: Option<std::borrow::Cow<'a, str>>,
        }
        /// A member that may be `null`, but not absent.
        fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'de str>, D::Error> {
            Option::deserialize(deserializer)
        }
        let line = line.strip_suffix(b"\n")?;
        // A line that has them elsewhere was not written by a keeper; looking at the end first is also quick.
        if line.len() >= MAX_LINE || !line.ends_with(b"}") {
            return None;
        }
        let Members { seq, prev, operation } = serde_json::from_slice(line).ok()?;
        let prev = prev.map(str::parse).transpose().ok()?;
        (seq > 0).then(|| Self { seq, prev, closes: operation.as_deref() == Some(ROTATE) })
    }
}

impl AuditHash {
    /// The SHA-256 of a line with its line end.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    pub(super) fn finish(hash: Sha256) -> Self {
        Self(hash.finalize().into())
    }

    /// The hash in hexadecimal.
    fn digits(&self) -> [u8; 64] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut digits = [0; 64];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 0xf)];
        }
        digits
    }
}

impl fmt::Display for AuditHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.digits()).unwrap_or_default())
    }
}

/// The text is not 64 digits in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a hash of the audit has 64 digits, 0 to 9 and a to f")]
pub struct InvalidAuditHash;

impl FromStr for AuditHash {
    type Err = InvalidAuditHash;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(InvalidAuditHash),
        };
        let mut hash = [0; 32];
        if text.len() != 64 {
            return Err(InvalidAuditHash);
        }
        for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self(hash))
    }
}

impl Serialize for AuditHash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_at_the_end_of_a_line() {
        let hash = AuditHash::of(b"x");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        let mut text = Vec::new();
        let mut end = ChainEnd { prev: Some(hash), ..ChainEnd::NOTHING };
        end.append(b"{\"a\":\"\\n\"}\n", &mut text);
        assert_eq!(Link::parse(&text), Some(Link { seq: 1, prev: Some(hash), closes: false }));
        assert_eq!(end.prev, Some(AuditHash::of(&text)));
        for not_linked in [
            "",
            "\n",
            "{}\n",
            "{\"seq\":1}\n",
            "{\"seq\":0,\"prev\":null}\n",
            "{\"seq\":1,\"prev\":\"00\"}\n",
            "{\"seq\":1,\"prev\":null}",
            "{\"seq\":1,\"seq\":1,\"prev\":null}\n",
        ] {
            assert_eq!(Link::parse(not_linked.as_bytes()), None, "{not_linked}");
        }
        assert_eq!(Link::parse(b"{\"seq\":1,\"prev\":null}\n"), Some(Link { seq: 1, prev: None, closes: false }));
    }
}
