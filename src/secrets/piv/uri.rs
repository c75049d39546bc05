//! `yubikey:` URIs: `yubikey:serial=12345678;slot=82?pin-source=pinentry`, written as those of PKCS#11 are (RFC 7512).

use std::{fmt, str::FromStr};

use percent_encoding::percent_decode_str;

use crate::secrets::{Slot, pin::InUri};

/// A YubiKey, perhaps one of its slots, and where its PIN is found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Uri {
    /// `serial`: the number that is printed on it; without one, the only YubiKey that is there.
    pub serial: Option<u32>,
    /// `slot`: only the key in this slot.
    pub slot: Option<Slot>,
    /// `pin-source`: where the PIN is found.
    pub pin_source: Option<String>,
}

/// What is wrong with a `yubikey:` URI.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UriError {
    /// It has another scheme.
    #[error("it does not begin with \"yubikey:\"")]
    Scheme,
    /// An attribute that is not known there.
    #[error("{0:?} is not known there: before the \"?\" stand serial and slot, behind it pin-source")]
    Unknown(String),
    /// An attribute that stands twice.
    #[error("the attribute {0:?} stands twice")]
    Duplicate(&'static str),
    /// A value that is none.
    #[error("the value of {0:?} is wrong: it wants {1}")]
    Value(&'static str, &'static str),
}

impl Uri {
    /// What it says of the PIN. A PIN itself has no place in it.
    pub(super) fn pin(&self) -> InUri<'_> {
        InUri { source: self.pin_source.as_deref(), value: None }
    }
}

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let rest = match text.split_at_checked(8) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("yubikey:") => rest,
            _ => return Err(UriError::Scheme),
        };
        let (path, query) = rest.split_once('?').map_or((rest, ""), |(path, query)| (path, query));
        let mut uri = Self::default();
        for attribute in path.split(';').filter(|_| !path.is_empty()) {
            match attribute.split_once('=') {
                Some(("serial", value)) => {
                    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
                    let serial = value.parse().ok().filter(|_| digits);
                    put(&mut uri.serial, serial.ok_or(UriError::Value("serial", "a decimal number"))?, "serial")?;
                }
                Some(("slot", value)) => {
                    let slot = value.parse().map_err(|_| UriError::Value("slot", "9a, 9c, 9d, 9e, or 82 to 95"))?;
                    put(&mut uri.slot, slot, "slot")?;
                }
                _ => return Err(unknown(attribute)),
            }
        }
        for attribute in query.split('&').filter(|_| !query.is_empty()) {
            match attribute.split_once('=') {
                Some(("pin-source", value)) => {
                    let value = percent_decode_str(value).decode_utf8();
                    let value = value.map_err(|_| UriError::Value("pin-source", "UTF-8, percent-encoded"))?;
                    put(&mut uri.pin_source, value.into_owned(), "pin-source")?;
                }
                _ => return Err(unknown(attribute)),
            }
        }
        Ok(uri)
    }
}

/// Only the name is told: someone may have written a PIN behind it.
fn unknown(attribute: &str) -> UriError {
    UriError::Unknown(attribute.split('=').next().unwrap_or_default().chars().take(32).collect())
}

fn put<T>(place: &mut Option<T>, value: T, name: &'static str) -> Result<(), UriError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(UriError::Duplicate(name)),
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("yubikey:")?;
        if let Some(serial) = self.serial {
            write!(f, "serial={serial}")?;
        }
        if let Some(slot) = self.slot {
            write!(f, "{}slot={slot}", if self.serial.is_some() { ";" } else { "" })?;
        }
        match &self.pin_source {
            Some(source) => {
                let source = percent_encoding::utf8_percent_encode(source, percent_encoding::NON_ALPHANUMERIC);
                write!(f, "?pin-source={source}")
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_right_and_what_is_not() {
        let uri: Uri = "yubikey:serial=12345678?pin-source=pinentry".parse().unwrap();
        assert_eq!((uri.serial, uri.pin_source.as_deref()), (Some(12_345_678), Some("pinentry")));
        let parse = |text: &str| text.parse::<Uri>().unwrap_err();
        assert_eq!(parse("pkcs11:serial=1"), UriError::Scheme);
        assert_eq!(parse("yubikey:serial=1;serial=2"), UriError::Duplicate("serial"));
        assert!(matches!(parse("yubikey:serial=-1"), UriError::Value("serial", _)));
        assert!(matches!(parse("yubikey:slot=f9"), UriError::Value("slot", _)));
        assert_eq!(parse("yubikey:pin-source=pinentry"), UriError::Unknown("pin-source".into()));
        let error = parse("yubikey:?pin-value=471108");
        assert!(!format!("{error} {error:?}").contains("471108"));
    }

    proptest! {
        #[test]
        fn display_parses_to_the_same(serial: Option<u32>, slot in prop::option::of(0usize..24), source: Option<String>) {
            let slot = slot.and_then(|at| Slot::all().nth(at));
            let uri = Uri { serial, slot, pin_source: source };
            prop_assert_eq!(&uri.to_string().parse::<Uri>().unwrap(), &uri);
        }

        #[test]
        fn nothing_panics(text: String) {
            let _ = text.parse::<Uri>();
            let _ = format!("yubikey:{text}").parse::<Uri>();
        }
    }
}
