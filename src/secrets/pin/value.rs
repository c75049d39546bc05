//! A PIN in memory.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

/// A PIN. It is overwritten when it is dropped, and `Debug` does not show it.
#[derive(Clone)]
pub struct Pin(SecretString);

impl Pin {
    /// A PIN from its characters.
    pub fn new(pin: impl Into<String>) -> Self {
        Self(SecretString::from(pin.into()))
    }

    #[cfg(feature = "pkcs11")]
    pub(in crate::secrets) fn secret(&self) -> &SecretString {
        &self.0
    }

    pub(in crate::secrets) fn as_bytes(&self) -> &[u8] {
        self.0.expose_secret().as_bytes()
    }

    /// A PIN from the content of a file. One newline (LF or CRLF) at the end is not part of the PIN. Returns `None` if
    /// the rest is empty or not UTF-8.
    pub(super) fn from_file(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let pin = std::str::from_utf8(bytes).ok().filter(|pin| !pin.is_empty())?;
        Some(Self::new(pin))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin(redacted)")
    }
}

impl PartialEq for Pin {
    fn eq(&self, other: &Self) -> bool {
        self.0.expose_secret().as_bytes().ct_eq(other.0.expose_secret().as_bytes()).into()
    }
}

impl Eq for Pin {}
