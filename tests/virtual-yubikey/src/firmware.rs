//! The firmware, which decides what a YubiKey can do.

use std::{fmt, str::FromStr};

/// A firmware version to emulate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Firmware {
    /// 4 or 5 in this crate.
    pub major: u8,
    /// Decides which algorithms and commands exist.
    pub minor: u8,
    /// The patch version.
    pub patch: u8,
}

impl Firmware {
    /// A YubiKey 4: no GET METADATA, no GET SERIAL.
    pub const V4_3_5: Self = Self { major: 4, minor: 3, patch: 5 };
    /// The firmware on which VERIFY without a PIN also makes the card forget a verified PIN.
    pub const V5_3_1: Self = Self { major: 5, minor: 3, patch: 1 };
    /// The most common firmware: P-256 and P-384, a 3DES management key.
    pub const V5_4_3: Self = Self { major: 5, minor: 4, patch: 3 };
    /// The first firmware with Ed25519, X25519 and MOVE KEY. Its management key is AES-192.
    pub const V5_7_1: Self = Self { major: 5, minor: 7, patch: 1 };

    /// GET SERIAL, since 5.0.
    pub(crate) fn has_serial(self) -> bool {
        self.is_at_least(5, 0)
    }

    /// GET METADATA, since 5.3.
    pub(crate) fn has_metadata(self) -> bool {
        self.is_at_least(5, 3)
    }

    /// Whether VERIFY without a PIN makes the card forget a verified PIN: on 5.3.1 only
    /// (<https://github.com/gravitational/teleport/pull/36427>).
    pub(crate) fn forgets_pin_when_asked(self) -> bool {
        self == Self::V5_3_1
    }

    /// AES management keys, since 5.4.
    pub(crate) fn has_aes(self) -> bool {
        self.is_at_least(5, 4)
    }

    /// Ed25519, X25519, MOVE KEY, and AES-192 as the default of the management key, since 5.7.
    pub(crate) fn is_5_7(self) -> bool {
        self.is_at_least(5, 7)
    }

    pub(crate) fn bytes(self) -> [u8; 3] {
        [self.major, self.minor, self.patch]
    }

    fn is_at_least(self, major: u8, minor: u8) -> bool {
        (self.major, self.minor) >= (major, minor)
    }
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for Firmware {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a firmware version; write it as 5.7.1");
        let numbers: Vec<u8> = text.split('.').map(str::parse).collect::<Result<_, _>>().map_err(|_| wrong())?;
        let [major, minor, patch] = numbers[..] else { return Err(wrong()) };
        Ok(Self { major, minor, patch })
    }
}
