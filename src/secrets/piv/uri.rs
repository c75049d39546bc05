//! `yubikey:` URIs, in the syntax of PKCS#11 URIs (RFC 7512): `yubikey:serial=12345678;slot=82?pin-source=pinentry`.

use std::{fmt, str::FromStr};

use percent_encoding::percent_decode_str;

use crate::secrets::{Slot, pin::UriPin};

/// Names a YubiKey, optionally one of its slots, and the source of its PIN.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Uri {
    /// `serial`: the number printed on the YubiKey. Without it, exactly one YubiKey must be inserted.
    pub serial: Option<u32>,
    /// `slot`: only the key in this slot.
    pub slot: Option<Slot>,
    /// `pin-source`: where the PIN comes from.
    pub pin_source: Option<String>,
}

/// What is wrong with a `yubikey:` URI.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UriError {
    /// The URI does not begin with `yubikey:`.
    #[error("it does not begin with \"yubikey:\"")]
    Scheme,
    /// An attribute that is unknown in this part of the URI, by its name. The name of one without `=` is empty: it may be a PIN.
    #[error(
        "{}: the attributes are serial and slot before the \"?\", and pin-source after it",
        if .0.is_empty() { "an attribute has no \"=\"".into() } else { format!("{:?} is unknown here", .0) }
    )]
    Unknown(String),
    /// An attribute that is given twice.
    #[error("the attribute {0:?} is given twice")]
    Duplicate(&'static str),
    /// An invalid value.
    #[error("the value of {0:?} is invalid: it must be {1}")]
    Value(&'static str, &'static str),
}

impl Uri {
    /// What the URI says about the PIN. A `yubikey:` URI cannot contain the PIN itself.
    pub(super) fn pin(&self) -> UriPin<'_> {
        UriPin { source: self.pin_source.as_deref(), value: None }
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
                    set_once(&mut uri.serial, serial.ok_or(UriError::Value("serial", "a decimal number"))?, "serial")?;
                }
                Some(("slot", value)) => {
                    let slot = value.parse().map_err(|_| UriError::Value("slot", "9a, 9c, 9d, 9e, or 82 to 95"))?;
                    set_once(&mut uri.slot, slot, "slot")?;
                }
                _ => return Err(unknown(attribute)),
            }
        }
        for attribute in query.split('&').filter(|_| !query.is_empty()) {
            match attribute.split_once('=') {
                Some(("pin-source", value)) => {
                    let value = percent_decode_str(value).decode_utf8();
                    let value = value.map_err(|_| UriError::Value("pin-source", "UTF-8, percent-encoded"))?;
                    set_once(&mut uri.pin_source, value.into_owned(), "pin-source")?;
                }
                _ => return Err(unknown(attribute)),
            }
        }
        Ok(uri)
    }
}

/// The error quotes only the name: the value may be a PIN, and so may a text without a name.
fn unknown(attribute: &str) -> UriError {
    let name = attribute.split_once('=').map_or("", |(name, _)| name);
    UriError::Unknown(name.chars().take(32).collect())
}

fn set_once<T>(attribute: &mut Option<T>, value: T, name: &'static str) -> Result<(), UriError> {
    match attribute.replace(value) {
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
    fn valid_and_invalid_uris() {
        let uri: Uri = "yubikey:serial=12345678?pin-source=pinentry".parse().unwrap();
        assert_eq!((uri.serial, uri.pin_source.as_deref()), (Some(12_345_678), Some("pinentry")));
        let parse = |text: &str| text.parse::<Uri>().unwrap_err();
        assert_eq!(parse("pkcs11:serial=1"), UriError::Scheme);
        assert_eq!(parse("yubikey:serial=1;serial=2"), UriError::Duplicate("serial"));
        assert!(matches!(parse("yubikey:serial=-1"), UriError::Value("serial", _)));
        assert_eq!(parse("yubikey:?471108"), UriError::Unknown(String::new()), "it may be a PIN");
        assert!(parse("yubikey:?471108").to_string().starts_with("an attribute has no \"=\": "));
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
        fn no_input_panics(text: String) {
            let _ = text.parse::<Uri>();
            let _ = format!("yubikey:{text}").parse::<Uri>();
        }
    }
}
