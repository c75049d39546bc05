//! The slots of a YubiKey, and the PIN and touch policies of its keys.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::error::TokenError;

/// Where a new key goes, and when it asks a person for the PIN or a touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SlotOptions {
    /// The slot. `None` means the first empty retired slot.
    pub slot: Option<Slot>,
    /// Whether a key in the slot may be overwritten.
    pub force: bool,
    /// When the key needs the PIN. `None` means once.
    pub pin: Option<PinPolicy>,
    /// When the key needs a touch. `None` means never.
    pub touch: Option<TouchPolicy>,
}

/// When a key needs the PIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PinPolicy {
    /// Never.
    Never,
    /// Once, until the card is reset or loses its power.
    #[default]
    Once,
    /// Before each operation.
    Always,
    /// A fingerprint or the PIN, once. YubiKey Bio only.
    MatchOnce,
    /// A fingerprint or the PIN, before each operation. YubiKey Bio only.
    MatchAlways,
}

impl PinPolicy {
    /// The policy for a program that presents the PIN and no fingerprint.
    #[cfg(feature = "yubikey")]
    pub(in crate::secrets) fn by_pin(self) -> Self {
        match self {
            Self::MatchOnce => Self::Once,
            Self::MatchAlways => Self::Always,
            policy => policy,
        }
    }
}

/// When a key needs a touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TouchPolicy {
    /// Never.
    #[default]
    Never,
    /// For each operation.
    Always,
    /// For each operation, unless there was a touch in the 15 seconds before.
    Cached,
}

/// A slot of the PIV applet that holds a key, by its number (NIST SP 800-73-4 part 1 table 4b).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Slot(u8);

impl Slot {
    /// The retired slots, 82 to 95. Few other programs use them, so new keys go here.
    pub fn retired() -> impl Iterator<Item = Self> {
        (0x82..=0x95).map(Self)
    }

    /// All slots that can hold our keys. F9 is not among them: its key attests the others.
    pub fn all() -> impl Iterator<Item = Self> {
        [0x9a, 0x9c, 0x9d, 0x9e].map(Self).into_iter().chain(Self::retired())
    }

    /// The slot's number in PIV commands.
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
        Self::all().find(|slot| slot.0 == number).ok_or_else(|| unknown_slot(&format!("{number:02x}")))
    }
}

impl FromStr for Slot {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let number = u8::from_str_radix(text, 16).map_err(|_| unknown_slot(text))?;
        Self::try_from(number).map_err(|_| unknown_slot(text))
    }
}

fn unknown_slot(text: &str) -> TokenError {
    TokenError::Config(format!("{text:?} is not a slot for keys; use 9a, 9c, 9d, 9e, or 82 to 95"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_parsed_from_names_and_numbers() {
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
