//! A mark of a refused PIN, by which a changed credential is recognised.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::value::Pin;
use crate::{crypto::with_wiped_stack, secrets::TokenInfo};

/// Eight bits of a hash of a PIN and its token.
///
/// A PIN may have four digits, so any digest of it that tells two PINs apart for certain also gives the PIN away, however
/// slow or keyed the digest is: its key would be on the same disk. This one has 256 values. A different PIN has a
/// different mark in all but one of 256 cases, and 1 of 256 guesses has the same mark. A mark is on disk for a PIN that
/// the token has refused only. It is the same each time for the same PIN, so several of them tell no more than one.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct PinMark(u8);

impl PinMark {
    pub(super) fn of(pin: &Pin, token: &TokenInfo) -> Self {
        with_wiped_stack(|| {
            let mut hash = Sha256::new();
            for part in [b"claviger refused PIN", token.serial.as_bytes(), token.label.as_bytes(), pin.as_bytes()] {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part);
            }
            Self(hash.finalize()[0])
        })
    }

    /// A mark for a test of the rules.
    #[cfg(test)]
    pub(super) fn for_test(bits: u8) -> Self {
        Self(bits)
    }
}

impl fmt::Debug for PinMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PinMark(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mark is the same in each process, and depends on the token. Of 10,000 PINs, each mark has some 39.
    #[test]
    fn a_mark_is_one_of_256() {
        let token = |serial: &str| TokenInfo { serial: serial.into(), label: "demo".into(), ..TokenInfo::default() };
        let marks: Vec<u8> =
            (0..10_000).map(|pin| PinMark::of(&Pin::new(format!("{pin:04}")), &token("1")).0).collect();
        assert_eq!(PinMark::of(&Pin::new("0042"), &token("1")).0, marks[42]);
        assert!((0..100).any(|pin| PinMark::of(&Pin::new(format!("{pin:04}")), &token("2")).0 != marks[pin]));
        for mark in 0..=255 {
            let same = marks.iter().filter(|it| **it == mark).count();
            assert!((10..100).contains(&same), "{same} PINs have the mark {mark}");
        }
        assert_eq!(format!("{:?}", PinMark(marks[1])), "PinMark(redacted)");
    }
}
