//! A YubiKey's form factor.

use std::fmt;

/// A YubiKey's form factor, as its attestation reports it
/// (<https://docs.yubico.com/yesdk/users-manual/application-piv/attestation.html>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormFactor(u8);

impl FormFactor {
    /// A form factor from its number in the attestation. The highest bit of the number means a FIPS model.
    pub(super) fn new(number: u8) -> Self {
        Self(number)
    }
}

impl fmt::Display for FormFactor {
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
