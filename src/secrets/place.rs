//! Where a key stands in a token that has a place for each, a YubiKey, and what it wants of a person.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::TokenError;

/// Where a new key goes, and what it wants of a person each time: what is not said is the token's to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Place {
    /// The slot; the first retired one that is empty if not said.
    pub slot: Option<Slot>,
    /// Whether what is in the slot may be overwritten.
    pub force: bool,
    /// When it wants the PIN; once if not said.
    pub pin: Option<PinPolicy>,
    /// When it wants a touch; never if not said.
    pub touch: Option<TouchPolicy>,
}

/// When a key wants a PIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PinPolicy {
    /// Not at all.
    Never,
    /// Once, until the card is reset or unplugged.
    #[default]
    Once,
    /// Right before each operation.
    Always,
}

/// When a key wants a touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TouchPolicy {
    /// Not at all.
    #[default]
    Never,
    /// For each operation.
    Always,
    /// Unless there was one in the last 15 seconds.
    Cached,
}

/// A slot of the PIV applet that holds a key (NIST SP 800-73-4 part 1 table 4b), by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
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
    pub fn number(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}", self.0)
    }
}

impl From<Slot> for u8 {
    fn from(slot: Slot) -> Self {
        slot.0
    }
}

impl TryFrom<u8> for Slot {
    type Error = TokenError;

    fn try_from(number: u8) -> Result<Self, TokenError> {
        Self::all().find(|slot| slot.0 == number).ok_or_else(|| none(&format!("{number:02x}")))
    }
}

impl FromStr for Slot {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let number = u8::from_str_radix(text, 16).map_err(|_| none(text))?;
        Self::try_from(number).map_err(|_| none(text))
    }
}

fn none(text: &str) -> TokenError {
    TokenError::Config(format!("{text:?} is no slot for a key: there are 9a, 9c, 9d, 9e, and 82 to 95"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_by_name_and_number() {
        for slot in Slot::all() {
            assert_eq!(slot.to_string().parse::<Slot>().unwrap(), slot);
            assert_eq!(Slot::try_from(slot.number()).unwrap(), slot);
        }
        for refused in ["f9", "96", "", "9", "9a1"] {
            assert!(refused.parse::<Slot>().is_err(), "{refused}");
        }
        assert!(serde_json::from_str::<Slot>("249").is_err());
    }
}
