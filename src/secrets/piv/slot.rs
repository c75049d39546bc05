//! The slots of a YubiKey, and the objects that their certificates stand in (NIST SP 800-73-4 part 1 table 3).

use std::{fmt, str::FromStr};

use crate::secrets::TokenError;

/// A place for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u8);

impl Slot {
    /// The retired slots, 82 to 95, which no other program expects anything of: new keys go here.
    pub fn retired() -> impl Iterator<Item = Self> {
        (0x82..=0x95).map(Self)
    }

    /// All slots that hold keys of ours; not F9, whose key attests the others.
    pub fn all() -> impl Iterator<Item = Self> {
        [0x9a, 0x9c, 0x9d, 0x9e].map(Self).into_iter().chain(Self::retired())
    }

    /// Its number, as commands name it.
    pub(super) fn number(self) -> u8 {
        self.0
    }

    /// The tag of the data object with its certificate.
    pub(super) fn object(self) -> [u8; 3] {
        let last = match self.0 {
            0x9a => 0x05,
            0x9c => 0x0a,
            0x9d => 0x0b,
            0x9e => 0x01,
            // 82 to 95 are 5FC10D to 5FC120.
            retired => retired - 0x82 + 0x0d,
        };
        [0x5f, 0xc1, last]
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}", self.0)
    }
}

impl FromStr for Slot {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let number = u8::from_str_radix(text, 16).ok();
        Self::all().find(|slot| Some(slot.0) == number).ok_or_else(|| {
            TokenError::Config(format!("{text:?} is no slot for a key: there are 9a, 9c, 9d, 9e, and 82 to 95"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_by_name_and_their_objects() {
        for slot in Slot::all() {
            assert_eq!(slot.to_string().parse::<Slot>().unwrap(), slot);
        }
        let object = |slot: &str| slot.parse::<Slot>().unwrap().object();
        assert_eq!(
            [object("9d"), object("82"), object("95")],
            [[0x5f, 0xc1, 0x0b], [0x5f, 0xc1, 0x0d], [0x5f, 0xc1, 0x20]]
        );
        for refused in ["f9", "96", "", "9", "9a1"] {
            assert!(refused.parse::<Slot>().is_err(), "{refused}");
        }
    }
}
