//! Which firmware has which algorithms: those of PIV, and Yubico's extensions.

use std::{fmt, str::FromStr};

use crate::{keys::Curve, secrets::TokenError};

/// The longest input of an Ed25519 signature, in bytes. The whole input goes into one command, which holds 3,072 bytes.
pub(super) const MAX_EDDSA_INPUT: usize = 3000;

/// A firmware version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Firmware {
    /// The major version.
    pub major: u8,
    /// The minor version.
    pub minor: u8,
    /// The patch version.
    pub patch: u8,
}

impl Firmware {
    /// The first firmware with GET METADATA, which reports the keys in the slots. Older firmware is not supported.
    pub const METADATA: Self = Self { major: 5, minor: 3, patch: 0 };
    /// The first firmware that accepts an AES management key.
    pub const AES: Self = Self { major: 5, minor: 4, patch: 2 };
    /// The first firmware that has Ed25519 and X25519, and that can move and delete keys.
    pub const CURVE_25519: Self = Self { major: 5, minor: 7, patch: 0 };
    /// The firmware on which VERIFY without a PIN reports whether the PIN is verified, and then makes the card forget it
    /// (<https://github.com/gravitational/teleport/pull/36427>).
    const FORGETS_PIN_WHEN_ASKED: Self = Self { major: 5, minor: 3, patch: 1 };

    /// Whether VERIFY without a PIN leaves the state of the PIN as it is.
    pub(super) fn keeps_pin_when_asked(self) -> bool {
        self != Self::FORGETS_PIN_WHEN_ASKED
    }
}

impl From<[u8; 3]> for Firmware {
    fn from([major, minor, patch]: [u8; 3]) -> Self {
        Self { major, minor, patch }
    }
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for Firmware {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let numbers: Option<Vec<u8>> = text.split('.').map(|number| number.parse().ok()).collect();
        let numbers: Option<[u8; 3]> = numbers.and_then(|numbers| numbers.try_into().ok());
        numbers.map(Self::from).ok_or_else(|| TokenError::Config(format!("{text:?} is not a firmware version")))
    }
}

/// The algorithm identifier of a curve (NIST SP 800-78-4 table 6-2; Yubico's for curve 25519).
///
/// # Errors
/// [`TokenError::Unsupported`] if this firmware does not have the curve.
pub(super) fn algorithm_of(curve: Curve, firmware: Firmware) -> Result<u8, TokenError> {
    let (identifier, since) = match curve {
        Curve::P256 => (0x11, Firmware::METADATA),
        Curve::P384 => (0x14, Firmware::METADATA),
        Curve::Ed25519 => (0xe0, Firmware::CURVE_25519),
        Curve::X25519 => (0xe1, Firmware::CURVE_25519),
        Curve::P521 | Curve::Secp256k1 => {
            return Err(TokenError::Unsupported(format!("no YubiKey has {curve}: use P-256")));
        }
    };
    if firmware < since {
        return Err(TokenError::Unsupported(format!("firmware {firmware} has no {curve}: use P-256")));
    }
    Ok(identifier)
}

/// The curve of an algorithm identifier; none for RSA, which this program does not use.
pub(super) fn curve_of(identifier: u8) -> Option<Curve> {
    match identifier {
        0x11 => Some(Curve::P256),
        0x14 => Some(Curve::P384),
        0xe0 => Some(Curve::Ed25519),
        0xe1 => Some(Curve::X25519),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_what_the_firmware_lacks_and_what_to_use() {
        let old: Firmware = "5.4.3".parse().unwrap();
        let error = algorithm_of(Curve::X25519, old).unwrap_err();
        assert_eq!(error.to_string(), "the token cannot do this: firmware 5.4.3 has no X25519: use P-256");
        for each in Curve::ALL {
            for firmware in [old, "5.7.1".parse().unwrap()] {
                if let Ok(identifier) = algorithm_of(each, firmware) {
                    assert_eq!(curve_of(identifier), Some(each));
                }
            }
        }
        assert!(algorithm_of(Curve::P521, "5.7.4".parse().unwrap()).is_err());
        assert!("5.4".parse::<Firmware>().is_err() && "5.4.300".parse::<Firmware>().is_err());
    }
}
