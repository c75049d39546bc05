//! The algorithms of PIV and of Yubico's extension, by firmware.

use std::{fmt, str::FromStr};

use crate::{keys::Curve, secrets::TokenError};

/// A firmware version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Firmware {
    /// The first number.
    pub major: u8,
    /// The second.
    pub minor: u8,
    /// The third.
    pub patch: u8,
}

impl Firmware {
    /// The first that tells what is in its slots (GET METADATA). An older one is not served.
    pub const METADATA: Self = Self { major: 5, minor: 3, patch: 0 };
    /// The first whose management key may be one of AES.
    pub const AES: Self = Self { major: 5, minor: 4, patch: 2 };
    /// The first with Ed25519, X25519, and keys that can be moved and deleted.
    pub const CURVE_25519: Self = Self { major: 5, minor: 7, patch: 0 };
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
        numbers.map(Self::from).ok_or_else(|| TokenError::Config(format!("{text:?} is no firmware version")))
    }
}

/// The identifier of a curve's algorithm (NIST SP 800-78-4 table 6-2; Yubico's for curve 25519), if this firmware has it.
pub(super) fn identifier(curve: Curve, firmware: Firmware) -> Result<u8, TokenError> {
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

/// The curve of an identifier; none for RSA, which this program has no use for.
pub(super) fn curve(identifier: u8) -> Option<Curve> {
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
    fn what_a_firmware_lacks_is_told_with_what_to_use() {
        let old: Firmware = "5.4.3".parse().unwrap();
        let error = identifier(Curve::X25519, old).unwrap_err();
        assert_eq!(error.to_string(), "the token cannot do this: firmware 5.4.3 has no X25519: use P-256");
        for each in Curve::ALL {
            for firmware in [old, "5.7.1".parse().unwrap()] {
                if let Ok(identifier) = identifier(each, firmware) {
                    assert_eq!(curve(identifier), Some(each));
                }
            }
        }
        assert!(identifier(Curve::P521, "5.7.4".parse().unwrap()).is_err());
        assert!("5.4".parse::<Firmware>().is_err() && "5.4.300".parse::<Firmware>().is_err());
    }
}
