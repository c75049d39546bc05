//! Status words (ISO/IEC 7816-4:2005 section 5.1.3), and the error of a command.

use crate::faults::Unplugged;

/// SW1 and SW2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Status(pub(crate) u16);

impl Status {
    pub(crate) const SUCCESS: Self = Self(0x9000);
    pub(crate) const WRONG_LENGTH: Self = Self(0x6700);
    /// The PIN is not verified, or the management key is not authenticated. A YubiKey also returns this if no
    /// touch came.
    pub(crate) const SECURITY: Self = Self(0x6982);
    pub(crate) const BLOCKED: Self = Self(0x6983);
    pub(crate) const CONDITIONS: Self = Self(0x6985);
    pub(crate) const WRONG_DATA: Self = Self(0x6A80);
    pub(crate) const NOT_FOUND: Self = Self(0x6A82);
    pub(crate) const NO_SPACE: Self = Self(0x6A84);
    pub(crate) const NO_REFERENCE: Self = Self(0x6A88);
    pub(crate) const WRONG_PARAMETERS: Self = Self(0x6B00);
    pub(crate) const NO_INSTRUCTION: Self = Self(0x6D00);
    pub(crate) const NO_CLASS: Self = Self(0x6E00);

    /// A wrong PIN or PUK, with the tries that are left.
    pub(crate) fn tries_left(tries: u8) -> Self {
        if tries == 0 { Self::BLOCKED } else { Self(0x63C0 | u16::from(tries.min(15))) }
    }

    /// More data can be fetched with GET RESPONSE: this many bytes, 0 for 256 or more.
    pub(crate) fn more(bytes: usize) -> Self {
        Self(0x6100 | u16::try_from(bytes).ok().filter(|bytes| *bytes < 0x100).unwrap_or(0))
    }
}

/// Why a command has no response data.
pub(crate) enum CommandError {
    Refused(Status),
    Unplugged,
}

impl From<Status> for CommandError {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

impl From<Unplugged> for CommandError {
    fn from(_: Unplugged) -> Self {
        Self::Unplugged
    }
}
