//! The shape of a YubiKey.

use std::fmt;

/// What a YubiKey looks like, as it says itself
/// (<https://docs.yubico.com/yesdk/users-manual/application-piv/attestation.html>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form(u8);

impl Form {
    /// Its number, whose upper bits say what it was certified for.
    pub(super) fn new(number: u8) -> Self {
        Self(number)
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 & 0x0f {
            1 => "USB-A",
            2 => "USB-A nano",
            3 => "USB-C",
            4 => "USB-C nano",
            5 => "USB-C and Lightning",
            6 => "USB-A with fingerprint",
            7 => "USB-C with fingerprint",
            _ => "unknown",
        })?;
        if self.0 & 0x80 == 0 { Ok(()) } else { f.write_str(", FIPS") }
    }
}
